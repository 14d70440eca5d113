"""`/api/v1/join-tokens`: what lets machines enrol."""

from typing import Any

import msgspec
from litestar import Router, get, post
from litestar.datastructures import State
from litestar.params import FromPath, JSONBody

from potluck.admin.errors import OperationError
from potluck.admin.operations import join_tokens
from potluck.admin.operations.node_views import JoinTokenView, MadeJoinToken, join_token_view
from potluck.admin.operations.work import Work
from potluck.admin.rest.auth import AdminRequest, FromGateway, idempotency_of
from potluck.admin.rest.bodies import given
from potluck.admin.rest.deps import Deps
from potluck.admin.rest.enrolment import dialled_origin
from potluck.admin.rest.lists import DEFAULT_LIMIT, Cursor, Limit, Listed, list_page
from potluck.admin.rest.node_bodies import MakeJoinToken
from potluck.admin.rest.problems import described
from potluck.store import tables as t


@get("/join-tokens", responses=described())
async def list_join_tokens(
    request: AdminRequest, control: FromGateway, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Listed[JoinTokenView]:
    """List join tokens, without their secrets."""

    def look(work: Work) -> Listed[JoinTokenView]:
        return list_page(work, t.join_tokens, lambda row: join_token_view(row, work.now_ms), limit, cursor)

    return await control.see(request.user, look)


@post("/join-tokens", responses=described(409, 422))
async def make_join_token(
    request: AdminRequest, control: FromGateway, state: State, data: JSONBody[MakeJoinToken]
) -> MadeJoinToken:
    """Make a join token. Its `secret` is in this answer and never shown again."""
    values: dict[str, Any] = given(data)
    url = _url(request, state.deps)

    def make(work: Work) -> MadeJoinToken:
        return msgspec.structs.replace(join_tokens.create_join_token(work, **values), url=url)

    return await control.do(request.user, make, await idempotency_of(request, 201))


@get("/join-tokens/{ref:str}", responses=described())
async def show_join_token(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> JoinTokenView:
    """Show a join token, by id or name; a revoked one by id."""
    return await control.see(request.user, lambda work: join_tokens.show_join_token(work, ref))


@post("/join-tokens/{ref:str}/revoke", status_code=200, responses=described())
async def revoke_join_token(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> JoinTokenView:
    """No machine enrols by it any more; the nodes that did stay. Doing it again, by id, is no error."""
    return await control.do(request.user, lambda work: join_tokens.revoke_join_token(work, ref))


def _url(request: AdminRequest, deps: Deps) -> str:
    """Where machines join: the public address, else the one that the admin dialled; empty when neither is known."""
    if deps.public_url:
        return deps.public_url
    try:
        return dialled_origin(request, deps)
    except OperationError:
        return ""


ROUTES = Router(
    "/",
    route_handlers=[list_join_tokens, make_join_token, show_join_token, revoke_join_token],
    tags=["nodes and join tokens"],
)
