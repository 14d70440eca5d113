"""Routing in `potluck.toml`: routes, aliases, targets' shares, probes; what is read, refused and written back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.config.document import Document
from potluck.config.reading import parse, read
from potluck.config.routing import (
    AffinityEntry,
    ConstraintsEntry,
    HedgeEntry,
    MatchEntry,
    MaxPriceEntry,
    ProbeEntry,
    RouteEntry,
    RouteTimeoutsEntry,
)
from potluck.config.writing import dump
from potluck.model.resources import Affinity, Hedge, Probe, RouteConstraints, RouteMatch, RouteTimeouts

HEAD = '[[providers]]\nname = "a"\nbase_url = "http://h/v1"\n'
ROUTE = '[[routes]]\nname = "r"\n'


def problems_of(text: str) -> list[str]:
    return [str(each).removeprefix("potluck.toml:") for each in read(text, {}).problems()]


def test_a_route_says_what_is_stored() -> None:
    """Every member arrives in the nouns of the router, prices as nano-USD."""
    (route,) = parse(
        ROUTE
        + """match = { models = ["small"], projects = ["*"] }
strategy = "cheapest"
constraints = { only = ["openai"], ignore = ["x"], max_price = { input = 0.5 }, data_class = "private" }
fallback = ["node:*", "other"]
timeouts = { connect_s = 5, first_token_s = 60, idle_s = 30, total_s = 900 }
hedge = { after = "p95" }
affinity = { window_s = 60 }
""",
        {},
    ).routes
    assert route.match.to_match() == RouteMatch(("small",))
    assert route.constraints.to_constraints() == RouteConstraints(("openai",), ("x",), 500_000_000, None, "private")
    assert route.fallback == ("node:*", "other")
    assert route.timeouts.to_timeouts() == RouteTimeouts(5, 60, 30, 900)
    assert route.hedge is not None
    assert route.hedge.to_hedge() == Hedge()
    assert route.to_affinity() == Affinity(window_s=60)


def test_short_forms() -> None:
    """`affinity = true` is the default one, `after` takes milliseconds, and a name alone is a route."""
    (route,) = parse(ROUTE + "affinity = true\nhedge = { after = 300, max_extra = 0.1 }\n", {}).routes
    assert route.to_affinity() == Affinity()
    assert route.hedge is not None
    assert route.hedge.to_hedge() == Hedge(300, 0.1)
    (bare,) = parse(ROUTE + "affinity = false\n", {}).routes
    assert bare == RouteEntry(name="r")
    assert bare.to_affinity() is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (ROUTE + 'strategy = "cheapst"\n', "; did you mean 'cheapest'?"),
        (ROUTE + 'strategie = "cheapest"\n', "3: routes[0].strategie: unknown member; did you mean 'strategy'?"),
        (ROUTE + 'split = "key"\n', '3: routes[0].split: goes with strategy = "weighted" only, not with "priority"'),
        (ROUTE + "match = { models = [] }\n", "3: routes[0].match.models: must have at least 1 item"),
        (ROUTE + 'match = { model = ["a"] }\n', "3: routes[0].match.model: unknown member; did you mean 'models'?"),
        (ROUTE + "constraints = { only = [] }\n", "3: routes[0].constraints.only: must have at least 1 item"),
        (ROUTE + f"fallback = {['a'] * 101}\n", "3: routes[0].fallback: may have 100 items"),
        (
            ROUTE + 'hedge = { after = "p96" }\n',
            '3: routes[0].hedge.after: must be "p95" or 1 to 600000 milliseconds, not',
        ),
        (ROUTE + "hedge = { after = 0 }\n", '3: routes[0].hedge.after: is 0: write "p95" or 1 to 600000 milli'),
        (ROUTE + "hedge = {}\n", "3: routes[0].hedge: 'after' is missing"),
        (ROUTE + "hedge = { after = 9, max_extra = 2 }\n", "3: routes[0].hedge.max_extra: is 2; allowed: more than 0"),
        (ROUTE + "affinity = 3\n", "3: routes[0].affinity: must be a table or true or false, not 3"),
        (ROUTE + "affinity = { tolerance = 0.5 }\n", "allowed: from 1 to 1000 times the best score"),
        (ROUTE + "timeouts = { first_byte_s = 3 }\n", "routes[0].timeouts.first_byte_s: unknown member"),
        (ROUTE + "cache = { ttl_s = 300 }\n", "3: routes[0].cache: cache policies are not in this version of Potluck"),
        (HEAD + "probe = { every_s = 5 }\n", "4: providers[0].probe.every_s: is 5; allowed: from 10 to 86400 seconds"),
        (HEAD + 'probe = { model = "m" }\n', "4: providers[0].probe.budget_usd_per_day: a probe that asks a model"),
        (HEAD + 'assistant_prefix = "flag"\n', "must be one of none, plain, prefix_flag, continue_flag"),
        ('[[models]]\nname = "m"\ntargets = [{ target = "a/b", weight = 0 }]\n', "weight: is 0; allowed: at least 1"),
        ('[[models]]\nname = "m"\ntargets = [{ target = "a/b", priority = 1001 }]\n', "at most 1000"),
        ('[[models]]\nname = "m"\ntargets = [{ target = "a/b", slots = 0 }]\n', "slots: is 0; allowed: at least 1"),
    ],
)
def test_what_cannot_be_is_said(text: str, problem: str) -> None:
    """One line for each mistake, with its place and what there is instead."""
    (found,) = problems_of(text)
    assert problem in found


def test_models_aliases_and_routes_share_their_names() -> None:
    """Each name that is taken inside the file is reported where it stands again."""
    model = '[[models]]\nname = "{}"\naliases = {}\ntargets = [{{ target = "a/b" }}]\n'
    text = model.format("m", '["m", "x", "x"]') + model.format("n", '["x"]')
    text += "".join(f'[[routes]]\nname = "{name}"\n' for name in ("n", "x", "own"))
    assert problems_of(text) == [
        "3: models[0].aliases[0]: a model is named 'm' already: choose another alias",
        "3: models[0].aliases[2]: model 'm' has the alias 'x' already: choose another alias",
        "7: models[1].aliases[0]: model 'm' has the alias 'x' already: choose another alias",
        "10: routes[0].name: a model is named 'n' already: choose another name for the route",
        "12: routes[1].name: model 'm' has the alias 'x' already: choose another name for the route",
    ]


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
PATTERNS = st.lists(st.sampled_from(["*", "openai/*", "a", "b:c"]), min_size=1, max_size=3).map(tuple)
SECONDS = st.none() | st.integers(1, 86_400_000).map(lambda ms: ms / 1000)
USD = st.integers(0, 10**12).map(lambda nano: nano / 10**9)
ROUTES = st.builds(
    RouteEntry,
    name=NAMES,
    match=st.builds(MatchEntry, models=PATTERNS, projects=PATTERNS, keys=PATTERNS),
    strategy=st.just("weighted"),
    split=st.sampled_from([None, "key", "user"]),
    constraints=st.builds(
        ConstraintsEntry,
        only=st.none() | PATTERNS,
        ignore=st.none() | PATTERNS,
        max_price=st.none() | st.builds(MaxPriceEntry, input=USD, output=st.none() | USD),
        data_class=st.sampled_from([None, "open", "private"]),
    ),
    fallback=st.just(()) | PATTERNS,
    timeouts=st.builds(RouteTimeoutsEntry, connect_s=SECONDS, first_token_s=SECONDS, idle_s=SECONDS, total_s=SECONDS),
    hedge=st.none() | st.builds(HedgeEntry, after=st.just("p95") | st.integers(1, 600_000)),
    affinity=st.booleans() | st.builds(AffinityEntry, tolerance=st.integers(100, 10_000).map(lambda n: n / 100)),
)


@given(ROUTES)
def test_a_route_is_the_same_in_text_and_store(route: RouteEntry) -> None:
    """Written and read, or turned into what is stored and back, a route has not changed."""
    document = Document(routes=(route,))
    assert parse(dump(document), {}) == document
    assert MatchEntry.from_match(route.match.to_match()) == route.match
    assert ConstraintsEntry.from_constraints(route.constraints.to_constraints()) == route.constraints
    assert RouteTimeoutsEntry.from_timeouts(route.timeouts.to_timeouts()) == route.timeouts
    if route.hedge is not None:
        assert HedgeEntry.from_hedge(route.hedge.to_hedge()) == route.hedge
    if isinstance(route.affinity, AffinityEntry):
        assert AffinityEntry.from_affinity(route.affinity.to_affinity()) == route.affinity


@pytest.mark.parametrize("probe", [Probe(), Probe(30, "m", 0.25)])
def test_a_probe_is_the_same_in_text_and_store(probe: Probe) -> None:
    """A probe without a model has none in the file."""
    assert ProbeEntry.from_probe(probe).to_probe() == probe
