"""`/api/v1/providers` and `/api/v1/credentials`."""

from typing import Annotated, Any

import sqlalchemy as sa
from litestar import Router, delete, get, patch, post
from litestar.params import FromPath, JSONBody, QueryParameter

from potluck.admin.asking import Asked, ask
from potluck.admin.operations import providers
from potluck.admin.operations.views import CredentialView, ProviderView, credential_view
from potluck.admin.operations.work import Row, Work
from potluck.admin.rest.auth import AdminRequest, FromGateway, idempotency_of
from potluck.admin.rest.bodies import (
    ChangeCredential,
    ChangeProvider,
    MakeCredential,
    MakeProvider,
    RotateCredential,
    given,
    merged,
)
from potluck.admin.rest.lists import DEFAULT_LIMIT, Cursor, Limit, Listed, list_page
from potluck.admin.rest.problems import described
from potluck.config.document import TimeoutsEntry
from potluck.config.routing import ProbeEntry
from potluck.model.secret import Secret
from potluck.store import tables as t

FIRST_CREDENTIAL = "main"
ASK_ON_ADD_S = 3.0


@get("/providers", responses=described())
async def list_providers(
    request: AdminRequest, control: FromGateway, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Listed[ProviderView]:
    """List providers with their credentials, without the keys."""

    def look(work: Work) -> Listed[ProviderView]:
        return list_page(work, t.providers, lambda row: providers.view_provider(work, row), limit, cursor)

    return await control.see(request.user, look)


@post("/providers", responses=described(409, 422))
async def make_provider(request: AdminRequest, control: FromGateway, data: JSONBody[MakeProvider]) -> ProviderView:
    """Add a provider; with `key`, also its first credential. It is asked for its models at once, if it answers."""

    def make(work: Work) -> ProviderView:
        made = providers.create_provider(
            work,
            data.name,
            data.base_url,
            dialect=data.dialect,
            own=data.own,
            on_hangup=data.on_hangup,
            timeouts=data.timeouts.to_timeouts(),
            max_connections=data.max_connections,
            assistant_prefix=data.assistant_prefix,
            probe=data.probe,
        )
        if data.key is not None:
            providers.create_credential(work, made.id, FIRST_CREDENTIAL, Secret(data.key))
        return providers.show_provider(work, made.id)

    made = await control.do(request.user, make, await idempotency_of(request, 201))
    await ask(control, request.user, made.id, ASK_ON_ADD_S)
    return await control.see(request.user, lambda work: providers.show_provider(work, made.id))


@get("/providers/{ref:str}", responses=described())
async def show_provider(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> ProviderView:
    """Show a provider, by id or name."""
    return await control.see(request.user, lambda work: providers.show_provider(work, ref))


@patch("/providers/{ref:str}", responses=described(409))
async def change_provider(
    request: AdminRequest, control: FromGateway, ref: FromPath[str], data: JSONBody[ChangeProvider]
) -> ProviderView:
    """Change what is sent, inside objects too. A new base URL forgets the models that the old one named."""
    values: dict[str, Any] = given(data)

    def change(work: Work) -> ProviderView:
        if data.timeouts:
            have = TimeoutsEntry.from_timeouts(providers.show_provider(work, ref).timeouts)
            values["timeouts"] = merged(have, data.timeouts).to_timeouts()
        if data.probe:
            values["probe"] = merged(providers.show_provider(work, ref).probe or ProbeEntry(), data.probe)
        return providers.update_provider(work, ref, **values)

    return await control.do(request.user, change)


@delete("/providers/{ref:str}", responses=described(409))
async def delete_provider(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> None:
    """Remove a provider and its credentials, unless a declared model has a target there."""
    await control.do(request.user, lambda work: providers.delete_provider(work, ref))


@post("/providers/{ref:str}/test", status_code=200, responses=described(409))
async def test_provider(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> Asked:
    """Ask the provider for its models with its key, and keep the list. Its faults are in the answer, not a status."""
    return await ask(control, request.user, ref)


@get("/credentials", responses=described())
async def list_credentials(
    request: AdminRequest,
    control: FromGateway,
    provider: Annotated[str | None, QueryParameter(description="only this provider's, by id or name")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Listed[CredentialView]:
    """List credentials, without the keys."""

    def look(work: Work) -> Listed[CredentialView]:
        mine = t.providers.c.organisation_id == work.organisation_id
        names = {row["id"]: row["name"] for row in work.rows(sa.select(t.providers).where(mine))}
        where = []
        if provider is not None:
            where.append(t.credentials.c.provider_id == work.find(t.providers, "provider", provider)["id"])

        def view(row: Row) -> CredentialView:
            return credential_view(row, names[row["provider_id"]])

        return list_page(work, t.credentials, view, limit, cursor, *where)

    return await control.see(request.user, look)


@post("/credentials", responses=described(409, 422))
async def make_credential(
    request: AdminRequest, control: FromGateway, data: JSONBody[MakeCredential]
) -> CredentialView:
    """Add a key to a provider's pool. It is sealed, and never shown again."""
    return await control.do(
        request.user,
        lambda work: providers.create_credential(work, data.provider, data.name, Secret(data.key), weight=data.weight),
        await idempotency_of(request, 201),
    )


@get("/credentials/{ref:str}", responses=described())
async def show_credential(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> CredentialView:
    """Show a credential by id, without the key."""
    return await control.see(request.user, lambda work: providers.show_credential(work, ref))


@patch("/credentials/{ref:str}", responses=described(409))
async def change_credential(
    request: AdminRequest, control: FromGateway, ref: FromPath[str], data: JSONBody[ChangeCredential]
) -> CredentialView:
    """Change what is sent."""
    values: dict[str, Any] = given(data)
    return await control.do(request.user, lambda work: providers.update_credential(work, ref, **values))


@post("/credentials/{ref:str}/rotate", status_code=200, responses=described(409, 422))
async def rotate_credential(
    request: AdminRequest, control: FromGateway, ref: FromPath[str], data: JSONBody[RotateCredential]
) -> CredentialView:
    """Put another key in its place."""
    return await control.do(
        request.user,
        lambda work: providers.rotate_credential(work, ref, Secret(data.key)),
        await idempotency_of(request, 200),
    )


@delete("/credentials/{ref:str}", responses=described(409))
async def delete_credential(request: AdminRequest, control: FromGateway, ref: FromPath[str]) -> None:
    """Remove a key from its provider's pool."""
    await control.do(request.user, lambda work: providers.delete_credential(work, ref))


ROUTES = Router(
    "/",
    route_handlers=[
        list_providers,
        make_provider,
        show_provider,
        change_provider,
        delete_provider,
        test_provider,
        list_credentials,
        make_credential,
        show_credential,
        change_credential,
        rotate_credential,
        delete_credential,
    ],
    tags=["providers and credentials"],
)
