"""plans, and which one a request came from."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "plans",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False, comment="JSON"),
        sa.Column("at_ms", sa.BigInteger(), nullable=False, comment="when it was imported last"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plans")),
    )
    op.create_index(op.f("ix_plans_at_ms"), "plans", ["at_ms"], unique=False)
    # the column comes and goes in place: the table of requests may be large
    op.add_column(
        "requests",
        sa.Column(
            "plan", sa.Text(), server_default="", nullable=False, comment="id in plans; empty: nothing to explain"
        ),
    )


def downgrade() -> None:
    op.drop_column("requests", "plan")
    op.drop_index(op.f("ix_plans_at_ms"), table_name="plans")
    op.drop_table("plans")
