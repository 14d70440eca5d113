"""Edges of an exchange that a review found: what leaks, what is billed, what is delivered, what is told."""

import json

import pytest
from dataplane import UPSTREAM_KEY, Gateway

from potluck.conformance.answers import chunk, event, role_chunk
from potluck.conformance.call import Call
from potluck.conformance.provider import FakeProvider, deaf_port


async def test_an_upstreams_words_do_not_tell_our_key_or_its_address(gateway: Gateway, fake: FakeProvider):
    """A 400 that quotes the key and the address of the target reaches the caller without them."""

    async def chatty(call: Call) -> None:
        said = f"bad key {UPSTREAM_KEY} sent to 127.0.0.1:{fake.port}: temperature is too hot"
        await call.answer(json.dumps({"error": {"message": said}}).encode(), status=400)

    fake.script["chatty"] = chatty
    gateway.add("chatty", fake.base_url)
    async with gateway.caller() as caller:
        await caller.send(gateway.request("chatty"))
        response = await caller.read()
    assert response.status == 400
    assert b"temperature is too hot" in response.body
    assert UPSTREAM_KEY.encode() not in response.body
    assert str(fake.port).encode() not in response.body


@pytest.mark.parametrize("fault", [b"data: {not json\n\n", b'data: {"error":{"message":"boom"}}\n\n', b""])
async def test_content_before_a_fault_in_the_same_read_is_delivered(gateway: Gateway, fake: FakeProvider, fault: bytes):
    """What the caller gets does not depend on where the reads cut: content first, then the error, no `[DONE]`."""

    async def breaks(call: Call) -> None:
        await call.sse()
        await call.chunk(event(role_chunk("breaks")) + event(chunk("breaks", {"content": "one"})))
        await call.settle()
        await call.chunk(event(chunk("breaks", {"content": "two"})) + fault)
        await call.end()

    fake.script["breaks"] = breaks
    gateway.add("breaks", fake.base_url)
    async with gateway.caller() as caller:
        await caller.send(gateway.request("breaks", stream=True))
        response = await caller.read()
    assert b'"two"' in response.body
    assert b'data: {"error"' in response.body
    assert b"[DONE]" not in response.body


async def test_a_hang_up_before_anything_was_sent_costs_nothing(gateway: Gateway):
    """The provider never saw a byte, so there is no usage and no cost, not even an estimate."""
    with deaf_port() as port:
        gateway.add("deaf", f"http://127.0.0.1:{port}/v1")
        async with gateway.caller() as caller:
            await caller.send(gateway.request("deaf"))
            await gateway.until(lambda: any(each.connecting for each in gateway.pool.stats().endpoints.values()))
            caller.hang_up()
            record = await gateway.record("deaf")
    assert record.outcome == "client_closed"
    assert (record.usage, record.cost_nanousd) == (None, None)


async def test_a_refused_intent_is_counted_and_writes_no_record(gateway: Gateway, monkeypatch: pytest.MonkeyPatch):
    """When usage cannot be recorded the caller gets 503 with retry-after, and no record is forced into the spool."""
    monkeypatch.setattr(gateway.spool, "_over", True)
    async with gateway.caller() as caller:
        await caller.send(gateway.request("ok"))
        response = await caller.read()
    assert (response.status, response.code) == (503, "accounting_unavailable")
    assert response.header("retry-after") == "1"
    assert gateway.spool.records == []
    assert [reason for reason, _ in gateway.spool.refusals] == ["accounting_unavailable"]
    gateway.spool.intents.clear()


async def test_a_model_without_the_endpoint_is_the_callers_mistake(gateway: Gateway):
    """An embeddings-only or chat-only model answers 400 for the other endpoint, which no client retries."""
    model = gateway.snapshots.current.models["ok"]
    (target,) = model.targets
    target.heads.pop("embeddings")
    async with gateway.caller() as caller:
        await caller.send(gateway.request("ok", path="/v1/embeddings", input="x"))
        response = await caller.read()
    assert (response.status, response.code) == (400, "invalid_request")


async def test_too_many_members_are_refused(gateway: Gateway):
    """A body of thousands of members is refused before it costs anybody else's time."""
    async with gateway.caller() as caller:
        await caller.send(gateway.request("ok", **{f"m{n}": n for n in range(1100)}))
        response = await caller.read()
    assert (response.status, response.code) == (400, "invalid_request")
