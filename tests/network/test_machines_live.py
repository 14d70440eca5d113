"""What machines learn of the requests that go to them, over real links; and where the next ones go."""

import asyncio
from pathlib import Path

import pytest
from hub_rig import ENGINE, HubGateway, hub_gateway

from potluck.model.node import place_of
from potluck.policy.calibration import FEW_SAMPLES
from potluck.policy.machines import Machine


def machine(gateway: HubGateway, model: str, name: str = "lab-1") -> Machine:
    return gateway.plane.registry.machine(place_of(f"node_{name}", ENGINE, model))


async def answer(gateway: HubGateway, model: str, **members: object) -> tuple[int, str | None]:
    """Status and target of one request."""
    async with gateway.caller(timeout_s=30) as caller:
        await caller.send(gateway.request(model, **members))
        response = await caller.read()
        return response.status, response.header("x-potluck-target")


async def test_answers_teach_a_machine_its_speed(tmp_path: Path):
    """Streams tell how fast it writes; afterwards nothing is in flight and nothing is ahead."""
    async with hub_gateway(tmp_path) as gateway:
        await gateway.node(models=["ok;chunks=40"])
        made = machine(gateway, "ok;chunks=40")
        assert made.own_decode_ms(gateway.plane.now) is None
        for _ in range(FEW_SAMPLES):
            assert (await answer(gateway, "ok;chunks=40", stream=True))[0] == 200
        assert (await answer(gateway, "ok;chunks=40"))[0] == 200
        assert 0 < (made.own_decode_ms(gateway.plane.now) or 0) < 100
        assert (made.in_flight, made.busy, made.host.ahead_ms) == (0, 0, 0)


@pytest.mark.parametrize(("model", "ahead"), [("stall;before=head", True), ("stall", False)])
async def test_a_call_counts_until_its_caller_leaves(tmp_path: Path, model: str, ahead: bool):
    """It is in flight while it runs, its prompt ahead of others until content comes, and nothing after a hang-up."""
    async with hub_gateway(tmp_path) as gateway:
        await gateway.node(models=[model])
        made = machine(gateway, model)
        async with gateway.caller() as caller:
            await caller.send(gateway.request(model, stream=True))
            await gateway.until(lambda: made.in_flight == 1 and (made.host.ahead_ms > 0) == ahead)
        await gateway.until(lambda: made.in_flight == 0)
        assert made.host.ahead_ms == 0
        assert not made.set_aside(gateway.plane.now)


async def test_a_machine_that_refuses_is_set_aside_and_one_that_fails_is_not(tmp_path: Path):
    """Both requests are answered by the other node; a failure is the breaker's matter."""
    async with hub_gateway(tmp_path) as gateway:
        for name, model in (("lab-1", "refuse"), ("lab-2", "ok"), ("lab-3", "error")):
            await gateway.node(name, models=[model])
        for public, first in (("m", ("lab-1", "refuse")), ("n", ("lab-3", "error"))):
            gateway.serve(
                public,
                gateway.on_node(f"node_{first[0]}", first[1], priority=1),
                gateway.on_node("node_lab-2", "ok", priority=2),
            )
            assert await answer(gateway, public) == (200, "node:lab-2/ok")
        now = asyncio.get_running_loop().time()
        assert machine(gateway, "refuse", "lab-1").set_aside(now)
        assert not machine(gateway, "error", "lab-3").set_aside(now)
        for name, model in (("lab-1", "refuse"), ("lab-2", "ok"), ("lab-3", "error")):
            assert machine(gateway, model, name).busy == 0


async def test_a_conversation_goes_on_where_it_began(tmp_path: Path):
    """Two nodes as good as each other: what shares its beginning meets the same one, other prompts meet both."""
    async with hub_gateway(tmp_path) as gateway:
        for name in ("lab-1", "lab-2"):
            await gateway.node(name, models=["ok"])
            machine(gateway, "ok", name).report(
                reported_at=gateway.plane.now, resident=True, prefill_tps=50.0, decode_tps=50.0, slots=8
            )
        gateway.serve("m", *(gateway.on_node(f"node_{name}", "ok", priority=1) for name in ("lab-1", "lab-2")))

        async def where(text: str) -> str | None:
            messages = [{"role": "user", "content": text}]
            status, target = await answer(gateway, "m", messages=messages)
            assert status == 200
            return target

        long = "word " * 2_000
        first = await where(long)
        assert {await where(f"{long} and {n}") for n in range(12)} == {first}
        assert len({await where(f"{n} {long}") for n in range(24)}) == 2
