"""Agents, engines and the gateway killed with signal 9 under load, in any order: nothing hangs or leaks.

Two machines (an agent and an engine each) behind one gateway, callers who ask without pause. What was killed is started
again a moment later, as a service manager would, and nothing else is done: everything has to find itself again.
"""

import asyncio
import contextlib
import random
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess
from engine_process import CHUNKS, EngineProcess

from potluck.conformance.caller import CutError, Response, encode_request
from potluck.conformance.process import GatewayProcess
from potluck.conformance.provider import refused_port

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(240)]

CALLERS = 8
BACK_S = 45.0
"""for nodes to be back after a kill: back-off, handshake, discovery"""
ANSWER_S = 40.0
"""no request may take longer, whatever is killed meanwhile"""
CONFIG = '[[models]]\nname = "tale"\ntargets = [{ target = "node:*/story" }]\n'

Act = Callable[[], Coroutine[Any, Any, None]]


class Callers:
    """They ask without pause, plain and streamed, and note how each request ended."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self._running = True
        self.whole: set[str] = set()
        self.failed: set[str] = set()
        self.cut = 0
        """by the gateway's own death"""
        self.dishonest: list[bytes] = []
        self._tasks = [asyncio.get_running_loop().create_task(self._ask_on(bool(n % 3))) for n in range(CALLERS)]

    async def end(self) -> None:
        """Let everybody finish what runs."""
        self._running = False
        await asyncio.gather(*self._tasks)

    async def _ask_on(self, stream: bool) -> None:
        body = {"model": "tale", "messages": [{"role": "user", "content": "x"}], "stream": stream}
        while self._running:
            try:
                async with self._gateway.caller(timeout_s=ANSWER_S) as caller:
                    while self._running:
                        await caller.send(encode_request(body=body, key=self._gateway.key))
                        response = await caller.read()
                        self._note(response, stream)
                        if response.status != 200:
                            await asyncio.sleep(0.05)
            except (CutError, OSError):
                self.cut += 1
                await asyncio.sleep(0.05)

    def _note(self, response: Response, stream: bool) -> None:
        request_id = response.header("x-request-id") or ""
        if response.status != 200:
            assert response.status in (502, 503, 504), (response.status, response.body)
            self.failed.add(request_id)
        elif not stream or (response.events[-1] == b"[DONE]" and response.body.count(b'"content"') >= CHUNKS):
            self.whole.add(request_id)
        elif b'"error"' in response.events[-1]:
            self.failed.add(request_id)
        else:
            self.dishonest.append(response.body[-500:])


class Scene:
    """The gateway, two agents, two engines."""

    def __init__(self, home: Path) -> None:
        self.gateway = GatewayProcess(home / "gateway", CONFIG)
        holders = [refused_port() for _ in range(2)]
        self.engines = [EngineProcess(port) for port, _ in holders]
        for _, holder in holders:
            holder.close()
        self.agents: list[AgentProcess] = []
        for number, engine in enumerate(self.engines, 1):
            place = home / f"node-{number}"
            place.mkdir(parents=True)
            self.agents.append(AgentProcess(place, options=("--engine", f"http://127.0.0.1:{engine.port}/v1")))

    async def start(self) -> None:
        await self.gateway.start()
        await self.gateway.ready()
        for number, (agent, engine) in enumerate(zip(self.agents, self.engines, strict=True), 1):
            await engine.start()
            made = await self.gateway.api("POST", "/join-tokens", {"name": f"for-{number}"})
            await agent.join(f"http://127.0.0.1:{self.gateway.port}", made.json["secret"], "--name", f"node-{number}")
            await agent.node("set", "slots", "4")
            await agent.start()
        await self.whole()

    async def whole(self) -> None:
        """Returns when both machines serve. Raises TimeoutError with what stands in the way."""
        ready: list[Any] = []
        try:
            async with asyncio.timeout(BACK_S):
                while True:
                    with contextlib.suppress(CutError, OSError):
                        nodes = (await self.gateway.api("GET", "/nodes")).json["data"]
                        ready = [(node["name"], node["standing"]) for node in nodes]
                        if [each[1] for each in ready] == ["ready", "ready"] and await self._serves():
                            return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise TimeoutError(f"not all nodes are back: {ready}; {self.agents[0].log()[-1500:]}") from None

    async def _serves(self) -> bool:
        """Each machine answers by its pin."""
        for number in (1, 2):
            async with self.gateway.caller(timeout_s=ANSWER_S) as caller:
                body = {"model": f"node:node-{number}/story", "messages": [{"role": "user", "content": "x"}]}
                if (await caller.ask(body=body, key=self.gateway.key)).status != 200:
                    return False
        return True

    def acts(self) -> dict[str, Act]:
        """What may happen: by name, a kill and the start that follows it."""

        async def gateway() -> None:
            await self.gateway.kill()
            await self.gateway.start()

        acts: dict[str, Act] = {"gateway": gateway}
        for number, (agent, engine) in enumerate(zip(self.agents, self.engines, strict=True), 1):
            for name, part in (("agent", agent), ("engine", engine)):
                acts[f"{name}-{number}"] = self._again(part)
        return acts

    @staticmethod
    def _again(part: AgentProcess | EngineProcess) -> Act:
        async def act() -> None:
            await part.end()
            await asyncio.sleep(random.uniform(0.0, 0.5))
            await part.start()

        return act

    async def close(self) -> None:
        await self.gateway.kill()
        for part in (*self.agents, *self.engines):
            await part.end()

    async def at_rest(self) -> None:
        """Returns when nothing is under way anywhere. Raises TimeoutError with what is."""
        left: dict[str, str] = {}
        try:
            async with asyncio.timeout(10):
                while True:
                    async with self.gateway.caller() as caller:
                        page = (await caller.ask("GET", "/metrics")).body.decode()
                    wanted = r"^(potluck_(?:requests_in_flight|node_streams|target_in_flight)(?:\{[^}]*\})?) (\S+)$"
                    left = {name: value for name, value in re.findall(wanted, page, re.MULTILINE) if float(value)}
                    running = [(await agent.status())["running"] for agent in self.agents]
                    if not left and not any(running):
                        return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise TimeoutError(f"still under way: {left}") from None


async def kills(home: Path, count: int) -> None:
    scene = Scene(home)
    try:
        await scene.start()
        callers = Callers(scene.gateway)
        acts = scene.acts()
        order = [*acts] if count == len(acts) else random.choices([*acts], k=count)
        random.shuffle(order)
        for turn, name in enumerate(order):
            await asyncio.sleep(random.uniform(0.2, 1.0))
            await acts[name]()
            if turn % 5 == 4 or turn == count - 1:
                await scene.whole()
        await callers.end()
        assert not callers.dishonest
        assert len(callers.whole) > 10 * count, "there was no load"
        await scene.at_rest()
        outcomes = scene.gateway.outcomes()
        async with asyncio.timeout(20):
            while not callers.whole | callers.failed <= outcomes.keys():
                await asyncio.sleep(0.1)
                outcomes = scene.gateway.outcomes()
        assert {outcomes[each] for each in callers.whole} == {"ok"}
        assert "ok" not in {outcomes[each] for each in callers.failed}
    finally:
        await scene.close()


async def test_whatever_is_killed_comes_back(tmp_path: Path) -> None:
    """Gateway, both agents and both engines, one after the other in a random order."""
    await kills(tmp_path, 5)


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_fifty_kills(tmp_path: Path) -> None:
    """The same fifty times, at random."""
    await kills(tmp_path, 50)
