"""Who may serve a kind of request, and who may not and why: worked out from a snapshot, and kept by the router.

A kind is who asks, for which endpoint and model, with which controls. Rules:
- All filters are applied here, once: what is among `Candidates.places` may be called, as far as configuration goes.
- A route holds for its own organisation only. Asking for another route never loosens what the usual one demands.
- Nothing here refers back to what it is in (a lane to its place, a place to its group): candidates may be told to the
  collector as permanent (`gc.freeze`) while they live, and whatever is in a cycle then would stay for ever.
"""

from copy import copy

import msgspec

from potluck.model.resources import OPENNESS, Affinity, DataClass, Route, RouteTimeouts, Timeouts
from potluck.model.snapshot import CompiledKey, CompiledModel, CompiledTarget, Snapshot
from potluck.model.usage import IntentForm
from potluck.policy.fleet_selection import pick_of
from potluck.policy.hedging import HedgeBudget
from potluck.policy.mix import TokenMix
from potluck.policy.selection import Pick
from potluck.policy.standing import Option, Standing
from potluck.proxy import filters, names
from potluck.proxy.registry import AWAY, READY, Lane, Registry
from potluck.wire.dialects.controls import Controls
from potluck.wire.dialects.envelope import Envelope
from potluck.wire.errors import RequestError

DEFAULT_ROUTE = Route(id="", organisation_id="", name="default", created_at_ms=0)
"""applies where no rule does: the model's targets in their order"""

MEASURING = frozenset(("fastest", "least_busy", "balanced"))
MAX_FORMS = 1_000
"""intents kept encoded per lane"""
DEFAULT_TOTAL_S = Timeouts().total_s
"""of a request, over all attempts, where its route does not say and no provider's own is longer"""


class LaneOption:
    """One target by one credential, as a pool offers it."""

    __slots__ = ("_plain", "first_fields", "forms", "lane", "model", "number", "place", "standing", "target")

    def __init__(self, target: CompiledTarget, lane: Lane, standing: Standing, model: str) -> None:
        self.target = target
        self.lane = lane
        self.standing = standing
        self.place = target.place
        self.model = model
        """the public model that it serves"""
        self.number = 0
        """of the lane's probes, where it is one"""
        self._plain: LaneOption | None = None
        self.forms: dict[tuple[str, bool], IntentForm] = {}
        """encoded intents by key id and stream"""
        self.first_fields: bytes = b""
        """response fields of an answer at the first attempt"""

    def as_probe(self) -> "LaneOption":
        """It, for the one call that is the lane's probe now."""
        probe = copy(self)
        probe._plain = self.plain
        probe.number = self.lane.probes
        return probe

    @property
    def plain(self) -> "LaneOption":
        """The same for any call."""
        return self if self._plain is None else self._plain

    @property
    def probe(self) -> bool:
        """It is for one call only, the lane's last probe: `registry.abandoned` is told if that ends without a word."""
        return self.number > 0 and self.number == self.lane.probes


class PlaceOption(Option):
    """One target with its credentials."""

    __slots__ = ("lanes", "model", "place")

    def __init__(self, lanes: tuple[LaneOption, ...]) -> None:
        target = lanes[0].target
        super().__init__(
            lanes[0].standing,
            target.name,
            weight=target.weight,
            priority=target.priority,
            own=target.own,
            slots=target.slots,
        )
        self.lanes = lanes
        self.model = lanes[0].model
        self.place = target.place


class Group:
    """Places among which a strategy chooses; all of them come before those of the next group."""

    __slots__ = ("even", "leaders", "options", "pick", "present", "strategy", "why")

    def __init__(self, options: list[PlaceOption], route: Route, why: str) -> None:
        self.options = options
        self.present = options
        """those that are not on nodes which are away"""
        self.strategy = route.strategy
        self.pick: Pick = pick_of(route.strategy, options)
        self.leaders: list[PlaceOption] = []
        """those between which only weights decide; empty: that depends on the request"""
        self.even = False
        """and their weights are the same"""
        self.why = why
        """`model`, `own first`, `fallback …`"""


class Candidates:
    """Everything that may serve one kind of request, and everything that may not, with the reason."""

    __slots__ = (
        "affinity",
        "by_place",
        "generation",
        "group",
        "groups",
        "hedge_budget",
        "impaired",
        "left_out",
        "lone",
        "machines",
        "measures",
        "mix",
        "model",
        "output_tokens",
        "own_models",
        "plan",
        "retold_at",
        "route",
        "route_field",
        "stale_at",
        "states",
        "tells_at",
        "total_s",
        "version",
    )

    def __init__(self, named: names.Named, route: Route, mix: TokenMix, hedge_budget: HedgeBudget | None) -> None:
        self.model = named.name
        self.own_models = {model.alias_of or model.name for model in named.models}
        """public names that an answer may come from without being a fallback"""
        self.route = route
        self.route_field = route.name.encode()
        self.mix = mix
        self.hedge_budget = hedge_budget
        self.affinity: Affinity | None = route.affinity
        self.total_s = route.timeouts.total_s or DEFAULT_TOTAL_S
        self.groups: list[Group] = []
        self.group: Group | None = None
        """the first that has somebody there"""
        self.by_place: dict[str, PlaceOption] = {}
        """all that may serve, in groups' order"""
        self.left_out: list[tuple[CompiledTarget | None, str, str]] = []
        """target or None, its name, the reason"""
        self.measures = route.hedge is not None
        """speed decides, so it is measured"""
        self.lone: LaneOption | None = None
        """there is no choice at all"""
        self.machines = False
        """some of them are models on nodes: what a request asks of a machine is worked out for it"""
        self.plan = ""
        """id of the plan in force"""
        self.output_tokens = 0
        """expected of an answer"""
        self.stale_at = self.retold_at = self.tells_at = 0.0
        """when expected costs, and the plan, are worked out again; and until when not, though a lane changed"""
        self.version = -1
        """of the registry, when they were looked at last; -1: never"""
        self.states: list[int] = []
        """how their lanes stood then"""
        self.impaired = False
        """something is held against some of them: each has to be looked at"""
        self.generation = 0
        """of the configuration that they were worked out from, as the router counts"""

    def has(self, option: LaneOption) -> bool:
        """The target by that credential is among them, as it was or worked out anew."""
        place = self.by_place.get(option.place)
        return place is not None and any(each.lane is option.lane for each in place.lanes)

    def look(self, states: list[int]) -> None:
        """Note how their lanes stand, in their order."""
        self.states = states
        self.impaired = any(state not in (READY, AWAY) for state in states)
        gone = AWAY in states
        for group in self.groups:
            group.present = [each for each in group.options if not each.lanes[0].lane.away] if gone else group.options
        self.group = next((group for group in self.groups if group.present), None)

    @property
    def places(self) -> list[PlaceOption]:
        """All that may serve, in groups' order."""
        return list(self.by_place.values())


class Compiler:
    """Works out the candidates of one kind of request."""

    def __init__(self, registry: Registry, snapshot: Snapshot, key: CompiledKey, envelope: Envelope) -> None:
        self.registry = registry
        self.snapshot = snapshot
        self.key = key
        self.envelope = envelope
        self.controls = envelope.controls or Controls()

    def compile(self) -> Candidates:
        """Raises RequestError: unknown model, not allowed, looser than the key's project."""
        snapshot, key, controls = self.snapshot, self.key, self.controls
        asked = self.envelope.model
        named = names.resolve(snapshot, asked, key.organisation_id)
        if named is None:
            raise names.not_found(snapshot, key, asked)
        if not self._may_use(named):
            raise names.not_allowed(asked)
        self._check_class(controls)
        usual = [self._usual(named, model) for model in named.models]
        route = self._route(named, usual[0])
        registry = self.registry
        budget = registry.hedge_budget(route.id, route.hedge) if route.hedge is not None else None
        made = Candidates(named, route, registry.mix(key.project_id), budget)
        places: list[PlaceOption] = []
        listed = named.route is None or named.name in (key.models or ())
        for model, rule in zip(named.models, usual, strict=True):
            if listed or names.allowed(key, model.name, model.alias_of):
                self._hold(route, rule)
                places += self._places(model, made)
        self._rules = (route, *usual)
        self._hold(*self._rules)
        self._group(made, places, controls.prefer or named.prefer)
        return self._finish(made)

    def _may_use(self, named: names.Named) -> bool:
        key = self.key
        if key.models is None or named.name in key.models:
            return True
        return any(names.allowed(key, model.name, model.alias_of) for model in named.models)

    def _check_class(self, controls: Controls) -> None:
        wanted, most = controls.data_class, self.key.data_class
        if wanted and OPENNESS[wanted] > OPENNESS[most]:
            message = f"this key, or its project, allows data class {most!r} at most"
            raise RequestError("policy_denied", message, param="potluck.data_class")

    # --- the rule

    def _usual(self, named: names.Named, model: CompiledModel) -> Route:
        """The rule for the caller's requests for the model when no other one is asked for."""
        called = {model.name, model.alias_of} if named.route is not None else {named.name, model.name, model.alias_of}
        return next((each for each in self.snapshot.routes if self._matches(each, called)), DEFAULT_ROUTE)

    def _route(self, named: names.Named, usual: Route) -> Route:
        """The rule to follow: the one that is asked for, by the model's name or in the controls, or the usual one."""
        asked = self.controls.route
        if named.route is not None:
            if asked not in (None, named.route.name):
                message = f"the model {named.name!r} is a route itself, and another one is asked for"
                raise RequestError("invalid_request", message, param="potluck.route")
            if not names.takes(named.route, self.key):
                message = f"this key may not use the route {named.route.name!r}"
                raise RequestError("policy_denied", message, param="model")
            return named.route
        if asked is None or asked == usual.name:
            return usual
        rules = [each for each in self.snapshot.routes if names.within(each, self.key.organisation_id)]
        wanted = next((each for each in (*rules, DEFAULT_ROUTE) if each.name == asked), None)
        if wanted is None:
            raise RequestError("invalid_request", f"there is no route {asked!r}", param="potluck.route")
        if not self._matches(wanted, {named.name, named.models[0].name, named.models[0].alias_of}):
            message = f"the route {asked!r} does not take this key's requests for {named.name!r}"
            raise RequestError("policy_denied", message, param="potluck.route")
        return wanted

    def _hold(self, *rules: Route) -> None:
        """What these rules demand holds for the targets that are looked at next.

        All of them: asking for another rule must not loosen what the usual one demands.
        """
        self._constraints = list(dict.fromkeys(rule.constraints for rule in rules))
        classes = [self.key.data_class, self.controls.data_class, *[each.data_class for each in self._constraints]]
        self._data_class: DataClass = min([each for each in classes if each], key=OPENNESS.__getitem__)

    def _matches(self, route: Route, called: set[str]) -> bool:
        return names.takes(route, self.key) and any(
            filters.like(pattern, name) for pattern in route.match.models for name in called
        )

    # --- places and groups

    def _places(self, model: CompiledModel, made: Candidates) -> list[PlaceOption]:
        """The model's targets that may serve; those that may not are noted with their reason."""
        registry = self.registry
        lanes: dict[str, list[LaneOption]] = {}
        for compiled in model.targets:
            reason = self._barred(compiled)
            if reason:
                made.left_out.append((compiled, compiled.name, reason))
                continue
            target = self._for_kind(_with_timeouts(compiled, made.route.timeouts))
            public = model.alias_of or model.name
            option = LaneOption(target, registry.lane(target), registry.standing(target.place), public)
            lanes.setdefault(target.place, []).append(option)
        return [PlaceOption(tuple(each)) for each in lanes.values()]

    def _for_kind(self, target: CompiledTarget) -> CompiledTarget:
        """A target on a node, with what it has to be told of requests of this kind."""
        if target.node is None:
            return target
        self.registry.machine(target.place)
        mine = target.owner == f"project:{self.key.project}" or not (target.owner or target.community)
        node = msgspec.structs.replace(target.node, data_class=self._data_class, own=mine)
        return msgspec.structs.replace(target, node=node)

    def _barred(self, target: CompiledTarget) -> str:
        reason = filters.why_not(target, self.envelope.capability, self._data_class)
        if not reason and self.key.own_devices == "own_only" and not filters.owns(self.key, target):
            reason = "the key uses its own devices only"
        for constraints in self._constraints:
            reason = reason or filters.barred_by_route(target, constraints)
        return reason or filters.barred_by_caller(target, self.controls)

    def _group(self, made: Candidates, places: list[PlaceOption], prefer: str | None) -> None:
        """The key's own devices where they come first, the model's own places by the strategy, what a fallback pattern
        holds back after them, then other models."""
        route = made.route
        if prefer is not None and prefer != "own":
            route = msgspec.structs.replace(route, strategy=prefer)
        devices: list[PlaceOption] = []
        if self.key.own_devices == "own_first":
            devices = [place for place in places if filters.owns(self.key, place.lanes[0].target)]
            places = [place for place in places if place not in devices]
        later: list[tuple[list[PlaceOption], str]] = []
        for entry in route.fallback:
            if entry == "key:*":
                later += [self._fallback(name, made) for name in self.key.model_order if name != made.model]
            elif "*" in entry:
                held = [place for place in places if filters.like(entry, place.name)]
                if len(held) < len(places):  # all of them: there is nothing that they could come after
                    places = [place for place in places if place not in held]
                    later.append((held, f"fallback {entry}"))
            else:
                later.append(self._fallback(entry, made))
        if prefer == "own":
            own, others = [each for each in places if each.own], [each for each in places if not each.own]
            later.insert(0, (others, "model, not own"))
            places = own
        for options, why in [(devices, "own devices"), (places, "model"), *later]:
            fresh = []
            for each in options:  # models of one route may have a place in common
                if each.place not in made.by_place:
                    made.by_place[each.place] = each
                    fresh.append(each)
            if fresh:
                made.groups.append(Group(fresh, route, why))
        made.measures = made.measures or route.strategy in MEASURING

    def _fallback(self, name: str, made: Candidates) -> tuple[list[PlaceOption], str]:
        why = f"fallback {name}"
        model = names.model_of(self.snapshot, name, self.key.organisation_id)
        if model is None:
            if name not in self.snapshot.models and name not in self.snapshot.pins:  # else it is another organisation's
                made.left_out.append((None, name, "the route falls back to it, but there is no such model"))
            return [], why
        if not names.allowed(self.key, name, model.alias_of):
            made.left_out.append((None, name, "the route falls back to it, but this key may not use it"))
            return [], why
        # what the model's own rule demands holds for it here as well
        self._hold(*self._rules, self._usual(names.Named(name, (model,)), model))
        places = self._places(model, made)
        self._hold(*self._rules)
        return places, why

    def _finish(self, made: Candidates) -> Candidates:
        places = made.places
        if len(places) == 1 and len(places[0].lanes) == 1:
            made.lone = places[0].lanes[0]
        made.machines = any(place.standing.machine is not None for place in places)
        if made.route.timeouts.total_s is None:
            allowed_s = [option.target.endpoint.timeouts.total_s for place in places for option in place.lanes]
            made.total_s = max([DEFAULT_TOTAL_S, *allowed_s])
        return made


def _with_timeouts(target: CompiledTarget, timeouts: RouteTimeouts) -> CompiledTarget:
    """The target with the route's times in the place of its provider's, where the route has any."""
    if timeouts == RouteTimeouts():
        return target
    own = target.endpoint.timeouts
    mixed = Timeouts(
        timeouts.connect_s or own.connect_s,
        timeouts.first_token_s or own.first_byte_s,
        timeouts.idle_s or own.idle_s,
        timeouts.total_s or own.total_s,
    )
    return msgspec.structs.replace(target, endpoint=msgspec.structs.replace(target.endpoint, timeouts=mixed))
