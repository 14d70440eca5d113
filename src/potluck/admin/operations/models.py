"""Declared models, their targets, and the operator's prices."""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from potluck.admin.errors import invalid, not_found
from potluck.admin.operations.names import check_aliases, names_kept
from potluck.admin.operations.target_rows import ALL_TARGETS, find_target, place_of_target, table_of, targets_of
from potluck.admin.operations.views import (
    DeclaredModelView,
    PriceView,
    TargetView,
    model_view,
    price_view,
    target_view,
)
from potluck.admin.operations.work import Row, Work
from potluck.config.document import NODES_OWN, PriceEntry, TargetEntry
from potluck.model.ids import new_id
from potluck.model.price import Price
from potluck.model.resources import Capability
from potluck.store import tables as t

DEFAULT_CAPABILITIES: tuple[Capability, ...] = ("chat", "completions", "embeddings")


def create_model(
    work: Work,
    name: str,
    targets: Iterable[TargetEntry] = (),
    *,
    placement: Literal["any", "own"] = "any",
    aliases: tuple[str, ...] = (),
) -> DeclaredModelView:
    """Declare a public name and its targets, in order. Raises 400, 404 (provider), 409 (a name taken)."""
    taken = f"there is a model {name!r} already: choose another name, or add targets to that one"
    check_aliases(work, aliases)
    with names_kept(work):
        row = work.insert(
            t.models, taken, id=new_id("mdl"), name=name, placement=placement, aliases=_names_text(aliases)
        )
    work.touch(models=True)
    work.audit("model.create", row["id"], name, placement=placement, aliases=aliases)
    for position, entry in enumerate(targets):
        create_target(work, row["id"], entry, position=position)
    return view_model(work, row)


def update_model(
    work: Work,
    ref: str,
    *,
    name: str | None = None,
    placement: Literal["any", "own"] | None = None,
    aliases: tuple[str, ...] | None = None,
    targets: Iterable[TargetEntry] | None = None,
) -> DeclaredModelView:
    """Change what is given; `targets` replaces the list (a target that stays keeps its id). Raises 400, 404, 409."""
    row = find_model(work, ref)
    given = {"name": name, "placement": placement, "aliases": None if aliases is None else _names_text(aliases)}
    values = {member: value for member, value in given.items() if value is not None}
    have = msgspec.json.decode(row["aliases"], type=tuple[str, ...])
    check_aliases(work, [alias for alias in aliases or () if alias not in have])
    with names_kept(work):
        changed = work.update(t.models, row, f"there is a model {name!r} already: choose another name", **values)
    if changed is not row:
        work.touch(models=True)
        work.audit("model.update", row["id"], changed["name"], **values)
    if targets is not None:
        targets = tuple(targets)
        if not targets:
            raise invalid(
                "targets",
                f"model {row['name']!r} would have no target left and serve nothing: add another target, or remove the "
                "model",
            )
        replace_targets(work, changed, targets)
    return view_model(work, changed)


def delete_model(work: Work, ref: str) -> None:
    """Remove a declared model with its targets. Raises 404, 409."""
    row = find_model(work, ref)
    with names_kept(work):
        work.delete(t.models, row)
    work.touch(models=True)
    work.audit("model.delete", row["id"], row["name"])


def show_model(work: Work, ref: str) -> DeclaredModelView:
    return view_model(work, work.find(t.models, "model", ref))


def find_model(work: Work, ref: str) -> Row:
    """A declared model that the actor may change. Raises 404, 409."""
    row = work.find(t.models, "model", ref)
    work.check_writable("model", row)
    return row


def create_target(work: Work, model: str, entry: TargetEntry, *, position: int | None = None) -> TargetView:
    """Add a place to a declared model, last unless told. Raises 400, 404, 409."""
    owner = find_model(work, model)
    table, where = _place_of(work, entry)
    if position is None:
        last = sa.select(sa.func.max(ALL_TARGETS.c.position)).where(ALL_TARGETS.c.model_id == owner["id"])
        highest = work.connection.execute(last).scalar()
        position = 0 if highest is None else highest + 1
    target_id = new_id("tgt")
    work.insert(
        table,
        f"model {owner['name']!r} has the target {entry.target!r} already",
        id=target_id,
        model_id=owner["id"],
        position=position,
        **where,
        **_target_members(work, entry),
    )
    work.touch(models=True)
    work.audit("target.create", target_id, entry.target, model=owner["name"], position=position)
    return show_target(work, target_id)


def update_target(
    work: Work,
    target_id: str,
    *,
    position: int | None = None,
    price: PriceEntry | msgspec.UnsetType | None = msgspec.UNSET,
    capabilities: tuple[Capability, ...] | None = None,
    context_tokens: int | msgspec.UnsetType | None = msgspec.UNSET,
    weight: int | None = None,
    priority: int | msgspec.UnsetType | None = msgspec.UNSET,
    slots: int | msgspec.UnsetType | None = msgspec.UNSET,
) -> TargetView:
    """Change what is given; None takes a price, priority or number of slots away. Raises 400, 404, 409."""
    row = find_target(work, target_id)
    work.check_writable("target", row)
    values: dict[str, Any] = {}
    if position is not None:
        values["position"] = position
    if price is not msgspec.UNSET:
        values["price"] = _price_text(work, price)
    if capabilities is not None:
        values["capabilities"] = msgspec.json.encode(capabilities).decode()
    if weight is not None:
        values["weight"] = weight
    given = {"context_tokens": context_tokens, "priority": priority, "slots": slots}
    values |= {member: value for member, value in given.items() if value is not msgspec.UNSET}
    if row["node"] is not None and (wrong := [member for member in values if member in NODES_OWN]):
        raise invalid(wrong[0], NODES_OWN[wrong[0]])
    changed = work.update(table_of(row), row, **values)
    view = show_target(work, target_id)
    if changed is not row:
        work.touch(models=True)
        work.audit("target.update", target_id, view.target, model=view.model, members=sorted(values))
    return view


def delete_target(work: Work, target_id: str) -> None:
    """Raises 404, 409."""
    row = find_target(work, target_id)
    work.check_writable("target", row)
    view = view_target(work, row)
    work.delete(table_of(row), row)
    work.touch(models=True)
    work.audit("target.delete", target_id, view.target, model=view.model)


def replace_targets(work: Work, model: Row, entries: Iterable[TargetEntry]) -> None:
    """Make the model's targets those, in that order."""
    old = {(row["provider_id"], row["node"], row["upstream_model"]): row for row in targets_of(work, model)}
    for position, entry in enumerate(entries):
        table, where = _place_of(work, entry)
        row = old.pop((where.get("provider_id"), where.get("node"), entry.upstream_model), None)
        if row is None:
            create_target(work, model["id"], entry, position=position)
            continue
        values = _target_members(work, entry)
        if row["price"] is not None and entry.price is not None:
            have = PriceEntry.from_price(msgspec.json.decode(row["price"], type=Price))
            if have == entry.price:
                values["price"] = row["price"]  # the same price keeps its version
        changed = work.update(table, row, position=position, **values)
        if changed is not row:
            work.touch(models=True)
            work.audit("target.update", row["id"], entry.target, model=model["name"])
    for row in old.values():
        work.delete(table_of(row), row)
        work.touch(models=True)
        work.audit("target.delete", row["id"], row["upstream_model"], model=model["name"])


def set_price(work: Work, model: str, price: PriceEntry) -> PriceView:
    """The operator's price for a public name, an upstream model, or `provider/upstream-model`; replaces the last.

    The same price again changes nothing. Raises 409.
    """
    mine = t.prices.c.organisation_id == work.organisation_id
    row = work.row(sa.select(t.prices).where(mine, t.prices.c.model == model))
    text = _price_text(work, price)
    if row is None:
        row = work.insert(t.prices, "", id=new_id("prc"), model=model, price=text)
    else:
        work.check_writable("price", row)
        if PriceEntry.from_price(msgspec.json.decode(row["price"], type=Price)) == price:
            text = row["price"]  # the same price keeps its version
        changed = work.update(t.prices, row, price=text)
        if changed is row:
            return price_view(row)
        row = changed
    work.touch(prices=True)
    work.audit("price.set", row["id"], model, input=price.input, output=price.output)
    return price_view(row)


def delete_price(work: Work, ref: str) -> None:
    """Take the operator's price away, by its id or the name it was set for. Raises 404, 409."""
    mine = t.prices.c.organisation_id == work.organisation_id
    row = work.row(sa.select(t.prices).where(mine, sa.or_(t.prices.c.id == ref, t.prices.c.model == ref)))
    if row is None:
        raise not_found("price", ref)
    work.check_writable("price", row)
    work.delete(t.prices, row)
    work.touch(prices=True)
    work.audit("price.delete", row["id"], row["model"])


def show_target(work: Work, target_id: str) -> TargetView:
    return view_target(work, find_target(work, target_id))


def view_target(work: Work, row: Row) -> TargetView:
    model = work.find(t.models, "model", row["model_id"])
    providers = {}
    if row["provider_id"] is not None:
        providers[row["provider_id"]] = work.find(t.providers, "provider", row["provider_id"])["name"]
    return target_view(row, model["name"], place_of_target(row, providers))


def view_model(work: Work, row: Row) -> DeclaredModelView:
    return model_view(row, [view_target(work, each) for each in targets_of(work, row)])


def _place_of(work: Work, entry: TargetEntry) -> tuple[sa.Table, dict[str, Any]]:
    """The table for a target, and the columns of it that say where it is. Raises 400, 404 (provider)."""
    if wrong := entry.check():
        member, message = next(iter(wrong.items()))
        raise invalid(member, message)
    if entry.node:
        return t.node_targets, {"node": entry.node, "upstream_model": entry.upstream_model}
    provider = work.find(t.providers, "provider", entry.provider)
    return t.targets, {"provider_id": provider["id"], "upstream_model": entry.upstream_model}


def _target_members(work: Work, entry: TargetEntry) -> dict[str, Any]:
    shares = {"weight": entry.weight, "priority": entry.priority}
    if entry.node:
        return shares
    return shares | {
        "price": _price_text(work, entry.price),
        "capabilities": msgspec.json.encode(entry.capabilities or DEFAULT_CAPABILITIES).decode(),
        "context_tokens": entry.context_tokens,
        "slots": entry.slots,
    }


def _names_text(names: tuple[str, ...]) -> str:
    return msgspec.json.encode(names).decode()


def _price_text(work: Work, price: PriceEntry | None) -> str | None:
    """A written price as stored; its version is the moment that it was written, for every record that uses it."""
    if price is None:
        return None
    return msgspec.json.encode(price.to_price(f"operator:{work.now_ms}", "operator")).decode()
