"""The tables of `usage.db`, once, for every database. Written by the importer alone, which uses plain `sqlite3`.

`requests` has one row per admitted request. `usage_hours` and `usage_user_hours` sum them by hour of acceptance, so
that a report over months reads thousands of rows, not millions. `plans` has each routing decision once, however many
requests refer to it, until no request has for a month. Money is integer nano-USD, times are unix milliseconds
unless the name says otherwise.
"""

import sqlalchemy as sa

from potluck.store.tables import metadata as _main

metadata = sa.MetaData(naming_convention=_main.naming_convention)


def _text(name: str, *, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, primary_key=key)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _sums() -> tuple[sa.Column[int], ...]:
    return (
        _count("requests"),
        _count("errors"),
        _count("client_closed"),
        _count("lost"),
        _count("estimated"),
        _count("unpriced"),
        _count("input_tokens"),
        _count("output_tokens"),
        _count("cached_input_tokens"),
        _count("cache_write_tokens"),
        _count("reasoning_tokens"),
        _count("cost_nanousd"),
        _count("total_us"),
        _count("first_content_us"),
        _count("first_contents"),
    )


requests = sa.Table(
    "requests",
    metadata,
    _text("id", key=True),
    _count("at_ms"),
    _text("organisation_id"),
    _text("project_id"),
    _text("key_id"),
    _text("endpoint"),
    _text("model"),
    _text("route"),
    _text("end_user"),
    sa.Column("tags", sa.Text, nullable=False, comment="JSON list"),
    sa.Column("stream", sa.Integer, nullable=False),
    _text("target_id"),
    _text("target"),
    _text("provider_id"),
    _text("outcome"),
    sa.Column("status", sa.Integer, nullable=False),
    _text("finish_reason"),
    _text("error_code"),
    sa.Column("estimated", sa.Integer, nullable=False),
    _count("input_tokens"),
    _count("output_tokens"),
    _count("cached_input_tokens"),
    _count("cache_write_tokens"),
    _count("reasoning_tokens"),
    _count("audio_input_tokens"),
    _count("audio_output_tokens"),
    sa.Column("cost_nanousd", sa.BigInteger, nullable=True),
    _count("request_bytes"),
    _count("response_bytes"),
    _count("read_us"),
    _count("first_content_us"),
    _count("total_us"),
    _count("overhead_us"),
    sa.Column("attempts", sa.Text, nullable=False, comment="JSON list of attempt records"),
    sa.Column("plan", sa.Text, nullable=False, server_default="", comment="id in plans; empty: nothing to explain"),
    sa.Index(None, "at_ms"),
    sa.Index(None, "key_id", "at_ms"),
)

plans = sa.Table(
    "plans",
    metadata,
    _text("id", key=True),
    sa.Column("plan", sa.Text, nullable=False, comment="JSON"),
    sa.Column("at_ms", sa.BigInteger, nullable=False, comment="when it was imported last"),
    sa.Index(None, "at_ms"),
)

usage_hours = sa.Table(
    "usage_hours",
    metadata,
    sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False, comment="unix time in whole hours"),
    _text("organisation_id", key=True),
    _text("project_id", key=True),
    _text("key_id", key=True),
    _text("model", key=True),
    _text("route", key=True),
    _text("target", key=True),
    _text("provider_id", key=True),
    *_sums(),
    sqlite_with_rowid=False,
)

usage_user_hours = sa.Table(
    "usage_user_hours",
    metadata,
    sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False, comment="unix time in whole hours"),
    _text("organisation_id", key=True),
    _text("project_id", key=True),
    _text("key_id", key=True),
    _text("end_user", key=True),
    *_sums(),
    sqlite_with_rowid=False,
)

refusals = sa.Table(
    "refusals",
    metadata,
    sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False, comment="unix time in whole minutes"),
    _text("reason", key=True),
    _text("who", key=True),
    _count("requests"),
    _count("first_at_ms"),
    _text("detail"),
    sqlite_with_rowid=False,
)

spool_files = sa.Table(
    "spool_files",
    metadata,
    _text("stem", key=True),
    sa.Column("offset_bytes", sa.BigInteger, nullable=False, comment="imported up to here, in one transaction with it"),
    sqlite_with_rowid=False,
)
