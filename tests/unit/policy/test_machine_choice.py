"""Choosing between machines: every lesson that live traffic on strangers' machines taught, and the rules' promises."""

import random
from collections import Counter
from typing import Any

import pytest
from fleet_rig import ASK, BLOCKS, NOW, draws, machine, option, options, pool
from hypothesis import given
from hypothesis import strategies as st

from potluck.policy.calibration import MIN_SAMPLES
from potluck.policy.machine_choice import (
    BOUND,
    COLD_PREFIX,
    EXPLORE_MACHINES,
    FULL,
    IDLE_S,
    LOADS,
    OVER_BOUND,
    OWN_FAVOUR,
    T_MAX_MS,
    TIE_MS,
    UNSERVED_S,
    choose,
    consider,
)
from potluck.policy.machine_cost import Ask
from potluck.policy.machine_groups import Peers
from potluck.policy.machines import STALE_LOAD_S, Machine
from potluck.policy.standing import MIN_EXPOSURE

PREFIX = Ask(1_024, 100, BLOCKS)


def warm(**report: Any) -> Machine:
    """A machine that has read the prompt `PREFIX` before."""
    made = machine(**report)
    made.begin(PREFIX, NOW - 1).end(0, NOW - 1)
    return made


def busy(made: Machine, calls: int, ask: Ask = ASK) -> Machine:
    for _ in range(calls):
        made.begin(ask, NOW)
    return made


# --- promises

counts = st.integers(0, 2**53 - 1)
"""what a stranger may say, as the link validates it"""
fleets = st.lists(
    st.fixed_dictionaries(
        {
            "resident": st.sampled_from([True, False, None]),
            "prefill_tps": st.none() | st.floats(1, 20_000) | st.floats(0, 1e7),
            "decode_tps": st.none() | st.floats(0.5, 300) | st.floats(0, 1e7),
            "slots": st.integers(1, 8) | counts,
            "running": st.integers(0, 20) | counts,
            "waiting": st.integers(0, 20) | counts,
            "load_s": st.none() | st.floats(0, 600),
            "rtt_ms": st.floats(0, 1_000),
            "age_s": st.floats(0, 100),
            "calls": st.integers(0, 12),
            "refused": st.booleans(),
        }
    ),
    min_size=1,
    max_size=8,
)


def fleet_of(told: list[dict[str, Any]]) -> list[Machine]:
    made = []
    peers = Peers()
    for each in told:
        said = {name: value for name, value in each.items() if name not in ("age_s", "calls", "refused")}
        one = Machine(peers)
        one.report(reported_at=NOW - each["age_s"], **said)
        busy(one, each["calls"], PREFIX)
        if each["refused"]:
            one.begin(ASK, NOW).dropped(NOW, refused=True)
        made.append(one)
    return made


@given(fleets, st.integers(0, 2**32))
def test_there_is_always_a_machine(told: list[dict[str, Any]], seed: int) -> None:
    """However full, old, slow, unloaded or refusing all of them are: no estimate rejects a request."""
    among = options(*fleet_of(told))
    choice = consider(among, PREFIX, NOW)
    assert choice.pool
    assert all(weight > 0 for weight in choice.weights)
    assert 0 <= choose(among, PREFIX, NOW, random.Random(seed).random) < len(among)


@given(fleets)
def test_looking_changes_nothing(told: list[dict[str, Any]]) -> None:
    """Considering twice gives the same twice."""
    among = options(*fleet_of(told))
    assert consider(among, PREFIX, NOW) == consider(among, PREFIX, NOW)


@given(fleets)
def test_nobody_in_the_draw_is_dearer_than_a_tie_unless_guessed(told: list[dict[str, Any]]) -> None:
    """The best of the draw and the worst differ by 15 % or 1.5 s at most."""
    choice = consider(options(*fleet_of(told)), PREFIX, NOW)
    known = [choice.expected[index].total_ms for index in choice.pool if not choice.expected[index].guessed]
    if known:
        assert max(known) <= min(known) + max(0.15 * min(known), TIE_MS) + 1e-6


@given(st.lists(st.integers(1, 8), min_size=2, max_size=6), st.integers(1, 60))
def test_load_stays_within_its_bound(slots: list[int], calls: int) -> None:
    """A burst of one prompt, sent call by call: no machine gets more than 1.25 times its share, free slots apart."""
    among = options(*[machine(slots=each) for each in slots])
    chance = random.Random(1).random
    for _ in range(calls):
        taken = choose(among, PREFIX, NOW, chance)
        among[taken].standing.machine.begin(PREFIX, NOW)  # type: ignore[union-attr]
    machines = [each.standing.machine for each in among]
    capacities = [each.capacity_tps(NOW) for each in machines if each is not None]
    for each, capacity in zip(machines, capacities, strict=True):
        assert each is not None
        assert each.busy <= max(each.slots, BOUND * calls * capacity / sum(capacities) + 1)


def test_explored_machines_get_their_share_and_no_more() -> None:
    """Lesson 6: a node that had nothing for an hour gets 2 % whatever it costs, all such nodes together."""
    best, slow, slower = busy(machine(decode_tps=100.0), 1), machine(decode_tps=5.0), machine(decode_tps=4.0)
    for each in (slow, slower):
        each.host.begun_at = NOW - UNSERVED_S
    found = draws(options(best, slow, slower), times=20_000)
    assert found[1] + found[2] == pytest.approx(20_000 * EXPLORE_MACHINES, rel=0.2)
    assert found[1] == pytest.approx(found[2], rel=0.35)
    slow.host.begun_at = slower.host.begun_at = NOW - 60
    assert draws(options(best, slow, slower)) == {0: 4_000}


def test_a_full_machine_is_not_explored() -> None:
    """Exploring is for nodes that stand idle, not for those that cannot take more or have just refused."""
    best, full = busy(machine(), 1), machine(running=4, decode_tps=5.0)
    assert draws(options(best, full)) == {0: 4_000}


def test_one_machine_is_no_choice() -> None:
    """Whatever it costs: a predicted miss never rejects."""
    assert choose(options(machine(prefill_tps=0.1, decode_tps=0.1, running=50)), ASK, NOW, random.random) == 0


# --- the lessons


def test_an_estimate_that_is_far_off_rejects_nothing() -> None:
    """Lessons 1 and 2: a prefill word a hundred times too low costs no request, and is put right by samples."""
    honest, modest = machine(), machine(prefill_tps=10.0)
    assert pool([modest]) == [0]
    for n in range(MIN_SAMPLES):
        work = modest.begin(ASK, NOW + n)
        work.first_token(NOW + n + 1)
        work.end(200, NOW + n + 5)
    now = NOW + MIN_SAMPLES + 5
    for each in (honest, modest):
        each.report(reported_at=now)
    assert pool([honest, modest], now=now) == [0, 1]


def test_selection_and_admission_read_the_same_numbers() -> None:
    """Lesson 3: what is ranked, what is told and what a call begins with is one estimate."""
    made = busy(machine(rtt_ms=20.0), 2)
    ranked = consider(options(made), ASK, NOW).expected[0]
    assert ranked == made.expect(ASK, NOW) == made.begin(ASK, NOW).expected


def test_equal_machines_get_equal_shares_whatever_their_order() -> None:
    """Lesson 6, and Herd's first-listed node: ties are drawn."""
    found = draws(options(*[busy(machine(), 1) for _ in range(4)]))
    assert all(found[index] == pytest.approx(1_000, rel=0.15) for index in range(4))


def test_a_small_machine_within_a_tie_gets_work() -> None:
    """Lesson 6: 10 % slower is as good, and gets nearly as much."""
    found = draws(options(busy(machine(), 1), busy(machine(decode_tps=45.0), 1)))
    assert found[1] / found[0] == pytest.approx(0.9, rel=0.15)


def test_a_much_later_first_token_is_no_tie() -> None:
    """Totals within 1.5 s of each other, and a first token that comes a second later: people would see that."""
    quick, far = machine(), machine(rtt_ms=1_000.0)
    assert pool([quick, far]) == [0]
    assert pool([quick, machine(rtt_ms=100.0)]) == [0, 1]


def test_nodes_that_had_no_work_for_long_are_drawn_twice_as_often() -> None:
    """No starvation within a tie: what is owed grows for ten minutes."""
    fresh, idle = machine(), machine()
    fresh.host.begun_at, idle.host.begun_at = NOW, NOW - IDLE_S
    found = draws(options(fresh, idle))
    assert found[1] / found[0] == pytest.approx(2, rel=0.15)


def test_a_loaded_machine_is_not_taken_for_a_free_one() -> None:
    """Lesson 7 and olla#216: a cold free twin wins where its load is shorter than the warm one's queue, else not."""
    queue = machine(slots=1, running=3)
    quick, slow = machine(resident=False, load_s=4.0), machine(resident=False, load_s=60.0)
    assert pool([queue, quick]) == [1]
    assert consider(options(queue, slow), ASK, NOW).verdicts == [0, LOADS]
    assert pool([machine(), quick]) == [0]


def test_one_load_serves_all_who_wait_for_it() -> None:
    """A burst for a model that nobody has loaded starts one load, though twins stand by."""
    among = options(*[machine(resident=False, load_s=20.0) for _ in range(3)])
    for each in among:
        each.standing.machine.host.begun_at = NOW - 1  # type: ignore[union-attr]
    first = choose(among, ASK, NOW, random.Random(3).random)
    among[first].standing.machine.begin(ASK, NOW)  # type: ignore[union-attr]
    assert consider(among, ASK, NOW).pool == [first]


def test_batching_is_part_of_the_cost() -> None:
    """Lesson 8: at eight streams each has a third of the speed, so that the idle slower one is the better."""
    large, small = busy(machine(slots=8, decode_tps=90.0), 7, Ask(0, 400)), machine(decode_tps=60.0)
    assert pool([large, small], Ask(0, 400)) == [1]


def test_a_burst_does_not_herd() -> None:
    """Twelve calls between two heartbeats, to three equal machines: four each, within a bound."""
    among = options(*[machine(slots=4) for _ in range(3)])
    chance = random.Random(5).random
    taken: Counter[int] = Counter()
    for _ in range(12):
        index = choose(among, ASK, NOW, chance)
        among[index].standing.machine.begin(ASK, NOW)  # type: ignore[union-attr]
        taken[index] += 1
    assert max(taken.values()) <= 6
    assert len(taken) == 3


def test_a_machine_that_refuses_at_once_is_no_black_hole() -> None:
    """The idlest machine is the one that refuses everything: it is set aside, unless it is the only one."""
    broken, fine = machine(), busy(machine(), 3)
    broken.begin(ASK, NOW).dropped(NOW, refused=True)
    assert consider(options(broken, fine), ASK, NOW).verdicts[0] == FULL
    assert pool([broken]) == [0]


def test_old_news_count_as_full_unless_that_leaves_none() -> None:
    """Two heartbeats without a word on its load: others come first; when all are silent, silence says nothing."""
    now = NOW + STALE_LOAD_S + 1
    silent, told = machine(), machine(decode_tps=5.0)
    assert pool([silent, machine()], now=now) == [0, 1]
    told.report(reported_at=now)
    assert consider(options(silent, told), ASK, now).verdicts[0] == FULL


# --- large fleets


def test_in_a_large_fleet_every_machine_gets_its_share() -> None:
    """Three hundred equal machines: some are looked at for each request, and none is left out over many."""
    among = options(*[busy(machine(), 1) for _ in range(300)])
    found = draws(among, times=6_000)
    assert len(found) == 300
    assert max(found.values()) < 60


def test_in_a_large_fleet_a_prompt_still_goes_where_its_beginning_is() -> None:
    """The one machine of three hundred that has it is always looked at."""
    among = options(*[busy(machine(), 1) for _ in range(299)], warm())
    assert draws(among, PREFIX, times=200) == {299: 200}


def test_in_a_large_fleet_the_best_of_some_is_nearly_the_best() -> None:
    """Machines of every speed: what is chosen is among the fastest tenth, nearly always."""
    among = options(*[busy(machine(decode_tps=10.0 + n), 1) for n in range(300)])
    found = draws(among, Ask(100, 3_000), times=400)
    assert sum(count for index, count in found.items() if index >= 240) > 390


# --- prefixes


def test_a_prompt_goes_where_its_beginning_is() -> None:
    """Four fifths cached: only those machines are considered, though another is as fast."""
    assert consider(options(machine(decode_tps=60.0), warm()), PREFIX, NOW).verdicts == [COLD_PREFIX, 0]
    quick = {"prefill_tps": 100_000.0}
    assert pool([machine(**quick), warm(**quick)], Ask(2_048, 100, (*BLOCKS, 1, 2, 3, 4))) == [0, 1]


def test_stickiness_ends_where_the_wait_is_too_long() -> None:
    """A first token up to 8 s later is worth it, by the same number; later is not."""
    near = warm(rtt_ms=T_MAX_MS)
    far = warm(rtt_ms=T_MAX_MS + 2_000)
    other = machine(prefill_tps=1_000_000.0)
    assert pool([other, near], PREFIX) == [1]
    assert pool([other, far], PREFIX) == [0]


def test_a_hot_prefix_does_not_pile_up() -> None:
    """The machine that has the beginning has its slots full and more than its share: others come in."""
    hot = busy(warm(slots=2), 3, PREFIX)
    choice = consider(options(hot, machine(slots=2), machine(slots=2)), PREFIX, NOW)
    assert choice.verdicts[0] == OVER_BOUND
    assert choice.pool == [1, 2]


# --- who is preferred


def test_own_machines_are_likelier_than_strangers_of_the_same_cost() -> None:
    """Owner fairness: twice as likely."""
    found = draws([option(busy(machine(), 1), "own", own=True), option(busy(machine(), 1), "stranger")])
    assert found[0] / found[1] == pytest.approx(OWN_FAVOUR, rel=0.15)


def test_weights_scale_the_draw() -> None:
    """A machine with three times the weight is drawn three times as often among equals."""
    found = draws([option(busy(machine(), 1), weight=3), option(busy(machine(), 1), "b")])
    assert found[0] / found[1] == pytest.approx(3, rel=0.15)


def test_exposure_is_bounded() -> None:
    """A machine can be preferred by a tenth, and by no more, whatever is set."""
    plain, exposed = busy(machine(decode_tps=10.0), 1), busy(machine(decode_tps=10.0), 1)
    choice = consider([option(plain), option(exposed, "b", exposure=0.1)], ASK, NOW)
    assert choice.weights[0] / choice.weights[1] == pytest.approx(MIN_EXPOSURE)
    assert consider([option(plain), option(exposed, "b", exposure=7.0)], ASK, NOW).weights[0] == choice.weights[0]


def test_a_guess_is_in_the_draw_where_the_half_of_it_would_be() -> None:
    """Unknown is not slow: a machine of which only the class is known gets work beside a faster one."""
    peers = Peers()
    known = [machine(peers, decode_tps=tps) for tps in (25.0, 25.0, 60.0)]
    mute = machine(peers, decode_tps=None)
    later = NOW + 2
    assert 1 in pool([known[2], mute], now=later)
    assert 1 not in pool([known[2], known[0]], now=later)
