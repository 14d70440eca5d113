"""The life of one request, from its whole body to its record.

    (listener: accept, read_head, authenticate, read_body) → admit → plan → attempt[n] → settle → record

Rules of this state machine
- One exchange owns the request through all phases; what a phase decides is a value, not an exception.
- Until the first content of an answer goes to the caller (`_content_sent`), a failed attempt is invisible: the next
  target of the plan is tried, at most `max_attempts` of them. After it, never: the stream ends with an error event.
- An intent line is in the spool before the first upstream byte of an attempt, and the settlement before the last byte
  to the caller. Every planned exchange ends in `_settle`, exactly once, whatever happened.
- A caller's fault is never retried. A caller that hangs up cancels the upstream, unless its provider says `drain`.
- A call that was cancelled or has ended never calls back: whatever arrives is the current attempt's.

Longer than most files: it is the one state machine of the data plane, and its transitions are read together.
"""

import time
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from potluck.model.price import cost_nanousd
from potluck.model.resources import Capability
from potluck.model.snapshot import CompiledKey, CompiledTarget
from potluck.model.usage import (
    Answered,
    AttemptRecord,
    ErrorClass,
    Intent,
    IntentForm,
    Outcome,
    TokenUsage,
    UsageRecord,
)
from potluck.policy.estimate import estimate_usage
from potluck.policy.retry_after import parse_retry_after
from potluck.ports import Call, Failure
from potluck.providers.openai import classify_status, read_error
from potluck.proxy import planning, verdict
from potluck.proxy.answers import LAST_CHUNK, chunk, connection_field, stream_head
from potluck.proxy.own_answers import refuse
from potluck.proxy.relay import Relay
from potluck.wire.dialects.answer import MalformedAnswer, read_response
from potluck.wire.dialects.envelope import (
    Envelope,
    decode_envelope,
    encode_upstream_body,
    read_control_fields,
)
from potluck.wire.errors import RequestError, encode_error, encode_stream_error
from potluck.wire.http1 import Head
from potluck.wire.sse import encode_comment

if TYPE_CHECKING:
    from potluck.proxy.listener import Connection
    from potluck.proxy.plane import Plane

FOREVER = float("inf")
PLANNED, CALLING, SETTLING, ENDED = range(4)
PLAIN, STREAM, ERROR, WRONG_FORM = range(4)
clock = time.monotonic
clock_ns = time.monotonic_ns
unix_s = time.time

MAX_FORMS = 10_000
"""intents kept encoded; more kinds than that at once, and all are made anew"""
DONE_EVENT = b"data: [DONE]\n\n"


class Exchange:
    """One request. Made when its body is whole; ends by telling its connection `finished`."""

    __slots__ = (
        "_attempt_n",
        "_attempts",
        "_call",
        "_coding",
        "_connected_us",
        "_content_sent",
        "_control_fields",
        "_failures",
        "_first_byte_us",
        "_first_content_us",
        "_form",
        "_head_sent",
        "_last_out_at",
        "_late",
        "_minor",
        "_parts",
        "_paused_at",
        "_plan",
        "_read_us",
        "_record",
        "_relay",
        "_response_bytes",
        "_retry_after_s",
        "_size_bytes",
        "_start_us",
        "_started_us",
        "_state",
        "_status",
        "_target",
        "_then",
        "_upstream_us",
        "_wants_keep_alive",
        "at_ms",
        "body",
        "capability",
        "connection",
        "deadline",
        "envelope",
        "id",
        "key",
        "plane",
    )

    def __init__(
        self,
        plane: "Plane",
        connection: "Connection",
        key: CompiledKey,
        capability: Capability,
        head: Head,
        body: bytes,
        started_at: float,
    ) -> None:
        self.plane = plane
        self.connection: Connection | None = connection
        self.key = key
        self.capability: Capability = capability
        self.body = body
        self.id = plane.ids.next()
        self._read_us = now_us = clock_ns() // 1000
        self.at_ms = (now_us + plane.unix_offset_us) // 1000
        self._minor = head.minor
        self._control_fields = head.control_fields
        self._wants_keep_alive = head.keep_alive
        self.deadline = FOREVER
        self.envelope: Envelope
        self._state = PLANNED
        self._attempt_n = 0
        self._attempts: list[AttemptRecord] = []
        self._failures: list[tuple[str, Failure]] = []
        self._target: CompiledTarget
        """of the current attempt; there from the first one on"""
        self._call: Call | None = None
        self._response_bytes = 0
        self._head_sent = self._content_sent = False
        self._late = False
        """the head went out with a comment, before target and attempts were known"""
        self._paused_at = 0.0
        self._start_us = 0
        # moments in microseconds, 0 where not reached
        self._started_us = int(started_at * 1e6)
        self._first_content_us = self._upstream_us = 0

    # --- admit, plan

    def start(self) -> None:
        """Decode, resolve, plan, and begin the first attempt; or refuse."""
        plane, key = self.plane, self.key
        try:
            self.envelope = envelope = decode_envelope(self.capability, self.body)
            if self._control_fields is not None:
                read_control_fields(envelope, self._control_fields)
            self._plan = plan = planning.plan(plane.snapshots.current, key, envelope)
        except RequestError as error:
            self._refuse(error)
            return
        plane.snapshots.touch(key)
        plane.exchanges.add(self)
        if not plan:
            self._give_up(planning.none_left(plane.snapshots.current, key, envelope))
            return
        if envelope.stream:
            self._last_out_at = clock()
            self.deadline = self._last_out_at + plane.limits.keepalive_comment_s
        self._try()

    def _refuse(self, error: RequestError) -> None:
        connection = self.connection
        assert connection is not None
        self._state = ENDED
        refuse(connection, error, self.id, self.key.id)

    # --- attempt: select, connect, send

    def _try(self) -> None:
        """Begin the next attempt: its intent first."""
        self._attempt_n = n = self._attempt_n + 1
        self._target = target = self._plan[n - 1]
        self._state = PLANNED
        self._relay: Relay | None = None
        self._coding: zlib._Decompress | None = None
        self._retry_after_s: float | None = None
        self._parts: list[bytes] = []
        self._size_bytes = self._status = 0
        self._connected_us = self._first_byte_us = 0
        plane, envelope = self.plane, self.envelope
        if n == 1 and not envelope.user and not envelope.tags:
            if plane.forms_in is not plane.snapshots.current:
                plane.forms_in, plane.intent_forms = plane.snapshots.current, {}
            forms = plane.intent_forms
            kind = (
                self.key.id,
                f"{target.id} {target.credential_id}",
                self.capability,
                envelope.model,
                envelope.stream,
            )
            form = forms.get(kind)
            if form is None:
                if len(forms) >= MAX_FORMS:
                    forms.clear()
                form = forms[kind] = IntentForm(self._intent(target, 0))
            plane.recorder.intend_line(self.id, form.line(self.id, self.at_ms, len(self.body)), self._intended)
        else:
            plane.recorder.intend(self._intent(target, len(self.body)), self._intended)

    def _intent(self, target: CompiledTarget, request_bytes: int) -> Intent:
        envelope, key = self.envelope, self.key
        return Intent(
            id=self.id,
            n=self._attempt_n,
            at_ms=self.at_ms,
            organisation_id=key.organisation_id,
            project_id=key.project_id,
            key_id=key.id,
            endpoint=self.capability,
            model=envelope.model,
            target_id=target.id,
            target=target.name,
            provider_id=target.provider_id,
            credential_id=target.credential_id,
            stream=envelope.stream,
            user=envelope.user,
            tags=envelope.tags,
            request_bytes=request_bytes,
            price_version=target.price.version if target.price else "",
            failed=tuple(self._attempts),
        )

    def _intended(self, written: bool) -> None:
        if self._state != PLANNED:
            return
        if self.connection is None:
            self._settle("client_closed", 0, None)
            return
        if not written:
            error = RequestError("accounting_unavailable", "usage cannot be recorded: nothing was sent")
            if self._attempts:
                self._give_up(error)
            else:
                # nothing to record, and no place to record it in: it is counted
                self.plane.exchange_ended(self)
                self._refuse(error)
            return
        target = self._target
        body = encode_upstream_body(self.envelope, target.model_json, target.quirks)
        self._state = CALLING
        self._start_us = clock_ns() // 1000
        self._call = self.plane.upstreams[target.upstream].open(target, target.heads[self.capability], body, self)

    # --- the upstream's callbacks (ports.Sink)

    def connected(self, *, reused: bool) -> None:  # noqa: ARG002 — the port's signature
        self._connected_us = clock_ns() // 1000

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self._first_byte_us = clock_ns() // 1000
        self._status = status
        # these three are all that is read of an upstream's head; everything else in it stays behind
        if b"content-encoding" in headers:
            self._set_coding(headers[b"content-encoding"].strip().lower())
        if b"retry-after" in headers:
            self._retry_after_s = parse_retry_after(headers[b"retry-after"], unix_s())
        if status != 200:
            self._form = ERROR
        elif not self.envelope.stream:
            self._form = PLAIN
        elif headers.get(b"content-type", b"")[:17].lower() == b"text/event-stream":
            self._form = STREAM
            target = self._target
            self._relay = Relay(self.envelope, target.price, self.plane.limits.max_event_bytes)
        else:
            self._form = WRONG_FORM

    def data(self, data: bytes) -> None:
        if self._state != CALLING:
            # the answer was complete: what still comes only delays the connection
            self._cancel("done")
            return
        if self._coding is not None:
            try:
                data = self._coding.decompress(data, self.plane.limits.max_inflated_bytes)
            except zlib.error:
                self._attempt_failed(
                    Failure("target_down", "first_byte", "sent an answer that could not be decompressed")
                )
                return
            if self._coding.unconsumed_tail:
                self._attempt_failed(
                    Failure("target_down", "first_byte", "sent an answer that inflates beyond measure")
                )
                return
        relay = self._relay
        if relay is None:
            self._keep(data)
            return
        out = relay.feed(data)
        if relay.ordinary and self._content_sent:
            self._send(out)
        else:
            self._forward(out)

    def end(self) -> None:
        if self._form == PLAIN and self._state == CALLING:
            self._call = None
            self._plain_ended(clean=True)
        else:
            self._ended(clean=True)

    def end_by_close(self) -> None:
        self._ended(clean=False)

    def failed(self, failure: Failure) -> None:
        self._call = None
        if self._state != CALLING:
            return
        if self._status not in (0, 200):
            self._error_ended()  # the status has said it: how its body ended is no news
        else:
            self._attempt_failed(failure)

    # --- answers

    def _set_coding(self, coding: bytes) -> None:
        """We asked for identity; gzip and deflate are read all the same, anything else will not parse and fails so."""
        if coding in (b"gzip", b"x-gzip", b"deflate"):
            self._coding = zlib.decompressobj(47)  # either wrapper

    def _keep(self, data: bytes) -> None:
        self._size_bytes = size_bytes = self._size_bytes + len(data)
        limits = self.plane.limits
        if size_bytes <= limits.max_error_bytes or (self._form == PLAIN and size_bytes <= limits.max_answer_bytes):
            self._parts.append(data)
        elif self._form == PLAIN:
            self._attempt_failed(Failure("target_down", "first_byte", "sent an answer larger than the limit"))
        else:
            self._cancel("enough of the error read")
            self._ended(clean=True)

    def _ended(self, *, clean: bool) -> None:
        self._call = None
        if self._state != CALLING:
            return
        if self._form == STREAM:
            relay = self._relay
            assert relay is not None
            out = relay.close()
            relay.done = True
            self._forward(out)
        elif self._form == PLAIN:
            self._plain_ended(clean=clean)
        else:
            self._error_ended()

    def _plain_ended(self, *, clean: bool) -> None:
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        try:
            facts = read_response(self.capability, body, self.envelope.prompts)
        except MalformedAnswer as error:
            detail = f"sent an unreadable answer: {error}" if clean else "was cut off in the middle of its answer"
            self._attempt_failed(Failure("target_down", "stream" if not clean else "first_byte", detail))
            return
        if facts.error is not None:
            self._attempt_failed(verdict.of_error_object(facts.error, "in an answer of status 200"))
            return
        if facts.empty:
            self._attempt_failed(Failure("target_down", "first_byte", "sent an empty answer"))
            return
        usage = facts.usage or estimate_usage(len(self.body), len(body))
        body = facts.body
        self._response_bytes = len(body)
        self._first_content_us = self._first_byte_us
        self._parts = [body]
        self._settle("ok", 200, usage, finish_reason=facts.finish_reason, then=self._send_plain)

    def _send_plain(self, written: bool) -> None:  # noqa: ARG002 — an answer that exists is delivered in any case
        connection, target = self.connection, self._target
        if connection is not None:
            record = self._record
            fields = verdict.answer_fields(target, self._attempt_n, record.cost_nanousd, record.overhead_us)
            connection.answer(200, self._parts[0], self.id, fields)

    def _error_ended(self) -> None:
        body = b"".join(self._parts)
        if self._form == WRONG_FORM:
            detail = "answered something else than the stream that was asked for"
            self._attempt_failed(Failure("target_down", "first_byte", detail))
            return
        status = self._status
        error_class = classify_status(status)
        if error_class == "none":
            error_class = "target_down"  # 201, 204, …: a success that is no answer
        detail = f"answered HTTP {status}"
        if error_class == "caller_fault":
            detail = read_error(status, body, verdict.hidden_of(self._target, self.capability))
        retry_after_s = self._retry_after_s
        self._attempt_failed(Failure(error_class, "first_byte", detail, retry_after_s=retry_after_s, status=status))

    def _forward(self, out: bytes) -> None:
        """Some of a stream has come: send it, hold it, or end."""
        relay = self._relay
        assert relay is not None
        tap = relay.tap
        if relay.fault or tap.error is not None:
            if self._content_sent and out:
                self._send(out)  # what came before the fault, in the same read
            if tap.error is not None:
                self._attempt_failed(verdict.of_error_object(tap.error, "inside its stream"))
            else:
                detail = f"sent a malformed stream: {relay.fault}"
                self._attempt_failed(Failure("target_down", "stream", detail, truncated=False))
            return
        if relay.done:
            self._stream_ended(out)
            return
        if self._content_sent:
            if out:
                self._send(out)
            return
        relay.held += out
        if tap.has_content or len(relay.held) > self.plane.limits.held_bytes:
            self._commit()

    def _commit(self) -> None:
        """The first content goes to the caller: from here on this attempt is the answer."""
        relay = self._relay
        assert relay is not None
        self._content_sent = True
        self._first_content_us = clock_ns() // 1000
        held, relay.held = relay.held, b""
        self._send(held)

    def _stream_ended(self, out: bytes) -> None:
        relay = self._relay
        assert relay is not None
        tap = relay.tap
        usage = tap.usage
        if not tap.all_seen_finished:
            if self._content_sent and out:
                self._send(out)
            detail = "ended its stream without a finish reason" if tap.chunks else "sent an empty stream"
            self._attempt_failed(Failure("target_down", "stream" if tap.chunks else "first_byte", detail))
            return
        if tap.empty:
            self._attempt_failed(Failure("target_down", "first_byte", "sent an empty answer"))
            return
        if usage is None:
            usage = estimate_usage(len(self.body), tap.output_bytes)
        last = relay.held + out
        if not self._first_content_us:
            self._first_content_us = clock_ns() // 1000
        if self._late:
            last += verdict.late_comment(self._target, self._attempt_n)
        if self.capability != "responses":
            last += DONE_EVENT
        self._response_bytes += len(last)

        def send(written: bool) -> None:  # noqa: ARG001 — an answer that exists is delivered in any case
            self._end_stream(last)

        self._settle("ok", 200, usage, finish_reason=tap.finish_reason, then=send)

    # --- writing a stream to the caller

    def _send(self, data: bytes) -> None:
        connection = self.connection
        if connection is None:
            return  # draining: the record wants its end, nobody the bytes
        self._response_bytes += len(data)
        self._last_out_at = self.plane.now
        if self._minor:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if not self._head_sent:
            self._late = not self._content_sent
            data = self._stream_head() + data
        connection.transport.write(data)

    def _stream_head(self) -> bytes:
        """The answer's head. Before the first content, target and attempts are not known yet and are left out."""
        self._head_sent = True
        target = self._target
        return stream_head(
            date=self.plane.date,
            request_id=self.id,
            fields=verdict.stream_fields(target, self._attempt_n) if self._content_sent else b"",
            connection=connection_field(self._minor, keep_alive=self._keeps_alive()),
            chunked=bool(self._minor),
        )

    def _keeps_alive(self) -> bool:
        return self._wants_keep_alive and bool(self._minor) and not self.plane.draining

    def _end_stream(self, last: bytes) -> None:
        """The last bytes of a stream, settled before; the message is finished."""
        connection = self.connection
        if connection is None:
            return
        keep_alive = self._keeps_alive()
        if self._minor:
            last = (chunk(last) if last else b"") + LAST_CHUNK
        if not self._head_sent:
            self._content_sent = True
            last = self._stream_head() + last
        connection.transport.write(last)
        connection.finished(keep_alive=keep_alive)

    # --- the end of an attempt, and of the exchange

    def _cancel(self, reason: str) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel(reason)

    def _attempt_ended(self, error_class: ErrorClass, detail: str, usage: TokenUsage | None) -> None:
        """Write down the current attempt; times are microseconds since the request's head was complete."""
        target = self._target
        price = target.price
        now_us, started_us = clock_ns() // 1000, self._started_us
        connected_us, first_byte_us = self._connected_us, self._first_byte_us
        self._upstream_us += now_us - self._start_us
        self._attempts.append(
            AttemptRecord(
                n=self._attempt_n,
                target_id=target.id,
                target=target.name,
                provider_id=target.provider_id,
                credential_id=target.credential_id,
                error_class=error_class,
                error=detail,
                status=self._status,
                start_us=self._start_us - started_us,
                connected_us=connected_us - started_us if connected_us else -1,
                first_byte_us=first_byte_us - started_us if first_byte_us else -1,
                end_us=now_us - started_us,
                usage=usage,
                cost_nanousd=cost_nanousd(usage, price) if usage is not None and price is not None else None,
                price_version=price.version if price is not None else "",
            )
        )

    def _attempt_failed(self, failure: Failure) -> None:
        """The current attempt is over without an answer: the next target, or an honest end."""
        self._cancel(failure.detail)
        target = self._target
        self._attempt_ended(failure.error_class, failure.detail, self._usage_so_far() if self._content_sent else None)
        self._failures.append((target.name, failure))
        if self.connection is None:
            self._settle("client_closed", 0, self._attempts[-1].usage)
            return
        may_go_on = not self._content_sent and failure.error_class != "caller_fault"
        if may_go_on and self._attempt_n < min(len(self._plan), self.plane.limits.max_attempts):
            self._try()
            return
        self._give_up(verdict.of_failures(self._failures))

    def _usage_so_far(self) -> TokenUsage | None:
        """What the stream said so far, else an estimate from lengths; None while nothing has gone out."""
        if not self._status and (self._call is None or not self._call.sent):
            return None
        tap = self._relay.tap if self._relay is not None else None
        if tap is not None and tap.usage is not None:
            return tap.usage
        return estimate_usage(len(self.body), tap.output_bytes if tap is not None else self._size_bytes)

    def _give_up(self, error: RequestError) -> None:
        """No answer, or a cut one: settle, then say so in the form that the caller can still read."""
        usage = self._attempts[-1].usage if self._attempts else None

        def send(written: bool) -> None:  # noqa: ARG001 — the error is told in any case
            if self._head_sent:
                self._end_stream(encode_stream_error(error.code, error.message, self.id))
            elif self.connection is not None:
                body = encode_error(error.code, error.message, self.id, param=error.param)
                fields = verdict.error_fields(error, len(self._attempts))
                self.connection.answer(error.status, body, self.id, fields)

        status = 200 if self._head_sent else error.status
        self._settle(verdict.outcome_of(error.code), status, usage, error_code=error.code, then=send)

    def _settle(
        self,
        outcome: Outcome,
        status: int,
        usage: TokenUsage | None,
        *,
        finish_reason: str = "",
        error_code: str = "",
        then: Callable[[bool], None] | None = None,
    ) -> None:
        """Write the record; `then` runs once it is in the spool, and sends the last byte."""
        self._state = SETTLING
        self.deadline = FOREVER
        envelope, key = self.envelope, self.key
        target = self._target if self._attempt_n else None
        now_us, started_us, first_content_us = clock_ns() // 1000, self._started_us, self._first_content_us
        attempts = self._attempts
        answered: Answered | None = None
        cost: int | None = None
        if outcome == "ok":
            assert target is not None
            price, connected_us = target.price, self._connected_us or self._start_us
            self._upstream_us += now_us - self._start_us
            if price is not None and usage is not None:
                cost = cost_nanousd(usage, price)
            answered = Answered(
                self._attempt_n,
                target.credential_id,
                self._start_us - started_us,
                connected_us - started_us,
                self._first_byte_us - started_us,
                now_us - started_us,
                price.version if price is not None else "",
                cost if attempts else None,
            )
        if attempts:
            cost = verdict.total_cost(attempts, cost)
        read_us = self._read_us - started_us
        # by place, in the order of its fields: 27 keywords cost 0.7 µs, a fiftieth of a plain request
        self._record = record = UsageRecord(
            self.id,
            self.at_ms,
            key.organisation_id,
            key.project_id,
            key.id,  # key_id
            self.capability,  # endpoint
            envelope.model,
            "client_closed" if self.connection is None else outcome,  # outcome
            status,
            envelope.stream,
            "",  # route
            envelope.user,
            envelope.tags,
            target.id if target is not None else "",  # target_id
            target.name if target is not None else "",  # target
            target.provider_id if target is not None else "",  # provider_id
            usage,
            cost,  # cost_nanousd
            finish_reason,
            error_code,
            tuple(attempts),  # attempts
            answered,
            len(self.body),  # request_bytes
            self._response_bytes,
            read_us,
            first_content_us - started_us if first_content_us else -1,  # first_content_us
            now_us - started_us,  # total_us
            now_us - self._read_us - self._upstream_us,  # overhead_us
        )
        self._then = then
        self.plane.recorder.settle(record, self._settled)

    def _settled(self, written: bool) -> None:
        self._state = ENDED
        plane = self.plane
        plane.exchange_ended(self)
        plane.meter.request(self._record)
        then, self._then = self._then, None  # it may be our own method: a cycle, which only the collector would free
        if then is not None:
            then(written)

    # --- the caller's side

    def caller_gone(self) -> None:
        """The caller hung up. The upstream is closed now, unless its provider bills on anyway and says `drain`."""
        self.connection = None
        if self._state != CALLING:
            return  # before the call: `_intended` sees it; after it: the record is on its way
        target = self._target
        if target.on_hangup == "drain" and self._call is not None and self._call.sent:
            if self._paused_at and self._call is not None:
                self._call.resume()
            self._paused_at = 0.0
            self.deadline = clock() + self.plane.limits.drain_hangup_s
            return
        self._hang_up()

    def _hang_up(self) -> None:
        usage = self._usage_so_far()
        self._cancel("the caller hung up")
        self._attempt_ended("client_closed", "the caller hung up", usage)
        self._settle("client_closed", 200 if self._head_sent else 0, usage)

    def caller_paused(self) -> None:
        """The caller's buffer is full: stop reading from the upstream."""
        if self._call is not None and self._state == CALLING:
            self._call.pause()
            self._paused_at = clock()
            self.deadline = self._paused_at + self.plane.limits.caller_stall_s

    def caller_resumed(self) -> None:
        if self._paused_at:
            self._paused_at = 0.0
            self.deadline = self._next_comment_at()
            if self._call is not None:
                self._call.resume()

    # --- deadlines

    def _next_comment_at(self) -> float:
        return self._last_out_at + self.plane.limits.keepalive_comment_s if self.envelope.stream else FOREVER

    def on_deadline(self, now: float) -> None:
        """Swept: the drain after a hang-up is over, the caller takes nothing, or a silent stream needs a comment."""
        if self._state not in (PLANNED, CALLING):
            self.deadline = FOREVER
        elif self.connection is None:
            self._hang_up()
        elif self._paused_at:
            self.connection.abort()  # connection_lost tells us: caller_gone
            self.deadline = FOREVER
        elif now < self._next_comment_at():
            self.deadline = self._next_comment_at()
        else:
            self._send(encode_comment("still working"))
            self.deadline = self._next_comment_at()

    def shut_down(self) -> None:
        """The gateway's drain is over: end now, and honestly."""
        if self._state not in (PLANNED, CALLING):
            return
        usage = self._usage_so_far() if self._state == CALLING else None
        self._cancel("the gateway is shutting down")
        if self._state == CALLING:
            self._attempt_ended("none", "the gateway shut down", usage)
        self._give_up(RequestError("overloaded", "the gateway shut down before the answer was complete"))
