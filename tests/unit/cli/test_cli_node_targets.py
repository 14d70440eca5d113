"""`potluck model` with targets on nodes, and `potluck key own-devices`, against a real control plane."""

import json
from collections.abc import Callable

Ok = Callable[..., str]


def test_targets_on_nodes_are_added_changed_and_kept(ok: Ok) -> None:
    """Weight and tier are set like any other's; a change of the list leaves them as they are."""
    assert "node:*/q:7b" in ok("model", "update", "small", "--add-target", "node:*/q:7b")
    said = ok("model", "target", "small", "node:*/q:7b", "--weight", "3", "--priority", "0")
    assert said.startswith("target node:*/q:7b of model small is changed: weight 3, priority 0")
    ok("model", "update", "small", "--remove-target", "lab/b")
    targets = json.loads(ok("model", "update", "small", "--add-target", "node:rig/q:7b", "--json"))["targets"]
    assert [(each["target"], each["weight"]) for each in targets] == [
        ("lab/a", 1),
        ("node:*/q:7b", 3),
        ("node:rig/q:7b", 1),
    ]
    assert "has the slots of each node" in ok("model", "target", "small", "node:*/q:7b", "--slots", "2", fails=1)


def test_a_model_on_nodes_alone_is_there_before_they_are(ok: Ok) -> None:
    """Nobody has enrolled: it is listed, and has no target yet."""
    ok("model", "create", "fleet", "--target", "node:*/q:7b")
    assert json.loads(ok("model", "show", "fleet", "--json"))["targets"] == []
    assert "not routable" in ok("model", "list", "fleet")


def test_own_devices_of_a_key(ok: Ok) -> None:
    """Set when it is made, shown, and changed later."""
    made = json.loads(ok("key", "create", "desk", "--own-devices", "own_only", "--json"))
    assert made["own_device_priority"] == "own_only"
    assert ok("key", "own-devices", "desk", "own_first") == "API key desk: own devices own_first\n"
    assert json.loads(ok("key", "own-devices", "desk", "off", "--json"))["own_device_priority"] == "off"
    (line,) = [line for line in ok("key", "show", "desk").splitlines() if line.startswith("own devices")]
    assert line.split()[-1] == "off"


def test_the_data_class_of_a_key(ok: Ok) -> None:
    """Set when it is made, shown, changed later, and left to its project again."""
    made = json.loads(ok("key", "create", "desk", "--data-class", "private", "--json"))
    assert made["data_class"] == "private"
    assert ok("key", "data-class", "desk", "standard") == "API key desk: data class standard\n"
    assert "data class:" in ok("key", "show", "desk")
    assert ok("key", "data-class", "desk", "project") == "API key desk: data class of its project\n"
