"""The agent as it is installed on a machine: its own packages only, against a whole gateway, by its commands."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from potluck.conformance import answers
from potluck.conformance.call import Call
from potluck.conformance.caller import Response
from potluck.conformance.engines import CHAT, FakeEngine
from potluck.conformance.process import GatewayProcess

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "node.txt"
MODULES = {"cffi": "cffi,_cffi_backend"}
"""what a package of the list is imported as, where that differs"""
RSS_BYTES = 60 * 1024 * 1024
STREAMS = 20


def packages() -> str:
    names = re.findall(r"^([A-Za-z0-9_.-]+)==", LOCK.read_text(), re.MULTILINE)
    assert {"click", "cryptography", "websockets"} <= set(names)
    return ",".join(MODULES.get(name, name) for name in names)


class Machine:
    """A machine with a home of its own, whose `potluck` has nothing but the agent's packages."""

    def __init__(self, home: Path) -> None:
        self.home = home
        env = {name: value for name, value in os.environ.items() if not name.startswith("POTLUCK_")}
        self.env = env | {"POTLUCK_NODE_HOME": str(home), "HOME": str(home.parent)}
        self.agent: asyncio.subprocess.Process | None = None

    async def start(
        self, *words: str, stdin: Any = asyncio.subprocess.DEVNULL, **env: str
    ) -> asyncio.subprocess.Process:
        script = str(Path(__file__).with_name("alone.py"))
        return await asyncio.create_subprocess_exec(
            *(sys.executable, script, packages(), "--", *words),
            env=self.env, stdin=stdin, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def run(self, *words: str, says: bytes = b"") -> tuple[int, str, str]:
        process = await self.start(*words, stdin=asyncio.subprocess.PIPE)
        async with asyncio.timeout(60):
            out, err = await process.communicate(says)
        assert process.returncode is not None
        assert "Traceback" not in err.decode(), err.decode()
        return process.returncode, out.decode(), err.decode()

    async def serve(self) -> None:
        self.agent = await self.start("node", "run", "--page-port", "0")

    async def end(self, number: int = signal.SIGTERM) -> str:
        assert self.agent is not None
        if self.agent.returncode is None:
            self.agent.send_signal(number)
        async with asyncio.timeout(60):
            return (await self.agent.communicate())[1].decode()

    async def becomes(self, state: str) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while True:
                _, out, _ = await self.run("node", "status", "--json")
                said: dict[str, Any] = json.loads(out)
                if said["state"] == state:
                    return said


async def at_its_pace(call: Call) -> None:
    """A short answer, in the time that a small machine takes."""
    await call.pause(0.05)
    await call.answer(answers.completion(call.model, ("well",)))


class Scene:
    def __init__(self, gateway: GatewayProcess, engine: FakeEngine, machine: Machine) -> None:
        self.gateway = gateway
        self.engine = engine
        self.machine = machine

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}"

    async def token(self) -> bytes:
        secret: str = (await self.gateway.api("POST", "/join-tokens", {})).json["secret"]
        return secret.encode()

    async def ask(self, name: str = "lab-1", **members: Any) -> Response:
        body = {"model": f"node:{name}/{CHAT}", "messages": [{"role": "user", "content": "hi"}], **members}
        async with self.gateway.caller(timeout_s=30) as caller:
            return await caller.ask("POST", "/v1/chat/completions", body, key=self.gateway.key)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    machine = Machine(tmp_path_factory.mktemp("lab-1") / "node")
    async with FakeEngine("vllm") as engine, GatewayProcess(tmp_path_factory.mktemp("gateway")) as gateway:
        engine.script[CHAT] = at_its_pace
        await gateway.ready()
        scene = Scene(gateway, engine, machine)
        words = ("node", "join", scene.url, "--name", "lab-1", "--engine", engine.base_url, "--token-stdin")
        assert (await machine.run(*words, says=await scene.token()))[0] == 0
        await machine.run("node", "set", "discover", "no")
        await machine.serve()
        await machine.becomes("ready")
        try:
            yield scene
        finally:
            if machine.agent is not None:
                await machine.end(signal.SIGKILL)


@pytest_asyncio.fixture(loop_scope="module")
async def fresh(tmp_path: Path) -> AsyncIterator[Machine]:
    """A machine that has not joined."""
    machine = Machine(tmp_path / "node")
    yield machine
    if machine.agent is not None:
        await machine.end(signal.SIGKILL)


async def test_it_joins_serves_and_leaves(scene: Scene, fresh: Machine) -> None:
    """Join by a token that stands nowhere, serve, pause, resume, a new key, doctor, leave: each by its command."""
    gateway, machine, engine, url = scene.gateway, fresh, scene.engine, scene.url
    token = (await scene.token()).decode()
    status, out, _ = await machine.run("node", "status")
    assert (status, "has not joined" in out) == (1, True)
    status, _, err = await machine.run("node", "join", url)
    assert status == 2
    assert "--token-stdin" in err
    status, _, err = await machine.run("node", "join", url, "--token", "plj-wrong")
    assert (status, "401" in err, err.count("\n")) == (1, True, 1)
    status, _, err = await machine.run("node", "join", "http://gateway.example", "--token", token)
    assert (status, "--insecure" in err) == (1, True)
    engine_url = engine.base_url.removesuffix("/v1")
    words = ("node", "join", url, "--name", "lab-2", "--engine", engine_url, "--price", CHAT, "0", "0", "--token-stdin")
    status, out, err = await machine.run(*words, says=token.encode())
    assert (status, err) == (0, "")
    assert "lab-2" in out
    for name in ("node.json", "key", "settings.json"):
        text = (machine.home / name).read_text()
        assert token not in text
        assert (machine.home / name).stat().st_mode & 0o077 == 0
    status, _, err = await machine.run("node", "join", url, "--token-stdin", says=token.encode())
    assert (status, "joined already" in err) == (1, True)

    await machine.run("node", "set", "discover", "no")
    status, out, _ = await machine.run("node", "doctor", "--json")
    assert (status, {each["check"]: each["state"] for each in json.loads(out)}["link"]) == (0, "ok")
    await machine.serve()
    said = await machine.becomes("ready")
    assert [each["name"] for each in said["models"]] == [CHAT]
    status, out, _ = await machine.run("node", "doctor")
    assert status == 0
    assert (await scene.ask("lab-2")).json["choices"][0]["message"]["content"]

    status, _, err = await machine.run("node", "run", "--page-port", "0")
    assert (status, "runs already" in err) == (1, True)
    await machine.run("node", "pause", "--for", "20m")
    refused = await scene.ask("lab-2")
    assert (refused.status, refused.code) == (503, "no_target_available")
    log = await machine.end(signal.SIGKILL)
    assert "Traceback" not in log
    await machine.serve()
    assert (await machine.becomes("paused"))["until"]
    await machine.run("node", "resume")
    await machine.becomes("ready")
    assert (await scene.ask("lab-2")).status == 200

    before = (machine.home / "key").read_text()
    assert (await machine.run("node", "rotate-key"))[0] == 0
    assert (machine.home / "key").read_text() != before
    log = await machine.end()
    assert machine.agent is not None
    assert (machine.agent.returncode, "Traceback" in log) == (0, False)
    await machine.serve()
    await machine.becomes("ready")
    assert (await scene.ask("lab-2")).status == 200

    status, out, _ = await machine.run("node", "leave")
    assert (status, "has left" in out) == (0, True)
    assert not (machine.home / "node.json").exists()
    said = await machine.becomes("joining")
    assert "revoked" in said["reason"] or "left" in said["reason"]
    nodes = (await gateway.api("GET", "/nodes")).json["data"]
    assert all(each["standing"] != "ready" for each in nodes if each["name"] == "lab-2")
    assert "Traceback" not in await machine.end()


async def test_it_is_small_with_many_streams(scene: Scene) -> None:
    """With as many streams at once as a busy machine has, the agent stays within its memory."""
    engine, machine = scene.engine, scene.machine
    all_there, playing = asyncio.Event(), 0

    async def play(call: Call) -> None:
        nonlocal playing
        await call.sse()
        await call.chunk(b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % (b"x" * 1000))
        playing += 1
        if playing == STREAMS:
            all_there.set()
        await all_there.wait()
        for _ in range(200):
            await call.chunk(b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % (b"x" * 1000))
        await call.chunk(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
        await call.end()

    engine.script[CHAT] = play
    found = await asyncio.gather(*(scene.ask(stream=True) for _ in range(STREAMS)))
    engine.script[CHAT] = at_its_pace
    assert all(each.status == 200 and each.body.endswith(b"data: [DONE]\n\n") for each in found)
    assert all(each.body.count(b"x" * 1000) == 201 for each in found)
    assert machine.agent is not None
    text = Path(f"/proc/{machine.agent.pid}/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", text)
    assert peak is not None
    print(f"peak resident: {int(peak[1]) / 1024:.1f} MiB")
    assert int(peak[1]) * 1024 <= RSS_BYTES


async def test_a_terminal_gets_plain_tables(scene: Scene) -> None:
    """Without Rich, what is printed to a terminal is aligned text."""
    main, terminal = os.openpty()
    try:
        command = [sys.executable, str(Path(__file__).with_name("alone.py")), packages(), "--", "node", "status"]
        process = await asyncio.create_subprocess_exec(
            *command, env=scene.machine.env, stdin=terminal, stdout=terminal, stderr=terminal
        )
        async with asyncio.timeout(60):
            assert await process.wait() == 0
        said = os.read(main, 65_536).decode()
    finally:
        os.close(terminal)
        os.close(main)
    assert "Traceback" not in said
    assert "MODEL" in said
    assert CHAT in said
