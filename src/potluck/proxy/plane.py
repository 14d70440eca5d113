"""What all exchanges share: the snapshot, the upstreams, the recorder, the meter, the limits, and who is active."""

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import TYPE_CHECKING

import msgspec

from potluck.model.ids import RequestIds
from potluck.ports import Meter, Recorder, SnapshotSource, Upstream
from potluck.proxy.answers import CLOSE, STATUS_LINES
from potluck.proxy.limits import PlaneLimits
from potluck.proxy.registry import Registry
from potluck.proxy.routing import Router

if TYPE_CHECKING:
    from potluck.proxy.exchange import Exchange
    from potluck.proxy.guarded import GuardedHttp
    from potluck.proxy.listener import Connection

DRAIN_STEP_S = 0.01
LAST_WORDS_S = 1.0
"""for errors told at the drain's deadline to reach their callers"""
GUARDED_S = 2.0
"""for answers of the control plane: some of its streams never end"""

RequestLookup = Callable[[str, str, Callable[[bytes | None], None]], None]
"""`lookup(request_id, key_id, answer)`: the stored record of one of the key's own requests as JSON, or None"""


class Plane:
    """The data plane's shared state. Everything here lives on one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        snapshots: SnapshotSource,
        upstreams: dict[str, Upstream],
        recorder: Recorder,
        meter: Meter,
        *,
        limits: PlaneLimits | None = None,
        lookup: RequestLookup | None = None,
        allowed_hosts: frozenset[bytes] | None = None,
        registry: Registry | None = None,
    ) -> None:
        self.loop = loop
        self.snapshots = snapshots
        self.upstreams = upstreams
        self.recorder = recorder
        self.meter = meter
        self.limits = limits or PlaneLimits()
        self.lookup = lookup
        self.allowed_hosts = allowed_hosts
        """names under which the control plane answers, in lower case; None: any. Rebinding needs a foreign name, so an
        address is always allowed, and no Host (HTTP/1.0) too"""
        self.registry = registry or Registry()
        self.router = Router(snapshots, self.registry, recorder.plan)
        self.ids = RequestIds()
        self.exchanges: set[Exchange] = set()
        self.connections: set[Connection] = set()
        self.guarded: set[GuardedHttp] = set()
        self.draining = False
        self.buffered_bytes = 0
        self.date = b""
        """the Date field, renewed each second"""
        self.unix_offset_us = 0
        """from the monotonic clock to unix time, renewed at each sweep"""
        self.now = time.monotonic()
        """of the last sweep: near enough for deadlines of many seconds"""
        self._date_at = 0
        self.links: Callable[[], asyncio.Protocol] | None = None
        """makes the protocol that takes over a connection whose request is for the node link"""
        self._guard: Callable[[Connection], asyncio.Protocol] | None = None
        self.guard_is_missing = False
        """the control plane could not be started: nobody waits for it any more"""
        self._awaiting_guard: set[Connection] = set()
        self._drain_until = 0.0
        self.sweep(time.monotonic())

    # the control plane's protocol; it is imported after the data plane listens
    @property
    def guard(self) -> "Callable[[Connection], asyncio.Protocol] | None":
        return self._guard

    def set_guard(self, factory: "Callable[[Connection], asyncio.Protocol]") -> None:
        """The control plane is ready: connections that asked for it meanwhile go on."""
        self._guard = factory
        self._end_wait()

    def set_guard_missing(self) -> None:
        """The control plane could not be started: who asks for it, or waits, is told so."""
        self.guard_is_missing = True
        self._end_wait()

    def _end_wait(self) -> None:
        waiting, self._awaiting_guard = self._awaiting_guard, set()
        for connection in waiting:
            connection.guard_is_ready()

    def await_guard(self, connection: "Connection") -> None:
        self._awaiting_guard.add(connection)

    def await_guard_no_more(self, connection: "Connection") -> None:
        self._awaiting_guard.discard(connection)

    def problem_answer(self, status: int, detail: str) -> bytes:
        """A whole refusal in the control plane's form (RFC 9457); the connection closes after it."""
        body = msgspec.json.encode(
            {
                "type": "about:blank",
                "title": STATUS_LINES[status][13:-2].decode(),
                "status": status,
                "detail": detail,
                "request_id": self.ids.next(),
            }
        )
        return b"%scontent-type: application/problem+json\r\ncontent-length: %d\r\n%s\r\n%s" % (
            STATUS_LINES[status],
            len(body),
            CLOSE,
            body,
        )

    def make_connection(self) -> "Connection":
        """A protocol for a new connection, or for one that comes back from the control plane."""
        from potluck.proxy.listener import Connection

        return Connection(self)

    def host_is_allowed(self, host: bytes) -> bool:
        """Whether the control plane answers under this Host field."""
        if self.allowed_hosts is None:
            return True
        name = host.strip(b" \t").lower()
        name = name.partition(b"]")[0] + b"]" if name.startswith(b"[") else name.partition(b":")[0]
        return name in self.allowed_hosts or not name.strip(b"0123456789.") or name[:1] == b"["

    def sweep(self, now: float) -> None:
        """Run all deadlines; called ten times a second. One set is swept, instead of one timer per exchange."""
        self.now = now
        self.unix_offset_us = time.time_ns() // 1000 - time.monotonic_ns() // 1000
        second = int(time.time())
        if second != self._date_at:
            self._date_at = second
            self.date = formatdate(second, usegmt=True).encode()
        self.registry.sweep(now)
        for exchange in list(self.exchanges):
            if now >= exchange.deadline:
                exchange.safely(exchange.on_deadline, now)
        for connection in list(self.connections):
            if now >= connection.deadline:
                connection.on_deadline(now)
        for guarded in list(self.guarded):
            if now >= guarded.deadline:
                guarded.on_deadline()

    async def drain(self, timeout_s: float) -> int:
        """Refuse new requests, close idle connections, wait until those that have begun are over and answers taken.

        Returns how many exchanges were left at the deadline; these, and bodies still on their way, end with an error.
        """
        self.draining = True
        started_at = time.monotonic()
        self._drain_until = started_at + timeout_s
        for connection in list(self.connections):
            connection.on_drain()
        for guarded in list(self.guarded):
            guarded.on_drain()
        await self._while_busy(started_at)
        left = list(self.exchanges)
        for exchange in left:
            exchange.safely(exchange.shut_down)
        for connection in list(self.connections):
            connection.on_drained()
        self._drain_until = time.monotonic() + LAST_WORDS_S
        await self._while_busy(started_at)
        return len(left)

    def cut_drain_short(self) -> None:
        """Somebody is in a hurry: running exchanges end now."""
        self._drain_until = 0.0

    async def _while_busy(self, started_at: float) -> None:
        # polled, once per process: no event tells of an answer that was taken
        while self._is_busy(started_at) and time.monotonic() < self._drain_until:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_STEP_S)

    def _is_busy(self, started_at: float) -> bool:
        """A request is read or answered, an answer is not taken yet, or the control plane is at one (for a moment)."""
        if self.exchanges or any(connection.is_busy() for connection in self.connections):
            return True
        return time.monotonic() < started_at + GUARDED_S and any(guarded.is_busy() for guarded in self.guarded)
