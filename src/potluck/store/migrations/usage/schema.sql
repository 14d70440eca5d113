-- Made by `python -m potluck.store.migrate schema`; never edited by hand.

CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

CREATE TABLE refusals (
	minute BIGINT NOT NULL, 
	reason TEXT NOT NULL, 
	who TEXT NOT NULL, 
	requests BIGINT NOT NULL, 
	first_at_ms BIGINT NOT NULL, 
	detail TEXT NOT NULL, 
	CONSTRAINT pk_refusals PRIMARY KEY (minute, reason, who)
)
 WITHOUT ROWID

;

CREATE TABLE requests (
	id TEXT NOT NULL, 
	at_ms BIGINT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	project_id TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	endpoint TEXT NOT NULL, 
	model TEXT NOT NULL, 
	route TEXT NOT NULL, 
	end_user TEXT NOT NULL, 
	tags TEXT NOT NULL, 
	stream INTEGER NOT NULL, 
	target_id TEXT NOT NULL, 
	target TEXT NOT NULL, 
	provider_id TEXT NOT NULL, 
	outcome TEXT NOT NULL, 
	status INTEGER NOT NULL, 
	finish_reason TEXT NOT NULL, 
	error_code TEXT NOT NULL, 
	estimated INTEGER NOT NULL, 
	input_tokens BIGINT NOT NULL, 
	output_tokens BIGINT NOT NULL, 
	cached_input_tokens BIGINT NOT NULL, 
	cache_write_tokens BIGINT NOT NULL, 
	reasoning_tokens BIGINT NOT NULL, 
	audio_input_tokens BIGINT NOT NULL, 
	audio_output_tokens BIGINT NOT NULL, 
	cost_nanousd BIGINT, 
	request_bytes BIGINT NOT NULL, 
	response_bytes BIGINT NOT NULL, 
	read_us BIGINT NOT NULL, 
	first_content_us BIGINT NOT NULL, 
	total_us BIGINT NOT NULL, 
	overhead_us BIGINT NOT NULL, 
	attempts TEXT NOT NULL, "plan" TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_requests PRIMARY KEY (id)
);

CREATE INDEX ix_requests_at_ms ON requests (at_ms);

CREATE INDEX ix_requests_key_id_at_ms ON requests (key_id, at_ms);

CREATE TABLE spool_files (
	stem TEXT NOT NULL, 
	offset_bytes BIGINT NOT NULL, 
	CONSTRAINT pk_spool_files PRIMARY KEY (stem)
)
 WITHOUT ROWID

;

CREATE TABLE usage_hours (
	hour BIGINT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	project_id TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	model TEXT NOT NULL, 
	route TEXT NOT NULL, 
	target TEXT NOT NULL, 
	provider_id TEXT NOT NULL, 
	requests BIGINT NOT NULL, 
	errors BIGINT NOT NULL, 
	client_closed BIGINT NOT NULL, 
	lost BIGINT NOT NULL, 
	estimated BIGINT NOT NULL, 
	unpriced BIGINT NOT NULL, 
	input_tokens BIGINT NOT NULL, 
	output_tokens BIGINT NOT NULL, 
	cached_input_tokens BIGINT NOT NULL, 
	cache_write_tokens BIGINT NOT NULL, 
	reasoning_tokens BIGINT NOT NULL, 
	cost_nanousd BIGINT NOT NULL, 
	total_us BIGINT NOT NULL, 
	first_content_us BIGINT NOT NULL, 
	first_contents BIGINT NOT NULL, 
	CONSTRAINT pk_usage_hours PRIMARY KEY (hour, organisation_id, project_id, key_id, model, route, target, provider_id)
)
 WITHOUT ROWID

;

CREATE TABLE usage_user_hours (
	hour BIGINT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	project_id TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	end_user TEXT NOT NULL, 
	requests BIGINT NOT NULL, 
	errors BIGINT NOT NULL, 
	client_closed BIGINT NOT NULL, 
	lost BIGINT NOT NULL, 
	estimated BIGINT NOT NULL, 
	unpriced BIGINT NOT NULL, 
	input_tokens BIGINT NOT NULL, 
	output_tokens BIGINT NOT NULL, 
	cached_input_tokens BIGINT NOT NULL, 
	cache_write_tokens BIGINT NOT NULL, 
	reasoning_tokens BIGINT NOT NULL, 
	cost_nanousd BIGINT NOT NULL, 
	total_us BIGINT NOT NULL, 
	first_content_us BIGINT NOT NULL, 
	first_contents BIGINT NOT NULL, 
	CONSTRAINT pk_usage_user_hours PRIMARY KEY (hour, organisation_id, project_id, key_id, end_user)
)
 WITHOUT ROWID

;

CREATE TABLE plans (
	id TEXT NOT NULL, 
	"plan" TEXT NOT NULL, 
	at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_plans PRIMARY KEY (id)
);

CREATE INDEX ix_plans_at_ms ON plans (at_ms);

INSERT INTO alembic_version (version_num) VALUES ('0002');
