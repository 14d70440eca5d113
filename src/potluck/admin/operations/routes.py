"""Routing rules: which requests they take, how a target is chosen, where to when the model's own targets fail."""

from typing import Any

import msgspec
import sqlalchemy as sa

from potluck.admin.errors import OperationError, invalid
from potluck.admin.operations.names import PublicNames, check_fallbacks, check_filters, names_kept, nearest
from potluck.admin.operations.views import MadeRoute, RouteView, route_entry, route_view
from potluck.admin.operations.work import Row, Work
from potluck.config.routing import MatchEntry, RouteEntry
from potluck.model.ids import new_id
from potluck.store import tables as t


def create_route(work: Work, entry: RouteEntry, *, position: int | None = None) -> MadeRoute:
    """Make a rule, the last one unless told. Raises 400, 404 (project, key, fallback), 409 (name taken)."""
    _check(work, entry, RouteEntry(name=entry.name))
    if position is None:
        mine = t.routes.c.organisation_id == work.organisation_id
        last = work.connection.execute(sa.select(sa.func.max(t.routes.c.position)).where(mine)).scalar()
        position = 0 if last is None else last + 1
    with names_kept(work):
        row = work.insert(
            t.routes,
            f"there is a route {entry.name!r} already: choose another name, or change that one",
            id=new_id("rte"),
            position=position,
            **_columns(entry),
        )
    work.touch(rules=True)
    work.audit("route.create", row["id"], entry.name, strategy=entry.strategy, position=position)
    return _made(work, row)


def update_route(work: Work, ref: str, entry: RouteEntry, *, position: int | None = None) -> MadeRoute:
    """Make a rule what the entry says, its name too. Raises 400, 404, 409."""
    row = find_route(work, ref)
    _check(work, entry, route_entry(row))
    values = _columns(entry) | ({} if position is None else {"position": position})
    with names_kept(work):
        taken = f"there is a route {entry.name!r} already: choose another name"
        changed = work.update(t.routes, row, taken, **values)
    if changed is not row:
        work.touch(rules=True)
        members = [member for member in values if changed[member] != row[member]]
        work.audit("route.update", row["id"], changed["name"], members=members)
    return _made(work, changed)


def delete_route(work: Work, ref: str) -> None:
    """Raises 404, 409."""
    row = find_route(work, ref)
    work.delete(t.routes, row)
    work.touch(rules=True)
    work.audit("route.delete", row["id"], row["name"])


def show_route(work: Work, ref: str) -> RouteView:
    return route_view(work.find(t.routes, "route", ref))


def find_route(work: Work, ref: str) -> Row:
    """A route that the actor may change. Raises 404, 409."""
    row = work.find(t.routes, "route", ref)
    work.check_writable("route", row)
    return row


def _made(work: Work, row: Row) -> MadeRoute:
    """The rule with what it names in vain: a rule for a model may be there before the model is."""
    view = route_view(row)
    warnings: list[str] = []
    if work.actor.origin != "file":  # a file is looked at as a whole
        names = PublicNames(work)
        warnings = [wrong for each in view.match.models if (wrong := names.unmatched(each))]
    return MadeRoute(**msgspec.structs.asdict(view), warnings=warnings)


def _check(work: Work, entry: RouteEntry, before: RouteEntry) -> None:
    """What is new in it has to refer to something; what was there may have lost it since, as lists of providers do."""
    for member, message in entry.check().items():
        raise invalid(member, message)
    check_fallbacks(work, [each for each in entry.fallback if each not in before.fallback])
    for member in ("only", "ignore"):
        said, had = getattr(entry.constraints, member) or (), getattr(before.constraints, member) or ()
        check_filters(work, member, [each for each in said if each not in had])
    live = t.api_keys.c.revoked_at_ms.is_(None)
    _check_match(work, "projects", "project", t.projects, entry.match, before.match)
    _check_match(work, "keys", "key", t.api_keys, entry.match, before.match, live)


def _check_match(
    work: Work,
    member: str,
    kind: str,
    table: sa.Table,
    match: MatchEntry,
    before: MatchEntry,
    *also: sa.ColumnElement[bool],
) -> None:
    new = [name for name in getattr(match, member) if "*" not in name and name not in getattr(before, member)]
    if not new:
        return
    mine = table.c.organisation_id == work.organisation_id
    known = {str(row["name"]) for row in work.rows(sa.select(table.c.name).where(mine, *also))}
    for name in new:
        if name not in known:
            detail = f"there is no {kind} {name!r}{nearest(name, known)}"
            raise OperationError(404, "not_found", detail, where=f"match.{member}")


def _columns(entry: RouteEntry) -> dict[str, Any]:
    """The entry as its row has it."""
    affinity = entry.to_affinity()
    return {
        "name": entry.name,
        "match": _json(entry.match.to_match()),
        "strategy": entry.strategy,
        "split_by": entry.split or "",
        "constraints": _json(entry.constraints.to_constraints()),
        "fallback": _json(entry.fallback),
        "timeouts": _json(entry.timeouts.to_timeouts()),
        "hedge": None if entry.hedge is None else _json(entry.hedge.to_hedge()),
        "affinity": None if affinity is None else _json(affinity),
    }


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
