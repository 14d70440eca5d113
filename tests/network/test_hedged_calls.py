"""A second target beside a late first one: the faster answers, the slower is let go at once and its cost recorded."""

import asyncio
import time

import pytest
from dataplane import PATIENT, Gateway

from potluck.conformance import answers
from potluck.conformance.answers import chat_events
from potluck.conformance.call import Call
from potluck.conformance.faults import FAULTS
from potluck.conformance.provider import FakeProvider
from potluck.model.resources import Hedge, RouteTimeouts, Timeouts
from potluck.model.usage import UsageRecord
from potluck.ports import Failure
from potluck.proxy.limits import PlaneLimits

pytestmark = pytest.mark.timeout(30)

AFTER_MS = 50
LETS_GO_S = 1.0
LATE_S = 0.8
SOON_S = 0.6
"""less than late targets take, and as much as a busy machine may"""
IN_TIME_MS = 1_000
"""after which nothing is late that is well, on a busy machine either"""


class Race:
    """The model `m` on `slow` and `fast`, each as the test has it; which was called when, which connection is whose."""

    def __init__(self, gateway: Gateway, fake: FakeProvider) -> None:
        self.gateway, self.fake = gateway, fake
        self.called_s: dict[str, list[float]] = {}
        self.closed: dict[str, list[Call]] = {}

    def serve(self, *behaviours: str, timeouts: Timeouts = PATIENT, hedge: Hedge | None = None) -> None:
        """Targets `t0`, `t1`, … behaving like rows of the catalogue (`late-…`: only then)."""
        for n, behaviour in enumerate(behaviours):
            self._script(f"t{n}", behaviour)
        targets = [
            self.gateway.target(self.fake.base_url, f"t{n}", provider="p", timeouts=timeouts)
            for n in range(len(behaviours))
        ]
        self.gateway.serve("m", *targets)
        self.gateway.rule("hedged", hedge=hedge or Hedge(after_ms=AFTER_MS, max_extra=1.0))

    def _script(self, name: str, behaviour: str) -> None:
        late = behaviour.startswith("late-")
        row = FAULTS[behaviour.removeprefix("late-")]
        self.called_s[name], self.closed[name] = [], []

        async def play(call: Call) -> None:
            self.called_s[name].append(time.monotonic())
            self.closed[name].append(call)
            if late:
                await call.pause(LATE_S)
            await row.play(call)

        self.fake.script[name] = play

    async def ask(self, *, stream: bool):
        """One request: its answer, its record, and when it was over."""
        count = len(self.gateway.spool.records)
        async with self.gateway.caller() as caller:
            await caller.send(self.gateway.request("m", stream=stream))
            response = await caller.read()
        over_s = time.monotonic()
        await self.gateway.until(lambda: len(self.gateway.spool.records) > count)
        return response, self.gateway.spool.records[-1], over_s

    async def let_go_s(self, name: str, since_s: float) -> float:
        """Seconds from then until the last call of a target saw its connection closed by the gateway."""
        connection = self.closed[name][-1].connection
        await self.fake.wait_for(lambda: connection.closed_how)
        assert connection.closed_how in ("fin", "rst")
        assert connection.closed_s is not None
        return connection.closed_s - since_s


@pytest.fixture
def race(gateway: Gateway, fake: FakeProvider) -> Race:
    return Race(gateway, fake)


def check_good(response, model: str, *, stream: bool) -> None:
    """A whole answer of that target, and of no other."""
    assert response.status == 200
    if stream:
        assert response.events == [*([event[6:-2] for event in chat_events(model)][:-1]), b"[DONE]"]
    else:
        assert response.body == answers.completion(model)


def check_times(record: UsageRecord, response) -> None:
    """Calls that run at once are not counted twice."""
    assert 0 <= record.overhead_us <= record.total_us
    if not record.stream and response.status == 200:
        assert response.header("x-potluck-overhead-us") == str(record.overhead_us)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_second_answers_where_the_first_is_late(race: Race, stream: bool):
    """After 50 ms another target is asked and wins; the first one's connection is closed, and what it cost recorded."""
    race.serve("late-ok", "ok")
    began_s = time.monotonic()
    response, record, over_s = await race.ask(stream=stream)
    check_good(response, "t1", stream=stream)
    assert over_s - began_s < SOON_S
    assert response.header("x-potluck-target") == "p/t1"
    assert response.header("x-potluck-attempts") == "2"
    assert await race.let_go_s("t0", over_s) < LETS_GO_S
    answered = record.answered
    assert answered is not None
    assert (answered.n, answered.kind, record.target) == (2, "hedge", "p/t1")
    (loser,) = record.attempts
    assert (loser.n, loser.kind, loser.target, loser.error_class) == (1, "first", "p/t0", "none")
    assert (len(race.called_s["t0"]), len(race.called_s["t1"])) == (1, 1)
    assert AFTER_MS - 5 < (answered.start_us - loser.start_us) / 1000 < SOON_S * 1000
    assert loser.usage is not None
    assert loser.usage.estimated
    assert loser.usage.input_tokens > 0
    assert loser.cost_nanousd
    assert record.cost_nanousd == loser.cost_nanousd + (answered.cost_nanousd or 0)
    check_times(record, response)
    await race.gateway.at_rest()


@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_may_still_win(race: Race, stream: bool):
    """The first target answers while the second one is asked: the second is let go, and both are in the record."""
    race.serve("late-ok", "stall-before-head")
    response, record, over_s = await race.ask(stream=stream)
    check_good(response, "t0", stream=stream)
    assert response.header("x-potluck-target") == "p/t0"
    assert await race.let_go_s("t1", over_s) < LETS_GO_S
    assert record.answered is not None
    assert (record.answered.n, record.answered.kind) == (1, "first")
    (loser,) = record.attempts
    assert (loser.n, loser.kind, loser.error_class) == (2, "hedge", "none")
    assert loser.cost_nanousd
    check_times(record, response)


async def test_a_loser_that_spoke_already_is_let_go(race: Race):
    """The first target has sent its role, not yet a word; the second one's words are the stream, with none of it."""

    async def role_then_silence(call: Call) -> None:
        race.closed["t0"].append(call)
        await call.sse()
        await call.chunks(list(chat_events(call.model))[:1])
        await call.silence()

    race.serve("ok", "ok")
    race.fake.script["t0"] = role_then_silence
    response, record, over_s = await race.ask(stream=True)
    check_good(response, "t1", stream=True)
    assert await race.let_go_s("t0", over_s) < LETS_GO_S
    assert record.attempts[0].status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_first_that_is_in_time_has_no_rival(race: Race, stream: bool):
    """Nothing is asked twice while all is well, and no timer is left behind."""
    race.serve("ok", "ok", hedge=Hedge(after_ms=IN_TIME_MS, max_extra=1.0))
    for _ in range(20):
        response, record, _ = await race.ask(stream=stream)
        check_good(response, "t0", stream=stream)
        assert record.attempts == ()
    assert race.called_s["t1"] == []


@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_fails_while_its_rival_runs(race: Race, stream: bool):
    """The rival is the answer; no third target is called for the first one's failure."""
    race.serve("stall-before-head", "late-ok", "ok", timeouts=Timeouts(0.3, 1.5, 1.5, 9))
    race.fake.script["t0"] = failing_after(race, "t0", 0.2, "status-500")
    response, record, _ = await race.ask(stream=stream)
    check_good(response, "t1", stream=stream)
    assert race.called_s["t2"] == []
    (failed,) = record.attempts
    assert (failed.n, failed.error_class, failed.status) == (1, "target_down", 500)
    assert record.answered is not None
    assert record.answered.kind == "hedge"
    check_times(record, response)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_rival_fails_and_the_first_goes_on(race: Race, stream: bool):
    """A hedge that fails is no news: the first target answers in its own time."""
    race.serve("late-ok", "status-500", "ok")
    response, record, _ = await race.ask(stream=stream)
    check_good(response, "t0", stream=stream)
    assert race.called_s["t2"] == []
    (failed,) = record.attempts
    assert (failed.n, failed.kind, failed.error_class) == (2, "hedge", "target_down")
    check_times(record, response)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("order", ["first-first", "rival-first"])
async def test_both_fail_and_the_next_answers(race: Race, stream: bool, order: str):
    """The third target is called once both are over, and not before."""
    race.serve("ok", "ok", "ok")
    first_s, rival_s = (0.12, 0.15) if order == "first-first" else (0.2, 0.05)
    race.fake.script["t0"] = failing_after(race, "t0", first_s, "status-500")
    race.fake.script["t1"] = failing_after(race, "t1", rival_s, "close-before-head")
    response, record, _ = await race.ask(stream=stream)
    check_good(response, "t2", stream=stream)
    assert response.header("x-potluck-attempts") == "3"
    assert [each.n for each in record.attempts] == ([1, 2] if order == "first-first" else [2, 1])
    assert record.answered is not None
    assert (record.answered.n, record.answered.kind) == (3, "next")
    assert record.answered.start_us >= max(each.end_us for each in record.attempts)
    check_times(record, response)


async def test_hedges_count_for_the_caps(race: Race):
    """First, hedge, next: three targets; the fourth call goes to one of them again, and there is no fifth."""
    race.serve("ok", "ok", "ok", "ok")
    for name in ("t0", "t1", "t2", "t3"):
        race.fake.script[name] = failing_after(race, name, 0.1, "status-500")
    response, record, _ = await race.ask(stream=False)
    assert (response.status, response.header("x-potluck-attempts")) == (502, "4")
    assert race.called_s["t3"] == []
    assert sum(map(len, race.called_s.values())) == 4
    assert [each.kind for each in record.attempts] == ["first", "hedge", "next", "same"]
    check_times(record, response)


async def test_the_delay_begins_anew_with_the_next_target(race: Race):
    """The first fails before it would be late; the second has the whole time for itself."""
    race.serve("ok", "ok", "ok", hedge=Hedge(after_ms=500, max_extra=1.0))
    race.fake.script["t0"] = failing_after(race, "t0", 0.3, "status-500")
    race.fake.script["t1"] = failing_after(race, "t1", 0.3, "ok")
    response, record, _ = await race.ask(stream=False)
    check_good(response, "t1", stream=False)
    assert race.called_s["t2"] == []
    assert record.answered is not None
    assert record.answered.kind == "next"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hedges_refusal_ends_nothing_but_the_hedge(race: Race, stream: bool):
    """The second target says that the request is wrong, while the first is at it: the first one's answer counts."""
    race.serve("late-ok", "status-400")
    response, record, _ = await race.ask(stream=stream)
    assert response.status == 200
    assert record.outcome == "ok"
    assert [(each.kind, each.error_class) for each in record.attempts] == [("hedge", "caller_fault")]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hang_up_closes_both(race: Race, stream: bool):
    """The caller leaves while two targets are asked: both see it within a second."""
    race.serve("stall-before-head", "stall-before-head")
    async with race.gateway.caller() as caller:
        await caller.send(race.gateway.request("m", stream=stream))
        await race.fake.wait_for(lambda: race.called_s["t1"])
        hung_up_s = caller.hang_up()
        for name in ("t0", "t1"):
            assert await race.let_go_s(name, hung_up_s) < LETS_GO_S
    record = await race.gateway.record("m")
    assert record.outcome == "client_closed"
    assert sorted(each.kind for each in record.attempts) == ["first", "hedge"]
    assert {each.error_class for each in record.attempts} == {"client_closed"}
    await race.gateway.at_rest()


@pytest.mark.parametrize("stream", [False, True])
async def test_the_deadline_ends_both(race: Race, stream: bool):
    """Two targets that stall share the request's time: 504, both closed, both in the record."""
    race.serve("stall-before-head", "stall-before-head")
    race.gateway.snapshots.swap(routes=())
    race.gateway.rule("short", hedge=Hedge(after_ms=AFTER_MS, max_extra=1.0), timeouts=RouteTimeouts(total_s=0.3))
    response, record, over_s = await race.ask(stream=stream)
    assert (response.status, response.code) == (504, "upstream_timeout")
    assert [each.error_class for each in record.attempts] == ["target_slow"] * 2
    for name in ("t0", "t1"):
        assert await race.let_go_s(name, over_s) < LETS_GO_S


@pytest.mark.parametrize("stream", [False, True])
async def test_extra_calls_stay_within_their_share(race: Race, stream: bool):
    """When everything is slow, 200 requests make at most 5 % more calls than there are requests."""
    race.serve("ok", "ok", hedge=Hedge(after_ms=5, max_extra=0.05))
    for name in ("t0", "t1"):
        race.fake.script[name] = failing_after(race, name, 0.03, "ok")

    async def ask(count: int) -> None:
        async with race.gateway.caller() as caller:
            for _ in range(count):
                await caller.send(race.gateway.request("m", stream=stream))
                assert (await caller.read()).status == 200

    async with asyncio.TaskGroup() as callers:
        for _ in range(20):
            callers.create_task(ask(10))
    calls = sum(map(len, race.called_s.values()))
    assert 200 < calls <= 210


async def test_the_own_p95_is_learned_first(race: Race):
    """`after = p95`: no extra call until the target's own times are known, then only for what is later than most."""
    race.serve("ok", "ok", hedge=Hedge(after_ms=0, max_extra=1.0))
    slow = failing_after(race, "t0", LATE_S, "ok")
    quick = race.fake.script["t0"]
    race.fake.script["t0"] = slow
    response, _, _ = await race.ask(stream=True)
    check_good(response, "t0", stream=True)
    assert race.called_s["t1"] == [], "nothing is known yet"
    race.fake.script["t0"] = quick
    for _ in range(40):
        await race.ask(stream=True)
    race.fake.script["t0"] = slow
    began_s = time.monotonic()
    response, _, over_s = await race.ask(stream=True)
    check_good(response, "t1", stream=True)
    assert over_s - began_s < SOON_S


async def test_first_tokens_say_nothing_of_plain_answers(race: Race):
    """`after = p95`: streams that began at once do not make an ordinary plain answer late."""
    race.serve("ok", "ok", hedge=Hedge(after_ms=0, max_extra=1.0))
    for _ in range(30):
        await race.ask(stream=True)
    race.fake.script["t0"] = failing_after(race, "t0", 0.1, "ok")
    response, _, _ = await race.ask(stream=False)
    check_good(response, "t0", stream=False)
    assert race.called_s["t1"] == []


async def test_a_target_in_trouble_is_no_rival(race: Race):
    """An extra call goes only where nothing is wrong: with the other breaker open there is none."""
    race.serve("late-ok", "ok")
    registry = race.gateway.plane.registry
    lane = registry.lane(race.gateway.snapshots.current.models["m"].targets[1])
    for _ in range(5):
        registry.failed(lane, Failure("target_down", "connect", "for the test"), time.monotonic())
    response, _, _ = await race.ask(stream=False)
    check_good(response, "t0", stream=False)
    assert race.called_s["t1"] == []


class TestBesideAComment:
    """Hedging and keep-alive comments together."""

    @pytest.fixture
    def limits(self) -> PlaneLimits:
        return PlaneLimits(keepalive_comment_s=0.1)

    async def test_the_winner_is_named_in_the_last_comment(self, race: Race):
        """The head went out before either had content: the stream still is the winner's alone."""
        race.serve("stall-before-head", "ok")
        race.fake.script["t1"] = failing_after(race, "t1", 0.3, "ok")
        response, record, over_s = await race.ask(stream=True)
        check_good(response, "t1", stream=True)
        assert response.header("x-potluck-target") is None
        assert b": x-potluck-target: p/t1, x-potluck-attempts: 2\n\n" in response.body
        assert record.answered is not None
        assert record.answered.kind == "hedge"
        assert await race.let_go_s("t0", over_s) < LETS_GO_S


def failing_after(race: Race, name: str, seconds: float, behaviour: str):
    """That behaviour after a time of silence."""

    async def play(call: Call) -> None:
        race.called_s[name].append(time.monotonic())
        race.closed[name].append(call)
        await call.pause(seconds)
        await FAULTS[behaviour].play(call)

    return play
