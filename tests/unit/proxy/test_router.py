"""Who may serve a request, by which rule, and which of them is called next.

Long since a router does three things, and each is tested on the same small configuration.
"""

import gc
from collections import Counter

import msgspec
import pytest
from route_rig import World, api_key, envelope, failure, groups, left_out, listing, target

from potluck.model.resources import Affinity, Hedge, RouteTimeouts, Timeouts
from potluck.model.snapshot import Endpoint
from potluck.policy.breaker import PROBE_LOST_S
from potluck.policy.retry import MAX_CALLS, MAX_TARGETS
from potluck.proxy import routing
from potluck.proxy.registry import DEAD, OPEN, PARKED, PROBE, READY
from potluck.wire.errors import RequestError

A, B, C, D = (target(f"{name}/m", priority=tier) for tier, name in enumerate("abcd"))
A2, A3 = target("a/m", "second"), target("a/m", "third")
OWN = target("own/m", own=True, priority=9)
DOWN = failure("target_down", phase="connect")
CUT = failure("target_down", phase="stream")
LIMITED = failure("key_limited", retry_after_s=30.0)
REFUSED = failure("key_dead")


def refusal(made: World, model: str = "small", **said: object) -> tuple[int, str, str | None]:
    with pytest.raises(RequestError) as refused:
        made.ask(model, **said)
    return refused.value.status, refused.value.code, refused.value.param


# -------------------------------------------------------------------------------------------------------------- rules


def test_without_rules_the_order_of_the_targets_counts() -> None:
    """The rule `default`: the model's targets by their tiers."""
    made = World(A, B)
    candidates = made.ask()
    assert (candidates.route.name, candidates.route.strategy) == ("default", "priority")
    assert groups(candidates) == [["a/m", "b/m"]]


@pytest.mark.parametrize(
    ("match", "takes"),
    [
        ({"models": ("small",)}, True),
        ({"models": ("tiny",)}, False),
        ({"models": ("big", "small")}, True),
        ({"models": ("s*l",)}, True),
        ({"models": ("s*m",)}, False),
        ({"models": ("sma.l",)}, False),
        ({"projects": ("default",)}, True),
        ({"projects": ("def*", "other")}, True),
        ({"projects": ("other",)}, False),
        ({"keys": ("web",)}, True),
        ({"keys": ("web-*",)}, False),
        ({"models": ("small",), "keys": ("web",), "projects": ("other",)}, False),
        ({}, True),
    ],
)
def test_a_rule_takes_what_it_matches(match: dict[str, tuple[str, ...]], takes: bool) -> None:
    """Names and patterns with `*`, nothing else in them; models, projects and keys have to match, each by any."""
    made = World()
    made.serve("small", A, alias="tiny")
    made.rule("rule", **match)
    assert made.ask().route.name == ("rule" if takes else "default")


def test_a_rule_for_a_model_takes_its_aliases() -> None:
    """By either name, but a rule for the alias takes the alias only; a pin is another name altogether."""
    made = World()
    made.serve("small", A, alias="tiny")
    made.rule("for-tiny", models=("tiny",))
    made.rule("for-small", models=("small",))
    assert [made.ask(name).route.name for name in ("small", "tiny", "a/m")] == ["for-small", "for-tiny", "default"]


def test_a_rule_holds_in_its_own_organisation() -> None:
    """To others it does not exist: not as the usual rule, not by the control, not as a model; an empty one is all's."""
    foreign = api_key("other", organisation_id="org_2", project_id="prj_2")
    made = World(A, B, strategy="cheapest", models=("small",), ignore=("a",))
    made.rule("for-all", models=("x",))
    made.swap(routes=(*made.current.routes[:-1], msgspec.structs.replace(made.current.routes[-1], organisation_id="")))
    assert groups(made.ask()) == [["b/m"]]
    candidates = made.ask(key=foreign)
    assert (candidates.route.name, groups(candidates)) == ("default", [["a/m", "b/m"]])
    assert made.ask("rule").route.name == "rule"
    assert refusal(made, "rule", key=foreign) == (404, "model_not_found", "model")
    assert refusal(made, route="rule", key=foreign) == (400, "invalid_request", "potluck.route")
    assert refusal(made, route="for-all", key=foreign) == (403, "policy_denied", "potluck.route")  # it is known
    made.rule("both", models=("small",))
    theirs = msgspec.structs.replace(made.current.routes[-1], id="rte_2", organisation_id="org_2", strategy="fastest")
    made.swap(routes=(*made.current.routes, theirs))
    assert made.ask("both", key=foreign).route.strategy == "fastest"
    assert made.ask("both").route.strategy == "priority"


def test_the_first_rule_that_takes_a_request_counts() -> None:
    """In the snapshot's order."""
    made = World(A, models=("other",))
    for name in ("first", "second"):
        made.rule(name, models=("small",))
    assert made.ask().route.name == "first"


def test_asking_for_a_rule() -> None:
    """One that takes the request; an unknown one is the caller's fault, one that does not take it is denied."""
    made = World(A, models=("small",))
    made.rule("other", models=("s*",), strategy="cheapest")
    made.rule("foreign", projects=("another",))
    assert made.ask(route="other").route.name == "other"
    assert made.ask(route="rule").route.name == "rule"
    assert made.ask(route="default").route.name == "default"
    assert refusal(made, route="gone") == (400, "invalid_request", "potluck.route")
    assert refusal(made, route="foreign") == (403, "policy_denied", "potluck.route")


def test_a_rule_may_be_called_default() -> None:
    """Asked for by name it is that rule, not the one for what no rule takes."""
    made = World(A, models=("small",))
    made.rule("default", strategy="cheapest")
    assert made.ask(route="default").route.id == "rte_default"


def test_asking_for_a_rule_loosens_nothing() -> None:
    """What the usual rule demands holds beside the other's own demands: targets, prices, data class."""
    made = World(A, B, OWN, ignore=("a",))
    made.rule("other", ignore=("b",))
    candidates = made.ask(route="other")
    assert groups(candidates) == [["own/m"]]
    assert candidates.route.name == "other"
    assert groups(made.ask(route="default")) == [["b/m", "own/m"]]
    made = World(A, OWN, data_class="private")
    made.rule("other", data_class="open")
    assert groups(made.ask(route="other")) == [["own/m"]]
    assert groups(made.ask(route="other", key=api_key(data_class="open"))) == [["own/m"]]


def test_asking_by_a_rules_name_loosens_nothing() -> None:
    """A route as the model: each of its models keeps what its usual rule demands."""
    made = World(A, OWN, models=("small",), only=("own",))
    made.serve("big", B, C)
    made.rule("all", models=("small", "big"), ignore=("c",), fallback=("a/m",))
    assert groups(made.ask("all")) == [["own/m", "b/m"]]
    assert made.ask("all").route.name == "all"
    assert left_out(made.ask("all"))["a/m"] == "not among the route's `only`"


def test_asking_by_a_rules_name_needs_its_match() -> None:
    """403 for callers that it does not take; another rule beside it is a contradiction."""
    made = World(A)
    made.rule("frugal", models=("small",), keys=("batch",))
    assert refusal(made, "frugal") == (403, "policy_denied", "model")
    made.rule("any", models=("small",))
    assert refusal(made, "any", route="frugal") == (400, "invalid_request", "potluck.route")
    assert made.ask("any", route="any").route.name == "any"


def test_models_of_a_rule_share_their_places() -> None:
    """A target that two of them have is offered once."""
    made = World(A, B)
    made.serve("big", B, C)
    made.rule("both", models=("small", "big"), strategy="weighted")
    candidates = made.ask("both")
    assert groups(candidates) == [["a/m", "b/m", "c/m"]]
    assert candidates.own_models == {"small", "big"}


# ---------------------------------------------------------------------------------------------------------- fallbacks


def fallen(*fallback: str, key: object = None, model: str = "small", **said: object) -> tuple[list[list[str]], dict]:
    """Groups and what is left out, of `small` (a, b, own) with this fallback; `big` (alias `huge`) is at c and a."""
    made = World(A, B, OWN)
    made.serve("big", C, target("a/m"), alias="huge")
    made.rule("rule", models=("small",), fallback=fallback)
    candidates = made.ask(model, key=key, **said)
    assert [group.why for group in candidates.groups if group.why.startswith("fallback")] or not fallback or said
    return groups(candidates), left_out(candidates)


@pytest.mark.parametrize(
    ("fallback", "tried"),
    [
        ((), [["a/m", "b/m", "own/m"]]),
        (("big",), [["a/m", "b/m", "own/m"], ["c/m"]]),
        (("huge",), [["a/m", "b/m", "own/m"], ["c/m"]]),
        (("c/m",), [["a/m", "b/m", "own/m"], ["c/m"]]),
        (("own/*",), [["a/m", "b/m"], ["own/m"]]),
        (("a/*", "big", "b/m*"), [["own/m"], ["a/m"], ["c/m"], ["b/m"]]),
        (("own/*", "a/*"), [["b/m"], ["own/m"], ["a/m"]]),
    ],
)
def test_fallbacks_in_their_order(fallback: tuple[str, ...], tried: list[list[str]]) -> None:
    """Models, aliases and pins come after the model's own; a pattern holds its own targets back; none comes twice."""
    assert fallen(*fallback) == (tried, {})


def test_a_pattern_never_holds_everything_back() -> None:
    """What matches all, or nothing, changes nothing."""
    made = World(A, B, fallback=("*/m", "node:*"))
    assert groups(made.ask()) == [["a/m", "b/m"]]


def test_fallbacks_that_lead_nowhere_are_told() -> None:
    """An unknown one, and one that this key may not use, are left out with their reasons."""
    gone = "the route falls back to it, but there is no such model"
    barred = "the route falls back to it, but this key may not use it"
    key = listing("small")
    assert fallen("gone", "big", "own/*", key=key) == ([["a/m", "b/m"], ["own/m"]], {"gone": gone, "big": barred})
    assert fallen("huge", key=listing("small", "big"))[0] == [["a/m", "b/m", "own/m"], ["c/m"]]


def test_a_rule_falls_back_to_the_keys_own_list() -> None:
    """`key:*`: the key's models in the key's order, without the one that was asked for."""
    made = World(A, fallback=("key:*",))
    made.serve("big", B)
    made.serve("mid", C)
    assert groups(made.ask(key=listing("mid", "small", "big"))) == [["a/m"], ["c/m"], ["b/m"]]
    assert groups(made.ask()) == [["a/m"]]
    assert [group.why for group in made.ask(key=listing("small", "big", name="x")).groups] == ["model", "fallback big"]


def test_constraints_hold_for_fallbacks() -> None:
    """Of route, caller and data class."""
    made = World(OWN, fallback=("big",), ignore=("c",))
    made.serve("big", B, C, target("own2/m", own=True))
    assert groups(made.ask()) == [["own/m"], ["b/m", "own2/m"]]
    assert groups(made.ask(data_class="private")) == [["own/m"], ["own2/m"]]
    assert groups(made.ask(only=("b",))) == [["b/m"]]


def test_own_first() -> None:
    """`prefer: own` and `:own` put own infrastructure before the model's other targets, and both before fallbacks."""
    own_first = [["own/m"], ["a/m", "b/m"], ["c/m"]]
    assert fallen("big", prefer="own")[0] == own_first
    assert fallen("big", model="small:own", stream=False)[0] == own_first
    assert fallen("big", model="small:cheapest", prefer="own")[0] == own_first
    assert groups(World(A, B).ask(prefer="own")) == [["a/m", "b/m"]]


@pytest.mark.parametrize("prefer", ["cheapest", "fastest", "balanced"])
def test_a_preference_is_the_strategy_of_all_groups(prefer: str) -> None:
    """As a control, or as a suffix; it stands above the route's."""
    made = World(A, OWN, strategy="weighted", fallback=("own/*",))
    assert [group.strategy for group in made.ask(prefer=prefer).groups] == [prefer, prefer]
    if prefer != "balanced":
        assert [group.strategy for group in made.ask(f"small:{prefer}").groups] == [prefer, prefer]


# ----------------------------------------------------------------------------------------------------------- timeouts


def test_a_rules_times_stand_above_the_providers() -> None:
    """Each for itself; what the rule does not say is the provider's own. The connections stay shared."""
    own = Timeouts(connect_s=1, first_byte_s=2, idle_s=3, total_s=4)
    slow = target("a/m", endpoint=Endpoint("a", "a.example", 443, True, own))
    candidates = World(slow, timeouts=RouteTimeouts(first_token_s=20, total_s=40)).ask()
    endpoint = candidates.places[0].lanes[0].target.endpoint
    assert endpoint.timeouts == Timeouts(connect_s=1, first_byte_s=20, idle_s=3, total_s=40)
    assert (endpoint.key, candidates.total_s) == ("a", 40)
    plain = World(slow, strategy="weighted").ask()
    assert plain.places[0].lanes[0].target is slow


@pytest.mark.parametrize(("providers_s", "request_s"), [(4, 900), (900, 900), (3600, 3600)])
def test_a_request_may_take_as_long_as_its_longest_target(providers_s: float, request_s: float) -> None:
    """Where the rule does not say: the default, or what a provider's own time allows beyond it."""
    patient = target("b/m", endpoint=Endpoint("b", "b.example", 443, True, Timeouts(total_s=providers_s)))
    assert World(A, patient).ask().total_s == request_s


# -------------------------------------------------------------------------------------------------------------- kinds


def test_candidates_are_worked_out_once() -> None:
    """The same object for the same kind of request, whatever its key, text or stream; another for another kind."""
    made = World(A, B)
    one = made.ask()
    assert made.ask(key=api_key("other"), stream=True, text="Ho") is one
    assert made.ask(user="u") is not None
    others = [
        made.ask("a/m"),
        made.ask("small:own"),
        made.ask(capability="embeddings"),
        made.ask(prefer="own"),
        made.ask(only=("a",)),
        made.ask(data_class="private"),
        made.ask(key=api_key(project_id="prj_2")),
        made.ask(key=listing("small")),
        made.ask(key=listing("small", name="listed2")),
    ]
    assert len({id(each) for each in (one, *others)}) == 10
    assert made.ask(prefer="own") is others[3]


def test_keys_are_told_apart_where_a_rule_looks_at_them() -> None:
    """As soon as any rule names keys, kinds are by key."""
    made = World(A, keys=("web",))
    assert made.ask().route.name == "rule"
    assert made.ask(key=api_key("other")).route.name == "default"


def test_candidates_go_with_their_snapshot() -> None:
    """A swap forgets them, and what is asked next is by the new configuration; the live state stays."""
    made = World(A, B)
    before = made.ask()
    made.opens(made.lane(A))
    made.serve("small", A, B, C)
    after = made.ask()
    assert after is not before
    assert groups(after) == [["a/m", "b/m", "c/m"]]
    assert after.places[0].lanes[0].lane is before.places[0].lanes[0].lane
    assert after.places[0].standing is before.places[0].standing


def test_kinds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, no more than `MAX_KINDS` are kept, and fewer of those that a caller makes up."""
    monkeypatch.setattr(routing, "MAX_KINDS", 10)
    monkeypatch.setattr(routing, "MAX_CONTROLLED_KINDS", 5)
    made = World(A)
    plain = made.ask()
    for n in range(35):
        made.ask(ignore=(f"x{n}",))
        assert len(made.router._controlled) <= 5
    assert made.ask() is plain, "what one caller makes up costs others nothing"
    with pytest.raises(RequestError):
        made.ask("unknown")
    for n in range(35):
        made.ask(key=listing("small", name=str(n)))
        assert len(made.router._kinds) <= 10


def test_controls_that_route_nothing_make_no_kind() -> None:
    """Tags, resuming, a user: the candidates are those of a request without controls."""
    made = World(A)
    assert made.ask(resume="allow") is made.ask() is made.router.candidates(made.key, envelope(tags=("a",)))
    assert not made.router._controlled


def test_candidates_leave_no_cycle() -> None:
    """Once forgotten they are gone by their counts alone, however they were used; `gc.freeze` would keep cycles."""
    gc.collect()
    gc.disable()
    try:
        made = World(A, A2, B, strategy="cheapest", fallback=("big",), affinity=Affinity(), hedge=Hedge(max_extra=1.0))
        made.serve("big", C)
        candidates = made.ask()
        made.opens(made.lane(A))
        made.opens(made.lane(A2))
        made.passes(20)
        calls = calls_of(made, DOWN, LIMITED, DOWN)
        run = made.run(candidates, made.first(candidates))
        made.rival(candidates, run)
        made.swap(pins={})
        made.ask()
        del candidates, run
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [thing for thing in gc.garbage if type(thing).__module__.startswith("potluck.")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert len(calls) > 2
    assert not left


def test_later_calls_know_what_new_targets_cost() -> None:
    """A request that began under an older configuration goes on by price, though nobody asked by the new one yet."""
    made = World(A, strategy="cheapest")
    candidates = made.ask()
    option = made.first(candidates)
    run = made.run(candidates, option)
    dear, cheap = target("dear/m", usd=9.0, weight=1_000), target("cheap/m", usd=1.0)
    made.serve("small", A, dear, cheap)
    run.failed(option, DOWN)
    renewed = made.router.renewed(candidates, made.key, envelope())
    following = made.router.next(renewed, run, envelope(), 200, made.key, made.now)
    assert following.option.target is cheap


# ----------------------------------------------------------------------------------------------- what is called first


def test_ready_groups_come_first_then_open_ones() -> None:
    """A fallback that is well goes before the model's own open target; the last one standing is called all the same."""
    made = World(A, B, fallback=("big",))
    made.serve("big", C)
    candidates = made.ask()
    calls = []
    for each in (A, B, C):
        option = made.first(candidates)
        assert option is not None
        calls.append(option.target.name)
        made.opens(made.lane(each))
    option = made.first(candidates)
    assert option is not None
    assert [*calls, option.target.name] == ["a/m", "b/m", "c/m", "a/m"]
    assert not option.probe


@pytest.mark.parametrize("what", [LIMITED, REFUSED])
def test_a_key_that_would_be_refused_is_passed_over(what) -> None:
    """Parked or dead, also where its target is the only one; a breaker that is open is called rather."""
    made = World(A, B)
    candidates = made.ask()
    made.registry.failed(made.lane(A), what, made.now)
    made.opens(made.lane(B))
    option = made.first(candidates)
    assert option is not None
    assert option.target is B
    made.registry.failed(made.lane(B), what, made.now)
    assert made.first(candidates) is None


def test_one_probe_goes_in_its_turn() -> None:
    """A lane that may be probed takes part like any other, once; the next request meets it as open again."""
    made = World(A, B)
    candidates = made.ask()
    made.opens(made.lane(A))
    made.passes(20)
    first, second = made.first(candidates), made.first(candidates)
    assert first is not None
    assert second is not None
    assert (first.target, first.probe, first.plain.probe) == (A, True, False)
    assert (second.target, second.probe) == (B, False)


def test_a_lost_probe_is_no_probe_any_more() -> None:
    """Another one goes in its place, and the late end of the first does not end that."""
    made = World(A)
    candidates = made.ask()
    made.opens(made.lane(A))
    made.passes(20)
    lost = made.first(candidates)
    made.passes(PROBE_LOST_S)
    now = made.first(candidates)
    assert lost is not None
    assert now is not None
    assert (lost.probe, now.probe) == (False, True)


def test_keys_are_drawn_by_weight() -> None:
    """Of those that are usable; one that is parked leaves its share to the others."""
    heavy, light = target("a/m", "heavy", credential_weight=3), target("a/m", "light", credential_weight=1)
    made = World(heavy, light)
    candidates = made.ask()
    drawn = Counter(made.first(candidates).target.credential for _ in range(4000))
    assert 2850 < drawn["heavy"] < 3150
    made.registry.failed(made.lane(heavy), LIMITED, made.now)
    assert {made.first(candidates).target.credential for _ in range(50)} == {"light"}


@pytest.mark.parametrize("strategy", ["priority", "weighted", "cheapest", "fastest", "least_busy", "balanced"])
def test_trouble_elsewhere_changes_no_shares(strategy: str) -> None:
    """The short way, while every lane there is can be used, draws as the general one does."""
    places = [target("a/m", weight=1), target("b/m", weight=3), target("c/m", weight=2, usd=2.0, priority=1)]
    made = World(*places, strategy=strategy)
    candidates = made.ask()
    short = Counter(made.first(candidates).target.name for _ in range(4000))
    made.registry.failed(made.lane(target("elsewhere/m")), REFUSED, made.now)
    general = Counter(made.first(candidates).target.name for _ in range(4000))
    assert set(short) == set(general)
    for name, count in short.items():
        assert abs(count - general[name]) < 4 * (2 * 4000 * 0.25) ** 0.5  # four standard deviations at most


def test_the_same_beginning_goes_to_the_same_place() -> None:
    """With affinity: where it was answered last, as long as that is well and worth it; without, as it comes."""
    made = World(A, target("b/m"), strategy="weighted", affinity=Affinity(window_s=600))
    candidates = made.ask()
    option = made.first(candidates)
    assert option is not None
    made.router.answered(candidates, option, envelope(), made.key, made.now)
    assert {made.first(candidates).target.name for _ in range(50)} == {option.target.name}
    assert len({made.first(candidates, text=f"Other {n}").target.name for n in range(50)}) == 2
    made.serve("large", A, target("b/m"))
    other = made.ask("large")
    assert len({made.first(other).target.name for _ in range(50)}) == 2  # one model's cache is none of another's
    made.opens(option.lane)
    assert option.target.name not in {made.first(candidates).target.name for _ in range(50)}
    made.succeeds(option.lane)
    made.passes(601)
    assert len({made.first(candidates).target.name for _ in range(50)}) == 2


# ------------------------------------------------------------------------------------------ what is called afterwards


def calls_of(made: World, *faults) -> list[tuple[str, str, str, bool]]:
    """What one request calls as each fault comes in turn: target, credential, kind, whether after a pause."""
    candidates = made.ask()
    option = made.first(candidates)
    assert option is not None
    made_calls = [(option.target.name, option.target.credential, "first", False)]
    run = made.run(candidates, option)
    for fault in faults:
        following = made.fails(candidates, run, option, fault)
        if following is None:
            break
        option = following.option
        made_calls.append((option.target.name, option.target.credential, following.kind, following.delay_s > 0))
    return made_calls


def test_each_target_once_and_three_at_most() -> None:
    """The next by the strategy, at once, until three are tried; then the first again, after a pause."""
    calls = calls_of(World(A, B, C, D), *[DOWN] * 10)
    assert [each[0] for each in calls] == ["a/m", "b/m", "c/m", "a/m"]
    assert [each[2:] for each in calls] == [("first", False), ("next", False), ("next", False), ("same", True)]
    assert (MAX_TARGETS, MAX_CALLS) == (3, 4)


def test_the_same_target_comes_last() -> None:
    """Only where no other is left, once, and only if it was not reached or answered 5xx."""
    assert [each[2] for each in calls_of(World(A), *[DOWN] * 5)] == ["first", "same"]
    assert [each[2] for each in calls_of(World(A), CUT)] == ["first"]
    assert [each[2] for each in calls_of(World(A), failure("target_slow"))] == ["first"]
    assert [each[0] for each in calls_of(World(A, B), CUT, DOWN, DOWN)] == ["a/m", "b/m", "b/m"]
    assert [each[2] for each in calls_of(World(A), failure("target_down", status=503))] == ["first", "same"]


@pytest.mark.parametrize("what", [LIMITED, REFUSED, failure("key_dead", status=402), failure("policy", status=402)])
def test_another_key_of_the_target_comes_first_once(what) -> None:
    """Where the key was the matter: one other key, then the next place, then what keys are left."""
    calls = calls_of(World(A, A2, A3, B), what, what, what, what)
    assert [(name, kind) for name, _, kind, _ in calls] == [
        ("a/m", "first"),
        ("a/m", "key"),
        ("b/m", "next"),
        ("a/m", "key"),
    ]
    assert {credential for name, credential, _, _ in calls if name == "a/m"} == {"main", "second", "third"}


def test_a_403_asks_other_targets_before_other_keys() -> None:
    """It is mostly about the model: the next target is called first, then what keys of this one are left."""
    calls = calls_of(World(A, A2, A3, B), *[failure("key_dead", status=403)] * 4)
    assert [(name, kind) for name, _, kind, _ in calls] == [
        ("a/m", "first"),
        ("b/m", "next"),
        ("a/m", "key"),
        ("a/m", "key"),
    ]


def test_a_refused_prompt_is_not_carried_from_key_to_key() -> None:
    """What a provider's rules refuse, they refuse by every key."""
    calls = calls_of(World(A, A2, A3, B), *[failure("policy", status=403)] * 3)
    assert [(name, kind) for name, _, kind, _ in calls] == [("a/m", "first"), ("b/m", "next")]


def test_a_targets_other_keys_share_its_faults() -> None:
    """A target that is down is not asked again by another key."""
    calls = calls_of(World(A, A2, B), DOWN, CUT, DOWN)
    assert [(each[0], each[2]) for each in calls] == [("a/m", "first"), ("b/m", "next"), ("a/m", "same")]
    assert calls[2][1] == calls[0][1]


def test_what_is_final_ends_it() -> None:
    """A caller's fault; the caps, and the deadline."""
    assert len(calls_of(World(A, B), failure("caller_fault", status=400))) == 1
    made = World(A, B, timeouts=RouteTimeouts(total_s=5))
    candidates = made.ask()
    option = made.first(candidates)
    assert option is not None
    run = made.run(candidates, option)
    made.now += 5
    assert made.fails(candidates, run, option, DOWN) is None


def test_no_second_call_over_a_key_that_was_refused_meanwhile() -> None:
    """Another request's 429 parks the lane: neither as the next place nor again."""
    made = World(A, B)
    candidates = made.ask()
    option = made.first(candidates)
    assert option is not None
    run = made.run(candidates, option)
    for each in (A, B):
        made.registry.failed(made.lane(each), LIMITED, made.now)
    assert made.fails(candidates, run, option, DOWN) is None


# -------------------------------------------------------------------------------------------------------------- rival


def hedged(*targets, **rule) -> tuple[World, object, object]:
    """A request under way at its first target, with a budget for one extra call."""
    made = World(*targets, hedge=Hedge(after_ms=100, max_extra=1.0), **rule)
    candidates = made.ask()
    option = made.first(candidates)
    assert option is not None
    assert option.target.name == "a/m"
    return made, candidates, made.run(candidates, option)


def test_a_rival_is_another_place_that_is_well() -> None:
    """Nothing held against its lane, within the budget; the extra call is taken from the budget."""
    made, candidates, run = hedged(A, A2, B, C)
    option = made.rival(candidates, run)
    assert option is not None
    assert option.target is B
    run.called(option)
    assert made.rival(candidates, run) is None  # the budget is spent
    assert made.first(candidates) is not None
    third = made.rival(candidates, run)
    assert third is not None
    assert third.target is C


def test_no_rival_that_is_not_well() -> None:
    """Open, parked, dead, and also one that may be probed: a probe is no help to somebody who waits."""
    made, candidates, run = hedged(A, B, C, D)
    made.opens(made.lane(B))
    made.registry.failed(made.lane(C), LIMITED, made.now)
    made.registry.failed(made.lane(D), REFUSED, made.now)
    assert [made.lane(each).state(made.now) for each in (A, B, C, D)] == [READY, OPEN, PARKED, DEAD]
    assert made.rival(candidates, run) is None
    made.passes(20)
    assert made.lane(B).state(made.now) == PROBE
    assert made.rival(candidates, run) is None
    assert candidates.hedge_budget is not None
    assert candidates.hedge_budget.saved == 1.0


def test_no_rival_past_the_caps() -> None:
    """Three targets are tried, or the deadline is over, or the route has no hedge."""
    made, candidates, run = hedged(A, B, C, D)
    made.now += candidates.total_s
    assert made.rival(candidates, run) is None
    made.now -= candidates.total_s
    for each in candidates.places[1:3]:
        run.called(each.lanes[0])
    assert made.rival(candidates, run) is None
    made = World(A, B)
    candidates = made.ask()
    assert made.rival(candidates, made.run(candidates, made.first(candidates))) is None


def test_a_rival_serves_the_same_model() -> None:
    """What is late has not failed: no fallback to another model, but to the model's own targets that were held back."""
    made, _, _ = hedged(A, fallback=("big",))
    made.serve("big", C)
    candidates = made.ask()
    assert groups(candidates) == [["a/m"], ["c/m"]]
    assert made.rival(candidates, made.run(candidates, made.first(candidates))) is None
    made, candidates, run = hedged(A, B, fallback=("b/*",))
    assert groups(candidates) == [["a/m"], ["b/m"]]
    option = made.rival(candidates, run)
    assert option is not None
    assert option.target is B


# ---------------------------------------------------------------------------------------------------------- none left


def none_left(made: World, capability: str = "chat", **said: object) -> RequestError:
    candidates = made.ask(capability=capability, **said)
    assert made.router.first(candidates, envelope(capability=capability), 200, made.key, made.now) is None
    return made.router.none_left(candidates, envelope(capability=capability), made.now)


def test_none_serves_the_endpoint() -> None:
    """The caller's fault: no target of the model could ever."""
    error = none_left(World(A, B), "embeddings")
    assert (error.status, error.code, error.param) == (400, "invalid_request", "model")
    error = none_left(World(A, target("b/m", serves=("embeddings",)), ignore=("b",)), "embeddings")
    assert (error.status, error.code) == (503, "no_target_available")


def test_none_is_allowed() -> None:
    """Each target with its reason, and the whole in one sentence."""
    error = none_left(World(A, OWN, target("x/m", unroutable="no price"), ignore=("own",)), data_class="private")
    assert (error.status, error.code) == (503, "no_target_available")
    for told in ("a/m: data class private", "own/m: among the route's `ignore`", "x/m: no price"):
        assert told in error.message


def test_all_are_parked() -> None:
    """429, with the shortest wait there is, also where a breaker is open for longer."""
    made = World(A, B)
    made.opens(made.lane(A))
    made.registry.failed(made.lane(A), failure("key_limited", retry_after_s=7.0), made.now)
    made.registry.failed(made.lane(B), LIMITED, made.now)
    made.now += 2
    error = none_left(made)
    assert (error.status, error.code, error.retry_after_s) == (429, "upstream_rate_limited", 5.0)
    assert "a/m: parked for 5 s more" in error.message


def test_all_are_parked_or_dead() -> None:
    """503 with the reasons, and when the first of them is worth a try."""
    made = World(A, B)
    made.registry.failed(made.lane(A), REFUSED, made.now)
    made.registry.failed(made.lane(B), LIMITED, made.now)
    error = none_left(made)
    assert (error.status, error.code, error.retry_after_s) == (503, "no_target_available", 30.0)
    assert "a/m: its credential is dead: key_dead 401" in error.message
    assert "main" not in error.message  # how keys are called is the operator's


def test_waits_of_parked_lanes() -> None:
    """Of all lanes, as soon as all are parked."""
    made = World(A, B)
    candidates = made.ask()
    made.registry.failed(made.lane(A), LIMITED, made.now)
    assert made.router.parked_waits(candidates, made.now) is None
    made.registry.failed(made.lane(B), failure("key_limited", retry_after_s=20.0), made.now)
    assert made.router.parked_waits(candidates, made.now + 10) == [20.0, 10.0]
    assert made.router.parked_waits(candidates, made.now + 20) is None
