"""The control plane's application: everything that is not `/v1/`.

`create_app(Deps(...))` gives an ASGI application that needs no lifespan events. Import this module after the data plane
listens: it brings in Litestar and SQLAlchemy (about 40 MB and half a second).
"""

from typing import cast

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, License, SecurityScheme, Server
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.routes import BaseRoute
from litestar.types import ControllerRouterHandler

from potluck.admin.control import Control
from potluck.admin.rest import (
    configuration,
    enrolment,
    health,
    installers,
    join_tokens,
    keys,
    live,
    models,
    nodes,
    openapi,
    pages,
    problems,
    providers,
    reference,
    reports,
    routes,
)
from potluck.admin.rest.auth import require_token
from potluck.admin.rest.deps import Deps
from potluck.admin.rest.edge import App, Edge
from potluck.identity.gateway_key import GatewayIdentity

__all__ = ["Deps", "create_app", "create_litestar"]

API_PREFIX = "/api/v1"
MAX_BODY_BYTES = 8 << 20


def create_app(deps: Deps) -> App:
    """The ASGI application. Raises nothing; needs the running loop only when called."""
    return Edge(cast("App", create_litestar(deps)))


def create_litestar(deps: Deps) -> Litestar:
    """The application inside, for tests that walk its routes."""
    control = Control(deps.store, deps.vault, deps.snapshots)

    def provide_control() -> Control:
        return control

    api = Router(
        API_PREFIX,
        route_handlers=[
            keys.ROUTES,
            providers.ROUTES,
            models.ROUTES,
            routes.ROUTES,
            nodes.ROUTES,
            join_tokens.ROUTES,
            live.ROUTES,
            reports.ROUTES,
            configuration.ROUTES,
        ],
        security=[{"admin_token": []}],
    )
    return _App(
        route_handlers=[
            api,
            enrolment.ROUTES,
            *installers.ROUTES,
            *health.ROUTES,
            *pages.ROUTES,
            *openapi.ROUTES,
            *reference.ROUTES,
            *deps.pages,
        ],
        guards=[require_token],
        dependencies={"control": Provide(provide_control, sync_to_thread=False)},
        exception_handlers=problems.HANDLERS,
        state=State(
            {
                "deps": deps,
                "control": control,
                "identity": GatewayIdentity(deps.vault),
                "tries": enrolment.tries(),
            }
        ),
        openapi_config=_openapi(deps),
        request_max_body_size=MAX_BODY_BYTES,
        logging_config=None,
        debug=False,
    )


class _App(Litestar):
    """Litestar without its plugins for other people's model libraries: 8 MB and 150 ms where one is installed."""

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]


class _NoRoutes(Router):
    """Stands where Litestar would put its own pages and document: ours are `rest.openapi` and `rest.reference`."""

    def register(self, value: ControllerRouterHandler) -> list[BaseRoute]:  # noqa: ARG002 — the signature is Litestar's
        return []


def _openapi(deps: Deps) -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Potluck admin API",
        version=deps.version,
        description="Keys, providers, models, prices, routes, nodes, configuration and usage of a Potluck gateway. "
        "Errors are RFC 9457 problem details; lists are cursor pages; a POST may carry an Idempotency-Key.",
        license=License(name="Apache-2.0", identifier="Apache-2.0"),
        servers=[Server(url="/")],
        components=Components(
            security_schemes={
                "admin_token": SecurityScheme(
                    type="http", scheme="bearer", description="An admin token: pla- and 46 letters and digits."
                )
            }
        ),
        use_handler_docstrings=True,
        openapi_router=_NoRoutes("/api", route_handlers=[]),
    )
