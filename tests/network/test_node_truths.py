"""Real agents and a real gateway: how soon a word of owner or operator counts, copies, races, and wrong clocks."""

import asyncio
import contextlib
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from agent_process import AgentProcess

from potluck.cli.node_home import order
from potluck.conformance.engines import CHAT, FakeEngine
from potluck.conformance.process import GatewayProcess
from potluck.node.home import Home

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

AT_ONCE_S = 1.0
FAR_S = 10 * 365 * 86_400.0


class Scene:
    def __init__(self, gateway: GatewayProcess, engine: FakeEngine, home: Path) -> None:
        self.gateway = gateway
        self.engine = engine
        self.home = home
        self.agents: list[AgentProcess] = []

    def machine(self, name: str, **more: Any) -> AgentProcess:
        """One that has not joined."""
        home = self.home / name
        home.mkdir(mode=0o700)
        agent = AgentProcess(home, options=("--engine", self.engine.base_url, "--page-port", "0"), **more)
        self.agents.append(agent)
        return agent

    async def token(self, **terms: Any) -> str:
        secret: str = (await self.gateway.api("POST", "/join-tokens", terms)).json["secret"]
        return secret

    async def join(self, agent: AgentProcess, token: str) -> None:
        await agent.join(f"http://127.0.0.1:{self.gateway.port}", token, "--name", agent.home.name)

    async def serving(self, name: str, **more: Any) -> AgentProcess:
        """One that serves."""
        agent = self.machine(name, **more)
        await self.join(agent, await self.token())
        await agent.node("set", "discover", "no")
        await agent.start()
        await self.becomes(name, 200, 30)
        return agent

    async def status(self, name: str) -> int:
        body = {"model": f"node:{name}/{CHAT}", "messages": [{"role": "user", "content": "x"}]}
        async with self.gateway.caller(timeout_s=30) as caller:
            return (await caller.ask("POST", "/v1/chat/completions", body, key=self.gateway.key)).status

    async def becomes(self, name: str, status: int, within_s: float) -> None:
        """Returns once a call to it ends so. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while await self.status(name) != status:
                await asyncio.sleep(0.01)

    async def at_once(self, word: Awaitable[object], name: str, status: int) -> None:
        """From the word until a call ends so."""
        began = time.monotonic()
        await word
        await self.becomes(name, status, 10)
        took_s = time.monotonic() - began
        print(f"{status} after {took_s * 1000:.0f} ms")
        assert took_s < AT_ONCE_S


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    home = tmp_path_factory.mktemp("truths")
    async with FakeEngine("llama.cpp") as engine, GatewayProcess(home / "gateway") as gateway:
        await gateway.ready()
        scene = Scene(gateway, engine, home)
        try:
            yield scene
        finally:
            for agent in scene.agents:
                await agent.end()


async def until_said(agent: AgentProcess, words: str) -> dict[str, Any]:
    """The agent's status, once its reason has these words."""
    async with asyncio.timeout(20):
        while True:
            said: dict[str, Any] = {}
            with contextlib.suppress(RuntimeError):  # it does not run yet
                said = await agent.status()
            if words in said.get("reason", ""):
                return said


async def test_pause_and_revocation_reach_routing_within_a_second(scene: Scene) -> None:
    """The owner's pause, resume and drain, the operator's drain, the end of the enrolment: a call proves each."""
    agent = await scene.serving("quick")
    home = Home(agent.home)
    for word, status in (("pause", 503), ("resume", 200), ("drain", 503), ("resume", 200)):
        await scene.at_once(asyncio.to_thread(order, home, word), "quick", status)
    for drained, status in ((True, 503), (False, 200)):
        await scene.at_once(scene.gateway.api("PATCH", "/nodes/quick", {"drained": drained}), "quick", status)
    await scene.at_once(scene.gateway.api("DELETE", "/nodes/quick"), "quick", 404)
    said = await until_said(agent, "revoked")
    assert said["state"] == "joining"


async def test_a_copied_home_is_refused_and_reported(scene: Scene) -> None:
    """The same key on a second machine: it is told so, the first one serves on, and the audit log has it."""
    await scene.serving("first")
    copy = scene.machine("copy")
    for name in ("node.json", "key", "settings.json"):
        shutil.copy2(scene.home / "first" / name, copy.home / name)
    await copy.start()
    said = await until_said(copy, "another machine is linked with this machine's key")
    assert said["state"] == "joining"
    assert await scene.status("first") == 200
    async with asyncio.timeout(10):
        while "clone" not in str((await scene.gateway.api("GET", "/nodes/first")).json["live"]["last_report"]):
            await asyncio.sleep(0.05)


async def test_a_token_of_one_use_takes_one_of_many_at_once(scene: Scene) -> None:
    """Five machines join by it in the same moment: one is in, the others hear why not."""
    token = await scene.token(uses=1)
    agents = [scene.machine(f"racer-{number}") for number in range(5)]
    ends = await asyncio.gather(*(scene.join(agent, token) for agent in agents), return_exceptions=True)
    refused = [str(end) for end in ends if end is not None]
    assert len(refused) == 4
    assert all("401" in words and token not in words for words in refused)
    names = [node["name"] for node in (await scene.gateway.api("GET", "/nodes")).json["data"]]
    assert sum(name.startswith("racer") for name in names) == 1
    assert sum((agent.home / "node.json").exists() for agent in agents) == 1


@pytest.mark.parametrize("wrong_s", [FAR_S, -FAR_S], ids=["ahead", "behind"])
async def test_a_lying_clock_changes_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch, wrong_s: float) -> None:
    """A machine that is ten years off joins, serves, pauses for a moment, and is back; two of its links are up."""
    monkeypatch.setenv("LYING_CLOCK_S", str(wrong_s))
    liar = (sys.executable, str(Path(__file__).with_name("lying_clock.py")))
    name = "ahead" if wrong_s > 0 else "behind"
    agent = await scene.serving(name, inside=liar)
    paused = await asyncio.to_thread(order, Home(agent.home), "pause", 1.5)
    assert paused is not None
    assert abs(paused["until"] - wrong_s - time.time()) < 60, "its clock is wrong indeed"
    await scene.becomes(name, 503, AT_ONCE_S)
    await scene.becomes(name, 200, 10)
    shown = (await scene.gateway.api("GET", f"/nodes/{name}")).json
    assert len(shown["live"]["links"]) == 2
    assert (await agent.status())["state"] == "ready"
    assert "clone" not in str(shown["live"]["last_report"])


ROOMS = Path(__file__).parents[2] / "src" / "potluck"
ON_THE_LINK = (
    *sorted((ROOMS / "wire").glob("link*.py")),
    *sorted((ROOMS / "hub").glob("*.py")),
    *(ROOMS / "node" / f"{name}.py" for name in ("commands", "dialing", "identity", "jobs", "telling")),
)


@pytest.mark.parametrize("path", ON_THE_LINK, ids=lambda path: f"{path.parent.name}/{path.name}")
async def test_nothing_on_the_link_knows_the_time_of_day(path: Path) -> None:
    """Times that count are the receiver's own, and monotonic."""
    text = path.read_text()
    assert not [word for word in ("time.time(", "time_ns", "datetime", "localtime", "gmtime") if word in text]
