"""What a link tells its owner: plain values, returned by `LinkCore.receive`, `tick` and `lost`.

A job's last event is one of `Refused`, `Ended`, `WasReset`, `Confirmed`, `Lost` at the gateway, and one of `Finished`,
`Lost` at the node, or what its owner said itself (`refuse`, a `reset` after `Cancelled`).
"""

import msgspec

from potluck.wire import link_messages as m
from potluck.wire.link_jobs import Job


class Event(msgspec.Struct, frozen=True):
    """Something happened on the link."""


class HelloCame(Event, frozen=True):
    """Gateway: look the node up, then `challenge` or `close`. Nothing of it is proved yet."""

    hello: m.Hello


class Proved(Event, frozen=True):
    """Gateway: the node holds its key; `welcome` or `close` it."""


class Welcomed(Event, frozen=True):
    """Node: the gateway is the pinned one, the link is open."""

    terms: m.Welcome


class CapsCame(Event, frozen=True):
    """Gateway: what the node offers now. Answer with `caps_ack` once it is in force."""

    caps: m.Caps


class CapsAcked(Event, frozen=True):
    """Node: the gateway routes by this revision."""

    revision: int


class LoadCame(Event, frozen=True):
    """Gateway: how the node is."""

    load: m.Load


class Opened(Event, frozen=True):
    """Node: a request; `accept` or `refuse` it. Its body follows as `DataCame`."""

    job: Job


class Accepted(Event, frozen=True):
    """Gateway: the node took a slot for it."""

    job: Job


class Refused(Event, frozen=True):
    """Gateway: the next target's turn; the job is over."""

    job: Job
    refusal: m.Refuse


class HeadCame(Event, frozen=True):
    """Gateway: status and headers of the answer."""

    job: Job
    head: m.Head


class DataCame(Event, frozen=True):
    """Bytes of a body. Say `job.consumed(n)` as they are used up: that is what grants the sender more."""

    job: Job
    data: bytes
    whole: bool
    """node: the request's body is complete with these"""


class Ended(Event, frozen=True):
    """Gateway: every byte of the answer has come; the job is over."""

    job: Job
    usage: m.Usage | None


class WasReset(Event, frozen=True):
    """Gateway: the answer ends here and is not whole; the job is over."""

    job: Job
    reset: m.Reset


class Confirmed(Event, frozen=True):
    """Gateway: the node has ended a cancelled job."""

    job: Job


class Finished(Event, frozen=True):
    """Node: the gateway has the whole answer; the job is over."""

    job: Job


class Cancelled(Event, frozen=True):
    """Node: abort the engine call, then `job.reset("cancelled")`."""

    job: Job
    reason: str


class Writable(Event, frozen=True):
    """Node: a job whose `data` said to stop has room again."""

    job: Job


class Resumed(Event, frozen=True):
    """A job goes on over this link."""

    job: Job


class Lost(Event, frozen=True):
    """The job is over without an end: its link is gone or the peer does not know it. Node: abort the engine call."""

    job: Job
    why: str


class DrainCame(Event, frozen=True):
    """Gateway: the node is draining. Node: the operator asks it to."""

    drain: m.Drain


class Drained(Event, frozen=True):
    """Gateway: nothing runs on the node any more."""


class TaskCame(Event, frozen=True):
    """Node: a command; answer with `task_result`, whatever comes of it."""

    task: m.Task


class TaskEnded(Event, frozen=True):
    """Gateway: what came of a command."""

    result: m.TaskResult


class Logged(Event, frozen=True):
    """Gateway: a diagnostic of the node, a stranger's words."""

    log: m.Log


class GoingAway(Event, frozen=True):
    """The peer takes no new streams here (`graceful`) or has closed the link."""

    goaway: m.Goaway


class Suspect(Event, frozen=True):
    """A heartbeat is missing: no new work until `Recovered`."""


class Recovered(Event, frozen=True):
    """The peer is heard again."""


class Failed(Event, frozen=True):
    """This side ended the link; the reason went to the peer in a last GOAWAY. Close after `frames_to_send`."""

    code: m.FailCode
    detail: str
