"""The failover score card with machines in the providers' place: the same lines, the same marks.

The card's two fake providers are the engines of two real agents; the gateway under test knows no provider at all.
"""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from agent_process import AgentProcess

from potluck.conformance.cases import PATIENCE_S, Case
from potluck.conformance.process import GatewayProcess
from potluck.conformance.score import Card, Fakes, chosen, run

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(150)]

DIFFERS = {"usage-x-groq": "300 tokens for two bytes in no time: a machine's counts have to fit to what was seen"}
"""lines that are left out, and why they end otherwise with a node"""
ROUTE = f"""[[routes]]
name = "patience"
timeouts = {{ connect_s = {PATIENCE_S}, first_token_s = {PATIENCE_S}, idle_s = {PATIENCE_S} }}
"""


def on_nodes(cases: Sequence[Case]) -> str:
    """A `potluck.toml`: each case's targets on the nodes `first` and `second`; `refused` never joins."""
    lines = [ROUTE]
    for case in cases:
        entries = ", ".join(f"{{ target = {json.dumps(f'node:{each.place}/{each.model}')} }}" for each in case.targets)
        lines += ["[[models]]", f"name = {json.dumps(case.model)}", f"targets = [{entries}]"]
    return "\n".join(lines) + "\n"


async def joined(gateway: GatewayProcess, home: Path, name: str, engine: str) -> AgentProcess:
    """A running agent with this engine and no other."""
    home.mkdir()
    agent = AgentProcess(home, options=("--engine", engine, "--page-port", "0"))
    secret = (await gateway.api("POST", "/join-tokens", {})).json["secret"]
    await agent.join(f"http://127.0.0.1:{gateway.port}", secret, "--name", name)
    await agent.node("set", "discover", "no")
    await agent.node("set", "slots", "32")
    await agent.start()
    return agent


async def are_ready(gateway: GatewayProcess, *names: str) -> None:
    """Returns when these nodes serve. Raises TimeoutError."""
    async with asyncio.timeout(40):
        while True:
            nodes = (await gateway.api("GET", "/nodes")).json["data"]
            if {node["name"] for node in nodes if node["standing"] == "ready"} >= {*names}:
                return
            await asyncio.sleep(0.1)


async def test_two_machines_have_full_marks(tmp_path: Path) -> None:
    """Every line of the card passes with nodes, but for those that are known to differ."""
    cases = [case for case in chosen() if case.name not in DIFFERS]
    async with Fakes(ports=(0, 0, 0)) as fakes, GatewayProcess(tmp_path / "gateway", on_nodes(cases)) as gateway:
        await gateway.ready()
        agents = []
        try:
            for name, fake in (("first", fakes.first), ("second", fakes.second)):
                fake.listed = sorted({each.model for case in cases for each in case.targets if each.place == name})
                agents.append(await joined(gateway, tmp_path / name, name, fake.base_url))
            await are_ready(gateway, "first", "second")
            card = await run(f"http://127.0.0.1:{gateway.port}", gateway.key, fakes, cases)
        finally:
            for agent in agents:
                await agent.end()
    assert card.passed == card.total == len(cases), told(card)


def told(card: Card) -> str:
    return "\n".join(f"{line.name}: {line.must}: {line.evidence}" for line in card.failed)
