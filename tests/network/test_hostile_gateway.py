"""A gateway that means harm, against an agent: it reaches nothing that was not offered, nor sends the node away."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agent_rig import rigged, until

from potluck.conformance.engines import CHAT, FakeEngine
from potluck.node import dialing
from potluck.node.settings import NodeSettings


def owner(engine: FakeEngine) -> NodeSettings:
    return NodeSettings(engines=(engine.base_url,), discover=False, page_port=0)


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine("openai-compatible") as found:
        yield found


@pytest.mark.parametrize(
    "content_type",
    ["application/x-www-form-urlencoded", "application/json; charset=utf-16", "multipart/form-data; boundary=x"],
)
async def test_a_body_is_read_by_the_engine_as_it_was_checked(
    engine: FakeEngine, tmp_path: Path, content_type: str
) -> None:
    """The agent looked at JSON; as a form, the same bytes name a model that is not offered."""
    body = json.dumps({"model": CHAT, "user": "&model=huge:cloud&x=", "messages": []}).encode()
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        await rig.gateway.open(CHAT, body, headers=[("content-type", content_type)]).over()
    (heard,) = [each for each in engine.requests if each.method == "POST"]
    assert heard.header("content-type") == b"application/json"


async def test_no_gateway_sends_a_node_away_for_a_day(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever answers at the address may say any `spread_s`, before it has proved to be anybody."""
    waits: list[float] = []
    monkeypatch.setattr(dialing.random, "uniform", lambda _low, high: waits.append(high) or 0.05)  # type: ignore[func-returns-value]
    async with rigged(tmp_path, owner(engine)) as rig:
        await rig.ready()
        waits.clear()
        for link in tuple(rig.gateway.links):
            link.core.close("restart", "", asyncio.get_running_loop().time(), 86_400.0)
            link.wake.set()
        await until(lambda: len(waits) >= 2)
    assert max(waits) == dialing.MAX_SPREAD_S
