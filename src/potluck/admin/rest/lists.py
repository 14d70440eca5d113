"""Lists in pages: `?limit&cursor` → `{"data": [...], "next_cursor": …}`, oldest first, by id (ids sort by time)."""

from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import sqlalchemy as sa
from litestar.params import QueryParameter

from potluck.admin.operations.work import Row, Work

T = TypeVar("T")

DEFAULT_LIMIT = 50
MAX_LIMIT = 1000

Limit = Annotated[int, QueryParameter(ge=1, le=MAX_LIMIT, description="objects in one page")]
Cursor = Annotated[
    str | None,
    QueryParameter(max_length=300, description="`next_cursor` of the page before", pattern=r"^[\x21-\x7e]*$"),
]


class Listed(msgspec.Struct, Generic[T], frozen=True):
    """One page. `next_cursor` is null on the last."""

    data: list[T]
    next_cursor: str | None


def list_page(
    work: Work,
    table: sa.Table,
    view: Callable[[Row], T],
    limit: int,
    cursor: str | None,
    *where: sa.ColumnElement[bool],
) -> Listed[T]:
    """A page of the organisation's own rows. An unknown cursor is a place like any other."""
    conditions: list[Any] = [table.c.organisation_id == work.organisation_id, *where]
    if cursor:
        conditions.append(table.c.id > cursor)
    rows = work.rows(sa.select(table).where(*conditions).order_by(table.c.id).limit(limit + 1))
    more = len(rows) > limit
    return Listed([view(row) for row in rows[:limit]], rows[limit - 1]["id"] if more else None)
