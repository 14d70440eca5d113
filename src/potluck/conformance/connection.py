"""One accepted connection of the fake provider: reads requests, keeps every byte, notes how and when it closed."""

import asyncio
import contextlib
import select
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Literal, cast

from potluck.conformance.call import PeerGoneError, SeenRequest

Closed = Literal["", "fin", "rst", "us"]
HEAD_LIMIT_BYTES = 1 << 20


class SeenConnection(asyncio.Protocol):
    """`raw`: all bytes received. `closed_how`: `fin` or `rst` by the peer, `us` by a fault; empty while open."""

    transport: asyncio.Transport

    def __init__(
        self,
        number: int,
        opened: Callable[["SeenConnection"], None],
        serve: Callable[[SeenRequest], Awaitable[None]],
        notify: Callable[[], None],
    ) -> None:
        self.number = number
        self.requests: list[SeenRequest] = []
        self.listed: list[str] = []
        """what `GET /models` on this connection names"""
        self.raw = bytearray()
        self.opened_s = time.monotonic()
        self.closed_s: float | None = None
        self.closed_how: Closed = ""
        self._opened = opened
        self._serve = serve
        self._notify = notify
        self._buffer = bytearray()
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._gone = asyncio.Event()
        self._lost = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<connection {self.number}, {self.closed_how or 'open'}>"

    # what the loop tells us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._opened(self)
        self._task = asyncio.create_task(self._run())  # noqa: TID251 — kept, and cancelled by stop()

    def data_received(self, data: bytes) -> None:
        self.raw += data
        self._buffer += data
        self._more.set()

    def eof_received(self) -> bool:
        self._note("fin")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._note("fin" if exc is None else "rst")
        self._lost.set()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def _note(self, how: Closed) -> None:
        if not self.closed_how:
            self.closed_how, self.closed_s = how, time.monotonic()
        self._gone.set()
        self._more.set()
        self._room.set()
        self._notify()

    # what faults do

    async def send(self, data: bytes) -> None:
        """Write, then wait for room. Raises PeerGoneError."""
        if self._gone.is_set():
            raise PeerGoneError
        self.transport.write(data)
        await self._room.wait()

    async def wait_gone(self, seconds: float) -> None:
        """Return after `seconds`. Raises PeerGoneError as soon as the peer has closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        if self._gone.is_set():
            raise PeerGoneError

    def fin(self) -> None:
        """Close in order, after what was written."""
        if not self.closed_how:
            self.closed_how, self.closed_s = "us", time.monotonic()
        self.transport.close()

    def reset(self) -> None:
        """Close with RST."""
        if not self.closed_how:
            self.closed_how, self.closed_s = "us", time.monotonic()
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    async def leave_unread(self) -> None:
        """Leave what the peer sends in the kernel, so that it feels back-pressure, until it goes away."""
        self.transport.pause_reading()
        watch = select.poll()  # a paused transport hears of no close
        watch.register(self.transport.get_extra_info("socket").fileno(), getattr(select, "POLLRDHUP", select.POLLHUP))
        while not watch.poll(0):
            await self.wait_gone(0.05)
        self._note("fin")

    async def stop(self) -> None:
        """End the fault that is being played and the connection."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.transport.abort()
        await self._lost.wait()

    # requests

    async def _run(self) -> None:
        with contextlib.suppress(PeerGoneError):
            while not self.transport.is_closing():
                head = await self._until(b"\r\n\r\n")
                request = SeenRequest(self, len(self.requests) + 1, head)
                self.requests.append(request)
                await self._serve(request)

    async def read_body(self, request: SeenRequest) -> None:
        """Read the body by its framing into `request.body`. Raises PeerGoneError when it ends early."""
        if (request.header("transfer-encoding") or b"").lower() == b"chunked":
            while size := int((await self._until(b"\r\n")).split(b";")[0], 16):
                request.body += await self._exactly(size)
                await self._exactly(2)
            while await self._until(b"\r\n") != b"\r\n":
                pass
        elif length := int(request.header("content-length") or 0):
            request.body = await self._exactly(length)
        request.complete = True

    async def _until(self, mark: bytes) -> bytes:
        while (at := self._buffer.find(mark)) < 0:
            if len(self._buffer) > HEAD_LIMIT_BYTES:
                self.reset()
            await self._wait_more()
        return self._take(at + len(mark))

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._wait_more()
        return self._take(size)

    async def _wait_more(self) -> None:
        if self._gone.is_set():
            raise PeerGoneError
        self._more.clear()
        await self._more.wait()

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken
