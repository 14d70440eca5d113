"""The tables of `potluck.db`, once, for every database. Times are unix milliseconds; lists and prices are JSON text.

Every row that belongs to somebody carries its organisation. `origin` says who looks after an object (`api`, `file`,
`first_start`): what a file looks after is changed by the next `config apply` only. `maker` is its first origin: when a
file lets go of an object, it is removed if a file made it, and else goes back to its maker.
"""

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def _id() -> sa.Column[str]:
    return sa.Column("id", sa.Text, primary_key=True)


def _organisation() -> sa.Column[str]:
    return sa.Column("organisation_id", sa.Text, sa.ForeignKey("organisations.id"), nullable=False)


def _name() -> sa.Column[str]:
    return sa.Column("name", sa.Text, nullable=False)


def _made() -> tuple[sa.Column[int], sa.Column[int], sa.Column[str], sa.Column[str]]:
    return (
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
        sa.Column("origin", sa.Text, nullable=False, server_default="api"),
        sa.Column("maker", sa.Text, nullable=False, server_default="api"),
    )


organisations = sa.Table(
    "organisations",
    metadata,
    _id(),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
)

projects = sa.Table(
    "projects",
    metadata,
    _id(),
    _organisation(),
    _name(),
    sa.Column("data_class", sa.Text, nullable=False, server_default="standard"),
    *_made(),
    sa.UniqueConstraint("organisation_id", "name"),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    _id(),
    _organisation(),
    sa.Column("project_id", sa.Text, sa.ForeignKey("projects.id"), nullable=False, index=True),
    _name(),
    sa.Column("hash", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("hint", sa.Text, nullable=False),
    # the secret before the last rotation, good until `previous_until_ms`
    sa.Column("previous_hash", sa.LargeBinary, unique=True),
    sa.Column("previous_until_ms", sa.BigInteger),
    sa.Column("models", sa.Text, nullable=False, server_default="[]"),
    sa.Column("tags", sa.Text, nullable=False, server_default="[]"),
    sa.Column("own_devices", sa.Text, nullable=False, server_default="off"),
    # null: its project's
    sa.Column("data_class", sa.Text),
    sa.Column("expires_at_ms", sa.BigInteger),
    sa.Column("revoked_at_ms", sa.BigInteger),
    sa.Column("last_used_at_ms", sa.BigInteger),
    *_made(),
    # a name is free again once its key is revoked
    sa.Index(
        "uq_api_keys_live_name",
        "organisation_id",
        "name",
        unique=True,
        sqlite_where=sa.text("revoked_at_ms IS NULL"),
        postgresql_where=sa.text("revoked_at_ms IS NULL"),
    ),
)

admin_tokens = sa.Table(
    "admin_tokens",
    metadata,
    _id(),
    _organisation(),
    _name(),
    sa.Column("hash", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("hint", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("expires_at_ms", sa.BigInteger),
    sa.Column("revoked_at_ms", sa.BigInteger),
    *_made(),
)

providers = sa.Table(
    "providers",
    metadata,
    _id(),
    _organisation(),
    _name(),
    sa.Column("dialect", sa.Text, nullable=False),
    sa.Column("base_url", sa.Text, nullable=False),
    sa.Column("own", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("on_hangup", sa.Text, nullable=False, server_default="cancel"),
    sa.Column("timeouts", sa.Text, nullable=False, server_default="{}"),
    sa.Column("max_connections", sa.Integer, nullable=False, server_default="1024"),
    sa.Column("builtin", sa.Boolean, nullable=False, server_default=sa.false()),
    # null: what the program knows of the host
    sa.Column("assistant_prefix", sa.Text),
    # null: no active probes
    sa.Column("probe", sa.Text),
    *_made(),
    sa.UniqueConstraint("organisation_id", "name"),
)

credentials = sa.Table(
    "credentials",
    metadata,
    _id(),
    _organisation(),
    sa.Column("provider_id", sa.Text, sa.ForeignKey("providers.id", ondelete="CASCADE"), nullable=False),
    _name(),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("hint", sa.Text, nullable=False),
    sa.Column("weight", sa.Integer, nullable=False, server_default="1"),
    sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()),
    *_made(),
    sa.UniqueConstraint("provider_id", "name"),
)

provider_models = sa.Table(
    "provider_models",
    metadata,
    sa.Column("provider_id", sa.Text, sa.ForeignKey("providers.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("seen_at_ms", sa.BigInteger, nullable=False),
)

models = sa.Table(
    "models",
    metadata,
    _id(),
    _organisation(),
    _name(),
    sa.Column("placement", sa.Text, nullable=False, server_default="any"),
    sa.Column("aliases", sa.Text, nullable=False, server_default="[]"),
    *_made(),
    sa.UniqueConstraint("organisation_id", "name"),
)

targets = sa.Table(
    "targets",
    metadata,
    _id(),
    _organisation(),
    sa.Column("model_id", sa.Text, sa.ForeignKey("models.id", ondelete="CASCADE"), nullable=False),
    sa.Column("provider_id", sa.Text, sa.ForeignKey("providers.id"), nullable=False, index=True),
    sa.Column("upstream_model", sa.Text, nullable=False),
    sa.Column("position", sa.Integer, nullable=False, server_default="0"),
    sa.Column("price", sa.Text),
    sa.Column("capabilities", sa.Text, nullable=False),
    sa.Column("context_tokens", sa.Integer),
    sa.Column("weight", sa.Integer, nullable=False, server_default="1"),
    # null: its position
    sa.Column("priority", sa.Integer),
    # null: its provider's `max_connections`
    sa.Column("slots", sa.Integer),
    *_made(),
    sa.UniqueConstraint("model_id", "provider_id", "upstream_model"),
)

# targets of a model on nodes: `node` is a node's name or a pattern of names, as of now and later
node_targets = sa.Table(
    "node_targets",
    metadata,
    _id(),
    _organisation(),
    sa.Column("model_id", sa.Text, sa.ForeignKey("models.id", ondelete="CASCADE"), nullable=False),
    sa.Column("node", sa.Text, nullable=False),
    sa.Column("upstream_model", sa.Text, nullable=False),
    sa.Column("position", sa.Integer, nullable=False, server_default="0"),
    sa.Column("weight", sa.Integer, nullable=False, server_default="1"),
    sa.Column("priority", sa.Integer),
    *_made(),
    sa.UniqueConstraint("model_id", "node", "upstream_model"),
)

join_tokens = sa.Table(
    "join_tokens",
    metadata,
    _id(),
    _organisation(),
    _name(),
    sa.Column("hash", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("hint", sa.Text, nullable=False),
    # null: without end
    sa.Column("uses_left", sa.Integer),
    sa.Column("approved", sa.Boolean, nullable=False),
    sa.Column("ephemeral", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("community", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("owner", sa.Text, nullable=False, server_default=""),
    sa.Column("tags", sa.Text, nullable=False, server_default="[]"),
    sa.Column("max_models", sa.Integer),
    # JSON of `model.node.NodePrice`
    sa.Column("max_price", sa.Text),
    sa.Column("expires_at_ms", sa.BigInteger, nullable=False),
    sa.Column("revoked_at_ms", sa.BigInteger),
    *_made(),
)

nodes = sa.Table(
    "nodes",
    metadata,
    _id(),
    _organisation(),
    _name(),
    sa.Column("state", sa.Text, nullable=False),
    # the token that it came by, for history: that may be gone
    sa.Column("join_token_id", sa.Text),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("public_key", sa.LargeBinary, nullable=False, unique=True),
    # the key before the last rotation, good until `previous_until_ms`
    sa.Column("previous_key_id", sa.Text),
    sa.Column("previous_public_key", sa.LargeBinary),
    sa.Column("previous_until_ms", sa.BigInteger),
    sa.Column("owner", sa.Text, nullable=False, server_default=""),
    sa.Column("community", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("ephemeral", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("tags", sa.Text, nullable=False, server_default="[]"),
    sa.Column("max_models", sa.Integer),
    sa.Column("max_price", sa.Text),
    sa.Column("drained", sa.Boolean, nullable=False, server_default=sa.false()),
    # JSON of `model.node.Offer`: what it announced last
    sa.Column("offer", sa.Text, nullable=False, server_default="{}"),
    # JSON, model → NodePrice: set at the gateway
    sa.Column("prices", sa.Text, nullable=False, server_default="{}"),
    sa.Column("agent", sa.Text, nullable=False, server_default=""),
    sa.Column("last_seen_at_ms", sa.BigInteger),
    sa.Column("revoked_at_ms", sa.BigInteger),
    *_made(),
    # a name is free again once its node is revoked
    sa.Index(
        "uq_nodes_live_name",
        "organisation_id",
        "name",
        unique=True,
        sqlite_where=sa.text("revoked_at_ms IS NULL"),
        postgresql_where=sa.text("revoked_at_ms IS NULL"),
    ),
)

routes = sa.Table(
    "routes",
    metadata,
    _id(),
    _organisation(),
    _name(),
    # tried in this order, then by age
    sa.Column("position", sa.Integer, nullable=False, server_default="0"),
    # JSON of `model.resources`: RouteMatch, RouteConstraints, names, RouteTimeouts, Hedge, Affinity
    sa.Column("match", sa.Text, nullable=False, server_default="{}"),
    sa.Column("strategy", sa.Text, nullable=False, server_default="priority"),
    sa.Column("split_by", sa.Text, nullable=False, server_default=""),
    sa.Column("constraints", sa.Text, nullable=False, server_default="{}"),
    sa.Column("fallback", sa.Text, nullable=False, server_default="[]"),
    sa.Column("timeouts", sa.Text, nullable=False, server_default="{}"),
    sa.Column("hedge", sa.Text),
    sa.Column("affinity", sa.Text),
    *_made(),
    sa.UniqueConstraint("organisation_id", "name"),
)

prices = sa.Table(
    "prices",
    metadata,
    _id(),
    _organisation(),
    # a public model name, an upstream model's name, or `provider/upstream-model`
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("price", sa.Text, nullable=False),
    *_made(),
    sa.UniqueConstraint("organisation_id", "model"),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("token_id", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    # digest of method, path and body: the same key on another request is refused
    sa.Column("request_digest", sa.LargeBinary, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    # the answer without what was shown once
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False, index=True),
    sa.PrimaryKeyConstraint("token_id", "key"),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    # no reference: history outlives the organisation it is about
    sa.Column("organisation_id", sa.Text, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("object_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("prev_hash", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)

facts = sa.Table(
    "facts",
    metadata,
    # `snapshot_version`, `master_key_check`, `home_id`
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
