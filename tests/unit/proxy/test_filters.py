"""Hard filters: each reason to leave a target out, and that nobody loosens another's."""

from math import isinf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from route_rig import World, api_key, left_out, target

from potluck.model.price import NANOUSD_PER_USD
from potluck.model.resources import OPENNESS, RouteConstraints
from potluck.proxy import filters
from potluck.wire.dialects.controls import Controls, MaxPrice
from potluck.wire.errors import RequestError

OPENAI, LAB = target("openai/mini"), target("lab/mini", own=True)
UNPRICED = target("free/mini", usd=None)
NANO = NANOUSD_PER_USD


@pytest.mark.parametrize(
    ("each", "capability", "data_class", "reason"),
    [
        (OPENAI, "chat", "open", ""),
        (OPENAI, "chat", "standard", ""),
        (OPENAI, "chat", "private", "data class private stays on own infrastructure"),
        (LAB, "chat", "private", ""),
        (LAB, "embeddings", "private", "does not serve embeddings"),
        (target("dear/mini", unroutable="no price"), "embeddings", "private", "no price"),
    ],
)
def test_why_a_target_cannot(each, capability, data_class, reason: str) -> None:
    """Not routable, another endpoint, foreign infrastructure: in this order."""
    assert filters.why_not(each, capability, data_class) == reason


@pytest.mark.parametrize(
    ("name", "names_openai", "names_lab"),
    [
        ("openai", True, False),
        ("openai/mini", True, False),
        ("own", False, True),
        ("provider", True, True),
        ("mini", False, False),
        ("OpenAI", False, False),
        ("lab", False, True),
    ],
)
def test_only_and_ignore_name_targets(name: str, names_openai: bool, names_lab: bool) -> None:
    """By provider, by target, and by kind; `ignore` leaves out what `only` keeps, for routes and callers alike."""
    for each, is_named in ((OPENAI, names_openai), (LAB, names_lab)):
        for barred, form in ((filters.barred_by_route, RouteConstraints), (filters.barred_by_caller, Controls)):
            assert (barred(each, form(only=(name,))) == "") is is_named
            assert (barred(each, form(ignore=(name,))) != "") is is_named
            assert barred(each, form(only=(name, "elsewhere"))) == barred(each, form(only=(name,)))
            assert barred(each, form(only=()))
            assert not barred(each, form(ignore=()))


@pytest.mark.parametrize(("limit", "reason"), [(0.999, True), (1.0, False), (1.001, False)])
def test_a_bound_on_the_price_is_exact(limit: float, reason: bool) -> None:
    """A target at USD 1.00 stays below a bound of 1.00, for input and output, of a route and of a caller."""
    nanousd = round(limit * NANO)
    for constraints in (RouteConstraints(max_price_input=nanousd), RouteConstraints(max_price_output=nanousd)):
        assert bool(filters.barred_by_route(OPENAI, constraints)) is reason
        assert filters.barred_by_route(UNPRICED, constraints)
    for bound in (MaxPrice(input=limit), MaxPrice(output=limit), MaxPrice(limit, limit)):
        assert bool(filters.barred_by_caller(OPENAI, Controls(max_price=bound))) is reason
        assert filters.barred_by_caller(UNPRICED, Controls(max_price=bound))
    assert not filters.barred_by_caller(UNPRICED, Controls(max_price=MaxPrice()))
    assert not filters.barred_by_route(UNPRICED, RouteConstraints())


@given(st.integers(0, 10**7))
def test_a_caller_may_ask_for_exactly_the_price(thousandths: int) -> None:
    """USD written with three digits bars no target of that very price."""
    usd = thousandths / 1000
    assert not filters.barred_by_caller(target("a/m", usd=usd), Controls(max_price=MaxPrice(usd, usd)))


@given(st.floats(0, allow_nan=False))
def test_no_bound_is_too_large(usd: float) -> None:
    """Any number that JSON can hold is a bound."""
    barred = filters.barred_by_caller(OPENAI, Controls(max_price=MaxPrice(input=usd)))
    assert bool(barred) is (usd < 1.0 - 1e-9 and not isinf(usd))


def test_route_and_caller_both_hold() -> None:
    """What either bars is out, with the reason of the one that is asked first."""
    made = World(
        target("a/m"), target("b/m"), target("c/m", usd=3.0), target("d/m", usd=9.0), target("e/m"),
        only=("a", "b", "c", "d"), ignore=("a",), max_price_input=5 * NANO,
    )  # fmt: skip
    candidates = made.ask(ignore=("b",), only=("a", "b", "c", "d"), max_price=MaxPrice(output=3.0))
    assert [option.name for option in candidates.places] == ["c/m"]
    assert left_out(candidates) == {
        "a/m": "among the route's `ignore`",
        "b/m": "among the request's `ignore`",
        "d/m": "dearer than the route's `max_price`",
        "e/m": "not among the route's `only`",
    }
    assert made.ask(only=("e",)).places == []


@pytest.mark.parametrize("by_key", ["open", "standard", "private"])
@pytest.mark.parametrize("by_route", [None, "open", "standard", "private"])
@pytest.mark.parametrize("by_caller", [None, "open", "standard", "private"])
def test_the_strictest_data_class_counts(by_key, by_route, by_caller) -> None:
    """Of key, route and caller; a caller that asks for more than its project allows is told so."""
    made = World(OPENAI, LAB, data_class=by_route)
    key = api_key(data_class=by_key)
    said = {} if by_caller is None else {"data_class": by_caller}
    openness = OPENNESS
    if by_caller and openness[by_caller] > openness[by_key]:
        with pytest.raises(RequestError) as refused:
            made.ask(key=key, **said)
        assert (refused.value.status, refused.value.code) == (403, "policy_denied")
        assert refused.value.param == "potluck.data_class"
        return
    private = "private" in (by_key, by_route, by_caller)
    names = [option.name for option in made.ask(key=key, **said).places]
    assert names == (["lab/mini"] if private else ["openai/mini", "lab/mini"])
