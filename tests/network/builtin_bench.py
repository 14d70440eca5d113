"""The built-in model's real child, with the real pool before it, for tests that look at both ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from potluck.engines.builtin import BuiltinModel, Pace
from potluck.engines.local_upstream import LocalUpstream
from potluck.model.resources import Timeouts
from potluck.model.snapshot import CompiledTarget, Endpoint
from potluck.ports import Call, Failure, Upstream
from potluck.providers.openai import build_heads
from potluck.upstream.pool import Pool

Json = dict[str, Any]
HI = [{"role": "user", "content": "Say hi."}]
WAIT_S = 110.0


class Answer:
    """A sink that keeps what came. `over` is set with the last callback."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.failure: Failure | None = None
        self.begun = asyncio.Event()
        self.over = asyncio.Event()

    def may_resend(self) -> bool:
        return True

    def connected(self, *, reused: bool) -> None:
        pass

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status, self.headers = status, headers

    def data(self, chunk: bytes) -> None:
        self.body += chunk
        self.begun.set()

    def end(self) -> None:
        self.over.set()

    def end_by_close(self) -> None:
        self.over.set()

    def failed(self, failure: Failure) -> None:
        self.failure = failure
        self.over.set()

    @property
    def json(self) -> Json:
        assert self.failure is None, self.failure.detail
        return json.loads(self.body)  # type: ignore[no-any-return]

    @property
    def error(self) -> Json:
        return self.json["error"]  # type: ignore[no-any-return]

    @property
    def events(self) -> list[Any]:
        """The payloads of a stream, decoded; the last one is "[DONE]"."""
        lines = [line.removeprefix("data: ") for line in self.body.decode().split("\n\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]

    @property
    def text(self) -> str:
        """Everything that the first choice of a chat stream says."""
        return "".join(
            choice["delta"].get("content") or ""
            for event in self.events[:-1]
            for choice in event["choices"]
            if choice["index"] == 0
        )


class Bench:
    """`ask` goes through the mending upstream, `ask_raw` straight to the engine."""

    def __init__(self, model: BuiltinModel, pool: Pool) -> None:
        self.model = model
        self.pool = pool
        self.upstream = LocalUpstream(pool, model, asyncio.get_running_loop())

    def open(self, path: str, body: Json | bytes, upstream: Upstream | None = None) -> tuple[Call, Answer]:
        """Start a call of `chat`, `completions` or `embeddings`."""
        model, answer = self.model, Answer()
        port = model.embeddings_port if path == "embeddings" and upstream is self.pool else model.port
        heads = build_heads(f"http://127.0.0.1:{port}/v1", model.secret, ("chat", "completions", "embeddings"))
        timeouts = Timeouts(first_byte_s=WAIT_S, idle_s=WAIT_S)
        endpoint = Endpoint(f"local:{port}", "127.0.0.1", port, False, timeouts)
        target = CompiledTarget(
            "t", "local/m", "p", "local", None, "local", endpoint, b'"m"', {}, None, True, "cancel", frozenset()
        )
        sent = body if isinstance(body, bytes) else json.dumps({"model": "m", **body}).encode()
        return (upstream or self.upstream).open(target, heads[path], sent, answer), answer  # type: ignore[index]

    async def ask(self, path: str, body: Json | bytes, upstream: Upstream | None = None) -> Answer:
        _, answer = self.open(path, body, upstream)
        await asyncio.wait_for(answer.over.wait(), WAIT_S)
        return answer

    async def ask_raw(self, path: str, body: Json | bytes) -> Answer:
        return await self.ask(path, body, self.pool)

    async def chat(self, **members: Any) -> Answer:
        return await self.ask("chat", {"messages": HI, "max_tokens": 16, **members})

    async def slots(self) -> list[Json]:
        """The engine's slots that are at work."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.model.port)
        try:
            key = self.model.api_key
            writer.write(f"GET /slots HTTP/1.0\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n".encode())
            answer = await asyncio.wait_for(reader.read(), WAIT_S)
        finally:
            writer.close()
        return [slot for slot in json.loads(answer.partition(b"\r\n\r\n")[2]) if slot["is_processing"]]

    async def until_generating(self) -> None:
        """Returns once a slot has generated twenty tokens. Raises TimeoutError."""
        async with asyncio.timeout(WAIT_S):
            while not any(slot["next_token"][0]["n_decoded"] >= 20 for slot in await self.slots()):
                await asyncio.sleep(0.02)

    async def until_busy(self, slots: int, within_s: float) -> None:
        """Returns once so many slots are at work. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while len(await self.slots()) != slots:
                await asyncio.sleep(0.02)


async def until(model: BuiltinModel, *states: str, within_s: float = 30.0) -> None:
    """Returns once the model's state is one of `states`. Raises TimeoutError."""
    changed = asyncio.Event()
    model.wait(changed.set)
    try:
        async with asyncio.timeout(within_s):
            while model.state not in states:
                changed.clear()
                await changed.wait()
    finally:
        model.unwait(changed.set)


@asynccontextmanager
async def running_pool() -> AsyncIterator[Pool]:
    """A pool whose deadlines are swept, as the gateway does it."""
    loop = asyncio.get_running_loop()
    pool = Pool(loop)

    async def sweep() -> None:
        while True:
            await asyncio.sleep(0.1)
            pool.sweep(loop.time())

    sweeper = loop.create_task(sweep())
    try:
        yield pool
    finally:
        sweeper.cancel()
        pool.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def running_bench(home: Path, pace: Pace | None = None) -> AsyncIterator[Bench]:
    """A started model, ready, with a pool before it; ended afterwards."""
    model = BuiltinModel(home, asyncio.get_running_loop(), lambda port, secret: None, pace=pace)
    async with running_pool() as pool:
        await model.start()
        try:
            await until(model, "ready")
            yield Bench(model, pool)
        finally:
            await model.stop()
