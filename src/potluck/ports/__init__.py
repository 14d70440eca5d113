"""The interfaces between rooms, nothing else.

Implementations live in `upstream`, `hub`, `ledger`, `telemetry` and `snapshot`; `runtime` hands them in.
"""

from collections.abc import Callable
from typing import Protocol

from potluck.model.snapshot import CompiledKey, CompiledTarget, RequestHead, Snapshot
from potluck.model.usage import ErrorClass, Intent, PlanLine, UsageRecord
from potluck.wire.link_messages import Caps, Load

__all__ = ["Call", "Failure", "Meter", "NodeEvents", "Recorder", "Sink", "SnapshotSource", "Upstream"]


class Failure:
    """Why an upstream call ended badly, as a value.

    `error_class`: the closed set of architecture §5.2. `phase`: `connect|send|first_byte|stream`.
    `detail`: our words ("connection refused"), safe to show to a caller: no address, no header, no upstream text.
    """

    __slots__ = ("by_node", "detail", "error_class", "phase", "retry_after_s", "status", "timeout", "truncated")

    def __init__(
        self,
        error_class: ErrorClass,
        phase: str,
        detail: str,
        *,
        retry_after_s: float | None = None,
        timeout: bool = False,
        status: int = 0,
        truncated: bool | None = None,
        by_node: bool = False,
    ) -> None:
        self.error_class = error_class
        self.phase = phase
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.timeout = timeout
        self.status = status
        """the upstream's HTTP status, where one was the reason"""
        cut = phase == "stream" and error_class in ("target_down", "refused")
        self.truncated = cut if truncated is None else truncated
        """an answer had begun and was cut"""
        self.by_node = by_node
        """a refusal by the machine's own word: it knows something of itself that routing does not, so that routing
        leaves it alone for a while. The hub refuses by what routing can see too. Of `target_down`: its word that the
        request is wrong, which was not believed."""


class Sink(Protocol):
    """What an upstream call reports to. All are plain callbacks on the loop; exactly one of `end`/`failed` comes last.

    After `Call.cancel` no callback comes any more.
    """

    def connected(self, *, reused: bool) -> None:
        """The call has the connection that it had to wait for: a new one, or one that became free.

        A call that found an idle one is written at once, in `open`, and hears nothing of it.
        """

    def may_resend(self) -> bool:
        """A kept-alive connection was dead before any answer: may the call go out once more, on a new one?

        An upstream that read the request and then closed sees it twice, so that it counts against the request's calls.
        """

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Final response head (1xx are skipped). Names in lower case; of a repeated field the last one counts.

        A value may end in white space.
        """

    def data(self, chunk: bytes) -> None:
        """Body bytes, transfer coding removed, as one upstream read brought them."""

    def end(self) -> None:
        """The body ended cleanly by its framing (`clean` framing: length reached or last chunk seen)."""

    def end_by_close(self) -> None:
        """A body without length ended with the connection: whether that is complete, only its dialect knows."""

    def failed(self, failure: Failure) -> None:
        """No (more) answer comes: refused, reset, cut inside its framing, timed out, malformed."""


class Call(Protocol):
    """A running upstream call."""

    @property
    def sent(self) -> bool:
        """Bytes of the request have gone out, or may have: the provider may bill."""

    def pause(self) -> None:
        """Stop reading from the upstream (the caller's side is full)."""

    def resume(self) -> None: ...

    def cancel(self, reason: str) -> None:
        """Give up: the upstream sees the close at once. Idempotent; after `end`/`failed` it does nothing."""


class Upstream(Protocol):
    """Something that carries a request to a target: the connection pool, the built-in model, node links."""

    def open(self, target: CompiledTarget, head: RequestHead, body: bytes, sink: Sink) -> Call:
        """Start a call. Never raises and never calls the sink before it has returned."""


class Recorder(Protocol):
    """The usage spool. Lines are written with one `os.write` per loop turn; `then` runs after the write.

    Raises nothing: when the spool cannot be written, `then(False)` is called.
    """

    def intend(self, intent: Intent, then: Callable[[bool], None]) -> None: ...

    def intend_line(self, request_id: str, line: bytes, then: Callable[[bool], None]) -> None:
        """`intend` for an intent that is encoded already (`IntentForm`)."""

    def plan(self, line: PlanLine) -> None:
        """Write down a routing decision, ahead of the records that refer to it. Best effort: nobody waits for it."""

    def settle(self, record: UsageRecord, then: Callable[[bool], None]) -> None: ...

    def refuse(self, reason: str, who: str, at_ms: int, detail: str) -> None:
        """Count a refused or unauthenticated call per (reason, key id or address prefix, minute)."""


class Meter(Protocol):
    """Counters and histograms of the data plane; plain integer adds, exported by `telemetry`."""

    def request(self, record: UsageRecord) -> None: ...

    def refused(self, code: str) -> None: ...


class SnapshotSource(Protocol):
    """Where the data plane finds the current snapshot; a plain attribute read."""

    current: Snapshot

    def hash_key(self, token: bytes) -> bytes:
        """The keyed hash under which `current.keys` holds an API key."""

    def touch(self, key: CompiledKey) -> None:
        """The key was used (for `last_used_at`); a set add, flushed elsewhere."""


class NodeEvents(Protocol):
    """What the hub tells of nodes. Plain callbacks on the loop; they return at once and raise nothing.

    Everything in `Caps` and `Load` is the word of a stranger, within the ranges of `wire.link_messages`.
    """

    def offered(self, node_id: str, caps: Caps, agent: str) -> None:
        """It announced what it has. `Links.in_force(node_id, revision)` once the snapshot routes by it."""

    def stands(self, node_id: str, reason: str) -> None:
        """Whether calls may go there now; empty: they may, else why not, in words: `not connected`, `paused: …`.

        Told at every change; a node that nothing was told of is not connected.
        """

    def loaded(self, node_id: str, load: Load, rtt_ms: float | None) -> None:
        """How busy it says it is: every heartbeat, and at once on a change."""

    def refused(self, node_id: str, model: str, code: str, eta_s: float | None) -> None:
        """It refused a call, or the hub did in its name; `code` as in `wire.link_messages.RefuseCode`."""

    def reported(self, node_id: str, event: str, detail: str) -> None:
        """For the audit log and the operator: `connected`, `lost`, `clone`, `violation`, `probe`, `log`. Rate-limited.

        `restarted`: its agent was started anew, after a time in which anything may have been unloaded.
        """
