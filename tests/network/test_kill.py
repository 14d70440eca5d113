"""Gateways killed with signal 9 under load: no child survives, no record of a delivered answer is lost."""

import asyncio
import contextlib
import random
import signal
from pathlib import Path

import pytest

from potluck.conformance.caller import CutError, encode_request
from potluck.conformance.faults.good import ok
from potluck.conformance.process import GatewayProcess, gone, point_at
from potluck.conformance.provider import FakeProvider

pytestmark = pytest.mark.timeout(90)

CALLERS = 12


class Load:
    """Callers who ask without pause, over as many gateways as live one after the other, and note what they got."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway
        self.whole: set[str] = set()
        """ids of answers that a caller received to the last byte"""
        self.cut: set[str] = set()
        """ids of streams that were cut after their head"""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._ask_on(bool(n % 3))) for n in range(CALLERS)]

    async def end(self) -> None:
        """Wait for callers that the kill has cut off, and for nobody else: each stops at its first cut."""
        await asyncio.gather(*self._tasks)

    async def _ask_on(self, stream: bool) -> None:
        body = {"model": "ok" if stream else "plain", "messages": [{"role": "user", "content": "x"}], "stream": stream}
        request = encode_request(body=body, key=self.gateway.key)
        with contextlib.suppress(CutError, OSError):
            async with self.gateway.caller() as caller:
                while True:
                    await caller.send(request)
                    response = await caller.read_head()
                    request_id = response.header("x-request-id") or ""
                    assert response.status == 200
                    self.cut.add(request_id)
                    await caller.read_rest(response)
                    assert not stream or response.events[-1] == b"[DONE]"
                    self.cut.discard(request_id)
                    self.whole.add(request_id)


def calls(fake: FakeProvider) -> int:
    """What the upstream saw on behalf of callers: the gateway itself asks for the list of models at its start."""
    return sum(request.method == "POST" for request in fake.requests)


async def kills(home: Path, rounds: int) -> None:
    async with FakeProvider() as fake:
        fake.script["ok"] = lambda call: (call.options.update(gap_ms="5"), ok(call))[1]
        gateway = GatewayProcess(home, point_at(fake, "ok", "plain"))
        try:
            await _kills(gateway, fake, rounds)
        finally:
            await gateway.kill()


async def _kills(gateway: GatewayProcess, fake: FakeProvider, rounds: int) -> None:
    load = Load(gateway)
    for _ in range(rounds):
        await gateway.start()
        load.start()
        enough = calls(fake) + CALLERS
        await fake.wait_for(lambda: calls(fake) > enough)  # noqa: B023 — awaited here
        await asyncio.sleep(random.uniform(0.05, 0.6))
        children = gateway.children()
        assert children, "the importer is a child"
        gateway.tell(signal.SIGKILL)
        await gone(children, 2.0)
        await gateway.wait()
        await load.end()
    await gateway.start()
    await gateway.ready()
    outcomes = gateway.outcomes()
    async with asyncio.timeout(20):
        while len(outcomes) < calls(fake) or not load.whole <= outcomes.keys():
            await asyncio.sleep(0.05)
            outcomes = gateway.outcomes()
    children = gateway.children()
    gateway.tell(signal.SIGTERM)
    assert await gateway.wait() == 0
    await gone(children, 2.0)
    outcomes = gateway.outcomes()
    assert len(load.whole) > rounds * CALLERS
    assert {outcomes[request_id] for request_id in load.whole} == {"ok"}
    # a caller may miss the last bytes of an answer that was settled: that is `ok` and cut; in flight is `lost`
    assert {outcomes[request_id] for request_id in load.cut} <= {"ok", "lost"}
    assert any(outcomes[request_id] == "lost" for request_id in load.cut)
    # every call that the upstream saw is accounted for, and nothing beside
    assert set(outcomes.values()) <= {"ok", "lost"}
    assert len(outcomes) >= calls(fake)
    assert len(outcomes) - calls(fake) <= rounds * CALLERS


async def test_kills_under_load_lose_nothing(tmp_path: Path):
    """Three kills: every answer received whole is recorded once as ok, calls in flight appear as lost."""
    await kills(tmp_path / "home", 3)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_twenty_kills_under_load_lose_nothing(tmp_path: Path):
    """The same, twenty times on one home."""
    await kills(tmp_path / "home", 20)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGABRT])
async def test_no_child_outlives_the_gateway(tmp_path: Path, number: signal.Signals):
    """Whatever signal ends it, two seconds later none of its children runs."""
    async with FakeProvider() as fake, GatewayProcess(tmp_path / "home", point_at(fake, "ok")) as gateway:
        await gateway.ready()
        children = gateway.children()
        assert children
        gateway.tell(number)
        await gateway.wait()
        await gone(children, 2.0)


async def test_a_second_gateway_on_one_home_is_refused(tmp_path: Path):
    """Two processes on one home would both settle its spool: the second says so and ends; the first goes on."""
    async with FakeProvider() as fake, GatewayProcess(tmp_path / "home", point_at(fake, "ok")) as gateway:
        second = GatewayProcess(tmp_path / "home")
        with pytest.raises(RuntimeError, match="did not start"):
            await second.start()
        assert await second.process.wait() == 1
        async with gateway.caller() as caller:
            response = await caller.ask(body={"model": "ok", "messages": [{"role": "user"}]}, key=gateway.key)
            assert response.status == 200
