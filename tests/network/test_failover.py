"""Every fault that comes before the first content, with a healthy second target: the caller never notices.

Also what happens where nothing has gone out yet but a comment, and where the failure is the caller's.
"""

import json
import time

import pytest
from dataplane import PATIENT, PRICE, Gateway

from potluck.conformance import answers
from potluck.conformance.answers import chat_events
from potluck.conformance.call import Call
from potluck.conformance.faults import FAULTS, Expect
from potluck.conformance.provider import FakeProvider, refused_port
from potluck.model.price import cost_nanousd
from potluck.model.resources import Timeouts
from potluck.model.usage import TokenUsage
from potluck.proxy.limits import PlaneLimits

pytestmark = pytest.mark.timeout(30)

BRISK = Timeouts(connect_s=0.2, first_byte_s=0.2, idle_s=0.2, total_s=5)
"""of targets that stall; others have all the time that a busy machine may take"""
AT_ONCE_S = 0.35
"""less than the shortest pause before the same target is called again"""
COMMENT_S = 0.2


def fails_over(expect: Expect | None) -> bool:
    """The row is one that a second target makes good: the catalogue's own words."""
    return (
        expect is not None
        and bool(expect.code)
        and not expect.in_stream
        and expect.error_class.startswith(("key_", "target_", "policy"))
    )


PLAIN = [name for name, row in FAULTS.items() if fails_over(row.plain)]
STREAM = [name for name, row in FAULTS.items() if fails_over(row.stream)]
CALLERS = [name for name, row in FAULTS.items() if row.plain and row.plain.error_class == "caller_fault"]
TRUNCATED = "upstream_truncated"


@pytest.fixture
def limits() -> PlaneLimits:
    # no comment before any target has had its time: what is on the wire is judged without them
    return PlaneLimits(max_answer_bytes=4 << 20)


def serve(gateway: Gateway, fake: FakeProvider, name: str) -> None:
    """The model `m`: first a target with the fault, then one that is well."""
    row = FAULTS[name]
    base_url = fake.url_for(name) if row.early else fake.base_url
    slow = any(each is not None and each.error_class == "target_slow" for each in (row.plain, row.stream))
    timeouts = BRISK if slow or "stall" in name else PATIENT
    first = gateway.target(base_url, f"{name};mib=8", provider="bad", timeouts=timeouts)
    gateway.serve("m", first, gateway.target(fake.base_url, "ok", provider="good"))


def canonical(model: str = "ok") -> list[bytes]:
    """The payloads of a good stream, without usage and [DONE]."""
    return [event[6:-2] for event in chat_events(model)][:-1]


async def check_record(gateway: Gateway, expect: Expect, *, name: str, stream: bool) -> None:
    """Both attempts are in the record, each with what became of it."""
    record = await gateway.record("m")
    assert (record.outcome, record.status, record.target, record.stream) == ("ok", 200, "good/ok", stream)
    (failed,) = record.attempts
    assert failed.error_class == expect.error_class
    assert failed.error
    assert (failed.n, failed.kind, failed.target) == (1, "first", f"bad/{name};mib=8")
    cut = expect.code == TRUNCATED
    assert failed.phase in (("stream",) if cut else ("send", "first_byte", "stream"))
    assert 0 <= failed.start_us <= failed.end_us
    answered = record.answered
    assert answered is not None
    assert (answered.n, answered.kind) == (2, "next")
    assert failed.end_us <= answered.start_us <= answered.first_byte_us <= answered.end_us
    assert answered.start_us - failed.end_us < AT_ONCE_S * 1e6, "the next target is called at once"
    usage = answered.usage
    assert usage == TokenUsage(input_tokens=11, output_tokens=5)
    # what the failed target itself counted is booked, and nothing else
    assert (failed.cost_nanousd is None) == (failed.usage is None)
    assert failed.usage is None or not failed.usage.estimated
    assert record.cost_nanousd == cost_nanousd(usage, PRICE) + (failed.cost_nanousd or 0)
    assert record.overhead_us >= 0


@pytest.mark.parametrize("name", PLAIN)
async def test_a_plain_request_fails_over_unseen(gateway: Gateway, fake: FakeProvider, name: str):
    """The caller who asked for JSON gets the second target's answer as if there had never been a first."""
    serve(gateway, fake, name)
    expect = FAULTS[name].plain
    assert expect is not None
    async with gateway.caller() as caller:
        await caller.send(gateway.request("m"))
        response = await caller.read()
        assert (response.status, response.body) == (200, answers.completion("ok"))
        assert response.header("x-potluck-target") == "good/ok"
        assert response.header("x-potluck-attempts") == "2"
        assert response.header("x-potluck-model") is None, "it is the model that was asked for"
        await check_record(gateway, expect, name=name, stream=False)
        await caller.send(gateway.request("ok"))
        assert (await caller.read()).body == answers.completion("ok"), "the caller's connection goes on"
    await gateway.at_rest()


@pytest.mark.parametrize("name", STREAM)
async def test_a_stream_fails_over_unseen(gateway: Gateway, fake: FakeProvider, name: str):
    """Nothing of the first target is in the stream, not even its role chunk."""
    serve(gateway, fake, name)
    expect = FAULTS[name].stream
    assert expect is not None
    async with gateway.caller() as caller:
        await caller.send(gateway.request("m", stream=True))
        response = await caller.read()
        assert response.status == 200
        assert response.events == [*canonical(), b"[DONE]"]
        assert b"\n: " not in response.body
        assert response.header("x-potluck-target") == "good/ok"
        assert response.header("x-potluck-attempts") == "2"
        await check_record(gateway, expect, name=name, stream=True)
        await caller.send(gateway.request("ok"))
        assert (await caller.read()).body == answers.completion("ok"), "the caller's connection goes on"
    await gateway.at_rest()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_connection_fails_over(gateway: Gateway, fake: FakeProvider, stream: bool):
    """Nobody listens at the first target: the second answers, and the record says at which phase the first was lost."""
    port, holder = refused_port()
    gateway.serve(
        "m",
        gateway.target(f"http://127.0.0.1:{port}/v1", "ok", provider="nobody"),
        gateway.target(fake.base_url, "ok", provider="good"),
    )
    async with gateway.caller() as caller:
        await caller.send(gateway.request("m", stream=stream))
        response = await caller.read()
    holder.close()
    assert (response.status, response.header("x-potluck-target")) == (200, "good/ok")
    (failed,) = (await gateway.record("m")).attempts
    assert (failed.error_class, failed.phase, failed.connected_us) == ("target_down", "connect", -1)
    assert failed.usage is None, "it never got the request"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", CALLERS)
async def test_a_fault_of_the_callers_is_his(gateway: Gateway, fake: FakeProvider, name: str, stream: bool):
    """What the first target refuses for the request's sake is not asked of a second one."""
    serve(gateway, fake, name)
    expect = FAULTS[name].plain
    assert expect is not None
    async with gateway.caller() as caller:
        await caller.send(gateway.request("m", stream=stream))
        response = await caller.read()
    assert (response.status, response.header("x-potluck-attempts")) == (expect.status, "1")
    assert len(fake.requests) == 1
    assert gateway.plane.registry.impaired == set()


class TestAfterAComment:
    """The head and a comment are out; what answers is still open."""

    @pytest.fixture
    def limits(self) -> PlaneLimits:
        return PlaneLimits(keepalive_comment_s=COMMENT_S)

    @staticmethod
    def slow_then(fake: FakeProvider, then: str) -> None:
        """A behaviour that fails as `then` does, but only after the caller has had a comment."""

        async def play(call: Call) -> None:
            await call.pause(2.5 * COMMENT_S)
            await FAULTS[then].play(call)

        fake.script["late"] = play

    async def test_failover_is_still_unseen(self, gateway: Gateway, fake: FakeProvider):
        """Comments at their pace, then the second target's stream; which one it was stands in a last comment."""
        self.slow_then(fake, "status-500")
        late = gateway.target(fake.base_url, "late", provider="bad")
        gateway.serve("m", late, gateway.target(fake.base_url, "ok", provider="good"))
        began_s = time.monotonic()
        async with gateway.caller() as caller:
            await caller.send(gateway.request("m", stream=True))
            response = await caller.read_head()
            assert response.status == 200
            for name in ("x-potluck-target", "x-potluck-attempts", "x-potluck-route"):
                assert response.header(name) is None, "nobody can know it yet"
            assert len(fake.requests) == 1, "the head is out before the second target was called"
            await caller.read_rest(response)
        assert response.events == [*canonical(), b"[DONE]"]
        comments = [each for each in response.body.split(b"\n\n") if each.startswith(b":")]
        assert 3 <= len(comments) <= 1 + (time.monotonic() - began_s) / COMMENT_S
        assert comments[-1] == b": x-potluck-target: good/ok, x-potluck-attempts: 2"
        blocks = response.body.split(b"\n\n")
        assert blocks.index(comments[-1]) == blocks.index(b"data: [DONE]") - 1, "it comes before the stream's end"

    async def test_all_failing_is_told_in_the_stream(self, gateway: Gateway, fake: FakeProvider):
        """Once the head is out, the failure of every target is an error event, and no [DONE] follows."""
        self.slow_then(fake, "status-401")
        late = gateway.target(fake.base_url, "late", provider="bad")
        gateway.serve("m", late, gateway.target(fake.base_url, "status-404", provider="worse"))
        async with gateway.caller() as caller:
            await caller.send(gateway.request("m", stream=True))
            response = await caller.read()
        assert response.status == 200
        (event,) = response.events
        assert json.loads(event)["error"]["code"] == "upstream_error"
        record = await gateway.record("m")
        assert (record.outcome, record.status) == ("upstream_error", 200)
        assert [each.error_class for each in record.attempts] == ["key_dead", "target_down"]

    async def test_a_back_off_is_no_silence(self, gateway: Gateway, fake: FakeProvider):
        """The pause before the same target is called again gets its comments too."""
        calls = 0

        async def second_time(call: Call) -> None:
            nonlocal calls
            calls += 1
            await FAULTS["status-503" if calls == 1 else "ok"].play(call)

        fake.script["second-time"] = second_time
        gateway.serve("m", gateway.target(fake.base_url, "second-time", provider="only"))
        async with gateway.caller() as caller:
            await caller.send(gateway.request("m", stream=True))
            response = await caller.read()
        assert response.events == [*canonical("second-time"), b"[DONE]"]
        assert response.body.startswith(b": "), "the pause is longer than the silence that is allowed"
