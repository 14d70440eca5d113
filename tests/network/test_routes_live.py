"""Where requests go, counted on the wire: strategies, tiers, controls, names, rules and fallbacks to other models."""

import asyncio
import collections
import random
from typing import Any

import msgspec
import pytest
from dataplane import CALLER_KEY, Gateway

from potluck.conformance import answers
from potluck.conformance.caller import Response, encode_request
from potluck.conformance.faults import FAULTS
from potluck.conformance.provider import FakeProvider
from potluck.model.price import Price
from potluck.model.resources import RouteConstraints, RouteMatch
from potluck.model.snapshot import CompiledModel

pytestmark = pytest.mark.timeout(60)

CHI_SQUARE_999 = {1: 10.83, 2: 13.82, 3: 16.27}
"""what chance exceeds once in a thousand times, by degrees of freedom"""


def price(usd_per_million: float) -> Price:
    """The same for input and output."""
    nanousd = int(usd_per_million * 1_000_000_000)
    return Price(input=nanousd, output=nanousd, version="test:1", source="operator")


class Town:
    """Targets by name, and requests by what is asked of them."""

    def __init__(self, gateway: Gateway, fake: FakeProvider) -> None:
        self.gateway, self.fake = gateway, fake
        gateway.plane.registry.random = random.Random(18).random

    def target(self, name: str, **members: Any):
        """`provider/model` at the fake provider."""
        provider, _, model = name.partition("/")
        return self.gateway.target(self.fake.base_url, model, provider=provider, **members)

    def breaks(self, *models: str) -> None:
        """These upstream models fail from now on, in a way that is not worth a second call."""
        for model in models:
            self.fake.script[model] = FAULTS["empty-200"].play

    async def ask(self, model: str = "m", headers: dict[str, str] | None = None, **members: Any) -> Response:
        async with self.gateway.caller() as caller:
            body = {"model": model, "messages": [{"role": "user", "content": "Who?"}], **members}
            await caller.send(encode_request(body=body, key=CALLER_KEY, headers=headers))
            return await caller.read()

    async def goes_to(self, model: str = "m", headers: dict[str, str] | None = None, **members: Any) -> str:
        """The target that answers; else the error's code."""
        response = await self.ask(model, headers, **members)
        if response.status != 200:
            return response.code
        target = response.header("x-potluck-target") or ""
        assert response.json["model"] == target.partition("/")[2], "it is the one that really answered"
        return target

    async def count(self, requests: int, model: str = "m", **members: Any) -> collections.Counter[str]:
        """How often each target answers."""
        got: collections.Counter[str] = collections.Counter()
        body = {"model": model, "messages": [{"role": "user", "content": "Who?"}], **members}
        data = encode_request(body=body, key=CALLER_KEY)

        async def some(number: int) -> None:
            async with self.gateway.caller() as caller:
                for _ in range(number):
                    await caller.send(data)
                    got[(await caller.read()).header("x-potluck-target") or ""] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(some(requests // 10))
        return got


@pytest.fixture
def town(gateway: Gateway, fake: FakeProvider) -> Town:
    return Town(gateway, fake)


def chi_square(got: collections.Counter[str], weights: dict[str, int]) -> float:
    """How far counts are from what weights promise."""
    total, whole = sum(got.values()), sum(weights.values())
    assert set(got) <= set(weights)
    return sum((got[name] - total * weight / whole) ** 2 / (total * weight / whole) for name, weight in weights.items())


class TestStrategies:
    """The rule decides among targets that are all well."""

    async def test_weighted_goes_by_weight(self, town: Town):
        """Two thousand requests, one to two to seven."""
        weights = {"p/a": 1, "p/b": 2, "p/c": 7}
        town.gateway.serve("m", *(town.target(name, weight=weight) for name, weight in weights.items()))
        town.gateway.rule("shares", strategy="weighted")
        assert chi_square(await town.count(2_000), weights) < CHI_SQUARE_999[2]

    async def test_a_split_by_user_is_steady(self, town: Town):
        """The same user always meets the same target, and users spread by weight."""
        weights = {"p/a": 1, "p/b": 3}
        town.gateway.serve("m", *(town.target(name, weight=weight) for name, weight in weights.items()))
        town.gateway.rule("ab", strategy="weighted", split_by="user")
        where = [{await town.goes_to(user=f"user-{n}") for _ in range(3)} for n in range(200)]
        assert all(len(each) == 1 for each in where)
        assert chi_square(collections.Counter(each.pop() for each in where), weights) < CHI_SQUARE_999[1]

    async def test_tiers_of_priority(self, town: Town):
        """The lowest tier shares by weight; the next one is for when it has failed, and the third after that."""
        town.gateway.serve(
            "m",
            town.target("p/spare", priority=3),
            town.target("p/a", priority=1, weight=1),
            town.target("p/b", priority=1, weight=1),
            town.target("p/c", priority=2),
        )
        got = await town.count(400)
        assert chi_square(got, {"p/a": 1, "p/b": 1}) < CHI_SQUARE_999[1]
        town.breaks("a")
        assert set(await town.count(50)) == {"p/b"}
        town.breaks("b")
        assert await town.goes_to() == "p/c"

    async def test_a_plain_list_is_an_order(self, town: Town):
        """Without weights, tiers or a rule the first target is the one, as long as it is well."""
        town.gateway.serve("m", town.target("p/a"), town.target("p/b"), town.target("p/c"))
        assert await town.count(100) == {"p/a": 100}

    async def test_cheapest_with_an_unknown_price_last(self, town: Town):
        """The order is by price, and what has none comes after all that have."""
        town.gateway.serve(
            "m",
            town.target("p/none", price=None),
            town.target("p/dear", price=price(9)),
            town.target("p/cheap", price=price(1)),
        )
        town.gateway.rule("frugal", strategy="cheapest")
        assert await town.goes_to() == "p/cheap"
        town.breaks("cheap")
        assert await town.goes_to() == "p/dear"
        town.breaks("dear")
        assert await town.goes_to() == "p/none"

    async def test_a_target_added_at_run_time_gets_its_share(self, town: Town):
        """It is in the very next snapshot, and in the traffic with it."""
        town.gateway.rule("shares", strategy="weighted")
        town.gateway.serve("m", town.target("p/a"))
        assert await town.count(50) == {"p/a": 50}
        town.gateway.serve("m", town.target("p/a"), town.target("p/b"))
        assert chi_square(await town.count(400), {"p/a": 1, "p/b": 1}) < CHI_SQUARE_999[1]


class TestControls:
    """What a caller may say about his own request."""

    @pytest.fixture(autouse=True)
    def three(self, town: Town) -> None:
        town.gateway.serve(
            "m",
            town.target("big/first", price=price(5)),
            town.target("small/cheap", price=price(1)),
            town.target("lab/mine", price=price(2), own=True),
        )

    @pytest.mark.parametrize(
        ("said", "goes_to"),
        [
            ({}, "big/first"),
            ({"prefer": "cheapest"}, "small/cheap"),
            ({"prefer": "own"}, "lab/mine"),
            ({"only": ["small"]}, "small/cheap"),
            ({"only": ["small", "lab"]}, "small/cheap"),
            ({"only": ["lab/mine"]}, "lab/mine"),
            ({"only": ["own"]}, "lab/mine"),
            ({"ignore": ["big"]}, "small/cheap"),
            ({"ignore": ["big/first", "small/cheap"]}, "lab/mine"),
            ({"max_price": {"input": 4}}, "small/cheap"),
            ({"max_price": {"output": 1.5}, "prefer": "own"}, "small/cheap"),
            ({"data_class": "private"}, "lab/mine"),
            ({"only": ["nobody"]}, "no_target_available"),
            ({"max_price": {"input": 0.1}}, "no_target_available"),
            ({"ignore": ["big", "small", "lab"]}, "no_target_available"),
            ({"route": "missing"}, "invalid_request"),
            ({"data_class": "open"}, "policy_denied"),
        ],
        ids=str,
    )
    async def test_a_control(self, town: Town, said: dict[str, Any], goes_to: str):
        """It narrows or orders what there is, and never reaches the target."""
        assert await town.goes_to(potluck=said) == goes_to
        assert all("potluck" not in request.json for request in town.fake.requests)
        assert bool(town.fake.requests) == ("/" in goes_to)

    @pytest.mark.parametrize(("prefer", "goes_to"), [("cheapest", "small/cheap"), ("own", "lab/mine")])
    async def test_prefer_in_three_places(self, town: Town, prefer: str, goes_to: str):
        """As a member, as a header and as a suffix of the model's name it means the same."""
        assert await town.goes_to(potluck={"prefer": prefer}) == goes_to
        assert await town.goes_to(headers={"x-potluck-prefer": prefer}) == goes_to
        assert await town.goes_to(f"m:{prefer}") == goes_to

    async def test_a_preference_is_no_wall(self, town: Town):
        """`own` first; when it fails the others serve. `only: own` is the wall."""
        town.breaks("mine")
        assert await town.goes_to("m:own") == "big/first"
        assert await town.goes_to(potluck={"only": ["own"]}) == "upstream_error"

    async def test_none_left_says_why(self, town: Town):
        """Each target with its reason, and no upstream call."""
        response = await town.ask(potluck={"only": ["small"], "max_price": {"input": 0.5}})
        assert (response.status, response.code) == (503, "no_target_available")
        message = response.json["error"]["message"]
        assert "big/first: not among the request's `only`" in message
        assert "small/cheap: dearer than the request's `max_price`" in message
        assert town.fake.requests == []

    async def test_a_caller_cannot_loosen_the_rule(self, town: Town):
        """What the rule leaves out stays out, whatever the request says."""
        town.gateway.rule("strict", constraints=RouteConstraints(ignore=("big",), max_price_input=3_000_000_000))
        assert await town.goes_to() == "small/cheap"
        assert await town.goes_to(potluck={"only": ["big"]}) == "no_target_available"
        assert await town.goes_to(potluck={"max_price": {"input": 100}}) == "small/cheap"
        town.gateway.rule("lax", match=RouteMatch(models=("m",)))
        assert await town.goes_to(potluck={"route": "lax"}) == "small/cheap", "the usual rule's filters still hold"
        assert await town.goes_to(potluck={"route": "default"}) == "small/cheap"


class TestRulesAndNames:
    """Which rule applies, and what a model's name may be."""

    @pytest.fixture(autouse=True)
    def two(self, town: Town) -> None:
        town.gateway.serve("m", town.target("p/a", price=price(5)), town.target("p/b", price=price(1)))
        town.gateway.rule("others", match=RouteMatch(models=("x*",)))
        town.gateway.rule("frugal", match=RouteMatch(models=("m",), projects=("def*",)), strategy="cheapest")
        town.gateway.rule("listed", match=RouteMatch(models=("m",)))

    async def test_the_first_that_matches_applies(self, town: Town):
        """By model and project, in their order; the answer names the rule."""
        response = await town.ask()
        assert response.header("x-potluck-route") == "frugal"
        assert response.header("x-potluck-target") == "p/b"
        assert (await town.gateway.record("m")).route == "frugal"

    @pytest.mark.parametrize("how", ["header", "member"])
    async def test_a_rule_can_be_asked_for(self, town: Town, how: str):
        """Another rule that takes this key's requests for this model."""
        if how == "header":
            response = await town.ask(headers={"x-potluck-route": "listed"})
        else:
            response = await town.ask(potluck={"route": "listed"})
        assert response.header("x-potluck-route") == "listed"
        assert response.header("x-potluck-target") == "p/a"

    async def test_a_rule_for_other_models_cannot(self, town: Town):
        """It does not take this model's requests: 403, and nothing is called."""
        response = await town.ask(headers={"x-potluck-route": "others"})
        assert (response.status, response.code) == (403, "policy_denied")
        assert town.fake.requests == []

    async def test_a_rule_as_a_model(self, town: Town):
        """`model: frugal` asks for the rule's models by the rule."""
        assert await town.goes_to("frugal") == "p/b"
        assert await town.goes_to("listed") == "p/a"
        assert await town.goes_to("listed:cheapest") == "p/b"
        response = await town.ask("frugal")
        assert response.header("x-potluck-model") is None, "the models of the rule are what was asked for"

    async def test_pins(self, town: Town):
        """`provider/model` is that target and no other: when it fails, the request fails."""
        pinned = CompiledModel("p/a", (town.target("p/a"),), b"{}")
        town.gateway.snapshots.swap(pins={"p/a": pinned})
        assert await town.goes_to("p/a") == "p/a"
        town.breaks("a")
        assert await town.goes_to("p/a") == "upstream_error"
        assert await town.goes_to("p/nothing") == "model_not_found"


class TestFallbacks:
    """Another model only where a rule says so, and then its name is in the answer."""

    @pytest.fixture(autouse=True)
    def models(self, town: Town) -> None:
        town.gateway.serve("m", town.target("p/a"), town.target("p/b"))
        town.gateway.serve("other", town.target("q/c"))
        town.gateway.serve("third", town.target("q/d"))

    def falls_back(self, town: Town, *names: str) -> None:
        """The rule for `m`."""
        town.gateway.rule("careful", match=RouteMatch(models=("m",)), fallback=names)

    @pytest.mark.parametrize("stream", [False, True])
    async def test_no_rule_no_other_model(self, town: Town, stream: bool):
        """All targets of the model fail: that is the answer."""
        town.breaks("a", "b")
        response = await town.ask(stream=stream)
        assert (response.status, response.code) == (502, "upstream_error")
        assert {request.json["model"] for request in town.fake.requests} == {"a", "b"}

    @pytest.mark.parametrize("stream", [False, True])
    async def test_the_other_model_is_named(self, town: Town, stream: bool):
        """The model's own targets come first; then the rule's other model answers, under its own name."""
        self.falls_back(town, "other")
        response = await town.ask(stream=stream)
        assert (response.header("x-potluck-target"), response.header("x-potluck-model")) == ("p/a", None)
        town.breaks("a", "b")
        response = await town.ask(stream=stream)
        assert response.status == 200
        assert response.header("x-potluck-target") == "q/c"
        assert response.header("x-potluck-model") == "other"
        assert response.header("x-potluck-attempts") == "3"
        record = town.gateway.spool.records[-1]
        assert (record.model, record.target) == ("m", "q/c")
        assert [each.target for each in record.attempts] == ["p/a", "p/b"]

    async def test_a_fallback_that_the_key_may_not_use(self, town: Town):
        """It is left out, and not called, however much has failed."""
        self.falls_back(town, "other", "third")
        key = msgspec.structs.replace(town.gateway.snapshots.key, models=frozenset({"m", "third"}))
        town.gateway.snapshots.swap(keys={town.gateway.snapshots.hash_key(CALLER_KEY.encode()): key})
        town.breaks("a", "b")
        response = await town.ask()
        assert response.header("x-potluck-model") == "third"
        assert "c" not in {request.json["model"] for request in town.fake.requests}
        town.breaks("d")
        assert await town.goes_to() == "upstream_error"
        assert "c" not in {request.json["model"] for request in town.fake.requests}

    async def test_the_keys_own_list(self, town: Town):
        """`key:*`: the models of the key, in its order."""
        self.falls_back(town, "key:*")
        names = ("third", "m", "other")
        key = msgspec.structs.replace(town.gateway.snapshots.key, models=frozenset(names), model_order=names)
        town.gateway.snapshots.swap(keys={town.gateway.snapshots.hash_key(CALLER_KEY.encode()): key})
        town.breaks("a", "b")
        assert await town.goes_to() == "q/d"

    async def test_a_pattern_holds_targets_back(self, town: Town):
        """`q/*` of the model's own targets come after the others; that is no other model."""
        town.gateway.serve("m", town.target("q/c"), town.target("p/a"))
        self.falls_back(town, "q/*")
        assert await town.goes_to() == "p/a"
        town.breaks("a")
        response = await town.ask()
        assert (response.header("x-potluck-target"), response.header("x-potluck-model")) == ("q/c", None)

    async def test_controls_hold_for_the_fallback_too(self, town: Town):
        """`only: p` bars the other model's target as well."""
        self.falls_back(town, "other")
        town.breaks("a", "b")
        assert await town.goes_to(potluck={"only": ["p"]}) == "upstream_error"
        assert "c" not in {request.json["model"] for request in town.fake.requests}

    async def test_the_answer_is_the_other_models_own(self, town: Town):
        """Byte for byte."""
        self.falls_back(town, "other")
        town.breaks("a", "b")
        assert (await town.ask()).body == answers.completion("c")
