"""Links of nodes: who is let in, cuts and resumes, a copied key, what ends a link, and how soon routing knows."""

import asyncio
import contextlib
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trustme
from hub_rig import QUICK, HubGateway, hub_gateway, refused_code

from potluck.conformance import answers
from potluck.conformance.caller import Caller
from potluck.conformance.node import FakeLink, FakeNode, NodeIdentity, NotLetInError
from potluck.conformance.provider import FakeProvider
from potluck.wire import link_frames as f
from potluck.wire import link_messages as m

LONG = "ok;chunks=100;gap_ms=10"
AT_ONCE_S = 1.0


def expected(model: str, chunks: int) -> list[bytes]:
    words = [answers.WORDS[i % 5] for i in range(chunks)]
    return [event[6:-2] for event in answers.chat_events(model, words)]


@contextlib.asynccontextmanager
async def streaming(gateway: HubGateway, model: str) -> AsyncIterator[Caller]:
    """A caller whose answer has begun."""
    async with gateway.caller(timeout_s=60) as caller:
        await caller.send(gateway.request(model, stream=True))
        yield caller


async def handshake(gateway: HubGateway, *fields: str, path: str = "/node/v1/link") -> tuple[int, bytes]:
    """Status and body of a WebSocket handshake with those fields instead of the ordinary ones."""
    given = {field.partition(":")[0].lower() for field in fields}
    ordinary = (
        f"Host: {gateway.host}:{gateway.port}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: {m.SUBPROTOCOL}",
    )  # fmt: skip
    lines = [f"GET {path} HTTP/1.1", *(each for each in ordinary if each.partition(":")[0].lower() not in given)]
    lines += [field for field in fields if field.partition(":")[2]]
    async with gateway.caller() as caller:
        await caller.send("\r\n".join([*lines, "", ""]).encode())
        response = await caller.read_head()
        return response.status, bytes(response.raw)


async def test_the_handshake_takes_nodes_and_nobody_else(tmp_path: Path):
    """101 with the subprotocol and no extension; a page, another host, another path or protocol are refused."""
    async with hub_gateway(tmp_path) as gateway:
        offer = "Sec-WebSocket-Extensions: permessage-deflate"
        status, raw = await handshake(gateway, offer)
        assert status == 101
        assert b"potluck.node.v1" in raw
        assert b"extensions" not in raw.lower()
        assert (await handshake(gateway, "Origin: http://evil.example"))[0] == 403
        assert (await handshake(gateway, "Host: evil.example"))[0] == 421
        assert (await handshake(gateway, "Sec-WebSocket-Protocol: other"))[0] == 400
        assert (await handshake(gateway, "Sec-WebSocket-Protocol:"))[0] == 400
        assert (await handshake(gateway, path="/node/v1/link?token=x"))[0] == 404
        assert (await handshake(gateway, path="/node/v1/linkage"))[0] == 200, "the control plane's"
        assert (await handshake(gateway, "Upgrade:"))[0] == 426
        assert (await handshake(gateway, "Sec-WebSocket-Key: x"))[0] == 400
        assert (await handshake(gateway, "X-Big: " + "x" * 20_000))[0] == 431
        await gateway.until(lambda: not gateway.links.sockets)


async def test_a_handshake_byte_by_byte_is_the_same(tmp_path: Path):
    """The listener hands over whatever it has read so far."""
    async with hub_gateway(tmp_path) as gateway, gateway.caller() as caller:
        raw = (
            f"GET /node/v1/link HTTP/1.1\r\nHost: {gateway.host}:{gateway.port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {m.SUBPROTOCOL}\r\n\r\n"
        ).encode()
        for byte in raw:
            await caller.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert (await caller.read_head()).status == 101


async def test_too_many_strangers_are_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """503 beyond the most that may be unproven from one address; those that prove themselves make room."""
    monkeypatch.setattr("potluck.hub.links.MAX_UNPROVEN_PER_PREFIX", 2)
    async with hub_gateway(tmp_path) as gateway:
        node = gateway.fake_node(gateway.enrol())
        await node.dial()
        async with contextlib.AsyncExitStack() as stack:
            for status in (101, 101, 503):
                caller = await stack.enter_async_context(gateway.caller())
                await caller.send(
                    f"GET /node/v1/link HTTP/1.1\r\nHost: {gateway.host}:{gateway.port}\r\nUpgrade: websocket\r\n"
                    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
                    f"\r\nSec-WebSocket-Protocol: {m.SUBPROTOCOL}\r\n\r\n".encode()
                )
                assert (await caller.read_head()).status == status
        await gateway.until(lambda: gateway.links.sockets == 1)
        await node.dial()


async def test_only_a_key_that_the_snapshot_has_opens_a_link(tmp_path: Path):
    """An unknown node is told so after a moment; a wrong key does not verify; another gateway's signature neither."""
    async with hub_gateway(tmp_path) as gateway:
        identity = gateway.enrol()
        assert await refused_code(gateway.fake_node(NodeIdentity("node_x", "nky_x"))) == "revoked"
        assert await refused_code(gateway.fake_node(NodeIdentity(identity.node, identity.key))) == "bad_proof"
        other = FakeNode(gateway.host, gateway.port, identity, b"\0" * 32)
        assert await refused_code(other) == "cut"
        assert gateway.links.failed["bad_proof"] == 1
        assert "" not in [reason for _, reason, _ in gateway.heard.stood]


async def test_a_node_that_enrolled_this_moment_is_waited_for(tmp_path: Path):
    """It dials before the snapshot has it."""
    async with hub_gateway(tmp_path) as gateway:
        identity = NodeIdentity("node_lab-1", "nky_lab-1")
        node = gateway.fake_node(identity)
        dialling = asyncio.get_running_loop().create_task(node.dial())
        await gateway.until(lambda: gateway.links.sockets)
        real = gateway.enrol()
        gateway.alter(real.node, keys={identity.key: identity.public_key})
        await dialling


async def test_what_it_offers_is_told_and_acknowledged_once_it_is_in_force(tmp_path: Path):
    """CAPS reaches the runtime; CAPS_ACK follows when that says so, on both links."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(links=2, models=["a", "b"])
        node_id, caps = gateway.heard.caps[-1]
        assert (node_id, [model.name for model in caps.models]) == ("node_lab-1", ["a", "b"])
        assert node.acked == -1
        gateway.links.in_force(node_id, caps.revision)
        await gateway.until(lambda: node.acked == caps.revision)


async def test_an_answer_goes_on_over_the_second_link(tmp_path: Path):
    """The link that carries it is cut: the caller's stream is byte-identical, and no other call was made."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=[LONG], links=2)
        async with streaming(gateway, LONG) as caller:
            await gateway.until(lambda: node.running and node.running[0].job.out_sent > 1000)
            (call,) = node.running
            link = next(link for link in node.links if link.core is call.job.link)
            link.cut()
            await gateway.until(lambda: len(node.links) == 1)
            node.links[0].core.resume()
            node.flush()
            response = await caller.read()
        assert response.events == expected(LONG, 100)
        assert gateway.links.resumes == 1
        assert len(node.calls) == 1
        record = await gateway.record(LONG)
        assert (record.outcome, len(record.attempts)) == ("ok", 0)


async def test_an_answer_goes_on_after_a_new_connection(tmp_path: Path):
    """The only link is cut, and the node is back some time later."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=[LONG])
        async with streaming(gateway, LONG) as caller:
            await gateway.until(lambda: node.running and node.running[0].job.out_sent > 1000)
            node.links[0].cut()
            await gateway.until(lambda: gateway.heard.stand(node.identity.node) == "not connected")
            await asyncio.sleep(0.5)
            await node.dial()
            response = await caller.read()
        assert response.events == expected(LONG, 100)


async def test_a_network_that_dies_silently_is_left_by_a_new_link(tmp_path: Path):
    """The old link looks alive to the gateway when the node comes back over another network."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=[LONG])
        async with streaming(gateway, LONG) as caller:
            await gateway.until(lambda: node.running and node.running[0].job.out_sent > 1000)
            old = node.links[0]
            old.freeze()
            node.links.remove(old)
            for event in old.core.lost(time.monotonic()):
                node.handle(event)
            await node.dial()
            response = await caller.read()
        assert response.events == expected(LONG, 100)
        old.cut()


async def test_a_cut_for_good_before_content_fails_over(tmp_path: Path, fake: FakeProvider):
    """Nothing of the answer had come: another target answers, and the caller does not wait for the node's return."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=["stall;before=head"])
        first = gateway.on_node(node.identity.node, "stall;before=head")
        gateway.serve("m", first, gateway.target(fake.base_url, "ok"))
        async with streaming(gateway, "m") as caller:
            await gateway.until(lambda: node.running and node.running[0].job.state == "accepted")
            cut_at = time.monotonic()
            node.kill()
            response = await caller.read()
        assert response.events == expected("ok", 5)
        assert time.monotonic() - cut_at < 7.0
        record = await gateway.record("m")
        assert record.attempts[0].error_class == "target_down"


async def test_a_cut_for_good_after_content_ends_honestly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What came stays, then an error event once the job has run out."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=[LONG])
        gateway.links.nodes[node.identity.node].table.keeps_s = 1.0
        async with streaming(gateway, LONG) as caller:
            await gateway.until(lambda: node.running and node.running[0].job.out_sent > 1000)
            node.kill()
            response = await caller.read()
        assert b"Everyone" in response.body
        assert b'"error"' in response.body
        assert (await gateway.record(LONG)).outcome == "upstream_truncated"


async def test_an_agent_that_was_started_anew_ends_its_old_answers_at_once(tmp_path: Path):
    """A new boot knows nothing of the last one's jobs: no waiting for a resume that cannot come."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=[LONG])
        async with streaming(gateway, LONG) as caller:
            await gateway.until(lambda: node.running and node.running[0].job.out_sent > 1000)
            assert "restarted" not in [event for _, event, _ in gateway.heard.reports]
            node.kill()
            anew = gateway.fake_node(node.identity, models=[LONG])
            await anew.dial()
            began = time.monotonic()
            response = await caller.read()
            assert time.monotonic() - began < AT_ONCE_S
        assert b'"error"' in response.body
        assert [event for _, event, _ in gateway.heard.reports].count("restarted") == 1


async def test_a_second_machine_with_the_same_key_is_refused_and_reported(tmp_path: Path):
    """The first one lives and answers: it keeps its links and its work."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=[LONG])
        copy = gateway.fake_node(node.identity)
        async with streaming(gateway, LONG) as caller:
            assert await refused_code(copy) == "clone"
            response = await caller.read()
        assert response.events == expected(LONG, 100)
        (report,) = [detail for _, event, detail in gateway.heard.reports if event == "clone"]
        assert "127.0.0.0/24" in report
        assert gateway.heard.stand(node.identity.node) == ""


async def test_a_machine_whose_old_link_hangs_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After a power cut the old socket looks alive: asked, it does not answer, and the new start is let in."""
    monkeypatch.setattr("potluck.hub.node.CLONE_S", 0.2)
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node()
        node.links[0].freeze()
        anew = gateway.fake_node(node.identity, models=["ok"])
        await anew.dial()
        await gateway.until(lambda: gateway.heard.stand(node.identity.node) == "")
        assert not [event for _, event, _ in gateway.heard.reports if event == "clone"]
        async with streaming(gateway, "ok") as caller:
            assert (await caller.read()).status == 200
        assert len(anew.calls) == 1


async def test_a_third_link_takes_the_place_of_the_stalest(tmp_path: Path):
    """The same start of the agent: no copy, but a machine that changed networks."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(links=2)
        stale = node.links[0]
        node.links[1].core.load(m.Load("ready"))
        node.flush()
        await gateway.until(lambda: len(gateway.heard.loads) > 2)
        await node.dial()
        await gateway.until(lambda: node.ends == ["superseded"])
        assert stale not in node.links
        assert len(gateway.links.nodes[node.identity.node].sessions) == 2


FORGED = {
    "garbage": (b"\xff" * 40, "bad_frame"),
    "short": (b"\x01", "bad_frame"),
    "unknown kind": (f.frame(99, 0, b""), "bad_frame"),
    "a gateway's frame": (f.frame(f.CANCEL, 1, b'{"reason":"timeout"}'), "bad_state"),
    "out of state": (f.frame(f.HELLO, 0, b"{}"), "bad_payload"),
    "a stream that was never opened": (f.frame(f.ACCEPT, 77, b""), "bad_stream"),
    "data of no stream": (f.data_frame(77, 0, b"x"), "bad_stream"),
    "beyond the window": (f.data_frame(1, 1 << 40, b"x"), "bad_stream"),
    "oversized": (f.frame(f.LOAD, 0, b" " * 70_000), "too_large"),
    "lying numbers": (f.frame(f.LOAD, 0, b'{"state":"ready","models":[{"engine":"fake","name":"x","decode_tps":-1}]}'),
                      "bad_payload"),
    "an engine that was not offered": (f.frame(f.LOAD, 0, b'{"state":"ready","engines":[{"id":"z","reachable":true}]}'),
                                       "forbidden"),
}  # fmt: skip


@pytest.mark.parametrize("case", FORGED)
async def test_a_broken_rule_ends_that_link_with_its_reason_and_nothing_else(tmp_path: Path, case: str):
    """The node's other link carries its answers on, other nodes do not notice, the operator is told."""
    frame, code = FORGED[case]
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=[LONG], links=2)
        await gateway.node("lab-2", models=["ok"])
        async with streaming(gateway, LONG) as caller:
            await gateway.until(lambda: node.running)
            bystander = next(link for link in node.links if link.core is not node.running[0].job.link)
            bystander.send_raw(frame)
            await gateway.until(lambda: code in node.ends)
            response = await caller.read()
        assert response.events == expected(LONG, 100)
        assert len(node.links) == 1
        assert [event for node_id, event, _ in gateway.heard.reports if event == "violation"] == ["violation"]
        assert gateway.links.failed[code] == 1
        async with streaming(gateway, "ok") as caller:
            assert (await caller.read()).status == 200


async def test_text_and_oversized_messages_end_the_link(tmp_path: Path):
    """What no frame may be is refused by the socket itself: its answers end, other links go on."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(links=2)
        node.links[0].send_text("hello")
        await gateway.until(lambda: len(node.links) == 1)
        node.links[0].send_raw(b"x" * (m.MAX_CAPS_BYTES + 100))
        await gateway.until(lambda: not node.links)
        assert gateway.links.failed["websocket"] == 2
        assert gateway.heard.stand(node.identity.node) == "not connected"


async def test_fragments_are_put_together_within_bounds(tmp_path: Path):
    """What a proxy cut is whole again; a message in endlessly many pieces ends the link, and so do endless pings."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(links=2)
        load = f.frame(f.LOAD, 0, f.encode(m.Load("paused", "in pieces" * 8)))
        node.links[0].send_in_parts(load, 10)
        await gateway.until(lambda: gateway.heard.stand(node.identity.node) == "paused: " + "in pieces" * 8)
        node.links[0].send_in_parts(load, 1)
        await gateway.until(lambda: len(node.links) == 1)
        node.links[0].ping(90)
        node.says(m.Load("ready"))
        await gateway.until(lambda: gateway.heard.stand(node.identity.node) == "")
        node.links[0].ping(90)
        await gateway.until(lambda: not node.links)
        assert gateway.links.failed["websocket"] == 2


async def test_a_link_over_tls(tmp_path: Path):
    """The gateway claims the https origin, bytes are the same, and the last words arrive."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with hub_gateway(tmp_path) as gateway:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(gateway.plane.make_connection, gateway.host, 0, ssl=context)
        model = "ok;chunks=60;size=20000"
        node = gateway.fake_node(gateway.enrol(), models=[model], tls=trusting)
        node.port = server.sockets[0].getsockname()[1]
        node._party = msgspec.structs.replace(node._party, origin=f"https://{gateway.host}:{node.port}")
        await node.dial()
        await gateway.until(lambda: gateway.heard.stand(node.identity.node) == "")
        gateway.serve(model, gateway.on_node(node.identity.node, model))
        async with streaming(gateway, model) as caller:
            response = await caller.read()
        words = [answers.WORDS[i % 5].ljust(20_000, ".") for i in range(60)]
        assert response.events == [event[6:-2] for event in answers.chat_events(model, words)]
        gateway.revoke(node.identity.node)
        await gateway.until(lambda: node.ends == ["revoked"])
        server.close()


async def test_what_was_said_before_the_end_counts(tmp_path: Path):
    """The last frames of a node that leaves come in one read with its close."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node()
        link = node.links[0]
        link.core.load(m.Load("ready", "bye"))
        link.leave()
        await gateway.until(lambda: gateway.heard.stand(node.identity.node) == "not connected")
        assert gateway.heard.loads[-1][1].reason == "bye"


async def test_a_stranger_may_not_send_much(tmp_path: Path):
    """Before HELLO was read, a message is no larger than an early frame."""
    async with hub_gateway(tmp_path) as gateway:
        node = gateway.fake_node(gateway.enrol())
        (transport, link) = await asyncio.get_running_loop().create_connection(
            lambda: _Shouting(node, node._party), gateway.host, gateway.port
        )
        with pytest.raises(NotLetInError):
            await link.opened
        transport.abort()
        await gateway.until(lambda: not gateway.links.sockets)


async def test_revoking_drops_the_links_and_ends_what_runs(tmp_path: Path, fake: FakeProvider):
    """Within 0.2 s of the snapshot: GOAWAY `revoked`, running answers end, and it is not let in again."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=[LONG], links=2)
        gateway.serve("m", gateway.on_node(node.identity.node, LONG), gateway.target(fake.base_url, "ok"))
        async with streaming(gateway, LONG) as caller:
            await gateway.until(lambda: node.running and node.running[0].job.out_sent > 1000)
            revoked_at = time.monotonic()
            gateway.revoke(node.identity.node)
            await gateway.until(lambda: not node.links)
            assert time.monotonic() - revoked_at < 0.5
            response = await caller.read()
        assert b'"error"' in response.body
        assert node.ends == ["revoked", "revoked"]
        assert gateway.heard.stand(node.identity.node) == "revoked"
        async with streaming(gateway, "m") as caller:
            assert (await caller.read()).header("x-potluck-target") == "fake/ok"
        assert await refused_code(node) == "revoked"
        assert not gateway.links.nodes


async def test_states_reach_routing_at_once(tmp_path: Path):
    """Pause, drain, approval and a lost link: each within a second, each with its reason."""
    async with hub_gateway(tmp_path) as gateway:
        identity = gateway.enrol(approved=False)
        node = gateway.fake_node(identity)
        await node.dial()
        stand = gateway.heard.stand

        async def becomes(reason: str) -> None:
            began = time.monotonic()
            await gateway.until(lambda: stand(identity.node) == reason)
            assert time.monotonic() - began < AT_ONCE_S

        await becomes("waits for approval")
        gateway.alter(identity.node, approved=True)
        await becomes("")
        node.says(m.Load("paused", "in use"))
        await becomes("paused: in use")
        node.says(m.Load("ready"))
        await becomes("")
        gateway.alter(identity.node, drained=True)
        await becomes("drained by the operator")
        await gateway.until(lambda: [drain.reason for drain in node.drains] == ["drained by the operator"])
        gateway.alter(identity.node, drained=False)
        await becomes("")
        await gateway.until(lambda: node.drains[-1].resume_after_s == 0)
        node.links[0].core.drain(m.Drain("stop", reason="going home"))
        node.flush()
        await becomes("draining: going home")
        node.says(m.Load("ready"))
        await becomes("")
        node.links[0].core.goaway("leaving")
        node.flush()
        await becomes("its link is being closed")
        node.links[0].cut()
        await becomes("not connected")


async def test_a_silent_node_is_suspect_and_then_lost(tmp_path: Path):
    """No call goes to a node that missed a heartbeat; after three its link is over; what ran there ends."""
    async with hub_gateway(tmp_path, terms=QUICK) as gateway:
        node = await gateway.node(models=["stall", "ok"])
        gateway.links.nodes[node.identity.node].table.keeps_s = 0.5
        async with streaming(gateway, "stall") as caller:
            await gateway.until(lambda: node.running)
            node.silent = True
            await gateway.until(lambda: "heard of it" in (gateway.heard.stand(node.identity.node) or ""), timeout_s=4)
            async with streaming(gateway, "ok") as other:
                assert (await other.read()).status == 503
            await gateway.until(lambda: gateway.heard.stand(node.identity.node) == "not connected", timeout_s=4)
            response = await caller.read()
        assert b'"error"' in response.body
        assert gateway.links.failed["lost"] == 1


async def test_a_network_that_dies_silently_costs_a_caller_seconds(
    tmp_path: Path, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
):
    """No FIN, no RST: the link is asked, given up long before its heartbeats would, and another target answers."""
    monkeypatch.setattr("potluck.hub.node.QUIET_S", 0.2)
    monkeypatch.setattr("potluck.hub.node.GONE_S", 1.5)
    monkeypatch.setattr("potluck.hub.call.UNANSWERED_KEEPS_S", 0.5)
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=["stall;before=head"])
        first = gateway.on_node(node.identity.node, "stall;before=head")
        gateway.serve("m", first, gateway.target(fake.base_url, "ok"))
        alive = await gateway.node("lab-2", models=["ok;wait_ms=3000"])
        async with streaming(gateway, "ok;wait_ms=3000") as patient, streaming(gateway, "m") as caller:
            await gateway.until(lambda: node.running and alive.running)
            node.silent = True
            assert (await caller.read()).events == expected("ok", 5)
            assert gateway.links.failed["lost"] == 1
            assert (await patient.read()).status == 200, "a silent engine is no silent machine: its socket answers"
        assert alive.links
        assert not alive.ends


async def test_a_log_line_and_a_load_are_passed_on(tmp_path: Path):
    """With the round trip, once a PONG has come."""
    async with hub_gateway(tmp_path, terms=QUICK) as gateway:
        node = await gateway.node()
        core = node.links[0].core
        core.log(m.Log("warning", "the engine is slow"), time.monotonic() + 5)
        node.flush()
        await gateway.until(lambda: gateway.heard.reports[-1] == ("node_lab-1", "log", "warning: the engine is slow"))
        await gateway.until(lambda: gateway.links.nodes["node_lab-1"].sessions[0].core.rtt_s is not None)
        node.says(m.Load("ready", models=[m.ModelState("fake", "ok", resident=True)]))
        await gateway.until(lambda: gateway.heard.loads[-1][1].models)
        rtt_ms = gateway.heard.loads[-1][2]
        assert rtt_ms is not None
        assert 0 <= rtt_ms < 1000


async def test_a_stop_is_announced_with_a_spread_and_then_closes(tmp_path: Path):
    """Graceful first: no new calls, what runs ends; then `restart`, with the time over which to come back."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=[LONG], links=2)
        async with streaming(gateway, LONG) as caller:
            await gateway.until(lambda: node.running)
            gateway.links.leave()
            await gateway.until(lambda: all(link.goaway for link in node.links))
            assert [link.goaway.graceful for link in node.links if link.goaway] == [True, True]
            assert gateway.heard.stand(node.identity.node) == "its link is being closed"
            assert await refused_code(gateway.fake_node(gateway.enrol("lab-2"))) == "http 503"
            response = await caller.read()
        assert response.events == expected(LONG, 100)
        links = list(node.links)
        gateway.links.close()
        await gateway.until(lambda: not node.links)
        assert [(link.goaway.code, link.goaway.graceful) for link in links if link.goaway] == [("restart", False)] * 2
        assert all(link.goaway and link.goaway.spread_s >= 10 for link in links)


async def test_last_words_reach_a_node_and_a_deaf_one_is_cut(tmp_path: Path):
    """A peer that takes nothing costs its connection, a second later at most."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node()
        node.links[0].freeze()
        gateway.revoke(node.identity.node)
        await gateway.until(lambda: not gateway.links.sockets, timeout_s=3)


class _Shouting(FakeLink):
    """Says something large instead of HELLO."""

    def _hello(self) -> None:
        self.send_raw(b"x" * (m.MAX_EARLY_BYTES + 100))


async def test_the_scheme_is_the_trusted_proxys(tmp_path: Path):
    """Behind a proxy that ends TLS, the gateway claims the https origin under which the node enrolled."""
    async with hub_gateway(tmp_path) as gateway:
        gateway.links._trusted = [ipaddress.ip_network("127.0.0.0/8")]
        for proto in ("https", "http", "gopher"):
            async with gateway.caller() as caller:
                await caller.send(
                    f"GET /node/v1/link HTTP/1.1\r\nHost: {proto}.example\r\nUpgrade: websocket\r\n"
                    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {m.SUBPROTOCOL}\r\n"
                    f"X-Forwarded-Proto: {proto}\r\n\r\n".encode()
                )
                assert (await caller.read_head()).status == 101
        assert set(gateway.links._parties) == {"https://https.example", "http://http.example", "http://gopher.example"}
