"""Strategies where machines are among the options: each keeps its promise, and says what it goes by."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from fleet_rig import ASK, BLOCKS, NOW, machine, option
from hypothesis import given
from hypothesis import strategies as st

from potluck.model.resources import Strategy
from potluck.policy.fleet_selection import pick_of, scores
from potluck.policy.machine_cost import Ask
from potluck.policy.selection import EXPLORE, PICK, Wish, lasting_score, leading, score, stays
from potluck.policy.standing import Option, Standing

ALL = sorted(PICK)
WISH = Wish(stream=True, output_tokens=200, now=NOW, ask=ASK)


def used(**report: Any) -> Any:
    """A machine that has just had work: nothing makes it explored, nothing is owed to it."""
    made = machine(**report)
    made.begin(Ask(0, 0), NOW).end(0, NOW)
    return made


def provider(name: str = "cloud", ms: float | None = None, **members: Any) -> Option:
    """A place that is no machine, and answers in so many milliseconds."""
    made = Option(Standing(), name, **members)
    if ms is not None:
        for n in range(30):
            made.standing.latency.observe_stream(0, ms, 0.0, NOW - 30 + n)
    return made


def counts(strategy: Strategy, options: Sequence[Option], wish: Wish = WISH, times: int = 4_000) -> list[int]:
    chance = random.Random(11).random
    pick = pick_of(strategy, options)
    found = Counter(pick(options, wish, chance) for _ in range(times))
    return [found[index] for index in range(len(options))]


@pytest.mark.parametrize("strategy", ALL)
def test_pools_without_machines_keep_their_functions(strategy: Strategy) -> None:
    """What costs nothing to those without machines cannot change them."""
    assert pick_of(strategy, [provider(), provider("b")]) is PICK[strategy]
    assert pick_of(strategy, [provider(), option(used())]) is not PICK[strategy]


@pytest.mark.parametrize("strategy", ALL)
def test_between_machines_it_always_depends_on_the_request(strategy: Strategy) -> None:
    """No pool with a machine in it is drawn from without looking."""
    assert leading(strategy, [provider(cost=1.0), option(used(), cost=1.0)]) == []


@pytest.mark.parametrize("strategy", ALL)
@given(seed=st.integers(0, 2**32), machines=st.integers(1, 4), providers=st.integers(0, 3))
def test_any_pool_gives_one_of_its_options(strategy: Strategy, seed: int, machines: int, providers: int) -> None:
    """Machines and providers in any number, some unknown."""
    chance = random.Random(seed)
    among = [
        option(machine(resident=chance.choice([True, False, None]), running=chance.randrange(6)), f"m{n}", cost=0.0)
        for n in range(machines)
    ]
    among += [provider(f"p{n}", chance.choice([None, 50.0, 5_000.0]), cost=chance.random()) for n in range(providers)]
    chance.shuffle(among)
    assert 0 <= pick_of(strategy, among)(among, WISH, chance.random) < len(among)


@pytest.mark.parametrize("strategy", ["priority", "cheapest"])
def test_a_lower_rank_is_never_used_for_a_faster_machine(strategy: Strategy) -> None:
    """What is written down holds: tier and price come before milliseconds."""
    slow = option(used(decode_tps=5.0), "slow", cost=0.0)
    fast = option(used(decode_tps=500.0), "fast", cost=10.0, priority=1)
    assert counts(strategy, [fast, slow]) == [0, 4_000]


@pytest.mark.parametrize("strategy", ["priority", "cheapest", "weighted"])
def test_ties_between_machines_are_decided_by_what_they_would_take(strategy: Strategy) -> None:
    """The same tier, price or draw: the machine that takes a tenth of the time gets everything."""
    among = [option(used(decode_tps=5.0), "slow", cost=0.0, weight=9), option(used(), "fast", cost=0.0)]
    assert counts(strategy, among) == [0, 4_000]


@pytest.mark.parametrize("strategy", ["priority", "cheapest", "weighted"])
def test_weights_decide_between_machines_and_providers(strategy: Strategy) -> None:
    """Two machines of weight 1 beside a provider of weight 2: half each, and the better machine has its half."""
    among = [
        provider(cost=0.0, weight=2),
        option(used(decode_tps=5.0), "slow", cost=0.0),
        option(used(), "fast", cost=0.0),
    ]
    cloud, slow, fast = counts(strategy, among)
    assert slow == 0
    assert cloud == pytest.approx(fast, rel=0.1)


def test_a_subjects_split_goes_over_machines_too() -> None:
    """`weighted` with a subject: the same place for the same one, whatever machines are doing."""
    among = [option(used(decode_tps=5.0), "slow"), option(used(), "fast"), provider()]
    places = {counts("weighted", among, Wish(subject=f"user-{n}", now=NOW), 5).index(5) for n in range(40)}
    assert places == {0, 1, 2}


def test_fastest_compares_machines_with_providers() -> None:
    """A machine of 5 s against providers of 1 s and of 20 s; what is unknown counts as the best."""
    us = option(used(), "us")
    explored = 4_000 * EXPLORE
    assert counts("fastest", [us, provider(ms=1_000.0)])[0] < 2 * explored
    assert counts("fastest", [us, provider(ms=20_000.0)])[1] < 2 * explored
    assert counts("fastest", [us, provider()])[1] == pytest.approx(2_000, rel=0.1)


def test_exposure_counts_against_providers_as_well() -> None:
    """A tenth off the time puts a machine ahead of a provider that was as good."""
    us = option(used(decode_tps=20.0), "us", exposure=0.9)
    assert score("fastest", [us, provider()], 0, WISH).value == pytest.approx(0.9 * 11_000)
    assert "times 0.9 for exposure" in score("fastest", [us, provider()], 0, WISH).text


def test_least_busy_goes_by_live_slots_and_times() -> None:
    """A machine with three of four slots taken against an idle one that is as fast."""
    among = [option(used(running=3), "full", slots=4), option(used(), "idle", slots=4)]
    full, idle = counts("least_busy", among)
    assert idle > 20 * max(full, 1)
    cloud = provider("far", slots=4, ms=100_000.0)
    assert counts("least_busy", [cloud, option(used(), "near", slots=4)])[1] > 3_800


def test_balanced_counts_a_machines_time() -> None:
    """Twice the time gets half of the draws, between a machine and a provider of the same price."""
    among = [option(used(), "us", cost=1.0, slots=64), provider(ms=10_000.0, cost=1.0, slots=64)]
    us, cloud = counts("balanced", among)
    assert us / cloud == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("strategy", ALL)
def test_an_explanation_names_the_milliseconds_of_each_term(strategy: Strategy) -> None:
    """Whatever ranks it, a machine's text has its terms, its share of the draw or why it has none."""
    near, far = used(rtt_ms=2.0), used(prefill_tps=100.0)
    near.begin(Ask(768, 1, BLOCKS[:3]), NOW).end(0, NOW)
    among = [option(near, "near", cost=0.0), option(far, "far", cost=0.0), provider(cost=0.0)]
    told = scores(strategy, among, Wish(True, 0, 200, now=NOW, ask=Ask(1_000, 200, BLOCKS)))
    assert "4234 ms: 2 rtt + 232 prompt (77 % cached) + 4000 output" in told[0].text
    assert told[0].text.endswith("; 100 % of the draw")
    assert told[1].text.endswith("; dearer than a tie")
    assert "draw" not in told[2].text.replace("of the draws", "")


@pytest.mark.parametrize("strategy", ALL)
def test_a_record_says_nothing_that_passes(strategy: Strategy) -> None:
    """Calls in flight and load change no recorded score of a machine."""
    busy = used()
    among = [option(busy, "a", cost=0.0), option(used(), "b", cost=0.0)]
    before = lasting_score(strategy, among, 0, WISH)
    busy.begin(ASK, NOW)
    assert lasting_score(strategy, among, 0, WISH) == before


@pytest.mark.parametrize("strategy", ["fastest", "least_busy", "balanced"])
def test_affinity_weighs_a_machines_time(strategy: Strategy) -> None:
    """A request does not stay with a machine that takes ten times the best one's time."""
    among = [option(used(prefill_tps=50.0, decode_tps=5.0), "slow", cost=0.0), option(used(), "fast", cost=0.0)]
    assert not stays(strategy, among, 0, WISH, 1.5)[0]
    assert stays(strategy, among, 1, WISH, 1.5)[0]
