"""An agent on a machine whose owner comes back: in time, and with no more than was the node's."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from agent_rig import PACE, LinkGateway, enrol, until
from unloadable import Unloadable

from potluck.conformance.call import Call
from potluck.conformance.engines import CHAT, EMBED
from potluck.node import agent as agents
from potluck.node import machine as machines
from potluck.node.agent import Agent
from potluck.node.facts import Gpu, Hardware, Reading
from potluck.node.identity import fresh_key
from potluck.node.machine import OwnMachine
from potluck.node.settings import NodeSettings

AWAY = Reading(False, 9000.0)
GAME = Reading(True, 0.1, full_screen=True)
HERE = Reading(True, 0.1)


class Desk:
    """What the probes see; a test says so."""

    def __init__(self) -> None:
        self.seen = AWAY
        self.hardware = Hardware(on_battery=False)
        self.ports: frozenset[int] = frozenset()
        self.calling = False

    def read(self) -> Reading:
        return self.seen


class Probe(Desk):
    """The hardware's side of it."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    def read(self) -> Hardware:  # type: ignore[override]
        return self._desk.hardware


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Stands in for this machine's probes."""
    desk = Desk()
    monkeypatch.setattr(machines, "presence_here", lambda: desk)
    monkeypatch.setattr(machines, "HardwareProbe", lambda: Probe(desk))
    return desk


@pytest.fixture
async def engine() -> AsyncIterator[Unloadable]:
    """An Ollama in which the owner has a model; it loads another with the first call, and answers without end."""
    async with Unloadable("ollama") as found:
        found.resident = {EMBED}

        async def play(call: Call) -> None:
            found.resident |= {CHAT}
            await call.sse()
            await call.silence()

        found.script[CHAT] = play
        yield found


@asynccontextmanager
async def serving(path: Path, engine: Unloadable, **members: object) -> AsyncIterator[tuple[Agent, LinkGateway]]:
    """An agent in mode `idle` that serves."""
    key, gateway = fresh_key(), LinkGateway()
    await gateway.start(key)
    home = enrol(path, gateway, key)
    settings = NodeSettings(mode=("idle",), engines=(engine.base_url,), discover=False, page_port=0, **members)  # type: ignore[arg-type]
    agent = Agent(home, lambda: settings, OwnMachine(home), ports=(), pace=PACE)
    task = asyncio.get_running_loop().create_task(agent.run())
    try:
        await served(gateway)
        yield agent, gateway
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await gateway.stop()


async def served(gateway: LinkGateway) -> None:
    """Every link says so."""
    await until(
        lambda: gateway.links and all(link.load and link.load.state == "ready" for link in gateway.links),
        "it never served",
    )


def asked() -> bytes:
    """A request's body."""
    return json.dumps({"model": CHAT, "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()


async def test_a_game_ends_what_runs_and_has_the_gpu_within_two_seconds(
    desk: Desk, engine: Unloadable, tmp_path: Path
) -> None:
    """From the probe's first sight of it, in the best of three: the stream is reset, the node's model is gone, the
    owner's is not."""
    took_s = []
    async with serving(tmp_path, engine, reenter_s=0) as (agent, gateway):
        for _ in range(3):
            desk.seen = AWAY
            await served(gateway)
            opened = gateway.open(CHAT, asked())
            await until(lambda: CHAT in engine.resident)
            began_s = time.monotonic()
            desk.seen = GAME
            await opened.over()
            await until(lambda: CHAT not in engine.resident, "the GPU was not freed")
            took_s.append(time.monotonic() - began_s)
            assert opened.end == "reset owner_active"
            assert engine.resident == {EMBED}
            assert "whole screen" in agent.reason
            await until(lambda: all(link.load and link.load.presence == "active" for link in gateway.links))
    assert min(took_s) < 2.0, took_s


async def test_a_model_that_comes_too_late_is_let_go_too(
    desk: Desk, engine: Unloadable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine loads on though nobody wants the answer any more: the GPU is freed again, and the owner's model, which
    they load themselves after that, stays."""
    monkeypatch.setattr(agents, "UNLOAD_AGAIN_S", 0.1)
    called = asyncio.Event()

    async def slowly(call: Call) -> None:
        called.set()
        await call.silence()

    engine.script[CHAT] = slowly
    async with serving(tmp_path, engine) as (agent, gateway):
        opened = gateway.open(CHAT, asked())
        await called.wait()
        desk.seen = GAME
        await opened.over()
        await until(lambda: engine.harm, "it was never told to let go")
        engine.resident |= {CHAT}  # only now: that order came too early
        await until(lambda: CHAT not in engine.resident, "the GPU was taken all the same")
        await until(lambda: not agent._machine.claims.of(next(iter(agent.offers.offered))))
        engine.resident |= {CHAT}
        watch = agent.offers.watch_of(next(iter(agent.offers.offered)))
        assert watch is not None
        await until(lambda: CHAT in (watch.load.resident or ()))
        ticks = agent._free_again_at
        await asyncio.sleep(2.2)
        assert engine.resident == {CHAT, EMBED}
        assert agent._free_again_at == ticks


async def test_without_a_gateway_the_machine_is_given_back(
    desk: Desk, engine: Unloadable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When all jobs are over because no link came up again, what the node had loaded goes; the owner's stays."""
    monkeypatch.setattr(agents.m, "NODE_KEEPS_S", 1.5)
    async with serving(tmp_path, engine) as (agent, gateway):
        agent.links.table.keeps_s = 1.5
        gateway.open(CHAT, asked())
        await until(lambda: CHAT in engine.resident)
        await until(lambda: agent._machine.claims.seen)
        await gateway.stop()
        for link in tuple(gateway.links):
            link.cut()
        await until(lambda: not agent.links.up)
        assert engine.resident == {CHAT, EMBED}
        await until(lambda: CHAT not in engine.resident, "it kept the model for nobody")
        assert not agent.jobs.running
        assert engine.resident == {EMBED}
        await gateway.start_again()


async def test_the_owner_at_the_keyboard_gets_no_new_work_and_leaves_a_grace(
    desk: Desk, engine: Unloadable, tmp_path: Path
) -> None:
    """No new work at once; what runs ends with the grace; the model stays for its minute."""
    async with serving(tmp_path, engine, grace_s=0.5) as (agent, gateway):
        opened = gateway.open(CHAT, asked())
        await until(lambda: CHAT in engine.resident)
        desk.seen = HERE
        await until(lambda: agent.state == "paused", timeout_s=2.5)
        assert not opened.end
        await opened.over()
        assert opened.end == "reset owner_active"
        assert engine.resident == {CHAT, EMBED}


async def test_pulling_the_plug_counts(desk: Desk, engine: Unloadable, tmp_path: Path) -> None:
    """On battery nothing is served, and the page says so."""
    async with serving(tmp_path, engine) as (agent, _):
        desk.hardware = Hardware(on_battery=True)
        await until(lambda: agent.state == "paused", timeout_s=5.0)
        assert "battery" in agent.reason


async def test_a_model_that_does_not_fit_is_not_loaded(desk: Desk, engine: Unloadable, tmp_path: Path) -> None:
    """Beside what is kept free of the GPU's memory there is room for what is there, not for another model."""
    desk.hardware = Hardware(gpus=(Gpu("0", total_bytes=2 << 30, used_bytes=1 << 30),))
    async with serving(tmp_path, engine, keep_vram_bytes=1 << 29) as (agent, gateway):
        await until(lambda: agent._facts.hardware.gpus)
        opened = await gateway.open(CHAT, asked()).over()
        assert opened.end == "refused no_vram"
        engine.resident |= {CHAT}
        watch = agent.offers.watch_of(next(iter(agent.offers.offered)))
        assert watch is not None
        await until(lambda: CHAT in (watch.load.resident or ()))
        opened = gateway.open(CHAT, asked())
        await until(lambda: agent.jobs.running)
        opened.cancel()
        assert (await opened.over()).end == "confirmed"


async def test_a_probe_that_fails_is_not_nobody(desk: Desk, engine: Unloadable, tmp_path: Path) -> None:
    """What was seen last counts no longer, and the machine is its owner's."""
    async with serving(tmp_path, engine) as (agent, _):
        del desk.seen
        machine = agent._machine
        assert isinstance(machine, OwnMachine)
        assert machine._presence is not None
        machine._presence._stale_s = 0.2
        await until(lambda: agent.state == "paused", timeout_s=5.0)
        assert "cannot be seen" in agent.reason
