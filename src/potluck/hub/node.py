"""A node as the hub knows it: its links, its jobs, the calls that wait for it, and whether calls can go there.

Rules of this file
- A node is one machine at a time. Links proved with one `boot` are one start of one agent: two of them live side by
  side, a third takes the place of the one that was heard last longest ago (a machine that changed networks).
- A newcomer with another `boot` is the agent started anew, or a second machine with a copied key. Its older links are
  asked with a WebSocket ping. If one answers within `CLONE_S`, its machine lives: the newcomer is refused (`clone`)
  and reported. If none does, they are closed (`superseded`), their jobs are given up, and the newcomer is the node.
- It takes calls up to its slots and its own queue. What is above waits here, its owner's calls first, at most
  `QUEUED_PER_SLOT` times its slots; a call of the owner takes the place of the last of the others. Beyond: `busy`.
  Its own words reach as far as `MAX_STREAMS` at once, and as many waiting.
- A call goes over the link with the fewest streams, of those that may open one; a suspect link may not.
- A link over which calls run and nothing is heard for `QUIET_S` is asked by a WebSocket ping; after `GONE_S` it is
  given up, long before its heartbeats would. The machine can come back on another one and go on.
- An engine that failed a call is asked for by TASK, at most once in `PROBE_EVERY_S`: its node looks, and says what it
  finds in CAPS and LOAD.
- A call that raises ends alone: the other calls of its link, and the link, know nothing of it.
- Whether calls can go there is worked out anew from facts whenever one of them changes, and told if it differs.
"""

import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import msgspec

from potluck.hub.call import HubCall, refusal, unable
from potluck.model.faults import fault_of
from potluck.ports import Failure
from potluck.wire import link_events as e
from potluck.wire import link_messages as m
from potluck.wire.link_jobs import Job, JobTable

if TYPE_CHECKING:
    from potluck.hub.links import Links
    from potluck.hub.session import Session

MAX_LINKS: Final = 2
CLONE_S: Final = 3.0
QUIET_S: Final = 5.0
GONE_S: Final = 15.0
"""what TCP sends again after a break of 10 s comes before it"""
PROBE_EVERY_S: Final = 30.0
QUEUED_PER_SLOT: Final = 2
DRAIN_S: Final = 120.0
"""for what runs on a node that the operator drains"""

log = logging.getLogger("potluck.hub")

_USABLE: Final = ("not offered", "")
_IN_WORDS: Final = {
    "suspect": "nothing was heard of it for a while",
    "going away": "its link is being closed",
    "not ready": "it is not ready",
}


class HubNode:
    """One enrolled machine that has proved itself at least once. Lives on the loop."""

    __slots__ = (
        "boot",
        "calls",
        "caps",
        "drain_told",
        "id",
        "links",
        "load",
        "newcomers",
        "probed_at",
        "said",
        "sessions",
        "since_at",
        "table",
        "waiting",
        "waiting_own",
    )

    def __init__(self, links: "Links", node_id: str) -> None:
        self.links = links
        self.id = node_id
        self.table = JobTable("gateway")
        self.sessions: list[Session] = []
        """its open links"""
        self.newcomers: list[Session] = []
        """proved, and not decided on yet"""
        self.boot = ""
        self.caps: m.Caps | None = None
        self.load: m.Load | None = None
        self.calls: dict[Job, HubCall] = {}
        """until the node has confirmed their end"""
        self.waiting: deque[HubCall] = deque()
        self.waiting_own: deque[HubCall] = deque()
        self.said: str | None = None
        """why no calls go there, as told last; empty: they may; None: nothing was told"""
        self.since_at = 0.0
        """it has been connected, or not, since then (monotonic)"""
        self.drain_told = False
        self.probed_at = float("-inf")

    # --- links

    def admits(self, session: "Session", now: float) -> bool:
        """Whether this is the machine. If that is not known yet, `session.ruling_at` is set, or the link ends."""
        assert session.hello is not None
        boot = session.hello.boot
        others = [each for each in self._open() if each.hello is not None and each.hello.boot != boot]
        unasked = [each for each in others if each not in session.asked]
        if unasked:
            if session not in self.newcomers:
                if len(self.newcomers) >= MAX_LINKS:
                    session.end("clone", "others wait to be let in with this key", now)
                    return False
                self.newcomers.append(session)
            session.ruling_at = now + CLONE_S
            for each in unasked:
                session.asked[each] = payload = bytes.fromhex(self.links.nonce())[:8]
                each.socket.ping(payload)
            return False
        for each in others:
            each.end("superseded", "the agent was started anew", now)
        return True

    def answered(self, session: "Session", payload: bytes) -> None:
        """An open link lives: who came under its name with another boot is somebody else."""
        for newcomer in list(self.newcomers):
            if newcomer.asked.get(session) == payload:
                self.newcomers.remove(newcomer)
                where = f"from {newcomer.socket.peer}, while the one from {session.socket.peer} lives"
                self.links.events.reported(self.id, "clone", f"a second machine uses its key, {where}: refused")
                self.links.count_failed("clone")
                newcomer.end("clone", "another machine is connected with this key", self.links.clock())

    def joined(self, session: "Session", now: float) -> None:
        """The link is open."""
        assert session.hello is not None
        if session in self.newcomers:
            self.newcomers.remove(session)
        if session.hello.boot != self.boot:
            if self.boot:
                self.links.events.reported(self.id, "restarted", "its agent was started anew")
            self.boot = session.hello.boot
            self.load = None
            for job in self.table.abandon():
                self._lost(job, "was lost: its agent was started anew")
        links = self._open()
        if len(links) >= MAX_LINKS:
            min(links, key=lambda each: each.heard_at).end("superseded", "a newer link took its place", now)
        if not links:
            self.since_at = now
            self.load = None  # it is told anew; what held before the break may hold no more
            self.links.events.reported(self.id, "connected", f"from {session.socket.peer}")
        self.sessions.append(session)
        self.drain_told = False
        self.review(now)

    def left(self, session: "Session", now: float) -> None:
        """A link is over."""
        if session in self.newcomers:
            self.newcomers.remove(session)
        if session in self.sessions:
            self.sessions.remove(session)
        self.review(now)
        if not self._open():  # otherwise the ones that are left may still answer
            for newcomer in list(self.newcomers):
                newcomer.rule(now)

    def end(self, code: str, detail: str, now: float, spread_s: float = 0.0) -> None:
        """Close all links; nothing of it goes on."""
        for session in [*self.sessions, *self.newcomers]:
            session.end(code, detail, now, spread_s)
        for job in self.table.abandon():
            self._lost(job, "was lost: its link was closed")
        self.review(now)

    def drop_void_keys(self, now: float) -> None:
        """A key that was rotated counts for a while. Links by it end then; the machine dials anew, by its new one."""
        for session in [*self.sessions, *self.newcomers]:
            if session.core.phase != "closed" and not session.key_counts():
                session.end("superseded", "the key that it was dialled with was rotated", now)

    def caps_came(self, session: "Session", caps: m.Caps, now: float) -> None:
        """What it offers."""
        self.caps = caps
        assert session.hello is not None
        self.links.events.offered(self.id, caps, session.hello.agent)
        self.review(now)

    def load_came(self, session: "Session", load: m.Load, now: float) -> None:
        """How it is."""
        self.load = load
        rtt_s = session.core.rtt_s
        self.links.events.loaded(self.id, load, rtt_s * 1000 if rtt_s is not None else None)
        self.review(now)

    def drain_came(self, drain: m.Drain, now: float) -> None:
        """It drains by itself."""
        self.load = msgspec.structs.replace(self.load or m.Load("draining"), state="draining", reason=drain.reason)
        self.review(now)

    def task_ended(self, result: m.TaskResult) -> None:
        """What came of a probe."""
        words = "well" if result.ok else "not well"
        detail = f": {result.detail}" if result.detail else ""
        self.links.events.reported(self.id, "probe", f"{words}, after {result.took_ms} ms{detail}")

    def in_force(self, revision: int) -> None:
        """What it offered up to this revision is routed by."""
        for session in self._open():
            if 0 <= session.unacked <= revision:
                session.core.caps_ack(session.unacked)
                session.unacked = -1
                session.socket.wake()

    def tick(self, now: float) -> None:
        """About once a second: its links, and jobs that nobody came back for."""
        for session in [*self.sessions, *self.newcomers]:
            session.tick(now)
        for session in self._open() if self.calls else ():
            quiet_s = now - session.heard_at
            if quiet_s >= QUIET_S and self._streams(session):
                if quiet_s < GONE_S:
                    session.socket.ping(b"")
                else:
                    self.links.count_failed("lost")
                    session.end("lost", f"nothing was heard for {quiet_s:.0f} s while calls ran", now)
        for job in self.table.expire(now):
            self._lost(job, "was lost: its link is gone")

    # --- whether calls can go there

    def review(self, now: float) -> None:
        """Some fact has changed."""
        reason = self.reason()
        if reason != self.said:
            if reason == "not connected":
                self.since_at = now
                self.links.events.reported(self.id, "lost", "its last link is gone")
            self.said = reason
            self.links.events.stands(self.id, reason)
        self._tell_drain()
        if reason:
            waiting = [*self.waiting_own, *self.waiting]
            self.waiting_own.clear()
            self.waiting.clear()
            for call in waiting:
                call.fail(unable(reason))
        else:
            self._next()

    def reason(self) -> str:
        """Why no calls go there; empty: they may."""
        known = self.links.snapshots.current.nodes.get(self.id)
        links, load = self._open(), self.load
        if known is None:
            return "revoked"
        if not links:
            return "not connected"
        if not known.approved:
            return "waits for approval"
        if known.drained:
            return "drained by the operator"
        if load is not None and load.state != "ready":
            return f"{load.state}: {load.reason}" if load.reason else load.state
        if not any(link.caps for link in links):
            return "it has not said yet what it offers"
        if self.caps is not None and not self.caps.models:
            return "it has no model to offer now"
        whys = [link.core.why_not_open("", "") for link in links]
        if any(why in _USABLE for why in whys):
            return ""
        return _IN_WORDS.get(whys[0], whys[0])

    def _tell_drain(self) -> None:
        known = self.links.snapshots.current.nodes.get(self.id)
        drained = known is not None and known.drained
        if drained == self.drain_told:
            return
        self.drain_told = drained
        words = "drained by the operator" if drained else "the operator ended the drain"
        drain = m.Drain("pause", DRAIN_S if drained else 0.0, None if drained else 0.0, words)
        for session in self._open():
            session.core.drain(drain)
            session.socket.wake()

    # --- calls

    @property
    def running(self) -> int:
        """Calls that the node has accepted and not ended."""
        return sum(job.state in ("accepted", "answering") for job in self.calls)

    def open(self, call: HubCall) -> Failure | None:
        """Begin it, or let it wait. The failure: neither is possible."""
        reason = self.reason()
        if reason:
            return unable(reason)
        if len(self.calls) < self._room() and not self.waiting and not self.waiting_own:
            return self._start(call)
        caps = self.caps
        most = min(QUEUED_PER_SLOT * caps.slots, m.MAX_STREAMS) if caps is not None else 0
        own = call.place.own
        if len(self.waiting) + len(self.waiting_own) >= most:
            if not own or not self.waiting:
                self.links.events.refused(self.id, call.place.model, "busy", None)
                return refusal("busy", 1.0)
            self.links.loop.call_soon(self.refused_by_hub, self.waiting.pop(), "busy")
        (self.waiting_own if own else self.waiting).append(call)
        self.links.queued += 1
        return None

    def withdraw(self, call: HubCall, reason: m.CancelReason) -> None:
        """Nobody wants its answer any more."""
        job = call.job
        if job is None:
            for queue in (self.waiting_own, self.waiting):
                if call in queue:
                    queue.remove(call)
            return
        link = job.link
        job.cancel(reason)
        if job.state == "over":
            self._over(job)
        elif link is not None:
            self._wake(link)

    def refused_by_hub(self, call: HubCall, code: m.RefuseCode) -> None:
        """In the node's name."""
        self.links.events.refused(self.id, call.place.model, code, None)
        call.fail(refusal(code, 1.0))

    def wake(self, job: Job) -> None:
        """Something was said about the job outside of its link's turn."""
        self._wake(job.link)

    def data_came(self, job: Job, data: bytes) -> None:
        """Bytes of an answer."""
        call = self.calls.get(job)
        if call is not None:
            try:
                call.data(data)
            except Exception as error:
                self._broke(call, error)

    def job_event(self, event: Any) -> None:
        """Anything else about a job."""
        if type(event) is e.Resumed:
            self.links.resumes += 1
            return
        job = event.job
        call = self.calls.get(job)
        if call is None:
            return
        over = type(event) not in (e.Accepted, e.HeadCame)
        if over:
            del self.calls[job]
        try:
            self._pass_on(call, event)
        except Exception as error:
            self._broke(call, error)
        if over:
            self._next()

    def check(self, now: float) -> None:
        """Sweep: the deadlines of its calls."""
        for call in [*self.waiting_own, *self.waiting, *self.calls.values()]:
            try:
                if not call.done:
                    call.check(now)
            except Exception as error:
                self._broke(call, error)

    # --- steps

    def _pass_on(self, call: HubCall, event: Any) -> None:
        kind = type(event)
        if kind is e.Accepted:
            call.accepted()
        elif kind is e.HeadCame:
            call.head(event.head)
        elif kind is e.Ended:
            call.end()
        elif kind is e.Refused:
            self._node_refused(call, event.refusal)
        elif kind is e.WasReset:
            call.reset(event.reset)
            if event.reset.code in ("engine_failed", "engine_timeout"):
                self._probe(call.place.engine)
        elif kind is e.Lost:
            call.lost()

    def _broke(self, call: HubCall, error: Exception) -> None:
        """A fault of the gateway itself in one call: it ends, the link and its other calls go on."""
        job = call.job.request.job if call.job is not None else "that waited"
        log.error("call %s to node %s: a fault of the gateway ended it: %s", job, self.id, fault_of(error))
        if call.job is None or call.job in self.calls:
            self.withdraw(call, "policy")
        call.fail(Failure("target_down", "stream", "sent what the gateway could not handle"))

    def _open(self) -> list["Session"]:
        return [session for session in self.sessions if session.core.phase == "open"]

    def _streams(self, session: "Session") -> int:
        return sum(job.link is session.core for job in self.calls)

    def _room(self) -> int:
        return min(self.caps.slots + self.caps.queue, m.MAX_STREAMS) if self.caps is not None and self.caps.slots else 0

    def _start(self, call: HubCall) -> Failure | None:
        place = call.place
        best, fewest, why = None, m.MAX_STREAMS + 1, ""
        for session in self.sessions:
            why = session.core.why_not_open(place.engine, call.path)
            if not why:
                streams = self._streams(session)
                if streams < fewest:
                    best, fewest = session, streams
        if best is None:
            code: m.RefuseCode = "model_gone" if why == "not offered" else "busy"
            self.links.events.refused(self.id, place.model, code, None)
            return refusal(code, 1.0 if code == "busy" else None)
        request = m.Open(
            job=self.links.new_id(),
            engine=place.engine,
            model=place.model,
            path=call.path,
            body_bytes=len(call.body),
            headers=call.headers,
            deadline_s=min(call.timeouts.total_s, 86_400.0),
            data_class=place.data_class,
            own=place.own,
            token=self.links.nonce()[:32],
        )
        try:
            job = best.core.open(request, call.body)
        except ValueError as error:
            return Failure("refused", "connect", f"cannot take the request over its link: {error}")
        self.links.opened += 1
        self.calls[job] = call
        call.opened(job)
        best.socket.wake()
        return None

    def _next(self) -> None:
        """Calls that waited, as far as there is room."""
        while (self.waiting_own or self.waiting) and len(self.calls) < self._room():
            call = (self.waiting_own or self.waiting).popleft()
            failure = self._start(call)
            if failure is not None:
                call.fail(failure)

    def _node_refused(self, call: HubCall, said: m.Refuse) -> None:
        self.links.events.refused(self.id, call.place.model, said.code, said.eta_s)
        wait_s = said.retry_after_s if said.retry_after_s is not None else said.eta_s
        call.fail(refusal(said.code, wait_s, by_node=True))

    def _probe(self, engine: str) -> None:
        now, links = self.links.clock(), self._open()
        if links and now - self.probed_at >= PROBE_EVERY_S:
            self.probed_at = now
            with contextlib.suppress(ValueError):  # it was withdrawn meanwhile: the node has looked already
                links[0].core.task(m.Task(self.links.new_id(), "probe", engine))
                links[0].socket.wake()

    def _over(self, job: Job) -> None:
        self.calls.pop(job, None)
        self._next()

    def _lost(self, job: Job, words: str) -> None:
        call = self.calls.pop(job, None)
        if call is not None:
            call.lost(words)

    def _wake(self, link: object) -> None:
        for session in self.sessions:
            if session.core is link:
                session.socket.wake()
