"""Targets of declared models, those at providers and those on nodes: read as one table, written as two.

Rule: a row of `ALL_TARGETS` on nodes has their name or pattern in `node`, and null where a target at a provider has its
provider, price, context and slots; of a provider, `node` is null.
"""

from typing import Any

import sqlalchemy as sa

from potluck.admin.errors import not_found
from potluck.admin.operations.work import Row, Work
from potluck.model.node import NODE_PREFIX
from potluck.store import tables as t

_ELSEWHERE = {"capabilities": sa.literal("[]")}
"""what is not null of a target on nodes: a text that says that nothing was said"""


def _on_nodes(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    if column.name in t.node_targets.c:
        own: sa.ColumnElement[Any] = t.node_targets.c[column.name]
        return own
    return _ELSEWHERE.get(column.name, sa.null()).label(column.name)


ALL_TARGETS = sa.union_all(
    sa.select(*t.targets.c, sa.null().label("node")),
    sa.select(*[_on_nodes(column) for column in t.targets.c], t.node_targets.c.node),
).subquery("targets")


def find_target(work: Work, target_id: str) -> Row:
    """A target of the organisation, by id. Raises 404."""
    mine = ALL_TARGETS.c.organisation_id == work.organisation_id
    row = work.row(sa.select(ALL_TARGETS).where(mine, ALL_TARGETS.c.id == target_id))
    if row is None:
        raise not_found("target", target_id)
    return row


def targets_of(work: Work, model: Row) -> list[Row]:
    """A model's targets, in order."""
    here = ALL_TARGETS.c.model_id == model["id"]
    in_order = (ALL_TARGETS.c.position, ALL_TARGETS.c.created_at_ms, ALL_TARGETS.c.id)
    return work.rows(sa.select(ALL_TARGETS).where(here).order_by(*in_order))


def table_of(row: Row) -> sa.Table:
    """The table that the row is in."""
    return t.targets if row["node"] is None else t.node_targets


def place_of_target(row: Row, providers: dict[str, str]) -> str:
    """`openai`, or `node:lab-*`; `providers`: names by id."""
    return NODE_PREFIX + row["node"] if row["node"] is not None else providers[row["provider_id"]]
