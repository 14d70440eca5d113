"""One upstream call of a request: implements `ports.Sink`, reads the answer's form, and tells its exchange what it is.

    intended → open → (head, data …) → over

Rules
- Nothing is judged here but the answer itself: whether a failure is the request's end is the exchange's decision.
- Exactly one of `exchange.answered_whole`, `exchange.answered_stream` and `exchange.attempt_failed` is called, unless
  the exchange cancels the attempt first. After that the attempt is `over` and never calls again.
- Whoever carries the call hears no exception out of it: one ends the exchange (`Exchange.broke`), and nobody's else.
- What a stream says is held back until its first content; from then on (`exchange.commit`) it goes out as it comes.
- The target counts the call as in flight from the intent until it is over, whatever happens in between; a machine
  learns from its first token and its end.
"""

import time
import zlib
from typing import TYPE_CHECKING

import msgspec

from potluck.model.price import cost_nanousd
from potluck.model.usage import AttemptKind, AttemptRecord, ErrorClass, TokenUsage
from potluck.policy.estimate import believable, estimate_usage
from potluck.policy.retry_after import parse_retry_after
from potluck.ports import Call, Failure
from potluck.providers.openai import classify_refusal, read_error
from potluck.proxy import verdict
from potluck.proxy.relay import Relay
from potluck.wire.dialects.answer import MalformedAnswer, read_response
from potluck.wire.dialects.envelope import encode_upstream_body, prompt_bytes
from potluck.wire.dialects.splice import ResumableTap
from potluck.wire.dialects.stream import StreamTap
from potluck.wire.sse import encode_event

if TYPE_CHECKING:
    from potluck.proxy.candidates import LaneOption
    from potluck.proxy.exchange import Exchange

PLAIN, STREAM, ERROR, WRONG_FORM = range(4)
clock_ns = time.monotonic_ns
clock_s = time.monotonic
unix_s = time.time


class Attempt:
    """One call. Made by its exchange, which writes the intent and then calls `open`."""

    __slots__ = (
        "_coding",
        "_form",
        "_parts",
        "_retry_after_s",
        "_said",
        "_size_bytes",
        "body",
        "call",
        "committed",
        "connected_us",
        "content_at",
        "exchange",
        "first_byte_us",
        "first_content_us",
        "kind",
        "n",
        "option",
        "over",
        "relay",
        "resent",
        "slowed",
        "start_us",
        "status",
        "tap",
        "target",
        "work",
    )

    def __init__(
        self, exchange: "Exchange", n: int, option: "LaneOption", kind: AttemptKind, body: bytes | None = None
    ) -> None:
        """`body` None: the request as the caller sent it."""
        self.exchange = exchange
        self.n = n
        self.kind: AttemptKind = kind
        self.option = option
        self.target = option.target
        self.body = body
        self.call: Call | None = None
        self.relay: Relay | None = None
        self.tap: ResumableTap | None = None
        """what reads its stream, where that may go on elsewhere"""
        self.over = self.committed = self.resent = False
        """committed: this attempt's content goes to the caller"""
        self.slowed = False
        """its caller took less than came: how long it took says nothing about the target"""
        self.content_at = 0.0
        """a stream must have content by then"""
        self.status = self.start_us = self.connected_us = self.first_byte_us = self.first_content_us = 0
        """moments in microseconds of the monotonic clock, 0 where not reached"""
        self._coding: zlib._Decompress | None = None
        self._retry_after_s: float | None = None
        self._said: TokenUsage | None = None
        self._parts: list[bytes] = []
        self._size_bytes = 0
        standing = option.standing
        machine = standing.machine
        self.work = None if machine is None else machine.begin(exchange.ask(), clock_s())
        standing.in_flight += 1  # last: nothing can go wrong between this and `leave`

    def open(self) -> None:
        """Send it. The intent is in the spool."""
        exchange, target = self.exchange, self.target
        body = self.body
        if body is None:
            body = encode_upstream_body(exchange.envelope, target.model_json, target.quirks)
        else:
            self.body = b""
        self.start_us = clock_ns() // 1000
        self.call = exchange.plane.upstreams[target.upstream].open(
            target, target.heads[exchange.capability], body, self
        )

    def leave(self) -> None:
        """It is over: the target is free of it. Idempotent."""
        if not self.over:
            self.over = True
            self.option.standing.in_flight -= 1
            if self.work is not None:
                self.work.dropped(clock_s())

    def cancel(self, reason: str) -> None:
        """Give up; nothing is called back."""
        self.leave()
        call, self.call = self.call, None
        if call is not None:
            call.cancel(reason)

    def fail(self, failure: Failure) -> None:
        """End it from outside or inside: the call is closed, the exchange decides what follows."""
        if self.over:
            return
        self.exchange.attempt_failed(self, failure)

    def fail_late(self) -> None:
        """It has had its time for content."""
        if self.status not in (0, 200):
            call, self.call = self.call, None
            if call is not None:
                call.cancel("the status has said it")
            self._error_ended()
        else:
            self.fail(Failure("target_slow", "first_byte", "sent no content in time", timeout=True))

    # --- ports.Sink

    def connected(self, *, reused: bool) -> None:  # noqa: ARG002 — the port's signature
        self.connected_us = clock_ns() // 1000

    def may_resend(self) -> bool:
        try:
            self.resent = not self.over and self.exchange.may_resend()
        except Exception as error:
            self.exchange.broke(error)
        return self.resent

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        try:
            self.first_byte_us = clock_ns() // 1000
            self.status = status
            # these three are all that is read of an upstream's head; everything else in it stays behind
            if b"content-encoding" in headers:
                self._set_coding(headers[b"content-encoding"].strip().lower())
            if b"retry-after" in headers:
                self._retry_after_s = parse_retry_after(headers[b"retry-after"], unix_s())
            if status != 200:
                self._form = ERROR
            elif not self.exchange.envelope.stream:
                self._form = PLAIN
            elif headers.get(b"content-type", b"")[:17].lower() == b"text/event-stream":
                self._form = STREAM
                self.relay = self._make_relay()
            else:
                self._form = WRONG_FORM
        except Exception as error:
            self.exchange.broke(error)

    def data(self, data: bytes) -> None:
        try:
            if self.over:
                # the answer was complete: what still comes only delays the connection
                self.cancel("done")
                return
            if self._coding is not None:
                try:
                    data = self._coding.decompress(data, self.exchange.plane.limits.max_inflated_bytes)
                except zlib.error:
                    self._fail_down("sent an answer that could not be decompressed")
                    return
                if self._coding.unconsumed_tail:
                    self._fail_down("sent an answer that inflates beyond measure")
                    return
            relay = self.relay
            if relay is None:
                self._keep(data)
                return
            out = relay.feed(data)
            if relay.ordinary and self.committed:
                self.exchange.send(out)
            else:
                self._forward(out)
        except Exception as error:
            self.exchange.broke(error)

    def end(self) -> None:
        try:
            self.call = None
            if self.over:
                return
            if self._form == PLAIN:
                self._plain_ended(True)
            else:
                self._ended()
        except Exception as error:
            self.exchange.broke(error)

    def end_by_close(self) -> None:
        try:
            self.call = None
            if self.over:
                return
            if self._form == PLAIN:
                self._plain_ended(False)
            else:
                self._ended()
        except Exception as error:
            self.exchange.broke(error)

    def failed(self, failure: Failure) -> None:
        try:
            self.call = None
            if self.over:
                return
            if self.status not in (0, 200):
                self._error_ended()  # the status has said it: how its body ended is no news
            else:
                self.fail(failure)
        except Exception as error:
            self.exchange.broke(error)

    # --- the answer's forms

    def _make_relay(self) -> Relay:
        """What reads its stream."""
        exchange, price = self.exchange, self.target.price
        envelope, capability = exchange.envelope, exchange.capability
        tap: StreamTap | None = self.tap
        if tap is None and exchange.resumable:
            tap = self.tap = ResumableTap(capability, envelope.wants_usage, price)
        elif tap is None:
            tap = StreamTap(capability, envelope.wants_usage, envelope.n, price, envelope.prompts)
        return Relay(tap, capability, exchange.plane.limits.max_event_bytes)

    def _fail_down(self, detail: str) -> None:
        self.fail(Failure("target_down", "first_byte", detail))

    def _set_coding(self, coding: bytes) -> None:
        """We asked for identity; gzip and deflate are read all the same, anything else will not parse and fails so."""
        if coding in (b"gzip", b"x-gzip", b"deflate"):
            self._coding = zlib.decompressobj(47)  # either wrapper

    def _keep(self, data: bytes) -> None:
        self._size_bytes = size_bytes = self._size_bytes + len(data)
        limits = self.exchange.plane.limits
        if size_bytes <= limits.max_error_bytes or (self._form == PLAIN and size_bytes <= limits.max_answer_bytes):
            self._parts.append(data)
        elif self._form == PLAIN:
            self._fail_down("sent an answer larger than the limit")
        else:
            call, self.call = self.call, None
            if call is not None:
                call.cancel("enough of the error read")
            self._ended()

    def _ended(self) -> None:
        if self._form == STREAM:
            relay = self.relay
            assert relay is not None
            out = relay.close()
            relay.done = True
            self._forward(out)
        else:
            self._error_ended()

    def _plain_ended(self, clean: bool) -> None:
        exchange, parts = self.exchange, self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        try:
            facts = read_response(exchange.capability, body, exchange.envelope.prompts)
        except MalformedAnswer as error:
            detail = f"sent an unreadable answer: {error}" if clean else "was cut off in the middle of its answer"
            self.fail(Failure("target_down", "stream" if not clean else "first_byte", detail))
            return
        self._said = said = self._believed(facts.usage, len(body))
        if facts.error is not None:
            self.fail(verdict.of_error_object(facts.error, "in an answer of status 200"))
        elif facts.empty:
            self._fail_down("sent an empty answer")
        else:
            usage = said or estimate_usage(prompt_bytes(exchange.envelope), len(body))
            exchange.answered_whole(self, facts.body, usage, facts.finish_reason)

    def _error_ended(self) -> None:
        body = b"".join(self._parts)
        if self._form == WRONG_FORM:
            self._fail_down("answered something else than the stream that was asked for")
            return
        status = self.status
        error_class = classify_refusal(status, body)
        if error_class == "none":
            error_class = "target_down"  # 201, 204, …: a success that is no answer
        detail = f"answered HTTP {status}"
        if error_class == "caller_fault":
            detail = read_error(status, body, verdict.hidden_of(self.target, self.exchange.capability))
        elif error_class == "policy":
            why = "dearer than its credit allows" if status == 402 else "by its own rules"
            detail = f"refused this request, {why} (HTTP {status})"
        self.fail(Failure(error_class, "first_byte", detail, retry_after_s=self._retry_after_s, status=status))

    def _forward(self, out: bytes) -> None:
        """Some of a stream has come: send it, hold it, or end."""
        relay, exchange = self.relay, self.exchange
        assert relay is not None
        tap = relay.tap
        if relay.fault or tap.error is not None:
            if self.committed and out:
                exchange.send(out)  # what came before the fault, in the same read
            if tap.error is not None:
                self.fail(verdict.of_error_object(tap.error, "inside its stream"))
            else:
                detail = f"sent a malformed stream: {relay.fault}"
                self.fail(Failure("target_down", "stream", detail, truncated=False))
            return
        if relay.done:
            self._stream_ended(out)
            return
        if self.committed:
            if out:
                exchange.send(out)
            return
        relay.held += out
        if tap.has_content or len(relay.held) > exchange.plane.limits.held_bytes:
            held, relay.held = relay.held, b""
            exchange.commit(self, held)

    def _stream_ended(self, out: bytes) -> None:
        relay = self.relay
        assert relay is not None
        tap = relay.tap
        if not tap.all_seen_finished:
            if self.committed and out:
                self.exchange.send(out)
            detail = "ended its stream without a finish reason" if tap.chunks else "sent an empty stream"
            self.fail(Failure("target_down", "stream" if tap.chunks else "first_byte", detail))
        elif tap.empty and not self.committed:
            self._fail_down("sent an empty answer")
        else:
            usage = self._believed(tap.usage, tap.output_bytes)
            if usage is None:
                usage = estimate_usage(prompt_bytes(self.exchange.envelope), tap.output_bytes)
            missing = tap.missing_usage(usage)
            if missing is not None:
                out += encode_event(missing)
            self.exchange.answered_stream(self, relay.held + out, usage, tap.finish_reason)

    # --- what it leaves behind

    def usage_said(self) -> TokenUsage | None:
        """What the target itself said that it used, of an answer that cannot be used."""
        tap = self.relay.tap if self.relay is not None else None
        return self._said if tap is None else self._believed(tap.usage, tap.output_bytes)

    def _believed(self, usage: TokenUsage | None, output_bytes: int) -> TokenUsage | None:
        """A node is somebody's machine: what it counts is paid for, and has to fit to what was seen."""
        if usage is None or self.target.node is None:
            return usage
        took_s = clock_s() - self.start_us / 1e6
        return believable(usage, len(self.exchange.body), output_bytes, took_s)

    def usage_so_far(self) -> TokenUsage | None:
        """What the target said so far, else an estimate from lengths; None while nothing has gone out to it."""
        if not self.status and (self.call is None or not self.call.sent):
            return None
        tap = self.relay.tap if self.relay is not None else None
        if tap is not None and tap.usage is not None:
            return self._believed(tap.usage, tap.output_bytes)
        output_bytes = tap.output_bytes if tap is not None else self._size_bytes
        usage = estimate_usage(prompt_bytes(self.exchange.envelope), output_bytes)
        if self.tap is not None and self.tap.own_tokens > usage.output_tokens:
            usage = msgspec.structs.replace(usage, output_tokens=self.tap.own_tokens)
        return usage

    def record(
        self, error_class: ErrorClass, detail: str, phase: str, usage: TokenUsage | None, now_us: int, since_us: int
    ) -> AttemptRecord:
        """It, as a part of its request's record; times are microseconds since `since_us`."""
        target = self.target
        price = target.price
        connected_us, first_byte_us = self.connected_us, self.first_byte_us
        return AttemptRecord(
            n=self.n,
            target_id=target.id,
            target=target.name,
            provider_id=target.provider_id,
            credential_id=target.credential_id,
            error_class=error_class,
            error=detail,
            status=self.status,
            start_us=self.start_us - since_us if self.start_us else -1,
            connected_us=connected_us - since_us if connected_us else -1,
            first_byte_us=first_byte_us - since_us if first_byte_us else -1,
            end_us=now_us - since_us,
            usage=usage,
            cost_nanousd=cost_nanousd(usage, price) if usage is not None and price is not None else None,
            price_version=price.version if price is not None else "",
            kind=self.kind,
            phase=phase,
            resent=self.resent,
        )
