"""The connections of one endpoint: open ones, idle ones, calls that connect and calls that wait.

A call takes the youngest idle connection, else opens one while fewer than `max_connections` are open or opening, else
waits in order of arrival. Its connect deadline runs meanwhile; when `QUEUE_FACTOR` × `max_connections` calls wait, the
next fails at once as `target_slow` (the target is alive and behind, which is what that class tells the router and the
breaker).
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from potluck.model.snapshot import Endpoint, RequestHead
from potluck.ports import Sink
from potluck.upstream.call import PooledCall
from potluck.upstream.connect import Connector, authority_of
from potluck.upstream.connection import Connection
from potluck.upstream.failures import ConnectError
from potluck.upstream.proxy_settings import Proxy

if TYPE_CHECKING:
    from potluck.upstream.pool import Counters

QUEUE_FACTOR = 4
STOPPING = "the gateway is stopping"
MAX_IDLE = 256
"""idle connections kept per endpoint"""
MAX_IDLE_S = 55.0
"""below the 60 s after which common servers and balancers close an idle connection, so that we mostly close first"""


class Forward:
    """Rewrites a request head for a forwarding proxy: absolute form, and the proxy's credentials if it has any."""

    __slots__ = ("_fields", "_prefix")

    def __init__(self, endpoint: Endpoint, proxy: Proxy) -> None:
        self._prefix = b"http://" + authority_of(endpoint)
        auth = proxy.authorization
        self._fields = b"\r\nproxy-authorization: %b\r\n" % auth if auth is not None else b"\r\n"

    def rewrite(self, wire: bytes) -> bytes:
        line, _, fields = wire.partition(b"\r\n")
        method, _, rest = line.partition(b" ")
        return b"%b %b%b%b%b" % (method, self._prefix, rest, self._fields, fields)


class Room:
    """All connections of one endpoint."""

    __slots__ = (
        "_connector",
        "_counters",
        "_loop",
        "_retired",
        "connecting",
        "conns",
        "endpoint",
        "forward",
        "idle",
        "unused_since",
        "waiting",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, endpoint: Endpoint, connector: Connector, counters: "Counters"
    ) -> None:
        self._loop = loop
        self._connector = connector
        self._counters = counters
        self._retired = False
        self.endpoint = endpoint
        proxy = None if endpoint.tls else connector.proxy_for(endpoint)
        self.forward = Forward(endpoint, proxy) if proxy is not None else None
        self.conns: set[Connection] = set()
        self.idle: list[Connection] = []
        self.connecting: set[PooledCall] = set()
        """calls whose connect task is not over: each holds a slot, cancelled or not"""
        self.waiting: deque[PooledCall] = deque()
        self.unused_since = 0.0

    # -- calls

    def open(self, endpoint: Endpoint, head: RequestHead, body: bytes, sink: Sink) -> PooledCall:
        if endpoint is not self.endpoint:
            self.endpoint = endpoint
        call = PooledCall(self, endpoint, head, body, sink)
        idle = self.idle
        while idle:
            conn = idle.pop()
            if not conn.is_closing():
                call.reused = True
                conn.start(call)
                return call
        self._enqueue(call)
        return call

    def retry(self, call: PooledCall) -> None:
        """A kept-alive connection was dead before any answer: once more, on a new connection, ahead of the queue."""
        self._counters.retried += 1
        call.retried = True
        call.reused = False
        call.phase_at = 0.0
        self._connect(call)

    def leave_queue(self, call: PooledCall) -> None:
        if call in self.waiting:
            self.waiting.remove(call)

    def _enqueue(self, call: PooledCall) -> None:
        if self._retired:
            self._loop.call_soon(call.fail, "target_down", "connect", "this target is being removed")
        elif len(self.waiting) < QUEUE_FACTOR * self.endpoint.max_connections:
            # through the queue even when a slot is free: others may wait for that slot since this loop turn
            self.waiting.append(call)
            self._serve_queue()
        else:
            self._loop.call_soon(call.fail, "target_slow", "connect", "too many calls wait for a connection")

    def _serve_queue(self) -> None:
        """Slots became free: start connecting for those who wait."""
        limit = self.endpoint.max_connections
        while self.waiting and len(self.conns) + len(self.connecting) < limit:
            self._connect(self.waiting.popleft())

    # -- connecting

    def _connect(self, call: PooledCall) -> None:
        self.connecting.add(call)
        self._counters.connects += 1
        task = self._loop.create_task(self._connector.connect(call.endpoint, lambda: Connection(self)))
        call.connecting = task
        task.add_done_callback(lambda task: self._connected(call, task))

    def _connected(self, call: PooledCall, task: "asyncio.Task[Connection]") -> None:
        self.connecting.discard(call)
        call.connecting = None
        if task.cancelled():
            self._serve_queue()
            call.fail("target_down", "connect", STOPPING)
            return
        error = task.exception()
        if error is not None:
            self._counters.connect_failures += 1
            self._serve_queue()
            if isinstance(error, ConnectError):
                call.fail(error.error_class, "connect", error.detail, timeout=error.timeout)
                return
            call.fail("target_down", "connect", "connection failed")
            raise error
        conn = task.result()
        if conn.lost:
            self._serve_queue()
            call.fail("target_down", "connect", "connection closed as soon as it was made")
            return
        self.conns.add(conn)
        if call.done:
            self.take_back(conn)
            return
        call.phase_at = 0.0
        conn.start(call)
        call.sink.connected(reused=False)

    # -- connections

    def take_back(self, conn: Connection) -> None:
        """The connection is free: the next who waits gets it."""
        if self.waiting:
            call = self.waiting.popleft()
            call.reused = True
            call.phase_at = 0.0
            conn.start(call)
            call.sink.connected(reused=True)
        elif self._retired or len(self.idle) >= MAX_IDLE or conn.is_closing():
            conn.close()
        else:
            self.idle.append(conn)

    def leave(self, conn: Connection) -> None:
        """The connection is closed or closing."""
        if conn in self.conns:
            self.conns.discard(conn)
            if conn in self.idle:
                self.idle.remove(conn)
            if self.waiting:
                # not now: `leave` is called from the middle of other steps, a retry's among them, which has precedence
                self._loop.call_soon(self._serve_queue)

    # -- upkeep

    def sweep(self, now: float) -> None:
        for conn in tuple(self.conns):
            call = conn.call
            if call is not None:
                conn.check(call, now)
            elif not conn.idle_since:
                conn.idle_since = now
            elif now - conn.idle_since >= MAX_IDLE_S:
                conn.close()
        for call in tuple(self.connecting):
            if not call.done:
                call.check_waiting(now)
        for call in tuple(self.waiting):
            call.check_waiting(now)

    def retire(self) -> None:
        """Close what is idle, and every other connection when its call is over."""
        self._retired = True
        for conn in tuple(self.idle):
            conn.close()

    def close(self) -> None:
        """Fail every call and close every connection."""
        self.retire()
        for call in (*self.waiting, *self.connecting):
            call.fail("target_down", "connect", STOPPING)
        for conn in tuple(self.conns):
            if conn.call is not None:
                conn.call.fail("target_down", "stream" if conn.streaming else "first_byte", STOPPING)
            conn.close()

    @property
    def empty(self) -> bool:
        return not (self.conns or self.connecting or self.waiting)
