"""A stranger's node that says 400 to everything: its callers are served by others, and it is found out."""

from pathlib import Path

import msgspec
import pytest
from hub_rig import HubGateway, hub_gateway

from potluck.conformance import answers
from potluck.conformance.node_plays import NodeCall
from potluck.conformance.provider import FakeProvider
from potluck.policy.breaker import RUN
from potluck.policy.objections import BELIEVED_IN_A_ROW

STRANGER = {"community": True, "own": False}


def open_to_strangers(gateway: HubGateway) -> None:
    """The caller's requests may go to community nodes."""
    key = msgspec.structs.replace(gateway.snapshots.key, data_class="open")
    gateway.snapshots.swap(keys=dict.fromkeys(gateway.snapshots.current.keys, key))


async def ask(gateway: HubGateway, model: str = "m", **members: object) -> tuple[int, str | None, bytes]:
    """Status, target and body."""
    async with gateway.caller(timeout_s=30) as caller:
        await caller.send(gateway.request(model, **members))
        response = await caller.read()
        return response.status, response.header("x-potluck-target"), response.body


async def choosy(call: NodeCall) -> None:
    """Answers; `top_k` is beyond it."""
    call.accept()
    if "top_k" in call.asked:
        call.head(400)
        await call.data(answers.error(400, "top_k is beyond it"))
    else:
        call.head()
        await call.data(answers.completion("choosy"))
    call.end()


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_node_that_lays_all_at_its_callers_door_ends_no_request(
    tmp_path: Path, fake: FakeProvider, status: int
):
    """Each request is answered by the next target, until the node's breaker keeps it out of the way."""
    async with hub_gateway(tmp_path) as gateway:
        open_to_strangers(gateway)
        model = f"error;status={status}"
        node = await gateway.node(models=[model])
        target = gateway.on_node(node.identity.node, model, **STRANGER)
        gateway.serve("m", target, gateway.target(fake.base_url, "ok"))
        lane = gateway.plane.registry.lane(target)
        for n in range(RUN):
            assert lane.breaker.state == "closed", n
            assert (await ask(gateway))[:2] == (200, "fake/ok")
        assert lane.breaker.state == "open"
        attempt = gateway.spool.records[0].attempts[0]
        assert (attempt.error_class, attempt.status) == ("target_down", status)


async def test_a_callers_own_fault_comes_through_from_a_node_that_serves(tmp_path: Path, fake: FakeProvider):
    """It is told as the engine said it, nobody else is asked, and nothing is held against the node."""
    async with hub_gateway(tmp_path) as gateway:
        open_to_strangers(gateway)
        node = await gateway.node(models=["choosy"])
        node.plays["choosy"] = choosy
        target = gateway.on_node(node.identity.node, "choosy", **STRANGER)
        gateway.serve("m", target, gateway.target(fake.base_url, "ok"))
        for _ in range(3):
            assert (await ask(gateway))[:2] == (200, "node:lab-1/choosy")
            for _ in range(BELIEVED_IN_A_ROW):
                status, _, body = await ask(gateway, top_k=1)
                assert (status, b"top_k is beyond it" in body) == (400, True), body
        assert not [each for each in gateway.spool.records if len(each.attempts) > 1]
        assert not gateway.plane.registry.lane(target).troubled


async def test_the_last_one_asked_is_passed_on_and_nothing_is_held_against_it(tmp_path: Path):
    """A node alone, and a caller who is wrong again and again: a 400 each time, and no breaker opens."""
    async with hub_gateway(tmp_path) as gateway:
        open_to_strangers(gateway)
        node = await gateway.node(models=["choosy"])
        node.plays["choosy"] = choosy
        target = gateway.on_node(node.identity.node, "choosy", **STRANGER)
        gateway.serve("m", target)
        for _ in range(2 * RUN):
            status, _, body = await ask(gateway, top_k=1)
            assert (status, b"top_k is beyond it" in body) == (400, True), body
        assert not gateway.plane.registry.lane(target).troubled
        assert (await ask(gateway))[0] == 200


async def test_an_own_machine_is_believed_at_once(tmp_path: Path, fake: FakeProvider):
    """Its first word on the first request is the caller's answer, as a provider's is."""
    async with hub_gateway(tmp_path) as gateway:
        node = await gateway.node(models=["choosy"])
        node.plays["choosy"] = choosy
        gateway.serve("m", gateway.on_node(node.identity.node, "choosy"), gateway.target(fake.base_url, "ok"))
        assert (await ask(gateway, top_k=1))[0] == 400
        assert len(gateway.spool.records[0].attempts) <= 1
