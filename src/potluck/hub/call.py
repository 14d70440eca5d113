"""One call over a node link: what the exchange holds (`ports.Call`), from `Links.open` to the sink's last callback.

How the node's words become the sink's:

    REFUSE                                      refused, connect: next target, nothing held against the node
    RESET owner_active, draining   before HEAD  refused, first_byte
                                   after it     refused, stream: cut, and nothing held against the node
    RESET engine_timeout                        target_slow (timed out)
    RESET engine_failed, overflow, internal, …  target_down
    Lost (the link is gone for good)            target_down
    END                                         end

Deadlines, as the pool's: a sweep arms them, none hangs on a timer of its own.
- Until the node accepts, a call is in a queue: the hub's, then the node's. After `QUEUE_S` of both it is refused
  (`busy`). A node that accepts nothing though nothing runs there has `connect_s`, and is then too slow.
- `first_byte_s` until the first byte of the answer's body, `idle_s` between two of them, `total_s` over all.
- While the job has no link and may be resumed, silence is not counted. One of which not a byte of the answer has come
  is given up after `UNANSWERED_KEEPS_S`: another target can answer it whole.

A stalled caller: bytes are passed on as they come and `consumed` is said only while the sink takes them, so no more
than a window follows.
"""

import logging
from typing import TYPE_CHECKING, Final

from potluck.model.faults import fault_of
from potluck.model.node import NodePlace
from potluck.model.resources import Timeouts
from potluck.model.usage import ErrorClass
from potluck.ports import Failure, Sink
from potluck.wire import link_messages as m
from potluck.wire.link_jobs import Job

if TYPE_CHECKING:
    from potluck.hub.node import HubNode

log = logging.getLogger("potluck.hub")

QUEUE_S: Final = 30.0
UNANSWERED_KEEPS_S: Final = 5.0

_RESETS: Final[dict[str, tuple[ErrorClass, str]]] = {
    "cancelled": ("target_down", "gave it up"),
    "engine_failed": ("target_down", "failed: its engine did"),
    "engine_timeout": ("target_slow", "was too slow: its engine took too long"),
    "owner_active": ("refused", "is needed by its owner"),
    "draining": ("refused", "is draining"),
    "overflow": ("target_down", "dropped the answer: more was written than it may keep"),
    "expired": ("target_down", "gave it up: the gateway was out of reach"),
    "internal": ("target_down", "failed"),
}
REFUSALS: Final[dict[str, str]] = {
    "busy": "is busy",
    "owner_active": "is needed by its owner",
    "paused": "is paused",
    "draining": "is draining",
    "model_gone": "cannot call the model now",
    "model_loading": "is loading the model",
    "context_too_long": "finds the prompt too long",
    "no_vram": "has no memory left for the model",
    "data_class": "does not take this class of data",
    "price_floor": "wants more for it",
    "schedule": "is off by its schedule",
    "battery": "runs on battery",
    "thermal": "is too hot",
    "bad_request": "does not take this request",
}


def refusal(code: str, retry_after_s: float | None = None, *, by_node: bool = False) -> Failure:
    """The next target's turn. `code`: of `wire.link_messages.RefuseCode`."""
    return Failure("refused", "connect", REFUSALS[code], retry_after_s=retry_after_s, by_node=by_node)


def unable(reason: str) -> Failure:
    """The same, for a node that takes no calls now, for a reason in words."""
    return Failure("refused", "connect", f"takes no calls: {reason}")


def cancel_reason(words: str) -> m.CancelReason:
    """What the node is told, out of what the exchange says."""
    if "hung up" in words:
        return "client_closed"
    if "another target" in words or "no longer wanted" in words:
        return "hedge_lost"
    if "shut down" in words:
        return "shutdown"
    return "timeout" if "time" in words or "longer" in words else "policy"


class HubCall:
    """Implements `ports.Call`. It is in exactly one of three places: in the node's queue, a job, done."""

    __slots__ = (
        "_asked_at",
        "_heard",
        "_phase",
        "_phase_at",
        "_total_at",
        "_unused_bytes",
        "body",
        "done",
        "headers",
        "job",
        "node",
        "path",
        "paused",
        "place",
        "sink",
        "timeouts",
    )

    def __init__(
        self,
        node: "HubNode",
        place: NodePlace,
        path: str,
        headers: m.Headers,
        body: bytes,
        timeouts: Timeouts,
        sink: Sink,
    ) -> None:
        self.node = node
        self.place = place
        self.path = path
        self.headers = headers
        self.body = body
        self.timeouts = timeouts
        self.sink = sink
        self.job: Job | None = None
        self.done = False
        """the sink hears nothing any more; the job may still have to be confirmed"""
        self.paused = False
        self._unused_bytes = 0
        """passed on while the sink took nothing: not said to be used up yet"""
        self._heard = False
        """bytes came since the last sweep"""
        self._phase = "queue"
        self._phase_at = self._total_at = self._asked_at = 0.0

    # --- ports.Call

    @property
    def sent(self) -> bool:
        return self.job is not None

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        job, unused_bytes = self.job, self._unused_bytes
        if unused_bytes and job is not None:
            self._unused_bytes = 0
            job.consumed(unused_bytes)
            self.node.wake(job)

    def cancel(self, reason: str) -> None:
        if not self.done:
            self.done = True
            self.node.withdraw(self, cancel_reason(reason))

    # --- the node's side

    def fail(self, failure: Failure) -> None:
        """The last callback, unless there was one."""
        if not self.done:
            self.done = True
            self.body = b""
            try:
                self.sink.failed(failure)
            except Exception as error:  # it is called for many calls in a row: the others want to hear it too
                log.error("a call to node %s could not be told its failure: %s", self.node.id, fault_of(error))

    def opened(self, job: Job) -> None:
        """OPEN is said."""
        self.job = job
        self.body = b""

    def accepted(self) -> None:
        """The node has a slot for it."""
        if self._phase == "queue":
            self._enter("first_byte")
            if not self.done:
                self.sink.connected(reused=True)

    def head(self, head: m.Head) -> None:
        """The answer begins."""
        if not self.done:
            self.sink.head(head.status, {name.encode(): value.encode() for name, value in head.headers})

    def data(self, data: bytes) -> None:
        """Bytes of the answer."""
        self._heard = True
        size = len(data)
        if self._phase != "stream":
            self._enter("stream")
        if not self.done:
            self.sink.data(data)
        if self.paused:
            self._unused_bytes += size
        elif self.job is not None:
            self.job.consumed(size)

    def end(self) -> None:
        """The answer came whole."""
        if not self.done:
            self.done = True
            self.sink.end()

    def reset(self, reset: m.Reset) -> None:
        """The node ended it."""
        self._fail(*_RESETS[reset.code])

    def lost(self, words: str = "was lost: its link is gone") -> None:
        """Nothing more will come of it."""
        self._fail("target_down", words)

    def check(self, now: float) -> None:
        """Sweep: the deadlines of the phase that it is in."""
        timeouts, phase, job = self.timeouts, self._phase, self.job
        if not self._total_at:
            self._total_at = now + timeouts.total_s
        if not self._phase_at or self._heard:
            self._heard = False
            self._phase_at = now + self._phase_s()
        if job is not None and job.link is None:
            self._phase_at = now + self._phase_s()
            if not job.in_received and now - job.detached_at >= UNANSWERED_KEEPS_S:
                self._give_up("target_down", "was lost: its link is gone")
        elif now >= self._phase_at:
            if phase == "queue":
                self._late_in_queue()
            elif phase == "stream" and self.paused:
                self._phase_at = now + timeouts.idle_s
            else:
                words = "stalled inside its answer" if phase == "stream" else "gave no answer in time"
                self._give_up("target_slow", words)
        elif phase == "queue" and job is not None and self.node.running == 0:
            # not queueing there: nothing runs that it could wait for
            self._asked_at = self._asked_at or now
            if now >= self._asked_at + timeouts.connect_s:
                self._give_up("target_slow", "did not take the call in time")
        if now >= self._total_at and not self.done:
            self._give_up("target_slow", "took longer than allowed")

    # --- steps

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._phase_at = 0.0

    def _phase_s(self) -> float:
        if self._phase == "queue":
            return QUEUE_S
        return self.timeouts.idle_s if self._phase == "stream" else self.timeouts.first_byte_s

    def _late_in_queue(self) -> None:
        self.node.withdraw(self, "timeout")
        self.node.refused_by_hub(self, "busy")

    def _give_up(self, error_class: ErrorClass, words: str) -> None:
        self.node.withdraw(self, "timeout")
        self._fail(error_class, words)

    def _fail(self, error_class: ErrorClass, words: str) -> None:
        begun = self.job is not None and self.job.started is not None
        phase = "stream" if begun else "connect" if self._phase == "queue" else "first_byte"
        by_node = error_class == "refused"
        self.fail(Failure(error_class, phase, words, timeout=error_class == "target_slow", by_node=by_node))
