"""The plan that records refer to: what stands in it, when it is written down, and when it is another one."""

from math import isclose
from typing import Any

import msgspec
import pytest
from route_rig import World, failure, listing, target

from potluck.model.usage import TokenUsage
from potluck.policy.selection import PICK, Wish
from potluck.proxy import explain
from potluck.proxy.explain import plan_line, plan_of
from potluck.proxy.registry import Lane
from potluck.proxy.routing import REFRESH_S, RETELL_S

A, B = target("a/m", usd=2.0), target("b/m", usd=1.0)
DEAD, LIMITED = failure("key_dead"), failure("key_limited", retry_after_s=30.0)


def told(made: World) -> list[dict[str, Any]]:
    """Targets of the plan that was written down last."""
    return msgspec.json.decode(made.plans[-1].plan)["targets"]


def test_a_plan_says_what_was_considered() -> None:
    """Groups in their order, each target with the number that ranked it or the reason that it is out."""
    made = World(A, B, target("a/m", "second", usd=2.0), target("c/m"), strategy="cheapest", ignore=("c",),
                 fallback=("a/*", "gone", "big"))  # fmt: skip
    made.serve("big", target("d/m", usd=None))
    candidates = made.ask()
    made.first(candidates)
    plan = plan_of(candidates, Wish(), made.now)
    assert (plan.model, plan.route, plan.strategy) == ("small", "rule", "cheapest")
    rows = [(each.target, each.credential, each.group, each.of, each.model, each.why) for each in plan.targets]
    assert rows == [
        ("b/m", "main", 0, "model", "small", "0.00125 USD expected"),
        ("a/m", "main", 1, "fallback a/*", "small", "0.0025 USD expected"),
        ("a/m", "second", 1, "fallback a/*", "small", "0.0025 USD expected"),
        ("d/m", "main", 2, "fallback big", "big", "no known price"),
        ("c/m", "", 0, "", "", "among the route's `ignore`"),
        ("gone", "", 0, "", "", "the route falls back to it, but there is no such model"),
    ]
    assert [each.is_in for each in plan.targets] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("strategy", sorted(PICK))
def test_every_strategy_gives_a_plan(strategy: str) -> None:
    """Also where nothing is measured and a price is unknown: valid JSON, read back as it was."""
    made = World(A, target("b/m", usd=None), strategy=strategy)
    made.first(made.ask())
    line = made.plans[-1]
    again = msgspec.json.decode(msgspec.json.encode(line), type=type(line))
    assert bytes(again.plan) == bytes(line.plan)
    assert [each["target"] for each in told(made)] == ["a/m", "b/m"]


def test_a_plan_for_whom_nothing_serves() -> None:
    """All are out, and the plan still says by which rule."""
    made = World(A, B, only=("x",))
    made.first(made.ask(key=listing("small")))
    assert {each["why"] for each in told(made)} == {"not among the route's `only`"}
    assert not any(each["in"] for each in told(made))


def test_a_plan_is_told_once_a_minute() -> None:
    """Requests without end, and nothing new: one plan, retold so that it is kept while requests refer to it."""
    made = World(A, B, strategy="cheapest")
    candidates = made.ask()
    for _ in range(round(2.5 * RETELL_S / REFRESH_S)):
        made.first(candidates)
        made.passes(REFRESH_S)
        candidates.mix.observe(TokenUsage(1_000, 250))
    assert len(made.plans) == 3
    assert {plan.id for plan in made.plans} == {candidates.plan, plan_line(candidates, made.now).id}


@pytest.mark.parametrize("strategy", sorted(PICK))
def test_a_plan_repeats_whatever_passes(strategy: str) -> None:
    """Other calls in flight, a little faster or slower, a failure more, a minute less to wait: the same plan."""
    made = World(A, B, target("c/m"), target("d/m"), strategy=strategy)
    candidates = made.ask()
    for each in candidates.places:
        for _ in range(20):
            each.standing.latency.observe_stream(0, 500.0, 0.0, made.now)
    made.opens(made.lane(B))
    made.registry.failed(made.lane(target("c/m")), failure("key_limited", retry_after_s=300.0), made.now)
    breaks(made, made.lane(target("d/m")))
    ids = set()
    for n in range(4):
        for each in candidates.places:
            each.standing.in_flight = 3 * n
            each.standing.latency.observe_stream(0, 490.0 + 10 * n, 0.0, made.now)
        made.registry.failed(made.lane(B), failure("target_down"), made.now)
        made.now += 2.0
        made.first(candidates)
        ids.add(plan_line(candidates, made.now).id)
    assert len(ids) == 1
    reasons = [each.get("reason", "") for each in told(made)]
    assert sorted(reasons) == [
        "",
        "breaker open: target_down 0",
        "its credential is dead: key_dead 401",
        "parked: key_limited 429",
    ]
    full = plan_of(candidates, Wish(), made.now)
    assert "298 s more" not in bytes(made.plans[-1].plan).decode()
    assert any("s more" in each.reason for each in full.targets)


def test_trouble_elsewhere_retells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane of another model opens and closes: plans of this one are not worked out again."""
    made = World(A, B)
    made.serve("other", target("x/m"))
    made.first(made.ask("other"))
    candidates = made.ask()
    made.first(candidates)
    worked_out = []
    monkeypatch.setattr(explain, "plan_line", lambda *asked: worked_out.append(asked) or plan_line(*asked))
    for _ in range(5):
        made.opens(made.lane(target("x/m")))
        made.first(candidates)
        made.registry.clear()
        made.first(candidates)
    assert not worked_out
    made.opens(made.lane(A))
    made.first(candidates)
    assert len(worked_out) == 1


def breaks(made: World, lane: Lane) -> None:
    made.registry.failed(lane, DEAD, made.now)


def parks(made: World, lane: Lane) -> None:
    made.registry.failed(lane, LIMITED, made.now)


@pytest.mark.parametrize(
    ("trouble", "state"), [(World.opens, "open"), (breaks, "dead"), (parks, "parked")], ids=["open", "dead", "parked"]
)
def test_a_lane_in_trouble_makes_another_plan(trouble, state: str) -> None:
    """With the next request, with state and reason; when it is well again, the plan is the one of before."""
    made = World(A, B)
    candidates = made.ask()
    made.first(candidates)
    trouble(made, made.lane(A))
    made.first(candidates)
    first, second = made.plans
    assert first.id != second.id
    assert candidates.plan == second.id
    assert [each.get("state") for each in told(made)] == [state, "closed"]
    assert told(made)[0]["reason"] == made.lane(A).reason(made.now, lasting=True)
    made.registry.clear()
    made.first(candidates)
    assert [plan.id for plan in made.plans] == [first.id, second.id, first.id]


def test_numbers_are_told_anew_once_a_minute() -> None:
    """Costs move with every request: that alone is no new plan until a minute is over."""
    made = World(A, B, strategy="cheapest")
    candidates = made.ask()
    made.first(candidates)
    for tokens in range(40):
        candidates.mix.observe(TokenUsage(100_000 + 10_000 * tokens, 10))
        made.now += REFRESH_S
        made.first(candidates)
    cost = candidates.places[0].cost
    assert cost > 2 * 100_000 * 1_000  # known at once, and used
    assert len(made.plans) == 1
    made.now += RETELL_S
    made.first(candidates)
    assert len(made.plans) == 2
    assert isclose(told(made)[0]["score"], candidates.places[0].cost, rel_tol=0.05)


def test_recorded_scores_have_two_digits() -> None:
    """What differs by less is one plan."""
    made = World(target("a/m", usd=1.234567), strategy="cheapest")
    made.first(made.ask())
    assert told(made)[0]["score"] == 1_500_000
    assert plan_of(made.ask(), Wish(), made.now).targets[0].score == 1_543_210


def test_plans_of_different_kinds_are_different() -> None:
    """Model, rule and what is out belong to a plan."""
    made = World(A, B)
    made.serve("other", A, B)
    for candidates in (made.ask(), made.ask("other"), made.ask(ignore=("a",)), made.ask(prefer="cheapest")):
        made.first(candidates)
    assert len({plan.id for plan in made.plans}) == 4
