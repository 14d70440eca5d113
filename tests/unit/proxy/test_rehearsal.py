"""What `route explain` says is what a request meets, and saying it changes nothing."""

import random
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.model.price import Price
from potluck.model.resources import Affinity, Hedge, Route, RouteConstraints, RouteMatch, Strategy, Timeouts
from potluck.model.secret import Secret
from potluck.model.snapshot import CompiledKey, CompiledModel, CompiledTarget, Endpoint, Snapshot
from potluck.ports import Failure
from potluck.providers.openai import build_heads
from potluck.proxy.registry import Registry
from potluck.proxy.rehearsal import Explanation, rehearse
from potluck.proxy.routing import Router, Run
from potluck.wire.dialects.envelope import decode_envelope

KEY = CompiledKey(
    id="key_1", name="web", organisation_id="org_1", project_id="prj_1", project="default", data_class="standard",
    models=None, tags=(), expires_at_s=float("inf"), created_at_ms=0,
)  # fmt: skip
STRATEGIES: tuple[Strategy, ...] = ("priority", "weighted", "cheapest", "fastest", "least_busy", "balanced")
DOWN = Failure("target_down", "connect", "could not connect: refused")
REFUSED = Failure("key_dead", "first_byte", "HTTP 401", status=401)
LIMITED = Failure("key_limited", "first_byte", "HTTP 429", status=429, retry_after_s=30.0)


def target(name: str, credential: str = "main", *, usd: int = 1, weight: int = 1, **members: Any) -> CompiledTarget:
    base_url = f"https://{name}.example/v1"
    return CompiledTarget(
        **{
            "id": f"tgt_{name}",
            "name": f"{name}/m",
            "provider_id": f"prv_{name}",
            "provider": name,
            "credential_id": f"crd_{name}_{credential}",
            "credential": credential,
            "credential_weight": weight,
            "upstream": "pool",
            "endpoint": Endpoint(name, f"{name}.example", 443, True, Timeouts()),
            "model_json": b'"m"',
            "heads": build_heads(base_url, Secret(f"sk-{credential}"), ("chat",)),
            "price": Price(usd * 1_000_000_000, usd * 1_000_000_000, "test:1", "operator"),
            "own": False,
            "on_hangup": "cancel",
            "quirks": frozenset(),
            "place": f"{name} m",
            **members,
        }
    )


class Source:
    """Implements `ports.SnapshotSource`."""

    def __init__(self, *targets: CompiledTarget, **route: Any) -> None:
        models = {"small": CompiledModel("small", targets, b"{}")}
        routes = (Route(id="rte_1", organisation_id="org_1", name="rule", created_at_ms=0, **route),) if route else ()
        self.current = Snapshot(version=1, keys={b"": KEY}, models=models, pins={}, routes=routes)

    def hash_key(self, token: bytes) -> bytes:
        return token

    def touch(self, key: CompiledKey) -> None:
        pass


def router_of(*targets: CompiledTarget, seed: int = 1, **route: Any) -> Router:
    return Router(Source(*targets, **route), Registry(random.Random(seed).random), lambda _: None)


def body(**members: Any) -> bytes:
    return msgspec.json.encode({"model": "small", "messages": [{"role": "user", "content": "Hello"}], **members})


def explain(router: Router, **members: Any) -> Explanation:
    return rehearse(router, KEY, "chat", body(**members))


def fail(router: Router, each: CompiledTarget, failure: Failure, times: int = 1) -> None:
    for _ in range(times):
        router.registry.failed(router.registry.lane(each), failure, time.monotonic())


def rows(said: Explanation) -> list[tuple[str, str, bool, str]]:
    assert said.plan is not None
    return [(each.target, each.credential, each.is_in, each.state) for each in said.plan.targets]


def test_the_plan_is_in_the_order_of_the_calls() -> None:
    """Targets come as they would be called, each with what ranked it; what is left out comes last, with its reason."""
    router = router_of(
        target("dear", usd=3),
        target("cheap", usd=1),
        target("far", usd=9),
        strategy="cheapest",
        constraints=RouteConstraints(max_price_input=8_000_000_000),
    )
    said = explain(router)
    assert (said.route, said.model, said.key, said.project) == ("rule", "small", "web", "default")
    assert said.order == ["cheap/m", "dear/m"]
    assert said.plan is not None
    assert said.plan.strategy == "cheapest"
    assert rows(said) == [
        ("cheap/m", "main", True, "closed"),
        ("dear/m", "main", True, "closed"),
        ("far/m", "", False, ""),
    ]
    assert [each.why for each in said.plan.targets] == [
        "0.00125 USD expected",
        "0.00375 USD expected",
        "dearer than the route's `max_price`",
    ]
    assert said.mix is not None
    assert (said.mix.input_tokens, said.mix.output_tokens, said.mix.measured) == (1000, 250, False)


def test_states_put_targets_in_their_place() -> None:
    """An open breaker comes last, a parked or dead key is passed over, and the reasons are told."""
    down, dead, limited, well = (target(name) for name in ("down", "dead", "limited", "well"))
    router = router_of(down, dead, limited, well)
    fail(router, down, DOWN, 5)
    fail(router, dead, REFUSED)
    fail(router, limited, LIMITED)
    said = explain(router)
    assert said.order == ["well/m", "down/m"]
    assert rows(said) == [
        ("well/m", "main", True, "closed"),
        ("down/m", "main", True, "open"),
        ("dead/m", "main", True, "dead"),
        ("limited/m", "main", True, "parked"),
    ]
    assert said.plan is not None
    assert said.plan.targets[1].reason == "breaker open: 5 failures in a row, the last: could not connect: refused"


def test_the_likeliest_key_comes_first() -> None:
    """Keys of a target stand by weight, those that would not be used after the others."""
    spare, main, gone = target("a", "spare", weight=1), target("a", "main", weight=3), target("a", "gone", weight=9)
    router = router_of(spare, main, gone)
    fail(router, gone, REFUSED)
    assert [each[1] for each in rows(explain(router))] == ["main", "spare", "gone"]


def test_who_is_refused_is_told_why() -> None:
    """An unreadable body, an unknown model and a model without a target that may serve: the caller's own error."""
    router = router_of(target("a"))
    for members, status, code in (
        ({"messages": 1}, 400, "invalid_request"),
        ({"model": "smal"}, 404, "model_not_found"),
        ({"potluck": {"only": ["nobody"]}}, 503, "no_target_available"),
    ):
        said = explain(router, **members)
        assert said.refused is not None
        assert (said.refused.status, said.refused.code, said.order) == (status, code, [])
    assert said.plan is not None
    assert said.plan.targets[0].why == "not among the request's `only`"
    assert "did you mean small?" in (explain(router, model="smal").refused or said.refused).message


def test_a_refusal_names_when_all_keys_are_dead() -> None:
    """With its only key dead a request is refused at once, and so says the explanation, with the state of the key."""
    only = target("a")
    router = router_of(only)
    fail(router, only, REFUSED)
    said = explain(router)
    assert said.refused is not None
    assert (said.refused.code, said.order) == ("no_target_available", [])
    assert "is dead: HTTP 401" in said.refused.message
    assert rows(said) == [("a/m", "main", True, "dead")]


def test_a_lane_that_is_new_knows_that_its_key_is_dead() -> None:
    """A key that died elsewhere is dead for a target that was never called, in the rehearsal and for requests."""
    used = target("a")
    fresh = msgspec.structs.replace(used, place="a other", name="a/other")
    router = router_of(used, fresh)
    fail(router, used, REFUSED)
    assert explain(router).order == []
    envelope = decode_envelope("chat", body())
    assert router.first(router.candidates(KEY, envelope), envelope, 100, KEY, time.monotonic()) is None


def test_affinity_says_where_it_keeps_a_prompt() -> None:
    """Once a prompt's beginning was answered somewhere, the explanation names the place and the price of staying."""
    here, there = target("here", usd=2), target("there", usd=1)
    router = router_of(here, there, strategy="cheapest", affinity=Affinity(tolerance=3.0))
    assert explain(router).affinity == ""
    envelope = decode_envelope("chat", body())
    candidates = router.candidates(KEY, envelope)
    option = next(each.lanes[0] for each in candidates.places if each.name == "here/m")
    router.answered(candidates, option, envelope, KEY, time.monotonic())
    said = explain(router)
    assert said.order == ["here/m", "there/m"]
    assert said.affinity == "here/m had this beginning: stays, costs 100 % more than the best; kept up to 200 %"
    other = explain(router, messages=[{"role": "user", "content": "Good bye"}])
    assert (other.order, other.affinity) == (["there/m", "here/m"], "")


def test_affinity_is_told_as_requests_meet_it() -> None:
    """The price of staying is that beside what can be called now; what cannot is not stayed with."""
    here, there, own = target("here", usd=4), target("there", usd=1), target("own", usd=9, own=True)
    router = router_of(here, there, own, strategy="cheapest", affinity=Affinity(tolerance=2.0), fallback=("own/*",))
    envelope = decode_envelope("chat", body())
    candidates = router.candidates(KEY, envelope)

    def warm_at(each: CompiledTarget) -> None:
        router.answered(candidates, candidates.by_place[each.place].lanes[0], envelope, KEY, time.monotonic())

    warm_at(here)
    said = explain(router)
    assert said.affinity == "here/m had this beginning: goes, costs 300 % more than the best; kept up to 100 %"
    assert said.order[0] == "there/m"
    fail(router, there, LIMITED)
    said = explain(router)
    assert said.affinity == "here/m had this beginning: stays, as good as the best"
    assert said.order[0] == "here/m"
    warm_at(there)
    said = explain(router)
    assert said.affinity == "there/m had this beginning: goes, it cannot be called now"
    assert said.order[0] == "here/m"
    warm_at(own)
    assert explain(router).affinity == "own/m had this beginning: goes, others come before it now"
    fail(router, here, DOWN, 5)
    assert explain(router).affinity == "own/m had this beginning: stays, as good as the best"
    assert explain(router).order == ["own/m", "here/m"]


def test_a_route_that_does_not_take_the_key_does_not_apply() -> None:
    """The rule named is the one that the key's requests follow."""
    match = RouteMatch(keys=("batch-*",))
    assert explain(router_of(target("a"), match=match)).route == "default"
    assert explain(router_of(target("a"), match=RouteMatch(keys=("w*",)))).route == "rule"


def told(router: Router) -> list[Any]:
    """Everything that a request could find changed, but for passing time."""
    registry, now = router.registry, 1e9
    return [
        [(each.target, each.credential, each.state, each.reason, each.breaker) for each in registry.view(now)],
        sorted((lane.target, lane.credential) for lane in registry.impaired),
        registry.version,
        sorted(registry.mixes),
        sorted(registry.standings),
        {name: budget.saved for name, budget in registry.hedges.items()},
        len(router._kinds),
    ]


LANES = [(place, key) for place in "abcd" for key in ("main", "spare")]
BROKEN = st.lists(st.tuples(st.sampled_from(LANES), st.sampled_from([DOWN, REFUSED, LIMITED])), max_size=30)


@given(strategy=st.sampled_from(STRATEGIES), broken=BROKEN, seed=st.integers(0, 1000), stream=st.booleans())
def test_it_is_what_a_request_would_do_and_changes_nothing(
    strategy: Strategy, broken: list[tuple[tuple[str, str], Failure]], seed: int, stream: bool
) -> None:
    """With the same luck a request calls the targets in the order that was told; before it, nothing has changed."""
    lanes = {lane: target(*lane, usd=1 + index % 3) for index, lane in enumerate(LANES)}
    router = router_of(*lanes.values(), strategy=strategy, hedge=Hedge())
    for lane, failure in broken:
        fail(router, lanes[lane], failure)
    before, kept = told(router), time.monotonic()
    router.registry.random = random.Random(seed).random
    said = rehearse(router, KEY, "chat", body(stream=stream))
    if time.monotonic() - kept < 0.5:  # else a park may have ended meanwhile
        assert told(router) == before
    router.registry.random = random.Random(seed).random
    envelope = decode_envelope("chat", body(stream=stream))
    candidates = router.candidates(KEY, envelope)
    first = router.first(candidates, envelope, len(body(stream=stream)), KEY, time.monotonic())
    assert (first is None) == (said.refused is not None)
    called: list[str] = []
    run = Run(time.monotonic() + 60)
    option = first
    while option is not None and len(called) < 3:
        if option.target.name not in called:
            called.append(option.target.name)
        run.called(option)
        run.failed(option, DOWN)
        following = router.next(candidates, run, envelope, len(body(stream=stream)), KEY, time.monotonic())
        option = following.option if following is not None and following.kind == "next" else None
    assert called == said.order[: len(called)]
    assert len(called) == min(3, len(said.order))


@pytest.mark.parametrize("stream", [False, True])
def test_a_probe_is_not_taken(stream: bool) -> None:
    """A half-open breaker stays half-open however often it is explained: the probe is a request's."""
    only = target("a")
    router = router_of(only)
    fail(router, only, DOWN, 5)
    lane = router.registry.lane(only)
    lane.breaker.retry_at = 0.0
    for _ in range(3):
        assert [each[3] for each in rows(explain(router, stream=stream))] == ["half_open"]
    assert lane.breaker.state == "open"
