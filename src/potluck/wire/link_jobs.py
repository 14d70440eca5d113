"""Jobs: one request on its way to a node and its answer on the way back. A job outlives the link that carries it.

Rules of this file
- A job is known to both sides by an id and an unguessable token that the gateway chose. Each side keeps its jobs in a
  `JobTable`: the node one for all its links, the gateway one per node identity, so that no node can name another's job.
- Bytes are counted from the start of a direction, never per link. `out_limit` and `in_limit` are the offsets up to
  which each side may send; a limit minus the window is what the receiver has used up, and so acknowledges it.
- The node keeps the bytes of an answer until they are acknowledged; the gateway keeps none of a request's body, so a
  job can be resumed only after the node acknowledged its whole body.
- What is said to a job that is over, or that its caller has given up, is dropped: engine and caller end when they like.
- A job says its frames through its link (`Carrier`). While it has none, they wait in the job: HEAD and END as values,
  body bytes in `unsent`. The transitions that frames cause are in `link.py`.
"""

import hmac
from collections import deque
from typing import Final, Literal, Protocol

from potluck.wire import link_frames as f
from potluck.wire import link_messages as m

HELD_BYTES: Final = 32 * 1024 * 1024
HELD_PER_JOB_BYTES: Final = 512 * 1024  # one window on its way, one waiting
HELD_LEAST_BYTES: Final = 128 * 1024  # half a window: less would never be acknowledged
HELD_HARD_BYTES: Final = 8 * 1024 * 1024  # of a job whose owner does not stop when told
MAX_FINISHED: Final = 256

State = Literal["opened", "accepted", "answering", "ending", "ended", "over"]
"""`ending`: the last frame waits behind the body. `ended`: END is sent, DONE has not come."""


class Carrier(Protocol):
    """What a job needs of its link."""

    def say(self, kind: int, stream: int, payload: bytes = b"") -> None:
        """Queue a control frame."""

    def wake(self, job: "Job") -> None:
        """The job has something to send, if its window allows."""

    def release(self, job: "Job", *, moved: bool = False) -> None:
        """The job leaves this link; `moved`: for another one."""


class Job:
    """One request and its answer, on either side. Ended by its own methods or by frames; see `link_events`."""

    __slots__ = (
        "cancelled",
        "confirm_by",
        "detached_at",
        "ending",
        "full",
        "held",
        "in_consumed",
        "in_limit",
        "in_received",
        "keeps",
        "link",
        "out_acked",
        "out_limit",
        "out_produced",
        "out_sent",
        "queued",
        "request",
        "resuming",
        "started",
        "state",
        "stream",
        "table",
        "unsent",
        "window",
    )

    def __init__(self, table: "JobTable", link: Carrier, stream: int, request: m.Open, window: int) -> None:
        self.table = table
        self.link: Carrier | None = link
        self.stream = stream
        self.request = request
        self.window = window
        """bytes; fixed for the job's life, whatever the terms of a later link"""
        self.state: State = "opened"
        self.cancelled = False
        """the caller is gone; nothing is delivered or sent any more but the end"""
        self.confirm_by = 0.0
        """gateway: when the node is to have confirmed the CANCEL; 0 until a tick has seen that"""
        self.started: m.Head | None = None
        self.ending: m.End | m.Reset | None = None
        self.keeps = bool(request.token) and table.role == "node"
        self.queued = False
        """in its link's ring of jobs that have something to send"""
        self.full = False
        self.detached_at = 0.0
        self.resuming: object | None = None
        """the link that has asked the gateway to go on with this job"""
        self.unsent: deque[bytes | memoryview] = deque()
        """large chunks as views, so that cutting them copies nothing twice"""
        self.held: deque[bytes] = deque()
        """sent, not acknowledged; only where `keeps`"""
        self.out_acked = self.out_sent = self.out_produced = 0
        self.out_limit = window
        self.in_received = self.in_consumed = 0
        self.in_limit = window
        table.jobs[request.job] = self

    # either side

    def consumed(self, size: int) -> None:
        """So many more bytes that `DataCame` brought are used up: the sender may send as many again."""
        self.in_consumed = min(self.in_consumed + size, self.in_received)
        if self.state in ("ended", "over") or self.cancelled:
            return
        whole = self.table.role == "node" and self.in_consumed == self.request.body_bytes
        if self.in_limit - self.in_consumed <= self.window >> 1 or whole:
            limit = self.in_consumed + self.window
            if limit > self.in_limit:
                self.in_limit = limit
                if self.link is not None:
                    self.link.say(f.WINDOW, self.stream, f.OFFSET.pack(limit))

    # gateway

    def cancel(self, reason: m.CancelReason) -> None:
        """Nobody wants the answer any more. Over at once without a link, else with `Confirmed`."""
        if self.state == "over" or self.cancelled:
            return
        self.cancelled = True
        self.drop_output()
        if self.link is None:
            self.finish()
        else:
            self.link.say(f.CANCEL, self.stream, f.encode(m.Cancel(reason)))

    # node

    def accept(self) -> None:
        """A slot is taken."""
        if self.state == "opened":
            self.state = "accepted"
            self._say(f.ACCEPT)

    def refuse(self, refusal: m.Refuse) -> None:
        """Instead of `accept`; the job is over."""
        if self.state == "opened":
            self._say(f.REFUSE, f.encode(refusal))
            self.finish()

    def head(self, status: int, headers: list[tuple[str, str]]) -> None:
        """The engine answers. Headers outside `ANSWER_HEADERS` stay here."""
        if self.state == "accepted" and not self.cancelled:
            self.state = "answering"
            self.started = m.Head(status, [(name, value) for name, value in headers if name in m.ANSWER_HEADERS])
            self._say(f.HEAD, f.encode(self.started))

    def data(self, chunk: bytes) -> bool:
        """More of the answer's body. False: stop reading the engine until `Writable`, `Cancelled` or `Lost`."""
        if self.state != "answering" or self.cancelled:
            return False
        if chunk:
            self.put(chunk)
        held = self.out_produced - self.out_acked
        if held > HELD_HARD_BYTES:
            self.drop_output()
            self.reset("overflow", "more was written than the link may keep")
            return False
        self.full = held >= self.table.share()
        return not self.full

    def end(self, usage: m.Usage | None = None) -> None:
        """The answer is whole. `Finished` follows once the gateway has it."""
        if self.state == "answering":
            if self.cancelled:
                self.reset("cancelled")
                return
            self.state = "ending"
            self.ending = m.End(self.out_produced, usage)
            if self.link is not None:
                self.link.wake(self)

    def reset(self, code: m.ResetCode, detail: str = "") -> None:
        """The answer ends without being whole: after the bytes given so far, or at once if it was cancelled."""
        if self.state in ("over", "ending", "ended"):
            return
        self.ending = m.Reset(code, detail)
        if self.cancelled or self.state == "opened":
            self._say(f.RESET, f.encode(self.ending))
            self.finish()
            return
        self.state = "ending"
        if self.link is not None:
            self.link.wake(self)

    # for the link

    @property
    def resumable(self) -> bool:
        """Both sides can go on with it on another link: the node took it and has all of its request.

        The gateway knows that from the acknowledgement alone.
        """
        known = self.out_acked if self.table.role == "gateway" else self.in_received
        return (
            bool(self.request.token)
            and not self.cancelled
            and self.state != "opened"
            and known >= self.request.body_bytes
        )

    @property
    def sendable(self) -> bool:
        """There is body that the window allows, or nothing is left but the last frame."""
        if self.unsent:
            return self.out_sent < self.out_limit
        return self.state == "ending"

    def put(self, chunk: bytes) -> None:
        """Body bytes to send, behind those that wait."""
        self.unsent.append(chunk if len(chunk) <= m.TURN_BYTES else memoryview(chunk))
        self.out_produced += len(chunk)
        if self.link is not None:
            self.link.wake(self)

    def take(self, limit: int) -> bytes:
        """Up to `limit` bytes that are sent now; small chunks go together. The caller has seen to the window."""
        unsent = self.unsent
        first = unsent.popleft()
        size = len(first)
        if size > limit:
            unsent.appendleft(first[limit:])
            first = first[:limit]
        elif size < limit and unsent:
            pieces = [first]
            while unsent and size < limit:
                more = unsent.popleft()
                room = limit - size
                if len(more) > room:
                    unsent.appendleft(more[room:])
                    more = more[:room]
                pieces.append(more)
                size += len(more)
            first = b"".join(pieces)
        piece = bytes(first)
        self.out_sent += len(piece)
        if self.keeps:
            self.held.append(piece)
        return piece

    def last_frame(self) -> bytes:
        """Node: END, after which DONE is awaited, or RESET, with which the job is over."""
        assert self.ending is not None
        payload = f.encode(self.ending)
        if isinstance(self.ending, m.End):
            self.state = "ended"
            return f.frame(f.END, self.stream, payload)
        last = f.frame(f.RESET, self.stream, payload)
        self.finish()
        return last

    def acknowledge(self, offset: int) -> None:
        """The peer has used up the bytes before `offset`, which is not beyond what was sent."""
        first = self.out_acked
        if offset <= first:
            return
        held = self.held
        while held and first + len(held[0]) <= offset:
            first += len(held.popleft())
        if held and first < offset:
            held[0] = held[0][offset - first :]
        self.out_acked = offset

    def go_on_from(self, offset: int, limit: int) -> bool:
        """Node: send again from `offset`, which acknowledges what is before. False if that or the limit cannot be."""
        if not (self.out_acked <= offset <= self.out_produced and self.out_limit <= limit <= offset + self.window):
            return False
        self.acknowledge(offset)
        self.unsent.extendleft(reversed(self.held))
        self.held.clear()
        self.out_sent = offset
        self.out_limit = limit
        if self.state == "ended":
            self.state = "ending"
        return True

    def has_room_again(self) -> bool:
        """`data` said to stop, and need not any more."""
        if not self.full or self.cancelled or self.out_produced - self.out_acked >= self.table.share():
            return False
        self.full = False
        return True

    def drop_output(self) -> None:
        """Nothing that waits is sent any more."""
        self.unsent.clear()
        self.held.clear()
        self.out_produced = self.out_sent

    def finish(self) -> None:
        """The job is over: it leaves its link and its table."""
        if self.link is not None:
            self.link.release(self)
            self.link = None
        self.state = "over"
        self.drop_output()
        if self.table.jobs.get(self.request.job) is self:
            del self.table.jobs[self.request.job]

    def _say(self, kind: int, payload: bytes = b"") -> None:
        if self.link is not None:
            self.link.say(kind, self.stream, payload)


class JobTable:
    """The jobs of one node, on either side, whichever link carries them.

    `keeps_s`: how long one without a link is kept; None takes the side's default.
    """

    __slots__ = ("_finished", "jobs", "keeps_s", "role")

    def __init__(self, role: Literal["gateway", "node"], keeps_s: float | None = None) -> None:
        self.role = role
        self.keeps_s = keeps_s if keeps_s is not None else m.NODE_KEEPS_S if role == "node" else m.GATEWAY_KEEPS_S
        self.jobs: dict[str, Job] = {}
        self._finished: dict[str, str] | None = None
        """gateway: id → token of the last answers that came whole, oldest first"""

    def share(self) -> int:
        """Bytes that one job may hold before its owner is told to stop."""
        return max(HELD_LEAST_BYTES, min(HELD_PER_JOB_BYTES, HELD_BYTES // max(1, len(self.jobs))))

    def detached(self) -> list[Job]:
        """Jobs without a link that no link has asked for yet."""
        return [job for job in self.jobs.values() if job.link is None and job.resuming is None]

    def expire(self, now: float) -> list[Job]:
        """Give up the jobs that have been without a link for too long. They are over; tell their owners."""
        late = [job for job in self.jobs.values() if job.link is None and now - job.detached_at >= self.keeps_s]
        for job in late:
            job.finish()
        return late

    def abandon(self) -> list[Job]:
        """Give up every job without a link: the peer has started anew and knows none. They are over."""
        gone = [job for job in self.jobs.values() if job.link is None]
        for job in gone:
            job.finish()
        return gone

    def remember(self, job: Job) -> None:
        """Gateway: the answer came whole; a node that has not heard so may still ask."""
        if job.request.token:
            if self._finished is None:
                self._finished = {}
            elif len(self._finished) >= MAX_FINISHED:
                del self._finished[next(iter(self._finished))]
            self._finished[job.request.job] = job.request.token

    def was_finished(self, job: str, token: str) -> bool:
        """Gateway: this job's answer came whole, and the asker knows its token."""
        known = (self._finished or {}).get(job)
        return known is not None and same_token(known, token)


def same_token(known: str, claimed: str) -> bool:
    """Compared in constant time. No token never matches."""
    return bool(known) and hmac.compare_digest(known.encode(), claimed.encode())
