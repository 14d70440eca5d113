"""A router without sockets: configuration in a line each, a clock that stands still, an exchange's moves by hand."""

import random
from typing import Any

import msgspec

from potluck.model.node import CompiledNode, NodePlace, Offer, place_of
from potluck.model.price import NANOUSD_PER_USD, Price
from potluck.model.resources import Capability, Route, RouteConstraints, RouteMatch, Timeouts
from potluck.model.secret import Secret
from potluck.model.snapshot import CompiledKey, CompiledModel, CompiledTarget, Endpoint, Snapshot
from potluck.model.usage import ErrorClass, PlanLine
from potluck.ports import Failure
from potluck.providers.openai import build_heads
from potluck.proxy.candidates import Candidates, LaneOption
from potluck.proxy.registry import Lane, Registry
from potluck.proxy.routing import Next, Router, Run
from potluck.snapshot.cards import alias_card, model_card
from potluck.snapshot.nodes import HEADS
from potluck.wire.dialects.controls import Controls
from potluck.wire.dialects.envelope import Envelope

BODY_BYTES = 200
STATUS: dict[ErrorClass, int] = {"key_dead": 401, "key_limited": 429}


def api_key(name: str = "web", **members: Any) -> CompiledKey:
    """A key that may use everything, unless told; one with nothing of its own is served as its project's others are."""
    of_its_own = {"models", "own_devices", "data_class"} & members.keys()
    return CompiledKey(
        **{
            "id": f"key_{name}",
            "name": name,
            "organisation_id": "org_1",
            "project_id": "prj_1",
            "project": "default",
            "data_class": "standard",
            "models": None,
            "tags": (),
            "expires_at_s": float("inf"),
            "created_at_ms": 0,
            "scope": f"key_{name}" if of_its_own else members.get("project_id", "prj_1"),
            **members,
        }
    )


def listing(*models: str, name: str = "listed") -> CompiledKey:
    """A key with its own list of models."""
    return api_key(name, models=frozenset(models), model_order=models)


def target(
    name: str, credential: str = "main", *, secret: str = "", usd: float | None = 1.0, **members: Any
) -> CompiledTarget:
    """One target (`openai/mini`) by one of its provider's credentials, at `usd` per million tokens."""
    provider, _, upstream_model = name.partition("/")
    nanousd = None if usd is None else round(usd * NANOUSD_PER_USD)
    served: tuple[Capability, ...] = members.pop("serves", ("chat",))
    heads = build_heads(
        f"https://{provider.replace(':', '-')}.example/v1", Secret(secret or f"sk-{provider}-{credential}"), served
    )
    return CompiledTarget(
        **{
            "id": f"tgt_{name}",
            "name": name,
            "provider_id": f"prv_{provider}",
            "provider": provider,
            "credential_id": f"crd_{provider}_{credential}",
            "credential": credential,
            "upstream": "pool",
            "endpoint": Endpoint(provider, f"{provider}.example", 443, True, Timeouts()),
            "model_json": msgspec.json.encode(upstream_model),
            "heads": heads,
            "price": None if nanousd is None else Price(nanousd, nanousd, version="test:1", source="operator"),
            "own": False,
            "on_hangup": "cancel",
            "quirks": frozenset(),
            "place": name,
            **members,
        }
    )


def on_node(node: str, model: str = "m", **members: Any) -> CompiledTarget:
    """A target `node:lab/m` on an own node with the id `node_lab`."""
    node_id = f"node_{node}"
    said = {
        "provider_id": node_id,
        "credential_id": None,
        "credential": "",
        "upstream": "hub",
        "usd": 0.0,
        "own": not members.get("community", False),
        "endpoint": Endpoint(node_id, "", 0, False, Timeouts()),
        "heads": {"chat": HEADS["chat"]},
        "place": place_of(node_id, "e", model),
        "node": NodePlace(node_id, "e", model),
    }
    return target(f"node:{node}/{model}", **{**said, **members})


def route(name: str, **members: Any) -> Route:
    """A rule; what is no member of a route is one of its `match` or of its `constraints`."""
    match = {each: members.pop(each) for each in RouteMatch.__struct_fields__ if each in members}
    held = {each: members.pop(each) for each in RouteConstraints.__struct_fields__ if each in members}
    return Route(
        id=f"rte_{name}",
        organisation_id="org_1",
        name=name,
        created_at_ms=0,
        match=RouteMatch(**match),
        constraints=RouteConstraints(**held),
        **members,
    )


def envelope(model: str = "small", capability: Capability = "chat", *, text: str = "Hi", **said: Any) -> Envelope:
    """A request; what is no member of an envelope is a control of it."""
    members = {"messages": msgspec.Raw(msgspec.json.encode([{"role": "user", "content": text}]))}
    own = {name: said.pop(name) for name in ("stream", "user", "tags") if name in said}
    return Envelope(capability, model, members, controls=Controls(**said) if said else None, **own)


def failure(error_class: ErrorClass, *, status: int | None = None, phase: str = "first_byte", **rest: Any) -> Failure:
    status = STATUS.get(error_class, 0) if status is None else status
    return Failure(error_class, phase, f"{error_class} {status}", status=status, **rest)


class World:
    """A router over configuration that the test writes. Implements `ports.SnapshotSource`."""

    def __init__(self, *targets: CompiledTarget, seed: int = 1, **rule: Any) -> None:
        """`targets` make the model `small`, `rule` the first route."""
        self.now = 10_000.0
        self.key = api_key()
        self.plans: list[PlanLine] = []
        self.notices: list[tuple[str, str]] = []
        self.current = Snapshot(version=1, keys={}, models={}, pins={})
        self.registry = Registry(random.Random(seed).random, lambda: self.now)
        self.registry.on_notice = lambda event, lane, _: self.notices.append((event, lane.target))
        self.router = Router(self, self.registry, self.plans.append)
        if targets:
            self.serve("small", *targets)
        if rule:
            self.rule("rule", **rule)

    def hash_key(self, token: bytes) -> bytes:
        return token

    def touch(self, key: CompiledKey) -> None:
        pass

    # configuration

    def swap(self, **members: Any) -> None:
        self.current = msgspec.structs.replace(self.current, version=self.current.version + 1, **members)

    def serve(self, name: str, *targets: CompiledTarget, alias: str = "", declared: bool = True) -> None:
        """A public model, and maybe its alias; each target can be pinned, by all its credentials.

        Not `declared`: a name that providers offer.
        """
        card = model_card(name, 0, targets, None)
        models = {**self.current.models, name: CompiledModel(name, targets, card, declared=declared)}
        if alias:
            models[alias] = CompiledModel(alias, targets, alias_card(name, alias, card), name, declared)
        pins = {**self.current.pins}
        for each in targets:
            same = tuple(other for other in targets if other.name == each.name)
            pins[each.name] = CompiledModel(each.name, same, model_card(each.name, 0, same, None))
        nodes = {
            each.node.node_id: CompiledNode(
                each.node.node_id, "org_1", each.provider.removeprefix("node:"), True, {}, False, Offer()
            )
            for each in targets
            if each.node is not None
        }
        self.swap(models=models, pins=pins, nodes={**self.current.nodes, **nodes})

    def present(self, *targets: CompiledTarget) -> None:
        """The nodes that these are on take calls."""
        for each in targets:
            assert each.node is not None
            self.registry.set_away(each.node.node_id, "")

    def rule(self, name: str, **members: Any) -> None:
        """A route after those that are there."""
        self.swap(routes=(*self.current.routes, route(name, **members)))

    # an exchange's moves

    def ask(self, model: str = "small", capability: Capability = "chat", key: CompiledKey | None = None,
            **said: Any) -> Candidates:  # fmt: skip
        return self.router.candidates(key or self.key, envelope(model, capability, **said))

    def first(self, candidates: Candidates, **said: Any) -> LaneOption | None:
        return self.router.first(candidates, envelope(**said), BODY_BYTES, self.key, self.now)

    def run(self, candidates: Candidates, option: LaneOption) -> Run:
        """A request whose first call has gone out to `option`."""
        run = Run(self.now + candidates.total_s)
        run.called(option)
        return run

    def fails(self, candidates: Candidates, run: Run, option: LaneOption, what: Failure) -> Next | None:
        """A call of `run` ends badly; what follows has begun when this returns."""
        self.registry.failed(option.lane, what, self.now, option.target)
        run.failed(option, what)
        following = self.router.next(candidates, run, envelope(), BODY_BYTES, self.key, self.now)
        if following is not None:
            run.called(following.option)
        return following

    def rival(self, candidates: Candidates, run: Run) -> LaneOption | None:
        return self.router.rival(candidates, run, envelope(), BODY_BYTES, self.key, self.now)

    def succeeds(self, lane: Lane, *, begun_at: float | None = None) -> None:
        lane.breaker.good += 1
        if lane.troubled:
            self.registry.succeeded(lane, self.now, self.now if begun_at is None else begun_at)

    def opens(self, lane: Lane) -> None:
        """Five failures in a row."""
        for _ in range(5):
            self.registry.failed(lane, failure("target_down", phase="connect"), self.now)

    def lane(self, each: CompiledTarget) -> Lane:
        return self.registry.lane(each)

    def passes(self, seconds: float) -> None:
        """The clock goes on, and the sweep comes once a second."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            self.registry.sweep(self.now)


def groups(candidates: Candidates) -> list[list[str]]:
    """Names of targets by group, in the order in which groups are tried."""
    return [[option.name for option in group.options] for group in candidates.groups]


def left_out(candidates: Candidates) -> dict[str, str]:
    """What may not serve, and why."""
    return {name: reason for _, name, reason in candidates.left_out}
