"""One upstream connection: the bytes of one call at a time.

States of `_stage`, the only ways between them:

    IDLE ──start──▶ SENT ──first byte──▶ HEAD ──head complete──▶ BODY ──message complete──▶ IDLE (or CLOSED)
    any ──close · connection_lost──▶ CLOSED

Rules:
1. In IDLE any byte and any EOF closes the connection: nothing was asked, so nothing can be an answer.
2. It goes back to IDLE only when the read that completed the message ended exactly there, the request was written out,
   the framing allows keep-alive and nobody has found a fault. The parser is stopped at the first byte of a second
   message, so that not one of its bytes can reach a caller.
3. The response head (all 1xx heads before it included) has at most `MAX_HEAD_BYTES`; a body phase that brings so many
   bytes without any content (chunk extensions, trailers) ends too. At most `MAX_INTERIM` 1xx; 101 is a fault, since
   nobody asked.
4. A coding other than exactly `chunked`, or a length beside it, is a fault. Without either the body ends at close.
5. The sink hears of one read in the order head, data (joined to one piece), end; every callback may cancel the call.
6. A whole answer in one read whose head is byte for byte that of an earlier one on this connection, but for the digits
   of its Content-Length, is that one with another length: it is not parsed again. Servers of one's own mostly answer
   so, within a second of their Date.
7. A sink should not raise. One that does loses its call and what that runs on; nobody else's.
"""

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from potluck.model.faults import fault_of
from potluck.upstream.failures import lost_detail

if TYPE_CHECKING:
    from potluck.upstream.call import PooledCall
    from potluck.upstream.room import Room

log = logging.getLogger("potluck.upstream")

MAX_HEAD_BYTES = 64 * 1024
"""Node.js allows 16 KiB, Go 1 MiB, nginx 4–8 KiB by default; the heads of large providers stay under 16 KiB"""
MAX_INTERIM = 16
"""Go's limit is 5 where nobody looks at them; CDNs send a few 103"""
JOIN_BYTES = 64 * 1024
"""A body up to this size is copied behind its head, a larger one is written beside it (`writev`, no copy). Two separate
writes cost 5 µs more from 16 KB to 100 KB; copy and `writev` are even at 64 KB."""

MAX_MISSES = 8
"""heads in a row that differed from the remembered one, after which only one in `MAX_MISSES` squared is remembered"""
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})(?=\r\n)", re.IGNORECASE)

IDLE, SENT, HEAD, BODY, CLOSED = range(5)

_LINE_ENDS = (10, 13)
_STOPPED = (HttpParserError, HttpParserUpgrade)
"""what the parser raises when it goes no further; the second is no subclass of the first"""


class _SecondMessageError(Exception):
    """Stops the parser: the upstream goes on after the message that it was asked for."""


class Connection(asyncio.Protocol):
    """The protocol of one connection, owned by the room of its endpoint."""

    __slots__ = (
        "_barren_bytes",
        "_chunked",
        "_complete",
        "_fault",
        "_feed",
        "_fields",
        "_head",
        "_head_bytes",
        "_interim",
        "_keep_alive",
        "_known",
        "_known_after",
        "_known_head",
        "_misses",
        "_parser",
        "_paused",
        "_pieces",
        "_stage",
        "_status",
        "_until_close",
        "_write",
        "call",
        "heard",
        "idle_since",
        "is_closing",
        "on_body",
        "on_header",
        "room",
        "streaming",
        "transport",
    )

    def __init__(self, room: "Room") -> None:
        self.room = room
        self.call: PooledCall | None = None
        self.heard = False
        """bytes came since the last sweep"""
        self.streaming = False
        """body bytes came: the idle deadline has taken over from the first-byte deadline"""
        self.idle_since = 0.0
        self.transport: asyncio.Transport
        self._stage = IDLE
        self._paused = False
        self._pieces: list[bytes] = []
        # the parser calls these itself: no Python frame per chunk and header field
        self.on_body = self._pieces.append
        self._fields: dict[bytes, bytes] = {}
        self.on_header = self._fields.__setitem__
        self._parser: Any = HttpResponseParser(self)
        self._feed = self._parser.feed_data
        self._head: dict[bytes, bytes] = {}
        self._status = 0
        self._head_bytes = 0
        self._barren_bytes = 0
        self._interim = 0
        self._complete = False
        self._keep_alive = False
        self._chunked = False
        self._until_close = False
        self._fault = ""
        self._known = b""
        """an earlier answer's head up to the digits of its length; empty: none is remembered"""
        self._known_after = b""
        self._known_head: dict[bytes, bytes] = {}
        self._misses = 0

    # -- the pool's side

    def start(self, call: "PooledCall") -> None:
        """Write the call's request. Only in IDLE, on an open transport."""
        self.call = call
        call.conn = self
        self._stage = SENT
        self._fields.clear()
        self._head_bytes = 0
        self._complete = False
        self.heard = False
        self.streaming = False
        body, wire = call.body, call.head.wire
        if self.room.forward is not None:
            wire = self.room.forward.rewrite(wire)
        if len(body) <= JOIN_BYTES:
            self._write(b"%b%d\r\n\r\n%b" % (wire, len(body), body))
        else:
            self.transport.writelines((b"%b%d\r\n\r\n" % (wire, len(body)), body))

    def close(self) -> None:
        """Close at once, whatever is under way; no callback follows."""
        self.call = None
        if self._stage != CLOSED:
            self._stage = CLOSED
            self.room.leave(self)
            self.transport.abort()

    @property
    def lost(self) -> bool:
        return self._stage == CLOSED

    def pause(self) -> None:
        if not self._paused and not self.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if not self.is_closing():
                self.transport.resume_reading()

    def check(self, call: "PooledCall", now: float) -> None:
        """Sweep of a running call: total, first-byte and idle deadlines. The idle one rests while reading is paused."""
        timeouts = call.endpoint.timeouts
        if not call.total_at:
            call.total_at = now + timeouts.total_s
        if not call.phase_at:
            call.phase_at = now + timeouts.first_byte_s
        if self.streaming and (self.heard or self._paused):
            self.heard = False
            call.phase_at = now + timeouts.idle_s
        elif now >= call.phase_at:
            if self.streaming:
                call.fail("target_slow", "stream", "the answer stalled", timeout=True)
            else:
                call.fail("target_slow", self._phase(), "no answer in time", timeout=True)
        if now >= call.total_at:
            phase = "stream" if self.streaming else self._phase()
            call.fail("target_slow", phase, "the call took longer than allowed", timeout=True)

    # -- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # not an isinstance check: uvloop's transports are no subclass
        self.transport = own = cast("asyncio.Transport", transport)
        self.is_closing = own.is_closing
        self._write = own.write

    def data_received(self, data: bytes) -> None:
        call = self.call
        if call is None:
            self.close()
            return
        try:
            self.heard = True
            if self._stage != BODY:
                if not self._known or self._stage != SENT or not self._recognise(call, data):
                    self._read_head(call, data)
                return
            try:
                self._feed(data)
            except _STOPPED:
                self._malformed()
            pieces = self._pieces
            if pieces:
                self.streaming = True
                self._barren_bytes = 0
                chunk = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                last = pieces[-1]
                pieces.clear()
                call.sink.data(chunk)
                if (self._complete or self._fault) and self.call is call:
                    self._conclude(call, data, last)
            elif self._complete or self._fault:
                self._conclude(call, data, b"")
            else:
                self._barren_bytes += len(data)
                if self._barren_bytes > MAX_HEAD_BYTES:
                    call.fail("target_down", "stream", "the answer's framing goes on without content")
        except Exception as error:
            self._broke(call, error)

    def eof_received(self) -> None:
        # everything before the EOF has been delivered; a graceful close would wait for unsent bytes of the request
        if self.call is None:
            self.close()
        else:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        call = self.call
        self.call = None
        stage = self._stage
        self._stage = CLOSED
        # the parser holds bound methods of this object: without this only the cycle collector would free the two
        del self._parser, self._feed
        if stage != CLOSED:
            self.room.leave(self)
        if call is None or call.done:
            return
        call.conn = None
        try:
            if stage == SENT and call.reused and not call.retried and call.sink.may_resend():
                self.room.retry(call)
            elif stage == BODY and self._until_close and exc is None:
                call.done = True
                call.sink.end_by_close()
            elif stage == BODY:
                call.fail("target_down", "stream", f"cut: {lost_detail(exc)} before the answer's end")
            elif stage == HEAD:
                call.fail("target_down", "first_byte", f"cut: {lost_detail(exc)} inside the answer's head")
            else:
                call.fail("target_down", self._phase(), f"{lost_detail(exc)} before any answer")
        except Exception as error:
            self._broke(call, error)

    # -- the parser's side: remember, deliver later

    def on_message_begin(self) -> None:
        if self._complete:
            raise _SecondMessageError

    def on_headers_complete(self) -> None:
        parser = self._parser
        status = self._status = parser.get_status_code()
        if status < 200:
            self._interim += 1
            if status == 101:
                self._fault = "the answer switches protocols, which nobody asked for"
            elif self._interim > MAX_INTERIM or status < 100:
                self._fault = "the answer is malformed"
            return
        self._stage = BODY
        # a copy: trailers go to the fields, which nobody reads any more
        headers = self._head = {name.lower(): value for name, value in self._fields.items()}
        self._keep_alive = parser.should_keep_alive()
        coding = headers.get(b"transfer-encoding")
        self._chunked = coding is not None
        if coding is not None and coding.rstrip().lower() != b"chunked":
            self._fault = "the answer has an unknown transfer coding"
        self._until_close = not (self._keep_alive or self._chunked or b"content-length" in headers)

    def on_message_complete(self) -> None:
        if self._status < 200:
            self._fields.clear()
        else:
            self._complete = True

    # -- steps

    def _recognise(self, call: "PooledCall", data: bytes) -> bool:
        """Deliver a whole answer whose head is known (rule 6). False: it is another one, and nothing was done."""
        known = self._known
        start = len(known)
        if data[:start] != known:
            return False
        end = data.find(b"\r", start, start + 16)
        digits, after = data[start:end], self._known_after
        body_at = end + len(after)
        if end < 0 or not digits.isdigit() or data[end:body_at] != after or len(data) - body_at != int(digits):
            return False
        body = data[body_at:]
        if not body:
            return False
        self._misses = 0
        call.body = b""
        head = self._known_head
        head[b"content-length"] = digits
        call.sink.head(200, head)
        if self.call is call:
            self.streaming = True
            call.sink.data(body)
        if self.call is call:
            self._release(call, clean=True)
        return True

    def _remember(self, data: bytes, body_bytes: int) -> None:
        """Keep the head of a whole answer that came in one read, unless those on this connection never repeat."""
        self._misses = misses = self._misses + 1
        if misses > MAX_MISSES and misses % (MAX_MISSES * MAX_MISSES):
            return
        head = data[: len(data) - body_bytes]
        found = _CONTENT_LENGTH.search(head)
        if found is not None and int(found[1]) == body_bytes:
            self._known, self._known_after = head[: found.start(1)], head[found.end(1) :]
            self._known_head = self._head

    def _read_head(self, call: "PooledCall", data: bytes) -> None:
        if self._stage == SENT:
            self._stage = HEAD
            # from the first byte on there is no retry: the request's bytes need not be kept any longer
            call.body = b""
            self._interim = 0
            self._barren_bytes = 0
            self._until_close = False
        before = self._head_bytes
        self._head_bytes = before + len(data)
        try:
            if self._head_bytes <= MAX_HEAD_BYTES:
                self._feed(data)
            else:
                allowed = MAX_HEAD_BYTES - before
                self._feed(data[:allowed])
                if self._stage == BODY:
                    self._feed(data[allowed:])
                else:
                    self._fault = self._fault or "the answer's head is too large"
        except _STOPPED:
            self._malformed()
        if self._fault:
            # whatever the read held before the fault: without it in the caller's hands, another target can still be
            # tried
            call.fail("target_down", "first_byte", self._fault)
            return
        if self._stage != BODY:
            return
        pieces = self._pieces
        if call.head.method == "HEAD":
            # the parser would wait for the body that the head describes
            self._complete, self._keep_alive = True, False
            pieces.clear()
        last = b""
        call.sink.head(self._status, self._head)
        if pieces:
            chunk = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            last = pieces[-1]
            pieces.clear()
            if self.call is call:
                self.streaming = True
                call.sink.data(chunk)
        if self._complete and self.call is call:
            if last and self._status == 200 and self._head_bytes == len(data) and self._keep_alive:
                self._remember(data, len(last))
            self._conclude(call, data, last)

    def _broke(self, call: "PooledCall", error: Exception) -> None:
        """A fault of our own in this call: it ends here, and its connection with it."""
        log.error("an upstream call was ended by a fault of ours: %s", fault_of(error))
        call.fail("target_down", "stream" if self.streaming else "first_byte", "its answer could not be handled")

    def _malformed(self) -> None:
        """The parser stopped: either the message is broken, or it is whole and something unasked for follows it."""
        if self._complete:
            self._keep_alive = False
        else:
            self._fault = self._fault or "the answer is malformed"

    def _conclude(self, call: "PooledCall", data: bytes, last: bytes) -> None:
        """The read brought the message's end or a fault."""
        if self._fault:
            call.fail("target_down", "stream", self._fault)
            return
        self._release(call, clean=self._keep_alive and ends_with_message(data, last, chunked=self._chunked))

    def _release(self, call: "PooledCall", clean: bool) -> None:
        """The call has all of its answer. `clean`: the connection may carry another one."""
        call.done = True
        call.conn = None
        self.call = None
        if clean and not self.transport.get_write_buffer_size() and not self.is_closing():
            self._stage = IDLE
            if self._paused:
                self.resume()
            self.idle_since = 0.0
            self.room.take_back(self)
        else:
            self.close()
        call.sink.end()

    def _phase(self) -> str:
        return "send" if self._stage == SENT and self._unsent() else "first_byte"

    def _unsent(self) -> bool:
        return self.transport.get_write_buffer_size() > 0


def ends_with_message(data: bytes, last: bytes, *, chunked: bool) -> bool:
    """Does the read that completed a message end with the message's last byte?

    The parser reports the first byte of a second message, but passes over line ends between messages in silence.
    `last` is the last piece of body in `data`. A read too short to tell counts as no: that costs a connection, not a
    caller.
    """
    if last and not chunked:
        return data[-1] not in _LINE_ENDS or (data.endswith(last) and bool(last.strip(b"\r\n")))
    # a head, a last chunk or a trailer section: exactly one empty line ends it
    return data.endswith(b"\r\n\r\n") and len(data) > 4 and data[-5] not in _LINE_ENDS
