"""routes, and what routing needs of models, targets and providers."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "routes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organisation_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), server_default="0", nullable=False),
        sa.Column("match", sa.Text(), server_default="{}", nullable=False),
        sa.Column("strategy", sa.Text(), server_default="priority", nullable=False),
        sa.Column("split_by", sa.Text(), server_default="", nullable=False),
        sa.Column("constraints", sa.Text(), server_default="{}", nullable=False),
        sa.Column("fallback", sa.Text(), server_default="[]", nullable=False),
        sa.Column("timeouts", sa.Text(), server_default="{}", nullable=False),
        sa.Column("hedge", sa.Text(), nullable=True),
        sa.Column("affinity", sa.Text(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.Text(), server_default="api", nullable=False),
        sa.Column("maker", sa.Text(), server_default="api", nullable=False),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisations.id"], name=op.f("fk_routes_organisation_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_routes")),
        sa.UniqueConstraint("organisation_id", "name", name=op.f("uq_routes_organisation_id_name")),
    )
    # columns come and go in place: no table that others refer to is made again
    op.add_column("models", sa.Column("aliases", sa.Text(), server_default="[]", nullable=False))
    op.add_column("providers", sa.Column("assistant_prefix", sa.Text(), nullable=True))
    op.add_column("providers", sa.Column("probe", sa.Text(), nullable=True))
    op.add_column("targets", sa.Column("weight", sa.Integer(), server_default="1", nullable=False))
    op.add_column("targets", sa.Column("priority", sa.Integer(), nullable=True))
    op.add_column("targets", sa.Column("slots", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("targets", "slots")
    op.drop_column("targets", "priority")
    op.drop_column("targets", "weight")
    op.drop_column("providers", "probe")
    op.drop_column("providers", "assistant_prefix")
    op.drop_column("models", "aliases")
    op.drop_table("routes")
