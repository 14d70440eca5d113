"""From spool lines to rows of `usage.db`: a record becomes one row of `requests` and a summand of the hourly sums."""

from typing import Annotated, NamedTuple

import msgspec

from potluck.ledger.files import UNREADABLE
from potluck.model.usage import Answered, AttemptKind, PlanLine, RefusalCount, TokenUsage

REQUEST_COLUMNS = (
    "id, at_ms, organisation_id, project_id, key_id, endpoint, model, route, end_user, tags, stream, target_id, "
    "target, provider_id, outcome, status, finish_reason, error_code, estimated, input_tokens, output_tokens, "
    "cached_input_tokens, cache_write_tokens, reasoning_tokens, audio_input_tokens, audio_output_tokens, cost_nanousd, "
    "request_bytes, response_bytes, read_us, first_content_us, total_us, overhead_us, attempts, plan"
)
SUM_COLUMNS = (
    "requests, errors, client_closed, lost, estimated, unpriced, input_tokens, output_tokens, cached_input_tokens, "
    "cache_write_tokens, reasoning_tokens, cost_nanousd, total_us, first_content_us, first_contents"
)
HOUR_KEY = "hour, organisation_id, project_id, key_id, model, route, target, provider_id"
USER_HOUR_KEY = "hour, organisation_id, project_id, key_id, end_user"

AS_SUMS = (
    "1 AS requests, outcome NOT IN ('ok', 'client_closed') AS errors, outcome = 'client_closed' AS client_closed, "
    "outcome = 'lost' AS lost, estimated, cost_nanousd IS NULL AS unpriced, input_tokens, output_tokens, "
    "cached_input_tokens, cache_write_tokens, reasoning_tokens, coalesce(cost_nanousd, 0) AS cost_nanousd, total_us, "
    "max(first_content_us, 0) AS first_content_us, first_content_us >= 0 AS first_contents"
)
"""a row of `requests` as the sums of one request, in the order of SUM_COLUMNS"""

MS_PER_HOUR = 3_600_000
MAX_NUMBER = 2**53
"""a greater count is an upstream's nonsense; cut to this, since a row that the database refuses blocks all"""
MAX_SUM = 2**61
"""the same of an hour's sums; two of them added are still a number that the database has"""

_Int = Annotated[int, msgspec.Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]

Row = tuple[object, ...]
Sums = list[int]


class UsagePart(msgspec.Struct, omit_defaults=True, gc=False):
    """`TokenUsage`, with bounds."""

    input_tokens: _Int = 0
    output_tokens: _Int = 0
    cached_input_tokens: _Int = 0
    cache_write_tokens: _Int = 0
    reasoning_tokens: _Int = 0
    audio_input_tokens: _Int = 0
    audio_output_tokens: _Int = 0
    estimated: bool = False


_NO_ATTEMPTS = msgspec.Raw(b"[]")


class RecordLine(msgspec.Struct, gc=False):
    """`UsageRecord` as the importer needs it: lists stay JSON text. Defaults as there."""

    id: str
    at_ms: _Int
    organisation_id: str
    project_id: str
    key_id: str
    endpoint: str
    model: str
    outcome: str
    status: _Int
    stream: bool = False
    route: str = ""
    user: str = ""
    tags: msgspec.Raw = msgspec.Raw(b"[]")
    target_id: str = ""
    target: str = ""
    provider_id: str = ""
    usage: UsagePart | None = None
    cost_nanousd: _Int | None = None
    finish_reason: str = ""
    error_code: str = ""
    attempts: msgspec.Raw = _NO_ATTEMPTS
    answered: Answered | None = None
    request_bytes: _Int = 0
    response_bytes: _Int = 0
    read_us: _Int = 0
    first_content_us: _Int = -1
    total_us: _Int = 0
    overhead_us: _Int = 0
    plan: str = ""


class SettlementLine(msgspec.Struct, tag="s", tag_field="t", gc=False):
    r: RecordLine


class IntentLine(msgspec.Struct, tag="i", tag_field="t", gc=False):
    """Of no interest to the database: an intent becomes a row through its settlement."""


class _Attempt(msgspec.Struct, omit_defaults=True, gc=False):
    """`AttemptRecord` of an attempt that answered: its defaults left out, status said."""

    n: int
    target_id: str
    target: str
    provider_id: str
    credential_id: str | None
    start_us: int
    connected_us: int
    first_byte_us: int
    end_us: int
    usage: UsagePart | TokenUsage | None
    cost_nanousd: int | None
    price_version: str
    status: int
    kind: AttemptKind = "first"


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(SettlementLine | RefusalCount | IntentLine | PlanLine).decode
_NO_TOKENS = UsagePart()
_INTENT = b'{"t":"i"'
_ESTIMATED = b'"estimated":true'
"""in JSON that we encoded it stands nowhere but as a member: within text its quotes are escaped"""


class Lines(NamedTuple):
    records: list[RecordLine]
    refusals: list[RefusalCount]
    plans: dict[str, str]
    """JSON by id"""
    corrupt: int


def read_lines(chunk: bytes) -> Lines:
    """Decode whole spool lines. Blank lines and intents are passed over, unreadable lines counted."""
    records: list[RecordLine] = []
    refusals: list[RefusalCount] = []
    plans: dict[str, str] = {}
    corrupt = 0
    for text in chunk.split(b"\n"):
        if text.startswith(_INTENT):
            continue
        try:
            line = _decode(text)
        except UNREADABLE:
            try:
                line = _decode(msgspec.json.encode(_cut(msgspec.json.decode(text))))
            except UNREADABLE:
                corrupt += bool(text.strip())
                continue
        if isinstance(line, SettlementLine):
            records.append(line.r)
        elif isinstance(line, RefusalCount):
            refusals.append(line)
        elif isinstance(line, PlanLine):
            plans[line.id] = bytes(line.plan).decode("utf-8", "replace")
    return Lines(records, refusals, plans, corrupt)


def _cut(value: object) -> object:
    """The same JSON value with its numbers within bounds."""
    if isinstance(value, dict):
        return {name: _cut(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_cut(member) for member in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-MAX_NUMBER, min(value, MAX_NUMBER))
    return value


def request_row(record: RecordLine) -> Row:
    """The values of REQUEST_COLUMNS."""
    usage = record.usage or _NO_TOKENS
    return (
        record.id,
        record.at_ms,
        record.organisation_id,
        record.project_id,
        record.key_id,
        record.endpoint,
        record.model,
        record.route,
        record.user,
        bytes(record.tags).decode("utf-8", "replace"),
        record.stream,
        record.target_id,
        record.target,
        record.provider_id,
        record.outcome,
        record.status,
        record.finish_reason,
        record.error_code,
        _estimated(record, usage),
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        usage.audio_input_tokens,
        usage.audio_output_tokens,
        record.cost_nanousd,
        record.request_bytes,
        record.response_bytes,
        record.read_us,
        record.first_content_us,
        record.total_us,
        record.overhead_us,
        _attempts(record),
        record.plan,
    )


def _estimated(record: RecordLine, usage: UsagePart) -> bool:
    """Some of the tokens or of the cost rest on lengths: a call beside the one that answered may have cost as well."""
    return usage.estimated or (record.attempts is not _NO_ATTEMPTS and _ESTIMATED in bytes(record.attempts))


def _attempts(record: RecordLine) -> str:
    """All attempts as JSON text: those that did not answer, then the one that did."""
    failed = "[]" if record.attempts is _NO_ATTEMPTS else bytes(record.attempts).decode("utf-8", "replace")
    answered = record.answered
    if answered is None:
        return failed
    last = _encode(
        _Attempt(
            answered.n,
            record.target_id,
            record.target,
            record.provider_id,
            answered.credential_id,
            answered.start_us,
            answered.connected_us,
            answered.first_byte_us,
            answered.end_us,
            answered.usage or record.usage,
            record.cost_nanousd if answered.cost_nanousd is None else answered.cost_nanousd,
            answered.price_version,
            200,
            answered.kind,
        )
    ).decode()
    return f"[{last}]" if failed == "[]" else f"{failed[:-1]},{last}]"


class Rollup:
    """The sums of a batch by hour and dimensions. Memory grows with distinct dimensions, not with records."""

    def __init__(self) -> None:
        self.hours: dict[Row, Sums] = {}
        self.user_hours: dict[Row, Sums] = {}

    def hour_rows(self) -> list[Row]:
        """For `upsert_sums` of `usage_hours`."""
        return [(*key, *map(_bounded, sums)) for key, sums in self.hours.items()]

    def user_hour_rows(self) -> list[Row]:
        """For `upsert_sums` of `usage_user_hours`."""
        return [(*key, *map(_bounded, sums)) for key, sums in self.user_hours.items()]

    def add(self, record: RecordLine) -> None:
        usage = record.usage or _NO_TOKENS
        outcome = record.outcome
        first_us = record.first_content_us
        cost = record.cost_nanousd
        values = (
            1,
            outcome not in ("ok", "client_closed"),
            outcome == "client_closed",
            outcome == "lost",
            _estimated(record, usage),
            cost is None,
            usage.input_tokens,
            usage.output_tokens,
            usage.cached_input_tokens,
            usage.cache_write_tokens,
            usage.reasoning_tokens,
            cost or 0,
            record.total_us,
            max(first_us, 0),
            first_us >= 0,
        )
        hour = record.at_ms // MS_PER_HOUR
        key: Row = (
            hour,
            record.organisation_id,
            record.project_id,
            record.key_id,
            record.model,
            record.route,
            record.target,
            record.provider_id,
        )
        _add(self.hours, key, values)
        if record.user:
            _add(self.user_hours, (hour, *key[1:4], record.user), values)


def _add(sums: dict[Row, Sums], key: Row, values: tuple[int, ...]) -> None:
    before = sums.get(key)
    if before is None:
        sums[key] = [int(value) for value in values]
    else:
        before[:] = map(int.__add__, before, values)


def _bounded(total: int) -> int:
    return max(-MAX_SUM, min(total, MAX_SUM))


def insert_requests() -> str:
    places = ", ".join("?" * len(REQUEST_COLUMNS.split(",")))
    return f"INSERT INTO requests ({REQUEST_COLUMNS}) VALUES ({places}) ON CONFLICT DO NOTHING"  # noqa: S608 — our own names


def upsert_sums(table: str, key: str) -> str:
    sums = SUM_COLUMNS.split(", ")
    places = ", ".join("?" * (len(key.split(",")) + len(sums)))
    adds = ", ".join(f"{name} = min({table}.{name} + excluded.{name}, {MAX_SUM})" for name in sums)
    return (
        f"INSERT INTO {table} ({key}, {SUM_COLUMNS}) VALUES ({places}) "  # noqa: S608 — our own names
        f"ON CONFLICT ({key}) DO UPDATE SET {adds}"
    )


UPSERT_PLANS = (
    "INSERT INTO plans (id, plan, at_ms) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET at_ms = excluded.at_ms"
)
UPSERT_REFUSALS = (
    "INSERT INTO refusals (minute, reason, who, requests, first_at_ms, detail) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (minute, reason, who) DO UPDATE SET requests = refusals.requests + excluded.requests, "
    "first_at_ms = CASE WHEN refusals.first_at_ms = 0 THEN excluded.first_at_ms ELSE refusals.first_at_ms END, "
    "detail = CASE WHEN refusals.detail = '' THEN excluded.detail ELSE refusals.detail END"
)
