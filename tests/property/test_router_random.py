"""Many requests at once over lanes that fail in every way: the router and the registry, driven as exchanges drive them.

`Exchange` below makes the moves of `proxy.exchange` (begin, fail, rival, pause, hang up, time is up) in the same order;
`Books` keeps its own account of calls and probes and looks at every decision of the router at the moment it is made.
"""

import random
from dataclasses import dataclass, field

from hypothesis import event, given, settings
from hypothesis import strategies as st

from potluck.model.resources import Hedge, RouteTimeouts
from potluck.policy.breaker import PROBE_LOST_S
from potluck.policy.credentials import KeyHealth
from potluck.policy.retry import MAX_CALLS, MAX_TARGETS
from potluck.policy.selection import PICK
from potluck.ports import Failure
from potluck.proxy.candidates import Candidates, LaneOption
from potluck.proxy.registry import DEAD, OPEN, PARKED, PROBE, READY, Lane
from potluck.proxy.routing import Next, Run
from tests.unit.proxy.route_rig import BODY_BYTES, World, envelope, failure, target

ENVELOPE = envelope()
FAILURES = [
    failure("target_down", phase="connect"),
    failure("target_down", status=503),
    failure("target_down", status=503, retry_after_s=60.0),
    failure("target_down", phase="stream"),
    failure("target_slow"),
    failure("key_dead", status=401),
    failure("key_dead", status=403),
    failure("key_limited"),
    failure("key_limited", retry_after_s=5.0),
    failure("key_limited", retry_after_s=300.0),
    failure("caller_fault", status=400),
    failure("policy", status=402),
    failure("policy", status=403),
]
WHOLE_KEY = 401


@dataclass(eq=False)
class Call:
    """A call under way, and what it is the probe of."""

    option: LaneOption
    begun_at: float
    of_breaker: bool
    of_keys: list[KeyHealth]


@dataclass
class Books:
    """What the rules say of each decision, found out from the lanes as they stood before it."""

    made: World
    calls: list[Call] = field(default_factory=list)
    rivals: int = 0
    firsts: int = 0
    probes: int = 0

    def state(self, lane: Lane) -> int:
        return lane.state(self.made.now)

    def before(self, candidates: Candidates) -> dict[Lane, tuple[int, bool, list[KeyHealth]]]:
        """Of each lane: how it stands, whether its breaker and which of its keys wait for a probe."""
        now = self.made.now
        return {
            option.lane: (
                option.lane.state(now),
                option.lane.breaker.state != "closed" and option.lane.breaker.ready(now),
                [key for key in (option.lane.key, option.lane.refused) if key.dead and key.ready(now)],
            )
            for place in candidates.places
            for option in place.lanes
        }

    def decided(self, stood: dict[Lane, tuple[int, bool, list[KeyHealth]]], option: LaneOption, kind: str) -> None:
        """The router said: call this next."""
        state, breaker_waits, keys_wait = stood[option.lane]
        assert state not in (PARKED, DEAD)
        assert not option.lane.parking.parked(self.made.now)
        assert option.probe or kind == "same" or not (option.lane.key.dead or option.lane.refused.dead)
        if kind == "hedge":
            assert state == READY
        if kind in ("first", "next", "key"):
            assert option.probe == (state == PROBE or bool(keys_wait))
        if option.probe:
            self.probes += 1
            self.check_probes(Call(option, self.made.now, breaker_waits, keys_wait))

    def begun(self, option: LaneOption, stood: dict[Lane, tuple[int, bool, list[KeyHealth]]] | None) -> Call:
        _, breaker_waits, keys_wait = stood[option.lane] if stood is not None else (READY, False, [])
        call = Call(option, self.made.now, option.probe and breaker_waits, keys_wait if option.probe else [])
        self.calls.append(call)
        return call

    def check_probes(self, new: Call) -> None:
        """No other probe of the same breaker or key is under way; what counts as lost is none any more."""
        for call in self.calls:
            if self.made.now - call.begun_at >= PROBE_LOST_S:
                continue
            assert not (new.of_breaker and call.of_breaker and call.option.lane is new.option.lane)
            assert not any(key is other for key in new.of_keys for other in call.of_keys)

    def verdict(self, lane: Lane, *, breaker: bool = False, keys: tuple[KeyHealth, ...] = ()) -> None:
        """The first verdict is the probe's, whoever brought it."""
        for call in self.calls:
            if breaker and call.option.lane is lane:
                call.of_breaker = False
            call.of_keys = [key for key in call.of_keys if not any(key is each for each in keys)]

    def check(self) -> None:
        """What holds at every moment."""
        for lane in self.made.registry.lanes.values():
            if self.state(lane) != READY:
                assert lane.troubled
                assert lane in self.made.registry.impaired


class Exchange:
    """One request, as `proxy.exchange` carries it, without bytes."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.made = made = books.made
        self.candidates = candidates = made.ask()
        self.total_at = made.now + candidates.total_s
        self.run: Run | None = None
        self.attempts: list[Call] = []
        """the one that runs, and maybe its rival"""
        self.waiting: tuple[float, LaneOption] | None = None
        self.called: list[LaneOption] = []
        stood = books.before(candidates)
        option = made.router.first(candidates, ENVELOPE, BODY_BYTES, made.key, made.now)
        books.firsts += 1
        callable_ = [state for state, _, _ in stood.values() if state <= OPEN]
        assert (option is not None) == bool(callable_)
        if option is None:
            error = made.router.none_left(candidates, ENVELOPE, made.now)
            assert error.status in (429, 503)
            assert error.retry_after_s is not None
            return
        assert (stood[option.lane][0] <= PROBE) == (min(callable_) <= PROBE)
        books.decided(stood, option, "first")
        self.begin(option, stood)

    @property
    def over(self) -> bool:
        return not self.attempts and self.waiting is None

    def begin(self, option: LaneOption, stood: dict | None = None) -> None:
        """A call goes out."""
        assert self.made.now < self.total_at
        self.called.append(option)
        assert len(self.called) <= MAX_CALLS
        assert len({each.place for each in self.called}) <= MAX_TARGETS
        option.standing.in_flight += 1
        self.attempts.append(self.books.begun(option, stood))
        if self.run is not None:
            self.run.called(option)

    def run_so_far(self) -> Run:
        if self.run is None:
            self.run = Run(self.total_at)
            self.run.called(self.attempts[0].option)
        return self.run

    def leave(self, call: Call) -> None:
        call.option.standing.in_flight -= 1
        self.attempts.remove(call)
        self.books.calls.remove(call)

    def drop(self, call: Call) -> None:
        """A call ends without a word on its target."""
        self.leave(call)
        if call.option.probe:
            self.made.registry.abandoned(call.option.lane)

    def hedge(self) -> None:
        if len(self.attempts) != 1:
            return
        stood = self.books.before(self.candidates)
        option = self.made.router.rival(
            self.candidates, self.run_so_far(), ENVELOPE, BODY_BYTES, self.made.key, self.made.now
        )
        if option is not None:
            self.books.rivals += 1
            self.books.decided(stood, option, "hedge")
            assert option.place not in {each.place for each in self.called}
            self.begin(option, stood)

    def succeeds(self, call: Call) -> None:
        self.leave(call)
        for other in list(self.attempts):
            self.drop(other)
        lane = call.option.lane
        lane.breaker.good += 1
        if lane.troubled:
            self.made.registry.succeeded(lane, self.made.now, call.begun_at)
            keys = tuple(key for key in (lane.key, lane.refused) if not key.dead)
            self.books.verdict(lane, breaker=lane.breaker.state == "closed", keys=keys)

    def fails(self, call: Call, what: Failure) -> None:
        made, lane = self.made, call.option.lane
        self.leave(call)
        run = self.run
        if run is None:
            run = self.run = Run(self.total_at)
            run.called(call.option)
        if run.says_more(call.option, what):
            made.registry.failed(lane, what, made.now, call.option.target, probe=call.option.probe)
            if what.error_class in ("target_down", "target_slow"):
                self.books.verdict(lane, breaker=True)
            elif what.error_class == "key_dead":
                self.books.verdict(lane, keys=(lane.key if what.status == WHOLE_KEY else lane.refused,))
        elif call.option.probe:
            made.registry.abandoned(lane)
        run.failed(call.option, what)
        if what.error_class == "caller_fault":
            for other in list(self.attempts):
                self.drop(other)
            return
        if self.attempts:
            return  # the other one may still answer
        stood = self.books.before(self.candidates)
        following = made.router.next(self.candidates, run, ENVELOPE, BODY_BYTES, made.key, made.now)
        if following is not None and following.kind == "key" and what.status == 403:
            others = self.untried(stood, OPEN) if run.spent.targets < MAX_TARGETS else []
            assert following.option.place != call.option.place or not others
        if following is None:
            self.check_end(run, stood)
            return
        self.check_next(following, stood)
        if following.delay_s:
            self.waiting = made.now + following.delay_s, following.option
        else:
            self.begin(following.option, stood)

    def untried(self, stood: dict, worst: int) -> list[Lane]:
        """Lanes of places that were not called yet and stand no worse."""
        tried = {each.place for each in self.called}
        return [lane for lane, (state, _, _) in stood.items() if lane.place not in tried and state <= worst]

    def check_next(self, following: Next, stood: dict) -> None:
        """Another place if there is one, a well one rather than an open one; pauses only before the same again."""
        option, kind = following.option, following.kind
        self.books.decided(stood, option, kind)
        tried = {each.place for each in self.called}
        room = len(tried) < MAX_TARGETS
        assert (kind == "next") == (option.place not in tried)
        assert (kind == "same") == (following.delay_s > 0) == (option.lane in {each.lane for each in self.called})
        if kind == "next" and self.untried(stood, PROBE):
            assert stood[option.lane][0] <= PROBE
        if kind == "same":
            assert not (room and self.untried(stood, OPEN))
            assert sum(each.lane is option.lane for each in self.called) == 1
            assert self.made.now + following.delay_s < self.total_at

    def check_end(self, run: Run, stood: dict) -> None:
        """No request fails while an allowed call is left."""
        if run.spent.final or len(self.called) >= MAX_CALLS:
            return
        if self.made.now < self.total_at and len({each.place for each in self.called}) < MAX_TARGETS:
            assert not self.untried(stood, OPEN)

    def hangs_up(self) -> None:
        for call in list(self.attempts):
            self.drop(call)
        self.waiting = None

    def on_time(self) -> None:
        """Its timers: the pause is over, or time is up."""
        if self.made.now >= self.total_at:
            self.hangs_up()
        elif self.waiting is not None and self.made.now >= self.waiting[0]:
            option, self.waiting = self.waiting[1], None
            self.begin(option)


@dataclass
class Traffic:
    """All requests of a history."""

    books: Books
    running: list[Exchange] = field(default_factory=list)

    def start(self) -> Exchange:
        exchange = Exchange(self.books)
        self.running.append(exchange)
        return exchange

    def passes(self, seconds: float) -> None:
        """The clock goes from one timer to the next; the sweep comes once a second, in long waits less often."""
        made = self.books.made
        end, pace = made.now + seconds, max(1.0, seconds / 20)
        while made.now < end:
            timers = [exchange.waiting[0] for exchange in self.running if exchange.waiting is not None]
            timers += [exchange.total_at for exchange in self.running]
            made.now = min([end, made.now + pace, *[at for at in timers if at > made.now]])
            made.registry.sweep(made.now)
            for exchange in self.running:
                exchange.on_time()
            self.tidy()

    def tidy(self) -> None:
        self.running = [exchange for exchange in self.running if not exchange.over]

    def step(self, step: tuple) -> None:
        match step:
            case ("start", count):
                for _ in range(count):
                    self.start()
            case ("time", seconds):
                self.passes(seconds)
            case ("outage", what, count):
                for _ in range(count):
                    exchange = self.start()
                    while exchange.attempts:
                        exchange.fails(exchange.attempts[0], what)
            case (what, pick, outcome) if self.running:
                exchange = self.running[pick % len(self.running)]
                if what == "hang up":
                    exchange.hangs_up()
                elif what == "hedge":
                    exchange.hedge()
                elif exchange.attempts:
                    call = exchange.attempts[pick % len(exchange.attempts)]
                    if outcome is None:
                        exchange.succeeds(call)
                    else:
                        exchange.fails(call, outcome)
        self.tidy()


def world(places: list[tuple[int, int]], strategy: str, total_s: float, hedged: bool, split: int, seed: int) -> World:
    """Places as (provider, how many credentials); from `split` on they are the fallback's."""
    compiled = [
        [
            target(f"p{provider}/m{n}", f"c{credential}", priority=n, credential_weight=credential + 1)
            for credential in range(credentials)
        ]
        for n, (provider, credentials) in enumerate(places)
    ]
    made = World()
    made.registry.random = random.Random(seed).random
    made.serve("small", *[each for place in compiled[:split] for each in place])
    made.serve("big", *[each for place in compiled[split:] for each in place])
    hedge = Hedge(after_ms=1, max_extra=0.5) if hedged else None
    timeouts = RouteTimeouts(total_s=total_s)
    made.rule("rule", strategy=strategy, fallback=("big",), hedge=hedge, timeouts=timeouts)
    return made


PICKS = st.integers(0, 10_000)
STEPS = st.one_of(
    st.tuples(st.just("start"), st.integers(1, 4)),
    st.tuples(st.just("end"), PICKS, st.none() | st.sampled_from(FAILURES)),
    st.tuples(st.just("end"), PICKS, st.none() | st.sampled_from(FAILURES)),
    st.tuples(st.just("hedge"), PICKS, st.none()),
    st.tuples(st.just("hang up"), PICKS, st.none()),
    st.tuples(st.just("time"), st.sampled_from([0.0, 0.3, 1.0, 6.0, 20.0, 61.0, 130.0, 400.0])),
    st.tuples(st.just("outage"), st.sampled_from(FAILURES[:10]), st.integers(1, 6)),
)


@settings(max_examples=400, deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3)), min_size=1, max_size=4),
    strategy=st.sampled_from(sorted(PICK)),
    total_s=st.sampled_from([3.0, 60.0, 900.0]),
    hedged=st.booleans(),
    split=st.integers(1, 4),
    steps=st.lists(STEPS, min_size=40, max_size=120),
    seed=st.integers(0, 2**16),
)
def test_random_requests_keep_the_rules(
    places: list[tuple[int, int]],
    strategy: str,
    total_s: float,
    hedged: bool,
    split: int,
    steps: list[tuple],
    seed: int,
) -> None:
    """Caps, deadlines, parks, dead keys and probes hold in every history; nothing stays behind, all lanes come back."""
    made = world(places, strategy, total_s, hedged, split, seed)
    traffic = Traffic(Books(made))
    for step in steps:
        traffic.step(step)
        traffic.books.check()
    event(f"{min(traffic.books.probes, 3)} probes or more")
    event(f"{min(traffic.books.rivals, 2)} rivals or more")
    assert traffic.books.rivals <= 0.5 * traffic.books.firsts
    for exchange in traffic.running:
        exchange.hangs_up()
    assert not any(standing.in_flight for standing in made.registry.standings.values())
    assert traffic.books.calls == []
    traffic.running = []
    traffic.passes(3700)
    assert all(lane.state(made.now) <= PROBE for lane in made.registry.lanes.values())
    for _ in range(200):
        exchange = traffic.start()
        exchange.succeeds(exchange.attempts[0])
        traffic.books.check()
