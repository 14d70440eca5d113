"""Links on their way in while the configuration, or the machine's other links, change; and those of void keys."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from hub_rig import HubGateway, hub_gateway, refused_code

from potluck.conformance.caller import Caller
from potluck.conformance.node import NodeIdentity
from potluck.hub.node import HubNode
from potluck.hub.session import Session
from potluck.wire import link_messages as m


async def knock(gateway: HubGateway, caller: Caller) -> None:
    """A WebSocket that says nothing."""
    await caller.send(
        f"GET /node/v1/link HTTP/1.1\r\nHost: {gateway.host}:{gateway.port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: {m.SUBPROTOCOL}\r\n\r\n".encode()
    )
    assert (await caller.read_head()).status == 101


async def test_a_silent_stranger_does_not_stop_the_sweep(tmp_path: Path):
    """It has not said who it is when the snapshot changes: the others are looked up all the same, and it stays."""
    async with hub_gateway(tmp_path) as gateway, gateway.caller() as caller:
        await knock(gateway, caller)
        identity = gateway.enrol()
        node = gateway.fake_node(identity)
        await node.dial()
        await gateway.until(lambda: gateway.heard.stand(identity.node) is not None)
        gateway.enrol("lab-2")
        gateway.links.sweep(gateway.links.clock())
        assert gateway.links.sockets == 2


async def test_a_node_is_challenged_once_however_often_the_snapshot_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A second CHALLENGE would be out of turn."""
    look_up, changes = Session.look_up, 0

    async with hub_gateway(tmp_path) as gateway:

        def looked_up(session: Session, now: float) -> None:
            nonlocal changes
            look_up(session, now)
            changes += 1
            if changes == 1:
                gateway.enrol("lab-2")
                gateway.links.sweep(now)

        monkeypatch.setattr(Session, "look_up", looked_up)
        await gateway.fake_node(gateway.enrol()).dial()
        assert changes > 1


async def test_a_node_that_is_revoked_between_challenge_and_proof_is_not_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What was true at the challenge does not count."""
    look_up = Session.look_up
    async with hub_gateway(tmp_path) as gateway:
        identity = gateway.enrol()

        def looked_up(session: Session, now: float) -> None:
            look_up(session, now)
            if identity.node in gateway.snapshots.current.nodes:
                gateway.revoke(identity.node)

        monkeypatch.setattr(Session, "look_up", looked_up)
        assert await refused_code(gateway.fake_node(identity)) == "revoked"
        assert not gateway.links.nodes


async def test_a_link_ends_with_the_key_that_it_was_dialled_with(tmp_path: Path):
    """Whoever copied a key that was rotated is out when that ceases to count; the machine goes on by its new one."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node()
        old, new = node.identity, NodeIdentity(node.identity.node, "nky_new")
        gateway.alter(old.node, keys={new.key: new.public_key, old.key: old.public_key})
        gateway.links.sweep(gateway.links.clock())
        assert len(node.links) == 1
        assert gateway.heard.stand(old.node) == ""
        gateway.alter(old.node, keys={new.key: new.public_key})
        await gateway.until(lambda: not node.links)
        assert gateway.heard.stand(old.node) == "not connected"
        assert await refused_code(gateway.fake_node(old)) == "revoked"
        await gateway.fake_node(new).dial()


async def test_a_machine_that_loses_one_of_its_links_is_still_asked_on_the_other(tmp_path: Path):
    """A second machine with its key does not get in between: the link that is left has its time to answer."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(links=2)
        kept, lost = node.links
        kept.freeze()
        lost.freeze()
        dialling = asyncio.get_running_loop().create_task(refused_code(gateway.fake_node(node.identity)))
        hub_node = gateway.links.nodes[node.identity.node]
        await gateway.until(lambda: hub_node.newcomers)
        lost.cut()
        await gateway.until(lambda: len(hub_node.sessions) == 1)
        assert hub_node.newcomers
        kept.thaw()
        assert await dialling == "clone"
        assert node.links == [kept]


@pytest.mark.parametrize("turn", ["check", "tick", "review"])
async def test_own_faults_in_one_nodes_turn_end_that_nodes_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, turn: str
):
    """The other node is swept as ever; the log says whose turn it was."""
    async with hub_gateway(tmp_path) as gateway:
        broken, well = [await gateway.node(name, models=["stall"]) for name in ("lab-1", "lab-2")]
        async with gateway.caller() as first, gateway.caller() as second:
            for caller, node in ((first, broken), (second, well)):
                target = gateway.on_node(node.identity.node, "stall")
                gateway.serve(target.name, target)
                await caller.send(gateway.request(target.name, stream=True))
                await gateway.until(lambda node=node: node.running)
            taken, swept = getattr(HubNode, turn), []

            def take(self: HubNode, now: float) -> None:
                swept.append(self.id)
                if self.id == broken.identity.node and self.id not in swept[:-1]:
                    raise RuntimeError("a fault")
                taken(self, now)

            monkeypatch.setattr(HubNode, turn, take)
            gateway.enrol("lab-3")
            await gateway.until(lambda: broken.ends and well.identity.node in swept)
            assert broken.ends == ["internal"]
            assert len(well.links) == 1
            assert gateway.links.failed["internal"] == 1
            assert "node_lab-1" in caplog.text


async def test_a_load_from_before_a_break_says_nothing_after_it(tmp_path: Path):
    """A node that was paused when its link was lost, and comes back: it says anew how it is."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node()
        node.says(m.Load("paused", reason="its owner wants it"))
        await gateway.until(lambda: str(gateway.heard.stand(node.identity.node)).startswith("paused"))
        hub_node = gateway.links.nodes[node.identity.node]
        node.links[0].cut()
        await gateway.until(lambda: not hub_node.sessions)
        monitored = hub_node.load
        await node.dial()
        await gateway.until(lambda: hub_node.sessions)
        assert monitored is not None
        assert hub_node.load is not monitored


async def test_a_node_without_a_model_is_away_for_that(tmp_path: Path):
    """Its engine is down: no call goes there, in words, until it offers something again."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node()
        hub_node = gateway.links.nodes[node.identity.node]
        caps, now = hub_node.caps, gateway.links.clock()
        assert caps is not None
        hub_node.caps_came(hub_node.sessions[0], msgspec.structs.replace(caps, models=[]), now)
        assert gateway.heard.stand(node.identity.node) == "it has no model to offer now"
        hub_node.caps_came(hub_node.sessions[0], caps, now)
        assert gateway.heard.stand(node.identity.node) == ""
