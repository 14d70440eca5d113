"""Requests on this machine: who is served, who waits, who is refused; and the engine call of each.

Rules of this file
- A job owns its engine call, the link does not: the call goes on while the job has no link, and ends with the job.
- A slot is taken from ACCEPT until the engine call is over. When no slot is free, a few jobs wait, the owner's first;
  when those are too many the last stranger's is refused, `busy`.
- The engine is found by the engine's id and the model that this machine offered, nothing in a request names an address.
  The request's body goes to the engine as it came, after a look at its `model`, which has to be the one of OPEN: an
  engine may know models that are not offered, among them such as are run elsewhere.
- The answer is passed on as it comes; the engine is not read while the job may hold no more. Redirects are answers like
  others: nothing follows them.
- Request bodies that wait here are bounded, all together: a gateway may not fill this machine's memory.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from potluck.model.resources import Timeouts
from potluck.model.snapshot import CompiledTarget, Endpoint, RequestHead
from potluck.ports import Call, Failure, Upstream
from potluck.wire import link_events as e
from potluck.wire import link_messages as m
from potluck.wire.link_jobs import Job

HELD_BODIES_BYTES: Final = 128 * 1024 * 1024
CONNECT_S: Final = 5.0
IDLE_S: Final = 300.0
SCAN_BYTES: Final = 1024 * 1024  # of a body that is not written compactly, which costs more to look at
BUSY_RETRY_S: Final = 1.0
MAX_DETAIL: Final = 300  # characters; the protocol's bound
_VALUE: Final = re.compile(r"[\x20-\x7e]{0,1024}")
_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NAME: Final = msgspec.json.Decoder(str)


class Engine(msgspec.Struct, frozen=True, eq=False):
    """Where calls to one engine go. Made from the owner's list alone."""

    id: str
    host: str
    port: int
    tls: bool
    prefix: str
    """before `/v1/…`"""
    fields: tuple[tuple[str, str], ...]
    """host, and the engine's key if it wants one"""
    upstream: Upstream
    slots: int
    away: str = ""
    """why it cannot be called now, though it is offered"""
    away_code: m.RefuseCode = "model_gone"
    """the same for the gateway: `model_loading` only where it is on its way"""


class EngineCall:
    """One job: waiting for a slot and its body, then for the engine's answer, whose `Sink` it is."""

    __slots__ = ("_call", "_jobs", "body", "done", "engine", "job")

    def __init__(self, jobs: "Jobs", job: Job, engine: Engine) -> None:
        self._jobs = jobs
        self._call: Call | None = None
        self.job = job
        self.engine = engine
        self.body = bytearray()
        self.done = False

    def start(self) -> None:
        """Call the engine, once there is a slot and all of the body."""
        request = self.job.request
        if self.job.state == "opened" or len(self.body) < request.body_bytes or self._call is not None:
            return
        body, self.body = bytes(self.body), bytearray()
        if names_model(body, request.model):
            self._call = self.engine.upstream.open(*_asked(self.engine, request), body, self)
        else:
            self.stop("internal", "the body names another model than the request")

    def stop(self, code: m.ResetCode, detail: str) -> None:
        """End the job from here; the engine sees the close at once."""
        self.job.reset(code, detail[:MAX_DETAIL])
        self.abort(code)

    def abort(self, why: str) -> None:
        """The job ended: the engine sees the close at once."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel(why)
        self._jobs.over(self, why)

    def resume(self) -> None:
        """The job may hold more again."""
        if self._call is not None:
            self._call.resume()

    # what the engine's call reports

    def connected(self, *, reused: bool) -> None:
        """Nothing depends on it."""

    def may_resend(self) -> bool:
        """A kept-alive connection may have died meanwhile."""
        return True

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity" or not 200 <= status <= 599:
            self.stop("engine_failed", "the engine answers in a coding that nobody asked for, or with no HTTP status")
            return
        said = ((name.decode("latin-1"), value.decode("latin-1").strip()) for name, value in headers.items())
        self.job.head(status, [(name, value) for name, value in said if _VALUE.fullmatch(value)])
        self._jobs.pump()

    def data(self, chunk: bytes) -> None:
        if not self.job.data(chunk):
            if self.job.state == "answering":
                if self._call is not None:
                    self._call.pause()
            else:  # more than may be held
                self.abort("overflow")
        self._jobs.pump()

    def end(self) -> None:
        self._call = None
        self.job.end()
        self._jobs.over(self, "served")

    def end_by_close(self) -> None:
        self.end()

    def failed(self, failure: Failure) -> None:
        self._call = None
        late = failure.timeout or failure.error_class == "target_slow"
        code: m.ResetCode = "engine_timeout" if late else "engine_failed"
        self.job.reset(code, failure.detail)
        self._jobs.on_failure(self.engine.id, failure.detail)
        self._jobs.over(self, code)


class Jobs:
    """All jobs of this machine.

    `find(engine, model, path)`: where it is served, None if that is not offered. `pump()`: what was said is to be sent.
    `on_change()`: another number of them runs or waits. `on_failure(engine, detail)`: a call to it failed.
    `has_room(engine, model)`: False where a model would have to be loaded into memory that its owner keeps free.
    """

    def __init__(
        self,
        find: Callable[[str, str, str], Engine | None],
        pump: Callable[[], None],
        on_change: Callable[[], None],
        on_failure: Callable[[str, str], None],
        has_room: Callable[[str, str], bool] = lambda _engine, _model: True,
    ) -> None:
        self._find = find
        self._has_room = has_room
        self.pump = pump
        self._on_change = on_change
        self.on_failure = on_failure
        self.slots = 0
        self.queue = 0
        self.closed: tuple[m.RefuseCode, str] | None = None
        """why nothing new is taken"""
        self.running: dict[str, EngineCall] = {}
        """by job id: those that have a slot"""
        self.waiting: list[EngineCall] = []
        """in the order in which they are served"""
        self._held_bytes = 0
        self.idle = asyncio.Event()
        """nothing runs"""
        self.idle.set()
        self.refusals: Counter[str] = Counter()
        """since the start, by code"""
        self.ends: Counter[str] = Counter()
        """since the start: `served`, or why not"""

    def resize(self, slots: int, queue: int) -> None:
        """So many may run and wait from now on."""
        if (slots, queue) != (self.slots, self.queue):
            self.slots, self.queue = slots, queue
            self._fill()

    def load_of(self, engine: str, model: str | None = None) -> tuple[int, int]:
        """How many of ours run there, and how many wait."""

        def fits(call: EngineCall) -> bool:
            return call.engine.id == engine and model in (None, call.job.request.model)

        return sum(map(fits, self.running.values())), sum(map(fits, self.waiting))

    def take(self, event: e.Event) -> None:
        """What a link tells of a job."""
        if isinstance(event, e.Opened):
            self._opened(event.job)
        elif isinstance(event, e.DataCame):
            call = self._of(event.job)
            if call is not None:
                call.body += event.data
                event.job.consumed(len(event.data))
                if event.whole:
                    call.start()
        elif isinstance(event, e.Writable):
            call = self._of(event.job)
            if call is not None:
                call.resume()
        elif isinstance(event, (e.Cancelled, e.Lost)):
            call = self._of(event.job)
            if isinstance(event, e.Cancelled):
                event.job.reset("cancelled")
            if call is not None:
                call.abort("cancelled" if isinstance(event, e.Cancelled) else "lost")
        self.pump()

    def expired(self, jobs: list[Job]) -> None:
        """These were without a link for too long."""
        for job in jobs:
            call = self._of(job)
            if call is not None:
                call.abort("expired")

    def close(self, code: m.RefuseCode, detail: str) -> None:
        """Take nothing new, and what waits is new."""
        self.closed = (code, detail)
        while self.waiting:
            self._turn_away(self.waiting[-1], code, detail)
        self.pump()

    def reset_all(self, code: m.ResetCode, detail: str) -> None:
        """End everything that runs, now."""
        for call in tuple(self.running.values()):
            call.stop(code, detail)
        self.pump()

    def over(self, call: EngineCall, how: str) -> None:
        """A call is over: its slot is free."""
        if call.done:
            return
        call.done = True
        call.body = bytearray()
        self.ends[how] += 1
        if call in self.waiting:
            self.waiting.remove(call)
        else:
            self.running.pop(call.job.request.job, None)
        self._held_bytes -= call.job.request.body_bytes
        self._fill()
        self.pump()

    def _opened(self, job: Job) -> None:
        request = job.request
        engine = self._find(request.engine, request.model, request.path)
        if engine is None:
            self._refuse(job, "model_gone", "this machine does not offer that model")
        elif self.closed is not None:
            self._refuse(job, *self.closed)
        elif engine.away:
            self._refuse(job, engine.away_code, engine.away)
        elif not self._has_room(request.engine, request.model):
            self._refuse(job, "no_vram", "the model does not fit beside what is kept free of the GPU's memory")
        elif self._held_bytes + request.body_bytes > HELD_BODIES_BYTES:
            self._refuse(job, "busy", "too much waits to be read here")
        else:
            self._held_bytes += request.body_bytes
            call = EngineCall(self, job, engine)
            place = next((i for i, other in enumerate(self.waiting) if request.own and not other.job.request.own), None)
            self.waiting.insert(len(self.waiting) if place is None else place, call)
            self._fill()
            if len(self.waiting) > self.queue:
                self._turn_away(self.waiting[-1], "busy", "all slots are taken")

    def _fill(self) -> None:
        """Give free slots to those that wait, in their order."""
        for call in tuple(self.waiting):
            if call not in self.waiting:  # one that was started ended at once, and others have had their turn over it
                continue
            here = sum(other.engine.id == call.engine.id for other in self.running.values())
            if len(self.running) < self.slots and here < call.engine.slots:
                self.waiting.remove(call)
                self.running[call.job.request.job] = call
                call.job.accept()
                call.start()
        if self.running:
            self.idle.clear()
        else:
            self.idle.set()
        self._on_change()

    def _turn_away(self, call: EngineCall, code: m.RefuseCode, detail: str) -> None:
        call.done = True
        self.waiting.remove(call)
        self._held_bytes -= call.job.request.body_bytes
        self._refuse(call.job, code, detail)

    def _refuse(self, job: Job, code: m.RefuseCode, detail: str) -> None:
        self.refusals[code] += 1
        job.refuse(m.Refuse(code, detail[:MAX_DETAIL], BUSY_RETRY_S if code == "busy" else None))

    def _of(self, job: Job) -> EngineCall | None:
        found = self.running.get(job.request.job)
        if found is not None and found.job is job:
            return found
        return next((call for call in self.waiting if call.job is job), None)


def names_model(body: bytes, model: str) -> bool:
    """The body is a JSON object with one `model`, however that is spelt in case, and it is this one.

    Engines read a name that comes twice, or in another case, each in its own way: such a body is not passed on.
    """
    try:
        members = _MEMBERS.decode(body)
        names = list(members)
        if len(msgspec.json.encode(members)) != len(body):  # white space, escaped names, or a name that comes twice
            if len(body) > SCAN_BYTES:
                return False
            names = [name for name, _ in json.loads(body, object_pairs_hook=list)]
        named = [name for name in names if name.lower() == "model"]
        return named == ["model"] and _NAME.decode(members["model"]) == model
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False


def _asked(engine: Engine, request: m.Open) -> tuple[CompiledTarget, RequestHead]:
    """The address out of the owner's list, and the head: nothing of it but the closed headers is the gateway's."""
    path = engine.prefix + request.path
    given = dict(request.headers)
    given.pop("content-type", None)  # read as a form or in another charset, the body could name another model
    fields = (
        *engine.fields,
        ("content-type", "application/json"),
        ("accept", given.pop("accept", "application/json, text/event-stream")),
        ("accept-encoding", "identity"),
        *given.items(),
    )
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "content-length: "]
    head = RequestHead("POST", path, fields, "\r\n".join(lines).encode("latin-1"))
    timeouts = Timeouts(CONNECT_S, request.deadline_s, IDLE_S, request.deadline_s)
    endpoint = Endpoint(engine.id, engine.host, engine.port, engine.tls, timeouts)
    model_json = msgspec.json.encode(request.model)
    target = CompiledTarget(
        engine.id,
        engine.id,
        engine.id,
        "",
        None,
        "pool",
        endpoint,
        model_json,
        {},
        None,
        True,
        "cancel",
        frozenset(),
    )
    return target, head
