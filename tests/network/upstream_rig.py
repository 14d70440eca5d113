"""What the pool's tests share: scripted upstreams on loopback sockets, a sink that checks its contract, both loops."""

import asyncio
import contextlib
import functools
import gc
import inspect
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from potluck.model.resources import Timeouts
from potluck.model.snapshot import CompiledTarget, Endpoint, RequestHead
from potluck.ports import Call, Failure
from potluck.upstream import Pool

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.SelectorEventLoop}
PATIENT = Timeouts(connect_s=10, first_byte_s=10, idle_s=10, total_s=20)
POST = RequestHead(
    method="POST",
    path="/v1/chat/completions",
    headers=(("host", "provider.test"), ("authorization", "Bearer sk-secret")),
    wire=b"POST /v1/chat/completions HTTP/1.1\r\nhost: provider.test\r\n"
    b"authorization: Bearer sk-secret\r\ncontent-length: ",
)
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
HELLO = OK + b"content-length: 5\r\n\r\nhello"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


def both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on uvloop and on the stock loop; what it leaves behind (tasks, sockets) fails it."""
    own = inspect.signature(test)

    @functools.wraps(test)
    def run(loop_kind: str, **arguments: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop_kind]) as runner:
            runner.run(_leaving_nothing(test, arguments))

    kind = inspect.Parameter("loop_kind", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), kind])  # type: ignore[attr-defined]
    del run.__wrapped__  # type: ignore[attr-defined]
    return pytest.mark.parametrize("loop_kind", list(LOOPS))(run)


async def _leaving_nothing(test: Callable[..., Awaitable[None]], arguments: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    unhandled: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    sockets = open_sockets()
    await test(**arguments)
    await until(lambda: open_sockets() <= sockets, "the test left sockets open")
    await until(lambda: len(asyncio.all_tasks()) == 1, "the test left tasks running")
    gc.collect()
    assert not unhandled, unhandled


def open_sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for name in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError):
            count += stat.S_ISSOCK(os.fstat(int(name.name)).st_mode)
    return count


async def until(
    condition: Callable[[], object], complaint: str = "it never came true", timeout_s: float = 10.0
) -> None:
    """Let the loop run until `condition` holds."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, complaint
        await asyncio.sleep(0.002)


class RecordingSink:
    """A `ports.Sink` that keeps what it hears, in order, and complains of whatever the contract rules out."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.chunks: list[bytes] = []
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.failure: Failure | None = None
        self.ended = ""
        self.opened = False
        self.cancelled = False
        self.waited = False
        """`open` found no idle connection"""
        self.on_data: Callable[[bytes], None] = lambda chunk: None
        self.on_end: Callable[[], None] = lambda: None

    def _heard(self, *event: Any) -> None:
        assert self.opened, "called before open returned"
        assert not self.cancelled, f"{event} after cancel"
        assert not self.ended, f"{event} after {self.ended}"
        self.events.append(event)

    def may_resend(self) -> bool:
        return True

    def connected(self, *, reused: bool) -> None:
        assert not self.status, "connected after head"
        self._heard("connected", reused)

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        assert not self.status, "two heads"
        self._heard("head", status)
        self.status, self.headers = status, headers

    def data(self, chunk: bytes) -> None:
        assert self.status, "data before head"
        assert chunk, "empty data"
        self._heard("data", chunk)
        self.chunks.append(chunk)
        self.on_data(chunk)

    def end(self) -> None:
        self._heard("end")
        self.ended = "end"
        self.on_end()

    def end_by_close(self) -> None:
        self._heard("end_by_close")
        self.ended = "end_by_close"

    def failed(self, failure: Failure) -> None:
        self._heard("failed", failure.error_class, failure.phase)
        self.failure = failure
        self.ended = "failed"

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def reused(self) -> list[bool]:
        """Of each connection that carried the call: was it a kept-alive one? An idle one is not told of."""
        told = [event[1] for event in self.events if event[0] == "connected"]
        return told if self.waited else [True, *told]

    async def over(self, timeout_s: float = 10.0) -> "RecordingSink":
        await until(lambda: self.ended, f"the call never ended: {self.events}", timeout_s)
        return self


class Peer:
    """The upstream's end of one connection."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        """0 for the server's first connection, 1 for the next …"""
        self.requests: list[tuple[bytes, bytes]] = []
        self.gone = asyncio.Event()
        self._reader = reader
        self._writer = writer

    async def request(self) -> bytes:
        """Read one request whole; returns its body. Raises `IncompleteReadError` when there is none."""
        head = await self.head()
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await self._reader.readexactly(length)
        self.requests.append((head, body))
        return body

    async def head(self) -> bytes:
        """Read one request's head only."""
        return await self._reader.readuntil(b"\r\n\r\n")

    async def send(self, data: bytes) -> None:
        if self._writer.is_closing():
            raise ConnectionResetError  # uvloop would raise RuntimeError
        self._writer.write(data)
        await self._writer.drain()

    async def closed_by_us(self) -> bytes:
        """Wait for the pool's end to close; returns what came before."""
        rest = b""
        with contextlib.suppress(ConnectionError):
            rest = await self._reader.read()
        self.gone.set()
        return rest

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        """Close with RST."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class Server:
    """A listening socket whose every connection runs `script`; `peers` holds them in order."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.peers: list[Peer] = []
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def start(self, ssl: Any = None, host: str = "127.0.0.1") -> "Server":
        self._server = await asyncio.start_server(self._accept, host, 0, ssl=ssl)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = Peer(len(self.peers), reader, writer)
        self.peers.append(peer)
        try:
            await self.script(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except asyncio.CancelledError:
            # the test is over: to the streams' own callback a cancelled handler is an error
            pass
        finally:
            peer.gone.set()
            writer.transport.abort()
            self._tasks.discard(task)

    async def stop(self) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await until(lambda: not self._tasks)


class Rig:
    """A pool that is swept every 5 ms, and the upstreams made for it."""

    def __init__(self, pool: Pool, exits: contextlib.AsyncExitStack) -> None:
        self.pool = pool
        self._exits = exits

    async def server(self, script: Script, ssl: Any = None, host: str = "127.0.0.1") -> Server:
        server = await Server(script).start(ssl, host)
        self._exits.push_async_callback(server.stop)
        return server

    def call(
        self, target: CompiledTarget, body: bytes = b"{}", head: RequestHead = POST, sink: RecordingSink | None = None
    ) -> tuple[RecordingSink, Call]:
        sink = sink or RecordingSink()
        call = self.pool.open(target, head, body, sink)
        sink.opened = True
        sink.waited = not getattr(call, "reused", False)
        return sink, call

    async def done(self, target: CompiledTarget, body: bytes = b"{}", head: RequestHead = POST) -> RecordingSink:
        sink, _ = self.call(target, body, head)
        return await sink.over()

    async def answer(self, raw: bytes, *, then: str = "wait", head: RequestHead = POST) -> tuple[RecordingSink, Server]:
        """One call against an upstream that answers `raw`, then waits, closes or resets."""

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(raw)
            if then == "wait":
                await peer.closed_by_us()
            elif then == "close":
                peer.close()
            else:
                peer.reset()

        server = await self.server(script)
        return await self.done(target_at(server.port), head=head), server

    def open_connections(self) -> int:
        return sum(stats.open for stats in self.pool.stats().endpoints.values())


@contextlib.asynccontextmanager
async def rig(*, swept: bool = True, **pool_options: Any) -> AsyncIterator[Rig]:
    """A running rig; at the end the pool must be able to close everything at once."""
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as exits:
        pool = Pool(loop, **pool_options)
        running = swept

        def sweep() -> None:
            if running:
                pool.sweep(loop.time())
                loop.call_later(0.005, sweep)

        sweep()
        try:
            yield Rig(pool, exits)
        finally:
            running = False
            pool.close()
            await until(lambda: all(s[:4] == (0, 0, 0, 0) for s in pool.stats().endpoints.values()), "slots left")


def target_at(
    port: int,
    *,
    host: str = "127.0.0.1",
    tls: bool = False,
    timeouts: Timeouts = PATIENT,
    max_connections: int = 1024,
    key: str = "",
) -> CompiledTarget:
    endpoint = Endpoint(key or f"{host}:{port}", host, port, tls, timeouts, max_connections)
    return CompiledTarget(
        id="tgt_1",
        name="provider/model",
        provider_id="prv_1",
        provider="provider",
        credential_id=None,
        upstream="pool",
        endpoint=endpoint,
        model_json=b'"model"',
        heads={"chat": POST},
        price=None,
        own=False,
        on_hangup="cancel",
        quirks=frozenset(),
    )


async def echo(peer: Peer) -> None:
    """Answers every request with its own body, for as long as the connection lives."""
    while True:
        body = await peer.request()
        await peer.send(OK + b"content-length: %d\r\n\r\n%b" % (len(body), body))


def unused_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def deaf_port() -> Any:
    """A loopback port on which a connection attempt is neither accepted nor refused: its backlog is full."""
    with contextlib.ExitStack() as exits:
        listener = exits.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            filler = exits.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(address)
        yield address[1]
