"""Two machines behind NAT, each with a llama.cpp server of its own, and a gateway that they alone can reach.

Everything is real: network namespaces with masquerading routers, `potluck serve`, `potluck node join` with one-off
tokens, `potluck node run`, streams of the official SDK. Cut networks are packets that vanish, with nobody told.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from agent_process import AgentProcess
from namespaces import Internet, Machine, internet

from potluck.conformance.process import GatewayProcess

pytestmark = [
    pytest.mark.local_model,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
]

PORT = 7171
ENGINE_PORT = 8080
WAIT_S = 60.0
CUT_S = 10.0
SHORT_TOKENS = 60
LONG_TOKENS = 900
"""six seconds and more on one core: a stream that can be cut in its middle"""

LISTENS = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{ENGINE_PORT}/health')"


class Site:
    """One machine: its network, its engine, its agent."""

    def __init__(self, name: str, machine: Machine, home: Path, model: Path) -> None:
        self.name = name
        self.machine = machine
        self.agent = AgentProcess(home, inside=machine.inside)
        self._model = model
        self._engine: asyncio.subprocess.Process | None = None

    async def start_engine(self) -> None:
        script = Path(__file__).with_name("llama_engine.py")
        self._engine = await asyncio.create_subprocess_exec(
            *self.machine.inside, sys.executable, str(script), str(self._model), str(ENGINE_PORT),
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip

    async def close(self) -> None:
        await self.agent.end()
        if self._engine is not None and self._engine.returncode is None:
            self._engine.kill()
            await self._engine.wait()


class Scene:
    """The gateway and its two machines, all of them up."""

    def __init__(self, net: Internet, gateway: GatewayProcess, sites: list[Site], told: dict[int, str]) -> None:
        self.net = net
        self.gateway = gateway
        self.sites = sites
        self.told = told
        """what the engines say themselves, by the longest that they may say"""
        self.client = openai.AsyncOpenAI(
            base_url=f"http://{net.address}:{PORT}/v1", api_key=gateway.key, max_retries=0, timeout=WAIT_S
        )

    async def nodes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.gateway.api("GET", "/nodes")).json["data"]
        return found

    async def served(self, count: int) -> None:
        """Returns when so many machines take work. Raises TimeoutError."""
        async with asyncio.timeout(WAIT_S):
            while [node["standing"] for node in await self.nodes()].count("ready") != count:
                await asyncio.sleep(0.1)

    async def text(self, model: str, max_tokens: int, after: int = 0, then: Any = None) -> str:
        """A streamed answer; `then()` is awaited once when so many characters have come."""
        stream = await self.client.chat.completions.create(
            model=model, messages=counting(), max_tokens=max_tokens, temperature=0, stream=True
        )
        text = ""
        async for chunk in stream:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            if then is not None and len(text) >= after:
                told, then = then, None
                await told()
        return text


def counting() -> list[Any]:
    """An example of how to count, and what to count from."""
    numbers = ", ".join(str(number) for number in range(101, 190))
    return [
        {"role": "user", "content": "Count from 101."},
        {"role": "assistant", "content": numbers},
        {"role": "user", "content": "Count from 201."},
    ]


async def direct(site: Site, max_tokens: int) -> str:
    """The same answer from the machine's own engine, asked on the machine itself."""
    body = {"model": "story", "messages": counting(), "max_tokens": max_tokens, "temperature": 0}
    code = (
        "import sys, urllib.request as u;"
        f"r = u.Request('http://127.0.0.1:{ENGINE_PORT}/v1/chat/completions', sys.stdin.buffer.read(),"
        " {'content-type': 'application/json'});"
        "sys.stdout.buffer.write(u.urlopen(r, timeout=120).read())"
    )
    async with asyncio.timeout(WAIT_S):
        while True:
            process = await asyncio.create_subprocess_exec(*site.machine.inside, sys.executable, "-c", LISTENS)
            if not await process.wait():
                break
            await asyncio.sleep(0.1)
    process = await asyncio.create_subprocess_exec(
        *site.machine.inside,
        sys.executable,
        "-c",
        code,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    answer, _ = await process.communicate(json.dumps(body).encode())
    text: str = json.loads(answer)["choices"][0]["message"]["content"]
    return text


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(local_model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    home = tmp_path_factory.mktemp("gateway")
    with internet() as net:
        config = '[[models]]\nname = "story-anywhere"\ntargets = [{ target = "node:*/story" }]\n'
        options = ("--host", "0.0.0.0", "--public-url", f"http://{net.address}:{PORT}")
        gateway = GatewayProcess(home, config, options=options, inside=net.inside)
        gateway.host, gateway.port = net.address, PORT
        sites = [
            Site(f"site-{n}", net.machine(n), tmp_path_factory.mktemp(f"site{n}"), local_model_file) for n in (1, 2)
        ]
        try:
            async with gateway:
                await gateway.ready()
                for site in sites:
                    await site.start_engine()
                    # before its agent runs: an engine that is used by others serves nobody else for a while
                    told = {length: await direct(site, length) for length in (SHORT_TOKENS, LONG_TOKENS)}
                    made = await gateway.api("POST", "/join-tokens", {"name": site.name})
                    assert made.status == 201, made.body
                    await site.agent.join(
                        f"http://{net.address}:{PORT}", made.json["secret"], "--name", site.name, "--insecure"
                    )
                    await site.agent.start()
                scene = Scene(net, gateway, sites, told)
                await scene.served(2)
                yield scene
                await scene.client.close()
        finally:
            for site in sites:
                await site.close()


async def test_both_machines_serve_streams(scene: Scene) -> None:
    """Each answers by its pin as its own engine does, and a name over both reaches them."""
    expected = scene.told[SHORT_TOKENS]
    for site in scene.sites:
        assert await scene.text(f"node:{site.name}/story", SHORT_TOKENS) == expected
    assert await scene.text("story-anywhere", SHORT_TOKENS) == expected


async def test_a_join_token_is_good_once(scene: Scene) -> None:
    """The token that a machine has joined by enrols no second one."""
    tokens = (await scene.gateway.api("GET", "/join-tokens")).json["data"]
    assert {each["uses_left"] for each in tokens} == {0}


async def test_a_network_that_is_gone_for_ten_seconds_costs_nothing(scene: Scene) -> None:
    """The stream waits, and goes on where it was: the text is the engine's, byte for byte."""
    site = scene.sites[0]
    expected = scene.told[LONG_TOKENS]

    async def cut() -> None:
        site.machine.cut()
        await asyncio.sleep(CUT_S)
        site.machine.mend()

    assert await scene.text(f"node:{site.name}/story", LONG_TOKENS, 80, cut) == expected
    await scene.served(2)


async def test_a_network_that_stays_away_ends_honestly(scene: Scene) -> None:
    """Begun streams end with an error, new calls are answered by the other machine, and the first one comes back."""
    site = scene.sites[0]

    async def cut() -> None:
        site.machine.cut()

    try:
        with pytest.raises(openai.APIError) as error:
            await scene.text(f"node:{site.name}/story", LONG_TOKENS, 80, cut)
        assert error.value.code in ("upstream_truncated", "upstream_timeout")
        for _ in range(4):
            assert (await scene.text("story-anywhere", 20)).startswith("2")
    finally:
        site.machine.mend()
    await scene.served(2)
    assert await scene.text(f"node:{site.name}/story", SHORT_TOKENS)
