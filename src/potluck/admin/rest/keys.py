"""`/api/v1/keys` and `/api/v1/projects`."""

from typing import Any

import sqlalchemy as sa
from litestar import Router, delete, get, patch, post
from litestar.params import FromPath, JSONBody

from potluck.admin.operations import keys, projects
from potluck.admin.operations.views import KeyView, MadeKey, ProjectView, key_view, project_view
from potluck.admin.operations.work import Row, Work
from potluck.admin.rest.auth import AdminRequest, FromGateway, idempotency_of
from potluck.admin.rest.bodies import ChangeKey, ChangeProject, MakeKey, MakeProject, RotateKey, given
from potluck.admin.rest.lists import DEFAULT_LIMIT, Cursor, Limit, Listed, list_page
from potluck.admin.rest.problems import described
from potluck.store import tables as t


@get("/keys", responses=described())
async def list_keys(
    request: AdminRequest, control: FromGateway, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Listed[KeyView]:
    """List API keys, without their secrets."""

    def look(work: Work) -> Listed[KeyView]:
        mine = t.projects.c.organisation_id == work.organisation_id
        names = {row["id"]: row["name"] for row in work.rows(sa.select(t.projects).where(mine))}

        def view(row: Row) -> KeyView:
            return key_view(row, names[row["project_id"]], work.now_ms)

        return list_page(work, t.api_keys, view, limit, cursor)

    return await control.see(request.user, look)


@post("/keys", responses=described(409, 422))
async def make_key(request: AdminRequest, control: FromGateway, data: JSONBody[MakeKey]) -> MadeKey:
    """Make an API key. Its `secret` is in this answer and never shown again."""
    values: dict[str, Any] = given(data)
    name = values.pop("name")
    return await control.do(
        request.user, lambda work: keys.create_key(work, name, **values), await idempotency_of(request, 201)
    )


@get("/keys/{ref:str}", responses=described())
async def show_key(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> KeyView:
    """Show a key, by id or name; a revoked one by id."""
    return await control.see(request.user, lambda work: keys.show_key(work, ref))


@patch("/keys/{ref:str}", responses=described(409))
async def change_key(
    request: AdminRequest, control: FromGateway, ref: FromPath[str], data: JSONBody[ChangeKey]
) -> KeyView:
    """Change what is sent; null for `expires_at_ms` makes it last."""
    values: dict[str, Any] = given(data)
    return await control.do(request.user, lambda work: keys.update_key(work, ref, **values))


@post("/keys/{ref:str}/rotate", status_code=200, responses=described(409, 422))
async def rotate_key(
    request: AdminRequest, control: FromGateway, ref: FromPath[str], data: JSONBody[RotateKey | None] = None
) -> MadeKey:
    """Give a key a new secret; the old one stays good for `overlap_s` seconds. The key's id and name stay."""
    overlap_s = data.overlap_s if data else 0
    return await control.do(
        request.user,
        lambda work: keys.rotate_key(work, ref, overlap_s=overlap_s),
        await idempotency_of(request, 200),
    )


@post("/keys/{ref:str}/revoke", status_code=200, responses=described(409))
async def revoke_key(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> KeyView:
    """End a key at once; streams that already run finish. Doing it again, by id, is no error."""
    return await control.do(request.user, lambda work: keys.revoke_key(work, ref))


@get("/projects", responses=described())
async def list_projects(
    request: AdminRequest, control: FromGateway, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Listed[ProjectView]:
    """List projects."""
    return await control.see(request.user, lambda work: list_page(work, t.projects, project_view, limit, cursor))


@post("/projects", responses=described(409, 422))
async def make_project(request: AdminRequest, control: FromGateway, data: JSONBody[MakeProject]) -> ProjectView:
    """Make a project, which keys can belong to."""
    return await control.do(
        request.user,
        lambda work: projects.create_project(work, data.name, data_class=data.data_class),
        await idempotency_of(request, 201),
    )


@get("/projects/{ref:str}", responses=described())
async def show_project(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> ProjectView:
    """Show a project, by id or name."""
    return await control.see(request.user, lambda work: projects.show_project(work, ref))


@patch("/projects/{ref:str}", responses=described(409))
async def change_project(
    request: AdminRequest, control: FromGateway, ref: FromPath[str], data: JSONBody[ChangeProject]
) -> ProjectView:
    """Change what is sent; its keys follow at once."""
    values: dict[str, Any] = given(data)
    return await control.do(request.user, lambda work: projects.update_project(work, ref, **values))


@delete("/projects/{ref:str}", responses=described(409))
async def delete_project(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> None:
    """Remove a project that never had a key."""
    await control.do(request.user, lambda work: projects.delete_project(work, ref))


ROUTES = Router(
    "/",
    route_handlers=[
        list_keys,
        make_key,
        show_key,
        change_key,
        rotate_key,
        revoke_key,
        list_projects,
        make_project,
        show_project,
        change_project,
        delete_project,
    ],
    tags=["keys and projects"],
)
