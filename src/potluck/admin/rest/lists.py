"""Lists in pages: `?limit&cursor` → `{"data": [...], "next_cursor": …}`, oldest first, by id (ids sort by time)."""

from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import sqlalchemy as sa
from litestar.params import QueryParameter

from potluck.admin.errors import OperationError, invalid
from potluck.admin.operations.work import Row, Work

T = TypeVar("T")

DEFAULT_LIMIT = 50
MAX_LIMIT = 1000

Limit = Annotated[int, QueryParameter(ge=1, le=MAX_LIMIT, description="objects in one page")]
Cursor = Annotated[
    str | None,
    QueryParameter(max_length=300, description="`next_cursor` of the page before", pattern=r"^[\x21-\x7e]*$(?!\n)"),
]


ID_PREFIXES = {
    "api_keys": "key",
    "projects": "prj",
    "providers": "prv",
    "credentials": "crd",
    "models": "mdl",
    "targets": "tgt",
    "prices": "prc",
    "routes": "rte",
    "join_tokens": "jtk",
    "nodes": "node",
}


class Listed(msgspec.Struct, Generic[T], frozen=True):
    """One page. `next_cursor` is null on the last."""

    data: list[T]
    next_cursor: str | None


def list_page(
    work: Work,
    table: sa.Table | sa.Subquery,
    view: Callable[[Row], T],
    limit: int,
    cursor: str | None,
    *where: sa.ColumnElement[bool],
) -> Listed[T]:
    """A page of the organisation's own rows. Raises 400 for a cursor that no list of them gives.

    The row that a cursor names may be gone since: then it is a place like any other.
    """
    conditions: list[Any] = [table.c.organisation_id == work.organisation_id, *where]
    if cursor is not None:
        if not _is_id(cursor, ID_PREFIXES[table.name]):
            raise not_ours()
        conditions.append(table.c.id > cursor)
    rows = work.rows(sa.select(table).where(*conditions).order_by(table.c.id).limit(limit + 1))
    more = len(rows) > limit
    return Listed([view(row) for row in rows[:limit]], rows[limit - 1]["id"] if more else None)


def not_ours() -> OperationError:
    """400: a cursor that was made up."""
    return invalid("cursor", "the cursor is not one that this list gave: leave it out to begin anew")


def _is_id(text: str, prefix: str) -> bool:
    kind, _, rest = text.partition("_")
    return kind == prefix and len(rest) == 21 and rest.isascii() and rest.isalnum() and rest == rest.lower()
