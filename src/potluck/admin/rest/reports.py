"""`/api/v1/usage`, `/requests`, `/audit` and `/snapshot`: what happened, and what is in force."""

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import sqlalchemy as sa
from litestar import Router, get
from litestar.params import FromPath, QueryParameter

from potluck.admin.control import Control
from potluck.admin.errors import invalid, not_found
from potluck.admin.operations.views import AuditView, audit_view
from potluck.admin.operations.work import Actor, Row, Work, audit_hash
from potluck.admin.rest.auth import AdminRequest, FromGateway
from potluck.admin.rest.lists import DEFAULT_LIMIT, Cursor, Limit, Listed, not_ours
from potluck.admin.rest.problems import described
from potluck.config.document import PriceEntry
from potluck.ledger import reports
from potluck.model.node import NODE_PREFIX
from potluck.model.resources import Capability
from potluck.model.snapshot import CompiledModel, CompiledTarget
from potluck.store import tables as t

T = TypeVar("T")

_LENGTH = re.compile(r"^(\d{1,6})([smhdw])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
NAMED = {"key": t.api_keys, "project": t.projects, "provider": t.providers}
"""dimensions of a report whose values are ids that have names"""

Since = Annotated[str | None, QueryParameter(description="how far back: 90s, 30m, 24h, 7d, 4w", max_length=20)]
SinceMs = Annotated[int | None, QueryParameter(ge=0, le=1 << 53, description="unix milliseconds, instead of `since`")]
UntilMs = Annotated[int | None, QueryParameter(ge=0, le=1 << 53, description="unix milliseconds, exclusive")]


class UsageReport(msgspec.Struct, frozen=True):
    """A row per value of the dimension, the costliest first, and the sum of all."""

    data: list[dict[str, Any]]
    total: dict[str, Any]


class SnapshotTarget(msgspec.Struct, frozen=True):
    id: str
    target: str
    provider: str
    own: bool
    price: dict[str, Any] | None
    """USD per million tokens, with the `version` and `source` that it comes from"""
    capabilities: list[Capability]
    weight: int
    priority: int
    slots: int
    unroutable: str
    """why it is not called, with the command that mends it; empty when it is"""


class SnapshotModel(msgspec.Struct, frozen=True):
    """A public name as the data plane serves it. `id` and `placement` are a declared model's, else null."""

    name: str
    alias_of: str
    """the model's proper name, when this is an alias; else empty"""
    id: str | None
    placement: str | None
    targets: list[SnapshotTarget]


class SnapshotView(msgspec.Struct, frozen=True):
    """What is in force. `problem`: why the newest stored configuration is not, else empty."""

    version: int
    keys: int
    pins: int
    routes: list[str]
    """names, in the order in which they are tried"""
    problem: str
    models: list[SnapshotModel]


class AuditCheck(msgspec.Struct, frozen=True):
    """Whether each entry's hash covers it and the one before. `broken_at`: the first entry where it does not."""

    ok: bool
    entries: int
    broken_at: int | None


@get("/usage", responses=described())
async def usage(
    request: AdminRequest,
    control: FromGateway,
    by: Annotated[
        str, QueryParameter(description="model, route, target, provider, node, project, key, user, day")
    ] = "model",
    since: Since = None,
    since_ms: SinceMs = None,
    until_ms: UntilMs = None,
    limit: Limit = 1000,
) -> UsageReport:
    """Requests, tokens, cost and latency by one dimension; at most a second behind."""
    start = since_ms if since_ms is not None else _moment_ms(since)
    scope = {"organisation_id": request.user.organisation_id}
    report = await _report(control, reports.usage_report, by, start, until_ms, limit, scope)
    rows: list[dict[str, Any]] = report["data"]
    if by in NAMED:
        names = await _names(control, request.user, NAMED[by])
        if by == "provider":
            nodes = await _names(control, request.user, t.nodes)
            names |= {node_id: NODE_PREFIX + name for node_id, name in nodes.items()}
        rows = [{**row, by: names.get(row[by], row[by]), f"{by}_id": row[by]} for row in rows]
    return UsageReport(rows, report["total"])


@get("/requests", responses=described())
async def list_requests(
    request: AdminRequest,
    control: FromGateway,
    outcome: Annotated[str | None, QueryParameter(description="only those that ended so", max_length=40)] = None,
    model: Annotated[str | None, QueryParameter(description="only those that named this model", max_length=200)] = None,
    key_id: Annotated[str | None, QueryParameter(description="only this key's", max_length=60)] = None,
    since: Since = None,
    since_ms: SinceMs = None,
    until_ms: UntilMs = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Listed[dict[str, Any]]:
    """List request records, newest first."""
    wanted = {"outcome": outcome, "model": model, "key_id": key_id}
    filters = {name: value for name, value in wanted.items() if value is not None}
    filters["organisation_id"] = request.user.organisation_id
    start = since_ms if since_ms is not None else _moment_ms(since)
    page = await _report(control, reports.list_requests, filters, cursor, limit, start, until_ms)
    return Listed(await _named(control, request.user, page["data"]), page["next_cursor"])


@get("/requests/{request_id:str}", responses=described())
async def show_request(request: AdminRequest, control: FromGateway, request_id: FromPath[str]) -> dict[str, Any]:
    """Show one request: phases, attempts, reasons, tokens, cost."""
    scope = {"organisation_id": request.user.organisation_id}
    record = await _report(control, reports.request_detail, request_id, scope)
    if record is None:
        raise not_found("request", request_id)
    keys = await _names(control, request.user, t.credentials)
    record["attempts"] = [each | {"credential": keys.get(each["credential_id"])} for each in record["attempts"]]
    return (await _named(control, request.user, [record]))[0]


@get("/audit", responses=described())
async def list_audit(
    request: AdminRequest, control: FromGateway, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Listed[AuditView]:
    """List the audit log, newest first."""
    before = _sequence(cursor)

    def look(work: Work) -> Listed[AuditView]:
        conditions = [t.audit.c.organisation_id == work.organisation_id]
        if before is not None:
            conditions.append(t.audit.c.seq < before)
        rows = work.rows(sa.select(t.audit).where(*conditions).order_by(t.audit.c.seq.desc()).limit(limit + 1))
        more = len(rows) > limit
        return Listed([audit_view(row) for row in rows[:limit]], str(rows[limit - 1]["seq"]) if more else None)

    return await control.see(request.user, look)


@get("/audit/verify", responses=described())
async def verify_audit(request: AdminRequest, control: FromGateway) -> AuditCheck:
    """Walk the whole audit log's hash chain."""
    return await control.see(request.user, check_audit)


@get("/snapshot", responses=described())
async def show_snapshot(request: AdminRequest, control: FromGateway) -> SnapshotView:
    """What the data plane serves now: every public model name, its targets, their prices, and why one is not called."""
    current = control.snapshots.current

    def look(work: Work) -> dict[str, Row]:
        mine = t.models.c.organisation_id == work.organisation_id
        return {row["name"]: row for row in work.rows(sa.select(t.models).where(mine))}

    declared = await control.see(request.user, look)
    view = await asyncio.to_thread(
        lambda: [_model(each, declared.get(each.alias_of or each.name)) for each in current.models.values()]
    )
    routes = [route.name for route in current.routes]
    return SnapshotView(current.version, len(current.keys), len(current.pins), routes, control.snapshots.problem, view)


def check_audit(work: Work) -> AuditCheck:
    """Recompute every hash of the log."""
    before, count = b"", 0
    for row in work.connection.execute(sa.select(t.audit).order_by(t.audit.c.seq)).mappings():
        count += 1
        if row["prev_hash"] != before or row["hash"] != audit_hash(before, dict(row)) or row["seq"] != count:
            return AuditCheck(False, count, count)
        before = row["hash"]
    return AuditCheck(True, count, None)


def _model(model: CompiledModel, declared: Row | None) -> SnapshotModel:
    targets = {target.id: target for target in reversed(model.targets)}
    return SnapshotModel(
        model.name,
        model.alias_of,
        declared["id"] if declared else None,
        declared["placement"] if declared else None,
        [_target(targets[target_id]) for target_id in dict.fromkeys(target.id for target in model.targets)],
    )


def _target(target: CompiledTarget) -> SnapshotTarget:
    price: dict[str, Any] | None = None
    if target.price is not None:
        entry = msgspec.structs.asdict(PriceEntry.from_price(target.price))
        price = {name: value for name, value in entry.items() if value is not None}
        price |= {"version": target.price.version, "source": target.price.source}
    return SnapshotTarget(
        target.id,
        target.name,
        target.provider,
        target.own,
        price,
        list(target.heads),
        target.weight,
        target.priority,
        target.slots,
        target.unroutable,
    )


def _moment_ms(since: str | None) -> int:
    if since is None:
        return 0
    found = _LENGTH.match(since)
    if found is None:
        raise invalid("since", "write how far back as 90s, 30m, 24h, 7d or 4w, or give since_ms")
    return int(time.time() * 1000) - int(found[1]) * _SECONDS[found[2]] * 1000


def _sequence(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not cursor.isdecimal() or len(cursor) > 18:
        raise not_ours()
    return int(cursor)


async def _report(control: Control, question: Callable[..., T], *arguments: Any) -> T:
    """Ask the usage database in a thread."""
    path: Path = control.store.usage_path
    return await asyncio.to_thread(question, path, *arguments)


async def _names(control: Control, actor: Actor, table: sa.Table) -> dict[str, str]:
    def look(work: Work) -> dict[str, str]:
        mine = table.c.organisation_id == work.organisation_id
        return {row["id"]: row["name"] for row in work.rows(sa.select(table.c.id, table.c.name).where(mine))}

    return await control.see(actor, look)


async def _named(control: Control, actor: Actor, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records with the names that their ids have now, beside the ids."""
    keys, projects = await _names(control, actor, t.api_keys), await _names(control, actor, t.projects)
    return [
        {**record, "key": keys.get(record["key_id"]), "project": projects.get(record["project_id"])}
        for record in records
    ]


ROUTES = Router(
    "/",
    route_handlers=[usage, list_requests, show_request, list_audit, verify_audit, show_snapshot],
    tags=["usage and state"],
)
