"""A sink, or a step of the pool or the hub, that raises: its own call ends, the others and the link go on."""

import logging
from pathlib import Path
from typing import Any

import pytest
from hub_rig import hub_gateway
from upstream_rig import HELLO, Peer, RecordingSink, both_loops, echo, rig, target_at, until

from potluck.conformance import answers
from potluck.hub.call import HubCall
from potluck.model.resources import Timeouts
from potluck.ports import Failure


class OddError(Exception):
    """Nobody foresees it."""


class Raising(RecordingSink):
    """Raises in the callbacks of these names, after having heard."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self._names = names

    def _heard(self, *event: Any) -> None:
        super()._heard(*event)
        if event[0] in self._names:
            self.ended = event[0] if event[0] in ("end", "failed") else ""
            raise OddError


@pytest.mark.parametrize("name", ["head", "data", "end"])
@both_loops
async def test_a_sink_that_raises_loses_its_own_call(name: str) -> None:
    """It is told the failure where it was not over; the pool serves the next call."""
    async with rig() as it:
        server = await it.server(echo)
        await it.done(target_at(server.port))
        sink, _ = it.call(target_at(server.port), b"two", sink=Raising(name))
        await sink.over()
        assert sink.ended == ("end" if name == "end" else "failed")
        assert (await it.done(target_at(server.port), b"three")).body == b"three"
        await until(lambda: not any(stats.in_flight for stats in it.pool.stats().endpoints.values()))


@both_loops
async def test_a_sink_that_raises_at_its_failure_takes_no_other_deadline_along() -> None:
    """Two calls are late in one sweep: both hear of it."""

    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.closed_by_us()

    async with rig() as it:
        server = await it.server(silent)
        target = target_at(server.port, timeouts=Timeouts(connect_s=5, first_byte_s=0.05, idle_s=5, total_s=5))
        sinks = [it.call(target, sink=Raising("failed"))[0] for _ in range(3)]
        for sink in sinks:
            assert (await sink.over()).ended == "failed"
        await until(lambda: not any(stats.open for stats in it.pool.stats().endpoints.values()))


@both_loops
async def test_a_sink_that_raises_when_asked_again_is_told_its_failure() -> None:
    """`may_resend` raises: the call on the dead connection ends all the same."""

    class Unsure(RecordingSink):
        def may_resend(self) -> bool:
            raise OddError

    async def once(peer: Peer) -> None:
        await peer.request()
        await peer.send(HELLO)
        await peer.request()
        peer.close()

    async with rig() as it:
        server = await it.server(once)
        await it.done(target_at(server.port))
        sink, _ = it.call(target_at(server.port), sink=Unsure())
        assert (await sink.over()).ended == "failed"


@pytest.mark.parametrize("name", ["connected", "head", "data", "end", "failed"])
async def test_a_sink_that_raises_costs_its_node_no_other_call(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
):
    """The link stays, what runs beside it comes whole, its place in the node is free again; it is logged once."""
    slow = "ok;chunks=20;gap_ms=10"
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=["ok", slow, "status-500"], slots=2)
        async with gateway.caller() as caller:
            await caller.send(gateway.request(slow, stream=True))
            head = await caller.read_head()
            target = gateway.on_node(node.identity.node, "ok")
            sink = Raising(name)
            call = gateway.links.open(target, target.heads["chat"], b"{}", sink)
            sink.opened = sink.waited = True
            if name == "failed":
                call.fail(Failure("target_down", "stream", "as a sweep would"))  # type: ignore[attr-defined]
                call.node.withdraw(call, "policy")  # type: ignore[attr-defined]
            await sink.over()
            response = await caller.read_rest(head)
            words = [answers.WORDS[i % 5] for i in range(20)]
            assert response.events == [event[6:-2] for event in answers.chat_events(slow, words)]
        assert sink.ended == ("end" if name == "end" else "failed")
        assert len(node.links) == 1
        await gateway.at_rest()
        assert len([each for each in caplog.records if each.levelno == logging.ERROR]) == 1


async def test_a_fault_of_the_hub_in_one_call_leaves_the_queue_moving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The one that raised is over, its caller served by the next target or told; the one that waited gets its place."""
    real, first = HubCall.end, iter((True,))

    def end(call: HubCall) -> None:
        if next(first, False):
            raise OddError
        real(call)

    monkeypatch.setattr(HubCall, "end", end)
    async with hub_gateway(tmp_path) as gateway:
        await gateway.node(slots=1, queue=0)
        async with gateway.caller() as one, gateway.caller() as two:
            await one.send(gateway.request("ok"))
            await two.send(gateway.request("ok"))
            statuses = sorted([(await one.read()).status, (await two.read()).status])
        assert statuses == [200, 502]
