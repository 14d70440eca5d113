"""`/api/v1/models`, `/api/v1/targets` and `/api/v1/prices`."""

from typing import Annotated, Any

from litestar import Router, delete, get, patch, post
from litestar.params import FromPath, JSONBody, QueryParameter

from potluck.admin.operations import models
from potluck.admin.operations.target_rows import ALL_TARGETS
from potluck.admin.operations.views import DeclaredModelView, PriceView, TargetView, price_view
from potluck.admin.operations.work import Work
from potluck.admin.rest.auth import AdminRequest, FromGateway, idempotency_of
from potluck.admin.rest.bodies import ChangeModel, ChangeTarget, MakeModel, MakeTarget, SetPrice, given
from potluck.admin.rest.lists import DEFAULT_LIMIT, Cursor, Limit, Listed, list_page
from potluck.admin.rest.problems import described
from potluck.store import tables as t


@get("/models", responses=described())
async def list_models(
    request: AdminRequest, control: FromGateway, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Listed[DeclaredModelView]:
    """List the declared models. What providers offer by themselves stands in `/api/v1/snapshot`."""

    def look(work: Work) -> Listed[DeclaredModelView]:
        return list_page(work, t.models, lambda row: models.view_model(work, row), limit, cursor)

    return await control.see(request.user, look)


@post("/models", responses=described(409, 422))
async def make_model(request: AdminRequest, control: FromGateway, data: JSONBody[MakeModel]) -> DeclaredModelView:
    """Declare a model name and the targets that serve it, in order."""
    return await control.do(
        request.user,
        lambda work: models.create_model(work, data.name, data.targets, placement=data.placement, aliases=data.aliases),
        await idempotency_of(request, 201),
    )


@get("/models/{ref:str}", responses=described())
async def show_model(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> DeclaredModelView:
    """Show a declared model, by id or name (a name with `/` in it by id only)."""
    return await control.see(request.user, lambda work: models.show_model(work, ref))


@patch("/models/{ref:str}", responses=described(409))
async def change_model(
    request: AdminRequest, control: FromGateway, ref: FromPath[str], data: JSONBody[ChangeModel]
) -> DeclaredModelView:
    """Change what is sent; `aliases` and `targets` replace the list."""
    values: dict[str, Any] = given(data)
    return await control.do(request.user, lambda work: models.update_model(work, ref, **values))


@delete("/models/{ref:str}", responses=described(409))
async def delete_model(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> None:
    """Remove a declared model and its targets."""
    await control.do(request.user, lambda work: models.delete_model(work, ref))


@get("/targets", responses=described())
async def list_targets(
    request: AdminRequest,
    control: FromGateway,
    model: Annotated[str | None, QueryParameter(description="only this model's, by id or name")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Listed[TargetView]:
    """List the targets of declared models, those at providers and those on nodes."""

    def look(work: Work) -> Listed[TargetView]:
        where = []
        if model is not None:
            where.append(ALL_TARGETS.c.model_id == work.find(t.models, "model", model)["id"])
        return list_page(work, ALL_TARGETS, lambda row: models.view_target(work, row), limit, cursor, *where)

    return await control.see(request.user, look)


@post("/targets", responses=described(409, 422))
async def make_target(request: AdminRequest, control: FromGateway, data: JSONBody[MakeTarget]) -> TargetView:
    """Add a target to a declared model."""
    return await control.do(
        request.user,
        lambda work: models.create_target(work, data.model, data, position=data.position),
        await idempotency_of(request, 201),
    )


@get("/targets/{ref:str}", responses=described())
async def show_target(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> TargetView:
    """Show a target by id."""
    return await control.see(request.user, lambda work: models.show_target(work, ref))


@patch("/targets/{ref:str}", responses=described(409))
async def change_target(
    request: AdminRequest, control: FromGateway, ref: FromPath[str], data: JSONBody[ChangeTarget]
) -> TargetView:
    """Change what is sent; null takes a written price, number of tokens, priority or number of slots away."""
    values: dict[str, Any] = given(data)
    return await control.do(request.user, lambda work: models.update_target(work, ref, **values))


@delete("/targets/{ref:str}", responses=described(409))
async def delete_target(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> None:
    """Remove a target from its model."""
    await control.do(request.user, lambda work: models.delete_target(work, ref))


@get("/prices", responses=described())
async def list_prices(
    request: AdminRequest, control: FromGateway, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Listed[PriceView]:
    """List the operator's own prices. They go before the bundled table's."""
    return await control.see(request.user, lambda work: list_page(work, t.prices, price_view, limit, cursor))


@post("/prices", status_code=200, responses=described(409, 422))
async def set_price(request: AdminRequest, control: FromGateway, data: JSONBody[SetPrice]) -> PriceView:
    """Set a price for a public name, an upstream model or `provider/upstream-model`; it replaces the one before."""
    return await control.do(
        request.user,
        lambda work: models.set_price(work, data.model, data.price),
        await idempotency_of(request, 200),
    )


@delete("/prices/{ref:str}", responses=described(409))
async def delete_price(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> None:
    """Take an operator's price away; the bundled table's applies again."""
    await control.do(request.user, lambda work: models.delete_price(work, ref))


ROUTES = Router(
    "/",
    route_handlers=[
        list_models,
        make_model,
        show_model,
        change_model,
        delete_model,
        list_targets,
        make_target,
        show_target,
        change_target,
        delete_target,
        list_prices,
        set_price,
        delete_price,
    ],
    tags=["models, targets and prices"],
)
