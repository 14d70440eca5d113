"""The control plane's front door: answers health checks itself and loads the rest at the first call for it.

Litestar and SQLAlchemy cost 27 MB and half a second. A gateway that only moves requests never pays for them; whoever
opens the admin API first waits for the import, in a thread, while the data plane goes on.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from potluck.admin.rest.edge import App, Edge, Receive, Scope, Send
from potluck.snapshot import SnapshotStore
from potluck.store import Store


class Readiness(msgspec.Struct, frozen=True):
    """`reasons`: why it is not ready, by part of the gateway; it says nothing about targets."""

    ready: bool
    reasons: dict[str, str]


async def readiness(
    parts: Callable[[], Mapping[str, str]], snapshots: SnapshotStore, store: Store
) -> tuple[int, Readiness]:
    """Status and body of `/readyz`: store open, snapshot compiled, spool writable. `parts`: reasons known elsewhere."""
    reasons = dict(parts())
    if problem := snapshots.problem:
        reasons.setdefault("snapshot", problem)
    if problem := await asyncio.to_thread(store.problem):
        reasons["store"] = problem
    return (503 if reasons else 200), Readiness(not reasons, reasons)


class Front:
    """An ASGI application. `load()` makes the application behind it; it is called once, in a thread."""

    def __init__(
        self,
        load: Callable[[], App],
        parts: Callable[[], Mapping[str, str]],
        snapshots: SnapshotStore,
        store: Store,
        *,
        loaded: Callable[[], None] = lambda: None,
    ) -> None:
        self._load = load
        self._loaded = loaded
        self._parts, self._snapshots, self._store = parts, snapshots, store
        self._health = Edge(self._answer_health)
        self._app: App | None = None
        self._loading = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in ("/healthz", "/readyz") and scope["method"] in ("GET", "HEAD"):
            await self._health(scope, receive, send)
            return
        app = self._app
        if app is None:
            async with self._loading:
                app = self._app
                if app is None:
                    app = self._app = await asyncio.to_thread(self._load)
                    self._loaded()
        await app(scope, receive, send)

    async def _answer_health(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 — ASGI's form
        status, answer = 200, b'{"status":"ok"}'
        if scope["path"] == "/readyz":
            status, found = await readiness(self._parts, self._snapshots, self._store)
            answer = msgspec.json.encode(found)
        headers: list[Any] = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})
