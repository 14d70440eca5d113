"""Nodes that take no calls now: passed over, with the reason, and nothing held against them."""

from itertools import pairwise

import msgspec
from route_rig import World, envelope, failure, on_node, target

from potluck.model.node import NodePlace, place_of
from potluck.model.usage import PlanLine
from potluck.policy.selection import Wish
from potluck.proxy.answers import retry_after
from potluck.proxy.candidates import Candidates
from potluck.proxy.explain import plan_of
from potluck.proxy.registry import AWAY, AWAY_RETRY_S, ENGINE_SILENT, NOT_CONNECTED, OPEN, READY
from potluck.snapshot.cards import model_card

LAB, RIG = on_node("lab"), on_node("rig")
A, B = target("a/m", priority=1), target("b/m", priority=2)
DOWN = failure("target_down", phase="connect")


def chosen(made: World, candidates: Candidates) -> str | None:
    option = made.first(candidates)
    return None if option is None else option.target.name


def test_a_node_that_nothing_was_told_of_is_not_connected() -> None:
    """It is passed over from the first request on, and used as soon as it is said to be there."""
    made = World(LAB, A)
    candidates = made.ask()
    assert chosen(made, candidates) == A.name
    assert made.lane(LAB).reason(made.now) == f"away: {NOT_CONNECTED}"
    made.present(LAB)
    assert chosen(made, candidates) == LAB.name


def test_an_away_node_is_passed_over_even_as_the_last_way_out() -> None:
    """A call there would be refused for certain: the request is told why there is none, and when to come again."""
    made = World(LAB)
    candidates = made.ask()
    made.present(LAB)
    assert made.first(candidates) is not None
    made.registry.set_away("node_lab", "paused: the owner is here")
    assert made.first(candidates) is None
    error = made.router.none_left(candidates, envelope(), made.now)
    assert (error.status, error.code) == (503, "no_target_available")
    assert "node:lab/m: away: paused: the owner is here" in error.message
    assert error.retry_after_s == AWAY_RETRY_S


def test_being_away_is_held_against_nobody() -> None:
    """Clearing by hand finds nothing, no breaker moves, and the sweep leaves it alone."""
    made = World(LAB, A)
    made.ask()
    lane = made.lane(LAB)
    assert (lane.state(made.now), lane.troubled, lane.held) == (AWAY, True, False)
    made.passes(3)
    assert made.registry.clear() == 0
    assert (lane.state(made.now), lane.breaker.state) == (AWAY, "closed")


def test_what_was_held_against_a_node_survives_its_absence() -> None:
    """A broken machine that reconnects is still broken: its breaker stays open."""
    made = World(LAB, A)
    made.present(LAB)
    candidates = made.ask()
    made.opens(made.lane(LAB))
    made.registry.set_away("node_lab", "not connected")
    assert made.lane(LAB).state(made.now) == AWAY
    made.present(LAB)
    assert made.lane(LAB).state(made.now) == OPEN
    assert chosen(made, candidates) == A.name


def test_a_failure_before_content_goes_to_a_node_that_is_there() -> None:
    """The next target is the next one that takes calls."""
    made = World(LAB, RIG, A)
    made.present(LAB)
    candidates = made.ask()
    first = made.first(candidates)
    assert first is not None
    following = made.fails(candidates, made.run(candidates, first), first, DOWN)
    assert following is not None
    assert (first.target.name, following.option.target.name) == (LAB.name, A.name)


def test_requests_that_no_away_node_could_serve_take_the_short_way() -> None:
    """`impaired` is the candidates' own, and absent nodes are simply not among them: they cost nothing."""
    made = World(LAB, A)
    made.serve("big", A, B)
    fleet, big = made.ask(), made.ask("big")
    made.serve("tiny", B, LAB)
    tiny = made.ask("tiny")
    kinds = [fleet, big, tiny]
    assert [chosen(made, each) for each in kinds] == [A.name, A.name, B.name]
    assert [each.impaired for each in kinds] == [False, False, False]
    assert [place.name for place in fleet.groups[0].present] == [A.name]
    made.opens(made.lane(A))
    assert [chosen(made, each) for each in kinds] == [A.name, B.name, B.name]
    assert [each.impaired for each in kinds] == [True, True, False]
    made.present(LAB)
    assert chosen(made, fleet) == LAB.name
    made.succeeds(made.lane(A), begun_at=made.now + 100)
    assert [chosen(made, each) for each in kinds] == [LAB.name, A.name, LAB.name]
    assert [each.impaired for each in kinds] == [False, False, False]
    assert fleet.groups[0].present is fleet.groups[0].options


def test_the_plan_says_why_a_node_is_away() -> None:
    """State and reason, as of any other lane."""
    made = World(LAB, A)
    candidates = made.ask()
    made.first(candidates)
    told = {each.target: (each.state, each.reason) for each in plan_of(candidates, Wish(), made.now).targets}
    assert told == {"node:lab/m": ("away", "away: not connected"), "a/m": ("closed", "")}


def test_a_node_that_is_gone_takes_its_lanes_along() -> None:
    """Nothing of it stays in the registry once the configuration is without it."""
    made = World(LAB, RIG)
    made.present(LAB, RIG)
    made.first(made.ask())
    made.swap(models={}, pins={}, nodes={"node_rig": made.current.nodes["node_rig"]})
    made.serve("small", RIG)
    made.first(made.ask())
    assert set(made.registry.away) == {"node_rig"}
    assert {lane.node_id for lane in made.registry.lanes.values()} == {"node_rig"}
    made.registry.set_away("node_lab", "not connected")  # told late: no harm
    assert made.lane(RIG).state(made.now) == READY


def test_a_place_on_a_node_has_one_machine() -> None:
    """Made when first asked for, the same for reports and requests, and the class is the model's."""
    made = World(LAB, RIG, A)
    told = made.registry.machine(LAB.place)  # its heartbeat came before any request
    candidates = made.ask()
    machines = [place.standing.machine for place in candidates.places]
    assert (machines[0] is told, machines[2]) == (True, None)
    assert machines[1] not in (None, told)
    assert set(made.registry.peers) == {"m"}


def test_what_a_node_does_not_offer_any_more_is_dropped() -> None:
    """A machine that announces other names each time costs no memory; what calls still hold stays."""
    made, place = World(), ""
    for number in range(100):
        place = place_of("node_lab", "e", f"m{number}")
        made.registry.machine(place)
        made.registry.offered("node_lab", {place})
    busy = made.registry.standing(place)
    busy.in_flight = 1
    made.registry.offered("node_lab", ())
    assert list(made.registry.standings) == [place]
    assert (list(made.registry.peers), list(made.registry.hosts)) == (["m99"], ["node_lab e"])
    busy.in_flight = 0
    made.registry.offered("node_lab", ())
    del busy
    assert not made.registry.standings
    assert not made.registry.peers
    assert not made.registry.hosts


def test_a_node_that_is_gone_takes_its_machines_along() -> None:
    """However few of the others have been heard of since the start."""
    made = World(LAB, RIG)
    made.registry.set_away("node_lab", "")
    made.registry.machine(LAB.place)
    made.first(made.ask())
    made.swap(models={}, pins={}, nodes={"node_rig": made.current.nodes["node_rig"]})
    made.serve("small", RIG)
    made.first(made.ask())
    assert not made.registry.away
    assert set(made.registry.standings) == {RIG.place}
    assert {lane.node_id for lane in made.registry.lanes.values()} == {"node_rig"}


def test_a_machine_that_was_never_called_outlives_another_lanes_trouble() -> None:
    """What a node said of itself is known before the first request, and still after lanes were forgotten."""
    made = World(LAB, A, B)
    told = made.registry.machine(LAB.place)
    made.registry.failed(made.lane(A), failure("key_limited", status=429), made.now, A)
    made.registry.forget(made.current)
    assert made.registry.machine(LAB.place) is told


def test_a_large_fleets_plan_is_told_for_a_small_share_of_the_time() -> None:
    """Machines come and go all day: where writing the plan down takes long, it is not done at every change."""
    made = World(LAB, RIG, A)
    made.present(LAB, RIG)
    candidates = made.ask()
    told: list[float] = []

    def slowly(_: PlanLine) -> None:
        made.now += 0.01
        told.append(made.now)

    made.router.on_plan = slowly
    for number in range(600):
        made.registry.set_away("node_lab", "paused" if number % 2 else "")
        assert chosen(made, candidates) in ((RIG.name,) if number % 2 else (LAB.name, RIG.name))
        made.now += 0.1
    assert 40 <= len(told) <= 62
    assert min(after - before for before, after in pairwise(told)) >= 1.0


def test_an_engine_that_does_not_answer_takes_only_its_own_places_away() -> None:
    """At once, in words, and back as soon as it answers; what is told of the node itself comes first."""
    place = NodePlace("node_lab", "f", "other")
    other = msgspec.structs.replace(on_node("lab", "other"), place=place_of("node_lab", "f", "other"), node=place)
    made = World(LAB, other)
    made.present(LAB)
    made.registry.set_silent("node_lab", frozenset({"e"}))
    lanes = [made.lane(each) for each in (LAB, other)]
    assert [each.away for each in lanes] == [ENGINE_SILENT, ""]
    made.registry.set_away("node_lab", "not connected")
    assert [each.away for each in lanes] == ["not connected"] * 2
    made.registry.set_away("node_lab", "")
    assert [each.away for each in lanes] == [ENGINE_SILENT, ""]
    made.registry.set_silent("node_lab", frozenset())
    assert [each.away for each in lanes] == ["", ""]
    made.registry.set_silent("node_lab", frozenset({"f"}))
    made.registry.gone("node_lab")
    assert not made.registry.silent


def test_what_time_does_not_mend_says_no_time() -> None:
    """A class that no target may serve: no `Retry-After`, and SDKs are told not to ask again. An away node: one."""
    made = World(target("cloud/m"))
    candidates = made.ask(data_class="private")
    error = made.router.none_left(candidates, envelope(), made.now)
    assert (error.status, retry_after(error)) == (503, b"x-should-retry: false\r\n")
    away = World(LAB)
    error = away.router.none_left(away.ask(), envelope(), away.now)
    assert retry_after(error).startswith(b"retry-after: ")


def test_callers_are_not_told_what_an_owner_asks() -> None:
    """Price, ceiling and the operator's command stay with the operator."""
    words = "its price is not agreed on: it asks 5/5 USD, and its join token allows 1/1: potluck nodes price lab m"
    made = World(on_node("lab", unroutable=words))
    error = made.router.none_left(made.ask(), envelope(), made.now)
    assert "its price is not agreed on" in error.message
    assert "USD" not in error.message
    assert "potluck nodes" not in error.message
    card = model_card("m", 0, [on_node("lab", unroutable=words)], None)
    assert b"not agreed on" in card
    assert b"USD" not in card
