"""The machine as the agent asks for it: what is measured reaches the rules, and only ours is given back."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from potluck.engines.asking import Place
from potluck.model.engine import Engine, EngineLoad
from potluck.node import machine as machines
from potluck.node.facts import Facts, Hardware, Reading
from potluck.node.home import Home
from potluck.node.machine import OwnMachine
from potluck.node.settings import NodeSettings


class Offers:
    """One engine here, one elsewhere."""

    def __init__(self) -> None:
        self.load = EngineLoad(running=0, resident=("theirs",))
        here, there = Place("127.0.0.1", 11434), Place("10.0.0.7", 8000)
        self._places = {"here": here, "there": there}
        self.offered: dict[str, Any] = dict.fromkeys(self._places)

    def watch_of(self, engine: str) -> Any:
        place = self._places[engine]
        load = self.load if engine == "here" else EngineLoad()
        return SimpleNamespace(place=place, load=load, engine=Engine("ollama", place.base_url))


def jobs(*models: str) -> Any:
    """Calls at the engine here."""
    calls = [
        SimpleNamespace(engine=SimpleNamespace(id="here"), job=SimpleNamespace(request=SimpleNamespace(model=model)))
        for model in models
    ]
    return SimpleNamespace(running=dict(enumerate(calls)))


class Probe:
    """Stands in for the hardware."""

    def __init__(self) -> None:
        self.ports: frozenset[int] = frozenset()
        self.calling = False

    def read(self) -> Hardware:
        return Hardware(on_battery=True, cpu_engines=0.0)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Probe:
    """The one that the machine has."""
    probe = Probe()
    desk = SimpleNamespace(read=lambda: Reading(False, 900.0))
    monkeypatch.setattr(machines, "HardwareProbe", lambda: probe)
    monkeypatch.setattr(machines, "presence_here", lambda: desk)
    return probe


async def known(machine: OwnMachine, settings: NodeSettings, offers: Offers) -> Facts:
    """The facts, once everything was measured."""
    async with asyncio.timeout(20):
        while True:
            facts = await machine.facts(settings, offers)  # type: ignore[arg-type]
            if facts.hardware != Hardware() and (facts.presence != Reading() or "idle" not in settings.mode):
                return facts
            await asyncio.sleep(0.005)


async def test_what_is_measured_reaches_the_rules(probe: Probe, tmp_path: Path) -> None:
    """Power in every mode, presence in mode `idle`; only engines of this machine are looked for here."""
    machine = OwnMachine(Home(tmp_path))
    try:
        facts = await known(machine, NodeSettings(), Offers())
        assert (facts.hardware.on_battery, facts.presence) == (True, Reading())
        facts = await known(machine, NodeSettings(mode=("idle",)), Offers())
        assert facts.presence.idle_s == 900.0
        assert probe.ports == {11434}
    finally:
        await machine.close()


async def test_a_window_reaches_the_rules_and_its_zone_may_change(probe: Probe, tmp_path: Path) -> None:
    """Around the clock is open, without an end; the zone is set and unset while it runs."""
    machine = OwnMachine(Home(tmp_path))
    always = NodeSettings(schedule=("daily 00:00-24:00",))
    nights = NodeSettings(schedule=("daily 00:00-12:00", "sun 12:00-13:00"), timezone="Europe/Berlin")
    own = NodeSettings(schedule=nights.schedule)
    try:
        facts = await known(machine, always, Offers())
        assert (facts.window_open, facts.window_left_s) == (True, None)
        for settings in (nights, own, nights):
            facts = await known(machine, settings, Offers())
            assert facts.window_left_s is not None
            assert 0 <= facts.window_left_s <= 13 * 3600
    finally:
        await machine.close()


async def test_only_what_the_node_had_loaded_is_given_back(
    probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner's model stays, unless the engines are the node's."""
    told: list[tuple[int, list[str]]] = []

    async def unload(place: Place, kind: str, models: Any) -> list[str]:
        told.append((place.port, sorted(models)))
        return []

    monkeypatch.setattr(machines, "unload", unload)
    machine, offers = OwnMachine(Home(tmp_path)), Offers()
    machine.note(offers, jobs("ours", "theirs"))  # type: ignore[arg-type]
    assert probe.calling
    offers.load = EngineLoad(running=0, resident=("ours", "theirs"))
    machine.note(offers, jobs())  # type: ignore[arg-type]
    assert not probe.calling
    assert await machine.free(NodeSettings(), offers) == []  # type: ignore[arg-type]
    await machine.free(NodeSettings(engines_are_ours=True), offers)  # type: ignore[arg-type]
    assert told == [(11434, ["ours"]), (11434, ["ours", "theirs"])]
    machine.note(offers, jobs())  # type: ignore[arg-type]
    await machine.free(NodeSettings(), offers)  # type: ignore[arg-type]
    assert len(told) == 2, "what was let go and is there again is the owner's"
    await machine.close()


async def test_a_damaged_secret_costs_the_helpers_only(probe: Probe, tmp_path: Path) -> None:
    """The agent goes on by what it sees itself, and says it once."""
    (tmp_path / "presence-secret").write_text("beef")
    machine, settings = OwnMachine(Home(tmp_path)), NodeSettings(mode=("idle",), presence_port=7174)
    assert (await known(machine, settings, Offers())).presence == Reading(False, 900.0)  # type: ignore[arg-type]
    await machine.close()
