"""`GuardedHttp`: all that is not `/v1/`, served by the control plane's ASGI application on the same connection.

A small subclass of uvicorn's protocol. uvicorn has no limit on head sizes, on the time to send a head or a body, on
body sizes, and no rule on Host; this adds them, and cuts the byte stream at message boundaries, so that one message at
a time reaches uvicorn and the connection can go back to the data plane when the next request is for `/v1/`.

Rules of this state machine
- HEAD: bytes are held until a head is whole, checked by the data plane's rules (`wire.http1`), then passed on as is.
- BODY: bytes are counted by the same framing as the data plane's, and passed on; what follows the body is held.
- BUSY: the message is whole, its answer is not: bytes are held, and past `pipelined_bytes` reading stops.
- FULL: the answer is complete and not taken yet; until it is, no further request is read.
- When the answer is complete: the held bytes decide who serves the next message.
- Upgrade is ignored: the field is taken out, since with it uvicorn's parser takes a body for the next request, which
  would then pass every guard.
uvicorn is pinned exactly; the hand-over tests guard its upgrades.
"""

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from potluck.wire.http1 import DRAIN_BYTES, BadRequest, BodyReader, find_head_end, parse_head

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from potluck.proxy.plane import Plane

HEAD, BODY, BUSY, FULL, LINGER, GONE = range(6)
FOREVER = float("inf")
MAX_BODY_BYTES = 8 * 1024 * 1024
"""of the control plane: configuration documents, never prompts"""
_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)
clock = time.monotonic


class GuardedHttp(HttpToolsProtocol):
    """One connection, while it speaks to the control plane."""

    def __init__(self, plane: "Plane", config: "Config", server_state: "ServerState") -> None:
        super().__init__(config, server_state, {}, plane.loop)
        self.plane = plane
        self.deadline = FOREVER
        self._held = b""
        self._searched_bytes = 0
        self._reader: BodyReader | None = None
        self._phase = HEAD
        self._started_at = 0.0
        self._linger_bytes = 0
        self._chunked = False
        self._reading_stopped = False
        self._write_blocked = False
        self._unsent_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.plane.guarded.add(self)
        self.deadline = clock() + self.plane.limits.keep_alive_s

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = GONE
        self.plane.guarded.discard(self)
        super().connection_lost(exc)

    # --- reading

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        try:
            if phase == HEAD:
                held, self._held = self._held, b""
                self._read_head(held + data if held else data)
            elif phase == BODY:
                self._read_body(data)
            elif phase in (BUSY, FULL):
                self._hold(data)
            elif phase == LINGER:
                self._linger_bytes -= len(data)
                if self._linger_bytes <= 0:
                    self.transport.close()
        except BadRequest as error:
            self._refuse(error)

    def _read_head(self, data: bytes) -> None:
        data = data.lstrip(b"\r\n")
        if not data:
            return
        if _for_data_plane(data):
            self._hand_back(data)
            return
        end = find_head_end(data, self._searched_bytes)
        if end < 0:
            if not self._searched_bytes:
                self.deadline = clock() + self.plane.limits.head_s
            self._searched_bytes = len(data)
            self._held = data
            return
        self._searched_bytes = 0
        raw = data[:end]
        head = parse_head(raw)
        if not self.plane.host_is_allowed(head.headers.get(b"host", b"")):
            raise BadRequest(421, "this gateway does not answer under that host name")
        if head.content_length > MAX_BODY_BYTES:
            raise BadRequest(413, f"the request body is larger than {MAX_BODY_BYTES} bytes")
        self._started_at = clock()
        self._reader = BodyReader(head, MAX_BODY_BYTES)
        self._chunked = head.chunked
        self._phase = BODY
        self._feed(_UPGRADE.sub(b"", raw) if b"upgrade" in head.headers else raw)
        self._read_body(data[end:])

    def _read_body(self, data: bytes) -> None:
        reader = self._reader
        assert reader is not None
        taken = reader.feed(data)
        reader.discard()
        done = reader.done
        if done:
            # before the bytes go on: uvicorn may answer, and ask for the next message, while it takes them
            self._phase = BUSY
            self._reader = None
            self.deadline = FOREVER
            if taken < len(data):
                self._hold(data[taken:])
        else:
            limits = self.plane.limits
            self.deadline = min(clock() + limits.body_idle_s, self._started_at + limits.body_total_s)
        if taken:
            self._feed(data if taken == len(data) else data[:taken])

    def _feed(self, data: bytes) -> None:
        super().data_received(data)

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > self.plane.limits.pipelined_bytes:
            self._reading_stopped = True
            self.transport.pause_reading()  # each time: uvicorn may have resumed it for the body's sake

    # --- uvicorn's side

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_blocked = True
        if self._phase == BUSY:
            self.deadline = clock() + self.plane.limits.caller_stall_s

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_blocked = False
        if self._phase == FULL:
            self._await_next()
        elif self._phase == BUSY and not self.transport.is_closing():
            self.deadline = FOREVER

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # one deadline, ours
        if self._phase == GONE:
            return
        if self.transport.is_closing():
            self._await_close()
        elif self._phase == BODY:
            # answered before its body was whole: the rest is not wanted, and the boundary is not known
            self._linger()
        elif self._phase == BUSY:
            if self.plane.draining:
                self.transport.close()
                self._await_close()
            elif self._write_blocked:
                self._phase = FULL
                self.deadline = clock() + self.plane.limits.caller_stall_s
            else:
                self._await_next()

    def _await_close(self) -> None:
        """The transport closes once the caller has taken the rest."""
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self.deadline = clock() + self.plane.limits.caller_stall_s

    def _await_next(self) -> None:
        self.deadline = clock() + self.plane.limits.keep_alive_s
        if self._held:
            self._phase = BUSY  # what comes before the next turn queues behind what was read ahead
            self.plane.loop.call_soon(self._next)
        else:
            self._phase = HEAD
            self._read_on()

    def _next(self) -> None:
        if self._phase == BUSY:
            self._phase = HEAD
            self.data_received(b"")
            if self._phase in (HEAD, BODY):
                self._read_on()  # only now: what was read ahead is used up

    def _read_on(self) -> None:
        if self._reading_stopped:
            self._reading_stopped = False
            self.transport.resume_reading()

    # --- refusals, deadlines, hand-back

    def _refuse(self, error: BadRequest) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # the application is answering this very message: what it says can't be trusted to end, so cut
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.abort()
                return
            self.cycle.response_started = True
            self.cycle.response_complete = True
        self.transport.write(self.plane.problem_answer(error.status, error.message))
        self._linger()

    def _linger(self) -> None:
        self._phase = LINGER
        self._held = b""
        self._linger_bytes = DRAIN_BYTES
        self.deadline = clock() + self.plane.limits.linger_s
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def on_deadline(self) -> None:
        """Swept by the plane: the head, the body, the next request or the caller's close did not come in time."""
        self.deadline = FOREVER
        if self.transport.is_closing():
            if 0 < self.transport.get_write_buffer_size() < self._unsent_bytes:
                self._await_close()  # slow, but taking the answer
            else:
                self.transport.abort()
        elif self._phase == BODY or (self._phase == HEAD and self._held):
            self._refuse(BadRequest(408, "the request was not sent in time"))
        elif self._phase == LINGER or self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def is_busy(self) -> bool:
        """A message is being answered, or its answer is not taken yet."""
        return self._phase in (BUSY, FULL) or self.transport.get_write_buffer_size() > 0

    def on_drain(self) -> None:
        if self._phase == HEAD and not self._held:
            self.transport.close()
        else:
            self.shutdown()

    def _hand_back(self, data: bytes) -> None:
        self.plane.guarded.discard(self)
        self.connections.discard(self)
        self._unset_keepalive_if_required()
        self._phase = GONE
        self._read_on()
        transport: asyncio.Transport = self.transport
        protocol = self.plane.make_connection()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(data)


def _for_data_plane(data: bytes) -> bool:
    space = data.find(b" ", 0, 32)
    return space > 0 and data[space + 1 : space + 5] == b"/v1/"
