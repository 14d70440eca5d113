"""The OpenAPI document: routes as Litestar sees them, objects exactly as `msgspec` reads and writes them."""

from types import ModuleType
from typing import Any

import msgspec
from litestar import Litestar, MediaType, Response, get

from potluck.admin import apply, asking, fleet_readings
from potluck.admin.operations import node_views, views
from potluck.admin.rest import bodies, configuration, enrolment, health, live, node_bodies, problems, reports
from potluck.admin.rest.auth import PUBLIC, AdminRequest
from potluck.config import document, routing
from potluck.model import node, resources
from potluck.proxy import explain, rehearsal

Json = dict[str, Any]

OBJECTS: tuple[ModuleType, ...] = (
    apply,
    asking,
    bodies,
    configuration,
    document,
    enrolment,
    explain,
    fleet_readings,
    health,
    live,
    node,
    node_bodies,
    node_views,
    problems,
    rehearsal,
    reports,
    resources,
    routing,
    views,
)
"""modules whose structs the API sends or takes"""


def describe(app: Litestar) -> Json:
    """The document, built on first use. Litestar's own schemas lose what is allowed inside arrays and unions."""
    made: Json | None = app.state.get("openapi")
    if made is None:
        made = app.openapi_schema.to_schema()
        schemas: Json = made["components"]["schemas"]
        structs = {each for module in OBJECTS for each in vars(module).values() if _is_struct(each)}
        known = [each for each in structs if each.__name__ in schemas]
        _, exact = msgspec.json.schema_components(known, ref_template="#/components/schemas/{name}")
        made["components"]["schemas"] = dict(sorted({**schemas, **exact}.items()))
        app.state["openapi"] = made
    return made


def _is_struct(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, msgspec.Struct)


@get("/api/openapi.json", opt=PUBLIC, include_in_schema=False, sync_to_thread=True)
def openapi(request: AdminRequest) -> Response[Json]:
    """The OpenAPI 3.1 document."""
    return Response(describe(request.app), media_type=MediaType.JSON, headers={"cache-control": "max-age=300"})


ROUTES = [openapi]
