"""One machine as it truly is: slots, engine queue, memory, loading, prefill, decoding, caches.

Rules
- At most `slots` calls run; the others wait in the order of their arrival, and the first of them stops those behind it
  where its model has to be loaded first. One load at a time; where memory is full, the model that was used longest ago
  makes room, but none that a running call needs.
- Prompts are read one after the other, at `prefill_tps`, without the beginning that is in the cache; the first token
  comes when the prompt is read. Then the call's tokens come at decode_tps / (1 + k·(b - 1)), b calls decoding.
- Reading and decoding do not slow each other down.
- Between two events every speed is constant, so that events are exact whenever one looks. A copy that is run on alone
  tells the future as far as nothing new arrives: that is how the oracle knows.
"""

from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Literal, NamedTuple

from bench.fleet.arrivals import BLOCK_TOKENS, Request
from bench.fleet.scenario import Machines, Model
from bench.fleet.sight import Prompt

INF = float("inf")

Kind = Literal["first", "end"]
Event = Literal["none", "loaded", "read", "decoded"]


class Job(NamedTuple):
    """A request at a machine; `number` tells the calls of one request apart, and is unique in a world."""

    number: int
    request: Request


class Note(NamedTuple):
    """Something that a call's gateway hears of."""

    kind: Kind
    job: Job


class Box:
    """One machine. Times are seconds since the world began."""

    def __init__(self, kind: Machines, models: dict[str, Model]) -> None:
        self.kind = kind
        self.models = models
        self.now_s = 0.0
        self.speed = 1.0
        """share of its figures that it reaches"""
        self.owner_here = False
        self.loads = 0
        """models loaded since the beginning"""
        self.coming: list[Job] = []
        """calls that are on their way to it"""
        self._waiting: deque[Job] = deque()
        self._reading: deque[Job] = deque()
        self._read_left = 0.0
        """of the first of them: tokens, times its model's work"""
        self._decoding: list[tuple[float, int, Job]] = []
        """a heap: the progress at which each is complete"""
        self._progress = 0.0
        """tokens that a stream which had been there from the beginning would have"""
        self._loading = ""
        self._load_left_s = 0.0
        self._memory: dict[str, dict[int, None]] = {name: {} for name in kind.resident}
        """models by last use, each with the prompt blocks in its cache, also by last use"""

    def copy(self) -> "Box":
        """The same machine, to be run on alone."""
        twin = Box.__new__(Box)
        twin.__dict__.update(self.__dict__)
        twin._waiting = self._waiting.copy()
        twin._reading = self._reading.copy()
        twin._decoding = self._decoding.copy()
        twin._memory = {name: blocks.copy() for name, blocks in self._memory.items()}
        return twin

    @property
    def running(self) -> int:
        return len(self._reading) + len(self._decoding)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def busy_with(self, model: str) -> tuple[int, int]:
        """Calls that run and that wait."""
        running = sum(job.request.prompt.model == model for job in self._jobs())
        return running, sum(job.request.prompt.model == model for job in self._waiting)

    def is_resident(self, model: str) -> bool:
        return model in self._memory

    def load_eta_s(self, model: str) -> float | None:
        """Until the model is loaded; None: it is not being loaded."""
        return self._load_left_s / self.speed if model == self._loading else None

    def told_at_once(self) -> tuple[object, ...]:
        """What a report does not wait for the next heartbeat for: it is another one when this is."""
        return (frozenset(self._memory), self._loading, self.owner_here)

    def refusal(self) -> str:
        """Why a new call would be refused; empty: it would not."""
        if self.owner_here:
            return "owner_active"
        return "busy" if self.waiting >= self.kind.queue and self.running >= self.kind.slots else ""

    def submit(self, job: Job) -> None:
        """A call arrives, now; `refusal` has been asked."""
        self._waiting.append(job)
        self._admit()

    def cancel(self, job: Job) -> None:
        """A call is given up; one that has ended already is none."""
        if job in self._waiting:
            self._waiting.remove(job)
        elif job in self._reading:
            was_first = self._reading[0] is job
            self._reading.remove(job)
            if was_first:
                self._begin_reading()
        else:
            self._decoding = [entry for entry in self._decoding if entry[2] is not job]
            heapify(self._decoding)
        self._admit()

    def owner_comes(self) -> None:
        """New calls are refused; those that are here go on; models that nobody uses leave the memory."""
        self.owner_here = True
        self._unload_unused()

    def next_s(self) -> float:
        """When something happens by itself."""
        return self._soonest()[0]

    def advance(self, to_s: float) -> list[Note]:
        """Let everything happen that happens until then."""
        notes: list[Note] = []
        while True:
            at_s, event = self._soonest()
            if at_s > to_s:
                break
            self._flow(at_s)
            self._happen(event, notes)
        self._flow(to_s)
        return notes

    def foresee(self, job: Job, now_s: float) -> tuple[float, float]:
        """When the job would have its first token and its last, if it came now and nothing else came."""
        twin = self.copy()
        twin.advance(now_s)
        for other in self.coming:
            twin.submit(other)
        twin.submit(job)
        first_s = INF
        notes: list[Note] = []
        while True:
            at_s, event = twin._soonest()
            if event == "none":
                return first_s, INF
            twin._flow(at_s)
            twin._happen(event, notes)
            for note in notes:
                if note.job is job:
                    if note.kind == "end":
                        return first_s, at_s
                    first_s = at_s
            notes.clear()

    def _jobs(self) -> list[Job]:
        return [*self._reading, *(entry[2] for entry in self._decoding)]

    def _tps_each(self) -> float:
        """Of each of the calls that are decoding."""
        kind = self.kind
        return self.speed * kind.decode_tps / (1 + kind.k * (len(self._decoding) - 1))

    def _soonest(self) -> tuple[float, Event]:
        at_s = INF
        event: Event = "none"
        if self._loading:
            at_s, event = self.now_s + self._load_left_s / self.speed, "loaded"
        if self._reading:
            read_s = self.now_s + self._read_left / (self.speed * self.kind.prefill_tps)
            if read_s < at_s:
                at_s, event = read_s, "read"
        if self._decoding:
            decoded_s = self.now_s + (self._decoding[0][0] - self._progress) / self._tps_each()
            if decoded_s < at_s:
                at_s, event = decoded_s, "decoded"
        return max(at_s, self.now_s), event

    def _flow(self, to_s: float) -> None:
        """Time passes in which nothing happens."""
        passed_s = to_s - self.now_s
        if passed_s <= 0:
            return
        self.now_s = to_s
        if self._loading:
            self._load_left_s -= passed_s * self.speed
        if self._reading:
            self._read_left -= passed_s * self.speed * self.kind.prefill_tps
        if self._decoding:
            self._progress += passed_s * self._tps_each()

    def _happen(self, event: Event, notes: list[Note]) -> None:
        if event == "loaded":
            self._memory[self._loading] = {}
            self._loading = ""
        elif event == "read":
            job = self._reading.popleft()
            self._remember(job.request.prompt)
            notes.append(Note("first", job))
            left = (job.request.output_tokens - 1) * self.models[job.request.prompt.model].work
            heappush(self._decoding, (self._progress + left, job.number, job))
            self._begin_reading()
        else:
            notes.append(Note("end", heappop(self._decoding)[2]))
            if self.owner_here:
                self._unload_unused()
        self._admit()

    def _admit(self) -> None:
        """Give free slots to those that wait, and begin the load that the first of them needs."""
        while self._waiting and self.running < self.kind.slots:
            model = self._waiting[0].request.prompt.model
            if model not in self._memory:
                self._begin_loading(model)
                return
            self._memory[model] = self._memory.pop(model)
            self._reading.append(self._waiting.popleft())
            if len(self._reading) == 1:
                self._begin_reading()

    def _begin_loading(self, model: str) -> None:
        if self._loading:
            return
        if len(self._memory) >= self.kind.holds:
            needed = {job.request.prompt.model for job in self._jobs()}
            unused = next((name for name in self._memory if name not in needed), None)
            if unused is None:
                return
            del self._memory[unused]
        self._loading = model
        self._load_left_s = self.kind.load_s * self.models[model].work
        self.loads += 1

    def _unload_unused(self) -> None:
        needed = {job.request.prompt.model for job in (*self._jobs(), *self._waiting)}
        for name in [name for name in self._memory if name not in needed]:
            del self._memory[name]

    def _begin_reading(self) -> None:
        if self._reading:
            prompt = self._reading[0].request.prompt
            uncached = prompt.tokens - self._cached_blocks(prompt) * BLOCK_TOKENS
            self._read_left = max(1, uncached) * self.models[prompt.model].work

    def _cached_blocks(self, prompt: Prompt) -> int:
        cached = self._memory[prompt.model]
        return next((n for n, block in enumerate(prompt.blocks) if block not in cached), len(prompt.blocks))

    def _remember(self, prompt: Prompt) -> None:
        """The prompt's blocks are in the cache now; its beginning is the last to be dropped."""
        cached = self._memory[prompt.model]
        for block in reversed(prompt.blocks):
            cached.pop(block, None)
            cached[block] = None
        surplus = len(cached) - self.kind.slots * self.kind.context_tokens // BLOCK_TOKENS
        for block in list(cached)[: max(0, surplus)]:
            del cached[block]


def make_boxes(machines: Sequence[Machines], models: dict[str, Model]) -> dict[str, Box]:
    """All machines by name: `small-1`, `small-2`, …; `small` where it is the only one of its kind."""
    boxes = {}
    for kind in machines:
        for n in range(1, kind.count + 1):
            boxes[kind.name if kind.count == 1 else f"{kind.name}-{n}"] = Box(kind, models)
    return boxes
