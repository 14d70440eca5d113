"""Who is held responsible, what is counted, and when: ends of exchanges that are easy to get wrong."""

import asyncio
import time

from dataplane import Gateway

from potluck.conformance.answers import chunk, event, role_chunk, usage_chunk
from potluck.conformance.call import Call
from potluck.conformance.provider import FakeProvider
from potluck.model.resources import Hedge, RouteConstraints, RouteMatch, RouteTimeouts, Timeouts


async def silent(call: Call) -> None:
    await call.silence()


async def test_a_target_that_takes_the_whole_time_is_held_responsible(gateway: Gateway, fake: FakeProvider):
    """A route with less time than a target has for content: a target that hangs is set aside all the same."""
    fake.script["hangs"] = silent
    gateway.serve("m", gateway.target(fake.base_url, "hangs"), gateway.target(fake.base_url, "ok", provider="well"))
    gateway.rule("brisk", timeouts=RouteTimeouts(total_s=0.2))
    statuses = []
    async with gateway.caller() as caller:
        for turn in range(6):
            await caller.send(gateway.request("m", stream=bool(turn % 2)))
            statuses.append((await caller.read()).status)
    assert statuses == [504] * 5 + [200]
    assert gateway.spool.records[0].attempts[0].error_class == "target_slow"


async def test_a_hedge_that_lost_adds_to_the_cost_alone(gateway: Gateway, fake: FakeProvider):
    """Tokens are those of the answer; what the loser may bill is in the cost, and marked as an estimate."""
    fake.script["late"] = silent
    gateway.serve("m", gateway.target(fake.base_url, "late"), gateway.target(fake.base_url, "ok", provider="well"))
    gateway.rule("eager", hedge=Hedge(after_ms=20, max_extra=1.0))
    async with gateway.caller() as caller:
        await caller.send(gateway.request("m"))
        assert (await caller.read()).status == 200
    record = await gateway.record("m")
    (loser,) = record.attempts
    assert record.answered is not None
    assert record.usage is not None
    assert (record.usage.input_tokens, record.usage.output_tokens) == (11, 5)
    assert loser.cost_nanousd
    assert record.cost_nanousd == loser.cost_nanousd + (record.answered.cost_nanousd or 0)


async def test_what_a_failed_target_counted_is_kept(gateway: Gateway, fake: FakeProvider):
    """A stream that ended empty and a whole answer that says nothing are failures with the usage that they reported."""

    async def empty(call: Call) -> None:
        if not call.stream:
            await call.answer(b'{"choices":[],"usage":{"prompt_tokens":50,"completion_tokens":0,"total_tokens":50}}')
            return
        await call.sse()
        await call.chunk(event(role_chunk("empty")))
        await call.chunk(event(usage_chunk("empty")))
        await call.end()

    fake.script["empty"] = empty
    gateway.add("empty", fake.base_url)
    async with gateway.caller() as caller:
        for stream in (True, False):
            await caller.send(gateway.request("empty", stream=stream))
            assert (await caller.read()).status == 502
    streamed, whole = (record.usage for record in gateway.spool.records)
    assert streamed is not None
    assert whole is not None
    assert (streamed.input_tokens, whole.input_tokens) == (11, 50)


async def test_a_drain_has_its_time_whatever_comes(gateway: Gateway, fake: FakeProvider):
    """A caller leaves before the first content: the first content does not cut the drain that follows short."""
    go = asyncio.Event()

    async def slow(call: Call) -> None:
        await call.sse()
        await call.chunk(event(role_chunk("slow")))
        await go.wait()
        await call.chunk(event(chunk("slow", {"content": "one"})))
        await call.pause(0.5)
        await call.chunk(event(chunk("slow", {"content": "two"}, "stop")))
        await call.chunk(event(usage_chunk("slow")))
        await call.end()

    fake.script["slow"] = slow
    gateway.add("slow", fake.base_url, on_hangup="drain")
    gateway.plane.limits = type(gateway.plane.limits)(keepalive_comment_s=0.2, drain_hangup_s=5)
    async with gateway.caller() as caller:
        await caller.send(gateway.request("slow", stream=True))
        await gateway.until(lambda: fake.requests)
        caller.hang_up()
        await gateway.until(lambda: any(each.connection is None for each in gateway.plane.exchanges))
        go.set()
        record = await gateway.record("slow")
    assert record.usage is not None
    assert (record.usage.input_tokens, record.usage.output_tokens, record.usage.estimated) == (11, 5, False)


async def test_a_hedge_does_not_give_the_first_one_more_time(gateway: Gateway, fake: FakeProvider):
    """Content that is due in 0.3 s is due then, though a second target was asked in between."""
    fake.script["hangs"] = silent
    brisk = Timeouts(connect_s=1, first_byte_s=0.3, idle_s=5, total_s=10)
    gateway.serve(
        "m",
        gateway.target(fake.base_url, "hangs", provider="one", timeouts=brisk),
        gateway.target(fake.base_url, "hangs", provider="two"),
    )
    gateway.rule("eager", hedge=Hedge(after_ms=100, max_extra=1.0))
    async with gateway.caller() as caller:
        began_s = time.monotonic()
        await caller.send(gateway.request("m", stream=True))
        await gateway.until(lambda: any(each.attempts for each in gateway.plane.exchanges))
        assert time.monotonic() - began_s < 0.6
        caller.hang_up()
        await gateway.record("m")


async def test_the_firsts_refusal_ends_both(gateway: Gateway, fake: FakeProvider):
    """The request is the caller's fault, says the first target, late: that is the answer, booked on it."""

    async def refuses_late(call: Call) -> None:
        await call.pause(0.1)
        await call.answer(b'{"error":{"message":"too hot"}}', status=400)

    fake.script["late"], fake.script["hangs"] = refuses_late, silent
    gateway.serve("m", gateway.target(fake.base_url, "late"), gateway.target(fake.base_url, "hangs", provider="b"))
    gateway.rule("eager", hedge=Hedge(after_ms=20, max_extra=1.0))
    async with gateway.caller() as caller:
        await caller.send(gateway.request("m"))
        assert (await caller.read()).status == 400
    record = await gateway.record("m")
    assert (record.outcome, record.target) == ("caller_error", "fake/late")
    await gateway.at_rest()


async def test_what_left_the_configuration_gets_no_later_call(gateway: Gateway, fake: FakeProvider):
    """A provider is removed while a request runs: failover does not go there any more, nor to what it was called by."""
    gone = asyncio.Event()

    async def breaks_then(call: Call) -> None:
        await gone.wait()
        call.reset()

    fake.script["breaks"] = breaks_then
    first = gateway.target(fake.base_url, "breaks", provider="one")
    gateway.serve("m", first, gateway.target(fake.base_url, "ok", provider="removed"))
    async with gateway.caller() as caller:
        await caller.send(gateway.request("m"))
        await gateway.until(lambda: fake.requests)
        gateway.serve("m", first)
        gone.set()
        response = await caller.read()
    assert response.status == 502
    assert [request.json["model"] for request in fake.requests] == ["breaks"]
    await gateway.at_rest()


async def test_a_fallback_keeps_its_own_walls(gateway: Gateway, fake: FakeProvider):
    """What the rule of a model demands holds when another model's rule falls back to it."""
    gateway.add("strict", fake.base_url, upstream_model="ok")
    gateway.serve("loose", gateway.target(fake.base_url, "status-500", provider="other"))
    gateway.rule("vault", match=RouteMatch(models=("strict",)), constraints=RouteConstraints(data_class="private"))
    gateway.rule("leads", match=RouteMatch(models=("loose",)), fallback=("strict",))
    async with gateway.caller() as caller:
        await caller.send(gateway.request("loose"))
        response = await caller.read()
    assert response.status == 502
    assert "ok" not in [request.json["model"] for request in fake.requests]
