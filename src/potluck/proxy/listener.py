"""Bytes from callers: one `Connection` per socket, HTTP/1.1 with keep-alive and pipelining, and who serves what.

Rules
- `/v1/…` is served here, `/node/v1/link` by the hub; everything else goes to the control plane's protocol. What goes
  elsewhere goes whole and at a message boundary.
- One exchange at a time per connection; what is pipelined behind it waits, and past `pipelined_bytes` reading stops.
- WAIT: a request for the control plane, which is still being imported; what comes behind it waits too.
- FULL: the answer is written but not taken yet; until it is, no further request is read, so answers never pile up.
- 401, 404, 405 and 413 are answered at the head, before a body is buffered. A refused body is drained a little, so that
  the answer is not lost to a reset, then the connection closes.
- Every state has a deadline (`deadline`, swept by the plane).

A little longer than most files: the states of one connection are read together.
"""

import asyncio
import time
from typing import Any

from potluck.model.resources import Capability
from potluck.model.snapshot import CompiledKey, Snapshot
from potluck.proxy import own_answers
from potluck.proxy.answers import CONTINUE, connection_field, json_answer
from potluck.proxy.exchange import Exchange
from potluck.proxy.plane import Plane
from potluck.wire.address import peer_prefix
from potluck.wire.errors import RequestError, encode_error
from potluck.wire.http1 import DRAIN_BYTES, BadRequest, BodyReader, Head, HeadReader, find_head_end

HEAD, BODY, BUSY, FULL, WAIT, LINGER, GONE = range(7)

CAPABILITY_PATHS: dict[bytes, Capability] = {
    b"/v1/chat/completions": "chat",
    b"/v1/completions": "completions",
    b"/v1/embeddings": "embeddings",
    b"/v1/responses": "responses",
}
READ_METHODS = frozenset({b"GET", b"HEAD"})
FOREVER = float("inf")
clock = time.monotonic
LINK = b"/node/v1/link"
METHOD_BYTES = 32  # longer than any method: without a space by then it is no HTTP request


class Connection(asyncio.Protocol):
    """One caller's connection, while it speaks to the data plane."""

    __slots__ = (
        "_buffer",
        "_capability",
        "_head",
        "_heads",
        "_known_field",
        "_known_in",
        "_known_key",
        "_linger_bytes",
        "_paused_reading",
        "_reader",
        "_reserved_bytes",
        "_searched_bytes",
        "_started_at",
        "_state",
        "_unsent_bytes",
        "_write_blocked",
        "deadline",
        "exchange",
        "key",
        "plane",
        "transport",
    )

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.transport: Any = None
        self.exchange: Exchange | None = None
        self.key: CompiledKey | None = None
        self._known_field = b""
        self._known_in: Snapshot | None = None
        self._known_key: CompiledKey | None = None
        self._capability: Capability | None = None
        self.deadline = FOREVER
        self._buffer = b""
        self._searched_bytes = 0
        self._state = HEAD
        self._head: Head | None = None
        self._heads = HeadReader()
        self._reader: BodyReader | None = None
        self._reserved_bytes = 0
        self._started_at = 0.0
        self._linger_bytes = 0
        self._paused_reading = False
        self._write_blocked = False
        self._unsent_bytes = 0

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.plane.connections.add(self)
        self.deadline = clock() + self.plane.limits.keep_alive_s

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 — asyncio's signature
        self._state = GONE
        self.plane.connections.discard(self)
        self.plane.await_guard_no_more(self)
        self._release()
        self._buffer = b""
        self._reader = None
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.safely(exchange.caller_gone)

    def pause_writing(self) -> None:
        self._write_blocked = True
        if self.exchange is not None:
            self.exchange.safely(self.exchange.caller_paused)

    def resume_writing(self) -> None:
        self._write_blocked = False
        if self.exchange is not None:
            self.exchange.safely(self.exchange.caller_resumed)
        elif self._state == FULL:
            self._await_next()

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == HEAD:
            if self._buffer:
                data = self._buffer + data
                self._buffer = b""
            try:
                self._read(data)
            except BadRequest as error:
                self._refuse_bytes(error)
        elif state == BODY:
            try:
                self._read_body(data)
            except BadRequest as error:
                self._refuse_bytes(error)
        elif state in (BUSY, FULL, WAIT):
            self._buffer += data
            if len(self._buffer) > self.plane.limits.pipelined_bytes and not self._paused_reading:
                self._paused_reading = True
                self.transport.pause_reading()
        elif state == LINGER:
            self._linger_bytes -= len(data)
            if self._linger_bytes <= 0:
                self.transport.close()

    # --- reading

    def _read(self, data: bytes) -> None:
        """A message begins, or goes on, in `data`."""
        if data[:9] != b"POST /v1/":
            if data[:1] in b"\r\n":
                data = data.lstrip(b"\r\n")  # RFC 9112 §2.2: empty lines before a request line are ignored
                if not data:
                    return
            if not self._is_ours(data):
                return
        try:
            end = find_head_end(data, self._searched_bytes)
        except BadRequest:
            self._searched_bytes = 0
            raise
        if end < 0:
            self._wait_for_head(data)
            return
        self._searched_bytes = 0
        head = self._heads.parse(data if end == len(data) else data[:end])
        self._head = head
        if not self._accept(head):
            if end < len(data) and self._state in (HEAD, FULL):
                self._buffer = data[end:]
                if self._state == HEAD:
                    self._await_next()
            return
        whole = end + head.content_length
        if whole <= len(data) and not head.chunked:
            # the common case: head and body came in one read
            self._hold(head.content_length)
            self._begin(data[end:whole], data[whole:])
            return
        self._reader = BodyReader(head, self.plane.limits.max_body_bytes)
        self._state = BODY
        if end < len(data):
            self._read_body(data[end:])
        elif head.expect_continue:
            self.transport.write(CONTINUE)

    def _is_ours(self, data: bytes) -> bool:
        """Whether the request in `data` is for the data plane; if it is not, or not yet known, see to that."""
        space = data.find(b" ", 0, METHOD_BYTES)
        if space < 0:
            if len(data) >= METHOD_BYTES or b"\n" in data:
                raise BadRequest(400, "this is not an HTTP request")
            self._wait_for_head(data)
            return False
        prefix = data[space + 1 : space + 5]
        if prefix == b"/v1/":
            return True
        if len(prefix) < 4 and b"/v1/".startswith(prefix):
            self._wait_for_head(data)
            return False
        links = self.plane.links
        if prefix[:1] == b"/" and links is not None and LINK.startswith(prefix):
            target = data[space + 1 : space + 2 + len(LINK)]
            if len(target) <= len(LINK) and LINK.startswith(target):
                self._wait_for_head(data)
                return False
            if target[:-1] == LINK and target[-1:] in b" ?":
                self._pass_on(data, links())
                return False
        self._hand_over(data)
        return False

    def _wait_for_head(self, data: bytes) -> None:
        if not self._searched_bytes:
            self.deadline = clock() + self.plane.limits.head_s
        self._buffer = data
        self._searched_bytes = len(data)

    def _accept(self, head: Head) -> bool:
        """All that can be decided at the head. False: refused, and answered."""
        plane = self.plane
        self._started_at = now = clock()
        if plane.draining:
            return self._refuse(head, RequestError("overloaded", "the gateway is shutting down", retry_after_s=1))
        self._capability = capability = CAPABILITY_PATHS.get(head.target) or CAPABILITY_PATHS.get(head.path)
        if capability is not None:
            if head.method != b"POST":
                return self._refuse(head, RequestError("method_not_allowed", "this endpoint takes POST"), b"POST")
        elif not own_answers.serves(head.path):
            shown = head.path.decode("latin-1")[:200]
            return self._refuse(head, RequestError("unknown_url", f"there is no {shown} here"))
        elif head.method not in READ_METHODS:
            return self._refuse(head, RequestError("method_not_allowed", "this endpoint takes GET"), b"GET, HEAD")
        self.key = key = self._authenticate(head)
        if key is None:
            return self._refuse(head, RequestError("invalid_api_key", self._why_no_key(head)))
        limits = plane.limits
        if head.content_length > limits.max_body_bytes:
            message = f"the request body is larger than {limits.max_body_bytes} bytes"
            return self._refuse(head, RequestError("request_too_large", message))
        if head.content_length or head.chunked:
            # nothing is set aside for a length that is only promised: bodies are counted as they come
            if plane.buffered_bytes + head.content_length > limits.buffered_bodies_bytes:
                message = "too many request bodies are being held; try again in a moment"
                return self._refuse(head, RequestError("overloaded", message, retry_after_s=1))
            self.deadline = now + limits.body_idle_s
        return True

    def _authenticate(self, head: Head) -> CompiledKey | None:
        snapshots = self.plane.snapshots
        snapshot = snapshots.current
        given = head.headers.get(b"authorization")
        if given is not None and given == self._known_field and snapshot is self._known_in:
            key = self._known_key  # what this very connection has shown before needs no second hash
        else:
            if given is None:
                token = head.headers.get(b"x-api-key") or head.headers.get(b"api-key")
            else:
                token = given[7:] if given[:7].lower() == b"bearer " else None
            if token is None:
                return None
            key = snapshot.keys.get(snapshots.hash_key(token.strip()))
            if given is not None and key is not None:
                self._known_field, self._known_in, self._known_key = given, snapshot, key
        if key is not None and key.expires_at_s != FOREVER and key.expires_at_s <= own_answers.unix_s():
            return None
        return key

    @staticmethod
    def _why_no_key(head: Head) -> str:
        if any(name in head.headers for name in (b"authorization", b"x-api-key", b"api-key")):
            return "the API key is unknown, expired or revoked; make one with: potluck key create"
        return "no API key was sent; send it as: Authorization: Bearer plk-…"

    def _read_body(self, data: bytes) -> None:
        reader = self._reader
        assert reader is not None
        taken = reader.feed(data)
        plane = self.plane
        self._hold(reader.size_bytes)
        if plane.buffered_bytes > plane.limits.buffered_bodies_bytes:
            raise BadRequest(503, "too many request bodies are being held; try again in a moment")
        if reader.done:
            self._reader = None
            body = reader.body()
            self._begin(body, data[taken:] if taken < len(data) else b"")
            return
        limits, now = plane.limits, clock()
        self.deadline = min(now + limits.body_idle_s, self._started_at + limits.body_total_s)

    def _begin(self, body: bytes, rest: bytes) -> None:
        """The message is whole: start its exchange, or answer it ourselves."""
        head, key = self._head, self.key
        assert head is not None
        assert key is not None
        self._buffer = rest
        self._state = BUSY
        self.deadline = FOREVER
        capability = self._capability
        if capability is None:
            own_answers.answer(self, head, key)
            return
        self.exchange = exchange = Exchange(self.plane, self, key, capability, head, body, self._started_at)
        try:
            exchange.start()
        except Exception as error:
            exchange.broke(error)

    # --- the exchange's side

    def answer(self, status: int, body: bytes, request_id: str, fields: bytes = b"") -> None:
        """Send a whole JSON answer and finish the message. Nothing happens when the caller has gone meanwhile."""
        if self._state == GONE:
            return
        head, plane = self._head, self.plane
        assert head is not None
        keep_alive = head.keep_alive and not plane.draining
        connection = b"" if keep_alive and head.minor else connection_field(head.minor, keep_alive=keep_alive)
        answer = json_answer(status, body, date=plane.date, request_id=request_id, fields=fields, connection=connection)
        self.transport.write(answer if head.method != b"HEAD" else answer[: -len(body)])
        self.finished(keep_alive=keep_alive)

    def finished(self, *, keep_alive: bool) -> None:
        """The message's answer is out: the next message may begin."""
        plane = self.plane
        self.exchange = self.key = self._head = None
        if self._reserved_bytes:
            self._release()
        if self._state == GONE:
            return
        if not keep_alive or plane.draining:
            self._linger()
        elif self._write_blocked:
            self._state = FULL
            self._unsent_bytes = self.transport.get_write_buffer_size()
            self.deadline = clock() + plane.limits.caller_stall_s
            if not self._paused_reading:
                self._paused_reading = True
                self.transport.pause_reading()
        elif self._buffer or self._paused_reading:
            self._await_next()
        else:
            self._state = HEAD
            self.deadline = plane.now + plane.limits.keep_alive_s

    def _await_next(self) -> None:
        self.deadline = clock() + self.plane.limits.keep_alive_s
        if self._buffer:
            self._state = BUSY  # what comes before the next turn queues behind what was read ahead
            self.plane.loop.call_soon(self._next)
        else:
            self._state = HEAD
            self._read_on()

    def _read_on(self) -> None:
        if self._paused_reading:
            self._paused_reading = False
            self.transport.resume_reading()

    def is_busy(self) -> bool:
        """A message is being read or answered, or its answer is not taken yet."""
        return self._state in (BODY, BUSY, FULL) or self.transport.get_write_buffer_size() > 0

    def abort(self) -> None:
        """Cut the connection: what was sent can't be ended honestly."""
        if self.transport is not None:
            self.transport.abort()

    def peer(self) -> str:
        """The caller's address as an aggregation prefix (/24, /64), for counting refused calls."""
        return peer_prefix(self.transport.get_extra_info("peername") if self.transport else None)

    def _next(self) -> None:
        if self._state == BUSY:
            self._state = HEAD
            self.data_received(b"")
            if self._state in (HEAD, BODY):
                self._read_on()  # only now: what was read ahead is used up

    # --- refusals

    def _refuse(self, head: Head, error: RequestError, allow: bytes = b"") -> bool:
        """Answer an error at the head. Always False, for the caller's convenience."""
        plane = self.plane
        request_id = plane.ids.next()
        body = encode_error(error.code, error.message, request_id, param=error.param)
        fields = b"allow: %s\r\n" % allow if allow else b""
        if error.retry_after_s is not None:
            fields += b"retry-after: %d\r\n" % max(1, -int(-error.retry_after_s // 1))
        if error.code == "invalid_api_key":
            fields += b"www-authenticate: Bearer\r\n"
        keep_alive = head.keep_alive and not head.has_body and not plane.draining
        self._count_refusal(error.code, error.message)
        connection = connection_field(head.minor, keep_alive=keep_alive)
        answer = json_answer(
            error.status, body, date=plane.date, request_id=request_id, fields=fields, connection=connection
        )
        self.transport.write(answer if head.method != b"HEAD" else answer[: -len(body)])
        self._buffer = b""
        self.finished(keep_alive=keep_alive)
        return False

    def _refuse_bytes(self, error: BadRequest) -> None:
        """What came is not HTTP as we accept it, or the body is: answer, and close."""
        code = {413: "request_too_large", 414: "request_too_large", 431: "request_too_large"}.get(error.status)
        code = code or {405: "method_not_allowed", 408: "request_timeout", 503: "overloaded"}.get(error.status)
        code = code or "invalid_request"
        request_id = self.plane.ids.next()
        self._count_refusal(code, error.message)
        self.transport.write(
            json_answer(
                error.status,
                encode_error(code, error.message, request_id),
                date=self.plane.date,
                request_id=request_id,
                fields=b"retry-after: 1\r\n" if error.status == 503 else b"",
                connection=connection_field(1, keep_alive=False),
            )
        )
        self._reader = None
        self.finished(keep_alive=False)

    def _count_refusal(self, code: str, message: str) -> None:
        plane = self.plane
        plane.meter.refused(code)
        who = self.key.id if self.key is not None else self.peer()
        plane.recorder.refuse(code, who, int(own_answers.unix_s() * 1000), message)

    def _linger(self) -> None:
        """Close after the answer: half-close, drain what still comes for a moment, then close."""
        self._state = LINGER
        self._buffer = b""
        self._linger_bytes = DRAIN_BYTES
        self._unsent_bytes = self.transport.get_write_buffer_size() + 1  # the first look counts as progress
        self.deadline = clock() + self.plane.limits.linger_s
        self._read_on()
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()  # TLS cannot half-close; close() still flushes the answer

    def _hold(self, size_bytes: int) -> None:
        """Count this many bytes of the body as held."""
        self.plane.buffered_bytes += size_bytes - self._reserved_bytes
        self._reserved_bytes = size_bytes

    def _release(self) -> None:
        if self._reserved_bytes:
            self.plane.buffered_bytes -= self._reserved_bytes
            self._reserved_bytes = 0

    # --- deadlines, drain, hand-over

    def on_deadline(self, now: float) -> None:
        self.deadline = FOREVER
        state = self._state
        if state == BODY or (state == HEAD and self._buffer):
            self._refuse_bytes(BadRequest(408, "the request was not sent in time"))
        elif state == WAIT:
            self._refuse_control()
        elif state in (FULL, LINGER):
            unsent_bytes = self.transport.get_write_buffer_size()
            if 0 < unsent_bytes < self._unsent_bytes:
                # slow, but taking the answer
                self._unsent_bytes = unsent_bytes
                self.deadline = now + self.plane.limits.caller_stall_s
            else:
                self.transport.abort()
        elif self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def on_drain(self) -> None:
        if self._state == HEAD and not self._buffer:
            self.transport.close()
        elif self._state == WAIT:
            self._refuse_control()

    def on_drained(self) -> None:
        """The drain's time is up."""
        if self._state == BODY:
            self._refuse_bytes(BadRequest(503, "the gateway is shutting down"))

    def _hand_over(self, data: bytes) -> None:
        if self.plane.guard is None:
            self._buffer = data
            self._searched_bytes = 0
            if self.plane.guard_is_missing or self.plane.draining:
                self._refuse_control()
                return
            # the control plane is still being imported
            self._state = WAIT
            self.deadline = clock() + self.plane.limits.head_s
            self.plane.await_guard(self)
            return
        self._pass_on(data, self.plane.guard(self))

    def _pass_on(self, data: bytes, protocol: asyncio.Protocol) -> None:
        """The connection is another protocol's from now on."""
        self.plane.connections.discard(self)
        self._state = GONE
        self._read_on()
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        protocol.data_received(data)

    def guard_is_ready(self) -> None:
        """It is, or never will be: what was asked of the control plane meanwhile goes on."""
        if self._state != WAIT:
            return
        self._state = HEAD
        data, self._buffer = self._buffer, b""
        self._hand_over(data)

    def _refuse_control(self) -> None:
        """Answer for a control plane that is not there, in its form, and close."""
        plane = self.plane
        plane.await_guard_no_more(self)
        answer = plane.problem_answer(503, "the console and the management API are not available now")
        is_head = self._buffer.startswith(b"HEAD ")
        self.transport.write(answer[: answer.index(b"\r\n\r\n") + 4] if is_head else answer)
        self._linger()
