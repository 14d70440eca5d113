"""One upstream call: what the exchange holds, from `Pool.open` to the sink's last callback.

Deadlines are plain attributes, `0.0` while unarmed. The sweep that first sees a call arms them, so nothing on the hot
path reads a clock; they therefore fire up to two sweep intervals late and never early.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from potluck.model.faults import fault_of
from potluck.model.snapshot import Endpoint, RequestHead
from potluck.model.usage import ErrorClass
from potluck.ports import Failure, Sink

if TYPE_CHECKING:
    from potluck.upstream.connection import Connection
    from potluck.upstream.room import Room


log = logging.getLogger("potluck.upstream")


class PooledCall:
    """Implements `ports.Call`. It is in exactly one of four places: queued, connecting, on a connection, done."""

    __slots__ = (
        "body",
        "conn",
        "connecting",
        "done",
        "endpoint",
        "head",
        "phase_at",
        "retried",
        "reused",
        "room",
        "sink",
        "total_at",
    )

    def __init__(self, room: "Room", endpoint: Endpoint, head: RequestHead, body: bytes, sink: Sink) -> None:
        self.room = room
        self.endpoint = endpoint
        self.head = head
        self.body = body
        self.sink = sink
        self.conn: Connection | None = None
        self.connecting: asyncio.Task[Connection] | None = None
        self.done = False
        self.reused = False
        """it runs on a kept-alive connection"""
        self.retried = False
        self.phase_at = 0.0
        """when the running phase is late, on the sweep's clock"""
        self.total_at = 0.0

    @property
    def sent(self) -> bool:
        return self.conn is not None or self.retried or self.done

    def pause(self) -> None:
        if self.conn is not None:
            self.conn.pause()

    def resume(self) -> None:
        if self.conn is not None:
            self.conn.resume()

    def cancel(self, reason: str) -> None:  # noqa: ARG002 — for implementations that can pass the reason on
        if not self.done:
            self.done = True
            self.withdraw()

    def fail(self, error_class: ErrorClass, phase: str, detail: str, *, timeout: bool = False) -> None:
        """The last callback, unless there was one: the sink learns why no (more) answer comes."""
        if not self.done:
            self.done = True
            self.withdraw()
            try:
                self.sink.failed(Failure(error_class, phase, detail, timeout=timeout))
            except Exception as error:  # a sweep calls it for many: the others want to hear it too
                log.error("an upstream call could not be told its failure: %s", fault_of(error))

    def withdraw(self) -> None:
        """Give back whatever the call holds: its connection (closed), its connect task, its place in the queue."""
        conn, task = self.conn, self.connecting
        self.body = b""
        if conn is not None:
            self.conn = None
            conn.close()
        elif task is not None:
            task.cancel()
        else:
            self.room.leave_queue(self)

    def check_waiting(self, now: float) -> None:
        """Sweep of a call without a connection: the connect deadline covers queue, lookup and handshakes."""
        if not self.total_at:
            self.total_at = now + self.endpoint.timeouts.total_s
        if not self.phase_at:
            self.phase_at = now + self.endpoint.timeouts.connect_s
        elif now >= self.total_at:
            self.fail("target_slow", "connect", "the call took longer than allowed", timeout=True)
        elif now >= self.phase_at:
            queued = self.connecting is None
            detail = "no connection became free in time" if queued else "connect timed out"
            self.fail("target_slow", "connect", detail, timeout=True)
