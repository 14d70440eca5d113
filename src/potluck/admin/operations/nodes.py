"""Enrolled machines: approve, drain, price, rename, revoke; and what they announce and when they were last seen.

Rules
- A revoked node is so for ever: its name is free again, its keys are not.
- Revoking is never refused: a route that names the node is left with a name that leads nowhere.
- What a node announces is audited where its models differ, not with every revision.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from potluck.admin.errors import conflict, invalid
from potluck.admin.operations.names import names_kept
from potluck.admin.operations.node_views import NodePriceEntry, max_price_of, offer_of, prices_of
from potluck.admin.operations.work import Actor, Row, Work, bump_version
from potluck.identity.vault import Vault
from potluck.model.node import NodePrice, Offer
from potluck.snapshot import Change
from potluck.store import tables as t

EPHEMERAL_KEPT_S = 3600
"""an ephemeral node is revoked so long after it was last seen"""
MAX_PRICED_MODELS = 1000
NAMES_AUDITED = 50
"""models that one entry of the audit log lists at most"""
OWNER_PREFIX = "project:"

_OFFERED = msgspec.json.Encoder(order="deterministic")


def show_node(work: Work, ref: str) -> Row:
    """One node: by id also when it is revoked, by name only while it is not. Raises 404."""
    mine = t.nodes.c.organisation_id == work.organisation_id
    row = work.row(sa.select(t.nodes).where(mine, t.nodes.c.id == ref))
    return row or find_node(work, ref)


def find_node(work: Work, ref: str) -> Row:
    """A node that is not revoked, by id or name. Raises 404."""
    return work.find(t.nodes, "node", ref, t.nodes.c.revoked_at_ms.is_(None))


def update_node(
    work: Work,
    ref: str,
    *,
    name: str | None = None,
    tags: Sequence[str] | None = None,
    owner: str | None = None,
    drained: bool | None = None,
    approved: bool | None = None,
) -> Row:
    """Change what is given; `approved=False` takes its work away until it is approved again. Raises 400, 404, 409."""
    row = find_node(work, ref)
    values: dict[str, Any] = {}
    if name is not None:
        values["name"] = name
    if tags is not None:
        values["tags"] = _json(tags)
    if owner is not None:
        check_owner(work, owner)
        values["owner"] = owner
    if drained is not None:
        values["drained"] = drained
    if approved is not None:
        values["state"] = "approved" if approved else "pending"
    taken = f"there is a node {name!r} already: choose another name"
    if values.get("name", row["name"]) != row["name"]:
        with names_kept(work):
            changed = work.update(t.nodes, row, taken, **values)
    else:
        changed = work.update(t.nodes, row, taken, **values)
    if changed is not row:
        work.touch(nodes=[row["id"]])
        said = {member: value for member, value in values.items() if row[member] != value}
        work.audit("node.update", row["id"], changed["name"], **said)
    return changed


def price_node(work: Work, ref: str, model: str, price: NodePriceEntry | None) -> Row:
    """Set what calls of a model there cost, inside the token's ceiling; None: as announced. Raises 400, 404."""
    row = find_node(work, ref)
    prices = prices_of(row)
    if price is None:
        prices.pop(model, None)
    else:
        check_ceiling(price, ceiling_of(row))
        prices[model] = price.to_price()
        if len(prices) > MAX_PRICED_MODELS:
            raise invalid("model", f"a node has prices for at most {MAX_PRICED_MODELS} models: clear some")
    changed = work.update(t.nodes, row, prices=_json(prices))
    if changed is not row:
        work.touch(nodes=[row["id"]])
        said = None if price is None else msgspec.to_builtins(price)
        work.audit("node.price", row["id"], row["name"], model=model, price=said)
    return changed


def revoke_node(work: Work, ref: str) -> None:
    """End a node for ever; again, by id, is no error. Raises 404."""
    row = show_node(work, ref)
    if row["revoked_at_ms"] is None:
        revoke_row(work, row, "node.revoke")


def revoke_row(work: Work, row: Row, action: str) -> None:
    """What revoking is, whoever wants it: the operator, the node itself, or its time."""
    # both keys stay written down, so that neither enrols again
    work.update(t.nodes, row, state="revoked", revoked_at_ms=work.now_ms, previous_until_ms=None)
    work.touch(nodes=[row["id"]])
    work.audit(action, row["id"], row["name"])


def store_offer(work: Work, node_id: str, offer: Offer, agent: str) -> bool:
    """Keep what a node announced, cut to its `max_models`; whether anything differs from before. Raises 404.

    One without any model has nothing now, which says nothing of what it is for: what is stored stays.
    """
    row = find_node(work, node_id)
    if row["max_models"] is not None:
        offer = msgspec.structs.replace(offer, models=offer.models[: row["max_models"]])
    before = offer_of(row)
    if before.models and not offer.models:
        return False
    changed = work.update(t.nodes, row, offer=_OFFERED.encode(offer).decode(), agent=agent)
    if changed is row:
        return False
    work.touch(nodes=[node_id])
    old = {(model.engine, model.name): model for model in before.models}
    new = {(model.engine, model.name): model for model in offer.models}
    if old != new:
        work.audit(
            "node.models",
            node_id,
            row["name"],
            models=len(new),
            new=_listed(new.keys() - old.keys()),
            gone=_listed(old.keys() - new.keys()),
            changed=_listed({each for each in new.keys() & old.keys() if new[each] != old[each]}),
        )
    return True


def seen(node_ids: Iterable[str], at_ms: int) -> Callable[[sa.Connection], None]:
    """For the store's writer: these nodes were connected at that time. No version, no audit: nothing is decided."""
    rows = [{"node_id": node_id} for node_id in node_ids]

    def write(connection: sa.Connection) -> None:
        if rows:
            statement = sa.update(t.nodes).where(t.nodes.c.id == sa.bindparam("node_id")).values(last_seen_at_ms=at_ms)
            connection.execute(statement, rows)

    return write


def forget_ephemeral(vault: Vault) -> Callable[[sa.Connection], Change]:
    """For the store's writer: revoke the ephemeral nodes of all organisations that were not seen for long enough."""

    def write(connection: sa.Connection) -> Change:
        change, audited = Change(), 0
        work = Work(connection, vault, Actor("upkeep", "upkeep", ""))
        last = sa.func.coalesce(t.nodes.c.last_seen_at_ms, t.nodes.c.created_at_ms)
        too_long = last < work.now_ms - EPHEMERAL_KEPT_S * 1000
        gone = sa.select(t.nodes).where(t.nodes.c.ephemeral, t.nodes.c.revoked_at_ms.is_(None), too_long)
        for row in work.rows(gone):
            work.actor = Actor("upkeep", "upkeep", row["organisation_id"])
            revoke_row(work, row, "node.forget")
            change, audited = work.change, work.audited
        return msgspec.structs.replace(change, version=bump_version(connection)) if audited else change

    return write


def check_owner(work: Work, owner: str) -> None:
    """Raises 400 for what is no owner, 404 when the project is not there."""
    if not owner:
        return
    if not owner.startswith(OWNER_PREFIX):
        raise invalid("owner", "an owner is written project:NAME; empty: the whole organisation")
    work.find(t.projects, "project", owner.removeprefix(OWNER_PREFIX), t.projects.c.name == owner[len(OWNER_PREFIX) :])


def follow_project(work: Work, old: str, new: str) -> None:
    """A project has another name now: what it owns says so."""
    for table in (t.nodes, t.join_tokens):
        for row in work.rows(_owned(work, table, old)):
            work.update(table, row, owner=f"{OWNER_PREFIX}{new}")
            if table is t.nodes:
                work.touch(nodes=[row["id"]])


def check_unowned(work: Work, project: str) -> None:
    """Raises 409 while nodes belong to a project, or may come to by a join token."""
    if row := work.row(_owned(work, t.nodes, project)):
        raise conflict(f"project {project!r} owns node {row['name']!r}: give that another owner first", "in_use")
    tokens = t.join_tokens.c
    good = tokens.expires_at_ms > work.now_ms, sa.or_(tokens.uses_left.is_(None), tokens.uses_left > 0)
    if row := work.row(_owned(work, t.join_tokens, project).where(*good)):
        raise conflict(
            f"machines may join for project {project!r} by join token {row['name']!r}: revoke that first", "in_use"
        )


def ceiling_of(row: Row) -> NodePrice | None:
    """The most that calls of a node may cost; None: no limit. Own use is free unless its token said otherwise."""
    return max_price_of(row) or (None if row["community"] else NodePrice(0, 0))


def check_ceiling(price: NodePriceEntry, ceiling: NodePrice | None) -> None:
    """Raises 400 with the number when a price is above it."""
    if ceiling is None:
        return
    wanted, most = price.to_price(), NodePriceEntry.from_price(ceiling)
    for part in ("input", "output"):
        if getattr(wanted, part) > getattr(ceiling, part):
            limit = f"{getattr(most, part):.9f}".rstrip("0").rstrip(".")
            raise invalid(
                f"price.{part}", f"the join token of this node allows at most {limit} USD per million {part} tokens"
            )


def _owned(work: Work, table: sa.Table, project: str) -> sa.Select[Any]:
    mine = table.c.organisation_id == work.organisation_id
    return sa.select(table).where(mine, table.c.revoked_at_ms.is_(None), table.c.owner == f"{OWNER_PREFIX}{project}")


def _listed(models: Iterable[tuple[str, str]]) -> list[str]:
    return sorted(f"{engine}/{name}" for engine, name in models)[:NAMES_AUDITED]


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
