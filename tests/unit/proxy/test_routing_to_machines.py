"""The router where nodes are among the targets: what a request asks of them is made once, and decides."""

from collections import Counter

import msgspec
from route_rig import BODY_BYTES, World, envelope, failure, on_node, target

from potluck.model.node import place_of
from potluck.policy.machine_cost import Ask
from potluck.policy.machines import Machine
from potluck.policy.mix import DEFAULT_REQUEST
from potluck.proxy.candidates import LaneOption
from potluck.proxy.explain import plan_line, plan_of
from potluck.proxy.rehearsal import rehearse
from potluck.proxy.routing import ask_of

LAB, RIG = on_node("lab"), on_node("rig")


def machine(world: World, name: str, **report: object) -> Machine:
    """A node's machine, loaded and told to be as the test says; it has just had work."""
    each = on_node(name)
    made = world.registry.machine(each.place)
    said = {"resident": True, "prefill_tps": 1_000.0, "decode_tps": 50.0, "slots": 4, **report}
    made.report(reported_at=world.now, **said)  # type: ignore[arg-type]
    made.host.begun_at = world.now
    return made


def town(*others: object, **rule: object) -> World:
    """`lab` and `rig` take calls and serve `small`, beside others."""
    made = World(LAB, RIG, *others, **rule)  # type: ignore[arg-type]
    made.present(LAB, RIG)
    return made


def first(world: World, text: str = "Hi", times: int = 1, **said: object) -> Counter[str]:
    """Names of the targets that first calls go to."""
    found: Counter[str] = Counter()
    for _ in range(times):
        candidates = world.ask(text=text, **said)  # type: ignore[arg-type]
        asked = envelope(text=text, **said)  # type: ignore[arg-type]
        ask = ask_of(candidates, asked, world.key)
        option = world.router.first(candidates, asked, BODY_BYTES, world.key, world.now, ask)
        assert isinstance(option, LaneOption)
        found[option.target.name] += 1
    return found


def test_candidates_know_that_machines_are_among_them() -> None:
    """Only then what a request asks of one is worked out."""
    assert town().ask().machines
    assert not World(target("a/m")).ask().machines


def test_equal_tiers_go_to_the_machine_that_takes_less() -> None:
    """The default strategy: both nodes are one tier, and the slower one gets nothing."""
    world = town()
    machine(world, "lab", decode_tps=5.0)
    machine(world, "rig")
    assert first(world, times=200) == {"node:rig/m": 200}


def test_a_tier_holds_whatever_machines_take() -> None:
    """A provider in an earlier tier comes before an idle machine, and a machine in one before a quick provider."""
    cloud = target("a/m", priority=0)
    later = [msgspec.structs.replace(each, priority=1) for each in (LAB, RIG)]
    world = World(cloud, *later)
    world.present(LAB, RIG)
    assert first(world, times=50) == {"a/m": 50}
    world = town(target("b/m", priority=1))
    assert set(first(world, times=50)) <= {"node:lab/m", "node:rig/m"}


def test_a_beginning_draws_requests_to_where_it_is() -> None:
    """The same long prompt again goes to the machine that read it; another one may go anywhere."""
    world = town()
    machine(world, "rig", prefill_tps=100.0)
    lab = machine(world, "lab", prefill_tps=100.0)
    text = "word " * 2_000
    candidates = world.ask(text=text)
    ask = ask_of(candidates, envelope(text=text), world.key)
    assert (ask.prompt_tokens, len(ask.blocks)) == (2_508, 9)
    lab.begin(ask, world.now).end(200, world.now)
    assert first(world, text, times=100) == {"node:lab/m": 100}
    assert len(first(world, "other " * 2_000, times=100)) == 2


def test_what_a_request_asks_is_of_its_own_project_and_tools() -> None:
    """Equal messages behind other tools, or of another project, have no block in common."""
    world = town()
    candidates, asked = world.ask(), envelope(text="x" * 5_000)
    plain = ask_of(candidates, asked, world.key).blocks
    asked.members["tools"] = msgspec.Raw(b"[]")
    assert set(ask_of(candidates, asked, world.key).blocks).isdisjoint(plain)
    other = msgspec.structs.replace(world.key, project_id="prj_2")
    assert set(ask_of(candidates, envelope(text="x" * 5_000), other).blocks).isdisjoint(plain)


def test_the_expected_output_is_the_projects_within_what_the_caller_allows() -> None:
    """The mean of the project's mix, at most the request's own limit, times its choices; none of an embedding."""
    world = town()
    candidates, asked = world.ask(), envelope()
    assert ask_of(candidates, asked, world.key).output_tokens == DEFAULT_REQUEST.output_tokens
    asked.max_output_tokens, asked.n = 7, 3
    assert ask_of(candidates, asked, world.key).output_tokens == 21
    vectors = envelope(capability="embeddings")
    assert ask_of(candidates, vectors, world.key).output_tokens == 0


def test_the_next_call_goes_to_the_next_best_machine() -> None:
    """After a failure the machine that takes less of those left is asked."""
    third = on_node("far")
    world = town(third)
    world.present(third)
    machine(world, "lab", decode_tps=100.0)
    machine(world, "rig", decode_tps=50.0)
    machine(world, "far", decode_tps=5.0)
    candidates = world.ask()
    option = world.first(candidates)
    assert option is not None
    assert option.target.name == "node:lab/m"
    following = world.fails(candidates, world.run(candidates, option), option, failure("target_down"))
    assert following is not None
    assert following.option.target.name == "node:rig/m"


def test_a_plan_tells_each_machines_milliseconds() -> None:
    """For people the terms as they are now; in records nothing that passes, so that one plan stands for many."""
    world = town()
    machine(world, "lab", decode_tps=5.0, rtt_ms=8.0)
    rig = machine(world, "rig")
    candidates = world.ask()
    world.router.refresh(candidates, world.now)
    wish = world.router._wish_of(candidates, envelope(), BODY_BYTES, world.key, world.now, None)
    told = {each.target: each.why for each in plan_of(candidates, wish, world.now).targets}
    assert told == {
        "node:lab/m": "tier 0; 51008 ms: 8 rtt + 1000 prompt + 50000 output; dearer than a tie",
        "node:rig/m": "tier 0; 6000 ms: 1000 prompt + 5000 output; 100 % of the draw",
    }
    before = plan_line(candidates, world.now)
    rig.begin(ask_of(candidates, envelope(), world.key), world.now)
    assert plan_line(candidates, world.now) == before


def test_a_rehearsal_looks_at_the_live_machines_and_changes_none() -> None:
    """`route explain` of a prompt that is cached says so, and counts nothing."""
    world = town()
    lab = machine(world, "lab", prefill_tps=100.0)
    machine(world, "rig", prefill_tps=100.0)
    text = "word " * 2_000
    asked = envelope(text=text)
    lab.begin(ask_of(world.ask(text=text), asked, world.key), world.now).end(0, world.now)
    world.registry.clock = lambda: world.now
    body = msgspec.json.encode({"model": "small", "messages": [{"role": "user", "content": text}]})
    told = rehearse(world.router, world.key, "chat", body)
    assert told.plan is not None
    assert set(told.order) == {"node:lab/m", "node:rig/m"}
    assert lab.busy == 0


def test_models_of_one_engine_are_known_to_belong_together() -> None:
    """A call of one is on the other's account, not on another engine's; with the node all of it is forgotten."""
    world = town()
    other, elsewhere = on_node("lab", "n"), on_node("lab", "n", place=place_of("node_lab", "f", "n"))
    made = [world.registry.machine(each.place) for each in (LAB, other, elsewhere)]
    made[0].begin(Ask(100, 100), world.now)
    assert [each.busy for each in made] == [1, 1, 0]
    world.ask()
    world.swap(models={}, pins={}, nodes={"node_rig": world.current.nodes["node_rig"]})
    world.registry.forget(world.current)
    assert not [name for name in world.registry.hosts if name.startswith("node_lab ")]
