"""Selection under any numbers."""

import random
from math import inf, isnan

from hypothesis import given
from hypothesis import strategies as st

from potluck.model.resources import Strategy
from potluck.policy.latency import SIZE_CLASSES
from potluck.policy.selection import PICK, Wish, leading, score, stays
from potluck.policy.standing import Option, Standing

TIMES = st.sampled_from([0.0, 1e-9, 1e9]) | st.floats(0, 1e7)
COSTS = st.sampled_from([0.0, inf]) | st.integers(0, 10**15).map(float)
STRATEGIES = st.sampled_from(sorted(PICK))
NOW_S = 10_000.0
WISHES = st.builds(
    Wish, st.booleans(), st.integers(0, SIZE_CLASSES - 1), st.floats(0, 1e6), st.text(max_size=5), st.floats(0, 1e9)
)


@st.composite
def options(draw: st.DrawFn) -> list[Option]:
    """Up to six places: idle, full, unmeasured, free, without a price, in any mixture."""
    found = []
    for n in range(draw(st.integers(1, 6))):
        standing = Standing()
        standing.in_flight = draw(st.integers(0, 2_000))
        for size in draw(st.lists(st.integers(0, SIZE_CLASSES - 1), max_size=3)):
            seen_s = draw(st.floats(0, NOW_S))
            if draw(st.booleans()):
                standing.latency.observe_stream(size, draw(TIMES), draw(TIMES), seen_s)
            else:
                standing.latency.observe_plain(size, draw(TIMES), seen_s)
        found.append(
            Option(
                standing,
                f"p{n}/m",
                weight=draw(st.integers(1, 1_000)),
                priority=draw(st.integers(0, 3)),
                own=draw(st.booleans()),
                slots=draw(st.integers(1, 1_024)),
                cost=draw(COSTS),
            )
        )
    return found


@given(STRATEGIES, options(), WISHES, st.integers(0, 2**32))
def test_every_pick_is_one_of_the_options(strategy: Strategy, places: list[Option], wish: Wish, seed: int) -> None:
    """Picking never raises, gives an index, and changes nothing of what it is given."""
    before = list(places)
    draw = random.Random(seed).random
    for _ in range(20):
        assert PICK[strategy](places, wish, draw) in range(len(places))
    assert places == before


@given(STRATEGIES, options(), WISHES, st.integers(0, 2**32))
def test_a_pick_is_one_of_the_leading(strategy: Strategy, places: list[Option], wish: Wish, seed: int) -> None:
    """Where leaders can be told without the request, picks are among them, and each of them is picked at times."""
    found = leading(strategy, places)
    wish.subject = ""
    if found:
        for place in places:
            place.weight = 1
        draw = random.Random(seed).random
        assert {PICK[strategy](places, wish, draw) for _ in range(200)} == set(found)
    else:
        assert strategy in ("fastest", "least_busy", "balanced")


@given(STRATEGIES, options(), WISHES, st.sampled_from([0.0, 1 - 2**-53]))
def test_the_ends_of_chance(strategy: Strategy, places: list[Option], wish: Wish, drawn: float) -> None:
    """The lowest and the highest number that a source of chance can give are as good as any."""
    assert PICK[strategy](places, wish, lambda: drawn) in range(len(places))


@given(STRATEGIES, options(), WISHES, st.floats(1, 100))
def test_every_option_can_be_explained(strategy: Strategy, places: list[Option], wish: Wish, tolerance: float) -> None:
    """Scores and the price of staying exist for all, in words without `nan`; some option may always stay."""
    verdicts = []
    for index in range(len(places)):
        found = score(strategy, places, index, wish)
        assert not isnan(found.value)
        stay, text = stays(strategy, places, index, wish, tolerance)
        verdicts.append(stay)
        assert found.text
        assert text
        assert "nan" not in found.text + text
    assert any(verdicts)


@given(options(), WISHES)
def test_shares_of_balanced_are_shares(places: list[Option], wish: Wish) -> None:
    """They are above zero, so that no option is out of reach, and make a whole."""
    shares = [score("balanced", places, index, wish).value for index in range(len(places))]
    assert all(share > 0 for share in shares)
    assert abs(sum(shares) - 1) < 1e-9
