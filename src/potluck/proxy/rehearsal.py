"""What a request would meet now, found out without sending it: the real router, run on a copy of its live state.

Rule: nothing that happens here is seen by requests. What a router may change (lanes in trouble and their keys, a
route's spare calls) is copied when it is first asked for; what it only reads (lanes that are simply ready, latencies,
calls in flight, token mixes) is the live object.
"""

import time
from copy import deepcopy
from typing import Any

import msgspec

from potluck.model.resources import Capability, Hedge
from potluck.model.snapshot import CompiledKey, CompiledTarget
from potluck.policy import retry
from potluck.policy.hedging import HedgeBudget
from potluck.policy.latency import size_class
from potluck.policy.machines import Machine
from potluck.policy.mix import DEFAULT_REQUEST, TokenMix
from potluck.policy.selection import Wish
from potluck.policy.standing import Standing
from potluck.proxy.candidates import Candidates, PlaceOption
from potluck.proxy.explain import Plan, PlannedTarget, plan_of
from potluck.proxy.registry import Lane, Registry
from potluck.proxy.routing import Router, ask_of
from potluck.wire.dialects.envelope import Envelope, decode_envelope
from potluck.wire.errors import RequestError

MAX_ORDER = 50
"""targets whose place in the order is told: each costs a look at all of them, and a request calls three"""


class Refusal(msgspec.Struct, frozen=True):
    """The error that the request would get before any upstream is called."""

    status: int
    code: str
    message: str


class Mix(msgspec.Struct, frozen=True):
    """The request that expected costs are of: the mean one of the key's project, in tokens."""

    input_tokens: int
    """the cached ones included"""
    cached_input_tokens: int
    output_tokens: int
    measured: bool
    """false: the project has sent too little to tell, and a usual request is assumed"""


class Explanation(msgspec.Struct, frozen=True):
    """What would become of a request that came now."""

    key: str
    """name of the API key that it would come with"""
    project: str
    model: str | None
    """as the request names it"""
    route: str | None
    """the rule that it follows; `default`: none matches"""
    order: list[str]
    """targets as they would be called if each failed in turn, `MAX_ORDER` at most; what is drawn was drawn once"""
    max_targets: int
    """of the order, what one request calls at most"""
    max_calls: int
    """upstream calls of one request at most, the repeated ones included"""
    affinity: str
    """where the prompt's beginning was seen last, and whether the request goes there; empty: nowhere"""
    mix: Mix | None
    refused: Refusal | None
    plan: Plan | None
    """each target in or out, in the order of `order`; null when no rule was reached"""


class Rehearsal(Registry):
    """A registry's state, copied as far as it is asked for."""

    def __init__(self, live: Registry) -> None:
        super().__init__(live.random)
        self.prefixes = live.prefixes
        """looking at it forgets what has expired, and nothing else"""
        self.away = live.away
        self._live = live
        self._copies: dict[int, Any] = {}
        """lanes of one credential share its health in the copy too"""

    def lane(self, target: CompiledTarget) -> Lane:
        """The target's lane as it stands there, ours from now on."""
        name = (target.place, target.credential_id)
        if name not in self.lanes:
            key = self._live.keys.get(target.credential_id or "")
            if key is not None and target.credential_id is not None:
                self.keys[target.credential_id] = deepcopy(key, self._copies)
            known = self._live.lanes.get(name)
            if known is not None:
                lane = self.lanes[name] = deepcopy(known, self._copies) if known.troubled else known
                if known in self._live.impaired:
                    self.impaired.add(lane)
        return super().lane(target)

    def standing(self, place: str) -> Standing:
        return self._live.standings.get(place) or Standing()

    def machine(self, place: str) -> Machine:
        return self._live.machine(place)

    def mix(self, project_id: str) -> TokenMix:
        return self._live.mixes.get(project_id) or TokenMix(time.monotonic())

    def hedge_budget(self, route_id: str, hedge: Hedge) -> HedgeBudget:  # noqa: ARG002 — nothing is spent here
        return HedgeBudget(hedge.max_extra)


def rehearse(live: Router, key: CompiledKey, endpoint: Capability, body: bytes) -> Explanation:
    """What a request with this key and body would meet. Runs on the router's loop; raises nothing."""
    router = Router(live.snapshots, Rehearsal(live.registry), lambda _: None)
    now = time.monotonic()
    try:
        envelope = decode_envelope(endpoint, body)
    except RequestError as error:
        return _explanation(key, refused=error)
    try:
        candidates = router.candidates(key, envelope)
    except RequestError as error:
        return _explanation(key, model=envelope.model, refused=error)
    router.refresh(candidates, now)
    plan = plan_of(candidates, _wish(candidates, envelope, body, key, now), now)
    affinity = router.kept(candidates, envelope, len(body), key, now)
    places = router.order(candidates, envelope, len(body), key, now, MAX_ORDER)
    mean = candidates.mix.mean_request()
    mix = Mix(mean.input_tokens, mean.cached_input_tokens, mean.output_tokens, mean is not DEFAULT_REQUEST)
    return _explanation(
        key,
        model=envelope.model,
        route=candidates.route.name,
        order=[place.name for place in places],
        affinity=affinity,
        mix=mix,
        refused=None if places else router.none_left(candidates, envelope, now),
        plan=msgspec.structs.replace(plan, targets=_in_order(plan.targets, places)),
    )


def _explanation(key: CompiledKey, refused: RequestError | None, **known: Any) -> Explanation:
    said = {"model": None, "route": None, "order": [], "affinity": "", "mix": None, "plan": None} | known
    refusal = None if refused is None else Refusal(refused.status, refused.code, refused.message)
    return Explanation(
        key=key.name,
        project=key.project,
        refused=refusal,
        max_targets=retry.MAX_TARGETS,
        max_calls=retry.MAX_CALLS,
        **said,
    )


def _wish(candidates: Candidates, envelope: Envelope, body: bytes, key: CompiledKey, now: float) -> Wish:
    ask = ask_of(candidates, envelope, key) if candidates.machines else None
    return Wish(envelope.stream, size_class(len(body)), candidates.output_tokens, now=now, ask=ask)


def _in_order(targets: list[PlannedTarget], places: list[PlaceOption]) -> list[PlannedTarget]:
    """First those that would be called, as they come, the likeliest key of each first; then those left out."""
    rank = {place.name: index for index, place in enumerate(places)}
    weights = {
        (option.target.name, option.target.credential): option.target.credential_weight
        for place in places
        for option in place.lanes
    }

    def key(each: PlannedTarget) -> tuple[bool, int, bool, int]:
        unused = each.state in ("parked", "dead")
        return (
            not each.is_in,
            rank.get(each.target, len(rank)),
            unused,
            -weights.get((each.target, each.credential), 0),
        )

    return sorted(targets, key=key)
