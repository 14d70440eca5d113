"""Targets of declared models on nodes, and keys' own devices: through the API, through a file, and in the snapshot."""

from typing import Any

import httpx
import pytest
from joining import Machine, offering


async def lab(gateway: Any, api: httpx.AsyncClient, name: str = "lab-1") -> Machine:
    """An approved node that offers `q:7b`."""
    machine: Machine = await offering(gateway, api, name, "q:7b")
    return machine


async def declare(api: httpx.AsyncClient, *targets: dict[str, Any]) -> dict[str, Any]:
    await api.post("/api/v1/providers", json={"name": "lab", "base_url": "http://127.0.0.1:9/v1", "own": True})
    answer = await api.post("/api/v1/models", json={"name": "small", "targets": list(targets)})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_a_model_has_targets_at_providers_and_on_nodes(gateway: Any, api: httpx.AsyncClient) -> None:
    """In one list, in order; the snapshot has a place on each node that matches, also on one that comes later."""
    made = await declare(api, {"target": "lab/a"}, {"target": "node:*/q:7b", "weight": 3})
    assert [(each["target"], each["position"]) for each in made["targets"]] == [("lab/a", 0), ("node:*/q:7b", 1)]
    on_nodes = made["targets"][1]
    assert (on_nodes["provider"], on_nodes["provider_id"], on_nodes["price"]) == ("node:*", None, None)
    assert (on_nodes["capabilities"], on_nodes["slots"], on_nodes["weight"]) == ([], None, 3)
    assert [target.name for target in gateway.snapshots.current.models["small"].targets] == ["lab/a"]
    await lab(gateway, api)
    await lab(gateway, api, "rig")
    targets = gateway.snapshots.current.models["small"].targets
    assert [(each.name, each.weight) for each in targets] == [
        ("lab/a", 1),
        ("node:lab-1/q:7b", 3),
        ("node:rig/q:7b", 3),
    ]


async def test_targets_are_listed_changed_and_removed_alike(gateway: Any, api: httpx.AsyncClient) -> None:
    """One list of all, by pages; weight, tier and place can be changed; what is each node's own cannot."""
    made = await declare(api, {"target": "lab/a"}, {"target": "node:lab-1/q:7b"}, {"target": "lab/b"})
    ids = [each["id"] for each in made["targets"]]
    page = (await api.get("/api/v1/targets", params={"model": "small", "limit": 2})).json()
    rest = (await api.get("/api/v1/targets", params={"limit": 2, "cursor": page["next_cursor"]})).json()
    assert [each["id"] for each in page["data"] + rest["data"]] == sorted(ids)
    await lab(gateway, api)
    changed = await api.patch(f"/api/v1/targets/{ids[1]}", json={"weight": 5, "priority": 0})
    assert (changed.json()["weight"], changed.json()["priority"], changed.json()["target"]) == (5, 0, "node:lab-1/q:7b")
    assert [(each.weight, each.priority) for each in gateway.snapshots.current.models["small"].targets] == [
        (1, 0),
        (5, 0),
        (1, 2),
    ]
    for member, value in (("slots", 3), ("price", {"input": 1, "output": 1}), ("capabilities", ["chat"])):
        refused = await api.patch(f"/api/v1/targets/{ids[1]}", json={member: value})
        assert (refused.status_code, refused.json()["where"]) == (400, member)
    assert (await api.get(f"/api/v1/targets/{ids[1]}")).json() == changed.json()
    assert (await api.delete(f"/api/v1/targets/{ids[1]}")).status_code == 204
    assert (await api.get(f"/api/v1/targets/{ids[1]}")).status_code == 404
    assert [each.name for each in gateway.snapshots.current.models["small"].targets] == ["lab/a", "lab/b"]


async def test_a_list_of_targets_is_replaced_as_a_whole(api: httpx.AsyncClient) -> None:
    """A target that stays keeps its id, on nodes too; the same twice is refused."""
    made = await declare(api, {"target": "node:*/q"}, {"target": "lab/a"})
    ids = {each["target"]: each["id"] for each in made["targets"]}
    body = {"targets": [{"target": "lab/a"}, {"target": "node:rig/q"}, {"target": "node:*/q", "priority": 9}]}
    changed = (await api.patch("/api/v1/models/small", json=body)).json()["targets"]
    assert [each["target"] for each in changed] == ["lab/a", "node:rig/q", "node:*/q"]
    assert (changed[0]["id"], changed[2]["id"], changed[2]["priority"]) == (ids["lab/a"], ids["node:*/q"], 9)
    again = await api.post("/api/v1/targets", json={"model": "small", "target": "node:rig/q"})
    assert (again.status_code, again.json()["detail"]) == (409, "model 'small' has the target 'node:rig/q' already")
    assert (await api.delete("/api/v1/models/small")).status_code == 204
    assert (await api.get("/api/v1/targets")).json()["data"] == []


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"target": "node:lab-1"}, "names no node"),
        ({"target": "node:/q"}, "names no node"),
        ({"target": "node:lab-1/q", "slots": 2}, "has the slots of each node"),
        ({"target": "node:lab-1/q", "price": {"input": 1, "output": 1}}, "potluck nodes price"),
    ],
)
async def test_what_a_target_on_nodes_cannot_be(api: httpx.AsyncClient, target: dict[str, Any], said: str) -> None:
    """No node, or what is each node's own to say."""
    answer = await api.post("/api/v1/models", json={"name": "small", "targets": [target]})
    assert answer.status_code == 400
    assert said in answer.json()["detail"]


FILE = """
[[models]]
name = "small"
targets = [
  { target = "node:*/q:7b", weight = 2 },
  { target = "lab/a" },
  { target = "node:lab-1/q:7b", priority = 4 },
]

[[providers]]
name = "lab"
base_url = "http://127.0.0.1:9/v1"
own = true

[[keys]]
name = "desk"
own_device_priority = "own_first"
data_class = "private"

[[routes]]
name = "r"
match = { models = ["small"] }
constraints = { ignore = ["community", "node:old"] }
fallback = ["node:*", "node:rig/q:7b"]
"""


async def test_a_file_says_it_all(gateway: Any, api: httpx.AsyncClient) -> None:
    """Applied, it is what it says; applied again, or its own export applied, nothing changes; without it, it goes."""

    async def says(path: str, text: str) -> dict[str, Any]:
        answer = await api.post(f"/api/v1/config/{path}", json={"text": text})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    checked = await says("check", FILE)
    assert checked["problems"] == []
    applied = await says("apply", FILE)
    assert {each["message"].partition(";")[0] for each in applied["warnings"]} >= {
        "no node 'old' has enrolled (known: none)",
        "no node 'rig' has enrolled (known: none)",
    }
    assert (await says("apply", FILE))["changes"] == []
    text = (await api.get("/api/v1/config/export")).json()["text"]
    assert '{ target = "node:lab-1/q:7b", priority = 4 }' in text
    assert 'own_device_priority = "own_first"' in text
    assert 'data_class = "private"' in text
    assert (await says("diff", text))["changes"] == []
    await lab(gateway, api)
    current = gateway.snapshots.current
    assert [each.name for each in current.models["small"].targets] == ["lab/a", "node:lab-1/q:7b"]
    desk = {key.name: (key.own_devices, key.data_class) for key in current.keys.values()}["desk"]
    assert desk == ("own_first", "private")
    assert (await api.delete("/api/v1/targets/" + await _on_node(api))).status_code == 409
    gone = await says("apply", "")
    assert {(each["action"], each["kind"], each["name"]) for each in gone["changes"]} >= {("remove", "model", "small")}
    assert (await api.get("/api/v1/targets")).json()["data"] == []


async def test_a_target_on_a_node_that_is_not_there_is_a_warning(gateway: Any, api: httpx.AsyncClient) -> None:
    """At its place in the file, until the node has enrolled; a pattern means whoever comes."""
    text = """[[models]]
name = "small"
targets = [{ target = "node:*/x" }, { target = "node:lab-1/q:7b" }, { target = "node:nosuch/x" }]
"""

    async def warned() -> list[tuple[str, str]]:
        found = (await api.post("/api/v1/config/check", json={"text": text})).json()
        assert found["problems"] == []
        return [(each["where"], each["message"]) for each in found["warnings"]]

    assert await warned() == [
        ("models[0].targets[1].target", "no node 'lab-1' has enrolled (known: none)"),
        ("models[0].targets[2].target", "no node 'nosuch' has enrolled (known: none)"),
    ]
    await lab(gateway, api)
    assert await warned() == [("models[0].targets[2].target", "no node 'nosuch' has enrolled (known: lab-1)")]


async def _on_node(api: httpx.AsyncClient) -> str:
    targets = (await api.get("/api/v1/targets")).json()["data"]
    return str(next(each["id"] for each in targets if each["provider_id"] is None))


async def test_a_keys_own_devices_can_be_set(gateway: Any, api: httpx.AsyncClient) -> None:
    """When it is made and later; a change is in force at once."""

    def told() -> str:
        return str({key.name: key.own_devices for key in gateway.snapshots.current.keys.values()}["desk"])

    made = (await api.post("/api/v1/keys", json={"name": "desk", "own_device_priority": "own_only"})).json()
    assert (made["own_device_priority"], told()) == ("own_only", "own_only")
    changed = (await api.patch("/api/v1/keys/desk", json={"own_device_priority": "off"})).json()
    assert (changed["own_device_priority"], told()) == ("off", "off")
    assert (await api.patch("/api/v1/keys/desk", json={"own_device_priority": "mine"})).status_code == 400


@pytest.mark.parametrize(
    ("project", "key", "counts"),
    [
        ("standard", None, "standard"),
        ("standard", "private", "private"),
        ("private", "open", "private"),
        ("open", "standard", "standard"),
        ("open", "open", "open"),
    ],
)
async def test_the_stricter_class_of_key_and_project_counts(
    gateway: Any, api: httpx.AsyncClient, project: str, key: str | None, counts: str
) -> None:
    """At once when the key is made, when it is changed, and when its project is; `null` gives its project's back."""

    def told() -> tuple[str, bool]:
        (found,) = [each for each in gateway.snapshots.current.keys.values() if each.name == "desk"]
        return found.data_class, found.scope == found.project_id

    await api.post("/api/v1/projects", json={"name": "p", "data_class": "open"})
    made = (await api.post("/api/v1/keys", json={"name": "desk", "project": "p", "data_class": key})).json()
    assert made["data_class"] == key
    await api.patch("/api/v1/projects/p", json={"data_class": project})
    assert told() == (counts, counts == project)
    back = (await api.patch("/api/v1/keys/desk", json={"data_class": None})).json()
    assert (back["data_class"], told()) == (None, (project, True))
    await api.patch("/api/v1/keys/desk", json={"data_class": key})
    assert told() == (counts, counts == project)
    assert (await api.patch("/api/v1/keys/desk", json={"data_class": "secret"})).status_code == 400


async def test_a_node_that_a_route_names_keeps_its_name(gateway: Any, api: httpx.AsyncClient) -> None:
    """Renaming it is refused with the route to change; one that nothing names is renamed, and revoking is always."""
    machine = await lab(gateway, api)
    await declare(api, {"target": "node:*/q:7b"})
    body = {"name": "r", "constraints": {"only": ["node:lab-1"]}, "fallback": ["node:lab-1/q:7b"]}
    assert (await api.post("/api/v1/routes", json=body)).status_code == 201
    renamed = await api.patch(f"/api/v1/nodes/{machine.node}", json={"name": "lab-2"})
    assert (renamed.status_code, renamed.json()["code"]) == (409, "in_use")
    assert (await api.delete("/api/v1/routes/r")).status_code == 204
    assert (await api.patch(f"/api/v1/nodes/{machine.node}", json={"name": "lab-2"})).status_code == 200
    assert [each.name for each in gateway.snapshots.current.models["small"].targets] == ["node:lab-2/q:7b"]


async def test_an_alias_hides_no_node(api: httpx.AsyncClient) -> None:
    """An alias that reads as a pin of a node is refused, whether the node is there or not."""
    body = {"name": "small", "targets": [{"target": "node:*/q"}], "aliases": ["node:lab-9/q"]}
    answer = await api.post("/api/v1/models", json=body)
    assert (answer.status_code, answer.json()["where"]) == (409, "aliases")
