"""Which target a request goes to next. The router joins configuration (snapshot), live state (registry) and strategy.

Candidates of one kind of request (who asks, for which endpoint and model, with which controls) are worked out once per
snapshot and kept; a request then picks among them. Rules of picking:
1. The request's model first, in the order of its route's strategy; then the route's fallbacks, in theirs.
2. Lanes whose key is parked or dead, and those on nodes that are away, are passed over; a place all of whose lanes are
   is left out.
3. Places whose breakers are open come after all others, but they come: the last target standing is never removed.
4. A half-open breaker, and a dead key once a minute, gets one call as its probe, in its ordinary turn.
5. A node that refused is left alone by that request, and after `MAX_REFUSALS` the nodes of those tiers are.
6. After a failure: another key of the same target (once, where the key was the matter), the next place, and only when
   no other is left the same place again, after a pause, where `policy.retry` allows it.

A plain request whose own targets are all well, or on nodes that are away, takes the short way in `Router.first`.

Long since every call of a request, the first, the next, the rival's, the resumed one's, picks by the same rules.
"""

from collections.abc import Callable, Container, Iterator
from math import inf

import msgspec

from potluck.model.snapshot import CompiledKey, Snapshot
from potluck.model.usage import AttemptKind, PlanLine
from potluck.policy import retry
from potluck.policy.affinity import PREFIX_BYTES, prefix_of
from potluck.policy.estimate import estimate_usage
from potluck.policy.latency import size_class
from potluck.policy.machine_cost import Ask
from potluck.policy.prefix_blocks import blocks_of
from potluck.policy.selection import Wish, leading, stays
from potluck.ports import Failure, SnapshotSource
from potluck.proxy import explain, filters
from potluck.proxy.candidates import Candidates, Compiler, Group, LaneOption, PlaceOption
from potluck.proxy.registry import OPEN, PARKED, PROBE, READY, Registry
from potluck.wire.dialects.controls import Controls
from potluck.wire.dialects.envelope import Envelope, prompt_bytes
from potluck.wire.dialects.resume import goes_on
from potluck.wire.errors import RequestError

MAX_KINDS = 10_000
"""kinds of requests kept worked out; more than that at once, and all are made anew"""
MAX_CONTROLLED_KINDS = 500
"""the same for kinds with controls of their own, which callers can make up without end"""
REFRESH_S = 1.0
"""how old expected costs may be"""
RETELL_S = 60.0
"""how old the numbers in the recorded plan may be; a lane that opens or closes changes it at once"""
LONG_TELL_S = 0.002
"""a plan that takes longer to write down, as of hundreds of targets, is not told at every change"""
TELL_SHARE = 0.01
"""of the time, that writing such a plan down may take"""
_NOTHING_SAID = (None,) * 6
_PROMPTS = ("messages", "prompt", "input")
"""members, one of which holds the prompt"""


class Run:
    """What a request has tried so far; made when its first call fails or gets a rival."""

    __slots__ = ("doubted", "forbidden", "lanes", "last", "places", "refused", "rotated", "spent")

    def __init__(self, deadline: float) -> None:
        self.spent = retry.Spent(deadline)
        self.lanes: set[LaneOption] = set()
        self.places: dict[str, LaneOption] = {}
        """in the order of their first call, with the last lane used"""
        self.forbidden: set[str] = set()
        """places that have refused a key by 403"""
        self.refused: list[LaneOption] = []
        """on nodes that refused"""
        self.doubted: list[tuple[LaneOption, Failure]] = []
        """on nodes that said the request is wrong, and were not believed"""
        self.rotated = False
        """another key was tried at once already"""
        self.last: tuple[LaneOption, Failure] | None = None

    def called(self, option: LaneOption) -> None:
        self.spent.called(option.place, option.target.credential_id)
        self.lanes.add(option.plain)
        self.places[option.place] = option.plain

    def says_more(self, option: LaneOption, failure: Failure) -> bool:
        """Whether the failure is the lane's: when a second key of one target is forbidden too, it is the request's.

        So one request sets one key of a target aside at most, whatever it asks for.
        """
        return failure.error_class != "key_dead" or failure.status != 403 or option.place not in self.forbidden

    def weighed(self, option: LaneOption, failure: Failure) -> Failure:
        """The failure as it counts for the request: a stranger is not always believed that the caller is at fault."""
        lane, stranger = option.lane, option.target.community
        if failure.error_class != "caller_fault" or not stranger or lane.objections.believed(lane.breaker.good):
            return failure
        doubted = Failure("target_down", failure.phase, failure.detail, status=failure.status, by_node=True)
        self.doubted.append((option, doubted))
        return doubted

    def answered(self, registry: Registry, now: float) -> None:
        """Another target took the request: nodes that said it is wrong have failed, as any target would have."""
        for option, failure in self.doubted:
            registry.failed(option.lane, failure, now, probe=False)
        self.doubted.clear()

    def failed(self, option: LaneOption, failure: Failure) -> None:
        if failure.status == 403:
            self.forbidden.add(option.place)
        if failure.error_class == "refused":
            self.refused.append(option)
        self.last = (option, failure)
        self.spent.failed(option.place, failure.error_class, failure.phase, failure.status, failure.retry_after_s)


class Next(msgspec.Struct, frozen=True):
    """The call to make next."""

    option: LaneOption
    kind: AttemptKind
    delay_s: float = 0.0


class Router:
    """One per data plane."""

    def __init__(self, snapshots: SnapshotSource, registry: Registry, on_plan: Callable[[PlanLine], None]) -> None:
        self.snapshots = snapshots
        self.registry = registry
        self.on_plan = on_plan
        self._kinds: dict[tuple[object, ...], Candidates] = {}
        self._controlled: dict[tuple[object, ...], Candidates] = {}
        self._made_from: Snapshot | None = None
        self._generation = 0
        """rises with each configuration"""
        self._by_key = False
        """some route looks at the calling key"""
        self._wish = Wish()

    # --- candidates

    def candidates(self, key: CompiledKey, envelope: Envelope) -> Candidates:
        """Who may serve the request. Raises RequestError: unknown model, not allowed, looser than the key allows."""
        snapshot = self.snapshots.current
        if snapshot is not self._made_from:
            self._forget_kinds(snapshot)
        scope = key.id if self._by_key else key.scope or key.id
        kinds, most = self._kinds, MAX_KINDS
        kind: tuple[object, ...] = (scope, envelope.capability, envelope.model)
        if envelope.controls is not None:
            routed_by = _routed_by(envelope.controls)
            if routed_by is not None:
                kinds, most = self._controlled, MAX_CONTROLLED_KINDS
                kind += routed_by
        found = kinds.get(kind)
        if found is None:
            found = Compiler(self.registry, snapshot, key, envelope).compile()
            found.generation = self._generation
            if len(kinds) >= most:
                kinds.clear()
            kinds[kind] = found
        return found

    def renewed(self, candidates: Candidates, key: CompiledKey, envelope: Envelope) -> Candidates | None:
        """The same kind's candidates by the configuration of now, for a request's later calls; None: there are none."""
        if self.snapshots.current is self._made_from and candidates.generation == self._generation:
            return candidates
        try:
            now_valid = self.candidates(key, envelope)
        except RequestError:
            return None
        if now_valid.version < 0:  # no first call has looked at them yet: their costs are not known
            self.refresh(now_valid, self.registry.clock())
        return now_valid

    def _forget_kinds(self, snapshot: Snapshot) -> None:
        self._made_from = snapshot
        self._generation += 1
        self._kinds = {}
        self._controlled = {}
        self._by_key = any(route.match.keys != ("*",) for route in snapshot.routes)
        self.registry.forget(snapshot)

    # --- picking

    def first(
        self,
        candidates: Candidates,
        envelope: Envelope,
        body_bytes: int,
        key: CompiledKey,
        now: float,
        ask: Ask | None = None,
    ) -> LaneOption | None:
        """The place for a request's first call; None: none is left, and `none_left` says why. `ask`: `ask_of` it."""
        if now >= candidates.stale_at or candidates.version != self.registry.version:
            self.refresh(candidates, now)
        if candidates.hedge_budget is not None:
            candidates.hedge_budget.earned()
        lone = candidates.lone
        if lone is not None and not lone.lane.troubled:
            return lone
        if candidates.impaired:
            wish = self._wish_of(candidates, envelope, body_bytes, key, now, ask)
            return self._select(candidates, None, wish, now, self._prefix(candidates, envelope, key))
        group = candidates.group
        if group is None:
            return None
        options = group.present
        if len(options) == 1:
            place = options[0]
        elif group.leaders:
            leaders = group.leaders
            if group.even:
                place = leaders[int(self.registry.random() * len(leaders))]
            else:
                place = leaders[0] if len(leaders) == 1 else self._drawn(leaders)
        elif candidates.affinity is not None:
            wish = self._wish_of(candidates, envelope, body_bytes, key, now, ask)
            place = self._sticky(candidates, group, options, wish, now, self._prefix(candidates, envelope, key))
        else:
            wish = self._wish_of(candidates, envelope, body_bytes, key, now, ask)
            place = options[group.pick(options, wish, self.registry.random)]
        lanes = place.lanes
        return lanes[0] if len(lanes) == 1 else self._by_weight(lanes)

    def next(
        self,
        candidates: Candidates,
        run: Run,
        envelope: Envelope,
        body_bytes: int,
        key: CompiledKey,
        now: float,
        ask: Ask | None = None,
    ) -> Next | None:
        """The call after a failure; None: that was the last one allowed."""
        spent = run.spent
        if not spent.may_call(now):
            return None
        assert run.last is not None
        place = run.last[0].place
        if not run.rotated and retry.another_key_first(run.last[1].error_class, run.last[1].status):
            other = self._other_lane(candidates, place, run, now)
            if other is not None:
                run.rotated = True
                return Next(other, "key")
        if spent.targets < retry.MAX_TARGETS:
            wish = self._wish_of(candidates, envelope, body_bytes, key, now, ask)
            chosen = self._select(candidates, run, wish, now, None, _spared(candidates, run) if run.refused else None)
            if chosen is not None:
                return Next(chosen, "next")
        for place in run.places:
            other = self._other_lane(candidates, place, run, now)
            if other is not None:
                return Next(other, "key")
        for place, option in run.places.items():
            if option.lane.state(now) <= OPEN and candidates.has(option):
                delay_s = spent.again_after_s(place, now, self.registry.random)
                if delay_s is not None:
                    return Next(option, "same", delay_s)
        return None

    def order(
        self, candidates: Candidates, envelope: Envelope, body_bytes: int, key: CompiledKey, now: float, most: int
    ) -> list[PlaceOption]:
        """The first `most` places as they would be called if each failed in turn, past what a request is allowed too.

        For a `rehearsal`: it draws, takes probes and counts as requests do.
        """
        run = Run(now + candidates.total_s)
        ask = ask_of(candidates, envelope, key) if candidates.machines else None
        option = self.first(candidates, envelope, body_bytes, key, now, ask)
        while option is not None and len(run.places) < most:
            run.called(option)
            wish = self._wish_of(candidates, envelope, body_bytes, key, now, ask)
            option = self._select(candidates, run, wish, now, None)
        return [candidates.by_place[place] for place in run.places]

    def rival(
        self,
        candidates: Candidates,
        run: Run,
        envelope: Envelope,
        body_bytes: int,
        key: CompiledKey,
        now: float,
        ask: Ask | None = None,
    ) -> LaneOption | None:
        """A place to ask beside those in `run`, with nothing wrong with it; None: there is none, or no budget.

        It serves the model that is asked already: a late target has not failed, so nothing falls back yet.
        """
        budget, spent = candidates.hedge_budget, run.spent
        if budget is None or not spent.may_call(now) or spent.targets >= retry.MAX_TARGETS:
            return None
        wish = self._wish_of(candidates, envelope, body_bytes, key, now, ask)
        models = candidates.own_models | {option.model for option in run.places.values()}
        for group in candidates.groups:
            ready = [
                each
                for each in group.options
                if each.place not in run.places and each.model in models and self._lanes(each, now, READY)
            ]
            if ready:
                place = ready[group.pick(ready, wish, self.registry.random)]
                return self._by_weight(self._lanes(place, now, READY)) if budget.spend() else None
        return None

    def resumer(
        self,
        candidates: Candidates,
        run: Run,
        envelope: Envelope,
        body_bytes: int,
        key: CompiledKey,
        now: float,
        ask: Ask | None = None,
    ) -> LaneOption | None:
        """A place of the same model that can go on from text; None: none is left."""
        assert run.last is not None
        if not run.spent.may_call(now) or run.spent.targets >= retry.MAX_TARGETS:
            return None
        model, spared = run.last[0].model, _spared(candidates, run)
        wish = self._wish_of(candidates, envelope, body_bytes, key, now, ask)
        return self._select(
            candidates,
            run,
            wish,
            now,
            None,
            lambda each: (
                each.model == model and goes_on(envelope, each.lanes[0].target.assistant_prefix) and spared(each)
            ),
        )

    def _wish_of(
        self,
        candidates: Candidates,
        envelope: Envelope,
        body_bytes: int,
        key: CompiledKey,
        now: float,
        ask: Ask | None,
    ) -> Wish:
        wish = self._wish
        wish.ask = ask
        wish.stream = envelope.stream
        wish.size_class = size_class(body_bytes)
        wish.now = now
        wish.output_tokens = candidates.output_tokens
        split = candidates.route.split_by
        if split:
            wish.subject = key.id if split == "key" else envelope.user or key.id
        else:
            wish.subject = ""
        return wish

    def _select(
        self,
        candidates: Candidates,
        run: Run | None,
        wish: Wish,
        now: float,
        prefix: int | None,
        fits: Callable[[PlaceOption], bool] | None = None,
    ) -> LaneOption | None:
        """The general way: look at every lane; ready places first, then those with open breakers."""
        tried: Container[str] = run.places if run is not None else ()
        for group, usable, limit in self._pools(candidates, tried, now):
            fitting = usable if fits is None else [each for each in usable if fits(each)]
            if not fitting:
                continue
            if prefix is not None:
                place = self._sticky(candidates, group, fitting, wish, now, prefix)
            else:
                place = fitting[group.pick(fitting, wish, self.registry.random)]
            return self._begun(self._by_weight(self._lanes(place, now, limit)), now)
        return None

    def _pools(
        self, candidates: Candidates, tried: Container[str], now: float
    ) -> Iterator[tuple[Group, list[PlaceOption], int]]:
        """Of each group the places that can be called now, with how badly their lanes may stand; the best come first.

        None is empty.
        """
        for limit in (PROBE, OPEN):
            for group in candidates.groups:
                usable = [each for each in group.options if each.place not in tried and self._lanes(each, now, limit)]
                if usable:
                    yield group, usable, limit

    def _begun(self, option: LaneOption, now: float) -> LaneOption:
        if option.lane.troubled and self.registry.begin(option.lane, now):
            return option.as_probe()
        return option

    @staticmethod
    def _lanes(place: PlaceOption, now: float, limit: int) -> list[LaneOption]:
        """Those lanes of a place that stand no worse than `limit`."""
        return [each for each in place.lanes if not each.lane.troubled or each.lane.state(now) <= limit]

    def _other_lane(self, candidates: Candidates, place: str, run: Run, now: float) -> LaneOption | None:
        known = candidates.by_place.get(place)  # it may have left the configuration meanwhile
        if known is None:
            return None
        rest = [
            each
            for each in self._lanes(known, now, PROBE)
            if each not in run.lanes and run.spent.may_try(place, each.target.credential_id, now)
        ]
        return self._begun(self._by_weight(rest), now) if rest else None

    def _drawn(self, places: list[PlaceOption]) -> PlaceOption:
        """A place drawn by weight."""
        point = self.registry.random() * sum([each.weight for each in places])
        for each in places:
            point -= each.weight
            if point < 0:
                return each
        return places[-1]

    def _by_weight(self, lanes: "tuple[LaneOption, ...] | list[LaneOption]") -> LaneOption:
        """A lane drawn by its credential's weight."""
        if len(lanes) == 1:
            return lanes[0]
        point = self.registry.random() * sum([each.target.credential_weight for each in lanes])
        for each in lanes:
            point -= each.target.credential_weight
            if point < 0:
                return each
        return lanes[-1]

    # --- prompt prefixes

    def _prefix(self, candidates: Candidates, envelope: Envelope, key: CompiledKey) -> int | None:
        if candidates.affinity is None:
            return None
        return prefix_of(key.project_id, candidates.model, _prompt(envelope))

    def _sticky(
        self,
        candidates: Candidates,
        group: Group,
        options: list[PlaceOption],
        wish: Wish,
        now: float,
        prefix: int | None,
    ) -> PlaceOption:
        """The place that had this prompt's beginning before, if staying is worth its price; else the strategy's."""
        assert candidates.affinity is not None
        warm = self.registry.prefixes.find(prefix, now) if prefix is not None else None
        if warm is not None:
            for index, option in enumerate(options):
                if option.place == warm:
                    if stays(group.strategy, options, index, wish, candidates.affinity.tolerance)[0]:
                        return option
                    break
        return options[group.pick(options, wish, self.registry.random)]

    def kept(self, candidates: Candidates, envelope: Envelope, body_bytes: int, key: CompiledKey, now: float) -> str:
        """Where affinity would have the request, and whether it goes there, in words; empty: nothing is remembered."""
        affinity, prefix = candidates.affinity, self._prefix(candidates, envelope, key)
        if affinity is None or prefix is None:
            return ""
        there = candidates.by_place.get(self.registry.prefixes.find(prefix, now) or "")
        if there is None:
            return ""
        pools = list(self._pools(candidates, (), now))
        stays_there, why = False, "it cannot be called now"
        if pools and there in pools[0][1]:
            ask = ask_of(candidates, envelope, key) if candidates.machines else None
            wish = self._wish_of(candidates, envelope, body_bytes, key, now, ask)
            group, usable, _ = pools[0]
            stays_there, why = stays(group.strategy, usable, usable.index(there), wish, affinity.tolerance)
        elif any(there in usable for _, usable, _ in pools):
            why = "others come before it now"
        return f"{there.name} had this beginning: {'stays' if stays_there else 'goes'}, {why}"

    def answered(
        self, candidates: Candidates, option: LaneOption, envelope: Envelope, key: CompiledKey, now: float
    ) -> None:
        """A request with affinity was answered there: the next one with its beginning goes there too."""
        affinity = candidates.affinity
        if affinity is not None:
            prefix = prefix_of(key.project_id, candidates.model, _prompt(envelope))
            self.registry.prefixes.used(prefix, option.place, now, affinity.window_s)

    # --- what is told

    def refresh(self, candidates: Candidates, now: float) -> None:
        """Expected costs as they are now, and the plan that records refer to."""
        candidates.stale_at = now + REFRESH_S
        mix = candidates.mix
        for group in candidates.groups:
            for option in group.options:
                option.cost = mix.expected_cost_nanousd(option.lanes[0].target.price)
        if candidates.version != self.registry.version:
            candidates.version = self.registry.version
            states = [option.lane.state(now) for place in candidates.by_place.values() for option in place.lanes]
            if states != candidates.states:  # not some other kind's lane
                candidates.look(states)
                candidates.retold_at = min(candidates.retold_at, candidates.tells_at)
        first = candidates.group
        if first is not None and candidates.affinity is None and not candidates.route.split_by:
            first.leaders = [first.present[index] for index in leading(first.strategy, first.present)]
            first.even = len({each.weight for each in first.leaders}) == 1 < len(first.leaders)
        candidates.output_tokens = mix.mean_request().output_tokens
        if now >= candidates.retold_at:
            self._tell(candidates, now)

    def _tell(self, candidates: Candidates, now: float) -> None:
        """Write the plan down; a fleet's, whose machines come and go all day, for at most `TELL_SHARE` of the time."""
        began_at = self.registry.clock()
        line = explain.plan_line(candidates, now)
        candidates.plan = line.id
        self.on_plan(line)  # also when it is the one of before: so it is kept as long as records refer to it
        took_s = self.registry.clock() - began_at
        candidates.retold_at = now + RETELL_S
        candidates.tells_at = now + (took_s / TELL_SHARE if took_s > LONG_TELL_S else 0.0)

    def none_left(self, candidates: Candidates, envelope: Envelope, now: float) -> RequestError:
        """Why `first` found nothing: 400 when the model never could, 429 when all are parked, else 503 with reasons."""
        places = candidates.places
        if not places:
            does = [target for target, _, _ in candidates.left_out if target is not None]
            if does and all(envelope.capability not in target.heads for target in does):
                message = f"the model {envelope.model!r} does not serve {envelope.capability}"
                return RequestError("invalid_request", message, param="model")
            reasons = dict.fromkeys(
                f"{name}: {filters.told(target, reason)}" for target, name, reason in candidates.left_out
            )
            why = "; ".join(reasons) or "the model has none"
            return RequestError("no_target_available", f"no target can serve this request ({why})", retry_after_s=inf)
        lanes = [option.lane for place in places for option in place.lanes]
        why = "; ".join(dict.fromkeys(f"{lane.target}: {lane.reason(now)}" for lane in lanes))
        wait_s = min(lane.barred_s(now) for lane in lanes)
        if all(lane.state(now) == PARKED for lane in lanes):
            message = f"every allowed target has refused for rate and is given a rest ({why})"
            return RequestError("upstream_rate_limited", message, retry_after_s=wait_s)
        return RequestError("no_target_available", f"no target can serve this request ({why})", retry_after_s=wait_s)

    def parked_waits(self, candidates: Candidates, now: float) -> list[float] | None:
        """How long all lanes stay parked, in seconds; None: some are not parked at all."""
        waits = []
        for place in candidates.places:
            for option in place.lanes:
                if option.lane.state(now) != PARKED:
                    return None
                waits.append(round(option.lane.parking.until - now, 3))  # 7.0000001 is not eight
        return waits


def _spared(candidates: Candidates, run: Run) -> Callable[[PlaceOption], bool]:
    """What refusals leave to be tried: nothing on nodes that refused, and after the last one nothing of their tiers."""
    nodes = {option.target.provider_id for option in run.refused}
    tiers: set[tuple[int, int]] = set()
    tier_of: dict[str, tuple[int, int]] = {}
    if run.spent.refusals >= retry.MAX_REFUSALS:
        for number, group in enumerate(candidates.groups):
            tier_of.update((each.place, (number, each.priority)) for each in group.options)
        tiers = {tier_of[option.place] for option in run.refused if option.place in tier_of}

    def fits(each: PlaceOption) -> bool:
        target = each.lanes[0].target
        return target.node is None or (target.provider_id not in nodes and tier_of.get(each.place) not in tiers)

    return fits


def _routed_by(controls: Controls) -> tuple[object, ...] | None:
    """What of the controls decides on candidates; None: nothing does."""
    said = (controls.route, controls.prefer, controls.only, controls.ignore, controls.max_price, controls.data_class)
    return None if said == _NOTHING_SAID else said


def ask_of(candidates: Candidates, envelope: Envelope, key: CompiledKey) -> Ask:
    """What a request asks of a machine, where some may serve it: made once, and given to whatever chooses for it."""
    members = envelope.members
    output_tokens = 0 if envelope.capability == "embeddings" else candidates.mix.mean_request().output_tokens
    if envelope.max_output_tokens is not None:
        output_tokens = min(output_tokens, envelope.max_output_tokens)
    tools = members.get("tools")
    for name in _PROMPTS:
        if name in members:
            blocks = blocks_of((key.project_id, None if tools is None else bytes(tools)), memoryview(members[name]))
            break
    else:
        blocks = ()
    return Ask(estimate_usage(prompt_bytes(envelope), 0).input_tokens, output_tokens * envelope.n, blocks)


def _prompt(envelope: Envelope) -> bytes:
    members = envelope.members
    for name in _PROMPTS:
        if name in members:
            return bytes(memoryview(members[name])[:PREFIX_BYTES])
    return b""
