-- Made by `python -m potluck.store.migrate schema`; never edited by hand.

CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

CREATE TABLE audit (
	seq INTEGER NOT NULL, 
	organisation_id TEXT NOT NULL, 
	at_ms BIGINT NOT NULL, 
	actor TEXT NOT NULL, 
	action TEXT NOT NULL, 
	object_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	detail TEXT NOT NULL, 
	prev_hash BLOB NOT NULL, 
	hash BLOB NOT NULL, 
	CONSTRAINT pk_audit PRIMARY KEY (seq)
);

CREATE TABLE facts (
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	CONSTRAINT pk_facts PRIMARY KEY (name)
);

CREATE TABLE idempotency_keys (
	token_id TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	request_digest BLOB NOT NULL, 
	status INTEGER NOT NULL, 
	answer TEXT NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_idempotency_keys PRIMARY KEY (token_id, "key")
);

CREATE INDEX ix_idempotency_keys_created_at_ms ON idempotency_keys (created_at_ms);

CREATE TABLE organisations (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_organisations PRIMARY KEY (id), 
	CONSTRAINT uq_organisations_name UNIQUE (name)
);

CREATE TABLE admin_tokens (
	id TEXT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	hash BLOB NOT NULL, 
	hint TEXT NOT NULL, 
	role TEXT NOT NULL, 
	expires_at_ms BIGINT, 
	revoked_at_ms BIGINT, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	origin TEXT DEFAULT 'api' NOT NULL, 
	maker TEXT DEFAULT 'api' NOT NULL, 
	CONSTRAINT pk_admin_tokens PRIMARY KEY (id), 
	CONSTRAINT fk_admin_tokens_organisation_id FOREIGN KEY(organisation_id) REFERENCES organisations (id), 
	CONSTRAINT uq_admin_tokens_hash UNIQUE (hash)
);

CREATE TABLE models (
	id TEXT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	placement TEXT DEFAULT 'any' NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	origin TEXT DEFAULT 'api' NOT NULL, 
	maker TEXT DEFAULT 'api' NOT NULL, aliases TEXT DEFAULT '[]' NOT NULL, 
	CONSTRAINT pk_models PRIMARY KEY (id), 
	CONSTRAINT fk_models_organisation_id FOREIGN KEY(organisation_id) REFERENCES organisations (id), 
	CONSTRAINT uq_models_organisation_id_name UNIQUE (organisation_id, name)
);

CREATE TABLE prices (
	id TEXT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	model TEXT NOT NULL, 
	price TEXT NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	origin TEXT DEFAULT 'api' NOT NULL, 
	maker TEXT DEFAULT 'api' NOT NULL, 
	CONSTRAINT pk_prices PRIMARY KEY (id), 
	CONSTRAINT fk_prices_organisation_id FOREIGN KEY(organisation_id) REFERENCES organisations (id), 
	CONSTRAINT uq_prices_organisation_id_model UNIQUE (organisation_id, model)
);

CREATE TABLE projects (
	id TEXT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	data_class TEXT DEFAULT 'standard' NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	origin TEXT DEFAULT 'api' NOT NULL, 
	maker TEXT DEFAULT 'api' NOT NULL, 
	CONSTRAINT pk_projects PRIMARY KEY (id), 
	CONSTRAINT fk_projects_organisation_id FOREIGN KEY(organisation_id) REFERENCES organisations (id), 
	CONSTRAINT uq_projects_organisation_id_name UNIQUE (organisation_id, name)
);

CREATE TABLE providers (
	id TEXT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	dialect TEXT NOT NULL, 
	base_url TEXT NOT NULL, 
	own BOOLEAN DEFAULT 0 NOT NULL, 
	on_hangup TEXT DEFAULT 'cancel' NOT NULL, 
	timeouts TEXT DEFAULT '{}' NOT NULL, 
	max_connections INTEGER DEFAULT '1024' NOT NULL, 
	builtin BOOLEAN DEFAULT 0 NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	origin TEXT DEFAULT 'api' NOT NULL, 
	maker TEXT DEFAULT 'api' NOT NULL, assistant_prefix TEXT, probe TEXT, 
	CONSTRAINT pk_providers PRIMARY KEY (id), 
	CONSTRAINT fk_providers_organisation_id FOREIGN KEY(organisation_id) REFERENCES organisations (id), 
	CONSTRAINT uq_providers_organisation_id_name UNIQUE (organisation_id, name)
);

CREATE TABLE api_keys (
	id TEXT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	project_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	hash BLOB NOT NULL, 
	hint TEXT NOT NULL, 
	previous_hash BLOB, 
	previous_until_ms BIGINT, 
	models TEXT DEFAULT '[]' NOT NULL, 
	tags TEXT DEFAULT '[]' NOT NULL, 
	expires_at_ms BIGINT, 
	revoked_at_ms BIGINT, 
	last_used_at_ms BIGINT, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	origin TEXT DEFAULT 'api' NOT NULL, 
	maker TEXT DEFAULT 'api' NOT NULL, own_devices TEXT DEFAULT 'off' NOT NULL, data_class TEXT, 
	CONSTRAINT pk_api_keys PRIMARY KEY (id), 
	CONSTRAINT fk_api_keys_organisation_id FOREIGN KEY(organisation_id) REFERENCES organisations (id), 
	CONSTRAINT fk_api_keys_project_id FOREIGN KEY(project_id) REFERENCES projects (id), 
	CONSTRAINT uq_api_keys_hash UNIQUE (hash), 
	CONSTRAINT uq_api_keys_previous_hash UNIQUE (previous_hash)
);

CREATE INDEX ix_api_keys_project_id ON api_keys (project_id);

CREATE UNIQUE INDEX uq_api_keys_live_name ON api_keys (organisation_id, name) WHERE revoked_at_ms IS NULL;

CREATE TABLE credentials (
	id TEXT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	provider_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	sealed BLOB NOT NULL, 
	hint TEXT NOT NULL, 
	weight INTEGER DEFAULT '1' NOT NULL, 
	disabled BOOLEAN DEFAULT 0 NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	origin TEXT DEFAULT 'api' NOT NULL, 
	maker TEXT DEFAULT 'api' NOT NULL, 
	CONSTRAINT pk_credentials PRIMARY KEY (id), 
	CONSTRAINT fk_credentials_organisation_id FOREIGN KEY(organisation_id) REFERENCES organisations (id), 
	CONSTRAINT fk_credentials_provider_id FOREIGN KEY(provider_id) REFERENCES providers (id) ON DELETE CASCADE, 
	CONSTRAINT uq_credentials_provider_id_name UNIQUE (provider_id, name)
);

CREATE TABLE provider_models (
	provider_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	seen_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_provider_models PRIMARY KEY (provider_id, name), 
	CONSTRAINT fk_provider_models_provider_id FOREIGN KEY(provider_id) REFERENCES providers (id) ON DELETE CASCADE
);

CREATE TABLE targets (
	id TEXT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	model_id TEXT NOT NULL, 
	provider_id TEXT NOT NULL, 
	upstream_model TEXT NOT NULL, 
	position INTEGER DEFAULT '0' NOT NULL, 
	price TEXT, 
	capabilities TEXT NOT NULL, 
	context_tokens INTEGER, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	origin TEXT DEFAULT 'api' NOT NULL, 
	maker TEXT DEFAULT 'api' NOT NULL, weight INTEGER DEFAULT '1' NOT NULL, priority INTEGER, slots INTEGER, 
	CONSTRAINT pk_targets PRIMARY KEY (id), 
	CONSTRAINT fk_targets_model_id FOREIGN KEY(model_id) REFERENCES models (id) ON DELETE CASCADE, 
	CONSTRAINT fk_targets_organisation_id FOREIGN KEY(organisation_id) REFERENCES organisations (id), 
	CONSTRAINT fk_targets_provider_id FOREIGN KEY(provider_id) REFERENCES providers (id), 
	CONSTRAINT uq_targets_model_id_provider_id_upstream_model UNIQUE (model_id, provider_id, upstream_model)
);

CREATE INDEX ix_targets_provider_id ON targets (provider_id);

CREATE TABLE routes (
	id TEXT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	position INTEGER DEFAULT '0' NOT NULL, 
	"match" TEXT DEFAULT '{}' NOT NULL, 
	strategy TEXT DEFAULT 'priority' NOT NULL, 
	split_by TEXT DEFAULT '' NOT NULL, 
	constraints TEXT DEFAULT '{}' NOT NULL, 
	fallback TEXT DEFAULT '[]' NOT NULL, 
	timeouts TEXT DEFAULT '{}' NOT NULL, 
	hedge TEXT, 
	affinity TEXT, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	origin TEXT DEFAULT 'api' NOT NULL, 
	maker TEXT DEFAULT 'api' NOT NULL, 
	CONSTRAINT pk_routes PRIMARY KEY (id), 
	CONSTRAINT fk_routes_organisation_id FOREIGN KEY(organisation_id) REFERENCES organisations (id), 
	CONSTRAINT uq_routes_organisation_id_name UNIQUE (organisation_id, name)
);

CREATE TABLE node_targets (
	id TEXT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	model_id TEXT NOT NULL, 
	node TEXT NOT NULL, 
	upstream_model TEXT NOT NULL, 
	position INTEGER DEFAULT '0' NOT NULL, 
	weight INTEGER DEFAULT '1' NOT NULL, 
	priority INTEGER, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	origin TEXT DEFAULT 'api' NOT NULL, 
	maker TEXT DEFAULT 'api' NOT NULL, 
	CONSTRAINT pk_node_targets PRIMARY KEY (id), 
	CONSTRAINT fk_node_targets_model_id FOREIGN KEY(model_id) REFERENCES models (id) ON DELETE CASCADE, 
	CONSTRAINT fk_node_targets_organisation_id FOREIGN KEY(organisation_id) REFERENCES organisations (id), 
	CONSTRAINT uq_node_targets_model_id_node_upstream_model UNIQUE (model_id, node, upstream_model)
);

CREATE TABLE join_tokens (
	id TEXT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	hash BLOB NOT NULL, 
	hint TEXT NOT NULL, 
	uses_left INTEGER, 
	approved BOOLEAN NOT NULL, 
	ephemeral BOOLEAN DEFAULT 0 NOT NULL, 
	community BOOLEAN DEFAULT 0 NOT NULL, 
	owner TEXT DEFAULT '' NOT NULL, 
	tags TEXT DEFAULT '[]' NOT NULL, 
	max_models INTEGER, 
	max_price TEXT, 
	expires_at_ms BIGINT NOT NULL, 
	revoked_at_ms BIGINT, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	origin TEXT DEFAULT 'api' NOT NULL, 
	maker TEXT DEFAULT 'api' NOT NULL, 
	CONSTRAINT pk_join_tokens PRIMARY KEY (id), 
	CONSTRAINT fk_join_tokens_organisation_id FOREIGN KEY(organisation_id) REFERENCES organisations (id), 
	CONSTRAINT uq_join_tokens_hash UNIQUE (hash)
);

CREATE TABLE nodes (
	id TEXT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	state TEXT NOT NULL, 
	join_token_id TEXT, 
	key_id TEXT NOT NULL, 
	public_key BLOB NOT NULL, 
	previous_key_id TEXT, 
	previous_public_key BLOB, 
	previous_until_ms BIGINT, 
	owner TEXT DEFAULT '' NOT NULL, 
	community BOOLEAN DEFAULT 0 NOT NULL, 
	ephemeral BOOLEAN DEFAULT 0 NOT NULL, 
	tags TEXT DEFAULT '[]' NOT NULL, 
	max_models INTEGER, 
	max_price TEXT, 
	drained BOOLEAN DEFAULT 0 NOT NULL, 
	offer TEXT DEFAULT '{}' NOT NULL, 
	prices TEXT DEFAULT '{}' NOT NULL, 
	agent TEXT DEFAULT '' NOT NULL, 
	last_seen_at_ms BIGINT, 
	revoked_at_ms BIGINT, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	origin TEXT DEFAULT 'api' NOT NULL, 
	maker TEXT DEFAULT 'api' NOT NULL, 
	CONSTRAINT pk_nodes PRIMARY KEY (id), 
	CONSTRAINT fk_nodes_organisation_id FOREIGN KEY(organisation_id) REFERENCES organisations (id), 
	CONSTRAINT uq_nodes_public_key UNIQUE (public_key)
);

CREATE UNIQUE INDEX uq_nodes_live_name ON nodes (organisation_id, name) WHERE revoked_at_ms IS NULL;

INSERT INTO alembic_version (version_num) VALUES ('0004');
