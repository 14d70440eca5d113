"""The figures that nodes have to hold, on real gateways: many machines, many streams, restarts, stalled callers."""

import asyncio
import contextlib
import hashlib
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess
from test_hub_calls import endless
from test_hub_gateway import chat, enrol, until

from potluck.conformance.caller import encode_request
from potluck.conformance.node import FakeNode, NodeIdentity
from potluck.conformance.process import GatewayProcess, point_at
from potluck.conformance.provider import FakeProvider

pytestmark = [pytest.mark.asyncio, pytest.mark.long, pytest.mark.timeout(240)]

MIB = 1 << 20
IDLE_NODES = 1_000
IDLE_BYTES = 150 * MIB
COME_BACK_NODES = 500
SPREAD_S = 10.0
STREAMS = 200
STALLED = 200
STALLED_BYTES = 256 * 1024
DIALS = 32
"""at a time: what comes at once is refused from one address prefix"""


async def fleet(gateway: GatewayProcess, count: int, **more: Any) -> list[FakeNode]:
    """So many enrolled machines, none of them connected. One joins; the others are copies of its row, since a network
    may not enrol so many at once; the gateway is started anew for them."""
    identity, key = await enrol(gateway, "m-0")
    identities = [identity]
    gateway.tell(15)
    await gateway.wait()
    with contextlib.closing(sqlite3.connect(gateway.home / "potluck.db")) as database:
        database.row_factory = sqlite3.Row
        row = dict(database.execute("SELECT * FROM nodes").fetchone())
        columns = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        for number in range(1, count):
            copy = NodeIdentity(f"{row['id'][:-4]}{number:04}", f"{row['key_id'][:-4]}{number:04}")
            identities.append(copy)
            said = {"id": copy.node, "key_id": copy.key, "name": f"m-{number}", "public_key": copy.public_key}
            database.execute(f"INSERT INTO nodes ({columns}) VALUES ({marks})", row | said)
        database.commit()
    await gateway.start()
    await gateway.ready()
    return [FakeNode(gateway.host, gateway.port, each, key, **more) for each in identities]


async def restart(gateway: GatewayProcess) -> None:
    gateway.tell(15)
    await gateway.wait()
    await gateway.start()
    await gateway.ready()


async def connect(nodes: list[FakeNode], links: int) -> None:
    """Returns when the gateway routes by what all of them offer."""
    few = asyncio.Semaphore(DIALS)

    async def one(node: FakeNode) -> None:
        async with few:
            for _ in range(links):
                await node.dial()

    await asyncio.gather(*map(one, nodes))
    await until(lambda: all(node.acked == node.revision for node in nodes), timeout_s=90)


async def stop(nodes: list[FakeNode]) -> None:
    for node in nodes:
        node.kill()
    await asyncio.sleep(0)


async def test_a_thousand_idle_nodes_are_small(tmp_path: Path) -> None:
    """With two links and a model each, heartbeats going: how much larger the process is than one that has no node."""
    async with GatewayProcess(tmp_path / "home") as gateway:
        await gateway.ready()
        await restart(gateway)  # a first start leaves more in memory than later ones have
        before_bytes = gateway.rss_bytes()
        nodes = await fleet(gateway, IDLE_NODES)
        enrolled_bytes = gateway.rss_bytes()
        began = time.monotonic()
        await connect(nodes, 2)
        connected_s = time.monotonic() - began
        try:
            readings = []
            for _ in range(20):  # two heartbeats
                readings.append(gateway.rss_bytes())
                await asyncio.sleep(1)
            grown_bytes = max(readings) - before_bytes
            print(f"{IDLE_NODES} nodes, linked in {connected_s:.0f} s")
            print(f"enrolled: {(enrolled_bytes - before_bytes) / MIB:.0f} MiB")
            print(f"idle with two links each: {grown_bytes / MIB:.0f} MiB")
            assert grown_bytes <= IDLE_BYTES
            async with asyncio.timeout(1):
                assert (await chat(gateway, "ok")).status == 200
        finally:
            await stop(nodes)


async def test_five_hundred_nodes_come_back_spread(tmp_path: Path) -> None:
    """After a restart of the gateway; what is asked meanwhile is answered, by machines or by the provider."""
    async with FakeProvider() as fake:
        config = point_at(fake, "ok").replace('"fake/ok" }', '"node:*/ok" }, { target = "fake/ok" }')
        async with GatewayProcess(tmp_path / "home", config) as gateway:
            await gateway.ready()
            nodes = await fleet(gateway, COME_BACK_NODES, redials=True)
            await connect(nodes, 1)
            targets: set[str] = set()
            statuses: set[int] = set()

            async def ask_on() -> None:
                while True:
                    answer = await chat(gateway, "ok")
                    statuses.add(answer.status)
                    targets.add((answer.header("x-potluck-target") or "").partition(":")[0])

            try:
                gateway.tell(15)
                await gateway.wait()
                stopped_at = time.monotonic()
                await gateway.start()
                asking = [asyncio.get_running_loop().create_task(ask_on()) for _ in range(4)]
                await until(lambda: all(node.links for node in nodes), timeout_s=60)
                await asyncio.sleep(1)
                for task in asking:
                    task.cancel()
                ends = await asyncio.gather(*asking, return_exceptions=True)
                assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends
                tries = sorted(node.dialled_at[1] - stopped_at for node in nodes)
                most = max(sum(at <= each < at + 1 for each in tries) for at in tries)
                print(f"{len(nodes)} came back over {tries[-1] - tries[0]:.1f} s, at most {most} in a second")
                assert tries[-1] - tries[0] >= SPREAD_S
                assert most < COME_BACK_NODES / 4
                assert statuses == {200}
                assert targets == {"node", "fake/ok"}
            finally:
                await stop(nodes)


@pytest.fixture
async def busy(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    """A gateway with one machine: a real agent, with room for all streams."""
    model = "ok;chunks=40;gap_ms=50"
    async with FakeProvider() as fake, GatewayProcess(tmp_path / "gateway") as gateway:
        fake.listed = [model]
        await gateway.ready()
        (tmp_path / "lab-1").mkdir()
        agent = AgentProcess(tmp_path / "lab-1", options=("--engine", fake.base_url, "--page-port", "0"))
        secret = (await gateway.api("POST", "/join-tokens", {})).json["secret"]
        await agent.join(f"http://{gateway.host}:{gateway.port}", secret, "--name", "lab-1")
        for setting in (("discover", "no"), ("slots", str(STREAMS))):
            await agent.node("set", *setting)
        await agent.start()
        try:
            async with asyncio.timeout(30):
                while (await gateway.api("GET", "/nodes/lab-1")).json["standing"] != "ready":
                    await asyncio.sleep(0.1)
            yield gateway
        finally:
            await agent.end()


async def test_two_hundred_streams_of_a_real_agent(busy: GatewayProcess) -> None:
    """At once over its two links: each whole, each byte the engine's, and they did run beside each other."""
    most = 0

    async def one() -> bytes:
        body = {"model": "ok;chunks=40;gap_ms=50", "messages": [{"role": "user", "content": "x"}], "stream": True}
        async with busy.caller(timeout_s=60) as caller:
            response = await caller.ask(body=body, key=busy.key)
        assert response.status == 200
        assert response.events[-1] == b"[DONE]"
        return hashlib.sha256(response.body).digest()

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, (await busy.api("GET", "/nodes/lab-1")).json["live"]["running"])
            await asyncio.sleep(0.1)

    watching = asyncio.get_running_loop().create_task(watch())
    began = time.monotonic()
    digests = await asyncio.gather(*(one() for _ in range(STREAMS)))
    watching.cancel()
    print(f"{STREAMS} streams of 2 s in {time.monotonic() - began:.1f} s, at most {most} at once")
    assert len(set(digests)) == 1
    assert most > STREAMS * 0.75


async def test_stalled_callers_hold_a_window_each(tmp_path: Path) -> None:
    """Two hundred that read nothing of an endless answer: the gateway's memory grows by a window for each at most."""
    async with GatewayProcess(tmp_path / "home") as gateway:
        await gateway.ready()
        [node] = await fleet(gateway, 1, models=["flood", "ok"], slots=2 * STALLED)
        node.plays["flood"] = endless
        await connect([node], 2)
        await chat(gateway, "ok")
        before_bytes = gateway.rss_bytes()
        body = {"model": "flood", "messages": [{"role": "user", "content": "x"}], "stream": True}
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(STALLED):
                caller = await stack.enter_async_context(gateway.caller(timeout_s=30))
                await caller.send(encode_request(body=body, key=gateway.key))
            stalled = await until(
                lambda: len(node.running) == STALLED and all(call.job.full for call in node.running), 60
            )
            assert stalled
            grown_bytes = gateway.rss_bytes() - before_bytes
            print(f"{STALLED} stalled callers: {grown_bytes / STALLED / 1024:.0f} KiB each")
            assert grown_bytes <= STALLED * STALLED_BYTES
            assert (await chat(gateway, "ok")).status == 200
        await until(lambda: not node.running)
        await stop([node])
