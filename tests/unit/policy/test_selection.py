"""Strategies: shares, ties, herds, starvation, splits, and what they say of themselves.

Long since each promise holds for six strategies, and shares are judged by one statistic in one place.
"""

import heapq
import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import inf

import pytest

from potluck.model.resources import Strategy
from potluck.policy.latency import PEAK_DECAY_S
from potluck.policy.selection import EXPLORE, PICK, Random, Wish, lasting_score, score, stays
from potluck.policy.standing import Option, Standing

PICKS = 10_000
CHI_SQUARE_999 = {1: 10.828, 2: 13.816, 3: 16.266, 4: 18.467, 5: 20.515}
"""99.9 % quantiles by degrees of freedom"""
ALL = sorted(PICK)
MEASURING: list[Strategy] = ["fastest", "least_busy", "balanced"]
PLAIN = Wish()


def place(
    name: str,
    *,
    ms: float | None = None,
    in_flight: int = 0,
    weight: int = 1,
    priority: int = 0,
    slots: int = 64,
    cost: float = 1_000.0,
) -> Option:
    """An option whose place has answered plain calls in `ms`, if ever, and has so many in flight."""
    standing = Standing()
    standing.in_flight = in_flight
    if ms is not None:
        for n in range(30):
            standing.latency.observe_plain(0, ms, n * 0.1)
    return Option(standing, name, weight=weight, priority=priority, slots=slots, cost=cost)


def counts(strategy: Strategy, options: Sequence[Option], picks: int = PICKS, wish: Wish = PLAIN) -> list[int]:
    """How often each option is picked, by seeded chance."""
    draw = random.Random(20_240).random
    pick = PICK[strategy]
    found = Counter(pick(options, wish, draw) for _ in range(picks))
    return [found[index] for index in range(len(options))]


def order(strategy: Strategy, options: Sequence[Option], wish: Wish, draw: Random) -> list[int]:
    """All indices as they are picked when each fails in turn."""
    left, ordered = list(range(len(options))), []
    while left:
        ordered.append(left.pop(PICK[strategy]([options[index] for index in left], wish, draw)))
    return ordered


def assert_shares(observed: Sequence[int], weights: Sequence[float]) -> None:
    """By chi-square: such counts come up in fewer than one of a thousand runs if the weights are not these."""
    total, whole = sum(observed), sum(weights)
    expected = [total * weight / whole for weight in weights]
    statistic = sum((seen - due) ** 2 / due for seen, due in zip(observed, expected, strict=True))
    assert statistic < CHI_SQUARE_999[len(observed) - 1], f"{observed} instead of {expected}"


# ------------------------------------------------------------------------------------------------------------- shares


@pytest.mark.parametrize("weights", [(1, 1), (1, 2, 3), (1, 1, 1, 1), (1000, 500, 1), (7, 1, 1, 2, 5, 4)])
def test_weighted_matches_its_weights(weights: tuple[int, ...]) -> None:
    """10,000 picks match the weights by chi-square."""
    assert_shares(
        counts("weighted", [place(str(n), weight=weight) for n, weight in enumerate(weights)], PICKS), weights
    )


def test_the_chi_square_can_fail() -> None:
    """The statistic tells apart weights that differ by a tenth."""
    observed = counts("weighted", [place("a", weight=10), place("b", weight=11)])
    with pytest.raises(AssertionError):
        assert_shares(observed, (1, 1))


def test_priority_draws_within_its_lowest_tier() -> None:
    """Higher tiers get nothing while a lower one is there, wherever it is listed; inside, shares go by weight."""
    options = [
        place("a", priority=5),
        place("b", priority=1, weight=3),
        place("c", priority=2),
        place("d", priority=1, weight=1),
    ]
    observed = counts("priority", options)
    assert observed[0] == observed[2] == 0
    assert_shares([observed[1], observed[3]], (3, 1))


def test_cheapest_takes_the_least_cost() -> None:
    """The cheapest gets all; an unknown price comes last; one tenth of a percent more is a tie."""
    assert counts("cheapest", [place("a", cost=200), place("b", cost=100), place("c", cost=inf)], 100) == [0, 100, 0]
    assert counts("cheapest", [place("a", cost=1e-9), place("b", cost=0)], 100) == [0, 100]
    observed = counts("cheapest", [place("a", cost=1_000), place("b", cost=1_002), place("c", cost=1_000.5)])
    assert observed[1] == 0
    assert_shares([observed[0], observed[2]], (1, 1))


def test_fastest_takes_the_least_time_within_its_exploration() -> None:
    """All but one percent of picks go to the fastest; that percent goes to all alike."""
    observed = counts("fastest", [place("a", ms=900), place("b", ms=300), place("c", ms=340)], 30_000)
    assert_shares(observed, (0.01 / 3, 1 - 2 * 0.01 / 3, 0.01 / 3))


def test_fastest_draws_among_those_within_a_tenth() -> None:
    """10 % more time is a tie, drawn by weight."""
    options = [place("a", ms=300), place("b", ms=325, weight=3), place("c", ms=5_000)]
    observed = counts("fastest", options)
    assert observed[2] < PICKS * EXPLORE
    assert_shares(observed[:2], (1, 3 - 2 * EXPLORE))


def test_fastest_goes_by_the_kind_of_request() -> None:
    """One place is faster for short streams and another for long plain answers: each request goes to its own."""
    quick, steady = place("quick"), place("steady")
    for n in range(30):
        quick.standing.latency.observe_stream(0, 100, 30, n * 0.1)
        steady.standing.latency.observe_stream(0, 800, 5, n * 0.1)
        quick.standing.latency.observe_plain(3, 9_000, n * 0.1)
        steady.standing.latency.observe_plain(3, 4_000, n * 0.1)
    options = [quick, steady]
    assert counts("fastest", options, 1_000, Wish(stream=True, output_tokens=10))[0] > 950
    assert counts("fastest", options, 1_000, Wish(stream=True, output_tokens=1_000))[1] > 950
    assert counts("fastest", options, 1_000, Wish(size_class=3))[1] > 950


def test_balanced_matches_its_formula() -> None:
    """Twice the price draws a quarter, twice the time a half, half full a half."""
    options = [
        place("a", ms=200, cost=1_000),
        place("b", ms=200, cost=2_000),
        place("c", ms=400, cost=1_000),
        place("d", ms=200, cost=1_000, in_flight=32),
    ]
    pulls = (4, 1, 2, 2)
    assert_shares(counts("balanced", options), [pull / 9 * (1 - EXPLORE) + EXPLORE / 4 for pull in pulls])


@pytest.mark.parametrize(
    ("one", "other", "ratio"),
    [
        (place("free", cost=0), place("paid", cost=500), 4),
        (place("a", cost=100), place("b", cost=10_000_000), 100),
        (place("a", cost=100), place("unpriced", cost=inf), 100),
        (place("free", cost=0), place("unpriced", cost=inf), 400),
        (place("a", cost=inf), place("b", cost=inf), 1),
        (place("a", cost=0), place("b", cost=0), 1),
        (place("a", ms=0.1), place("b", ms=45), 1),
        (place("a", ms=0.1), place("b", ms=500), 10),
        (place("a", ms=800), place("unmeasured"), 1),
        (place("a", in_flight=0), place("full", in_flight=200), 100),
        (place("a", in_flight=64), place("b", in_flight=200), 1),
    ],
    ids=lambda value: value.name if isinstance(value, Option) else str(value),
)
def test_balanced_never_takes_all(one: Option, other: Option, ratio: float) -> None:
    """Where a figure is nothing, unknown or beyond measure, a stated floor or cap stands for it."""
    shares = [score("balanced", [one, other], index, PLAIN).value for index in (0, 1)]
    assert shares[0] / shares[1] == pytest.approx(ratio)
    assert sum(shares) == pytest.approx(1)


# --------------------------------------------------------------------------------------------------------------- ties


@pytest.mark.parametrize("strategy", ALL)
@pytest.mark.parametrize("measured", [False, True])
def test_equals_are_drawn_alike(strategy: Strategy, measured: bool) -> None:
    """With nothing to tell places apart, or no samples at all, each gets its share: the first listed no more."""
    options = [place(str(n), ms=250 if measured else None) for n in range(4)]
    assert_shares(counts(strategy, options), (1, 1, 1, 1))


@pytest.mark.parametrize("strategy", ["priority", "cheapest", "fastest"])
def test_ties_are_drawn_by_weight(strategy: Strategy) -> None:
    """Among equals the weight of a target is its share."""
    options = [place("a", ms=250, weight=1), place("b", ms=250, weight=5)]
    explored = EXPLORE if strategy == "fastest" else 0
    assert_shares(counts(strategy, options), [share * (1 - explored) + explored / 2 for share in (1 / 6, 5 / 6)])


@pytest.mark.parametrize("strategy", ALL)
def test_one_option_is_the_choice(strategy: Strategy) -> None:
    """A single place is picked, whatever is known of it."""
    for only in (place("a"), place("a", ms=1e6, in_flight=1_000, cost=inf)):
        assert counts(strategy, [only], 50) == [50]
        assert counts(strategy, [only], 50, Wish(subject="key_1")) == [50]


# ------------------------------------------------------------------------------------------------- herds, starvation


def test_a_burst_spreads_over_the_idle() -> None:
    """Of 300 calls that arrive before any has ended, each of three equal places gets a third, nearly exactly."""
    options = [place(name, ms=250) for name in "abc"]
    draw = random.Random(1).random
    for _ in range(300):
        options[PICK["least_busy"](options, PLAIN, draw)].standing.in_flight += 1
    assert all(95 <= option.standing.in_flight <= 105 for option in options)


@pytest.mark.parametrize("strategy", MEASURING)
def test_a_burst_on_unmeasured_places_does_not_herd(strategy: Strategy) -> None:
    """Before the first answer has come, no place gets more than half of a burst over four."""
    options = [place(name) for name in "abcd"]
    draw = random.Random(1).random
    for _ in range(200):
        options[PICK[strategy](options, PLAIN, draw)].standing.in_flight += 1
    assert max(option.standing.in_flight for option in options) < 100


def test_least_busy_goes_by_slots() -> None:
    """A burst fills places of 4, 16 and 64 slots in proportion."""
    options = [place("a", slots=4), place("b", slots=16), place("c", slots=64)]
    draw = random.Random(1).random
    for _ in range(840):
        options[PICK["least_busy"](options, PLAIN, draw)].standing.in_flight += 1
    assert [option.standing.in_flight / option.slots for option in options] == pytest.approx([10, 10, 10], rel=0.1)


def test_least_busy_without_calls_in_flight_prefers_no_first() -> None:
    """With all counters at zero everyone is picked alike, for pairs too."""
    assert_shares(counts("least_busy", [place("a"), place("b")]), (1, 1))


def test_the_share_of_a_busy_place_goes_to_the_others_alike() -> None:
    """Who is drawn as the second of two does not hang on the order of listing either."""
    observed = counts("least_busy", [place("busy", in_flight=60), place("b"), place("c"), place("d")])
    assert observed[0] < PICKS * EXPLORE
    assert_shares(observed[1:], (1, 1, 1))


def test_a_slow_peak_is_avoided_and_comes_back() -> None:
    """One slow answer makes a place the second choice at once; half a minute later it is as good as the other."""
    options = [place("a", ms=250), place("b", ms=250)]
    options[0].standing.latency.observe_plain(0, 4_000, 10.0)
    for n in range(30):
        options[0].standing.latency.observe_plain(0, 250, 10.0 + n * 0.01)
        options[1].standing.latency.observe_plain(0, 250, 10.0 + n * 0.01)
    assert counts("least_busy", options, wish=Wish(now=10.5))[0] < PICKS * 2 * EXPLORE
    options[1].standing.in_flight = 1
    assert counts("least_busy", options, wish=Wish(now=10.5 + 3 * PEAK_DECAY_S))[0] > PICKS * 0.9


class Traffic:
    """A steady stream of calls, one every `every_s`, to places with given service times; a few may be in flight."""

    def __init__(self, strategy: Strategy, options: list[Option], seed: int, every_s: float = 0.05) -> None:
        self.options = options
        self._pick = PICK[strategy]
        self._draw = random.Random(seed)
        self._every_s = every_s
        self._now = 100.0
        self._ends: list[tuple[float, int, float]] = []

    def send(self, calls: int, times_ms: Sequence[float]) -> list[int]:
        """The choices made for so many calls, while the places take `times_ms`, give or take a fifth."""
        choices = []
        for _ in range(calls):
            self._now += self._every_s
            while self._ends and self._ends[0][0] <= self._now:
                ended_s, index, ms = heapq.heappop(self._ends)
                self.options[index].standing.in_flight -= 1
                self.options[index].standing.latency.observe_plain(0, ms, ended_s)
            index = self._pick(self.options, Wish(now=self._now), self._draw.random)
            ms = times_ms[index] * self._draw.uniform(0.8, 1.2)
            self.options[index].standing.in_flight += 1
            heapq.heappush(self._ends, (self._now + ms / 1000, index, ms))
            choices.append(index)
        return choices


@pytest.mark.parametrize("strategy", MEASURING)
@pytest.mark.parametrize("seed", range(5))
def test_a_bad_early_sample_does_not_starve(strategy: Strategy, seed: int) -> None:
    """A place whose first answer took 30 s and all later ones 100 ms is tried again within 2,000 calls, and within
    20,000 it has its fair share back."""
    options = [place("unlucky"), place("b", ms=100), place("c", ms=100)]
    options[0].standing.latency.observe_plain(0, 30_000, 99.0)
    traffic = Traffic(strategy, options, seed)
    assert traffic.send(2_000, (100, 100, 100)).count(0) >= 1
    traffic.send(18_000, (100, 100, 100))
    assert traffic.send(3_000, (100, 100, 100)).count(0) > 500


@pytest.mark.parametrize("strategy", MEASURING)
def test_a_place_that_recovers_is_used_again(strategy: Strategy) -> None:
    """A place that was ten times as slow for a while gets little meanwhile, and a share once it is well."""
    traffic = Traffic(strategy, [place("a", ms=100), place("b", ms=100)], 7)
    traffic.send(500, (100, 100))
    ill = traffic.send(2_000, (1_000, 100))
    assert ill[500:].count(0) < 300
    traffic.send(20_000, (100, 100))
    assert traffic.send(2_000, (100, 100)).count(0) > 300


@pytest.mark.parametrize("strategy", ALL)
def test_a_place_added_at_run_time_gets_traffic(strategy: Strategy) -> None:
    """A newcomer as good as the others is picked at once and gets a share, while the others are busy and measured."""
    options = [place("a", ms=100, in_flight=3), place("b", ms=100, in_flight=3)]
    traffic = Traffic(strategy, options, 7)
    traffic.send(1_000, (100, 100))
    options.append(place("new"))
    choices = traffic.send(3_000, (100, 100, 100))
    assert 2 in choices[:20]
    assert choices.count(2) > 500


@pytest.mark.parametrize("strategy", ["least_busy", "balanced"])
def test_speed_earns_a_larger_share(strategy: Strategy) -> None:
    """Under load a place twice as fast serves more, and the slower one still serves."""
    shares = Counter(Traffic(strategy, [place("a"), place("b")], 7, every_s=0.02).send(5_000, (200, 400)))
    assert shares[0] > shares[1] * 1.3
    assert shares[1] > 250


@pytest.mark.parametrize("strategy", ["priority", "weighted", "cheapest"])
def test_what_is_written_down_is_not_explored(strategy: Strategy) -> None:
    """A dearer or lower place gets not one call in 10,000; and `weighted` ignores what was measured."""
    options = [place("a", ms=9_000, in_flight=60), place("b", ms=1, priority=1, cost=2_000)]
    observed = counts(strategy, options)
    if strategy == "weighted":
        assert_shares(observed, (1, 1))
    else:
        assert observed == [PICKS, 0]


# ------------------------------------------------------------------------------------------------------------- splits

SUBJECTS = [f"key_{n}" for n in range(PICKS)]


def split(options: Sequence[Option]) -> list[str]:
    """The name of the place of each subject."""
    wish = Wish()
    chosen = []
    for subject in SUBJECTS:
        wish.subject = subject
        chosen.append(options[PICK["weighted"](options, wish, lambda: 0.5)].name)
    return chosen


def test_a_split_matches_its_weights_and_repeats() -> None:
    """Subjects spread by weight; the same subject always goes to the same place, in whatever order they are listed."""
    options = [place("a", weight=1), place("b", weight=2), place("c", weight=7)]
    chosen = split(options)
    assert_shares([chosen.count(name) for name in "abc"], (1, 2, 7))
    assert split(options[::-1]) == chosen


def test_a_split_is_the_same_in_every_process() -> None:
    """The hash is fixed: these subjects have these places for ever, or running experiments are reshuffled."""
    options = [place("openai/gpt-4o-mini"), place("lab/qwen2.5-7b"), place("node:lab-1/llama3.2:3b")]
    chosen = [PICK["weighted"](options, Wish(subject=f"user-{n}"), lambda: 0.5) for n in range(12)]
    assert chosen == [0, 2, 0, 0, 1, 1, 2, 0, 1, 1, 2, 1]


def test_only_the_share_of_a_failed_place_moves() -> None:
    """Without one place its subjects go to the others by weight, and nobody else's move; back again with it."""
    options = [place("a", weight=1), place("b", weight=2), place("c", weight=7)]
    before, without = split(options), split([options[0], options[1]])
    moved = [new for old, new in zip(before, without, strict=True) if old == "c"]
    assert all(old == new for old, new in zip(before, without, strict=True) if old != "c")
    assert_shares([moved.count("a"), moved.count("b")], (1, 2))


def test_a_heavier_weight_only_draws_in() -> None:
    """Raising one weight moves subjects to that place and none between the others."""
    light = split([place("a", weight=1), place("b", weight=2), place("c", weight=2)])
    heavy = split([place("a", weight=3), place("b", weight=2), place("c", weight=2)])
    assert {new for old, new in zip(light, heavy, strict=True) if old != new} == {"a"}


# ------------------------------------------------------------------------------------------------------ order, scores


def test_an_order_is_tier_after_tier() -> None:
    """`priority`: all of a tier before the next one."""
    options = [place("a", priority=2), place("b", priority=0), place("c", priority=1), place("d", priority=0)]
    draw = random.Random(1).random
    orders = [order("priority", options, PLAIN, draw) for _ in range(50)]
    assert {tuple(each) for each in orders} == {(1, 3, 2, 0), (3, 1, 2, 0)}


def test_an_order_is_sorted_by_cost() -> None:
    """`cheapest`: from least to most, unknown last."""
    options = [place("a", cost=inf), place("b", cost=300), place("c", cost=0), place("d", cost=200)]
    assert order("cheapest", options, PLAIN, random.Random(1).random) == [2, 3, 1, 0]


def test_the_order_of_a_split_is_where_it_would_move() -> None:
    """With a subject `weighted` names the second place it would have if the first were gone."""
    options = [place(name) for name in "abcd"]
    wish = Wish(subject="key_7")
    ordered = order("weighted", options, wish, lambda: 0.5)
    without = [option for index, option in enumerate(options) if index != ordered[0]]
    assert without[PICK["weighted"](without, wish, lambda: 0.5)] is options[ordered[1]]


@pytest.mark.parametrize(
    ("strategy", "value", "unit", "text"),
    [
        ("priority", 1, "tier", "tier 1"),
        ("weighted", 3, "weight", "weight 3 of 5"),
        ("cheapest", 2_100, "nano-USD", "0.0000021 USD expected"),
        ("fastest", 412, "ms", "412 ms expected"),
        ("least_busy", 4 / 64, "load", "3 of 64 slots busy, 412 ms at worst of late"),
        ("balanced", None, "share", "18 % of the draws: 0.0000021 USD expected, 412 ms expected, 3 of 64 slots busy"),
    ],
)
def test_a_score_says_what_ranked_it(strategy: Strategy, value: float | None, unit: str, text: str) -> None:
    """The number, its unit and a phrase that people understand."""
    known = place("a", weight=3, priority=1, cost=2_100, ms=412, in_flight=3)
    found = score(strategy, [known, place("b", weight=2)], 0, PLAIN)
    assert (found.unit, found.text) == (unit, text)
    if value is not None:
        assert found.value == pytest.approx(value)


@pytest.mark.parametrize(
    ("strategy", "value", "text"),
    [
        ("cheapest", inf, "no known price"),
        ("fastest", 300, "not measured yet: counts as the best"),
        ("least_busy", 1 / 64, "0 of 64 slots busy"),
    ],
)
def test_a_score_says_what_is_not_known(strategy: Strategy, value: float, text: str) -> None:
    """Unknown is said in words; an unknown time has the number that it counts as."""
    found = score(strategy, [place("a", cost=inf), place("b", ms=300)], 0, PLAIN)
    assert (found.value, found.text) == (pytest.approx(value), text)


@pytest.mark.parametrize("strategy", ["cheapest", "fastest"])
def test_scores_sort_as_picks_do(strategy: Strategy) -> None:
    """Who is tried earlier has no worse a score."""
    draw = random.Random(3)
    options = [place(str(n), cost=draw.randrange(10_000), ms=draw.uniform(50, 50_000)) for n in range(8)]
    ordered = order(strategy, options, PLAIN, lambda: 0.5)
    values = [score(strategy, options, index, PLAIN).value for index in ordered]
    assert all(earlier <= later * 1.1 for earlier, later in pairwise(values))


@pytest.mark.parametrize(
    ("strategy", "value", "text"),
    [
        ("priority", 1, "tier 1"),
        ("weighted", 3, "weight 3 of 4"),
        ("cheapest", 2_100, "0.0000021 USD expected"),
        ("fastest", 500, "about 500 ms expected"),
        ("least_busy", None, "64 slots, about 500 ms expected"),
        ("balanced", None, "0.0000021 USD expected, about 500 ms expected, 64 slots"),
    ],
)
def test_a_lasting_score_stays(strategy: Strategy, value: float | None, text: str) -> None:
    """Under some load or none, a little faster or dearer: the same number and words."""
    for ms, cost, in_flight in ((412.0, 2_112, 0), (545.0, 2_140, 3), (333.0, 2_051, 64)):
        known = place("a", weight=3, priority=1, cost=cost, ms=ms, in_flight=in_flight)
        found = lasting_score(strategy, [known, place("b", in_flight=in_flight)], 0, PLAIN)
        assert (found.value, found.text) == (value, text)


@pytest.mark.parametrize(
    ("ms", "told"), [(0.0, "1"), (1.3, "1"), (14, "10"), (15, "20"), (95, "100"), (7_500, "10000")]
)
def test_lasting_times_are_coarse(ms: float, told: str) -> None:
    """One, two, five, ten, …; what is not measured says so, and what has no price too."""
    assert lasting_score("fastest", [place("a", ms=ms)], 0, PLAIN).text == f"about {float(told):g} ms expected"
    blank = place("a", cost=inf)
    assert lasting_score("balanced", [blank], 0, PLAIN).text == "no known price, not measured yet, 64 slots"


# ----------------------------------------------------------------------------------------------------------- affinity


@pytest.mark.parametrize(
    ("strategy", "sticky", "other", "verdict"),
    [
        ("priority", place("s", priority=1), place("o", priority=1), (True, "in the best tier, 1")),
        ("priority", place("s", priority=2), place("o"), (False, "in tier 2, and tier 0 can be had")),
        ("weighted", place("s"), place("o", weight=1000), (True, "staying costs nothing: weights have no best")),
        ("cheapest", place("s", cost=1_120), place("o"), (True, "costs 12 % more than the best; kept up to 100 %")),
        ("cheapest", place("s", cost=4_000), place("o"), (False, "costs 300 % more than the best; kept up to 100 %")),
        ("cheapest", place("s", cost=2_000), place("o"), (True, "costs 100 % more than the best; kept up to 100 %")),
        (
            "cheapest",
            place("s", cost=500),
            place("o", cost=0),
            (False, "costs 9900 % more than the best; kept up to 100 %"),
        ),
        ("cheapest", place("s", cost=inf), place("o"), (False, "has no known price, and others have")),
        ("cheapest", place("s", cost=inf), place("o", cost=inf), (True, "as good as the best")),
        ("cheapest", place("s", cost=0), place("o", cost=0), (True, "as good as the best")),
        (
            "fastest",
            place("s", ms=600),
            place("o", ms=400),
            (True, "takes 50 % longer than the best; kept up to 100 %"),
        ),
        (
            "fastest",
            place("s", ms=900),
            place("o", ms=400),
            (False, "takes 125 % longer than the best; kept up to 100 %"),
        ),
        ("fastest", place("s", ms=90), place("o", ms=1), (True, "takes 80 % longer than the best; kept up to 100 %")),
        ("fastest", place("s"), place("o", ms=400), (True, "as good as the best")),
        ("fastest", place("s"), place("o"), (True, "as good as the best")),
        ("least_busy", place("s", in_flight=1), place("o"), (True, "is 100 % busier than the best; kept up to 100 %")),
        ("least_busy", place("s", in_flight=9), place("o"), (False, "is 900 % busier than the best; kept up to 100 %")),
        ("least_busy", place("s", slots=2), place("o", slots=1024), (True, "as good as the best")),
        (
            "least_busy",
            place("s", ms=900),
            place("o", ms=300),
            (False, "is 200 % busier than the best; kept up to 100 %"),
        ),
        ("least_busy", place("s", ms=900), place("o"), (True, "as good as the best")),
        (
            "balanced",
            place("s", ms=300),
            place("o", ms=200),
            (True, "scores 50 % worse than the best; kept up to 100 %"),
        ),
        (
            "balanced",
            place("s", cost=2_000),
            place("o"),
            (False, "scores 300 % worse than the best; kept up to 100 %"),
        ),
    ],
)
def test_the_price_of_staying(strategy: Strategy, sticky: Option, other: Option, verdict: tuple[bool, str]) -> None:
    """A warm place is kept while its score is at most `tolerance` times the best, and the price is said."""
    assert stays(strategy, [other, sticky], 1, PLAIN, 2.0) == verdict


def test_the_best_always_stays() -> None:
    """Staying with what would be picked anyway costs nothing under any strategy, even at a tolerance of 1."""
    options = [place("a", ms=100, cost=10), place("b", ms=900, cost=900, priority=3, in_flight=9)]
    for strategy in PICK:
        assert stays(strategy, options, 0, PLAIN, 1.0)[0]


def test_a_split_outweighs_a_warm_cache() -> None:
    """Callers who share a prompt's beginning stay on their own sides of a split, or it would split nothing."""
    options = [place("a"), place("b")]
    for subject in SUBJECTS[:50]:
        wish = Wish(subject=subject)
        home = PICK["weighted"](options, wish, lambda: 0.5)
        assert stays("weighted", options, home, wish, 2.0)[0]
        assert stays("weighted", options, 1 - home, wish, 2.0) == (False, "the split puts this request elsewhere")
