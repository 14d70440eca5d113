"""What a caller's model name stands for, in which order it is tried, and who may use it."""

import pytest
from route_rig import World, api_key, groups, left_out, listing, target

from potluck.proxy import names
from potluck.wire.errors import RequestError

MINI, QWEN = target("openai/gpt-4o-mini"), target("lab/qwen:7b", own=True)


def world() -> World:
    """`small` (alias `tiny`) at two places, `swift:fastest` at one; `frugal` names `small`, `rest` only patterns."""
    made = World()
    made.serve("small", MINI, QWEN, alias="tiny")
    made.serve("swift:fastest", QWEN)
    made.rule("frugal", models=("small", "gone"))
    made.rule("rest", models=("*",))
    return made


def resolved(made: World, name: str) -> tuple[str, list[str], str | None, str | None] | None:
    """Name, models, suffix and route that `name` stands for."""
    found = names.resolve(made.current, name, "org_1")
    if found is None:
        return None
    return found.name, [model.name for model in found.models], found.prefer, found.route.name if found.route else None


@pytest.mark.parametrize(
    ("name", "stands_for"),
    [
        ("small", ("small", ["small"], None, None)),
        ("tiny", ("tiny", ["tiny"], None, None)),
        ("frugal", ("frugal", ["small"], None, "frugal")),
        ("small:cheapest", ("small", ["small"], "cheapest", None)),
        ("tiny:own", ("tiny", ["tiny"], "own", None)),
        ("frugal:fastest", ("frugal", ["small"], "fastest", "frugal")),
        ("swift:fastest", ("swift:fastest", ["swift:fastest"], None, None)),
        ("swift:fastest:fastest", ("swift:fastest", ["swift:fastest"], "fastest", None)),
        ("openai/gpt-4o-mini", ("openai/gpt-4o-mini", ["openai/gpt-4o-mini"], None, None)),
        ("lab/qwen:7b", ("lab/qwen:7b", ["lab/qwen:7b"], None, None)),
        ("swift", None),
        ("small:slowest", None),
        ("small:", None),
        (":own", None),
        ("openai/gpt-4o-mini:cheapest", None),
        ("gpt-4o-mini", None),
        ("rest", None),
    ],
)
def test_a_name_stands_for(name: str, stands_for: tuple[str, list[str], str | None, str | None] | None) -> None:
    """Exactly, as a route, without its suffix, as a pin; a route of patterns is no model."""
    assert resolved(world(), name) == stands_for


def test_the_first_meaning_counts() -> None:
    """A model before a route, a route before a suffix, a suffix before a pin, whatever else has the name."""
    made = World()
    made.serve("other", target("lab/m:own"))
    assert resolved(made, "lab/m:own") == ("lab/m:own", ["lab/m:own"], None, None)  # the pin
    made.serve("lab/m", MINI)
    assert resolved(made, "lab/m:own") == ("lab/m", ["lab/m"], "own", None)
    made.rule("lab/m:own", models=("other",))
    assert resolved(made, "lab/m:own") == ("lab/m:own", ["other"], None, "lab/m:own")
    made.serve("lab/m:own", MINI)
    assert resolved(made, "lab/m:own") == ("lab/m:own", ["lab/m:own"], None, None)
    made.rule("lab/m", models=("other",))
    assert resolved(made, "lab/m") == ("lab/m", ["lab/m"], None, None)


def test_what_is_written_down_wins_over_what_a_provider_lists() -> None:
    """A route's name and a declared model's suffix stay what they are, whatever an upstream calls its models."""
    made = world()
    made.rule("vault", models=("small",))
    foreign = target("evil/x")
    for name in ("vault", "vault:own", "small:own", "tiny:fastest", "frugal:cheapest", "offered", "offered:own"):
        made.serve(name, foreign, declared=False)
    assert resolved(made, "vault") == ("vault", ["small"], None, "vault")
    assert resolved(made, "vault:own") == ("vault", ["small"], "own", "vault")
    assert resolved(made, "small:own") == ("small", ["small"], "own", None)
    assert resolved(made, "tiny:fastest") == ("tiny", ["tiny"], "fastest", None)
    assert resolved(made, "frugal:cheapest") == ("frugal", ["small"], "cheapest", "frugal")
    assert resolved(made, "offered") == ("offered", ["offered"], None, None)
    assert resolved(made, "offered:own") == ("offered:own", ["offered:own"], None, None)
    assert resolved(made, "offered:fastest") == ("offered", ["offered"], "fastest", None)
    assert groups(made.ask("vault")) == [["openai/gpt-4o-mini", "lab/qwen:7b"]]


@pytest.mark.parametrize(
    ("listed", "usable"),
    [
        ("small", {"small", "tiny", "small:own", "tiny:own", "frugal", "frugal:own"}),
        ("tiny", {"tiny", "tiny:own"}),
        ("frugal", {"frugal", "frugal:own"}),
        ("openai/gpt-4o-mini", {"openai/gpt-4o-mini"}),
        ("swift:fastest", {"swift:fastest", "swift:fastest:own"}),
        ("elsewhere", set()),
    ],
)
def test_a_key_uses_what_it_lists(listed: str, usable: set[str]) -> None:
    """A model brings its aliases and suffixes, an alias only itself, a route its models, but by its own name only."""
    made = world()
    asked = {*usable, "small", "tiny", "frugal", "openai/gpt-4o-mini", "lab/qwen:7b", "swift:fastest"}
    for name in asked:
        if name in usable:
            assert groups(made.ask(name, key=listing(listed)))
        else:
            with pytest.raises(RequestError) as refused:
                made.ask(name, key=listing(listed))
            assert (refused.value.status, refused.value.code) == (403, "model_not_allowed")


def test_a_key_without_a_list_uses_everything() -> None:
    """`models` None bars nothing."""
    made = world()
    for name in ("small", "tiny", "frugal", "lab/qwen:7b", "swift:fastest"):
        assert groups(made.ask(name))


def test_a_route_offers_a_key_only_its_models() -> None:
    """Of a route's models those that the key lists; all of them when it lists the route itself."""
    made = World()
    made.serve("one", target("a/one"))
    made.serve("two", target("b/two"))
    made.rule("both", models=("one", "two"))
    assert groups(made.ask("both")) == [["a/one", "b/two"]]
    assert groups(made.ask("both", key=listing("two"))) == [["b/two"]]
    assert groups(made.ask("both", key=listing("both", name="other"))) == [["a/one", "b/two"]]


def test_an_unknown_name_is_told_its_neighbours() -> None:
    """404 names near matches, and only such that the key may use."""
    made = world()
    with pytest.raises(RequestError) as refused:
        made.ask("smal")
    assert (refused.value.status, refused.value.code, refused.value.param) == (404, "model_not_found", "model")
    assert "did you mean small" in refused.value.message
    with pytest.raises(RequestError) as refused:
        made.ask("smal", key=listing("swift:fastest"))
    assert "small" not in refused.value.message
    assert "GET /v1/models" in refused.value.message


def test_one_model_behind_a_name() -> None:
    """Where a single model is meant (a fallback, `GET /v1/models/…`) routes and suffixes are none."""
    snapshot = world().current
    meant = {
        name: names.model_of(snapshot, name, "org_1")
        for name in ("small", "tiny", "lab/qwen:7b", "frugal", "small:own")
    }
    assert [name for name, model in meant.items() if model is not None] == ["small", "tiny", "lab/qwen:7b"]


def test_an_alias_answers_for_its_model() -> None:
    """What an alias serves is the model's own, no fallback."""
    candidates = world().ask("tiny", key=api_key())
    assert candidates.own_models == {"small"}
    assert {option.model for option in candidates.places} == {"small"}
    assert left_out(candidates) == {}
