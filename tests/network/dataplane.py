"""A data plane on real sockets: the real listener, exchange, pool and spool, wired as the composition root wires them.

Everything runs on one loop with the fake provider and the raw caller, so a test can see both ends of every connection.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from uvicorn.config import Config
from uvicorn.server import ServerState

from potluck.conformance.caller import Caller, encode_request
from potluck.ledger.spool import Spool
from potluck.model.price import Price
from potluck.model.resources import Capability, Route, Timeouts
from potluck.model.secret import Secret
from potluck.model.snapshot import CompiledKey, CompiledModel, CompiledTarget, Endpoint, Snapshot
from potluck.model.usage import Intent, UsageRecord
from potluck.providers.openai import build_heads
from potluck.proxy.guarded import GuardedHttp
from potluck.proxy.limits import PlaneLimits
from potluck.proxy.listener import Connection
from potluck.proxy.plane import Plane
from potluck.telemetry.meter import DataPlaneMeter
from potluck.upstream.pool import Pool

CALLER_KEY = "plk-canaryCallerKey0000000000000000000000000000000000"
UPSTREAM_KEY = "sk-upstream-canary-secret"
CAPABILITIES: tuple[Capability, ...] = ("chat", "completions", "embeddings", "responses")
PRICE = Price(input=100_000_000, output=400_000_000, version="test:1", source="operator")
"""USD 0.10 and 0.40 per million tokens"""
PATIENT = Timeouts(connect_s=10, first_byte_s=20, idle_s=20, total_s=60)
HASTY = Timeouts(connect_s=0.5, first_byte_s=0.5, idle_s=0.5, total_s=1.5)


class Snapshots:
    """Implements `ports.SnapshotSource` over models that the test adds."""

    def __init__(self) -> None:
        self.key = CompiledKey(
            id="key_test", name="test", organisation_id="org_test", project_id="prj_test", project="default",
            data_class="standard", models=None, tags=(), expires_at_s=float("inf"), created_at_ms=1_767_225_600_000,
        )  # fmt: skip
        self.current = Snapshot(version=1, keys={self.hash_key(CALLER_KEY.encode()): self.key}, models={}, pins={})

    @staticmethod
    def hash_key(token: bytes) -> bytes:
        return blake2b(token, digest_size=16).digest()

    def touch(self, key: CompiledKey) -> None:
        pass

    def swap(self, **members: Any) -> None:
        self.current = msgspec.structs.replace(self.current, version=self.current.version + 1, **members)


class TappedSpool(Spool):
    """The real spool; what passes through it stays visible."""

    def __init__(self, directory: Path, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(directory, loop)
        self.intents: list[Intent] = []
        self.records: list[UsageRecord] = []
        self.refusals: list[tuple[str, str]] = []
        self.changed = asyncio.Condition()

    def intend_line(self, request_id: str, line: bytes, then: Callable[[bool], None]) -> None:
        self.intents.append(msgspec.json.decode(line, type=Intent))
        super().intend_line(request_id, line, then)

    def settle(self, record: UsageRecord, then: Callable[[bool], None]) -> None:
        self.records.append(record)
        super().settle(record, then)

    def refuse(self, reason: str, who: str, at_ms: int, detail: str) -> None:
        self.refusals.append((reason, who))
        super().refuse(reason, who, at_ms, detail)


async def echo_app(scope: Any, receive: Any, send: Any) -> None:
    """A control plane: answers with what it was asked; `/stream` in pieces, `/slow` after a moment, `/deaf` unread."""
    body, path = b"", scope["path"]
    while path != "/deaf":
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if path == "/slow":
        await asyncio.sleep(0.05)
    text = f"{scope['method']} {path} {len(body)}".encode()
    headers = [(b"content-type", b"text/plain")]
    if path != "/stream":
        headers.append((b"content-length", b"%d" % len(text)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if path == "/stream":
        for n in range(5):
            await send({"type": "http.response.body", "body": b"%d;" % n, "more_body": True})
            await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": text})


class Gateway:
    """The parts of a data plane, wired as the composition root wires them."""

    host = "127.0.0.1"

    def __init__(self, home: Path, limits: PlaneLimits) -> None:
        loop = asyncio.get_running_loop()
        self.snapshots = Snapshots()
        self.spool = TappedSpool(home / "spool", loop)
        self.pool = Pool(loop)
        self.plane = Plane(loop, self.snapshots, {"pool": self.pool}, self.spool, DataPlaneMeter(), limits=limits)
        self.port = 0
        config = Config(
            echo_app, http=GuardedHttp, ws="none", lifespan="off", loop="none", log_config=None, access_log=False,
            server_header=False, timeout_keep_alive=3600,
        )  # fmt: skip
        config.load()
        state = ServerState()
        self.plane.set_guard(lambda _: GuardedHttp(self.plane, config, state))
        self._server: asyncio.Server
        self._sweeper: asyncio.Task[None]
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self.plane), self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self._sweeper = loop.create_task(self._sweep())
        self._tasks = asyncio.all_tasks()

    async def _sweep(self) -> None:
        while True:
            now = time.monotonic()
            self.plane.sweep(now)
            self.pool.sweep(now)
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        self._sweeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sweeper
        self._server.close()
        for connection in list(self.plane.connections):
            connection.abort()
        for guarded in list(self.plane.guarded):
            guarded.transport.abort()
        self.pool.close()
        for _ in range(5):  # closed transports are freed a few loop turns later
            await asyncio.sleep(0)
        self.spool.close()

    # configuration

    def add(self, model: str, base_url: str, *, upstream_model: str | None = None, **members: Any) -> None:
        """A public model with one target at `base_url`."""
        self.serve(model, self.target(base_url, upstream_model or model, id=f"tgt_{model}", **members))

    def target(
        self,
        base_url: str,
        upstream_model: str,
        *,
        provider: str = "fake",
        credential: str = "main",
        timeouts: Timeouts = PATIENT,
        price: Price | None = PRICE,
        **members: Any,
    ) -> CompiledTarget:
        """One target by one credential."""
        parts = urlsplit(base_url)
        endpoint = Endpoint(
            f"{provider} {parts.netloc} {timeouts}", parts.hostname or "", parts.port or 80, False, timeouts
        )
        return CompiledTarget(
            **{
                "id": f"tgt_{provider}_{upstream_model}",
                "name": f"{provider}/{upstream_model}",
                "provider_id": f"prv_{provider}",
                "provider": provider,
                "credential_id": f"crd_{provider}_{credential}",
                "credential": credential,
                "upstream": "pool",
                "endpoint": endpoint,
                "model_json": msgspec.json.encode(upstream_model),
                "heads": build_heads(base_url, Secret(UPSTREAM_KEY), CAPABILITIES),
                "price": price,
                "own": False,
                "on_hangup": "cancel",
                "quirks": frozenset(),
                "place": f"{endpoint.key} {upstream_model}",
                **members,
            }
        )

    def serve(self, model: str, *targets: CompiledTarget) -> None:
        """A public model with these targets, in this order of priority unless they say otherwise."""
        models = {**self.snapshots.current.models}
        if all(target.priority == 0 for target in targets):
            places = list(dict.fromkeys(target.place for target in targets))
            targets = tuple(msgspec.structs.replace(each, priority=places.index(each.place)) for each in targets)
        models[model] = CompiledModel(model, targets, b'{"id":"%s"}' % model.encode())
        self.snapshots.swap(models=models)

    def rule(self, name: str, **members: Any) -> None:
        """A routing rule after those that are there."""
        route = Route(id=f"rte_{name}", organisation_id="org_test", name=name, created_at_ms=0, **members)
        self.snapshots.swap(routes=(*self.snapshots.current.routes, route))

    # looking

    def caller(self, **kwargs: Any) -> Caller:
        return Caller(self.host, self.port, **kwargs)

    def request(self, model: str = "ok", path: str = "/v1/chat/completions", **members: Any) -> bytes:
        """A chat request of the caller with his key, as bytes."""
        return encode_request(path=path, body=chat(model, **members), key=CALLER_KEY)

    async def record(self, model: str | None = None, *, timeout_s: float = 5.0) -> UsageRecord:
        """The only record (of requests for `model`), as soon as it is settled."""
        await self.until(lambda: self._records(model), timeout_s=timeout_s)
        (record,) = self._records(model)
        return record

    def _records(self, model: str | None) -> list[UsageRecord]:
        return [record for record in self.spool.records if model is None or record.model == model]

    async def until(self, condition: Callable[[], object], *, timeout_s: float = 5.0) -> None:
        """Return once `condition()` is true; looked at each loop turn or so. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.002)

    async def at_rest(self) -> None:
        """Nothing runs, nothing is held, no upstream call is open. Raises TimeoutError naming what is left."""
        try:
            await self.until(lambda: not self._left(), timeout_s=3.0)
        except TimeoutError:
            raise AssertionError(f"left behind: {self._left()}") from None

    def _left(self) -> dict[str, Any]:
        mine = {asyncio.current_task(), *self._tasks}
        stats = self.pool.stats().endpoints.values()
        left = {
            "exchanges": list(self.plane.exchanges),
            "buffered bytes": self.plane.buffered_bytes,
            "upstream calls": sum(each.in_flight + each.connecting + each.waiting for each in stats),
            "tasks": [task for task in asyncio.all_tasks() - mine if "SeenConnection" not in repr(task)],
            "intents without record": {intent.id for intent in self.spool.intents}
            - {record.id for record in self.spool.records},
        }
        return {name: value for name, value in left.items() if value}


def chat(model: str, **members: Any) -> dict[str, Any]:
    """The body of a small chat request."""
    return {"model": model, "messages": [{"role": "user", "content": "Who brings what?"}], **members}
