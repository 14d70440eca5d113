"""An agent's links and its owner's word, on real sockets: dialling, refusals, drains, pauses, restarts."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from agent_rig import PACE, LinkGateway, StillMachine, enrol, rigged, until

from potluck.conformance.call import Call
from potluck.conformance.engines import CHAT, FakeEngine
from potluck.node import dialing, keys
from potluck.node.agent import Agent
from potluck.node.home import Home, HomeError, KeyFile
from potluck.node.identity import Identity, fresh_key, to_text
from potluck.node.remembered import Remembered
from potluck.node.settings import NodeSettings
from potluck.wire import link_messages as m


def asked() -> bytes:
    return json.dumps({"model": CHAT, "messages": [{"role": "user", "content": "hi"}]}).encode()


def owner(engine: FakeEngine, **members: Any) -> NodeSettings:
    return NodeSettings(engines=(engine.base_url,), discover=False, page_port=0, **members)


class Busy:
    """An engine whose answers wait until they are let go."""

    def __init__(self, engine: FakeEngine) -> None:
        self.calls = 0
        self.release = asyncio.Event()
        engine.script[CHAT] = self._play

    async def _play(self, call: Call) -> None:
        self.calls += 1
        await self.release.wait()
        await call.answer(b"{}")


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine("openai-compatible") as found:
        yield found


async def test_two_links_are_dialled_and_dialled_again(engine: FakeEngine, tmp_path: Path) -> None:
    """Both come up with one start's mark, a cut one comes back, and a request over the other goes on."""
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        one, other = rig.gateway.links
        assert one.hello is not None
        assert other.hello is not None
        assert one.hello.boot == other.hello.boot
        assert one.hello.nonce != other.hello.nonce
        busy = Busy(engine)
        opened = rig.gateway.open(CHAT, asked(), link=other)
        await until(lambda: busy.calls)
        one.cut()
        await until(lambda: one not in rig.gateway.links)
        await rig.ready()
        busy.release.set()
        assert (await opened.over()).end == "ended"


async def test_a_gateway_that_comes_back_finds_its_node(engine: FakeEngine, tmp_path: Path) -> None:
    """The gateway goes without a word and listens again: the links come back by themselves."""
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        await rig.gateway.stop()
        for link in tuple(rig.gateway.links):
            link.cut()
        await until(lambda: rig.agent.state == "joining")
        assert "does not serve" in rig.agent.reason
        rig.gateway.table = type(rig.gateway.table)("gateway")
        await rig.gateway.start_again()
        await rig.ready()
        await until(lambda: rig.agent.state == "ready")


async def test_a_stopping_gateway_gets_its_nodes_back_over_time(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`spread_s` decides when the links are dialled anew, not the back-off."""
    asked_for: list[tuple[float, float]] = []
    monkeypatch.setattr(dialing.random, "uniform", lambda low, high: asked_for.append((low, high)) or 0.05)  # type: ignore[func-returns-value]
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        for link in tuple(rig.gateway.links):
            link.core.close("restart", "the gateway restarts", asyncio.get_running_loop().time(), 12.0)
            link.wake.set()
        await until(lambda: not rig.agent.links.up)
        await rig.ready()
    assert asked_for.count((0, 12.0)) == 2


async def test_a_graceful_goodbye_lets_requests_end(engine: FakeEngine, tmp_path: Path) -> None:
    """A link that takes no more streams stays until its request is over, while another one is dialled for it."""
    async with rigged(tmp_path, owner(engine, links=1)) as rig:
        await rig.ready()
        [old] = rig.gateway.links
        busy = Busy(engine)
        opened = rig.gateway.open(CHAT, asked(), link=old)
        await until(lambda: busy.calls)
        old.core.goaway("restart", "", 0.1)
        rig.gateway.pump()
        await until(lambda: len(rig.gateway.links) == 2)
        busy.release.set()
        assert (await opened.over()).end == "ended"
        await until(lambda: old not in rig.gateway.links)
        await rig.ready()


@pytest.mark.parametrize("code", ["revoked", "clone", "not_approved"])
async def test_a_refusal_is_shown_and_not_hammered(engine: FakeEngine, tmp_path: Path, code: str) -> None:
    """A gateway that says no is asked once; what it said is the reason, and a changed network changes nothing."""
    gateway = LinkGateway()
    gateway.refuses = (code, "no")
    async with rigged(tmp_path, owner(engine), gateway=gateway) as rig:
        await until(lambda: rig.agent.links.slots[0].next_try)
        rig.agent.links.slots[0].hurry()
        for _ in range(50):  # turns of the loop: what hurries would be on its way
            await asyncio.sleep(0)
        assert rig.agent.links.slots[0].next_try
        assert len(gateway.dials) == 1
        assert dialing.REFUSALS[code][1] in rig.agent.reason
        wait_s = rig.agent.links.slots[0].next_try - asyncio.get_running_loop().time()
        assert wait_s > 0.7 * dialing.REFUSALS[code][0]


async def test_a_machine_that_leaves_and_joins_anew_is_back(engine: FakeEngine, tmp_path: Path) -> None:
    """The running agent survives `leave`, says so, and dials as the new node as soon as there is one."""
    gateway = LinkGateway()
    async with rigged(tmp_path, owner(engine), gateway=gateway) as rig:
        await rig.ready()
        kept = {name: (tmp_path / name).read_bytes() for name in ("node.json", "key")}
        rig.agent.home.remove(*kept)
        for link in tuple(gateway.links):
            link.core.close("revoked", "no", asyncio.get_running_loop().time())
            link.wake.set()
        await until(lambda: not rig.agent.links.up and "left its gateway" in rig.agent.reason)
        for name, content in kept.items():
            rig.agent.home.write_bytes(name, content)
        await rig.ready()


async def test_a_machine_that_joins_anew_while_linked_goes_over(engine: FakeEngine, tmp_path: Path) -> None:
    """`join --force` beside a running agent: its links as the old node end, and it is the new one at once."""
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        home, before = rig.agent.home, rig.agent.enrolled
        home.write("key", KeyFile("nky_2", home.key().private, "node_2"))
        home.write("node.json", msgspec.structs.replace(before, node="node_2", name="lab-2"))
        await until(lambda: {link.hello and link.hello.node for link in rig.gateway.links} == {"node_2"})
        await rig.ready()
        assert rig.agent.enrolled.name == "lab-2"


async def test_a_key_whose_change_was_not_heard_is_asked_for_at_the_start(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway may have the new key already, and the old one is good for a day: the agent finishes it by itself."""
    asked: list[str] = []

    class Taker:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def rotate(self, enrolled: Any, key: str, old: Identity, new: Identity) -> str:
            asked.append(key)
            return "nky_2"

    monkeypatch.setattr(keys, "Gateway", Taker)
    coming = to_text(fresh_key())
    Home(tmp_path).write("key.next", KeyFile("", coming, purpose="rotate node_1"))
    async with rigged(tmp_path, owner(engine)) as rig:
        await until(lambda: rig.agent.home.key().private == coming)
        assert (asked, rig.agent.home.key().id) == (["nky_1"], "nky_2")
        await until(lambda: not (tmp_path / "key.next").exists())


async def test_a_home_that_is_gone_changes_no_setting(engine: FakeEngine, tmp_path: Path) -> None:
    """Somebody removed it under the running agent: what the owner said stays in force, and it is said once."""
    place = tmp_path / "node"
    place.mkdir()
    home = Home(place)
    home.write("settings.json", owner(engine, queue=7))
    async with rigged(place, lambda: home.read("settings.json", NodeSettings) or NodeSettings()) as rig:
        await rig.ready()
        for path in place.iterdir():
            path.unlink()
        place.rmdir()
        rig.agent._heed_files()
        rig.agent._heed_files()
        assert rig.agent.settings.queue == 7
        assert sum("is gone" in what for _, what in rig.agent.errors) == 1


async def test_an_engine_that_is_restarted_keeps_its_models(engine: FakeEngine, tmp_path: Path) -> None:
    """While it is down CAPS stays as it was and LOAD says so; calls are refused for now; back, it serves at once."""
    port = int(engine.base_url.split(":")[2].split("/")[0])
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        link = rig.gateway.links[0]
        before = link.caps
        await engine.stop()
        await until(lambda: link.load is not None and not any(each.reachable for each in link.load.engines))
        assert link.load is not None
        assert link.load.state == "paused"
        assert "does not answer" in link.load.reason
        assert link.load.engines
        assert link.caps == before
        async with FakeEngine("openai-compatible", port=port):
            await rig.ready()
            assert link.caps == before
            assert (await rig.gateway.open(CHAT, asked()).over()).end == "ended"


async def test_an_engine_that_is_down_at_a_restart_keeps_its_models(engine: FakeEngine, tmp_path: Path) -> None:
    """The agent offers what it offered, as not reachable, was never paused before it had looked, and takes it up."""
    port = int(engine.base_url.split(":")[2].split("/")[0])
    async with FakeEngine("llama.cpp") as other:
        settings = NodeSettings(engines=(engine.base_url, other.base_url), discover=False, page_port=0)
        async with rigged(tmp_path, settings) as rig:
            await rig.ready()
            await until(lambda: all(link.caps and len(link.caps.engines) == 2 for link in rig.gateway.links))
            before = rig.gateway.links[0].caps
            assert before is not None
            await until(lambda: len(Remembered(rig.agent.home, print).read()) == 2)
        await engine.stop()
        async with rigged(tmp_path, settings, anew=False) as rig:
            await rig.ready()
            link = rig.gateway.links[0]
            assert link.caps is not None
            assert link.caps.models == before.models
            assert {each.state for each in link.loads} == {"ready"}
            [down] = [id_ for id_, one in rig.agent.offers.offered.items() if one.away]
            assert (await rig.gateway.open(CHAT, asked(), engine=down).over()).end == "refused model_gone"
            async with FakeEngine("openai-compatible", port=port):
                await until(lambda: link.load is not None and all(each.reachable for each in link.load.engines))
                assert (await rig.gateway.open(CHAT, asked(), engine=down).over()).end == "ended"
    alone = NodeSettings(engines=(other.base_url,), discover=False, page_port=0)
    async with rigged(tmp_path, alone, anew=False) as rig:
        assert len(rig.agent.offers.offered) == 1


async def test_of_two_engines_the_one_that_is_down_refuses_for_now(engine: FakeEngine, tmp_path: Path) -> None:
    """The machine serves by the other one; a call to the first is refused: not as loading, and its offer stays."""
    async with FakeEngine("llama.cpp") as other:
        settings = NodeSettings(engines=(engine.base_url, other.base_url), discover=False, page_port=0)
        async with rigged(tmp_path, settings) as rig:
            await rig.ready()
            await until(lambda: all(link.caps and len(link.caps.engines) == 2 for link in rig.gateway.links))
            await engine.stop()
            await until(lambda: any(one.away for one in rig.agent.offers.offered.values()))
            [down] = [id_ for id_, one in rig.agent.offers.offered.items() if one.away]
            refused = await rig.gateway.open(CHAT, asked(), engine=down).over()
            assert refused.end == "refused model_gone"
            assert "does not answer" in refused.detail
            assert all(link.caps and len(link.caps.engines) == 2 for link in rig.gateway.links)
            assert rig.agent.state == "ready"


async def test_an_error_of_the_agents_own_ends_one_link(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame that the agent stumbles over costs its link, never the agent."""
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        with monkeypatch.context() as patch:
            patch.setattr(rig.agent._commands, "take", lambda *_: 1 / 0)
            link = rig.gateway.links[0]
            assert link.caps is not None
            link.core.task(m.Task("task_1", "probe", link.caps.engines[0].id))
            rig.gateway.pump()
            await until(lambda: link not in rig.gateway.links)
        assert not rig.task.done()
        await rig.ready()


async def test_another_gateway_at_the_address_gets_nothing(engine: FakeEngine, tmp_path: Path) -> None:
    """One with another key than the pinned one is left, before it hears what this machine has."""
    gateway = LinkGateway()
    async with rigged(tmp_path, owner(engine), gateway=gateway) as rig:
        await rig.ready()
        gateway.key = Identity(fresh_key())
        for link in tuple(gateway.links):
            link.cut()
        await until(lambda: "another gateway answers" in rig.agent.reason)
        assert not rig.agent.links.up


async def test_tls_is_verified(engine: FakeEngine, tmp_path: Path) -> None:
    """Over TLS the gateway's certificate has to come from the system's roots, or from the file that was named."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    roots = tmp_path / "roots.pem"
    authority.cert_pem.write_to_path(str(roots))
    async with rigged(tmp_path / "a", owner(engine), gateway=LinkGateway(context)) as rig:
        await until(lambda: "certificate is not trusted" in rig.agent.reason)
        assert not rig.gateway.dials
    async with rigged(tmp_path / "b", owner(engine), gateway=LinkGateway(context), ca_file=str(roots)) as rig:
        await rig.ready()
        assert (await rig.gateway.open(CHAT, asked()).over()).end == "ended"


async def test_a_changed_network_is_tried_at_once(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When this machine's addresses change, links from one that is gone are dropped, and no back-off is waited for."""
    found = frozenset({("lo", "127.0.0.1")})
    monkeypatch.setattr(dialing, "addresses", lambda: found)
    monkeypatch.setattr(dialing, "NETWORK_LOOK_S", 0.05)
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        old = set(rig.gateway.links)
        monkeypatch.setattr(dialing.random, "uniform", lambda low, high: 3600.0)
        found = frozenset({("eth0", "192.0.2.1")})
        await until(lambda: not rig.agent.links.up and all(slot.next_try for slot in rig.agent.links.slots[:1]))
        found = frozenset({("lo", "127.0.0.1")})
        await rig.ready()
        assert old.isdisjoint(rig.gateway.links)


async def test_no_redirect_is_followed(engine: FakeEngine, tmp_path: Path) -> None:
    """What sends the link elsewhere is not obeyed: the other place hears nothing."""
    elsewhere: list[bytes] = []

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        elsewhere.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 307 x\r\nlocation: ws://127.0.0.1:%d/x\r\ncontent-length: 0\r\n\r\n" % port)
        await writer.drain()
        writer.close()

    front = await asyncio.start_server(redirect, "127.0.0.1", 0)
    key, gateway = fresh_key(), LinkGateway()
    home = enrol(tmp_path, gateway, key, f"http://127.0.0.1:{front.sockets[0].getsockname()[1]}")
    agent = Agent(home, lambda: owner(engine), StillMachine(), ports=(), pace=PACE)
    task = asyncio.get_running_loop().create_task(agent.run())
    try:
        await until(lambda: "redirect" in agent.reason)
        assert elsewhere == []
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for each in (front, server):
            each.close()
            await each.wait_closed()


async def test_pause_ends_what_runs_and_outlives_a_restart(engine: FakeEngine, tmp_path: Path) -> None:
    """Pause resets at once, frees the GPU, tells the gateway; a new start is still paused, until its owner resumes."""
    busy = Busy(engine)
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        opened = rig.gateway.open(CHAT, asked())
        await until(lambda: busy.calls)
        rig.agent.pause()
        assert (await opened.over(1.0)).end == "reset owner_active"
        await until(lambda: rig.machine.freed == 1, "nothing was unloaded", 2.0)
        await until(lambda: all(link.load and link.load.state == "paused" for link in rig.gateway.links), timeout_s=1.0)
        assert rig.agent.state == "paused"
    busy.release.set()
    async with rigged(tmp_path, owner(engine), anew=False) as rig:
        await until(lambda: rig.agent.state == "paused")
        assert "potluck node resume" in rig.agent.reason
        rig.agent.resume()
        await rig.ready()
        assert (await rig.gateway.open(CHAT, asked()).over()).end == "ended"


@pytest.mark.parametrize("how", ["revoked", "left"])
async def test_nothing_runs_on_for_a_gateway_that_is_left(engine: FakeEngine, tmp_path: Path, how: str) -> None:
    """Revoked, or left without its hearing of it: the engine's calls are over within a second, and links are down."""
    busy = Busy(engine)
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        rig.gateway.open(CHAT, asked())
        await until(lambda: busy.calls)
        if how == "revoked":
            rig.gateway.refuses = ("revoked", "")
            for link in tuple(rig.gateway.links):
                link.core.close("revoked", "", asyncio.get_running_loop().time())
                link.wake.set()
        else:
            rig.agent.home.remove("node.json", "key")
        await until(lambda: not rig.agent.jobs.running, "it runs on", 2.0)
        await until(lambda: not rig.agent.links.up)
        assert rig.agent.jobs.ends == {"draining": 1}
    busy.release.set()


async def test_a_pause_for_a_time_ends_by_itself(engine: FakeEngine, tmp_path: Path) -> None:
    """`pause --for` serves again when the time is over."""
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        rig.agent.pause(0.5)
        assert rig.agent.standing.decision.until_s is not None
        await until(lambda: rig.agent.state == "paused")
        await rig.ready()
        await until(lambda: rig.agent.state == "ready")


async def test_the_owners_return_leaves_a_grace(engine: FakeEngine, tmp_path: Path) -> None:
    """A soft exit takes nothing new at once; what runs is reset when the grace is over, not before."""
    busy = Busy(engine)
    async with rigged(tmp_path, owner(engine, mode=("schedule",), schedule=("daily 00:00-24:00",), grace_s=0.5)) as rig:
        await rig.ready()
        opened = rig.gateway.open(CHAT, asked())
        await until(lambda: busy.calls)
        rig.machine.said = type(rig.machine.said)(window_open=False)
        await until(lambda: rig.agent.state == "paused", timeout_s=3.0)
        left_at = asyncio.get_running_loop().time()
        assert not opened.end
        await opened.over(3.0)
        assert opened.end == "reset owner_active"
        assert asyncio.get_running_loop().time() - left_at > 0.2
        assert rig.machine.freed == 0


async def test_a_drain_of_the_gateway_ends_when_it_says(engine: FakeEngine, tmp_path: Path) -> None:
    """Asked to drain: nothing new, what runs ends, DRAINED follows; told that it is over, the node serves again."""
    busy = Busy(engine)
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        opened = rig.gateway.open(CHAT, asked())
        await until(lambda: busy.calls)
        for link in rig.gateway.links:
            link.core.drain(m.Drain("pause", 60.0, reason="drained by the operator"))
        rig.gateway.pump()
        await until(lambda: rig.agent.state == "draining")
        assert not any(link.drained for link in rig.gateway.links)
        busy.release.set()
        assert (await opened.over()).end == "ended"
        await until(lambda: all(link.drained for link in rig.gateway.links))
        assert "operator" in rig.agent.reason
        for link in rig.gateway.links:
            link.core.drain(m.Drain("pause", 0.0, 0.0, "the operator ended the drain"))
        rig.gateway.pump()
        await rig.ready()
        assert (await rig.gateway.open(CHAT, asked()).over()).end == "ended"


async def test_orders_while_the_gpu_is_being_freed_cost_nothing(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said meanwhile is looked at after it; nothing turns round and round until then."""
    begun, done = asyncio.Event(), asyncio.Event()

    async def slowly(*_: object) -> list[str]:
        begun.set()
        await done.wait()
        return []

    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        monkeypatch.setattr(rig.machine, "free", slowly)
        rig.agent.pause()
        await begun.wait()
        rig.agent.pause()
        spent_s = time.thread_time()
        await asyncio.sleep(0.3)
        assert time.thread_time() - spent_s < 0.15
        done.set()
        rig.agent.resume()
        await rig.ready()


async def test_a_later_drain_is_not_ended_by_an_earlier_ones_time(engine: FakeEngine, tmp_path: Path) -> None:
    """Each DRAIN replaces the one before it on the same link, with its own end."""
    async with rigged(tmp_path, owner(engine, links=1)) as rig:
        await rig.ready()
        for lasts_s in (*[0.3] * 20, 60.0):
            rig.gateway.links[0].core.drain(m.Drain("pause", 60.0, lasts_s, "drained by the operator"))
        rig.gateway.pump()
        await until(lambda: rig.agent.state == "paused")
        await asyncio.sleep(1.5)
        assert rig.agent.state == "paused"
        rig.gateway.links[0].core.drain(m.Drain("pause", 60.0, 0.3, "for a moment"))
        rig.gateway.pump()
        await rig.ready()


async def test_a_damaged_key_of_the_gateway_is_said(engine: FakeEngine, tmp_path: Path) -> None:
    """At the start in one line; while it runs it costs the link alone."""
    gateway = LinkGateway()
    async with rigged(tmp_path, owner(engine), gateway=gateway) as rig:
        await rig.ready()
        damaged = msgspec.structs.replace(rig.agent.enrolled, gateway_key="short")
        rig.agent.home.write("node.json", damaged)
        for link in tuple(gateway.links):
            link.cut()
        await until(lambda: "is damaged: join again" in rig.agent.reason)
        assert not rig.task.done()
    with pytest.raises(HomeError, match="is damaged: join again"):
        Agent(Home(tmp_path), lambda: owner(engine), StillMachine(), ports=(), pace=PACE)


async def test_stopping_lets_requests_end(engine: FakeEngine, tmp_path: Path) -> None:
    """`stop` announces itself, waits for what runs, says goodbye, and leaves nothing running."""
    busy = Busy(engine)
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        links = tuple(rig.gateway.links)
        opened = rig.gateway.open(CHAT, asked())
        await until(lambda: busy.calls)
        rig.agent.stop()
        await until(lambda: links[0].drains)
        assert not rig.task.done()
        busy.release.set()
        assert (await opened.over()).end == "ended"
        await asyncio.wait_for(asyncio.shield(rig.task), 5.0)
        await until(lambda: not rig.gateway.links)
        assert [each.code for each in links[0].goaways] == ["leaving"]


async def test_a_node_that_is_not_taken_up_is_pending(engine: FakeEngine, tmp_path: Path) -> None:
    """Until the gateway says that what is offered is in force, the node says that it waits for that."""
    gateway = LinkGateway()
    gateway.acks = False
    async with rigged(tmp_path, owner(engine), gateway=gateway) as rig:
        await rig.ready()
        await until(lambda: rig.agent.state == "pending")
        assert "approval" in rig.agent.reason
        for link in gateway.links:
            assert link.caps is not None
            link.core.caps_ack(link.caps.revision)
        gateway.pump()
        await until(lambda: rig.agent.state == "ready")


async def test_settings_are_heeded_while_it_runs(engine: FakeEngine, tmp_path: Path) -> None:
    """A price that is set reaches the gateway; a file that cannot be read changes nothing, and is told."""
    home = Home(tmp_path)

    def settings() -> NodeSettings:
        said = home.read("settings.json", NodeSettings)
        return said or owner(engine)

    async with rigged(tmp_path, settings) as rig:
        await rig.ready()
        home.write_bytes(
            "settings.json",
            json.dumps(
                {"engines": [engine.base_url], "discover": False, "prices": {CHAT: {"input": 7, "output": 9}}}
            ).encode(),
        )

        def priced() -> bool:
            models = [each for link in rig.gateway.links if link.caps for each in link.caps.models if each.name == CHAT]
            return len(models) == 2 and all(
                (each.price_input_nanousd, each.price_output_nanousd) == (7, 9) for each in models
            )

        await until(priced)
        home.write_bytes("settings.json", b"{")
        await until(lambda: any("settings" in what for _, what in rig.agent.errors))
        assert priced()


async def test_an_unknown_server_is_shared_only_when_named(engine: FakeEngine, tmp_path: Path) -> None:
    """What merely lists models on a well-known port is not offered; it may be somebody's gateway to a paid account."""
    settings = NodeSettings(page_port=0)
    async with rigged(tmp_path, settings, ports=(engine.port,)) as rig:
        await until(lambda: rig.agent.offers.withheld)
        assert rig.agent.offers.offered == {}
        assert "shared when named" in rig.agent.offers.withheld[0]
