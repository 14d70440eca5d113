"""A whole gateway and fake nodes: enrolled over HTTP, called over `/v1`, seen by the admin API, told of its restart."""

import asyncio
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hub_rig import refused_code

from potluck.conformance import answers
from potluck.conformance.caller import Response
from potluck.conformance.node import FakeNode, NodeIdentity
from potluck.conformance.process import GatewayProcess, point_at
from potluck.conformance.provider import FakeProvider
from potluck.model.secret import Secret
from potluck.node import enrolment
from potluck.node.identity import Identity, from_text
from potluck.wire import link_messages as m

AT_ONCE_S = 1.0


async def until(condition: Any, timeout_s: float = 10.0) -> Any:
    """What `condition()` gives once that is true; it may be a coroutine."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.02)


async def enrol(gateway: GatewayProcess, name: str, **token: Any) -> tuple[NodeIdentity, bytes]:
    """A machine joined by a token of its own; and the gateway's key."""
    made = (await gateway.api("POST", "/join-tokens", token)).json
    seed = name.encode().ljust(32, b".")
    client = enrolment.Gateway(f"http://{gateway.host}:{gateway.port}")
    enrolled, key, _ = await asyncio.to_thread(client.enroll, Secret(made["secret"]), Identity(seed), name)
    return NodeIdentity(enrolled.node, key, seed), from_text(enrolled.gateway_key, 32)


def machine(gateway: GatewayProcess, identity: NodeIdentity, gateway_key: bytes, **more: Any) -> FakeNode:
    return FakeNode(gateway.host, gateway.port, identity, gateway_key, **more)


async def chat(gateway: GatewayProcess, model: str, **members: Any) -> Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Who brings what?"}], **members}
    async with gateway.caller(timeout_s=30) as caller:
        return await caller.ask("POST", "/v1/chat/completions", body, key=gateway.key)


async def metric(gateway: GatewayProcess, line: str) -> bool:
    """Whether the exposition has that line."""
    async with gateway.caller() as caller:
        response = await caller.ask("GET", "/metrics", key=gateway.token)
    return line in response.body.decode().splitlines()


async def reading(gateway: GatewayProcess, name: str) -> dict[str, Any]:
    """How a node stands now."""
    shown = (await gateway.api("GET", f"/nodes/{quote(name)}")).json
    live: dict[str, Any] = shown["live"]
    return live


async def test_a_machine_joins_serves_and_is_revoked(tmp_path: Path):
    """From the token to the first answer, what is shown meanwhile, pause, and the end: each at once."""
    async with GatewayProcess(tmp_path / "home") as gateway:
        await gateway.ready()
        node = machine(gateway, *await enrol(gateway, "lab-1"), models=["ok", "ok;chunks=3"])
        await node.dial()
        await node.dial()
        offered_at = time.monotonic()
        await until(lambda: node.acked == node.revision)
        assert time.monotonic() - offered_at < AT_ONCE_S
        response = await chat(gateway, "node:lab-1/ok")
        assert (response.status, response.body) == (200, answers.completion("ok"))
        assert response.header("x-potluck-target") == "node:lab-1/ok"
        assert (await chat(gateway, "ok")).status == 200, "its undeclared name is public"
        streamed = await chat(gateway, "node:lab-1/ok;chunks=3", stream=True)
        words = [answers.WORDS[i] for i in range(3)]
        assert streamed.events == [event[6:-2] for event in answers.chat_events("ok;chunks=3", words)]

        node.says(m.Load("ready", presence="idle", models=[m.ModelState("fake", "ok", True, decode_tps=50.0)]))
        live = await reading(gateway, "lab-1")
        assert (live["stands"], live["connected"], live["reconnects"], len(live["links"])) == ("", True, 0, 2)
        shown = {model["name"]: model for model in live["models"]}
        await until(lambda: _async_is(gateway, "presence", "idle"))
        assert set(shown) == {"ok", "ok;chunks=3"}
        assert await metric(gateway, 'potluck_nodes{state="ready"} 1.0')
        assert await metric(gateway, "potluck_node_calls_total 3.0")

        node.says(m.Load("paused", "in use"))
        paused_at = time.monotonic()
        await until(lambda: _status_is(gateway, "node:lab-1/ok", 503))
        assert time.monotonic() - paused_at < AT_ONCE_S
        assert (await reading(gateway, "lab-1"))["stands"] == "paused: in use"
        assert (await reading(gateway, "lab-1"))["no_work"]["paused"] == 1
        node.says(m.Load("ready"))
        await until(lambda: _status_is(gateway, "node:lab-1/ok", 200))

        revoked_at = time.monotonic()
        assert (await gateway.api("DELETE", "/nodes/lab-1")).status in (200, 204)
        await until(lambda: not node.links)
        assert time.monotonic() - revoked_at < AT_ONCE_S
        assert node.ends == ["revoked", "revoked"]
        assert (await chat(gateway, "node:lab-1/ok")).status == 404
        assert await refused_code(node) == "revoked"
        await node.stop()


async def _async_is(gateway: GatewayProcess, member: str, value: object) -> bool:
    return bool((await reading(gateway, "lab-1"))[member] == value)


async def _status_is(gateway: GatewayProcess, model: str, status: int) -> bool:
    return (await chat(gateway, model)).status == status


async def _offers(gateway: GatewayProcess, name: str, model: str) -> bool:
    """Whether it is stored that the node has the model."""
    offered = (await gateway.api("GET", f"/nodes/{name}")).json["models"]
    return model in [each["name"] for each in offered]


async def test_words_of_strangers_are_kept_within_bounds(tmp_path: Path):
    """A node that announces without end is stored once in a while; clones are reported once; a pending one waits."""
    home = tmp_path / "home"
    async with GatewayProcess(home) as gateway:
        await gateway.ready()
        node = machine(gateway, *await enrol(gateway, "lab-1"))
        await node.dial()
        await until(lambda: node.acked == node.revision)
        for n in range(40):
            node.models = [f"m{n}"]
            node.announce()
        for _ in range(2):
            copy = machine(gateway, node.identity, node._party.gateway_key)
            assert await refused_code(copy) == "clone"
        await until(lambda: node.acked == node.revision, timeout_s=15)
        pending = machine(gateway, *await enrol(gateway, "lab-2", needs_approval=True), models=["theirs"])
        await pending.dial()
        live = await reading(gateway, "lab-2")
        assert live["stands"] == "waits for approval"
        assert (await chat(gateway, "node:lab-2/theirs")).status in (404, 503)
        await until(lambda: _offers(gateway, "lab-2", "theirs"))
        assert pending.acked == -1
        assert (await gateway.api("PATCH", "/nodes/lab-2", {"approved": True})).status == 200
        await until(lambda: _status_is(gateway, "node:lab-2/theirs", 200))
        await until(lambda: pending.acked == pending.revision)
        with sqlite3.connect(home / "potluck.db") as database:
            entries = [action for (action,) in database.execute("SELECT action FROM audit")]
        assert 1 <= entries.count("node.models") <= 5
        assert entries.count("node.clone") == 1
        await node.stop()
        await pending.stop()


async def test_a_restart_is_spread_and_costs_no_request(tmp_path: Path):
    """Nodes come back over the time that they were told; meanwhile another target answers everything."""
    async with FakeProvider() as fake:
        config = point_at(fake, "ok").replace('"fake/ok" }', '"node:lab-1/ok" }, { target = "fake/ok" }')
        home = tmp_path / "home"
        nodes: list[FakeNode] = []
        statuses: list[int] = []
        async with GatewayProcess(home, config) as gateway:
            await gateway.ready()
            for n in range(8):
                node = machine(gateway, *await enrol(gateway, f"lab-{n + 1}"), redials=True)
                nodes.append(node)
                await node.dial()
            await until(lambda: all(node.acked == node.revision for node in nodes))
            assert (await chat(gateway, "ok")).header("x-potluck-target") == "node:lab-1/ok"
            gateway.tell(15)
            await gateway.wait()
            stopped_at = time.monotonic()
            assert {end for node in nodes for end in node.ends} == {"restart"}
            await gateway.start()
            while not all(node.links for node in nodes):
                statuses.append((await chat(gateway, "ok")).status)
                await asyncio.sleep(0.05)
                assert time.monotonic() - stopped_at < 25
        assert set(statuses) == {200}
        first_tries = sorted(node.dialled_at[1] - stopped_at for node in nodes)
        assert first_tries[-1] - first_tries[0] > 2, "eight of twelve seconds' worth of chance"
        for node in nodes:
            await node.stop()


def test_a_gateway_without_nodes_does_not_import_websockets() -> None:
    """An idle gateway pays nothing for them."""
    code = "import potluck.runtime.gateway, sys; sys.exit('websockets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
