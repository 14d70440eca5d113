"""Callers who hang up, at each phase: the upstream sees the close within a second, the record says `client_closed`."""

import asyncio
import time

import pytest
from dataplane import CALLER_KEY, Gateway

from potluck.conformance import answers
from potluck.conformance.answers import chunk, event, role_chunk
from potluck.conformance.call import Call
from potluck.conformance.caller import encode_request
from potluck.conformance.provider import FakeProvider, deaf_port
from potluck.model.resources import Timeouts
from potluck.proxy.limits import PlaneLimits

pytestmark = pytest.mark.timeout(30)

WITHIN_S = 1.0


@pytest.fixture
def limits() -> PlaneLimits:
    return PlaneLimits(keepalive_comment_s=0.2, drain_hangup_s=0.6)


async def upstream_closed_s(fake: FakeProvider, since_s: float) -> float:
    """Seconds from `since_s` until the upstream saw its first connection close."""
    await fake.wait_for(lambda: fake.connections and fake.connections[0].closed_how)
    connection = fake.connections[0]
    assert connection.closed_how in ("fin", "rst")
    assert connection.closed_s is not None
    return connection.closed_s - since_s


@pytest.mark.parametrize("how", ["hang_up", "reset", "finish_sending"])
@pytest.mark.parametrize(
    ("model", "stream", "words"),
    [
        ("patient", False, 0),
        ("patient", True, 0),
        ("stall-after-head", False, 0),
        ("stall-after-head", True, 0),
        ("stall-mid-body", False, 0),
        ("comments-forever", True, 0),
        ("words-then-silence", True, 2),
        ("endless-stream", True, 2),
    ],
)
async def test_the_upstream_sees_the_hang_up(
    gateway: Gateway, fake: FakeProvider, model: str, stream: bool, words: int, how: str
):
    """Before the head, after it, waiting for JSON, amid silence, amid a flood: closed within a second, and recorded."""

    async def words_then_silence(call: Call) -> None:
        await call.sse()
        await call.chunks(list(answers.chat_events(call.model))[:3])
        await call.silence()

    async def patient(call: Call) -> None:
        await call.silence()

    fake.script.update({"words-then-silence": words_then_silence, "patient": patient})
    for name in (model,):
        gateway.add(name, fake.base_url)  # patient timeouts: only the hang-up may end it
    async with gateway.caller() as caller:
        await caller.send(gateway.request(model, stream=stream))
        await fake.wait_for(lambda: fake.requests)
        if words:
            response = await caller.read_head()
            for _ in range(words):
                await caller.read_chunk(response)
        else:
            await gateway.until(lambda: gateway.plane.exchanges)
        since_s = time.monotonic()
        getattr(caller, how)()
        assert await upstream_closed_s(fake, since_s) < WITHIN_S
        record = await gateway.record(model)
    assert record.outcome == "client_closed"
    assert record.status == (200 if words else 0)
    assert record.attempts[-1].error_class == "client_closed"
    assert record.usage is not None
    assert record.usage.estimated
    assert record.usage.input_tokens > 0
    assert (record.usage.output_tokens > 0) == (bool(words) or model == "stall-mid-body")


async def test_a_hang_up_before_the_connection_is_made(gateway: Gateway):
    """The caller leaves while the upstream is still being connected: nothing is left over."""
    with deaf_port() as port:
        gateway.add("deaf", f"http://127.0.0.1:{port}/v1")
        async with gateway.caller() as caller:
            await caller.send(gateway.request("deaf"))
            await gateway.until(lambda: any(each.connecting for each in gateway.pool.stats().endpoints.values()))
            caller.hang_up()
            record = await gateway.record("deaf")
        assert (record.outcome, record.status) == ("client_closed", 0)
        await gateway.at_rest()


async def test_a_connection_that_cannot_be_made_in_time(gateway: Gateway):
    """Nobody accepts: 504 after `connect_s`."""
    with deaf_port() as port:
        gateway.add("deaf", f"http://127.0.0.1:{port}/v1", timeouts=Timeouts(connect_s=0.3))
        async with gateway.caller() as caller:
            await caller.send(gateway.request("deaf"))
            response = await caller.read()
        assert (response.status, response.code) == (504, "upstream_timeout")
        assert (await gateway.record("deaf")).attempts[0].error_class == "target_slow"


async def test_a_hang_up_while_the_body_is_being_read(gateway: Gateway, fake: FakeProvider):
    """Half a body and a close: no upstream call, no record, nothing held."""
    async with gateway.caller() as caller:
        await caller.send(gateway.request()[:-5])
        await gateway.until(lambda: gateway.plane.buffered_bytes)
        caller.hang_up()
        await gateway.until(lambda: not gateway.plane.connections)
    assert gateway.plane.buffered_bytes == 0
    assert not fake.requests
    assert not gateway.spool.records


async def test_what_is_pipelined_behind_a_hang_up_is_not_started(gateway: Gateway, fake: FakeProvider):
    """A caller who hangs up during the first of two requests is not billed for the second."""
    fake.script["patient"] = lambda call: call.silence()
    gateway.add("patient", fake.base_url)
    async with gateway.caller() as caller:
        await caller.send(gateway.request("patient") + gateway.request())
        await fake.wait_for(lambda: fake.requests)
        caller.hang_up()
        assert (await gateway.record("patient")).outcome == "client_closed"
    await gateway.until(lambda: not gateway.plane.connections)
    assert len(fake.requests) == 1


async def test_a_hang_up_counts_what_the_upstream_said(gateway: Gateway, fake: FakeProvider):
    """Running counts in the stream are the record's counts when the caller leaves: not an estimate."""

    async def counting(call: Call) -> None:
        await call.sse()
        for n, word in enumerate(answers.WORDS[:3], start=1):
            usage = {"prompt_tokens": 2006, "completion_tokens": n, "total_tokens": 2006 + n}
            await call.chunk(event(chunk(call.model, {"content": word}, usage=usage)))
        await call.silence()

    fake.script["counting"] = counting
    gateway.add("counting", fake.base_url)
    async with gateway.caller() as caller:
        await caller.send(gateway.request("counting", stream=True))
        response = await caller.read_head()
        while response.body.count(b"\n\n") < 3:
            await caller.read_chunk(response)
        caller.hang_up()
        record = await gateway.record("counting")
    assert record.outcome == "client_closed"
    assert record.usage is not None
    assert (record.usage.input_tokens, record.usage.output_tokens, record.usage.estimated) == (2006, 3, False)


@pytest.mark.parametrize("finishes", [True, False])
async def test_a_provider_set_to_drain_is_read_on_for_a_while(gateway: Gateway, fake: FakeProvider, finishes: bool):
    """`on_hangup = "drain"`: the answer's counts are still read, but not for longer than the bound."""
    go_on = asyncio.Event()

    async def slowly(call: Call) -> None:
        await call.sse()
        await call.chunk(event(role_chunk(call.model)))
        await call.chunk(event(chunk(call.model, {"content": "Hi"})))
        await go_on.wait()
        await call.chunk(event(chunk(call.model, {"content": " there"})))
        if not finishes:
            await call.silence()
        await call.chunk(event(chunk(call.model, {}, "stop", usage=answers.USAGE)))
        await call.chunk(answers.DONE)
        await call.end()

    fake.script["slowly"] = slowly
    gateway.add("slowly", fake.base_url, on_hangup="drain")
    async with gateway.caller() as caller:
        await caller.send(gateway.request("slowly", stream=True))
        response = await caller.read_head()
        await caller.read_chunk(response)
        caller.hang_up()
    await gateway.until(lambda: not gateway.plane.connections)
    assert not fake.connections[0].closed_how
    assert not gateway.spool.records
    go_on.set()
    record = await gateway.record("slowly")
    assert record.outcome == "client_closed"
    assert record.usage is not None
    if finishes:
        assert (record.usage.output_tokens, record.usage.estimated) == (5, False)
    else:
        assert record.usage.estimated
        await fake.wait_for(lambda: fake.connections[0].closed_how)


async def test_a_caller_who_leaves_after_the_answer_is_no_hang_up(gateway: Gateway):
    """Closing once everything has come is the normal end: the record says ok."""
    for stream in (False, True):
        async with gateway.caller() as caller:
            await caller.send(gateway.request("ok", stream=stream))
            await caller.read()
            caller.reset()
    assert [record.outcome for record in gateway.spool.records] == ["ok", "ok"]


async def test_a_silent_stream_gets_comments_and_then_an_answer(gateway: Gateway, fake: FakeProvider):
    """A long first token: comments keep the caller's connection alive, target and attempts come in the last comment."""

    async def slow_first(call: Call) -> None:
        await call.sse()
        await call.pause(0.7)
        await call.chunks(answers.chat_events(call.model, usage=call.wants_usage))
        await call.end()

    fake.script["slow-first"] = slow_first
    gateway.add("slow-first", fake.base_url)
    async with gateway.caller() as caller:
        await caller.send(gateway.request("slow-first", stream=True))
        response = await caller.read()
    assert response.status == 200
    assert response.header("x-potluck-target") is None
    assert response.body.startswith(b": ")
    assert 2 <= response.body.count(b"\n\n: ") + 1 <= 5
    assert b"fake/slow-first" in response.body.split(b"\n\n")[-3]
    assert response.events[-1] == b"[DONE]"
    assert len(response.events) == len(answers.WORDS) + 3


async def test_a_failure_after_comments_comes_in_the_stream(gateway: Gateway, fake: FakeProvider):
    """Once a comment has committed the 200, a failure is the stream's last event, without [DONE]."""

    async def slow_failure(call: Call) -> None:
        await call.pause(0.5)
        await call.answer(answers.error(500, "canary"), status=500)

    fake.script["slow-failure"] = slow_failure
    gateway.add("slow-failure", fake.base_url)
    async with gateway.caller() as caller:
        await caller.send(gateway.request("slow-failure", stream=True))
        response = await caller.read()
        assert response.status == 200
        (payload,) = response.events
        assert b'"code":"upstream_error"' in payload
        assert b"canary" not in payload
        assert b"[DONE]" not in response.body
        record = await gateway.record("slow-failure")
        assert (record.outcome, record.status) == ("upstream_error", 200)
        await caller.send(gateway.request())
        assert (await caller.read()).status == 200


async def test_comments_never_fall_inside_an_event(gateway: Gateway, fake: FakeProvider):
    """An upstream that stalls in the middle of an event: comments stand between events only."""

    async def halves(call: Call) -> None:
        await call.sse()
        for part in answers.chat_events(call.model, usage=call.wants_usage):
            await call.chunk(part[:30])
            await call.pause(0.25)
            await call.chunk(part[30:])
        await call.end()

    fake.script["halves"] = halves
    gateway.add("halves", fake.base_url)
    async with gateway.caller() as caller:
        await caller.send(gateway.request("halves", stream=True))
        response = await caller.read()
    assert b": " in response.body
    assert len(response.events) == len(answers.WORDS) + 3


async def test_plain_requests_get_no_comments(gateway: Gateway, fake: FakeProvider):
    """A caller who waits for JSON gets nothing but JSON, however long it takes."""

    async def slow(call: Call) -> None:
        await call.pause(0.6)
        await call.answer(answers.completion(call.model))

    fake.script["slow"] = slow
    gateway.add("slow", fake.base_url)
    async with gateway.caller() as caller:
        await caller.send(gateway.request("slow"))
        assert (await caller.read()).body == answers.completion("slow")


async def test_a_lookup_that_outlives_its_caller(gateway: Gateway):
    """A caller who leaves while his record is looked up: the late answer goes nowhere, quietly."""
    late: list[object] = []
    gateway.plane.lookup = lambda _id, _key, answer: late.append(answer)  # type: ignore[assignment]
    async with gateway.caller() as caller:
        await caller.send(encode_request("GET", "/v1/requests/req_1", key=CALLER_KEY))
        await gateway.until(lambda: late)
        caller.hang_up()
    await gateway.until(lambda: not gateway.plane.connections)
    (answer,) = late
    answer(b"{}")  # type: ignore[operator]
