"""`GET /v1/models` and `/v1/models/{id}`: models and the rules that can be called as one, as far as the key may."""

import json
from typing import Any

import pytest
from route_rig import World, api_key, listing, target

from potluck.model.snapshot import CompiledKey, CompiledTarget
from potluck.proxy import own_answers
from potluck.snapshot.compiling import compile_model
from potluck.wire.errors import RequestError

MINI, QWEN = target("openai/gpt-4o-mini"), target("lab/qwen", own=True)


def world() -> World:
    """`small` and `big`, declared; `vault`, a rule for both; `mine` for the project `web` only; `rest` of patterns."""
    made = World()

    def serve(name: str, *targets: CompiledTarget, context_tokens: int | None = None, declared: bool = True) -> None:
        model = compile_model(name, 1_000_000, targets, context_tokens, declared=declared)
        made.swap(models={**made.current.models, name: model})

    serve("small", MINI, QWEN, context_tokens=8_000)
    serve("big", target("openai/gpt-4o", usd=None, unroutable="no price"), MINI, context_tokens=4_000)
    for name in ("offered", "vault", "small:own", "mine:fastest"):
        serve(name, target("evil/x"), declared=False)
    made.rule("vault", models=("small", "big", "gone"))
    made.rule("mine", models=("small",), projects=("we*",), keys=("app", "listed"))
    made.rule("rest", models=("*", "gone"))
    return made


def listed(made: World, key: CompiledKey) -> list[str]:
    return [json.loads(card)["id"] for card in own_answers.cards_for(made.current, key)]


def card(made: World, key: CompiledKey, name: str) -> Any:
    return json.loads(own_answers.card_for(made.current, key, name))


def test_rules_are_listed_with_the_targets_of_their_models() -> None:
    """A rule's card says that it is one, with each target of its models once, and the least of their contexts."""
    made = world()
    entry = card(made, api_key(), "vault")
    assert (entry["id"], entry["object"], entry["owned_by"]) == ("vault", "model", "potluck")
    assert entry["potluck"]["route"] is True
    targets = entry["potluck"]["targets"]
    assert [(each["target"], each["routable"]) for each in targets] == [
        ("openai/gpt-4o-mini", True),
        ("lab/qwen", True),
        ("openai/gpt-4o", False),
    ]
    assert entry["potluck"]["context_tokens"] == 4_000
    assert entry["potluck"]["capabilities"] == ["chat"]
    assert "route" not in card(made, api_key(), "small")["potluck"]
    assert entry in [json.loads(each) for each in own_answers.cards_for(made.current, api_key())]


def test_a_key_sees_the_rules_that_take_it() -> None:
    """By its project and name; a rule of patterns only, or of models that are not there, is none. No name twice."""
    made = world()
    assert listed(made, api_key()) == ["small", "big", "offered", "vault"]
    assert listed(made, api_key("app", project="web")) == ["small", "big", "offered", "vault", "mine"]
    for name in ("mine", "rest", "small:own", "mine:fastest", "gone"):
        with pytest.raises(RequestError):
            card(made, api_key(), name)
    assert card(made, api_key("app", project="web"), "mine")["potluck"]["route"] is True


def test_a_key_with_a_list_sees_what_it_lists() -> None:
    """A rule by its own name with all of it, else with those of its models that the key lists."""
    made = world()
    assert listed(made, listing("small")) == ["small", "vault"]
    narrow = card(made, listing("small"), "vault")["potluck"]["targets"]
    assert [each["target"] for each in narrow] == ["openai/gpt-4o-mini", "lab/qwen"]
    assert listed(made, listing("vault", name="other")) == ["vault"]
    assert len(card(made, listing("vault", name="other"), "vault")["potluck"]["targets"]) == 3
    assert listed(made, listing("offered", name="third")) == ["offered"]
    with pytest.raises(RequestError) as refused:
        card(made, listing("offered", name="third"), "vault")
    assert (refused.value.status, refused.value.code) == (403, "model_not_allowed")


def test_what_is_listed_can_be_called() -> None:
    """Each listed name has targets for the key, and a mistyped rule is told its name."""
    made = world()
    for key in (api_key(), api_key("app", project="web"), listing("small"), listing("vault", name="other")):
        for name in listed(made, key):
            assert made.ask(name, key=key).places
    with pytest.raises(RequestError) as refused:
        card(made, api_key(), "vualt")
    assert "did you mean vault" in refused.value.message
