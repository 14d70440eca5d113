"""A node that means harm, against a data plane with a hub: what it sends costs its own link time, and nobody else's."""

import asyncio
import contextlib
import ipaddress
import json
from pathlib import Path

import pytest
from hub_rig import hub_gateway

from potluck.conformance.node_plays import NodeCall
from potluck.wire import link_frames as f
from potluck.wire import link_messages as m

FRAMES = 40_000
PER_TURN = 2_000
"""frames; one read of the event loop has more than nine thousand of the smallest"""


async def test_many_small_frames_do_not_hold_up_the_event_loop(tmp_path: Path):
    """A megabyte of one-byte DATA is read in short turns, others come in between, and the link is still good."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=["hostile", "ok"])
        most = 0

        async def floods(call: NodeCall) -> None:
            nonlocal most
            call.job.accept()
            call.job.head(200, [("content-type", "application/json")])
            call.job.data(b"{")
            node.pump(call.job)
            link = node.links[0]
            for _ in range(FRAMES):
                link._proto.send_binary(f.data_frame(call.job.stream, 0, b"{"))
            link._write()
            session = gateway.links.nodes[node.identity.node].sessions[0]
            first = before = session.frames_received
            while before < first + FRAMES:
                await asyncio.sleep(0)
                most = max(most, session.frames_received - before)
                before = session.frames_received
            call.job.reset("engine_failed")
            node.pump(call.job)

        node.plays["hostile"] = floods
        for model, status in (("hostile", 502), ("ok", 200)):
            async with gateway.caller(timeout_s=30) as caller:
                await caller.send(gateway.request(model))
                assert (await caller.read()).status == status
        assert 0 < most < PER_TURN
        assert node.links


async def test_a_stranger_behind_the_proxy_shuts_out_no_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Who has not proved itself is counted by the address that the trusted proxy saw, not by the proxy's."""
    monkeypatch.setattr("potluck.hub.links.MAX_UNPROVEN_PER_PREFIX", 2)
    dialled = [("203.0.113.1", 101), ("203.0.113.2", 101), ("203.0.113.3", 503), ("198.51.100.1", 101)]
    async with hub_gateway(tmp_path) as gateway, contextlib.AsyncExitStack() as stack:
        gateway.links._trusted = [ipaddress.ip_network("127.0.0.0/8")]
        for address, status in dialled:
            caller = await stack.enter_async_context(gateway.caller())
            await caller.send(
                f"GET /node/v1/link HTTP/1.1\r\nHost: {gateway.host}:{gateway.port}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Protocol: {m.SUBPROTOCOL}\r\nX-Forwarded-For: {address}\r\n\r\n".encode()
            )
            assert (await caller.read_head()).status == status


async def test_a_node_is_not_paid_for_what_it_cannot_have_done(tmp_path: Path):
    """A trillion tokens in an answer of a few bytes, plain or streamed: recorded is what sizes and time allow."""
    counts = {"prompt_tokens": 10**12, "completion_tokens": 10**12, "total_tokens": 2 * 10**12}
    choice = {"index": 0, "finish_reason": "stop"}
    said = {"id": "x", "object": "chat.completion", "created": 1, "model": "hostile", "usage": counts}
    plain = json.dumps({**said, "choices": [{**choice, "message": {"role": "assistant", "content": "hi"}}]})
    chunk = json.dumps({**said, "choices": [{**choice, "delta": {"role": "assistant", "content": "hi"}}]})
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=["plain", "streamed"])

        async def lies(call: NodeCall) -> None:
            streams = call.asked.get("stream")
            call.job.accept()
            call.job.head(200, [("content-type", "text/event-stream" if streams else "application/json")])
            call.job.data((f"data: {chunk}\n\ndata: [DONE]\n\n" if streams else plain).encode())
            call.job.end()
            node.pump(call.job)

        for model in node.models:
            node.plays[model] = lies
            async with gateway.caller(timeout_s=10) as caller:
                await caller.send(gateway.request(model, stream=model == "streamed"))
                assert (await caller.read()).status == 200
            record = await gateway.record(model)
            assert record.usage is not None
            assert record.usage.estimated
            assert record.usage.input_tokens < 20_000
            assert record.usage.output_tokens < 11_000
