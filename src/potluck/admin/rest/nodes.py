"""`/api/v1/nodes`: enrolled machines, with what is seen of them now."""

from typing import Annotated, Any

from litestar import Router, delete, get, patch, put
from litestar.datastructures import State
from litestar.params import FromPath, JSONBody, QueryParameter

from potluck.admin.control import Control
from potluck.admin.operations import nodes
from potluck.admin.operations.node_views import NodeView, node_view
from potluck.admin.operations.work import Operation, Row
from potluck.admin.rest.auth import AdminRequest, FromGateway
from potluck.admin.rest.bodies import given
from potluck.admin.rest.deps import Deps
from potluck.admin.rest.lists import DEFAULT_LIMIT, Cursor, Limit, Listed, list_page
from potluck.admin.rest.node_bodies import ChangeNode, PriceNode
from potluck.admin.rest.problems import described
from potluck.store import tables as t


@get("/nodes", responses=described())
async def list_nodes(
    request: AdminRequest,
    control: FromGateway,
    state: State,
    revoked: Annotated[bool, QueryParameter(description="those that were revoked, too")] = False,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Listed[NodeView]:
    """List nodes, oldest first."""
    where = () if revoked else (t.nodes.c.revoked_at_ms.is_(None),)
    found = await control.see(request.user, lambda work: list_page(work, t.nodes, _row, limit, cursor, *where))
    return Listed([_shown(state, row) for row in found.data], found.next_cursor)


@get("/nodes/{ref:str}", responses=described())
async def show_node(request: AdminRequest, control: FromGateway, state: State, ref: FromPath[str]) -> NodeView:
    """Show a node, by id or name; a revoked one by id."""
    return _shown(state, await control.see(request.user, lambda work: nodes.show_node(work, ref)))


@patch("/nodes/{ref:str}", responses=described(409))
async def change_node(
    request: AdminRequest, control: FromGateway, state: State, ref: FromPath[str], data: JSONBody[ChangeNode]
) -> NodeView:
    """Change what is sent: name, tags, owner; drain it (`drained`), approve it (`approved`)."""
    values: dict[str, Any] = given(data)
    return await _changed(request, control, state, lambda work: nodes.update_node(work, ref, **values))


@put("/nodes/{ref:str}/prices", responses=described())
async def price_node(
    request: AdminRequest, control: FromGateway, state: State, ref: FromPath[str], data: JSONBody[PriceNode]
) -> NodeView:
    """Set what calls of a model there cost, inside the ceiling of its join token; null: as the node announces."""
    return await _changed(request, control, state, lambda work: nodes.price_node(work, ref, data.model, data.price))


@delete("/nodes/{ref:str}", responses=described())
async def revoke_node(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> None:
    """Revoke a node: its links drop at once, its key is void for ever. Doing it again, by id, is no error."""
    await control.do(request.user, lambda work: nodes.revoke_node(work, ref))


async def _changed(request: AdminRequest, control: Control, state: State, operation: Operation[Row]) -> NodeView:
    return _shown(state, await control.do(request.user, operation))


def _shown(state: State, row: Row) -> NodeView:
    deps: Deps = state.deps
    return node_view(row, deps.read_node(row["id"]) if deps.read_node else None)


def _row(row: Row) -> Row:
    return row


ROUTES = Router(
    "/",
    route_handlers=[list_nodes, show_node, change_node, price_node, revoke_node],
    tags=["nodes and join tokens"],
)
