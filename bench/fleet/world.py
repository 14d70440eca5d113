"""The clock: arrivals meet a policy, calls meet machines, reports travel. One run of one scenario under one policy.

- A report reaches the gateway half a round trip after it was written: with each heartbeat, and at once when a model
  comes or goes or the owner does. What is queued is told by heartbeats alone.
- A call reaches its machine, and its first and last token reach the caller, half a round trip later each.
- A broken engine fails a call `BROKEN_S` after it arrived. A machine that drops its link goes on with what it has.
- Policies are told how calls end; whether they try another machine is theirs.
"""

from collections.abc import Callable, Generator
from random import Random
from typing import cast

import msgspec
import simpy

from bench.fleet.arrivals import Request
from bench.fleet.physics import INF, Box, Job, make_boxes
from bench.fleet.scenario import Scenario
from bench.fleet.sight import Report, Scheduler

HEARTBEAT_S = 15.0
BROKEN_S = 0.02
GONE_S = 1.0
"""between a link's loss and the next one"""

Process = Generator[simpy.Event, object, None]


class Outcome(msgspec.Struct):
    """What became of one request."""

    at_s: float
    ttft_s: float | None = None
    """at the caller; None: it was given up"""
    total_s: float | None = None
    box: str = ""
    """the one that answered"""
    calls: int = 0
    refused: int = 0
    failed: int = 0
    """by broken engines"""
    slow: int = 0


class Outcomes(msgspec.Struct):
    """What became of all of them, in order of arrival."""

    requests: list[Outcome]
    cold_loads: int
    duration_s: float


class World:
    """One run."""

    def __init__(self, scenario: Scenario, requests: list[Request]) -> None:
        self.boxes = make_boxes(scenario.machines, scenario.models)
        self.requests = requests
        self._scenario = scenario
        self._clock = simpy.Environment()
        self._outcomes = [Outcome(request.at_s) for request in requests]
        self._marks: dict[int, tuple[simpy.Event, simpy.Event]] = {}
        """by number of the job: its first token, its last"""
        self._jobs = 0
        self._told: dict[str, tuple[object, ...]] = {}
        """by box: what its last report said that is told at once"""
        self._wakes_s = dict.fromkeys(self.boxes, INF)
        """when each is looked at next"""
        self._left = len(requests)

    def run(self, scheduler: Scheduler, progress: Callable[[float], None] | None = None) -> Outcomes:
        """Until each request has its end. `progress` is told the share that has, now and then."""
        self._scheduler = scheduler
        clock = self._clock
        for name, box in self.boxes.items():
            clock.process(self._live(name, box))
            if box.kind.owner_away_s:
                clock.process(self._be_owned(name, box, box.kind.owner_away_s))
            if box.kind.reconnects_s:
                clock.process(self._reconnect(name, box, box.kind.reconnects_s))
        clock.process(self._arrive())
        while self._left:
            clock.step()
            if progress and not self._jobs % 256:
                progress(1 - self._left / len(self.requests))
        loads = sum(box.loads for box in self.boxes.values())
        return Outcomes(self._outcomes, loads, clock.now)

    def _random(self, what: str) -> Random:
        return Random(f"{self._scenario.name} {self._scenario.seed} {what}")

    def _arrive(self) -> Process:
        for number, request in enumerate(self.requests):
            yield self._clock.timeout(request.at_s - self._clock.now)
            self._clock.process(self._serve(request, self._outcomes[number]))

    def _serve(self, request: Request, outcome: Outcome) -> Process:
        """One request, from machine to machine until one answers."""
        tried: list[str] = []
        while True:
            name = self._scheduler.pick(request.prompt, tried, self._clock.now)
            if name is None:
                break
            tried.append(name)
            outcome.calls += 1
            yield from self._call(name, request, outcome)
            if outcome.total_s is not None:
                outcome.box = name
                break
        self._left -= 1

    def _call(self, name: str, request: Request, outcome: Outcome) -> Process:
        clock, box = self._clock, self.boxes[name]
        half_s = box.kind.rtt_ms / 2000
        call = self._scheduler.begin(name, request.prompt, clock.now)
        self._jobs += 1
        job = Job(self._jobs, request)
        box.coming.append(job)
        yield clock.timeout(half_s)
        box.coming.remove(job)
        if box.kind.broken:
            yield clock.timeout(BROKEN_S + half_s)
            outcome.failed += 1
            call.failed(clock.now, slow=False)
            return
        self._drive(name, box)
        if box.refusal():
            yield clock.timeout(half_s)
            outcome.refused += 1
            call.refused(clock.now)
            return
        first, last = self._marks[job.number] = clock.event(), clock.event()
        box.submit(job)
        self._drive(name, box)
        yield first | clock.timeout(self._scenario.traffic.patience_s)
        if not first.triggered:
            del self._marks[job.number]
            box.cancel(job)
            self._drive(name, box)
            outcome.slow += 1
            call.failed(clock.now, slow=True)
            return
        yield clock.timeout(half_s)
        outcome.ttft_s = clock.now - request.at_s
        call.first_token(clock.now)
        ended_s = yield last
        yield clock.timeout(max(0.0, cast("float", ended_s) + half_s - clock.now))
        outcome.total_s = clock.now - request.at_s
        call.end(request.output_tokens, clock.now)

    def _drive(self, name: str, box: Box) -> None:
        """Let the machine come up to now, tell what came of it, and be back when something happens next."""
        clock = self._clock
        for kind, job in box.advance(clock.now):
            first, last = self._marks[job.number]
            if kind == "first":
                first.succeed()
            else:
                del self._marks[job.number]
                last.succeed(clock.now)
        at_once = box.told_at_once()
        if name in self._told and at_once != self._told[name]:
            clock.process(self._tell(name, box))
        next_s = box.next_s()
        if next_s < self._wakes_s[name]:
            self._wakes_s[name] = next_s
            clock.process(self._wake(name, box, next_s))

    def _wake(self, name: str, box: Box, at_s: float) -> Process:
        yield self._clock.timeout(max(0.0, at_s - self._clock.now))
        if self._wakes_s[name] == at_s:
            self._wakes_s[name] = INF
        self._drive(name, box)

    def _tell(self, name: str, box: Box) -> Process:
        """A report of each model, and what it takes to reach the gateway."""
        self._told[name] = box.told_at_once()
        reports = [_report(name, box, model) for model in box.kind.models]
        yield self._clock.timeout(box.kind.rtt_ms / 2000)
        for report in reports:
            self._scheduler.report(report, self._clock.now)

    def _live(self, name: str, box: Box) -> Process:
        """It connects, and then its heart beats."""
        clock, kind = self._clock, box.kind
        yield clock.timeout(kind.joins_s)
        self._scheduler.joined(name, kind.models, clock.now)
        yield from self._tell(name, box)
        if kind.throttled_from_s is not None:
            clock.process(self._throttle(name, box, kind.throttled_from_s))
        yield clock.timeout(self._random(f"heart of {name}").random() * HEARTBEAT_S)
        while True:
            self._drive(name, box)
            yield from self._tell(name, box)
            yield clock.timeout(HEARTBEAT_S)

    def _throttle(self, name: str, box: Box, at_s: float) -> Process:
        yield self._clock.timeout(max(0.0, at_s - self._clock.now))
        self._drive(name, box)
        box.speed = box.kind.throttled_to
        self._wakes_s[name] = INF
        self._drive(name, box)

    def _be_owned(self, name: str, box: Box, away_s: float) -> Process:
        """The owner comes and goes."""
        clock, random = self._clock, self._random(f"owner of {name}")
        while True:
            yield clock.timeout(random.expovariate(1 / away_s))
            self._drive(name, box)
            box.owner_comes()
            self._drive(name, box)
            yield clock.timeout(box.kind.rtt_ms / 2000)
            self._scheduler.away(name, "owner_active", clock.now)
            yield clock.timeout(random.expovariate(1 / box.kind.owner_here_s))
            self._drive(name, box)
            box.owner_here = False
            yield clock.timeout(box.kind.rtt_ms / 2000)
            self._scheduler.away(name, "", clock.now)

    def _reconnect(self, name: str, box: Box, every_s: float) -> Process:
        """The link is lost, and is there again."""
        clock, random = self._clock, self._random(f"link of {name}")
        while True:
            yield clock.timeout(random.expovariate(1 / every_s))
            self._scheduler.away(name, "not connected", clock.now)
            yield clock.timeout(GONE_S)
            self._scheduler.joined(name, box.kind.models, clock.now)
            self._scheduler.away(name, "", clock.now)
            yield from self._tell(name, box)


def _report(name: str, box: Box, model: str) -> Report:
    kind, work = box.kind, box.models[model].work
    running, waiting = box.busy_with(model)
    return Report(
        name,
        model,
        box.is_resident(model),
        box.load_eta_s(model),
        running,
        waiting,
        kind.prefill_tps / work * kind.claims.prefill or None,
        kind.decode_tps / work * kind.claims.decode or None,
        kind.load_s * work * kind.claims.load or None,
        kind.slots,
        kind.context_tokens,
        kind.rtt_ms,
    )
