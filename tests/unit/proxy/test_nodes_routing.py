"""Nodes among other targets: data classes, own devices, kinds in filters, pins, refusals."""

import json
from typing import Any

import msgspec
import pytest
from route_rig import World, api_key, envelope, failure, groups, left_out, on_node, target

from potluck.model.node import OwnDevices
from potluck.model.resources import Hedge
from potluck.model.snapshot import CompiledKey, CompiledTarget
from potluck.policy.retry import MAX_CALLS, MAX_REFUSALS
from potluck.policy.selection import Wish
from potluck.ports import Failure
from potluck.proxy import explain, own_answers, verdict
from potluck.proxy.candidates import Candidates, LaneOption
from potluck.wire.errors import RequestError

LAB, RIG = on_node("lab"), on_node("rig")
MINE = on_node("desk", owner="project:default")
THEIRS = on_node("shelf", owner="project:other")
GUEST = on_node("guest", community=True)
CLOUD = target("cloud/m", assistant_prefix="plain")
SERVER = target("server/m", own=True)
DOWN = failure("target_down", phase="connect")
CUT = failure("target_down", phase="stream")


def refused(retry_after_s: float | None = None) -> Failure:
    return failure("refused", phase="connect", status=0, retry_after_s=retry_after_s)


def at_tier(each: CompiledTarget, tier: int) -> CompiledTarget:
    return msgspec.structs.replace(each, priority=tier)


def served(candidates: Candidates) -> set[str]:
    return {name for group in groups(candidates) for name in group}


# ------------------------------------------------------------------------------------------------------- data classes


@pytest.mark.parametrize(
    ("data_class", "names"),
    [
        ("private", {"node:lab/m", "server/m"}),
        ("standard", {"node:lab/m", "server/m", "cloud/m"}),
        ("open", {"node:lab/m", "server/m", "cloud/m", "node:guest/m"}),
    ],
)
def test_each_class_is_what_the_last_one_is_and_more(data_class: str, names: set[str]) -> None:
    """Private: own infrastructure. Standard: providers too. Open: strangers' machines too."""
    made = World(LAB, GUEST, CLOUD, SERVER)
    made.key = api_key(data_class="open")
    candidates = made.ask(data_class=data_class)
    assert served(candidates) == names
    for name, reason in left_out(candidates).items():
        assert data_class in reason, name


@pytest.mark.parametrize("data_class", ["private", "standard"])
def test_fallbacks_fail_closed(data_class: str) -> None:
    """A model that only strangers serve is no way out for data that must not go there."""
    made = World(LAB)
    made.serve("rare", GUEST)
    made.rule("rule", models=("small",), fallback=("rare", "node:guest/m"), strategy="priority")
    made.key = api_key(data_class="open")
    assert served(made.ask()) == {"node:lab/m", "node:guest/m"}
    closed = made.ask(data_class=data_class)
    made.present(GUEST)
    assert served(closed) == {"node:lab/m"}
    assert made.first(closed) is None


def test_hedges_fail_closed() -> None:
    """The second call of a late first one stays within the class, though a stranger would be free."""
    made = World(LAB, GUEST, hedge=Hedge(max_extra=1.0), models=("*",))
    made.key = api_key(data_class="open")
    made.present(LAB, GUEST)
    for data_class, rival in (("open", GUEST.name), ("private", None)):
        candidates = made.ask(data_class=data_class)
        first = next(each for place in candidates.places for each in place.lanes if each.target.name == LAB.name)
        assert made.first(candidates) is not None
        found = made.rival(candidates, made.run(candidates, first))
        assert (found and found.target.name) == rival


def test_resumes_fail_closed() -> None:
    """A stream that was cut goes on elsewhere only where it could have begun."""
    made = World(on_node("lab", assistant_prefix="plain"), on_node("guest", community=True, assistant_prefix="plain"))
    made.key = api_key(data_class="open")
    made.present(LAB, GUEST)
    for data_class, follows in (("open", GUEST.name), ("standard", None)):
        candidates = made.ask(data_class=data_class)
        first = candidates.by_place[LAB.place].lanes[0]
        run = made.run(candidates, first)
        run.failed(first, CUT)
        found = made.router.resumer(candidates, run, envelope(stream=True), 200, made.key, made.now)
        assert (found and found.target.name) == follows


def test_a_changed_class_holds_for_the_calls_to_come() -> None:
    """A project that closes while a request runs: its next call is worked out anew."""
    made = World(LAB, GUEST)
    made.key = api_key(data_class="open")
    candidates = made.ask()
    made.swap()
    now_valid = made.router.renewed(candidates, api_key(data_class="private"), envelope())
    assert now_valid is not None
    assert served(now_valid) == {LAB.name}


def test_the_machine_is_told_the_class_and_whose_request_it_is() -> None:
    """What OPEN says there: the strictest class that holds, and whether the machine's owner asks."""
    made = World(LAB, MINE, THEIRS, GUEST)
    made.key = api_key(data_class="open")
    told = {place.name: place.lanes[0].target.node for place in made.ask().places}
    assert {name: (node.data_class, node.own) for name, node in told.items() if node} == {
        "node:lab/m": ("open", True),
        "node:desk/m": ("open", True),
        "node:shelf/m": ("open", False),
        "node:guest/m": ("open", False),
    }
    closed = made.ask(data_class="private").places[0].lanes[0].target.node
    assert closed is not None
    assert closed.data_class == "private"


# -------------------------------------------------------------------------------------------------------- own devices


@pytest.mark.parametrize(
    ("own_devices", "expected"),
    [
        ("off", [["cloud/m", "node:lab/m", "node:desk/m", "node:shelf/m"]]),
        ("own_first", [["node:lab/m", "node:desk/m"], ["cloud/m", "node:shelf/m"]]),
        ("own_only", [["node:lab/m", "node:desk/m"]]),
    ],
)
def test_a_keys_own_devices(own_devices: OwnDevices, expected: list[list[str]]) -> None:
    """Off: like others. First: a group before all others. Only: nothing else, with the reason."""
    made = World(CLOUD, LAB, MINE, THEIRS, GUEST)
    made.key = api_key(own_devices=own_devices)
    candidates = made.ask()
    assert groups(candidates) == expected
    if own_devices == "own_only":
        assert left_out(candidates)["cloud/m"] == "the key uses its own devices only"
        assert left_out(candidates)["node:shelf/m"] == "the key uses its own devices only"
    if own_devices == "own_first":
        assert [group.why for group in candidates.groups] == ["own devices", "model"]


def test_own_only_holds_for_fallbacks() -> None:
    """A fallback is no way around it."""
    made = World(LAB)
    made.serve("big", CLOUD)
    made.rule("rule", models=("small",), fallback=("big",))
    made.key = api_key(own_devices="own_only")
    assert served(made.ask()) == {LAB.name}


def test_keys_of_one_project_with_different_devices_have_their_own_kinds() -> None:
    """What one key's setting brings about is not another key's."""
    made = World(CLOUD, LAB)
    only, plain = api_key("only", own_devices="own_only"), api_key("plain")
    assert served(made.ask(key=only)) == {LAB.name}
    assert served(made.ask(key=plain)) == {LAB.name, CLOUD.name}


def test_a_key_that_is_stricter_than_its_project_has_its_own_kinds() -> None:
    """Its requests stay on own machines, whichever of the project's keys asked for the model first."""
    made = World(CLOUD, LAB)
    plain, strict = api_key("plain"), api_key("strict", data_class="private")
    for _ in range(2):
        assert served(made.ask(key=plain)) == {LAB.name, CLOUD.name}
        assert served(made.ask(key=strict)) == {LAB.name}


def test_own_devices_come_before_what_a_fallback_would_hold_back() -> None:
    """`fallback = ["node:*"]` holds other nodes back; the key's own are first all the same."""
    made = World(CLOUD, LAB, THEIRS)
    made.rule("rule", models=("small",), fallback=("node:*",))
    assert groups(made.ask()) == [[CLOUD.name], [LAB.name, THEIRS.name]]
    made.key = api_key(own_devices="own_first")
    assert groups(made.ask()) == [[LAB.name], [CLOUD.name], [THEIRS.name]]


# ---------------------------------------------------------------------------------------------------- names and kinds


@pytest.mark.parametrize(
    ("only", "names"),
    [
        (("node",), {"node:lab/m", "node:guest/m"}),
        (("provider",), {"cloud/m", "server/m"}),
        (("own",), {"node:lab/m", "server/m"}),
        (("community",), {"node:guest/m"}),
        (("node:lab",), {"node:lab/m"}),
        (("node:lab/m",), {"node:lab/m"}),
        (("node:*",), {"node:lab/m", "node:guest/m"}),
        (("node:l*", "cloud"), {"node:lab/m", "cloud/m"}),
        (("lab",), set()),
    ],
)
def test_filters_know_nodes(only: tuple[str, ...], names: set[str]) -> None:
    """Kinds, names and patterns, in a request's `only` and in its `ignore`."""
    made = World(CLOUD, SERVER, LAB, GUEST)
    made.key = api_key(data_class="open")
    every = {CLOUD.name, SERVER.name, LAB.name, GUEST.name}
    assert served(made.ask(only=only)) == names
    assert served(made.ask(ignore=only)) == every - names


def test_a_pin_reaches_one_node() -> None:
    """`node:lab/m`, colons and all; with `:own` a model's own targets come first, nodes among them."""
    made = World(CLOUD, on_node("lab", "llama3.2:3b"), SERVER)
    assert served(made.ask("node:lab/llama3.2:3b")) == {"node:lab/llama3.2:3b"}
    assert groups(made.ask("small:own")) == [["node:lab/llama3.2:3b", "server/m"], ["cloud/m"]]
    with pytest.raises(RequestError) as error:
        made.ask("node:nowhere/m")
    assert error.value.code == "model_not_found"


# ----------------------------------------------------------------------------------------------------------- refusals


def fleet(nodes: int, *others: Any) -> World:
    machines = [on_node(f"n{number}") for number in range(nodes)]
    made = World(*machines, *others)
    made.present(*machines)
    return made


def told(made: World, answers: list[Any]) -> tuple[list[str], Any]:
    """The targets that a request calls while these are the answers, and what follows the last one."""
    candidates = made.ask()
    option: LaneOption | None = made.first(candidates)
    assert option is not None
    run, names, following = made.run(candidates, option), [option.target.name], None
    for answer in answers:
        following = made.fails(candidates, run, option, answer)
        if following is None:
            break
        option = following.option
        names.append(option.target.name)
    return names, following


def test_after_three_refusals_the_next_tier_is_tried() -> None:
    """Three machines say no, and the provider of the tier behind them answers: no fourth machine is asked."""
    made = fleet(6, at_tier(CLOUD, 1))
    names, _ = told(made, [refused()] * MAX_REFUSALS)
    assert len(set(names)) == MAX_REFUSALS + 1
    assert names[-1] == CLOUD.name


def test_refusals_are_no_calls_and_no_targets() -> None:
    """A request that was refused three times has all its calls left."""
    made = fleet(3, *(at_tier(target(f"p{number}/m"), 1 + number) for number in range(4)))
    candidates = made.ask()
    option = made.first(candidates)
    assert option is not None
    run = made.run(candidates, option)
    for answer in (refused(), refused(), refused()):
        following = made.fails(candidates, run, option, answer)
        assert following is not None
        option = following.option
    assert (run.spent.calls, run.spent.targets) == (1, 1)
    for _ in range(2):
        following = made.fails(candidates, run, option, DOWN)
        assert following is not None
        option = following.option
    assert run.spent.calls == MAX_CALLS - 1


def test_a_refusal_opens_no_breaker() -> None:
    """A machine that says no is well: nothing is held against it."""
    made = fleet(1, at_tier(CLOUD, 1))
    for _ in range(10):
        told(made, [refused()])
    lane = next(lane for lane in made.registry.lanes.values() if lane.node_id)
    assert (lane.held, lane.breaker.state, made.notices) == (False, "closed", [])


def test_a_node_that_refused_is_not_asked_for_another_model_either() -> None:
    """Its owner is back, or it is full: that is the machine's, not the model's."""
    made = World(on_node("lab"), on_node("lab", "big", priority=1), at_tier(CLOUD, 2))
    made.present(LAB)
    names, _ = told(made, [refused()])
    assert names == ["node:lab/m", "cloud/m"]


def test_the_same_node_is_asked_again_only_when_it_said_when() -> None:
    """One machine and nothing else: after the seconds that it named, once; without them, not at all."""
    _, following = told(fleet(1), [refused(retry_after_s=2.0)])
    assert (following.kind, following.delay_s >= 2.0) == ("same", True)
    _, following = told(fleet(1), [refused()])
    assert following is None
    _, following = told(fleet(1), [refused(retry_after_s=60.0)])
    assert following is None


def test_only_refusals_are_503_with_the_soonest_time() -> None:
    """No provider limited a rate, and nothing is broken: nobody could take it now."""
    error = verdict.of_failures([("node:a/m", refused(retry_after_s=9.0)), ("node:b/m", refused(retry_after_s=4.0))])
    assert (error.status, error.code, error.retry_after_s) == (503, "no_target_available", 4.0)
    assert "node:a/m" in error.message
    assert "node:b/m" in error.message


@pytest.mark.parametrize(
    ("other", "code"),
    [
        (DOWN, "upstream_error"),
        (failure("target_slow"), "upstream_timeout"),
        (failure("key_limited", retry_after_s=3.0), "upstream_rate_limited"),
        (failure("caller_fault", status=400), "invalid_request"),
        (failure("policy"), "policy_denied"),
    ],
)
def test_beside_a_failure_a_refusal_says_nothing(other: Any, code: str) -> None:
    """The class of what failed otherwise decides, whichever came last."""
    both = [("node:a/m", refused()), ("cloud/m", other)]
    assert verdict.of_failures(both).code == code
    assert verdict.of_failures(both[::-1]).code == code


def test_a_node_has_no_address_to_hide() -> None:
    """A key and an address are cut out of error texts; a node has neither, and words stay whole."""
    assert verdict.hidden_of(LAB, "chat") == ()


def of_another(key: CompiledKey) -> CompiledKey:
    return msgspec.structs.replace(key, id="key_other", project_id="prj_2", scope="prj_2", organisation_id="org_2")


def test_a_node_serves_its_own_organisation_only() -> None:
    """By a model's name, as an own device and for any class: to another organisation's key it does not exist."""
    made = World(LAB, CLOUD)
    for key in (api_key(), api_key(own_devices="own_only"), api_key(data_class="private")):
        assert LAB.name in served(made.ask(key=key))
        candidates = made.ask(key=of_another(key))
        assert LAB.name not in served(candidates)
        assert LAB.name not in left_out(candidates)
        assert refusal(made, LAB.name, of_another(key)).code == "model_not_found"


def refusal(made: World, model: str, key: CompiledKey) -> RequestError:
    """What a request for the model gets."""
    try:
        return made.router.none_left(made.ask(model, key=key), envelope(model), made.now)
    except RequestError as error:
        return error


def test_another_organisations_nodes_are_named_nowhere() -> None:
    """Not in the list of models, on a card, in a plan, in a refusal and its near matches; nor what they alone offer."""
    made = World(LAB, CLOUD)
    made.serve("declared", on_node("rig"), alias="also")
    made.serve("offered", on_node("shelf", "q"), declared=False)
    made.serve("other", CLOUD)
    made.rule("both", models=("small", "offered"))
    made.rule("falls", models=("other",), fallback=("offered", RIG.name))
    cards = {}
    for key in (api_key(), of_another(api_key())):
        listed = [json.loads(card) for card in own_answers.cards_for(made.current, key)]
        assert listed[0] == json.loads(own_answers.card_for(made.current, key, "small"))
        cards[key.organisation_id] = {each["id"]: each for each in listed}
    mine, theirs = cards["org_1"], cards["org_2"]
    assert set(mine) - set(theirs) == {"offered", "both", "falls"}
    assert [each["target"] for each in mine["small"]["potluck"]["targets"]] == [LAB.name, CLOUD.name]
    assert [each["target"] for each in theirs["small"]["potluck"]["targets"]] == [CLOUD.name]
    assert theirs["also"]["potluck"] == {**theirs["declared"]["potluck"], "alias_of": "declared"}
    assert "node:" not in json.dumps(theirs)
    key = of_another(api_key())
    for name in ("declared", "also", "offered", "offere", LAB.name, "node:lab/n"):
        error = refusal(made, name, key)
        assert error.code == ("no_target_available" if name in ("declared", "also") else "model_not_found")
        said = error.message.replace(repr(name), "")
        assert not [word for word in ("lab", "rig", "shelf", "offered") if word in said], said
    everybodys = [msgspec.structs.replace(each, organisation_id="") for each in made.current.routes]
    made.swap(routes=tuple(everybodys))
    plan = json.dumps(msgspec.to_builtins(explain.plan_of(made.ask("other", key=key), Wish(), made.now)))
    assert CLOUD.name in plan
    assert "node:" not in plan
    assert "offered" not in plan
    shown = json.loads(own_answers.card_for(made.current, key, "both"))
    assert [each["target"] for each in shown["potluck"]["targets"]] == [CLOUD.name]
