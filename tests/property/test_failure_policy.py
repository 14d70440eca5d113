"""The failure policy under random traffic: lanes that fail and recover, callers that hang up, clocks that run.

The world below does what a data plane does with the policy, and keeps its own books of calls and probes.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import get_args

from hypothesis import event, given, settings
from hypothesis import strategies as st

from potluck.model.usage import ErrorClass
from potluck.policy.breaker import BUCKET_S, FIRST_OPEN_S, MAX_OPEN_S, PROBE_LOST_S, Breaker, counts
from potluck.policy.credentials import PARK_MAX_S, PROBE_EVERY_S, KeyHealth, Parking
from potluck.policy.retry import JITTER_MAX, JITTER_MIN, MAX_CALLS, MAX_TARGETS, Spent

LANES = 3
"""of one credential: three targets behind the same key"""
FAILED: tuple[ErrorClass, ...] = tuple(name for name in get_args(ErrorClass) if name not in ("none", "lost"))
RANDOMS = st.floats(0.0, 1.0, exclude_max=True)


@dataclass(eq=False)
class Call:
    """A call under way, and what it is the probe of."""

    lane: int
    of_breaker: bool
    of_key: bool
    began: float


@dataclass
class World:
    """Three lanes with one key, and the calls that are under way."""

    now: float = 50_000.0
    calls: list[Call] = field(default_factory=list)
    opens: int = 0

    def __post_init__(self) -> None:
        self.breakers = [Breaker(self.now) for _ in range(LANES)]
        self.parkings = [Parking() for _ in range(LANES)]
        self.key = KeyHealth()
        self.key_probes: list[float] = []

    def pass_time(self, seconds: float) -> None:
        """The clock goes on, with the sweep's ticks on the way."""
        end = self.now + seconds
        while self.now + BUCKET_S < end:
            self.now += BUCKET_S
            for breaker in self.breakers:
                breaker.tick(self.now)
        self.now = end
        for call in self.calls:  # what the policy counts as lost is nobody's probe any more
            if self.now - call.began >= PROBE_LOST_S:
                call.of_breaker = call.of_key = False

    def begin(self, lane: int, *, last_standing: bool) -> None:
        """A call, if the policy lets it go; as the last one standing also where a breaker is open."""
        breaker = self.breakers[lane]
        if self.parkings[lane].parked(self.now) or not self.key.ready(self.now):
            return
        ready = breaker.ready(self.now)
        if not ready and not last_standing:
            return
        of_breaker = ready and breaker.state != "closed"
        of_key = self.key.dead
        if of_breaker:
            breaker.begin_probe(self.now)
        if of_key:
            self.key.begin_probe(self.now)
            self.key_probes.append(self.now)
        self.calls.append(Call(lane, of_breaker, of_key, self.now))

    def end(self, call: Call, error_class: ErrorClass, random: float) -> None:
        """A call's end, told to all that it concerns."""
        self.calls.remove(call)
        breaker, parking = self.breakers[call.lane], self.parkings[call.lane]
        if error_class == "none":
            breaker.good += 1
            if breaker.troubled:
                was_closed = breaker.state == "closed"
                breaker.succeeded(self.now)
                assert was_closed or not breaker.troubled
            assert breaker.state == "closed"
            assert breaker.run == 0
            if parking.row:
                parking.succeeded()
            if self.key.dead:
                self.key.succeeded()
            self._settled(call.lane, breaker=True, key=True)
            return
        if counts(error_class):
            self.opens += breaker.failed(self.now, error_class, "x", lambda: random)
            self._settled(call.lane, breaker=True)
        elif call.of_breaker:
            breaker.probe_abandoned()
        if error_class == "key_limited":
            before = parking.until
            parking.park(self.now, None if random < 0.5 else random * 100, "x")
            assert before <= parking.until <= max(before, self.now + max(PARK_MAX_S, random * 100))
        if error_class == "key_dead":
            self.key.died(self.now, "x")
            self._settled(call.lane, key=True)
        elif call.of_key:
            self.key.probe_abandoned()

    def _settled(self, lane: int, *, breaker: bool = False, key: bool = False) -> None:
        """The first verdict ends a probe, whoever brought it."""
        for call in self.calls:
            call.of_breaker &= not (breaker and call.lane == lane)
            call.of_key &= not key

    def check(self) -> None:
        """What holds at every moment."""
        assert sum(call.of_key for call in self.calls) <= 1
        if any(call.of_key for call in self.calls):
            assert not self.key.ready(self.now)
        assert all(later - earlier >= PROBE_EVERY_S for earlier, later in pairwise(self.key_probes))
        for lane, breaker in enumerate(self.breakers):
            probes = sum(call.of_breaker for call in self.calls if call.lane == lane)
            assert probes <= 1
            assert probes == 0 or not breaker.ready(self.now)
            assert (breaker.state == "closed") == (breaker.opens == 0) == (breaker.reason == "")
            assert breaker.state == "closed" or breaker.troubled
            view = breaker.view(self.now)
            assert 0 <= view.failures <= view.samples
            assert breaker.troubled == (breaker.state != "closed" or view.failures > 0)
            if breaker.state == "open":
                wait_s = breaker.retry_at - self.now
                assert wait_s <= min(FIRST_OPEN_S * 2 ** (breaker.opens - 1), MAX_OPEN_S) * JITTER_MAX
                assert view.retry_in_s == max(0.0, wait_s)


STEPS = st.one_of(
    st.tuples(st.just("time"), st.sampled_from([0.01, 1.0, 7.0, 15.0, 61.0, 400.0])),
    st.tuples(st.just("begin"), st.integers(0, LANES - 1), st.booleans()),
    st.tuples(st.just("end"), st.integers(0, 1000), st.sampled_from(("none", *FAILED)), RANDOMS),
    st.tuples(st.just("outage"), st.integers(0, LANES - 1), st.integers(1, 6), RANDOMS),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, min_size=20, max_size=120))
def test_random_traffic_keeps_the_rules(steps: list[tuple]) -> None:
    """One probe per breaker and key, bounded delays, a success closes: at every moment of any history."""
    world = World()
    for step in steps:
        match step:
            case ("time", seconds):
                world.pass_time(seconds)
            case ("begin", lane, last_standing):
                world.begin(lane, last_standing=last_standing)
            case ("end", pick, error_class, random) if world.calls:
                world.end(world.calls[pick % len(world.calls)], error_class, random)
            case ("outage", lane, times, random):
                for _ in range(times):
                    world.begin(lane, last_standing=False)
                    mine = [call for call in world.calls if call.lane == lane]
                    if mine:
                        world.end(mine[-1], "target_down", random)
        world.check()
    event(f"opened {min(world.opens, 3)} times or more")
    event(f"key probed {min(len(world.key_probes), 2)} times or more")


@given(st.lists(st.tuples(RANDOMS, st.booleans()), min_size=1, max_size=30))
def test_open_delays_lie_within_their_bounds(probes: list[tuple[float, bool]]) -> None:
    """From 0.8 × 15 s to 1.2 × 300 s, each failed probe twice the one before; an abandoned one changes nothing."""
    now, breaker, base_s = 0.0, Breaker(0.0), FIRST_OPEN_S
    for _ in range(5):
        breaker.failed(now, "target_slow", "x", lambda: probes[0][0])
    for random, abandoned_first in probes:
        wait_s = breaker.retry_at - now
        assert JITTER_MIN * base_s - 1e-6 <= wait_s <= JITTER_MAX * base_s + 1e-6
        now = breaker.retry_at
        assert not breaker.ready(math.nextafter(now, 0.0))
        assert breaker.ready(now)
        breaker.begin_probe(now)
        if abandoned_first:
            breaker.probe_abandoned()
            breaker.begin_probe(now)
        base_s = min(2 * base_s, MAX_OPEN_S)
        assert breaker.failed(now, "target_down", "x", lambda random=random: random)


@given(st.lists(st.tuples(st.sampled_from(("caller_fault", "key_limited", "client_closed", "none")), st.floats(0, 30))))
def test_a_breaker_that_sees_no_target_fault_stays_closed(ends: list[tuple[ErrorClass, float]]) -> None:
    """However many callers send nonsense, are limited or hang up."""
    now, breaker = 0.0, Breaker(0.0)
    for error_class, seconds in ends:
        now += seconds
        breaker.tick(now)
        if error_class == "none":
            breaker.good += 1
        assert not breaker.failed(now, error_class, "x", lambda: 0.5)
        assert (breaker.state, breaker.troubled, breaker.bad) == ("closed", False, 0)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 20)), min_size=1, max_size=200))
def test_the_window_is_as_exact_as_documented(ends: list[tuple[bool, float]]) -> None:
    """What is younger than its guaranteed life is counted, what is older than 60 s is not."""
    now, breaker = 0.0, Breaker(0.0)
    seen: list[tuple[float, bool]] = []
    for good, seconds in ends:
        end = now + seconds
        while now + BUCKET_S < end:
            now += BUCKET_S
            breaker.tick(now)
        now = end
        breaker.tick(now)
        seen.append((now, good))
        if good:
            breaker.good += 1
        else:
            breaker.bad += 1  # a failure, told without opening the breaker
        view = breaker.view(now)
        for count, kind in ((view.samples - view.failures, True), (view.failures, False)):
            surely_s = 60 - 2 * BUCKET_S if kind else 60 - BUCKET_S
            ages = [now - at for at, was_good in seen if was_good is kind]
            assert sum(age <= surely_s for age in ages) <= count <= sum(age <= 60 for age in ages)


FINAL = ("caller_fault", "client_closed")
FAULTS = st.tuples(
    st.sampled_from((*("target_down", "target_slow", "key_dead", "key_limited", "policy") * 4, *FINAL)),
    st.sampled_from(("connect", "send", "first_byte", "stream")),
    st.sampled_from((0, 200, 402, 403, 404, 429, 500, 503)),
    st.sampled_from((None, None, 0.0, 1.0, 30.0)),
    st.floats(0, 3),
)
PLANS = st.permutations([(target, key) for target in "abcde" for key in "kl"]).flatmap(
    lambda lanes: st.integers(1, len(lanes)).map(lambda size: lanes[:size])
)


@settings(max_examples=300)
@given(PLANS, st.lists(FAULTS, min_size=MAX_CALLS + 1, max_size=MAX_CALLS + 1), st.floats(0.1, 20), RANDOMS)
def test_the_caps_hold_whatever_fails(
    plan: list[tuple[str, str]], faults: list[tuple], deadline: float, random: float
) -> None:
    """At most 4 calls to at most 3 targets, none at or after the deadline, none after a final failure."""
    now, spent = 0.0, Spent(deadline)
    made: list[tuple[str, str]] = []
    repeats: list[str] = []
    lane: tuple[str, str] | None = plan[0]
    for error_class, phase, status, retry_after_s, took_s in faults:
        if lane is None:
            break
        assert now < deadline
        made.append(lane)
        spent.called(*lane)
        now += took_s
        spent.failed(lane[0], error_class, phase, status, retry_after_s)
        if error_class in FINAL:
            assert not spent.may_call(now)
        lane = next((option for option in plan if spent.may_try(*option, now)), None)
        assert lane not in made
        if lane is None:
            for option in dict.fromkeys(made):
                wait_s = spent.again_after_s(option[0], now, lambda: random)
                if wait_s is not None:
                    assert wait_s >= JITTER_MIN * 0.5
                    now += wait_s
                    lane = option
                    repeats.append(option[0])
                    break
    assert lane is None
    assert len(made) <= MAX_CALLS
    assert len({target for target, _ in made}) <= MAX_TARGETS
    assert len(repeats) == len(set(repeats))
    event(f"{len(made)} calls, {len({target for target, _ in made})} targets, {len(repeats)} repeats")
