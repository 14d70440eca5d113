"""Calls over node links: bytes, many at once, refusals, resets, deadlines, callers that leave or stall."""

import asyncio
import hashlib
import time
from pathlib import Path

import pytest
from hub_rig import HubGateway, hub_gateway

from potluck.conformance import answers
from potluck.conformance.node import ENGINE
from potluck.conformance.node_plays import NodeCall
from potluck.conformance.provider import FakeProvider
from potluck.model.node import NodePlace, place_of
from potluck.model.resources import Timeouts

WINDOW_BYTES = 256 * 1024


async def ask(gateway: HubGateway, model: str, **members: object) -> tuple[int, bytes, str | None]:
    """Status, body and target of one request."""
    async with gateway.caller(timeout_s=30) as caller:
        await caller.send(gateway.request(model, **members))
        response = await caller.read()
        return response.status, response.body, response.header("x-potluck-target")


async def test_a_plain_answer_comes_as_the_node_gave_it(tmp_path: Path):
    """Status, body and target of a plain request; the node saw the path, the allowed headers and the whole body."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node()
        assert await ask(gateway, "ok") == (200, answers.completion("ok"), "node:lab-1/ok")
        (call,) = node.calls.values()
        request = call.job.request
        assert (request.path, request.model, request.headers) == (
            "/v1/chat/completions", "ok", [("content-type", "application/json")]
        )  # fmt: skip
        assert call.asked["model"] == "ok"
        record = await gateway.record("ok")
        assert (record.outcome, record.target) == ("ok", "node:lab-1/ok")


async def test_streams_of_all_sizes_are_byte_identical(tmp_path: Path):
    """What the caller reads of a stream is what the node sent, from five events to more than a link's window."""
    async with hub_gateway(tmp_path) as gateway:
        models = ["ok", "ok;chunks=400", "ok;chunks=60;size=100000"]
        await gateway.node(models=models)
        for model in models:
            count, size = (5, 0) if model == "ok" else (400, 0) if "400" in model else (60, 100_000)
            words = [answers.WORDS[i % 5].ljust(size, ".") for i in range(count)]
            async with gateway.caller(timeout_s=30) as caller:
                await caller.send(gateway.request(model, stream=True))
                response = await caller.read()
            expected = list(answers.chat_events(model, words))
            assert response.events == [event[6:-2] for event in expected], model


async def test_a_large_request_arrives_whole(tmp_path: Path):
    """A body of many windows reaches the node byte for byte."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node()
        text = "x" * 3_000_000
        status, _, _ = await ask(gateway, "ok", messages=[{"role": "user", "content": text}])
        assert status == 200
        (call,) = node.calls.values()
        assert call.asked["messages"][0]["content"] == text


@pytest.mark.parametrize("links", [1, 2])
async def test_two_hundred_streams_on_one_node_at_once(tmp_path: Path, links: int):
    """200 concurrent streams over one link, and over two that share them, are all whole."""
    async with hub_gateway(tmp_path) as gateway:
        model = "ok;chunks=20;gap_ms=60"
        node = await gateway.node(models=[model], links=links)
        seen: list[int] = []

        async def one() -> bytes:
            async with gateway.caller(timeout_s=60) as caller:
                await caller.send(gateway.request(model, stream=True))
                response = await caller.read()
                return hashlib.sha256(response.body).digest()

        async def watch() -> None:
            while True:
                seen.append(len(node.running))
                await asyncio.sleep(0.01)

        watching = asyncio.get_running_loop().create_task(watch())
        digests = await asyncio.gather(*(one() for _ in range(200)))
        watching.cancel()
        assert len(set(digests)) == 1
        assert max(seen) > 150, "they ran beside each other"
        assert len(node.links) == links


async def test_two_links_share_the_streams(tmp_path: Path):
    """Of two links each new call takes the one with fewer streams."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=["stall"], links=2)
        callers = [gateway.caller() for _ in range(6)]
        for caller in callers:
            await caller.__aenter__()
            await caller.send(gateway.request("stall", stream=True))
        await gateway.until(lambda: len(node.running) == 6)
        counts = [sum(call.job.link is link.core for call in node.running) for link in node.links]
        assert counts == [3, 3]
        for caller in callers:
            await caller.__aexit__(None, None, None)
        await gateway.until(lambda: not node.running)


async def test_a_refusal_is_the_next_targets_turn(tmp_path: Path, fake: FakeProvider):
    """A node that refuses costs the caller nothing and keeps its breaker; the code is told and recorded."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=["refuse;code=owner_active"])
        target = gateway.on_node(node.identity.node, "refuse;code=owner_active")
        gateway.serve("m", target, gateway.target(fake.base_url, "ok"))
        status, _, answered = await ask(gateway, "m")
        assert (status, answered) == (200, "fake/ok")
        assert gateway.heard.refusals == [("node_lab-1", "refuse;code=owner_active", "owner_active")]
        attempt = (await gateway.record("m")).attempts[0]
        assert (attempt.error_class, attempt.phase) == ("refused", "connect")
        assert attempt.error == "is needed by its owner"
        assert gateway.plane.registry.lane(target).breaker.state == "closed"


@pytest.mark.parametrize(
    ("model", "error_class", "phase"),
    [
        ("reset;code=engine_failed", "target_down", "first_byte"),
        ("reset;code=engine_timeout", "target_slow", "first_byte"),
        ("reset;code=owner_active", "refused", "first_byte"),
        ("reset;code=draining", "refused", "first_byte"),
        ("reset;code=owner_active;after=head", "refused", "stream"),
        ("reset;code=internal;after=head", "target_down", "stream"),
        ("error;status=503", "target_down", "first_byte"),
    ],
)
async def test_what_a_node_says_becomes_a_failure(
    tmp_path: Path, fake: FakeProvider, model: str, error_class: str, phase: str
):
    """Each way to end before content becomes its class, and the next target answers."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=[model])
        gateway.serve("m", gateway.on_node(node.identity.node, model), gateway.target(fake.base_url, "ok"))
        async with gateway.caller() as caller:
            await caller.send(gateway.request("m", stream=True))
            response = await caller.read()
        assert response.status == 200
        record = await gateway.record("m")
        failed = record.attempts[0]
        assert (failed.error_class, failed.phase) == (error_class, phase)
        assert record.target == "fake/ok"


async def test_an_engine_that_failed_is_looked_at_by_its_node(tmp_path: Path):
    """A TASK after the failure, one for many failures; how it went is told."""
    async with hub_gateway(tmp_path) as gateway:
        await gateway.node(models=["reset"])
        for _ in range(3):
            await ask(gateway, "reset")
        await gateway.until(lambda: any(event == "probe" for _, event, _ in gateway.heard.reports))
        probes = [detail for _, event, detail in gateway.heard.reports if event == "probe"]
        assert probes == ["well, after 1 ms: it answers"]


async def test_an_answer_that_is_reset_after_content_ends_honestly(tmp_path: Path):
    """What came goes to the caller, then an error event; never a pretended end."""
    async with hub_gateway(tmp_path) as gateway:
        model = "reset;after=content"
        await gateway.node(models=[model])
        async with gateway.caller() as caller:
            await caller.send(gateway.request(model, stream=True))
            response = await caller.read()
        assert b"Everyone" in response.body
        assert b'"error"' in response.body
        record = await gateway.record(model)
        assert record.outcome == "upstream_truncated"


async def test_an_owner_who_comes_back_inside_an_answer_trips_no_breaker(tmp_path: Path):
    """Each stream ends as a cut one; the record says who said no, and the node's breaker has not heard of it."""
    async with hub_gateway(tmp_path) as gateway:
        model = "reset;after=content;code=owner_active"
        node = await gateway.node(models=[model])
        target = gateway.on_node(node.identity.node, model)
        gateway.serve("m", target)
        for _ in range(6):
            async with gateway.caller() as caller:
                await caller.send(gateway.request("m", stream=True))
                response = await caller.read()
            assert b"Everyone" in response.body
            assert b'"upstream_truncated"' in response.body
        await gateway.until(lambda: len(gateway._records("m")) == 6)
        for record in gateway._records("m"):
            assert record.outcome == "upstream_truncated"
            assert [(each.error_class, each.phase) for each in record.attempts] == [("refused", "stream")]
        breaker = gateway.plane.registry.lane(target).breaker
        assert (breaker.state, breaker.troubled) == ("closed", False)


async def test_a_caller_who_leaves_ends_the_nodes_work_within_a_second(tmp_path: Path):
    """The node is told to stop, and confirms."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=["stall"])
        async with gateway.caller() as caller:
            await caller.send(gateway.request("stall", stream=True))
            await gateway.until(lambda: node.running and node.running[0].job.started)
            left_at = time.monotonic()
        (call,) = node.calls.values()
        await gateway.until(lambda: call.ended == "cancelled")
        assert time.monotonic() - left_at < 1.0


@pytest.mark.parametrize(
    ("model", "stream", "detail", "timeouts"),
    [
        ("stall;before=accept", True, "did not take the call", Timeouts(connect_s=0.4)),
        ("stall;before=head", False, "no answer in time", Timeouts(first_byte_s=0.4)),
        ("stall", True, "stalled", Timeouts(idle_s=0.4)),
        ("ok;chunks=1000;gap_ms=20", True, "longer than allowed", Timeouts(total_s=0.6)),
    ],
)
async def test_every_silence_has_its_deadline(
    tmp_path: Path, model: str, stream: bool, detail: str, timeouts: Timeouts
):
    """Not accepted, no first byte, no further byte, no end: each is too slow in its own time; the node is told."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=[model])
        gateway.serve("m", gateway.on_node(node.identity.node, model, timeouts=timeouts))
        began = time.monotonic()
        async with gateway.caller() as caller:
            await caller.send(gateway.request("m", stream=stream))
            await caller.read()
        assert time.monotonic() - began < 5.0
        record = await gateway.record("m")
        failed = record.attempts[0]
        assert failed.error_class == "target_slow"
        assert detail in failed.error
        await gateway.until(lambda: all(call.ended == "cancelled" for call in node.calls.values()))


async def endless(call: NodeCall) -> None:
    """Streams content for as long as there is room."""
    call.head(kind="text/event-stream")
    await call.data(answers.event(answers.role_chunk("flood")))
    event = answers.event(answers.chunk("flood", {"content": "y" * 4000}))
    for _ in range(100_000):
        await call.data(event)
        await asyncio.sleep(0)


async def test_a_stalled_caller_holds_no_more_than_a_window(tmp_path: Path):
    """A caller that reads nothing: what the gateway holds for it stays within 256 KiB; others go on meanwhile."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=["flood", "ok"])
        node.plays["flood"] = endless
        async with gateway.caller() as caller:
            await caller.send(gateway.request("flood", stream=True))
            await gateway.until(lambda: node.running)
            (connection,) = [each for each in gateway.plane.connections if each.exchange is not None]
            held_bytes: list[int] = []

            def stalled() -> bool:
                """The node is also out of credit while frames are on their way and the sockets still take them."""
                held_bytes.append(connection.transport.get_write_buffer_size())
                return node.running[0].job.full and held_bytes[-1] > 64 * 1024

            await gateway.until(stalled, timeout_s=20)
            for _ in range(20):
                assert (await ask(gateway, "ok"))[0] == 200
                stalled()
            assert 64 * 1024 < max(held_bytes) <= WINDOW_BYTES
            assert held_bytes[-1] > 64 * 1024, "it is still held: the caller has taken nothing"
        await gateway.until(lambda: not node.running)


async def test_what_is_above_slots_and_queue_waits_here_its_owner_first(tmp_path: Path):
    """One slot: two more calls wait in the hub, a fourth is refused; the owner's call is the next to go."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=["gate"], slots=1)
        gates: list[asyncio.Event] = []
        order: list[bool] = []

        async def gate(call: NodeCall) -> None:
            order.append(call.job.request.own)
            call.accept()
            gates.append(asyncio.Event())
            await gates[-1].wait()
            call.head()
            await call.data(answers.completion("gate"))
            call.end()

        node.plays["gate"] = gate
        gateway.serve("others", gateway.on_node(node.identity.node, "gate"))
        gateway.serve("owners", gateway.on_node(node.identity.node, "gate", own=True))
        hub = gateway.links

        async def queued(model: str, count: int) -> asyncio.Task[tuple[int, bytes, str | None]]:
            task = asyncio.get_running_loop().create_task(ask(gateway, model))
            await gateway.until(lambda: hub.queued == count)
            return task

        first = asyncio.get_running_loop().create_task(ask(gateway, "others"))
        await gateway.until(lambda: gates)
        second = await queued("others", 1)
        third = await queued("others", 2)
        fourth = await queued("owners", 3)  # takes the place of the last of the others
        assert (await third)[0] == 503
        assert (await ask(gateway, "others"))[0] == 503, "the queue is full"
        for n in range(3):
            await gateway.until(lambda: len(gates) > n)  # noqa: B023 — awaited at once
            gates[n].set()
        assert [(await each)[0] for each in (first, second, fourth)] == [200, 200, 200]
        assert order == [False, True, False]
        assert {code for _, _, code in gateway.heard.refusals} == {"busy"}


async def test_a_full_hub_puts_no_machine_aside(tmp_path: Path):
    """How full a node is, routing sees for itself: the hub's `busy` holds nothing against it, the node's own does."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=["stall", "full"], slots=1)

        async def full(call: NodeCall) -> None:
            call.refuse("busy", retry_after_s=30.0)

        node.plays["full"] = full
        machine = gateway.plane.registry.machine(place_of(node.identity.node, ENGINE, "stall"))
        async with gateway.caller() as first, gateway.caller() as second, gateway.caller() as third:
            for n, caller in enumerate((first, second, third)):
                await caller.send(gateway.request("stall", stream=True))
                await gateway.until(lambda: gateway.links.queued == n if n else node.running)  # noqa: B023
            assert (await ask(gateway, "stall"))[0] == 503
            assert {code for _, _, code in gateway.heard.refusals} == {"busy"}
            assert not machine.set_aside(time.monotonic())
        await gateway.at_rest()
        machine = gateway.plane.registry.machine(place_of(node.identity.node, ENGINE, "full"))
        assert (await ask(gateway, "full"))[0] == 503
        assert machine.set_aside(time.monotonic())


async def test_a_queue_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A call that waits for too long is refused as busy, not as slow."""
    monkeypatch.setattr("potluck.hub.call.QUEUE_S", 0.3)
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=["stall"], slots=1)
        async with gateway.caller() as caller:
            await caller.send(gateway.request("stall", stream=True))
            await gateway.until(lambda: node.running)
            assert (await ask(gateway, "stall"))[0] == 503
        record = next(each for each in gateway.spool.records if each.outcome != "client_closed")
        assert record.attempts[0].error_class == "refused"


async def test_a_model_that_the_node_no_longer_offers_is_refused(tmp_path: Path):
    """The snapshot is older than the node's word: nothing is sent, the next target's turn."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node()
        place = NodePlace(node.identity.node, "gone", "ok")
        gateway.serve("m", gateway.on_node(node.identity.node, "ok", node=place))
        assert (await ask(gateway, "m"))[0] == 503
        assert gateway.heard.refusals[0][2] == "model_gone"
