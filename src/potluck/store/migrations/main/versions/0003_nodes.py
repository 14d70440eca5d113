"""nodes, the tokens that they join by, targets on them, and what keys do about their own devices."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _made() -> list[sa.Column[object]]:
    return [
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.Text(), server_default="api", nullable=False),
        sa.Column("maker", sa.Text(), server_default="api", nullable=False),
    ]


def upgrade() -> None:
    op.create_table(
        "node_targets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organisation_id", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("upstream_model", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), server_default="0", nullable=False),
        sa.Column("weight", sa.Integer(), server_default="1", nullable=False),
        sa.Column("priority", sa.Integer(), nullable=True),
        *_made(),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_node_targets_model_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name=op.f("fk_node_targets_organisation_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_node_targets")),
        sa.UniqueConstraint(
            "model_id", "node", "upstream_model", name=op.f("uq_node_targets_model_id_node_upstream_model")
        ),
    )
    op.create_table(
        "join_tokens",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organisation_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("uses_left", sa.Integer(), nullable=True),
        sa.Column("approved", sa.Boolean(), nullable=False),
        sa.Column("ephemeral", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("community", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("owner", sa.Text(), server_default="", nullable=False),
        sa.Column("tags", sa.Text(), server_default="[]", nullable=False),
        sa.Column("max_models", sa.Integer(), nullable=True),
        sa.Column("max_price", sa.Text(), nullable=True),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        *_made(),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisations.id"], name=op.f("fk_join_tokens_organisation_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_join_tokens")),
        sa.UniqueConstraint("hash", name=op.f("uq_join_tokens_hash")),
    )
    op.create_table(
        "nodes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organisation_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("join_token_id", sa.Text(), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("previous_key_id", sa.Text(), nullable=True),
        sa.Column("previous_public_key", sa.LargeBinary(), nullable=True),
        sa.Column("previous_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("owner", sa.Text(), server_default="", nullable=False),
        sa.Column("community", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("ephemeral", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("tags", sa.Text(), server_default="[]", nullable=False),
        sa.Column("max_models", sa.Integer(), nullable=True),
        sa.Column("max_price", sa.Text(), nullable=True),
        sa.Column("drained", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("offer", sa.Text(), server_default="{}", nullable=False),
        sa.Column("prices", sa.Text(), server_default="{}", nullable=False),
        sa.Column("agent", sa.Text(), server_default="", nullable=False),
        sa.Column("last_seen_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        *_made(),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisations.id"], name=op.f("fk_nodes_organisation_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_nodes")),
        sa.UniqueConstraint("public_key", name=op.f("uq_nodes_public_key")),
    )
    op.create_index(
        "uq_nodes_live_name",
        "nodes",
        ["organisation_id", "name"],
        unique=True,
        sqlite_where=sa.text("revoked_at_ms IS NULL"),
        postgresql_where=sa.text("revoked_at_ms IS NULL"),
    )
    op.add_column("api_keys", sa.Column("own_devices", sa.Text(), server_default="off", nullable=False))


def downgrade() -> None:
    op.drop_column("api_keys", "own_devices")
    op.drop_index("uq_nodes_live_name", table_name="nodes")
    op.drop_table("nodes")
    op.drop_table("join_tokens")
    op.drop_table("node_targets")
