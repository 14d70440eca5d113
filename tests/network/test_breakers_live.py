"""Breakers on real sockets: when a target is left alone, who tries it again, and that the last one is never left."""

import asyncio
import logging
import time

import pytest
from dataplane import Gateway

from potluck.conformance.call import Call
from potluck.conformance.caller import Response
from potluck.conformance.faults import FAULTS
from potluck.conformance.provider import FakeProvider
from potluck.policy.breaker import FIRST_OPEN_S, RUN
from potluck.policy.retry import JITTER_MAX, JITTER_MIN
from potluck.proxy.registry import Lane, LaneView

pytestmark = pytest.mark.timeout(30)

AT_ONCE = 50


class Patient:
    """The model `m` on a target that is as the test has it, and, unless it stands alone, on a good one behind it."""

    def __init__(self, gateway: Gateway, fake: FakeProvider) -> None:
        self.gateway, self.fake = gateway, fake
        self.mood = "ok"
        self.delay_s = 0.0
        self.answers = asyncio.Event()
        self.answers.set()
        """not set: it keeps its answers back"""
        self.calls = 0
        fake.script["sick"] = self._play
        # connections of their own: a kept-alive one that dies is tried once more by the pool
        self.first = gateway.target(fake.base_url, "sick", provider="p")
        self.second = gateway.target(fake.base_url, "ok", provider="q")
        gateway.serve("m", self.first, self.second)
        gateway.serve("alone", self.first)

    async def _play(self, call: Call) -> None:
        self.calls += 1
        await call.pause(self.delay_s)
        await self.answers.wait()
        await FAULTS[self.mood].play(call)

    async def ask(self, model: str = "m", *, stream: bool = False) -> Response:
        async with self.gateway.caller() as caller:
            await caller.send(self.gateway.request(model, stream=stream))
            return await caller.read()

    @property
    def lane(self) -> Lane:
        return self.gateway.plane.registry.lane(self.first)

    @property
    def view(self) -> LaneView:
        return next(view for view in self.gateway.plane.registry.view() if view.target == "p/sick")

    async def open(self) -> None:
        """Let the first target fail until it is left alone."""
        self.mood = "status-500"
        for _ in range(RUN):
            await self.ask()
        assert self.lane.breaker.state == "open"
        self.calls = 0

    def let_pass(self, seconds: float) -> None:
        """As if so much time had passed since the breaker opened."""
        self.lane.breaker.retry_at -= seconds


@pytest.fixture
def patient(gateway: Gateway, fake: FakeProvider) -> Patient:
    return Patient(gateway, fake)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mood", ["close-before-head", "status-500", "empty-200", "status-504"])
async def test_five_in_a_row_open_it(patient: Patient, mood: str, stream: bool, caplog: pytest.LogCaptureFixture):
    """Each failure costs a caller one call; after the fifth the target is not asked any more, and that is reported."""
    patient.mood = mood
    with caplog.at_level(logging.WARNING, "potluck.routing"):
        for n in range(1, 16):
            response = await patient.ask(stream=stream)
            assert (response.status, response.header("x-potluck-target")) == (200, "q/ok")
            assert response.header("x-potluck-attempts") == ("2" if n <= RUN else "1")
    assert patient.calls == RUN
    (line,) = caplog.messages
    assert "target_down: p/sick by credential 'main' is set aside: 5 failures in a row" in line
    view = patient.view
    assert view.state == "open"
    assert view.reason.startswith("breaker open: 5 failures in a row")
    assert FIRST_OPEN_S * JITTER_MIN - 1 < view.retry_in_s <= FIRST_OPEN_S * JITTER_MAX


async def test_cut_streams_open_it(patient: Patient):
    """Cuts after content, which no other target can make good, count as well."""
    patient.mood = "cut-rst"
    for _ in range(RUN):
        assert b"upstream_truncated" in (await patient.ask(stream=True)).events[-1]
    assert (await patient.ask(stream=True)).events[-1] == b"[DONE]"
    assert patient.view.state == "open"


@pytest.mark.parametrize("mood", ["status-400", "status-413", "status-422", "status-429"])
async def test_what_is_not_the_targets_fault_never_opens_it(patient: Patient, mood: str):
    """Thirty refusals in a row: it is asked each time, once its key may be used, and its breaker knows of nothing."""
    patient.mood = mood
    for _ in range(30):
        await patient.ask()
        patient.lane.parking.until = 0.0
    assert patient.calls == 30
    breaker = patient.lane.breaker
    assert (breaker.state, breaker.bad) == ("closed", 0)
    patient.mood = "ok"
    assert (await patient.ask()).header("x-potluck-target") == "p/sick"


async def test_callers_who_hang_up_never_open_it(patient: Patient):
    """Twenty callers lose their patience."""
    patient.mood = "stall-before-head"
    for n in range(20):
        async with patient.gateway.caller() as caller:
            await caller.send(patient.gateway.request("m"))
            await patient.gateway.until(lambda n=n: patient.calls == n + 1)
            caller.hang_up()
            await patient.gateway.until(lambda n=n: len(patient.gateway.spool.records) == n + 1)
    assert (patient.lane.breaker.state, patient.lane.breaker.bad) == ("closed", 0)


async def test_a_success_between_failures_keeps_it_closed(patient: Patient):
    """Four failures, a success, four failures: not five in a row."""
    for mood in [*["status-500"] * 4, "ok"] * 2:
        patient.mood = mood
        await patient.ask()
    assert patient.calls == 10
    assert patient.lane.breaker.state == "closed"


async def test_exactly_one_probe_of_fifty(patient: Patient):
    """Its time is over and fifty callers come at once: one of them tries it, and when it answers it is used again."""
    await patient.open()
    patient.mood = "ok"
    patient.answers.clear()
    patient.let_pass(FIRST_OPEN_S * JITTER_MAX)
    asked = [asyncio.ensure_future(patient.ask(stream=bool(n % 2))) for n in range(AT_ONCE)]
    await patient.gateway.until(lambda: sum(each.done() for each in asked) == AT_ONCE - 1)
    patient.answers.set()
    answers = await asyncio.gather(*asked)
    assert {response.status for response in answers} == {200}
    assert patient.calls == 1
    targets = sorted(response.header("x-potluck-target") or "" for response in answers)
    assert targets == ["p/sick"] + ["q/ok"] * (AT_ONCE - 1)
    assert patient.view.state == "closed"
    assert (await patient.ask()).header("x-potluck-target") == "p/sick"


async def test_a_failed_probe_doubles_the_time(patient: Patient):
    """The probe is unseen by the caller who made it; the next one is twice as far away, and so on."""
    await patient.open()
    patient.delay_s = 0.05
    expected_s = FIRST_OPEN_S
    for _ in range(3):
        patient.let_pass(2 * expected_s)
        patient.calls = 0
        answers = await asyncio.gather(*(patient.ask() for _ in range(AT_ONCE)))
        assert [(response.status, response.header("x-potluck-target")) for response in answers] == [
            (200, "q/ok")
        ] * AT_ONCE
        assert patient.calls == 1
        expected_s *= 2
        assert expected_s * JITTER_MIN - 2 < patient.view.retry_in_s <= expected_s * JITTER_MAX
    assert "3 failed probes" in patient.view.reason


async def test_a_probe_whose_caller_left_is_made_by_the_next(patient: Patient):
    """The hang-up says nothing of the target, and does not block it either."""
    await patient.open()
    patient.mood, patient.delay_s = "ok", 5.0
    patient.let_pass(FIRST_OPEN_S * JITTER_MAX)
    async with patient.gateway.caller() as caller:
        await caller.send(patient.gateway.request("m"))
        await patient.gateway.until(lambda: patient.calls == 1)
        assert (await patient.ask()).header("x-potluck-target") == "q/ok", "one probe at a time"
        caller.hang_up()
        await patient.gateway.until(lambda: len(patient.gateway.plane.exchanges) == 0)
    patient.delay_s = 0.0
    assert (await patient.ask()).header("x-potluck-target") == "p/sick"
    assert patient.view.state == "closed"


async def test_somebody_elses_hang_up_does_not_end_the_probe(patient: Patient):
    """A call from before the outage is given up while the probe runs: there is no second probe for it."""
    patient.delay_s = 5.0
    async with patient.gateway.caller() as early:
        await early.send(patient.gateway.request("m"))
        await patient.gateway.until(lambda: patient.calls == 1)
        patient.delay_s = 0.0
        await patient.open()
        patient.mood, patient.delay_s = "ok", 5.0
        patient.let_pass(FIRST_OPEN_S * JITTER_MAX)
        async with patient.gateway.caller() as prober:
            await prober.send(patient.gateway.request("m"))
            await patient.gateway.until(lambda: patient.calls == 1)
            early.hang_up()
            await patient.gateway.until(lambda: len(patient.gateway.plane.exchanges) == 1)
            answers = await asyncio.gather(*(patient.ask() for _ in range(5)))
            assert {response.header("x-potluck-target") for response in answers} == {"q/ok"}
            assert patient.calls == 1
            prober.hang_up()


@pytest.mark.parametrize("stream", [False, True])
async def test_the_last_target_standing_is_still_called(patient: Patient, stream: bool):
    """Alone and open: every request is tried all the same, and the first good answer closes it."""
    patient.mood = "empty-200"
    for n in range(1, 21):
        response = await patient.ask("alone", stream=stream)
        assert (response.status, response.code) == (502, "upstream_error")
        assert patient.calls == n
    assert patient.view.state == "open"
    patient.mood = "ok"
    assert (await patient.ask("alone", stream=stream)).status == 200
    assert patient.view.state == "closed"


async def test_all_open_are_all_still_called(patient: Patient, fake: FakeProvider):
    """Nothing is left that is well: the request uses its calls, and is never told that there is no target."""
    targets = [patient.gateway.target(fake.base_url, f"b{n}", provider="p") for n in range(3)]
    for target in targets:
        fake.script[target.name[2:]] = FAULTS["empty-200"].play
    patient.gateway.serve("broken", *targets)
    for n in range(1, 13):
        response = await patient.ask("broken")
        assert (response.status, response.header("x-potluck-attempts")) == (502, "3")
        assert len(fake.requests) == 3 * n
    registry = patient.gateway.plane.registry
    assert {registry.lane(target).breaker.state for target in targets} == {"open"}


async def test_an_open_one_comes_after_all_others_but_it_comes(patient: Patient):
    """The good one fails too: the one that is left alone is asked again, since nothing else is left."""
    await patient.open()
    patient.mood = "ok"
    patient.fake.script["ok"] = FAULTS["empty-200"].play
    response = await patient.ask()
    assert (response.status, response.header("x-potluck-target")) == (200, "p/sick")
    assert [each.target for each in patient.gateway.spool.records[-1].attempts] == ["q/ok"]


async def test_it_can_be_closed_by_hand(patient: Patient):
    """Whoever has repaired it need not wait."""
    await patient.open()
    patient.mood = "ok"
    assert patient.gateway.plane.registry.clear("p/sick") == 1
    assert (await patient.ask()).header("x-potluck-target") == "p/sick"


async def test_a_long_stream_from_before_does_not_close_it(patient: Patient):
    """It began while the target was well, and its good end says nothing about now."""
    release = asyncio.Event()

    async def held(call: Call) -> None:
        patient.calls += 1
        await release.wait()
        await FAULTS["ok"].play(call)

    patient.fake.script["sick"] = held
    long = asyncio.ensure_future(patient.ask(stream=True))
    await patient.gateway.until(lambda: patient.calls == 1)
    patient.fake.script["sick"] = patient._play
    await patient.open()
    release.set()
    assert (await long).events[-1] == b"[DONE]"
    assert patient.view.state == "open"
    began_s = time.monotonic()
    assert (await patient.ask()).header("x-potluck-target") == "q/ok"
    assert time.monotonic() - began_s < 1
