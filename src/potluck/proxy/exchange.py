"""The life of one request, from its whole body to its record.

    (listener: accept, read_head, authenticate, read_body) → admit → plan → attempt[n] → settle → record

Rules of this state machine
- One exchange owns the request through all phases; what a phase decides is a value, not an exception.
- Until the first content of an answer goes to the caller (`_content_sent`), a failed attempt is invisible: the router
  says what is called next (`routing.Router.next`), within the caps of `policy.retry` and the request's deadline. After
  it, never silently: the stream ends with an error event, or goes on elsewhere, marked, where the caller allowed it.
- An intent line is in the spool before the first upstream byte of an attempt, and the settlement before the last byte
  to the caller. Every exchange with an intent in the spool ends in `_settle`, exactly once, whatever happened.
- Mostly one attempt runs at a time. A hedge is a second one beside it: the first to have content is the answer, the
  other is cancelled and its cost recorded.
- A caller's fault is never retried. A caller that hangs up cancels the upstream, unless its provider says `drain`.
- What raises here, or in an attempt, ends at one of the doors (`safely`, and those that spare the frame) and with it
  this request alone: `broke`.

Longer than most files: it is the one state machine of the data plane, and its transitions are read together.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from potluck.model.faults import fault_of
from potluck.model.resources import Capability
from potluck.model.snapshot import CompiledKey
from potluck.model.usage import AttemptKind, AttemptRecord, ErrorClass, Outcome, TokenUsage
from potluck.policy import hedging
from potluck.policy.machine_cost import Ask
from potluck.policy.retry import MAX_CALLS
from potluck.ports import Failure
from potluck.proxy import verdict
from potluck.proxy.answers import LAST_CHUNK, chunk, connection_field, stream_head
from potluck.proxy.attempt import Attempt
from potluck.proxy.candidates import Candidates, LaneOption
from potluck.proxy.lessons import learn
from potluck.proxy.own_answers import refuse
from potluck.proxy.record import brief_intent, intent_of, record_of
from potluck.proxy.registry import OPEN
from potluck.proxy.routing import Run, ask_of
from potluck.wire.dialects.envelope import Envelope, decode_envelope, read_control_fields
from potluck.wire.dialects.resume import continuation, seam_comment, why_not
from potluck.wire.dialects.splice import Earlier
from potluck.wire.errors import RequestError, encode_error, encode_stream_error
from potluck.wire.http1 import Head
from potluck.wire.sse import encode_comment, encode_event

if TYPE_CHECKING:
    from potluck.proxy.listener import Connection
    from potluck.proxy.plane import Plane

FOREVER = float("inf")
PLANNED, CALLING, WAITING, SETTLING, ENDED = range(5)
"""an intent is on its way, a call runs, a pause before the next call, the record is on its way, over"""
clock = time.monotonic
clock_ns = time.monotonic_ns

DONE_EVENT = b"data: [DONE]\n\n"
OUR_FAULT = "a fault of the gateway ended it"
log = logging.getLogger("potluck.requests")


class Exchange:
    """One request. Made when its body is whole; ends by telling its connection `finished`."""

    __slots__ = (
        "_ask",
        "_attempt",
        "_calls",
        "_content_sent",
        "_control_fields",
        "_cut_at",
        "_failures",
        "_head_sent",
        "_last_out_at",
        "_late",
        "_minor",
        "_paused_at",
        "_record",
        "_rival",
        "_run",
        "_spoke",
        "_state",
        "_then",
        "_timer",
        "_total_at",
        "_wants_keep_alive",
        "_whole",
        "at_ms",
        "attempts",
        "body",
        "candidates",
        "capability",
        "connection",
        "deadline",
        "envelope",
        "first_content_us",
        "id",
        "key",
        "plane",
        "read_us",
        "response_bytes",
        "resumable",
        "started_us",
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
        self.read_us = now_us = clock_ns() // 1000
        self.at_ms = (now_us + plane.unix_offset_us) // 1000
        self._minor = head.minor
        self._control_fields = head.control_fields
        self._wants_keep_alive = head.keep_alive
        self.deadline = FOREVER
        self.envelope: Envelope
        self.candidates: Candidates
        self._state = PLANNED
        self._calls = 0
        self.attempts: list[AttemptRecord] = []
        """those that are over and were not the answer"""
        self._failures: list[tuple[str, Failure]] = []
        self._attempt: Attempt | None = None
        """the one that runs, or ran last"""
        self._rival: Attempt | None = None
        """a hedge beside it"""
        self._run: Run | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.response_bytes = 0
        self._head_sent = self._content_sent = self.resumable = False
        self._late = False
        """the head went out with a comment, before target and attempts were known"""
        self._paused_at = 0.0
        self._spoke: Attempt | None = None
        """the one whose content went to the caller last"""
        self._cut_at = 0
        """so many failures were there when the stream was cut; 0: it was not"""
        # moments in microseconds, 0 where not reached
        self.started_us = int(started_at * 1e6)
        self.first_content_us = 0

    # --- admit, plan

    def start(self) -> None:
        """Decode, find who may serve it, and begin the first attempt; or refuse."""
        plane, key = self.plane, self.key
        router = plane.router
        try:
            self.envelope = envelope = decode_envelope(self.capability, self.body)
            if self._control_fields is not None:
                read_control_fields(envelope, self._control_fields)
            self.candidates = candidates = router.candidates(key, envelope)
        except RequestError as error:
            self._refuse(error)
            return
        plane.snapshots.touch(key)
        plane.exchanges.add(self)
        now = clock()
        self._total_at = now + candidates.total_s
        ask = self._ask = ask_of(candidates, envelope, key) if candidates.machines else None
        option = router.first(candidates, envelope, len(self.body), key, now, ask)
        if option is None:
            self._give_up(router.none_left(candidates, envelope, now))
            return
        if envelope.stream:
            self._last_out_at = now
            self.resumable = envelope.controls is not None and not why_not(envelope)
        self._begin(option, "first")

    def ask(self) -> Ask:
        """What it asks of a machine."""
        ask = self._ask
        if ask is None:  # machines came with a configuration that is newer than the request
            ask = self._ask = ask_of(self.candidates, self.envelope, self.key)
        return ask

    def _refuse(self, error: RequestError) -> None:
        connection = self.connection
        assert connection is not None
        self._state = ENDED
        refuse(connection, error, self.id, self.key.id)

    # --- attempt: select, connect, send

    def _begin(self, option: LaneOption, kind: AttemptKind, body: bytes | None = None) -> Attempt:
        """Begin an attempt: its intent first."""
        self._calls = n = self._calls + 1
        attempt = Attempt(self, n, option, kind, body)
        if kind == "hedge":
            self._rival = attempt
        else:
            self._attempt = attempt
            self._state = PLANNED
        run = self._run
        if run is not None:
            run.called(option)
        line, then = brief_intent(self, attempt), self._intended
        if line is not None:
            self.plane.recorder.intend_line(self.id, line, then)
            return attempt
        if kind == "hedge":
            then = partial(self.safely, self._rival_intended, attempt)
        self.plane.recorder.intend(intent_of(self, attempt, len(self.body)), then)
        return attempt

    def _intended(self, written: bool) -> None:
        try:
            if self._state != PLANNED:
                return
            attempt = self._attempt
            assert attempt is not None
            if self.connection is None:
                self._hang_up()
                return
            if not written:
                attempt.cancel("usage cannot be recorded")
                self._release(attempt.option)
                error = RequestError("accounting_unavailable", "usage cannot be recorded: nothing was sent")
                if self.attempts:
                    self._give_up(error)
                else:
                    # nothing to record, and no place to record it in: it is counted
                    self.plane.exchanges.discard(self)
                    self._refuse(error)
                return
            self._state = CALLING
            if self.envelope.stream:
                self._watch(attempt)
            else:
                self.deadline = self._total_at
            if self.candidates.hedge_budget is not None and not self._content_sent:
                self._time_hedge(attempt)
            attempt.open()
            if self._paused_at and attempt.call is not None:
                attempt.call.pause()
        except Exception as error:
            self.broke(error)

    # --- a second attempt beside a late one

    def _time_hedge(self, attempt: Attempt) -> None:
        hedge = self.candidates.route.hedge
        if hedge is None or self._timer is not None or self._rival is not None:
            return
        delay_ms = hedging.delay_ms(hedge, attempt.option.standing.latency, self.envelope.stream)
        if delay_ms is not None:
            self._timer = self.plane.loop.call_later(delay_ms / 1000, self.safely, self._hedge)

    def _hedge(self) -> None:
        """The first attempt is late: ask another target as well, if one is well and the budget has a call left."""
        self._timer = None
        if self._state != CALLING or self._content_sent or self._rival is not None or self.connection is None:
            return
        candidates = self._candidates_now()
        if candidates is None:
            return
        option = self.plane.router.rival(
            candidates, self._run_so_far(), self.envelope, len(self.body), self.key, clock(), self._ask
        )
        if option is not None:
            self._begin(option, "hedge")

    def _rival_intended(self, rival: Attempt, written: bool) -> None:
        if rival.over:
            return
        if not written or self._state != CALLING:
            rival.cancel("no longer wanted")
            if self._rival is rival:
                self._rival = None
            elif self._attempt is rival:  # the first one failed meanwhile
                self._give_up(RequestError("accounting_unavailable", "usage cannot be recorded: no more was sent"))
            return
        if self.envelope.stream:
            self._watch(rival)
        rival.open()

    def _run_so_far(self) -> Run:
        """What was tried so far, for the router; the attempt that runs is in it."""
        run = self._run
        if run is None:
            run = self._run = Run(self._total_at)
            assert self._attempt is not None
            run.called(self._attempt.option)
        return run

    def _drop(self, loser: Attempt) -> None:
        """A hedge is decided: the other one's call ends here, and what it cost is written down."""
        usage = loser.usage_so_far()
        loser.cancel("another target answered first")
        self._release(loser.option)
        if self._run is not None:
            self._run.places.pop(loser.option.place, None)  # nothing is wrong with it: it may yet resume the other
        if loser.start_us:
            self._write_down(loser, "none", "another target answered first", "", usage)

    def _wins(self, attempt: Attempt) -> None:
        """This attempt is the answer; one that runs beside it is dropped."""
        if self._run is not None:
            self._run.answered(self.plane.registry, clock())
        rival = self._rival
        if rival is not None:
            other = self._attempt if rival is attempt else rival
            self._attempt, self._rival = attempt, None
            if other is not None and not other.over:
                self._drop(other)
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- what an attempt tells

    def answered_whole(self, attempt: Attempt, body: bytes, usage: TokenUsage, finish_reason: str) -> None:
        """A good answer that was not streamed."""
        if attempt.work is not None:
            attempt.work.end(usage.output_tokens, clock())
        attempt.over = True
        attempt.option.standing.in_flight -= 1
        if self._calls > 1 or self._timer is not None:
            self._wins(attempt)
        self.response_bytes = len(body)
        self.first_content_us = attempt.first_byte_us
        self._whole = body
        learn(self, attempt, usage)
        self._settle("ok", 200, usage, attempt, finish_reason, "", self._send_whole)

    def _send_whole(self, written: bool) -> None:  # noqa: ARG002 — an answer that exists is delivered in any case
        connection, attempt = self.connection, self._attempt
        if connection is not None:
            assert attempt is not None
            fields = verdict.answer_fields(
                self.candidates, attempt.option, self._calls, self._record.cost_nanousd, self._record.overhead_us
            )
            connection.answer(200, self._whole, self.id, fields)

    def commit(self, attempt: Attempt, held: bytes) -> None:
        """The first content goes to the caller: from here on this attempt is the answer."""
        self._wins(attempt)
        attempt.committed = True
        attempt.first_content_us = now_us = clock_ns() // 1000
        if attempt.work is not None:
            attempt.work.first_token(now_us / 1e6)
        if not self._content_sent:
            self._content_sent = True
            self.first_content_us = now_us
            if self.connection is not None:  # else the drain after a hang-up has its own
                self.deadline = min(self._total_at, self._next_comment_at())
        held = self._seam(attempt) + held
        if held:
            self.send(held)

    def _seam(self, attempt: Attempt) -> bytes:
        """The attempt begins to speak: a comment, if it goes on where another one was cut."""
        cut, self._spoke = self._spoke, attempt
        if cut is None or cut.tap is None:
            return b""
        return seam_comment(cut.target.name, len(cut.tap.text), attempt.target.name)

    def answered_stream(self, attempt: Attempt, last: bytes, usage: TokenUsage, finish_reason: str) -> None:
        """A stream came to its good end; `last` is what of it has not gone out yet."""
        if attempt.work is not None:
            attempt.work.end(0 if attempt.slowed else usage.output_tokens, clock())
        attempt.leave()
        self._wins(attempt)
        if not attempt.committed:
            attempt.first_content_us = clock_ns() // 1000
            last = self._seam(attempt) + last
        if not self.first_content_us:
            self.first_content_us = attempt.first_content_us
        learn(self, attempt, usage)
        self._end_well(last, finish_reason, attempt, usage)

    def _end_well(
        self, last: bytes, finish_reason: str, attempt: Attempt | None = None, usage: TokenUsage | None = None
    ) -> None:
        """The caller's stream ends as it should. `attempt`: that which brought its end, with what it used."""
        if self._late and self._attempt is not None:
            last += verdict.late_comment(self._attempt.target, self._calls)
        if self.capability != "responses":
            last += DONE_EVENT
        self.response_bytes += len(last)

        def send(written: bool) -> None:  # noqa: ARG001 — an answer that exists is delivered in any case
            self._end_stream(last)

        self._settle("ok", 200, usage, attempt, finish_reason, "", send)

    def may_resend(self) -> bool:
        """Whether a call may go out once more, unseen, since its connection was dead: if a call is left for it."""
        spent = self._run_so_far().spent
        if spent.calls >= MAX_CALLS:
            return False
        spent.calls += 1
        return True

    def attempt_failed(self, attempt: Attempt, failure: Failure) -> None:
        """An attempt is over without an answer: the next call, or an honest end."""
        usage = attempt.usage_so_far() if attempt.committed else attempt.usage_said()
        now, run, option = clock(), self._run_so_far(), attempt.option
        if attempt.work is not None and failure.error_class == "refused":
            attempt.work.dropped(now, refused=failure.by_node, retry_after_s=failure.retry_after_s)
        attempt.cancel(failure.detail)
        if run.says_more(option, failure):
            self.plane.registry.failed(option.lane, failure, now, attempt.target, probe=option.probe)
        else:
            self._release(option)
        if attempt.kind == "resume" and failure.error_class == "caller_fault":
            # the request was the caller's, but what was sent this time was not
            failure = Failure("target_down", "first_byte", "would not go on from the text that was delivered")
        else:
            failure = run.weighed(option, failure)
        beside = self._attempt if attempt is self._rival else self._rival
        if failure.error_class == "caller_fault" and attempt.kind == "hedge" and beside is not None:
            # the first one took the request and is at it: this one's opinion ends nothing but its own call
            run.failed(attempt.option, Failure("target_down", failure.phase, failure.detail))
        else:
            run.failed(attempt.option, failure)
        self._write_down(attempt, failure.error_class, failure.detail, failure.phase, usage)
        self._failures.append((attempt.target.name, failure))
        if self.connection is None:
            self._settle("client_closed", 200 if self._head_sent else 0)
            return
        self._stop_timer()  # what comes next is late at a time of its own
        rival, self._rival = self._rival, None
        if rival is not None:
            if failure.error_class == "caller_fault" and attempt.kind != "hedge":
                other, self._attempt = self._attempt if attempt is rival else rival, attempt
                assert other is not None
                self._drop(other)
            else:
                # the other one may still answer
                if attempt is not rival:
                    self._attempt = rival
                return
        if self._content_sent:
            self._cut_at = self._cut_at or len(self._failures)
            if not self._goes_on(run, now):
                self._give_up(verdict.of_failures(self._failures[: self._cut_at]))
            return
        following = None
        if failure.error_class != "caller_fault":
            candidates = self._candidates_now()
            if candidates is not None:
                following = self.plane.router.next(
                    candidates, run, self.envelope, len(self.body), self.key, now, self._ask
                )
        if following is None:
            self._all_failed(now)
        elif following.delay_s:
            self._state = WAITING
            self._timer = self.plane.loop.call_later(
                following.delay_s, self.safely, self._begin_later, following.option, following.kind
            )
        else:
            self._begin(following.option, following.kind)

    def _begin_later(self, option: LaneOption, kind: AttemptKind) -> None:
        self._timer = None
        if self._state != WAITING:
            return
        now, candidates = clock(), self._candidates_now()
        if option.lane.state(now) <= OPEN and candidates is not None and candidates.has(option):
            self._begin(option, kind)
        else:
            self._all_failed(now)  # parked, dead or gone meanwhile

    def _candidates_now(self) -> Candidates | None:
        """Who may serve the request's later calls: what has left the configuration since it began is out."""
        return self.plane.router.renewed(self.candidates, self.key, self.envelope)

    def _all_failed(self, now: float) -> None:
        waits = self.plane.router.parked_waits(self.candidates, now)
        self._give_up(verdict.of_failures(self._failures, waits))

    def _goes_on(self, run: Run, now: float) -> bool:
        """A stream was cut after content: another target goes on from there, if the caller allowed it and one can."""
        envelope, tap = self.envelope, self._spoke.tap if self._spoke is not None else None
        if tap is None or tap.stuck:
            return False
        candidates = self._candidates_now()
        if candidates is None:
            return False
        option = self.plane.router.resumer(candidates, run, envelope, len(self.body), self.key, now, self._ask)
        if option is None:
            return False
        target = option.target
        told = continuation(envelope, tap.text, target.model_json, target.assistant_prefix, target.quirks, tap.tokens)
        usage, cost = verdict.shown_usage(self.attempts), verdict.shown_cost(self.attempts)
        if usage.estimated:
            usage = msgspec.structs.replace(usage, output_tokens=tap.tokens)  # counted as they came
        if told is None:
            # all that the caller asked for was delivered: nothing is missing but the end
            self._release(option)
            ending = b"".join([encode_event(each) for each in tap.ending(usage, cost)])
            self._end_well(ending, "length")
            return True
        attempt = self._begin(option, "resume", told.body)
        attempt.tap = tap.after(told, Earlier(usage, cost), target.price)
        return True

    # --- writing a stream to the caller

    def send(self, data: bytes) -> None:
        """Some of the stream, in the caller's form."""
        connection = self.connection
        if connection is None:
            return  # draining: the record wants its end, nobody the bytes
        self.response_bytes += len(data)
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
        attempt = self._attempt
        fields = b""
        if self._content_sent and attempt is not None:
            fields = verdict.stream_fields(self.candidates, attempt.option, self._calls)
        return stream_head(
            date=self.plane.date,
            request_id=self.id,
            fields=fields,
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

    def _write_down(
        self, attempt: Attempt, error_class: ErrorClass, detail: str, phase: str, usage: TokenUsage | None
    ) -> None:
        """An attempt that was not the answer, for the record."""
        now_us = clock_ns() // 1000
        self.attempts.append(attempt.record(error_class, detail, phase, usage, now_us, self.started_us))

    def _release(self, option: LaneOption) -> None:
        """A call was planned, or ended, without a word on its target."""
        if option.probe:
            self.plane.registry.abandoned(option.lane)

    def _give_up(self, error: RequestError) -> None:
        """No answer, or a cut one: settle, then say so in the form that the caller can still read."""

        def send(written: bool) -> None:  # noqa: ARG001 — the error is told in any case
            if self._head_sent:
                last = encode_stream_error(error.code, error.message, self.id)
                if self._late and self._attempt is not None:
                    last = verdict.late_comment(self._attempt.target, self._calls) + last
                self._end_stream(last)
            elif self.connection is not None:
                body = encode_error(error.code, error.message, self.id, param=error.param)
                fields = verdict.error_fields(error, self._calls)
                self.connection.answer(error.status, body, self.id, fields)

        status = 200 if self._head_sent else error.status
        self._settle(verdict.outcome_of(error.code), status, error_code=error.code, then=send)

    def _settle(
        self,
        outcome: Outcome,
        status: int,
        usage: TokenUsage | None = None,
        answer: Attempt | None = None,
        finish_reason: str = "",
        error_code: str = "",
        then: Callable[[bool], None] | None = None,
    ) -> None:
        """Write the record; `then` runs once it is in the spool, and sends the last byte.

        `answer`: the attempt that ended well, `usage` what it used. Usage and cost of the record are the sums over all
        attempts.
        """
        self._record = record = record_of(
            self, outcome, status, self._attempt, answer, usage, finish_reason, error_code
        )
        self._state = SETTLING  # from here on the record's way is the request's
        self.deadline = FOREVER
        if self._timer is not None:
            self._stop_timer()
        self._then = then
        self.plane.recorder.settle(record, self._settled)

    def _settled(self, written: bool) -> None:
        self._state = ENDED
        plane = self.plane
        plane.exchanges.discard(self)
        try:
            plane.meter.request(self._record)
            then, self._then = self._then, None  # it may be our own method: a cycle, that only the collector would free
            if then is not None:
                then(written)
        except Exception as error:
            self.broke(error)
        self._attempt = self._spoke = None  # the same

    # --- the caller's side

    def caller_gone(self) -> None:
        """The caller hung up. The upstream is closed now, unless its provider bills on anyway and says `drain`."""
        self.connection = None
        state, attempt = self._state, self._attempt
        if state not in (CALLING, WAITING):
            return  # before the call: `_intended` sees it; after it: the record is on its way
        call = attempt.call if attempt is not None and self._rival is None else None
        if call is None or not call.sent or attempt is None or attempt.target.on_hangup != "drain":
            self._hang_up()
            return
        if self._paused_at:
            call.resume()
        self._paused_at = 0.0
        self.deadline = clock() + self.plane.limits.drain_hangup_s

    def _hang_up(self) -> None:
        self._end_running("client_closed", "the caller hung up")
        self._settle("client_closed", 200 if self._head_sent else 0)

    def _end_running(self, error_class: ErrorClass, detail: str) -> None:
        """Cancel what runs and write it down."""
        for attempt in (self._attempt, self._rival):
            if attempt is None or attempt.over:
                continue
            usage = attempt.usage_so_far()
            attempt.cancel(detail)
            self._release(attempt.option)
            if attempt.start_us:
                self._write_down(attempt, error_class, detail, "", usage)
        self._rival = None

    def caller_paused(self) -> None:
        """The caller's buffer is full: stop reading from the upstream."""
        attempt = self._attempt
        if self._state == CALLING and attempt is not None and attempt.call is not None:
            attempt.call.pause()
            attempt.slowed = True
            self._paused_at = clock()
            self.deadline = self._paused_at + self.plane.limits.caller_stall_s

    def caller_resumed(self) -> None:
        if self._paused_at:
            self._paused_at = 0.0
            self.deadline = min(self._next_comment_at(), self._total_at)
            if self._attempt is not None and self._attempt.call is not None:
                self._attempt.call.resume()

    # --- deadlines

    def _watch(self, attempt: Attempt) -> None:
        """A streaming attempt begins: it must have content in time."""
        attempt.content_at = content_at = clock() + attempt.target.endpoint.timeouts.first_byte_s
        comment_at = self._next_comment_at()
        due = min(content_at, comment_at, self._total_at)
        self.deadline = min(self.deadline, due) if attempt is self._rival else due

    def _next_comment_at(self) -> float:
        return self._last_out_at + self.plane.limits.keepalive_comment_s if self.envelope.stream else FOREVER

    def on_deadline(self, now: float) -> None:
        """Swept: a drain is over, the caller takes nothing, time is up, content is late, or silence needs a comment."""
        if self._state not in (PLANNED, CALLING, WAITING):
            self.deadline = FOREVER
        elif self.connection is None:
            self._hang_up()
        elif self._paused_at:
            self.connection.abort()  # connection_lost tells us: caller_gone
            self.deadline = FOREVER
        elif now >= self._total_at:
            self._time_is_up()
        elif self.envelope.stream:
            if now >= self._next_comment_at():
                self.send(encode_comment("still working"))
            due = self._next_comment_at()
            for attempt in (self._attempt, self._rival):
                if attempt is None or attempt.over or attempt.committed or not attempt.content_at:
                    continue
                if now >= attempt.content_at:
                    attempt.fail_late()
                    return  # what follows sets the next deadline; the other attempt is looked at then
                due = min(due, attempt.content_at)
            self.deadline = min(due, self._total_at)
        else:
            self.deadline = self._total_at

    def _time_is_up(self) -> None:
        """The request took longer than it may, over all its attempts."""
        slow = Failure("target_slow", "stream", "the request took longer than allowed", timeout=True)
        now = clock()
        for attempt in (self._attempt, self._rival):
            if attempt is not None and not attempt.over:
                usage = attempt.usage_so_far() if attempt.committed else attempt.usage_said()
                attempt.cancel(slow.detail)
                ran_s, option = now - attempt.start_us / 1e6, attempt.option
                if attempt.start_us and not attempt.committed and ran_s >= self.candidates.total_s / 2:
                    # it had most of the time, and gave nothing for it
                    self.plane.registry.failed(option.lane, slow, now, attempt.target, probe=option.probe)
                else:
                    self._release(option)
                self._write_down(attempt, "target_slow", slow.detail, slow.phase, usage)
                self._failures.append((attempt.target.name, slow))
        self._rival = None
        self._give_up(RequestError("upstream_timeout", verdict.of_failures(self._failures).message))

    def shut_down(self) -> None:
        """The gateway's drain is over: end now, and honestly."""
        if self._state not in (PLANNED, CALLING, WAITING):
            return
        self._end_running("none", "the gateway shut down")
        self._give_up(RequestError("overloaded", "the gateway shut down before the answer was complete"))

    # --- faults of our own

    def safely(self, step: Callable[..., None], *args: object) -> None:
        """Take a step that somebody else asks for; one that raises ends the request, and raises no further."""
        try:
            step(*args)
        except Exception as error:
            self.broke(error)

    def broke(self, error: Exception) -> None:
        """What no rule foresees was raised: it is logged, and the request ends as honestly as it still can."""
        log.error("request %s: %s: %s", self.id, OUR_FAULT, fault_of(error))
        try:
            self._end_broken()
        except Exception as again:
            log.error("request %s was cut: %s", self.id, fault_of(again))
            self._state = ENDED
            self.plane.exchanges.discard(self)
            for attempt in (self._attempt, self._rival):
                with contextlib.suppress(Exception):
                    if attempt is not None:
                        attempt.cancel(OUR_FAULT)
            self._stop_timer()
            self._cut()

    def _end_broken(self) -> None:
        error = RequestError("internal_error", "a fault of the gateway; its log has it under this request")
        if self._state == SETTLING:
            return  # the record is on its way, and the answer behind it
        if self._state == ENDED:
            then, self._then = self._then, None
            if then is not None:
                then(True)
            else:
                self._cut()
        elif self in self.plane.exchanges:
            self._end_running("none", OUR_FAULT)
            self._give_up(error)
        else:
            self._refuse(error)  # it was not let in yet: nothing is to be recorded

    def _cut(self) -> None:
        """The caller waits for an answer of which nobody knows how far it came."""
        connection = self.connection
        if connection is not None and connection.exchange is self:
            connection.abort()
