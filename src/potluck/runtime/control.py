"""Brings the control plane in: its front door under `GuardedHttp`, attached to the listening data plane.

Importing this module imports uvicorn; the gateway does so after it listens. Litestar and SQLAlchemy come with the first
call that needs them (`admin.front`).
"""

from typing import TYPE_CHECKING

from uvicorn.config import Config
from uvicorn.server import ServerState

import potluck
from potluck.admin.front import Front
from potluck.proxy.guarded import GuardedHttp
from potluck.runtime import memory

if TYPE_CHECKING:
    import asyncio

    from potluck.admin.rest.edge import App
    from potluck.proxy.listener import Connection
    from potluck.runtime.gateway import Gateway


def attach(gateway: "Gateway") -> None:
    """Build the application from the gateway's parts and hand it to the plane. Runs on the loop."""
    settings = gateway.settings

    def load() -> "App":
        from potluck.admin.app import Deps, create_app
        from potluck.console.landing import landing_routes

        return create_app(
            Deps(
                store=gateway.store,
                vault=gateway.vault,
                snapshots=gateway.snapshots,
                version=potluck.__version__,
                readiness=gateway.readiness,
                router=gateway.plane.router,
                public_url=settings.public_url,
                own_names=gateway.own_names,
                read_node=gateway.fleet_readings.of,
                render_metrics=gateway.exposition.render,
                metrics_content_type=gateway.exposition.content_type,
                pages=landing_routes(potluck.__version__, settings.url),
            )
        )

    app = Front(load, gateway.readiness, gateway.snapshots, gateway.store, loaded=memory.settle)
    config = Config(
        app,
        http=GuardedHttp,
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies) or None,
        timeout_keep_alive=3600,  # GuardedHttp keeps its own deadlines
    )
    config.load()
    state = ServerState()
    plane = gateway.plane

    def make(connection: "Connection") -> "asyncio.Protocol":  # noqa: ARG001 — the plane's factory takes it
        return GuardedHttp(plane, config, state)

    plane.set_guard(make)
