"""The link between a node and a gateway: one state machine for both ends. No socket, clock, chance or cryptography.

A core is fed whole frames (`receive`) and the time (`tick`), and gives back events; what it wants sent is fetched with
`frames_to_send`. Signing and verifying are functions it is given; nonces and ids are passed in.

Rules of this file
 1. Whatever a peer sends, `receive` returns events and raises nothing. A frame that breaks a rule ends this link:
    event `Failed(code, detail)`, a last GOAWAY with the code, and not a frame more in either direction. Other links,
    and the jobs that can go on elsewhere, are not touched.
 2. The first four frames, HELLO → CHALLENGE → PROOF → WELCOME within `HANDSHAKE_S`, are `link_handshake.py`'s.
 3. Minor version: the highest that both know. Features: those of both. An unknown kind is skipped only if it is marked
    ignorable.
 4. Liveness is the time of the last frame by the receiver's own monotonic clock. Each side sends PING every heartbeat;
    the peer is suspect after one missed and lost after three. No clock of the peer is ever read.
 5. Streams are opened by the gateway, with odd ids that only grow. Of a stream the node sends
        (ACCEPT HEAD DATA* END | ACCEPT HEAD? DATA* RESET | REFUSE | RESET), WINDOW in between
    and the gateway
        OPEN DATA* WINDOW* (DONE | CANCEL)
    DONE says that the answer came whole. CANCEL is confirmed by the next of END, RESET, REFUSE, within `CONFIRM_S`.
 6. OPEN names an engine that CAPS of this link advertised, a path of `PATHS` and headers of `REQUEST_HEADERS`: the
    gateway cannot ask otherwise, and the node ends a link over which it is asked. An engine that is no longer offered
    is refused with `model_gone`, as that frame may have crossed the newer CAPS.
 7. DATA carries its offset. Bytes that came before are dropped, a gap ends the link. Nobody sends beyond the stream's
    or the link's limit. The stream's is raised as the receiver's owner uses bytes up, so a stalled caller costs one
    window; the link's as bytes are received, so one stalled caller holds up no other.
 8. Frames go out: control first, in order; then DATA, one turn of ≤ `TURN_BYTES` per job in a ring. As a turn may end
    anywhere in a body, the deficit of deficit round robin is always 0. END and RESET follow their body.
 9. A node closes streams by itself (REFUSE, RESET), so it drops late frames of streams that are over. The gateway
    closes one only on a frame of the node that is its last, so a frame after that ends the link; it drops those of a
    stream that has moved to another link, while they fit into what its window had left and `_LATE_BYTES`.
10. When a link is gone (`lost`, `Failed`, `close`), jobs that both sides can go on with stay in their table, the rest
    is `Lost`. The node names what it has in RESUME on any open link; the gateway answers for each: `next` (a new
    stream, the offset it wants), `done`, `rejected`. What is detached and never asked for runs out in the table.
11. Queues are bounded: control frames that the socket does not take, control frames per second, streams, tasks.

Methods raise ValueError when the caller, not the peer, breaks a rule. Sizes in bytes, times in seconds.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from potluck.wire import link_events as e
from potluck.wire import link_frames as f
from potluck.wire import link_messages as m
from potluck.wire.link_handshake import Handshake, Party
from potluck.wire.link_jobs import Job, JobTable, same_token

Phase = Literal["handshake", "open", "closed"]

SEND_BYTES: Final = 64 * 1024
_MAX_MOVED: Final = 1024
_LATE_BYTES: Final = 16 * 1024  # of frames that are no DATA, 64 each
_MAX_ENGINES: Final = 256  # offered on one link, those withdrawn included
_NO_TERMS: Final = m.Welcome(0, [])
_LAST_STREAM: Final = 2**31 - 1


class LinkCore:
    """One end of one link. Drive it from one task: no method waits, none may be called from another thread."""

    __slots__ = (
        "_allowance",
        "_allowance_at",
        "_control",
        "_control_bytes",
        "_draining",
        "_engines",
        "_handshake",
        "_heard_at",
        "_highest",
        "_leaving",
        "_link_grant",
        "_link_limit",
        "_link_received",
        "_link_sent",
        "_logged_at",
        "_moved",
        "_overfull",
        "_party",
        "_pinged",
        "_pinged_at",
        "_ponged",
        "_resuming",
        "_revision",
        "_ring",
        "_started_at",
        "_streams",
        "_suspect",
        "_tasks",
        "features",
        "jobs",
        "phase",
        "rtt_s",
        "session",
        "terms",
    )

    def __init__(self, party: Party, now: float, jobs: JobTable | None = None) -> None:
        """`jobs`: the node's table, shared by its links; the gateway's comes with `welcome`, when the node is known."""
        self._party = party
        self.phase: Phase = "handshake"
        self._handshake: Handshake | None = Handshake(party)
        self.jobs = jobs if jobs is not None else JobTable(party.role)
        self.session = ""
        self.terms = _NO_TERMS
        self.features: frozenset[str] = frozenset()
        self.rtt_s: float | None = None
        """of the last PING, by this side's clock"""
        self._logged_at = now - m.LOG_EVERY_S
        self._started_at = self._heard_at = self._pinged_at = self._allowance_at = now
        self._allowance = float(m.CONTROL_BURST)
        self._pinged = self._ponged = 0
        self._control: list[bytes] = []
        self._control_bytes = 0
        self._suspect = self._leaving = self._overfull = False
        self._draining = False
        """the node takes no OPEN: it said so itself, in DRAIN or LOAD"""
        self._streams: dict[int, Job] = {}
        self._highest = -1
        self._ring: deque[Job] | None = None
        self._moved: dict[int, int] | None = None
        self._resuming: dict[str, Job] | None = None
        self._tasks: set[str] | None = None
        self._engines: dict[str, frozenset[str]] = {}
        """advertised on this link, with their paths; none once withdrawn"""
        self._revision = -1
        self._link_sent = self._link_limit = self._link_received = self._link_grant = 0

    # --- in ---------------------------------------------------------------------------------------------------------

    def receive(self, frame: bytes, now: float) -> list[e.Event]:
        """One binary message as it came. After `Failed`, or once closed, nothing is read any more."""
        events: list[e.Event] = []
        if self.phase == "closed":
            return events
        try:
            self._read(frame, now, events)
        except f.Violation as broken:
            self._fail(broken.code, broken.detail, now, events)
        return events

    def tick(self, now: float) -> list[e.Event]:
        """Call it about once a second: heartbeats, deadlines."""
        events: list[e.Event] = []
        if self.phase == "closed":
            return events
        if self._overfull:
            self._fail("overflow", "control frames wait that the socket does not take", now, events)
        elif self.phase == "handshake":
            if now - self._started_at >= m.HANDSHAKE_S:
                self._fail("handshake_timeout", f"no link after {m.HANDSHAKE_S:g} s", now, events)
        elif now - self._heard_at >= m.LOST_HEARTBEATS * self.terms.heartbeat_s:
            self._fail("lost", f"nothing heard for {now - self._heard_at:.0f} s", now, events)
        elif self._unconfirmed(now):
            self._fail("unconfirmed", f"a CANCEL was not confirmed within {m.CONFIRM_S:g} s", now, events)
        else:
            if now - self._pinged_at >= self.terms.heartbeat_s:
                self._pinged_at = now
                self._pinged += 1
                self.say(f.PING, 0, f.OFFSET.pack(self._pinged))
            if not self._suspect and now - self._heard_at >= m.SUSPECT_HEARTBEATS * self.terms.heartbeat_s:
                self._suspect = True
                events.append(e.Suspect())
        return events

    def lost(self, now: float) -> list[e.Event]:
        """The socket is gone. Jobs that can go on stay in the table, the others are `Lost`. Idempotent."""
        events: list[e.Event] = []
        self.phase = "closed"
        self._detach(now, events)
        return events

    # --- out --------------------------------------------------------------------------------------------------------

    def frames_to_send(self, budget_bytes: int = SEND_BYTES) -> list[bytes]:
        """What to send now, in this order: all control frames, then bodies up to about `budget_bytes`.

        Ask again when the socket has taken them; less budget lets later control frames overtake more of the bodies.
        """
        frames, self._control = self._control, []
        self._control_bytes = 0
        ring = self._ring
        while ring and budget_bytes > 0:
            job = ring.popleft()
            if job.unsent:
                limit = min(m.TURN_BYTES, job.out_limit - job.out_sent, self._link_limit - self._link_sent)
                if limit <= 0:
                    if job.out_sent < job.out_limit:  # the link is full: all wait, this one first
                        ring.appendleft(job)
                        break
                    job.queued = False
                    continue
                offset = job.out_sent
                piece = job.take(limit)
                self._link_sent += len(piece)
                budget_bytes -= len(piece)
                frames.append(f.data_frame(job.stream, offset, piece))
            if job.unsent:
                ring.append(job)
                continue
            job.queued = False
            if job.state == "ending":
                frames.append(job.last_frame())
        return frames

    @property
    def wants_to_send(self) -> bool:
        """`frames_to_send` may have something."""
        return bool(self._control or self._ring)

    # --- handshake --------------------------------------------------------------------------------------------------

    def hello(self, hello: m.Hello) -> None:
        """Node: the first frame. `hello.nonce` is fresh for each link; its features are those of the `Party`."""
        self.say(f.HELLO, 0, self._shaking().hello(hello))

    def challenge(self, node_key: bytes, session: str, nonce: str) -> None:
        """Gateway, after `HelloCame`: let the node prove that it holds the key known for it. `nonce`: fresh, hex."""
        self.session = session
        self.say(f.CHALLENGE, 0, self._shaking().challenge(node_key, session, nonce))

    def welcome(self, jobs: JobTable, now: float, terms: m.Welcome | None = None) -> None:
        """Gateway, after `Proved`: open the link.

        `terms`: windows and heartbeat, if not the defaults; the minor version and the features are chosen here.
        """
        terms, payload = self._shaking().welcome(terms or m.Welcome(0, []))
        self.jobs = jobs
        self.say(f.WELCOME, 0, payload)
        self._open(terms, now)

    def _shaking(self) -> Handshake:
        if self._handshake is None or self.phase == "closed":
            raise ValueError("the handshake is over")
        return self._handshake

    def _open(self, terms: m.Welcome, now: float) -> None:
        self.terms = terms
        self.features = frozenset(terms.features)
        self._handshake = None
        self._link_limit = self._link_grant = terms.link_window_bytes
        self._pinged_at = now
        self.phase = "open"

    # --- what may be said, besides the methods of `Job` ---------------------------------------------------------------

    def why_not_open(self, engine: str, path: str) -> str:
        """Gateway: "" if a stream could be opened now, else why not, in a word or two for the operator."""
        if self.phase != "open":
            return "closed" if self.phase == "closed" else "joining"
        if self._leaving:
            return "going away"
        if self._suspect:
            return "suspect"
        if self._draining:
            return "not ready"
        if path not in self._engines.get(engine, ()):
            return "not offered"
        if len(self._streams) >= self.terms.max_streams or len(self.jobs.jobs) >= m.MAX_STREAMS:
            return "full"
        return "" if self._highest + 2 <= _LAST_STREAM else "worn out"

    def open(self, request: m.Open, body: bytes) -> Job:
        """Gateway: a new stream. The job's id is new, and so is its token; without `resume` the token is left out.

        Raises ValueError where `why_not_open` says something, or the request is outside the closed lists.
        """
        why = "not the gateway" if self._party.role == "node" else self.why_not_open(request.engine, request.path)
        if not why and (len(body) != request.body_bytes or not m.headers_within(request.headers, m.REQUEST_HEADERS)):
            why = "the request is outside the protocol"
        if why:
            raise ValueError(why)
        if request.job in self.jobs.jobs:
            raise ValueError("a job of this id is running")
        if request.token and "resume" not in self.features:
            request = msgspec.structs.replace(request, token="")
        payload = f.encode(request)
        f.decode(f.OPEN, payload)  # BadMessage, a ValueError: the caller filled a member wrongly
        job = Job(self.jobs, self, 0, request, self.terms.stream_window_bytes)
        self._place(job, self._highest + 2)
        self.say(f.OPEN, job.stream, payload)
        if body:
            job.put(body)
        return job

    def resume(self) -> int:
        """Node: ask the gateway to go on with every job that has no link. How many were asked for."""
        if self._party.role != "node" or self.phase != "open" or "resume" not in self.features:
            return 0
        if self._resuming is not None:  # one question at a time; ask again after its answer
            return 0
        asked = self.jobs.detached()
        if asked:
            self._resuming = {job.request.job: job for job in asked}
            for job in asked:
                job.resuming = self
            named = [m.ResumeAsk(j.request.job, j.request.token, j.out_acked, j.out_produced) for j in asked]
            self.say(f.RESUME, 0, f.encode(m.Resume(named)))
        return len(asked)

    def caps(self, caps: m.Caps) -> None:
        """Node: all that it offers from now on; `revision` greater than before."""
        payload = self._worded("node", f.CAPS, caps)
        self._offer(caps)
        self.say(f.CAPS, 0, payload)

    def caps_ack(self, revision: int) -> None:
        """Gateway: the capabilities are in force."""
        self._speak("gateway", f.CAPS_ACK, m.CapsAck(revision))

    def load(self, load: m.Load) -> None:
        """Node: every heartbeat, and at once when something changed. `ready` ends a drain."""
        self._speak("node", f.LOAD, load)
        self._draining = load.state != "ready"

    def drain(self, drain: m.Drain) -> None:
        """Gateway: ask for it. Node: announce it; every OPEN from now on is refused with `draining`."""
        self._speak(self._party.role, f.DRAIN, drain)
        if self._party.role == "node":
            self._draining = True

    def drained(self) -> None:
        """Node: after `drain`, when nothing runs any more."""
        if not self._draining:
            raise ValueError("DRAINED follows DRAIN")
        self._speak("node", f.DRAINED, None)

    def task(self, task: m.Task) -> None:
        """Gateway: a command, answered with `TaskEnded`. At most `MAX_TASKS` at once."""
        if (
            task.engine not in self._engines
            or len(self._tasks or ()) >= m.MAX_TASKS
            or task.task in (self._tasks or ())
        ):
            raise ValueError("the engine is not offered, or too many tasks run")
        self._speak("gateway", f.TASK, task)
        self._tasks = (self._tasks or set()) | {task.task}

    def task_result(self, result: m.TaskResult) -> None:
        """Node: what came of a task."""
        if result.task not in (self._tasks or ()):
            raise ValueError("no such task")
        self._speak("node", f.TASK_RESULT, result)
        self._tasks = (self._tasks or set()) - {result.task}

    def log(self, log: m.Log, now: float) -> None:
        """Node: a diagnostic, dropped without the feature `log` and within `LOG_EVERY_S` of the last one."""
        if "log" in self.features and now - self._logged_at >= m.LOG_EVERY_S:
            self._logged_at = now
            self._speak("node", f.LOG, log)

    def goaway(self, code: str, detail: str = "", spread_s: float = 0.0) -> None:
        """No new stream on this link; what runs may end. The node dials anew after a random part of `spread_s`."""
        self._leaving = True
        self._speak(self._party.role, f.GOAWAY, m.Goaway(code, detail, True, spread_s))

    def close(self, code: str, detail: str, now: float, spread_s: float = 0.0) -> list[e.Event]:
        """End the link now, at any time, with a last GOAWAY. The events are those of `lost`."""
        if self.phase == "closed":
            return []
        self.say(f.GOAWAY, 0, f.encode(m.Goaway(code, detail[:300], False, spread_s)))
        return self.lost(now)

    def _speak(self, role: Literal["gateway", "node"], kind: int, message: m.Message | None) -> None:
        self.say(kind, 0, self._worded(role, kind, message))

    def _worded(self, role: Literal["gateway", "node"], kind: int, message: m.Message | None) -> bytes:
        if self.phase != "open" or self._party.role != role:
            raise ValueError(f"{f.FRAMES[kind].name} cannot be said by the {self._party.role} now")
        payload = b"" if message is None else f.encode(message)
        if message is not None:
            f.decode(kind, payload)
            if len(payload) > f.FRAMES[kind].max_bytes:
                raise ValueError(f"{f.FRAMES[kind].name} is too large")
        return payload

    # --- what jobs need of their link (`Carrier`) ---------------------------------------------------------------------

    def say(self, kind: int, stream: int, payload: bytes = b"") -> None:
        """Queue a control frame; beyond `MAX_QUEUED_BYTES` the link ends with the next `receive` or `tick`."""
        frame = f.frame(kind, stream, payload)
        self._control_bytes += len(frame)
        if self._control_bytes > m.MAX_QUEUED_BYTES:
            self._overfull = True
        elif not self._overfull:
            self._control.append(frame)

    def wake(self, job: Job) -> None:
        """Put the job into the ring if it has something that its window allows."""
        if not job.queued and job.sendable:
            if self._ring is None:
                self._ring = deque()
            job.queued = True
            self._ring.append(job)

    def release(self, job: Job, *, moved: bool = False) -> None:
        """The job is no longer on this link; `moved`: late frames of its stream are to be dropped."""
        if self._streams.get(job.stream) is job:
            del self._streams[job.stream]
        if job.queued:
            job.queued = False
            if self._ring and job in self._ring:
                self._ring.remove(job)
        if moved:
            self._moved = self._moved or {}
            self._moved[job.stream] = job.in_limit - job.in_received + _LATE_BYTES
            self._overfull |= len(self._moved) > _MAX_MOVED

    # --- jobs on and off the link -------------------------------------------------------------------------------------

    def _place(self, job: Job, stream: int) -> None:
        job.stream = self._highest = stream
        job.link = self
        self._streams[stream] = job

    def _detach(self, now: float, events: list[e.Event]) -> None:
        gateway = self._party.role == "gateway"
        for job in list(self._streams.values()):
            if job.resumable:
                self.release(job)
                job.link = None
                job.detached_at = now
                continue
            given_up = job.cancelled and gateway
            job.finish()
            events.append(e.Confirmed(job) if given_up else e.Lost(job, "link lost"))
        for job in (self._resuming or {}).values():
            job.resuming = None
        if gateway:
            events.extend(e.TaskEnded(m.TaskResult(task, False, "link lost")) for task in sorted(self._tasks or ()))
        self._resuming = self._tasks = self._ring = None

    def _unconfirmed(self, now: float) -> bool:
        cancelled = [job for job in self._streams.values() if job.cancelled] if self._party.role == "gateway" else []
        for job in cancelled:
            job.confirm_by = job.confirm_by or now + m.CONFIRM_S
        return any(now >= job.confirm_by for job in cancelled)

    def _fail(self, code: m.FailCode, detail: str, now: float, events: list[e.Event]) -> None:
        events.append(e.Failed(code, detail))
        self.phase = "closed"
        self._detach(now, events)
        self._control = [f.frame(f.GOAWAY, 0, f.encode(m.Goaway(code, detail)))]

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read(self, frame: bytes, now: float, events: list[e.Event]) -> None:
        self._heard_at = now
        if self._suspect:
            self._suspect = False
            events.append(e.Recovered())
        if self.phase == "open" and len(frame) > f.DATA_HEADER.size and frame[1] == f.DATA:
            self._on_data(frame, events)
            return
        kind, stream, payload, message = f.read(frame, self._party.role, early=self.phase != "open")
        if not stream and kind != f.WINDOW:
            self._charge(now)
        if kind == f.GOAWAY:
            self._on_goaway(message, now, events)
        elif self.phase != "open":
            self._shake(kind, payload, message, now, events)
        elif kind == f.OPEN:
            self._on_open(stream, message, events)
        elif stream and kind in _ON_STREAM:
            job = self._streams.get(stream)
            if job is None:
                self._late(stream)
            else:
                _ON_STREAM[kind](self, job, message, events)
        elif kind in _ON_LINK:
            _ON_LINK[kind](self, message, now, events)
        elif kind:
            raise f.Violation("bad_state", f"{f.FRAMES[kind].name} on an open link")

    def _charge(self, now: float) -> None:
        grown = self._allowance + (now - self._allowance_at) * m.CONTROL_PER_S
        self._allowance = min(float(m.CONTROL_BURST), grown) - 1
        self._allowance_at = now
        if self._allowance < 0:
            raise f.Violation("flood", "too many control frames")

    def _late(self, stream: int, size_bytes: int = 64) -> None:
        if self._party.role == "node":
            if stream <= self._highest and stream % 2:
                return
        elif self._moved and self._moved.get(stream, 0) >= size_bytes:
            self._moved[stream] -= size_bytes
            return
        raise f.Violation("bad_stream", f"stream {stream} is not open")

    def _shake(self, kind: int, payload: bytes, message: Any, now: float, events: list[e.Event]) -> None:
        answer = self._shaking().read(kind, payload, message)
        if isinstance(answer, m.Welcome):
            self._open(answer, now)
            events.append(e.Welcomed(answer))
        elif isinstance(answer, bytes):
            self.session = message.session
            self.say(f.PROOF, 0, answer)
        else:
            events.append(e.Proved() if answer is None else e.HelloCame(answer))

    # --- frames of streams --------------------------------------------------------------------------------------------

    def _on_data(self, frame: bytes, events: list[e.Event]) -> None:
        layout, _, flags, stream, length, offset = f.DATA_HEADER.unpack_from(frame)
        if layout != f.LAYOUT or flags or len(frame) != length + f.DATA_HEADER.size:
            raise f.Violation("bad_frame", "the header does not fit the frame")
        if length > m.MAX_DATA_BYTES:
            raise f.Violation("too_large", f"DATA of {length} bytes")
        self._link_received += length
        room = self._link_grant - self._link_received
        if room < 0:
            raise f.Violation("over_window", "DATA beyond the link's window")
        if room <= self.terms.link_window_bytes >> 1:
            self._link_grant = self._link_received + self.terms.link_window_bytes
            self.say(f.WINDOW, 0, f.OFFSET.pack(self._link_grant))
        job = self._streams.get(stream)
        if job is None:
            self._late(stream, length)
            return
        received = job.in_received
        end = offset + length
        if offset > received:
            raise f.Violation("bad_offset", f"DATA at {offset} after {received} bytes")
        if end > job.in_limit:
            raise f.Violation("over_window", f"DATA beyond the window of stream {stream}")
        whole = False
        if self._party.role == "gateway":
            if job.state != "answering":
                raise f.Violation("bad_state", "DATA before HEAD")
        elif end >= job.request.body_bytes:
            if end > job.request.body_bytes:
                raise f.Violation("bad_end", "more body than OPEN said")
            whole = True
        if end > received:
            job.in_received = end
            if not job.cancelled:
                start = f.DATA_HEADER.size + received - offset
                events.append(e.DataCame(job, frame[start:], whole))

    def _on_open(self, stream: int, request: m.Open, events: list[e.Event]) -> None:
        if stream <= self._highest or stream > _LAST_STREAM:
            raise f.Violation("bad_stream", f"OPEN of stream {stream} after {self._highest}")
        if request.job in self.jobs.jobs or (request.token and "resume" not in self.features):
            raise f.Violation("bad_state", "OPEN of a job that is running, or with a token that was not agreed")
        paths = self._engines.get(request.engine)
        if paths is None or request.path not in m.PATHS or not m.headers_within(request.headers, m.REQUEST_HEADERS):
            raise f.Violation("forbidden", "OPEN of an engine, path or header that was not offered")
        self._highest = stream
        full = len(self._streams) >= self.terms.max_streams or len(self.jobs.jobs) >= m.MAX_STREAMS
        code: m.RefuseCode | None = "draining" if self._draining or self._leaving else "busy" if full else None
        if not code and request.path not in paths:
            code = "model_gone"
        if code:
            self.say(f.REFUSE, stream, f.encode(m.Refuse(code)))
            return
        job = Job(self.jobs, self, stream, request, self.terms.stream_window_bytes)
        self._place(job, stream)
        events.append(e.Opened(job))

    def _on_accept(self, job: Job, _: bytes, events: list[e.Event]) -> None:
        _expect(job, "opened")
        job.state = "accepted"
        if not job.cancelled:
            events.append(e.Accepted(job))

    def _on_refuse(self, job: Job, refusal: m.Refuse, events: list[e.Event]) -> None:
        _expect(job, "opened")
        job.finish()
        events.append(e.Confirmed(job) if job.cancelled else e.Refused(job, refusal))

    def _on_head(self, job: Job, head: m.Head, events: list[e.Event]) -> None:
        _expect(job, "accepted")
        if not m.headers_within(head.headers, m.ANSWER_HEADERS):
            raise f.Violation("forbidden", "HEAD with a header outside the list")
        job.state = "answering"
        job.started = head
        if not job.cancelled:
            events.append(e.HeadCame(job, head))

    def _on_end(self, job: Job, end: m.End, events: list[e.Event]) -> None:
        _expect(job, "answering")
        if end.total_bytes != job.in_received:
            raise f.Violation("bad_end", f"END of {end.total_bytes} bytes after {job.in_received}")
        if not job.cancelled:
            self.say(f.DONE, job.stream)
            job.table.remember(job)
        job.finish()
        events.append(e.Confirmed(job) if job.cancelled else e.Ended(job, end.usage))

    def _on_reset(self, job: Job, reset: m.Reset, events: list[e.Event]) -> None:
        job.finish()
        events.append(e.Confirmed(job) if job.cancelled else e.WasReset(job, reset))

    def _on_done(self, job: Job, _: bytes, events: list[e.Event]) -> None:
        _expect(job, "ended")
        job.finish()
        events.append(e.Finished(job))

    def _on_cancel(self, job: Job, cancel: m.Cancel, events: list[e.Event]) -> None:
        if job.cancelled:
            raise f.Violation("bad_state", "CANCEL twice")
        job.cancelled = True
        job.drop_output()
        if job.state == "ending":  # its owner has said its last word: nobody else will confirm
            self.say(f.RESET, job.stream, f.encode(m.Reset("cancelled")))
        if job.state in ("ending", "ended"):
            job.finish()
        events.append(e.Cancelled(job, cancel.reason))

    def _on_window(self, job: Job, payload: bytes, events: list[e.Event]) -> None:
        (limit,) = f.OFFSET.unpack(payload)
        if not job.out_limit < limit <= job.out_sent + job.window:
            raise f.Violation("bad_window", f"a limit of {limit} after {job.out_limit}, {job.out_sent} bytes sent")
        job.out_limit = limit
        job.acknowledge(limit - job.window)
        self.wake(job)
        if job.has_room_again():
            events.append(e.Writable(job))

    # --- frames of the link -------------------------------------------------------------------------------------------

    def _on_link_window(self, payload: bytes, _now: float, _events: list[e.Event]) -> None:
        (limit,) = f.OFFSET.unpack(payload)
        if not self._link_limit < limit <= self._link_sent + self.terms.link_window_bytes:
            raise f.Violation("bad_window", f"a link limit of {limit} after {self._link_limit}")
        self._link_limit = limit

    def _on_goaway(self, goaway: m.Goaway, now: float, events: list[e.Event]) -> None:
        events.append(e.GoingAway(goaway))
        if goaway.graceful and self.phase == "open":
            self._leaving = True
        else:
            events.extend(self.lost(now))

    def _on_ping(self, payload: bytes, _now: float, _events: list[e.Event]) -> None:
        self.say(f.PONG, 0, payload)

    def _on_pong(self, payload: bytes, now: float, _events: list[e.Event]) -> None:
        (number,) = f.OFFSET.unpack(payload)
        if not self._ponged < number <= self._pinged:
            raise f.Violation("bad_state", "PONG without PING")
        self._ponged = number
        if number == self._pinged:
            self.rtt_s = now - self._pinged_at

    def _on_caps(self, caps: m.Caps, _now: float, events: list[e.Event]) -> None:
        try:
            self._offer(caps)
        except ValueError as fault:
            raise f.Violation("forbidden", str(fault)) from None
        events.append(e.CapsCame(caps))

    def _offer(self, caps: m.Caps) -> None:
        known = dict.fromkeys(self._engines, frozenset[str]()) | m.offered_paths(caps)
        if caps.revision <= self._revision or len(known) > _MAX_ENGINES:
            raise ValueError("CAPS does not follow the revision before, or too many engines came and went")
        self._engines = known
        self._revision = caps.revision

    def _on_caps_ack(self, ack: m.CapsAck, _now: float, events: list[e.Event]) -> None:
        if ack.revision > self._revision:
            raise f.Violation("bad_state", "CAPS_ACK of what was not sent")
        events.append(e.CapsAcked(ack.revision))

    def _on_load(self, load: m.Load, _now: float, events: list[e.Event]) -> None:
        if any(engine.id not in self._engines for engine in load.engines):
            raise f.Violation("forbidden", "LOAD of an engine that was not offered")
        self._draining = load.state != "ready"
        events.append(e.LoadCame(load))

    def _on_drain(self, drain: m.Drain, _now: float, events: list[e.Event]) -> None:
        if self._party.role == "gateway":
            self._draining = True
        events.append(e.DrainCame(drain))

    def _on_drained(self, _: bytes, _now: float, events: list[e.Event]) -> None:
        if not self._draining:
            raise f.Violation("bad_state", "DRAINED without DRAIN")
        events.append(e.Drained())

    def _on_task(self, task: m.Task, _now: float, events: list[e.Event]) -> None:
        tasks = self._tasks or set()
        if task.engine not in self._engines:
            raise f.Violation("forbidden", "TASK for an engine that was not offered")
        if task.task in tasks or len(tasks) >= m.MAX_TASKS:
            raise f.Violation("flood", "more tasks than may run")
        self._tasks = tasks | {task.task}
        events.append(e.TaskCame(task))

    def _on_task_result(self, result: m.TaskResult, _now: float, events: list[e.Event]) -> None:
        if result.task not in (self._tasks or ()):
            raise f.Violation("bad_state", "TASK_RESULT of no task")
        self._tasks = (self._tasks or set()) - {result.task}
        events.append(e.TaskEnded(result))

    def _on_log(self, log: m.Log, _now: float, events: list[e.Event]) -> None:
        if "log" not in self.features:
            raise f.Violation("bad_state", "LOG was not agreed")
        events.append(e.Logged(log))

    # --- resume -------------------------------------------------------------------------------------------------------

    def _on_resume(self, resume: m.Resume, _now: float, events: list[e.Event]) -> None:
        if "resume" not in self.features:
            raise f.Violation("bad_state", "RESUME was not agreed")
        self.say(f.RESUME_RESULT, 0, f.encode(m.ResumeResult([self._answer(ask, events) for ask in resume.jobs])))

    def _answer(self, ask: m.ResumeAsk, events: list[e.Event]) -> m.ResumeAnswer:
        job = self.jobs.jobs.get(ask.job)
        if job is None:
            return m.ResumeAnswer(ask.job, "done" if self.jobs.was_finished(ask.job, ask.token) else "rejected")
        if not same_token(job.request.token, ask.token) or job.link is self:
            raise f.Violation("bad_resume", "RESUME with a wrong token, or of a job that runs here")
        if job.out_sent < job.request.body_bytes and not job.cancelled:
            raise f.Violation("bad_resume", "RESUME of a job whose request was not sent in whole")
        if job.link is not None:  # the node has seen its other link drop before we have
            job.link.release(job, moved=True)
            job.link = None
        full = len(self._streams) >= self.terms.max_streams
        if job.cancelled or not ask.first <= job.in_received <= ask.produced or full:
            job.finish()
            events.append(e.Confirmed(job) if job.cancelled else e.Lost(job, "the node cannot go on with it"))
            return m.ResumeAnswer(ask.job, "rejected")
        job.out_acked = job.request.body_bytes  # a node names only jobs whose request it has in whole
        if job.state == "opened":
            job.state = "accepted"
            events.append(e.Accepted(job))
        self._place(job, self._highest + 2)
        events.append(e.Resumed(job))
        return m.ResumeAnswer(ask.job, "next", job.stream, job.in_received, job.in_limit, job.started is not None)

    def _on_resume_result(self, result: m.ResumeResult, _now: float, events: list[e.Event]) -> None:
        asked = self._resuming or {}
        self._resuming = None
        for job in asked.values():
            job.resuming = None
        if [answer.job for answer in result.jobs] != list(asked):
            raise f.Violation("bad_resume", "RESUME_RESULT does not answer RESUME")
        for answer, job in zip(result.jobs, asked.values(), strict=True):
            if answer.answer == "next":
                self._go_on(job, answer, events)
            elif job.state != "over":
                if answer.answer == "done" and job.state != "ended":
                    raise f.Violation("bad_resume", "done, before the answer ended")
                job.finish()
                events.append(e.Finished(job) if answer.answer == "done" else e.Lost(job, "rejected"))

    def _go_on(self, job: Job, answer: m.ResumeAnswer, events: list[e.Event]) -> None:
        if answer.stream <= self._highest or not answer.stream % 2:
            raise f.Violation("bad_stream", f"stream {answer.stream} after {self._highest}")
        if job.state == "over":  # it ran out meanwhile
            self._highest = answer.stream
            self.say(f.RESET, answer.stream, f.encode(m.Reset("expired")))
            return
        if (answer.head and job.started is None) or not job.go_on_from(answer.next, answer.limit):
            raise f.Violation("bad_resume", "the gateway asks for bytes that were not sent or are gone")
        self._place(job, answer.stream)
        if job.started is not None and not answer.head:
            self.say(f.HEAD, job.stream, f.encode(job.started))
        self.wake(job)
        events.append(e.Resumed(job))
        if job.has_room_again():
            events.append(e.Writable(job))


def _expect(job: Job, state: str) -> None:
    if job.state != state:
        raise f.Violation("bad_state", f"this frame does not come when a stream is {job.state}")


_ON_STREAM: Final[dict[int, Callable[[LinkCore, Job, Any, list[e.Event]], None]]] = {
    f.ACCEPT: LinkCore._on_accept,
    f.REFUSE: LinkCore._on_refuse,
    f.HEAD: LinkCore._on_head,
    f.WINDOW: LinkCore._on_window,
    f.END: LinkCore._on_end,
    f.DONE: LinkCore._on_done,
    f.RESET: LinkCore._on_reset,
    f.CANCEL: LinkCore._on_cancel,
}
_ON_LINK: Final[dict[int, Callable[[LinkCore, Any, float, list[e.Event]], None]]] = {
    f.WINDOW: LinkCore._on_link_window,
    f.PING: LinkCore._on_ping,
    f.PONG: LinkCore._on_pong,
    f.CAPS: LinkCore._on_caps,
    f.CAPS_ACK: LinkCore._on_caps_ack,
    f.LOAD: LinkCore._on_load,
    f.DRAIN: LinkCore._on_drain,
    f.DRAINED: LinkCore._on_drained,
    f.TASK: LinkCore._on_task,
    f.TASK_RESULT: LinkCore._on_task_result,
    f.LOG: LinkCore._on_log,
    f.RESUME: LinkCore._on_resume,
    f.RESUME_RESULT: LinkCore._on_resume_result,
}
