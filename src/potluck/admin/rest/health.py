"""`/healthz`, `/readyz`, `/metrics`."""

import asyncio

import msgspec
from litestar import Response, get
from litestar.datastructures import State
from litestar.exceptions import NotAuthorizedException

from potluck.admin.front import Readiness, readiness
from potluck.admin.rest.auth import CHALLENGE, PUBLIC, AdminRequest, identify, is_local
from potluck.admin.rest.deps import Deps


class Health(msgspec.Struct, frozen=True):
    status: str


@get("/healthz", opt=PUBLIC, tags=["health"], sync_to_thread=False)
def healthz() -> Health:
    """The process is alive."""
    return Health("ok")


@get("/readyz", opt=PUBLIC, tags=["health"])
async def readyz(state: State) -> Response[Readiness]:
    """Whether requests are served: store open, snapshot compiled, spool writable. 503 with reasons when not."""
    deps: Deps = state.deps
    status, found = await readiness(deps.readiness, deps.snapshots, deps.store)
    return Response(found, status_code=status)


@get("/metrics", opt=PUBLIC, tags=["health"], media_type="text/plain")
async def metrics(request: AdminRequest, state: State) -> Response[bytes]:
    """Prometheus exposition: to this machine itself, and to whoever has an admin's or auditor's token."""
    if not is_local(request) and await identify(request) is None:
        raise NotAuthorizedException(
            "metrics are shown to this machine, or with an admin's or auditor's token", headers=CHALLENGE
        )
    deps: Deps = state.deps
    return Response(await asyncio.to_thread(deps.render_metrics), media_type=deps.metrics_content_type)


ROUTES = [healthz, readyz, metrics]
