"""Questions asked of `usage.db`: plain `sqlite3` readers, blocking, to be called in threads.

A report over time reads the hourly sums for whole hours and the requests themselves for the hours cut by its edges, so
it is exact at any edge and cheap over months. Ids stay ids: the admin API knows the names.
"""

import sqlite3
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from potluck.ledger.files import UNREADABLE
from potluck.ledger.rows import AS_SUMS, HOUR_KEY, MS_PER_HOUR, REQUEST_COLUMNS, SUM_COLUMNS, USER_HOUR_KEY
from potluck.model.price import nanousd_to_usd_text
from potluck.model.usage import AttemptRecord
from potluck.policy.retry import blame

T = TypeVar("T")

READ_TIMEOUT_S = 5.0

DIMENSIONS: Mapping[str, tuple[str, str, str]] = {
    "model": ("usage_hours", "model", ""),
    "route": ("usage_hours", "route", ""),
    "target": ("usage_hours", "target", ""),
    "provider": ("usage_hours", "provider_id", ""),
    "project": ("usage_hours", "project_id", ""),
    "key": ("usage_hours", "key_id", ""),
    "node": ("usage_hours", "substr(target, 6, instr(target, '/') - 6)", "target LIKE 'node:%/%'"),
    "user": ("usage_user_hours", "end_user", "end_user <> ''"),
    "day": ("usage_hours", "strftime('%Y-%m-%d', hour * 3600, 'unixepoch')", ""),
}
"""what `--by` takes: the table of hourly sums, the expression to group by, and which rows belong"""

SCOPES = ("organisation_id", "project_id", "key_id")
FILTERS = (*SCOPES, "model", "route", "target", "target_id", "provider_id", "outcome", "end_user", "endpoint", "status")

_decode_attempts = msgspec.json.Decoder(tuple[AttemptRecord, ...]).decode
_SUMS = SUM_COLUMNS.split(", ")
_LISTED = REQUEST_COLUMNS.removesuffix(", plan")
_NAMES = _LISTED.split(", ")


class ReportError(Exception):
    """A question that cannot be answered, and why; safe to show to whoever asked."""


def usage_report(
    path: Path,
    by: str,
    since_ms: int = 0,
    until_ms: int | None = None,
    limit: int = 1000,
    scope: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Sums by one dimension over requests accepted in [since_ms, until_ms), the costliest first (days in order).

    `scope`: ids that rows must have, of `organisation_id`, `project_id`, `key_id`. Returns
    `{"data": [{by: str, "requests", "input_tokens", "output_tokens", "cached_input_tokens", …, "cost_nanousd": int,
    "cost_usd": float, "errors", …}], "total": {the same without the dimension}}`; `total` is over all rows, `data` has
    the first `limit`. Sums are exact up to 2^53 (9,007,199 USD), and to 15 digits beyond. Raises ReportError for an
    unknown dimension or scope.
    """
    if by == "prompt":
        raise ReportError(
            "usage by prompt needs prompt fingerprints, which are not recorded yet: choose another dimension"
        )
    if by not in DIMENSIONS:
        raise ReportError(f"usage cannot be reported by {by!r}: choose one of {', '.join(DIMENSIONS)}")
    table, expression, belongs = DIMENSIONS[by]
    where, values = _conditions(scope or {}, SCOPES)
    if belongs:
        where.append(belongs)
    summed = ", ".join(f"total({name})" for name in _SUMS)  # sum() fails where integers overflow
    query = f"SELECT {expression}, {summed} FROM ({_source(table, since_ms, until_ms)})"  # noqa: S608 — our own names
    if where:
        query += f" WHERE {' AND '.join(where)}"
    query += " GROUP BY 1"
    with _reader(path) as connection:
        rows = [(row[0], *map(int, row[1:])) for row in connection.execute(query, values)]
    total = [sum(row[n] for row in rows) for n in range(1, len(_SUMS) + 1)]
    if by == "day":
        rows.sort(key=lambda row: str(row[0]))
    else:
        rows.sort(key=lambda row: (-row[1 + _SUMS.index("cost_nanousd")], -row[1], str(row[0])))
    return {"data": [{by: row[0], **_figures(row[1:])} for row in rows[:limit]], "total": _figures(total)}


def request_detail(path: Path, request_id: str, scope: Mapping[str, str] | None = None) -> dict[str, Any] | None:
    """One request whole: its record, and `plan`, the routing decision that it came from; None when there is none
    within `scope`.

    `plan` is as `proxy.explain` made it; None where none is kept any more, and for a call that the gateway's death cut.
    With a `key_id` in `scope` it is told to a caller: the plan leaves out how upstream keys are called.
    `attempts`, in the order in which they began, the one that answered among them: `n`, `kind`, `target`, `target_id`,
    `provider_id`, `credential_id`, `error_class` (`none`: it did not fail), `error`, `status`, `phase`; `start_ms`,
    `connected_ms`, `first_byte_ms`, `end_ms`: since acceptance, None where not reached; `usage`, `cost_nanousd`,
    `cost_usd`, `price_version`; `blame`: `caller|policy|provider|node|gateway`, None where nothing failed.
    """
    where, values = _conditions({"id": request_id, **(scope or {})}, ("id", *SCOPES))
    query = (
        f"SELECT {_LISTED}, (SELECT plans.plan FROM plans WHERE plans.id = requests.plan) "  # noqa: S608 — our own names
        f"FROM requests WHERE {' AND '.join(where)}"
    )
    with _reader(path) as connection:
        row = connection.execute(query, values).fetchone()
    if row is None:
        return None
    plan = _decoded(msgspec.json.decode, row[-1], None)
    if plan is not None and scope is not None and "key_id" in scope:
        for target in plan.get("targets", ()):
            target.pop("credential", None)
    return _record(row[:-1]) | {"plan": plan}


def list_requests(
    path: Path,
    filters: Mapping[str, str | int] | None = None,
    cursor: str | None = None,
    limit: int = 50,
    since_ms: int = 0,
    until_ms: int | None = None,
) -> dict[str, Any]:
    """Records, newest first: `{"data": [record, …], "next_cursor": str | None}`. They come without their plans.

    `filters`: equal values for any of FILTERS. Raises ReportError for an unknown filter or a cursor that is not ours.
    """
    where, values = _conditions(filters or {}, FILTERS)
    where.append("at_ms >= ?")
    values.append(since_ms)
    if until_ms is not None:
        where.append("at_ms < ?")
        values.append(until_ms)
    if cursor is not None:
        where.append("(at_ms, id) < (?, ?)")
        values.extend(_read_cursor(cursor))
    query = (
        f"SELECT {_LISTED} FROM requests WHERE {' AND '.join(where)} "  # noqa: S608 — our own names
        "ORDER BY at_ms DESC, id DESC LIMIT ?"
    )
    with _reader(path) as connection:
        rows = connection.execute(query, [*values, limit + 1]).fetchall()
    more = len(rows) > limit
    data = [_record(row) for row in rows[:limit]]
    return {"data": data, "next_cursor": _cursor(data[-1]) if more and data else None}


def refusals(path: Path, since_ms: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
    """Refused calls per minute, reason and caller, newest first: `minute_ms`, `reason`, `who`, `requests`, `detail`."""
    query = (
        "SELECT minute * 60000, reason, who, requests, first_at_ms, detail FROM refusals WHERE minute >= ? "
        "ORDER BY minute DESC, requests DESC LIMIT ?"
    )
    with _reader(path) as connection:
        rows = connection.execute(query, (since_ms // 60_000, limit)).fetchall()
    names = ("minute_ms", "reason", "who", "requests", "first_at_ms", "detail")
    return [dict(zip(names, row, strict=True)) for row in rows]


@contextmanager
def _reader(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=READ_TIMEOUT_S)
    with closing(connection):
        yield connection


def _source(table: str, since_ms: int, until_ms: int | None) -> str:
    """Whole hours from the sums, the hours that the edges cut from the requests. The numbers are integers of ours."""
    key = (USER_HOUR_KEY if table == "usage_user_hours" else HOUR_KEY).removeprefix("hour, ")
    first_hour = -(-since_ms // MS_PER_HOUR)
    first_ms = first_hour * MS_PER_HOUR
    if until_ms is not None and until_ms <= first_ms:
        return _edge(key, since_ms, until_ms)
    parts = [f"SELECT hour, {key}, {SUM_COLUMNS} FROM {table} WHERE hour >= {first_hour}"]  # noqa: S608 — our own names
    if until_ms is not None:
        last_hour = until_ms // MS_PER_HOUR
        parts[0] += f" AND hour < {last_hour}"
        parts.append(_edge(key, last_hour * MS_PER_HOUR, until_ms))
    parts.append(_edge(key, since_ms, first_ms))
    return " UNION ALL ".join(parts)


def _edge(key: str, from_ms: int, to_ms: int) -> str:
    return (
        f"SELECT at_ms / {MS_PER_HOUR} AS hour, {key}, {AS_SUMS} FROM requests "  # noqa: S608 — our own names
        f"WHERE at_ms >= {from_ms} AND at_ms < {to_ms}"
    )


def _conditions(wanted: Mapping[str, str | int], known: tuple[str, ...]) -> tuple[list[str], list[str | int]]:
    for name in wanted:
        if name not in known:
            raise ReportError(f"records cannot be filtered by {name!r}: choose among {', '.join(known)}")
    return [f"{name} = ?" for name in wanted], list(wanted.values())


def _figures(sums: list[int] | tuple[int, ...]) -> dict[str, Any]:
    figures: dict[str, Any] = dict(zip(_SUMS, sums, strict=True))
    total_us, first_us, firsts = (figures.pop(name) for name in ("total_us", "first_content_us", "first_contents"))
    figures["cost_usd"] = float(nanousd_to_usd_text(figures["cost_nanousd"]))
    figures["mean_ms"] = round(total_us / figures["requests"] / 1000, 3) if figures["requests"] else None
    figures["mean_first_content_ms"] = round(first_us / firsts / 1000, 3) if firsts else None
    return figures


def _record(row: tuple[Any, ...]) -> dict[str, Any]:
    record: dict[str, Any] = dict(zip(_NAMES, row, strict=True))
    record["user"] = record.pop("end_user")
    record["stream"] = bool(record["stream"])
    record["estimated"] = bool(record["estimated"])
    record["tags"] = _decoded(msgspec.json.decode, record["tags"], [])
    attempts: tuple[AttemptRecord, ...] = _decoded(_decode_attempts, record["attempts"], ())
    shutdown = record["outcome"] == "shutdown"
    record["attempts"] = [_attempt(each, shutdown=shutdown) for each in sorted(attempts, key=lambda attempt: attempt.n)]
    record["cost_usd"] = _usd(record["cost_nanousd"])
    return record


def _attempt(attempt: AttemptRecord, *, shutdown: bool) -> dict[str, Any]:
    """In the form of `request_detail`."""
    return {
        "n": attempt.n,
        "kind": attempt.kind,
        "target": attempt.target,
        "target_id": attempt.target_id,
        "provider_id": attempt.provider_id,
        "credential_id": attempt.credential_id,
        "error_class": attempt.error_class,
        "error": attempt.error,
        "blame": blame(attempt.error_class, attempt.target, shutdown=shutdown),
        "status": attempt.status,
        "phase": attempt.phase,
        "start_ms": _ms(attempt.start_us),
        "connected_ms": _ms(attempt.connected_us),
        "first_byte_ms": _ms(attempt.first_byte_us),
        "end_ms": _ms(attempt.end_us),
        "usage": None if attempt.usage is None else msgspec.structs.asdict(attempt.usage),
        "cost_nanousd": attempt.cost_nanousd,
        "cost_usd": _usd(attempt.cost_nanousd),
        "price_version": attempt.price_version,
    }


def _decoded(decode: Callable[[str], T], text: str | None, otherwise: T) -> T:
    """Stored JSON; `otherwise` for none, and for what damage to the spool has made unreadable."""
    try:
        return otherwise if text is None else decode(text)
    except UNREADABLE:
        return otherwise


def _ms(us: int) -> float | None:
    return None if us < 0 else us / 1000


def _usd(nanousd: int | None) -> float | None:
    return None if nanousd is None else float(nanousd_to_usd_text(nanousd))


def _cursor(record: Mapping[str, Any]) -> str:
    return urlsafe_b64encode(f"{record['at_ms']}:{record['id']}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[int, str]:
    try:
        at_ms, colon, request_id = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition(":")
        if colon and at_ms.isdecimal():
            return int(at_ms), request_id
    except ValueError:
        pass
    raise ReportError("the cursor is not one that this list gave: leave it out to begin anew")
