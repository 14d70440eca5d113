"""The pool: `ports.Upstream` over HTTP/1.1 connections, one room per endpoint key."""

import asyncio
import ssl
from typing import NamedTuple

from potluck.model.snapshot import CompiledTarget, RequestHead
from potluck.ports import Call, Sink
from potluck.upstream.connect import Connector
from potluck.upstream.dns import Resolver
from potluck.upstream.proxy_settings import ProxySettings
from potluck.upstream.room import Room

FORGET_AFTER_S = 600.0
"""an endpoint without a connection and a call for this long is no longer listed; its next call makes a new room"""


class EndpointStats(NamedTuple):
    """Numbers of one endpoint, right now. `open` = idle + in_flight."""

    open: int
    idle: int
    in_flight: int
    connecting: int
    waiting: int


class PoolStats(NamedTuple):
    """`endpoints` by `Endpoint.key`; the rest counts since the pool was made."""

    endpoints: dict[str, EndpointStats]
    connects: int
    connect_failures: int
    retried: int
    """calls that found their kept-alive connection dead and went out again on a new one"""


class Counters:
    """Since the pool was made."""

    __slots__ = ("connect_failures", "connects", "retried")

    def __init__(self) -> None:
        self.connects = 0
        self.connect_failures = 0
        self.retried = 0


class Pool:
    """Carries calls to endpoints over kept-alive connections.

    The runtime calls `sweep` about ten times a second; without it no deadline fires and nothing idle is closed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        resolver: Resolver | None = None,
        tls_context: ssl.SSLContext | None = None,
        proxies: ProxySettings | None = None,
    ) -> None:
        """`tls_context` None: the system's trust store, read at the first TLS connection. `proxies` None: no proxy."""
        self._loop = loop
        self._connector = Connector(loop, resolver=resolver, tls_context=tls_context, proxies=proxies)
        self._counters = Counters()
        self._rooms: dict[str, Room] = {}
        self._retired: list[Room] = []
        self._closed = False

    def open(self, target: CompiledTarget, head: RequestHead, body: bytes, sink: Sink) -> Call:
        """Start a call: written at once if a connection is idle. Never raises; the sink is called later, never from
        here."""
        endpoint = target.endpoint
        room = self._rooms.get(endpoint.key)
        if room is None:
            room = self._rooms[endpoint.key] = Room(self._loop, endpoint, self._connector, self._counters)
            if self._closed:
                room.retire()
        return room.open(endpoint, head, body, sink)

    def sweep(self, now: float) -> None:
        """Fire deadlines that have passed, close what was idle too long. `now`: seconds of any monotonic clock."""
        for key, room in tuple(self._rooms.items()):
            room.sweep(now)
            if not room.empty:
                room.unused_since = 0.0
            elif not room.unused_since:
                room.unused_since = now
            elif now - room.unused_since >= FORGET_AFTER_S:
                del self._rooms[key]
        for room in tuple(self._retired):
            room.sweep(now)
            if room.empty:
                self._retired.remove(room)

    def forget(self, key: str) -> None:
        """The endpoint is gone from the configuration: idle connections close now, others when their call is over."""
        room = self._rooms.pop(key, None)
        if room is not None:
            room.retire()
            self._retired.append(room)

    def close(self) -> None:
        """Fail every call and close every connection. Sockets are gone one loop turn later."""
        self._closed = True
        for room in (*self._rooms.values(), *self._retired):
            room.close()
        self._connector.close()

    def stats(self) -> PoolStats:
        """For metrics."""
        counters = self._counters
        return PoolStats(
            {key: _stats(room) for key, room in self._rooms.items()},
            counters.connects,
            counters.connect_failures,
            counters.retried,
        )


def _stats(room: Room) -> EndpointStats:
    opened, idle = len(room.conns), len(room.idle)
    return EndpointStats(opened, idle, opened - idle, len(room.connecting), len(room.waiting))
