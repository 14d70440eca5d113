"""the most open data class of a single key."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("data_class", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("api_keys", "data_class")
