"""`/api/v1/routes`: routing rules, with the members that they have in a file."""

import msgspec
from litestar import Router, delete, get, patch, post
from litestar.params import FromPath, JSONBody

from potluck.admin.operations import routes
from potluck.admin.operations.views import MadeRoute, RouteView, route_entry, route_view
from potluck.admin.operations.work import Work
from potluck.admin.rest.auth import AdminRequest, FromGateway, idempotency_of
from potluck.admin.rest.bodies import ChangeRoute, MakeRoute, merged
from potluck.admin.rest.lists import DEFAULT_LIMIT, Cursor, Limit, Listed, list_page
from potluck.admin.rest.problems import described
from potluck.store import tables as t


@get("/routes", responses=described())
async def list_routes(
    request: AdminRequest, control: FromGateway, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Listed[RouteView]:
    """List routes, oldest first. They are tried by `position`, lowest first."""
    return await control.see(request.user, lambda work: list_page(work, t.routes, route_view, limit, cursor))


@post("/routes", responses=described(409, 422))
async def make_route(request: AdminRequest, control: FromGateway, data: JSONBody[MakeRoute]) -> MadeRoute:
    """Make a routing rule; the last one unless `position` says otherwise."""
    return await control.do(
        request.user,
        lambda work: routes.create_route(work, data, position=data.position),
        await idempotency_of(request, 201),
    )


@get("/routes/{ref:str}", responses=described())
async def show_route(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> RouteView:
    """Show a route, by id or name."""
    return await control.see(request.user, lambda work: routes.show_route(work, ref))


@patch("/routes/{ref:str}", responses=described(409))
async def change_route(
    request: AdminRequest, control: FromGateway, ref: FromPath[str], data: JSONBody[ChangeRoute]
) -> MadeRoute:
    """Change what is sent, member by member, inside objects too; null gives a member its default."""
    position = None if data.position is msgspec.UNSET else data.position

    def change(work: Work) -> MadeRoute:
        row = routes.find_route(work, ref)
        return routes.update_route(work, row["id"], merged(route_entry(row), data), position=position)

    return await control.do(request.user, change)


@delete("/routes/{ref:str}", responses=described(409))
async def delete_route(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> None:
    """Remove a route."""
    await control.do(request.user, lambda work: routes.delete_route(work, ref))


ROUTES = Router("/", route_handlers=[list_routes, make_route, show_route, change_route, delete_route], tags=["routes"])
