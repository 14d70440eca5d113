"""What the application is made from; the composition root fills it in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from potluck.admin.fleet_readings import ReadNode
from potluck.identity.vault import Vault
from potluck.proxy.routing import Router
from potluck.snapshot import SnapshotStore
from potluck.store import Store


def _nothing() -> bytes:
    return b""


@dataclass(frozen=True, kw_only=True)
class Deps:
    """Parts of the gateway that the admin API shows or changes.

    `readiness()`: reasons why `/readyz` says 503, by part; empty when ready. Called on the loop, must not block.
    `render_metrics()`: the exposition, called in a thread. `version`: the program's. `pages`: Litestar
    handlers of what is not the API, `console.landing.landing_routes(...)`. `router`: the data plane's, whose live state
    is shown; None: there is none. `public_url`, `own_names` (lower case): under what addresses this gateway is known.
    `read_node`: what is seen of a node now; None: there is no hub.
    """

    store: Store
    vault: Vault
    snapshots: SnapshotStore
    version: str
    readiness: Callable[[], Mapping[str, str]] = field(default=dict)
    render_metrics: Callable[[], bytes] = _nothing
    router: Router | None = None
    public_url: str | None = None
    own_names: frozenset[str] = frozenset()
    read_node: ReadNode | None = None
    metrics_content_type: str = "text/plain; version=0.0.4; charset=utf-8"
    pages: Sequence[Any] = ()
