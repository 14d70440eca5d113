"""A stream that is cut after its first token goes on elsewhere, marked, where the caller allowed it; else it ends."""

import json
from typing import Any

import pytest
from dataplane import Gateway

from potluck.conformance.answers import DONE, chunk, event, role_chunk, usage_chunk
from potluck.conformance.call import Call
from potluck.conformance.caller import Response
from potluck.conformance.provider import FakeProvider
from potluck.model.resources import Hedge
from potluck.model.usage import UsageRecord

WORDS = ["Once ", "upon ", "a ", "time ", "there ", "was ", "a ", "cook."]
WHOLE = "".join(WORDS)


def breaks_after(words: int) -> Any:
    """A target that says so many words and dies."""

    async def play(call: Call) -> None:
        await call.sse()
        await call.chunk(event(role_chunk(call.model)))
        for word in WORDS[:words]:
            await call.chunk(event(chunk(call.model, {"content": word})))
        await call.settle()
        call.reset()

    return play


async def goes_on(call: Call) -> None:
    """A target that continues the assistant message it is sent, with usage at the end."""
    last = call.asked["messages"][-1]
    said = last["content"] if last["role"] == "assistant" else ""
    await call.sse()
    await call.chunk(event(role_chunk(call.model)))
    rest = WHOLE[len(said) :]
    for piece in rest.split(" "):
        await call.chunk(event(chunk(call.model, {"content": piece if piece == rest.split(" ")[0] else f" {piece}"})))
    await call.chunk(event(chunk(call.model, {}, "stop")))
    await call.chunk(event(usage_chunk(call.model)))
    await call.chunk(DONE)
    await call.end()


def text_of(response: Response) -> str:
    """The content that a caller puts together."""
    said = ""
    for line in response.body.decode().splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:]).get("choices", ()):
                said += choice["delta"].get("content") or ""
    return said


async def ask(gateway: Gateway, fake: FakeProvider, cut_after: int, **controls: Any) -> tuple[Response, UsageRecord]:
    fake.script["breaks"], fake.script["goes-on"] = breaks_after(cut_after), goes_on
    gateway.serve(
        "story",
        gateway.target(fake.base_url, "breaks", provider="one"),
        gateway.target(fake.base_url, "goes-on", provider="two", assistant_prefix="plain"),
    )
    async with gateway.caller() as caller:
        await caller.send(gateway.request("story", stream=True, **controls))
        response = await caller.read()
    return response, await gateway.record("story")


@pytest.mark.parametrize("cut_after", range(1, len(WORDS) + 1))
async def test_the_text_goes_on_without_loss_or_repetition(gateway: Gateway, fake: FakeProvider, cut_after: int):
    """Wherever it was cut: the caller's text is whole, the seam is marked, both calls are recorded and billed."""
    response, record = await ask(gateway, fake, cut_after, potluck={"resume": "allow"})
    assert text_of(response) == WHOLE
    assert response.body.count(b"data: [DONE]") == 1
    assert b": x-potluck-resumed: from one/breaks after " in response.body
    assert b'"error"' not in response.body
    assert record.outcome == "ok"
    assert record.target == "two/goes-on"
    (cut,) = record.attempts
    assert (cut.error_class, cut.kind) == ("target_down", "first")
    assert cut.cost_nanousd
    assert record.answered is not None
    assert (record.answered.kind, record.answered.n) == ("resume", 2)
    assert record.answered.cost_nanousd
    assert record.cost_nanousd == cut.cost_nanousd + record.answered.cost_nanousd
    assert record.usage is not None
    assert cut.usage is not None
    assert record.answered.usage is not None
    assert record.usage.output_tokens == cut.usage.output_tokens + record.answered.usage.output_tokens
    await gateway.at_rest()


async def test_without_leave_a_cut_stream_ends_honestly(gateway: Gateway, fake: FakeProvider):
    """No control, no going on: an error event, no [DONE], one upstream call."""
    response, record = await ask(gateway, fake, 3)
    assert text_of(response) == "".join(WORDS[:3])
    assert b'data: {"error"' in response.body
    assert b"[DONE]" not in response.body
    assert record.outcome == "upstream_truncated"
    assert len(fake.requests) == 1


async def test_a_limit_that_is_used_up_ends_the_answer(gateway: Gateway, fake: FakeProvider):
    """Cut after as many tokens as were asked for: nothing is missing but the end, which is made up."""
    response, record = await ask(gateway, fake, 4, potluck={"resume": "allow"}, max_tokens=4)
    assert text_of(response) == "".join(WORDS[:4])
    assert b'"finish_reason":"length"' in response.body
    assert b"data: [DONE]" in response.body
    assert (record.outcome, record.finish_reason) == ("ok", "length")
    assert record.answered is None
    assert record.cost_nanousd
    await gateway.at_rest()


async def test_nobody_to_go_on_is_an_honest_end(gateway: Gateway, fake: FakeProvider):
    """With no other target that can go on from text the cut is told as ever."""
    fake.script["breaks"] = breaks_after(3)
    gateway.serve(
        "story",
        gateway.target(fake.base_url, "breaks", provider="one"),
        gateway.target(fake.base_url, "ok", provider="two"),
    )
    async with gateway.caller() as caller:
        await caller.send(gateway.request("story", stream=True, potluck={"resume": "allow"}))
        response = await caller.read()
    assert b'data: {"error"' in response.body
    assert b'"upstream_truncated"' in response.body
    assert len(fake.requests) == 1


async def test_the_next_one_may_break_as_well(gateway: Gateway, fake: FakeProvider):
    """Two cuts, three targets: the text is still whole, with two seams; a refusal to go on is the target's fault."""
    fake.script["breaks"], fake.script["goes-on"] = breaks_after(2), goes_on

    async def refuses(call: Call) -> None:
        await call.answer(b'{"error":{"message":"the last message must be the user\'s"}}', status=400)

    fake.script["refuses"] = refuses
    gateway.serve(
        "story",
        gateway.target(fake.base_url, "breaks", provider="one"),
        gateway.target(fake.base_url, "refuses", provider="two", assistant_prefix="plain"),
        gateway.target(fake.base_url, "goes-on", provider="three", assistant_prefix="plain"),
    )
    async with gateway.caller() as caller:
        await caller.send(gateway.request("story", stream=True, potluck={"resume": "allow"}))
        response = await caller.read()
    assert text_of(response) == WHOLE
    record = await gateway.record("story")
    assert [attempt.target for attempt in record.attempts] == ["one/breaks", "two/refuses"]
    assert record.outcome == "ok"
    await gateway.at_rest()


async def test_the_loser_of_a_hedge_may_resume_the_winner(gateway: Gateway, fake: FakeProvider):
    """Two targets, the second wins the race and is cut: the first, with which nothing was wrong, goes on."""
    turn = {"n": 0}

    async def late_then_well(call: Call) -> None:
        turn["n"] += 1
        if turn["n"] == 1:
            await call.silence()
        await goes_on(call)

    fake.script["late"], fake.script["breaks"] = late_then_well, breaks_after(3)
    gateway.serve(
        "story",
        gateway.target(fake.base_url, "late", provider="one", assistant_prefix="plain"),
        gateway.target(fake.base_url, "breaks", provider="two", assistant_prefix="plain"),
    )
    gateway.rule("eager", hedge=Hedge(after_ms=30, max_extra=1.0))
    async with gateway.caller() as caller:
        await caller.send(gateway.request("story", stream=True, potluck={"resume": "allow"}))
        response = await caller.read()
    assert text_of(response) == WHOLE
    record = await gateway.record("story")
    assert record.outcome == "ok"
    assert record.answered is not None
    assert (record.answered.kind, record.target) == ("resume", "one/late")
    await gateway.at_rest()
