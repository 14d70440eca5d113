"""Nodes as targets of a whole gateway: declared, classed, owned, refusing, reported."""

from pathlib import Path
from typing import Any

from test_hub_gateway import chat, enrol, machine, until

from potluck.conformance.node import FakeNode
from potluck.conformance.process import GatewayProcess, point_at
from potluck.conformance.provider import FakeProvider

MODEL = "small"
FREE = {"input": 0, "output": 0}


async def joined(gateway: GatewayProcess, name: str, *models: str, **token: Any) -> FakeNode:
    """A fake node that serves these models, its offer in force."""
    node = machine(gateway, *await enrol(gateway, name, **token), models=list(models))
    await node.dial()
    await until(lambda: node.acked == node.revision)
    return node


async def target_of(gateway: GatewayProcess, model: str, **potluck: Any) -> tuple[int, str]:
    """Status and `x-potluck-target`, or the error's code."""
    answer = await chat(gateway, model, **({"potluck": potluck} if potluck else {}))
    return answer.status, answer.header("x-potluck-target") or answer.json["error"]["code"]


async def test_a_model_on_nodes_and_a_provider(tmp_path: Path) -> None:
    """Declared before anybody enrols: the provider answers; then the node; then, when it is gone, the provider again.
    Own data stays on it, a community node is for open data alone, and reports know nodes by name."""
    async with (
        FakeProvider() as fake,
        GatewayProcess(tmp_path / "home", point_at(fake).replace("own = true\n", "")) as gateway,
    ):
        await gateway.ready()
        paid = {"target": "fake/ok", "price": {"input": 1, "output": 1}}
        body = {"name": MODEL, "targets": [{"target": "node:*/ok"}, paid]}
        assert (await gateway.api("POST", "/models", body)).status == 201
        assert await target_of(gateway, MODEL) == (200, "fake/ok")

        lab = await joined(gateway, "lab-1", "ok")
        assert await target_of(gateway, MODEL) == (200, "node:lab-1/ok")
        assert await target_of(gateway, MODEL, data_class="private") == (200, "node:lab-1/ok")
        assert await target_of(gateway, MODEL, only=["provider"]) == (200, "fake/ok")
        guest = await joined(gateway, "guest", "ok", community=True, needs_approval=False)
        assert (await gateway.api("PUT", "/nodes/guest/prices", {"model": "ok", "price": FREE})).status < 300
        assert await target_of(gateway, "node:guest/ok") == (503, "no_target_available")
        assert (await gateway.api("PATCH", "/projects/default", {"data_class": "open"})).status == 200
        assert await target_of(gateway, "node:guest/ok") == (200, "node:guest/ok")
        assert await target_of(gateway, "node:guest/ok", data_class="standard") == (503, "no_target_available")

        await lab.stop()
        await until(lambda: _is_away(gateway, "node:lab-1/ok"))
        assert await target_of(gateway, MODEL, data_class="private") == (503, "no_target_available")
        assert await target_of(gateway, MODEL, data_class="standard") == (200, "fake/ok")

        await until(lambda: _is_reported(gateway, {"lab-1": 2, "guest": 1}))
        assert (await _usage(gateway, "provider")).keys() >= {"node:lab-1", "fake"}
        await guest.stop()


async def _is_away(gateway: GatewayProcess, target: str) -> bool:
    states = (await gateway.api("GET", f"/target-states?target={target}")).json["data"]
    return [each["state"] for each in states] == ["away"]


async def _is_reported(gateway: GatewayProcess, by_node: dict[str, int]) -> bool:
    return await _usage(gateway, "node") == by_node


async def _usage(gateway: GatewayProcess, by: str) -> dict[str, int]:
    rows = (await gateway.api("GET", f"/usage?by={by}&since=1d")).json["data"]
    return {row[by]: row["requests"] for row in rows}
