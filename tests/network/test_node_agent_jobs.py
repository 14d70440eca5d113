"""Requests through an agent, on real sockets: what the engine hears, what comes back, who waits, what ends how."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agent_rig import CHAT as CHAT_PATH
from agent_rig import Rig, rigged, until

from potluck.conformance.call import Call, SeenRequest
from potluck.conformance.engines import CHAT, EMBED, FakeEngine
from potluck.node.settings import NodeSettings
from potluck.wire import link_messages as m

LONG = bytes(range(256)) * 4096


def asked(model: str = CHAT, **members: Any) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], **members}).encode()


def owner(engine: FakeEngine, **members: Any) -> NodeSettings:
    return NodeSettings(engines=(engine.base_url,), discover=False, page_port=0, **members)


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine("openai-compatible") as found:
        yield found


async def test_answers_come_through_byte_for_byte(engine: FakeEngine, tmp_path: Path) -> None:
    """Engine and gateway see each other's bytes unchanged, and the engine hears what the owner's list says of it."""
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        body = asked(stream=True)
        headers = [("content-type", "application/json"), ("x-request-id", "req_7")]
        opened = await rig.gateway.open(CHAT, body, headers=headers).over()
        whole = await rig.gateway.open(CHAT, asked()).over()
    assert (opened.end, opened.status) == ("ended", 200)
    assert opened.headers["content-type"].startswith("text/event-stream")
    assert opened.body.endswith(b"data: [DONE]\n\n")
    assert json.loads(whole.body)["choices"][0]["message"]["content"]
    seen = next(each for each in engine.requests if each.method == "POST")
    assert seen.body == body
    assert seen.target == CHAT_PATH
    assert seen.header("host") == f"127.0.0.1:{engine.port}".encode()
    assert seen.header("x-request-id") == b"req_7"


async def test_the_owner_comes_first_and_the_rest_is_refused(engine: FakeEngine, tmp_path: Path) -> None:
    """With one slot and two places to wait: the owner's request passes strangers, and takes the place of the last."""
    release = asyncio.Event()
    served: list[str] = []

    async def slowly(call: Call) -> None:
        served.append(call.asked["messages"][0]["content"])
        await release.wait()
        await call.answer(b"{}")

    engine.script[CHAT] = slowly

    def body(who: str) -> bytes:
        return asked(messages=[{"role": "user", "content": who}])

    async with rigged(tmp_path, owner(engine, slots=1)) as rig:
        await rig.ready()
        gateway = rig.gateway
        running = gateway.open(CHAT, body("first"))
        await until(lambda: served, "the engine was not called")
        strangers = [gateway.open(CHAT, body(name)) for name in ("second", "third")]
        await until(lambda: len(rig.agent.jobs.waiting) == 2)
        refused = await gateway.open(CHAT, body("fourth")).over()
        own = gateway.open(CHAT, body("owner"), own=True)
        pushed_out = await strangers[1].over()
        release.set()
        for each in (running, strangers[0], own):
            await each.over()
    assert (refused.end, pushed_out.end) == ("refused busy", "refused busy")
    assert (running.end, strangers[0].end, own.end) == ("ended",) * 3
    assert served == ["first", "owner", "second"]


async def test_an_answer_goes_on_over_a_new_link(engine: FakeEngine, tmp_path: Path) -> None:
    """All links are cut in the middle of an answer; it comes whole, and the engine was asked once."""
    half = asyncio.Event()

    async def long(call: Call) -> None:
        await call.sse()
        for at in range(0, len(LONG), 32_768):
            await call.chunk(LONG[at : at + 32_768])
            if at >= len(LONG) // 2:
                await half.wait()
        await call.end()

    engine.script[CHAT] = long
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        opened = rig.gateway.open(CHAT, asked(stream=True))
        await until(lambda: len(opened.body) >= len(LONG) // 4)
        for link in tuple(rig.gateway.links):
            link.cut()
        await until(lambda: not rig.agent.links.up)
        half.set()
        await opened.over()
    assert opened.end == "ended"
    assert bytes(opened.body) == LONG
    assert sum(each.method == "POST" for each in engine.requests) == 1


async def test_a_cancelled_request_lets_go_of_the_engine(engine: FakeEngine, tmp_path: Path) -> None:
    """The engine sees the close within a second, and the gateway its confirmation."""
    engine.script[CHAT] = lambda call: call.silence()
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        opened = rig.gateway.open(CHAT, asked())
        await until(lambda: any(each.method == "POST" for each in engine.requests))
        connection = next(each.connection for each in engine.requests if each.method == "POST")
        opened.cancel()
        await until(lambda: connection.closed_how, "the engine was not let go", 1.0)
        await opened.over(1.0)
        assert opened.end == "confirmed"
        assert not rig.agent.jobs.running


@pytest.mark.parametrize(
    ("fault", "deadline_s", "end"),
    [
        ("cut", 900.0, "reset engine_failed"),
        ("stall", 0.5, "reset engine_timeout"),
        ("gzip", 900.0, "reset engine_failed"),
    ],
)
async def test_an_engine_that_fails_is_said_to_have(
    engine: FakeEngine, tmp_path: Path, fault: str, deadline_s: float, end: str
) -> None:
    """A cut, a stall past the deadline, a coding that nobody asked for: each ends the request with its own code."""

    async def play(call: Call) -> None:
        if fault == "stall":
            await call.silence()
        elif fault == "gzip":
            await call.answer(b"\x1f\x8b", (b"content-encoding", b"gzip"))
        else:
            await call.sse()
            await call.chunk(b"data: half")
            call.fin()

    engine.script[CHAT] = play
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        opened = await rig.gateway.open(CHAT, asked(stream=True), deadline_s=deadline_s).over()
        assert opened.end == end
        assert rig.agent.errors or fault == "gzip"
        engine.script.clear()
        await rig.ready()
        assert (await rig.gateway.open(CHAT, asked()).over()).end == "ended"


async def test_an_engine_is_not_read_for_a_caller_that_stalls(engine: FakeEngine, tmp_path: Path) -> None:
    """What the agent holds of an answer nobody takes is bounded; it comes whole once it is taken."""
    sent = 0

    async def long(call: Call) -> None:
        nonlocal sent
        await call.sse()
        for _ in range(64):
            await call.chunk(LONG[:262_144])
            sent += 262_144
        await call.end()

    engine.script[CHAT] = long
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        opened = rig.gateway.open(CHAT, asked(stream=True))
        opened.reads = False
        await until(lambda: opened.job.in_received >= m.STREAM_WINDOW_BYTES)
        before = -1
        while before != sent:  # until nothing moves any more
            before = sent
            await asyncio.sleep(0.3)
        [job] = rig.agent.links.table.jobs.values()
        assert job.out_produced - job.out_acked < 2 * 1024 * 1024
        assert sent < 16 * 1024 * 1024
        opened.reads = True
        opened.job.consumed(len(opened.body))
        rig.gateway.pump()
        await opened.over(20)
        assert len(opened.body) == 64 * 262_144


async def test_only_what_is_offered_can_be_asked(engine: FakeEngine, tmp_path: Path) -> None:
    """Another model in OPEN, another in the body, a path that the model has not: the engine hears of none of them."""
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        gateway = rig.gateway
        not_offered = await gateway.open("huge:cloud", asked("huge:cloud")).over()
        sneaked = await gateway.open(CHAT, asked("huge:cloud")).over()
        twice = await gateway.open(CHAT, asked()[:-1] + b',"Model":"huge:cloud"}').over()
        no_json = await gateway.open(CHAT, b"model=" + CHAT.encode()).over()
        chat_with_embedder = await gateway.open(EMBED, asked(EMBED)).over()
    assert not_offered.end == chat_with_embedder.end == "refused model_gone"
    assert sneaked.end == twice.end == no_json.end == "reset internal"
    assert not [each for each in engine.requests if each.method == "POST"]


class Loadable(FakeEngine):
    """Ollama as it takes both orders."""

    async def _serve(self, request: SeenRequest) -> None:
        if request.target != "/api/generate":
            await super()._serve(request)
            return
        await request.connection.read_body(request)
        self._note_harm(request, request.target, "")
        model = {request.json["model"]}
        self.resident = self.resident - model if request.json.get("keep_alive") == 0 else self.resident | model
        await Call(request, "", {}).answer(b"{}")


async def command(rig: Rig, action: str, model: str | None = CHAT) -> m.TaskResult:
    """What came of a TASK."""
    link = rig.gateway.links[0]
    assert link.caps is not None
    name = f"task_{len(link.results)}"
    link.core.task(m.Task(name, action, link.caps.engines[0].id, model))  # type: ignore[arg-type]
    rig.gateway.pump()
    await until(lambda: any(each.task == name for each in link.results), "the task was not answered")
    return link.results[-1]


async def test_tasks_do_only_what_the_owner_allows(engine: FakeEngine, tmp_path: Path) -> None:
    """A probe is answered; loading and unloading are refused, and no engine hears of them."""
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        said = [await command(rig, action) for action in ("probe", "load", "unload")]
    assert [each.ok for each in said] == [True, False, False]
    assert "owner" in said[1].detail
    assert engine.harm == []


async def test_the_gateway_may_load_and_unload_where_it_is_allowed(tmp_path: Path) -> None:
    """A model that is not in memory is loaded, and unloaded again; one that the owner loaded stays."""
    async with Loadable("ollama") as engine:
        engine.resident = {CHAT}
        async with rigged(tmp_path, owner(engine, allow_load=True, allow_unload=True)) as rig:
            await rig.ready()
            await until(lambda: rig.agent.offers.watches[0].load.resident == (CHAT,))
            assert (await command(rig, "unload", CHAT)).detail == "this node did not load it"
            assert (await command(rig, "load", "huge:cloud")).detail == "the model is not offered"
            assert engine.harm == []
            assert (await command(rig, "load", EMBED)).ok
            await until(lambda: EMBED in (rig.agent.offers.watches[0].load.resident or ()))
            assert (await command(rig, "unload", EMBED)).ok
            assert engine.resident == {CHAT}
            rig.agent.pause()
            await until(lambda: not rig.agent.serves)
            assert not (await command(rig, "load", EMBED)).ok
            assert engine.resident == {CHAT}


async def test_request_bodies_that_wait_are_bounded(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway cannot fill this machine's memory: what is too much is refused, and room that is free again is used."""
    monkeypatch.setattr("potluck.node.jobs.HELD_BODIES_BYTES", 1000)
    async with rigged(tmp_path, owner(engine, slots=8)) as rig:
        await rig.ready()
        large = await rig.gateway.open(CHAT, asked(padding="x" * 1000)).over()
        assert large.end == "refused busy"
        for _ in range(30):
            assert (await rig.gateway.open(CHAT, asked()).over()).end == "ended"
