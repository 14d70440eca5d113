"""Rows → nodes as targets: places, endpoints, prices, names, and what only a few rows of them compile again."""

import asyncio
import json
import time
from typing import Any

import pytest
from snapshot_rows import PATHS, Rows

from potluck.model.node import NodePlace
from potluck.model.snapshot import CompiledModel, Snapshot
from potluck.snapshot import Change

LAB = "http://10.0.0.7:8000/v1"


def tiers(model: CompiledModel) -> list[tuple[str, int]]:
    return [(target.name, target.priority) for target in model.targets]


def test_a_node_is_a_place_like_any_other(rows: Rows) -> None:
    """A target that says where, with the slots of the machine, no credential and no address."""
    node_id = rows.node("lab", {"engine": "e", "name": "m", "paths": list(PATHS), "context_tokens": 4096})
    (target,) = rows.source().current.pins["node:lab/m"].targets
    assert (target.name, target.provider, target.provider_id) == ("node:lab/m", "node:lab", node_id)
    assert (target.upstream, target.node, target.place) == ("hub", NodePlace(node_id, "e", "m"), "node_lab e m")
    assert (target.own, target.community, target.slots, target.credential_id) == (True, False, 4, None)
    assert (target.endpoint.host, target.endpoint.timeouts.first_byte_s) == ("", 120.0)
    assert (target.assistant_prefix, target.unroutable, target.price.input) == ("plain", "", 0)
    for head in target.heads.values():
        assert {name for name, _ in head.headers} == {"content-type", "accept"}
        assert (head.method, head.path.startswith("/v1/"), head.wire) == ("POST", True, b"")


@pytest.mark.parametrize(
    ("paths", "capabilities", "served"),
    [
        (PATHS, (), ["chat", "completions", "embeddings"]),
        (PATHS, ("chat", "tools", "vision"), ["chat"]),
        (PATHS, ("embeddings",), ["embeddings"]),
        (("/v1/chat/completions",), (), ["chat"]),
        (("/v1/chat/completions", "/v1/responses"), (), ["chat"]),
        (("/v1/chat/completions", "/v1/responses"), ("chat", "responses"), ["chat", "responses"]),
        (("/v1/rerank",), ("rerank",), []),
    ],
)
def test_a_model_serves_what_it_does_and_its_engine_has(
    rows: Rows, paths: tuple[str, ...], capabilities: tuple[str, ...], served: list[str]
) -> None:
    """Endpoints are those that both sides have; of a model that says nothing, the usual ones."""
    rows.node("lab", {"engine": "e", "name": "m", "paths": list(paths), "capabilities": list(capabilities)})
    (target,) = rows.source().current.pins["node:lab/m"].targets
    assert list(target.heads) == served


ASKED = {"input": 200, "output": 400}


@pytest.mark.parametrize(
    ("columns", "asked", "price", "reason"),
    [
        ({}, None, (0, 0), ""),
        ({"community": True}, None, None, "no price: potluck nodes price lab m"),
        ({}, ASKED, None, "it asks 0.0000002/0.0000004 USD per million tokens"),
        (
            {},
            {"input": 10**15, "output": 0},
            None,
            "it asks 1000000/0 USD per million tokens, and its join token allows 0/0:",
        ),
        ({"max_price": ASKED}, ASKED, (200, 400), ""),
        ({"max_price": {"input": 200, "output": 399}}, ASKED, None, "its join token allows 0.0000002/0.000000399"),
        ({"community": True}, ASKED, None, "its join token names no ceiling: potluck nodes price lab m"),
        ({"community": True, "max_price": ASKED}, ASKED, (200, 400), ""),
        ({"community": True, "max_price": {"input": 1, "output": 1}}, ASKED, None, "it asks"),
        ({"community": True, "prices": {"m": {"input": 7, "output": 8}}}, ASKED, (7, 8), ""),
        ({"prices": {"m": {"input": 7, "output": 8}}}, None, (7, 8), ""),
        ({"prices": {"other": {"input": 7, "output": 8}}}, None, (0, 0), ""),
    ],
)
def test_what_a_machine_costs(
    rows: Rows, columns: dict[str, Any], asked: dict[str, int] | None, price: tuple[int, int] | None, reason: str
) -> None:
    """Set at the gateway, else announced within the ceiling, else 0 for own machines; never free by mistake."""
    rows.node("lab", {"engine": "e", "name": "m", "paths": list(PATHS), "price": asked}, **columns)
    (target,) = rows.source().current.pins["node:lab/m"].targets
    assert (target.price and (target.price.input, target.price.output)) == price
    assert reason in target.unroutable
    assert bool(target.unroutable) == (price is None)


def test_a_price_version_is_written_in_one_way_for_ever(rows: Rows) -> None:
    """Records refer to prices by it, however they are shown to people."""
    rows.node("lab", "m", prices={"m": {"input": 10**15, "output": 0}})
    (target,) = rows.source().current.pins["node:lab/m"].targets
    assert target.price is not None
    assert target.price.version == "node:1000000.0/0.0"


def test_only_approved_nodes_are_places(rows: Rows) -> None:
    """A pending node is known to the hub and nothing can be sent there; a drained one is listed and not called."""
    rows.node("new", "m", state="pending")
    rows.node("old", "m", state="revoked", revoked_at_ms=5)
    rows.node("lab", "m", drained=True)
    current = rows.source().current
    assert {node.name: node.approved for node in current.nodes.values()} == {"new": False, "lab": True}
    assert _names(current) == {"node:lab/m"}
    assert current.pins["node:lab/m"].targets[0].unroutable == "drained by the operator"
    assert current.nodes["node_lab"].keys == {"nky_lab": b"lab".ljust(32, b".")}


def test_own_machines_with_one_model_are_one_tier(rows: Rows) -> None:
    """Undeclared names merge by age as providers' do; among own nodes, nobody is first."""
    rows.node("lab", "m")
    server = rows.provider("server", LAB, own=True)
    rows.write("INSERT INTO provider_models VALUES (?, 'm', 1)", values=(server,))
    rows.node("rig", "m", "only-rig")
    models = rows.source().current.models
    assert tiers(models["m"]) == [("node:lab/m", 0), ("node:rig/m", 0), ("server/m", 1)]
    assert tiers(models["only-rig"]) == [("node:rig/only-rig", 0)]
    assert not models["m"].declared


def test_no_machine_offers_a_name_that_reads_as_somebody_elses_pin(rows: Rows) -> None:
    """`server/other` at a node is no way to become the server's, which has no such model; the node's own pin works."""
    rows.provider("server", LAB, own=True)
    rows.node("rig", "m")
    rows.node("lab", "server/other", "node:rig/other", "meta/other", "server")
    current = rows.source().current
    assert set(current.models) >= {"meta/other", "server", "m"}
    assert not {"server/other", "node:rig/other"} & set(current.models)
    assert {"node:lab/server/other", "node:lab/node:rig/other", "node:lab/meta/other"} <= _names(current)


def test_a_strangers_machine_is_reached_by_naming_it_only(rows: Rows) -> None:
    """Its names become no public models and join none; a pin, and a target that somebody declared, reach it."""
    rows.node("lab", "m")
    rows.node("guest", "m", "rare", community=True, prices={"m": {"input": 0, "output": 0}})
    rows.model("mine")
    rows.node_target("mine", "*", "m")
    current = rows.source().current
    assert tiers(current.models["m"]) == [("node:lab/m", 0)]
    assert "rare" not in current.models
    assert current.pins["node:guest/m"].targets[0].community
    assert [name for name, _ in tiers(current.models["mine"])] == ["node:lab/m", "node:guest/m"]


def test_a_declared_target_means_all_nodes_of_its_name(rows: Rows) -> None:
    """Names and patterns; those that offer the model; its tier and weight for each."""
    rows.node("lab-1", "m")
    rows.node("lab-2", "m")
    rows.node("lab-3", "other")
    rows.node("rig", "m")
    openai = rows.provider("openai")
    rows.model("mine", (openai, "gpt-4o-mini"))
    rows.node_target("mine", "lab-*", "m", 1, weight=3)
    rows.node_target("mine", "rig", "m", 2, priority=0)
    targets = rows.source().current.models["mine"].targets
    assert [(target.name, target.priority, target.weight) for target in targets] == [
        ("openai/gpt-4o-mini", 0, 1),
        ("node:lab-1/m", 1, 3),
        ("node:lab-2/m", 1, 3),
        ("node:rig/m", 0, 1),
    ]


def test_a_node_stands_once_in_a_model(rows: Rows) -> None:
    """By the target with its very name, wherever that is in the list; else by the first pattern."""
    rows.node("lab-1", "m", "n")
    rows.node("lab-2", "m")
    rows.model("mine")
    for position, (node, model) in enumerate((("*", "m"), ("lab-*", "m"), ("lab-2", "m"), ("lab-*", "n"))):
        rows.node_target("mine", node, model, position)
    assert tiers(rows.source().current.models["mine"]) == [
        ("node:lab-1/m", 0),
        ("node:lab-2/m", 2),
        ("node:lab-1/n", 3),
    ]


async def test_later_nodes_join_by_themselves(rows: Rows) -> None:
    """A declared model without a node is there and has no target; the first node that offers it makes one."""
    rows.model("mine")
    rows.node_target("mine", "*", "m")
    source = rows.source()
    assert source.current.models["mine"].targets == ()
    node_id = rows.node("lab", "m")
    await source.refresh(Change(rows.version, nodes=frozenset({node_id})))
    assert [target.name for target in source.current.models["mine"].targets] == ["node:lab/m"]


def test_private_weights_do_not_go_to_strangers(rows: Rows) -> None:
    """A model of `placement = "own"` is barred on community nodes, and served by own ones."""
    rows.node("lab", "m")
    rows.node("guest", "m", community=True, prices={"m": {"input": 0, "output": 0}})
    rows.model("mine", placement="own")
    rows.node_target("mine", "*", "m")
    barred = {target.name: target.unroutable for target in rows.source().current.models["mine"].targets}
    assert barred == {"node:lab/m": "", "node:guest/m": "its weights are private: own infrastructure only"}


async def test_a_changed_node_leaves_the_others_as_they_were(rows: Rows) -> None:
    """Only the nodes that a change names are worked out again, and an offer that changed is in force."""
    lab = rows.node("lab", "m")
    rig = rows.node("rig", "m")
    source = rows.source()
    before = source.current
    offer = {"models": [{"engine": "e", "name": "n", "paths": list(PATHS)}], "engines": [], "slots": 2}
    rows.write("UPDATE nodes SET offer = ? WHERE id = ?", values=(json.dumps(offer), lab))
    await source.refresh(Change(rows.version, nodes=frozenset({lab})))
    after = source.current
    assert after.pins["node:rig/m"] is before.pins["node:rig/m"]
    assert after.nodes[rig] is before.nodes[rig]
    assert _names(after) == {"node:lab/n", "node:rig/m"}
    rows.write("UPDATE nodes SET revoked_at_ms = 1, state = 'revoked' WHERE id = ?", values=(rig,))
    await source.refresh(Change(rows.version, nodes=frozenset({rig})))
    assert (_names(source.current), set(source.current.nodes)) == ({"node:lab/n"}, {lab})


async def test_a_rotated_key_counts_until_its_time(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both keys are known while they overlap; when the old one's time is over, the hub forgets it without a write."""
    monkeypatch.setattr("potluck.snapshot.source.POLL_S", 0.02)
    rows.node(
        "lab",
        previous_key_id="nky_old",
        previous_public_key=b"o" * 32,
        previous_until_ms=int(time.time() * 1000) + 400,
    )
    source = rows.source()
    assert list(source.current.nodes["node_lab"].keys) == ["nky_lab", "nky_old"]
    watching = asyncio.ensure_future(source.watch())
    try:
        async with asyncio.timeout(10):
            while "nky_old" in source.current.nodes["node_lab"].keys:
                await asyncio.sleep(0.02)
    finally:
        watching.cancel()


def test_a_model_of_two_engines_is_the_first_ones(rows: Rows) -> None:
    """A target's name says node and model: one place stands behind it."""
    rows.node(
        "lab",
        {"engine": "a", "name": "m", "paths": ["/v1/chat/completions"]},
        {"engine": "b", "name": "m", "paths": list(PATHS)},
    )
    (target,) = rows.source().current.pins["node:lab/m"].targets
    assert (target.place, list(target.heads)) == ("node_lab a m", ["chat"])


def _names(current: Snapshot) -> set[str]:
    return {name for name in current.pins if name.startswith("node:")}
