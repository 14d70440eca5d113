"""`hub.Links` as a `ports.Upstream`: the contract that the pool's tests hold, over node links."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hub_rig import HubGateway, hub_gateway
from upstream_rig import RecordingSink

from potluck.conformance import answers
from potluck.conformance.node import FakeNode
from potluck.conformance.node_plays import NodeCall
from potluck.ports import Call

WINDOW_BYTES = 192 * 1024


def begin(
    gateway: HubGateway, node: FakeNode, model: str = "ok", body: bytes = b"{}", sink: RecordingSink | None = None
) -> tuple[RecordingSink, Call]:
    """A call past the exchange."""
    target = gateway.on_node(node.identity.node, model)
    sink = sink or RecordingSink()
    call = gateway.links.open(target, target.heads["chat"], body, sink)
    sink.opened = sink.waited = True
    return sink, call


async def forever(call: NodeCall) -> None:
    """As much as there is room for."""
    call.head(kind="text/plain")
    for n in range(100_000):
        await call.data(b"%07d\n" % n * 512)


async def test_connected_head_data_end_in_that_order_and_once(tmp_path: Path):
    """One callback after the other, none before `open` returned; the answer's headers in lower case."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node()
        sink, call = begin(gateway, node)
        assert call.sent
        await sink.over()
        whole = answers.completion("ok")
        assert sink.events == [("connected", True), ("head", 200), ("data", whole), ("end",)]
        assert sink.headers == {b"content-type": b"application/json"}


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
async def test_the_node_gets_the_request_byte_for_byte(tmp_path: Path, size: int):
    """A body of nothing, of a byte, of more than a turn, of many windows."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=["see"])

        async def see(call: NodeCall) -> None:
            call.head()
            await call.data(b"seen")
            call.end()

        node.plays["see"] = see
        sink, _ = begin(gateway, node, "see", b"z" * size)
        await sink.over()
        (call,) = node.calls.values()
        assert call.body == b"z" * size


async def test_a_node_that_is_not_there_fails_the_call_later(tmp_path: Path):
    """Never from inside `open`, never by an exception."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node()
        gateway.enrol("lab-2")
        target = gateway.on_node("node_lab-2", "ok")
        sink = RecordingSink()
        call = gateway.links.open(target, target.heads["chat"], b"{}", sink)
        sink.opened = True
        await sink.over()
        assert sink.events == [("failed", "refused", "connect")]
        assert not call.sent
        assert node.links


async def test_nothing_comes_after_cancel(tmp_path: Path):
    """In the queue, before the head and in the stream; twice is once; the node confirms."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=["stall", "stall;before=head"], slots=2)
        running, running_call = begin(gateway, node, "stall")
        await gateway.until(lambda: running.status)
        headless, headless_call = begin(gateway, node, "stall;before=head")
        queued, queued_call = begin(gateway, node, "stall")
        assert not queued_call.sent
        for sink, call in ((queued, queued_call), (headless, headless_call), (running, running_call)):
            sink.cancelled = True
            call.cancel("the caller hung up")
            call.cancel("the caller hung up")
        await gateway.until(lambda: not gateway.links.nodes[node.identity.node].calls)
        assert [call.ended for call in node.calls.values()] == ["cancelled", "cancelled"]


@pytest.mark.parametrize("moment", ["head", "data"])
async def test_cancel_from_inside_a_callback(tmp_path: Path, moment: str):
    """The sink hears nothing more, whatever came in the same read."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node()
        calls: list[Call] = []

        class Leaving(RecordingSink):
            def head(self, status: int, headers: dict[bytes, bytes]) -> None:
                super().head(status, headers)
                self.leave("head")

            def data(self, chunk: bytes) -> None:
                super().data(chunk)
                self.leave("data")

            def leave(self, at: str) -> None:
                if at == moment:
                    self.cancelled = True
                    calls[0].cancel("done")

        sink, call = begin(gateway, node, sink=Leaving())
        calls.append(call)
        await gateway.until(lambda: sink.cancelled and not gateway.links.nodes[node.identity.node].calls)


async def test_pause_holds_the_node_back_and_resume_goes_on(tmp_path: Path):
    """Paused, no more than a window comes; resumed, all bytes come in order."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=["forever"])
        node.plays["forever"] = forever
        sink, call = begin(gateway, node, "forever")
        await gateway.until(lambda: sink.chunks)
        call.pause()
        before_bytes = len(sink.body)
        job = next(iter(gateway.links.nodes[node.identity.node].calls))
        await gateway.until(lambda: job.in_received == job.in_limit)
        held_bytes = len(sink.body)
        assert held_bytes - before_bytes <= WINDOW_BYTES
        await asyncio.sleep(0.1)
        assert len(sink.body) == held_bytes
        call.resume()
        await gateway.until(lambda: len(sink.body) > 4 * WINDOW_BYTES)
        expected = b"".join(b"%07d\n" % n * 512 for n in range(1 + len(sink.body) // 4096))
        assert expected.startswith(sink.body)
        sink.cancelled = True
        call.cancel("the caller hung up")


async def test_a_paused_call_is_not_taken_for_a_silent_one(tmp_path: Path):
    """Who does not read cannot complain of silence."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=["forever"])
        node.plays["forever"] = forever
        sink, call = begin(gateway, node, "forever")
        await gateway.until(lambda: sink.chunks)
        call.pause()
        hub_call: Any = call
        hub_call.timeouts = type(hub_call.timeouts)(idle_s=0.1)
        await gateway.until(lambda: node.running[0].job.full)
        await asyncio.sleep(0.5)
        assert not sink.ended
        sink.cancelled = True
        call.cancel("the caller hung up")


async def test_the_end_callback_may_open_the_next_call(tmp_path: Path):
    """From inside the last callback, over the same link."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node()
        ends: list[RecordingSink] = []

        def again() -> None:
            if len(ends) < 3:
                sink = RecordingSink()
                sink.on_end = again
                ends.append(sink)
                begin(gateway, node, sink=sink)

        again()
        await gateway.until(lambda: len(ends) == 3 and all(sink.ended == "end" for sink in ends))


async def test_closing_fails_what_runs(tmp_path: Path):
    """Each call once, as the pool does."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=["stall"], slots=2)
        sinks = [begin(gateway, node, "stall")[0] for _ in range(3)]
        await gateway.until(lambda: all(sink.status for sink in sinks[:2]))
        gateway.links.close()
        assert [sink.ended for sink in sinks] == ["failed"] * 3
