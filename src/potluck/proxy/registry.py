"""What is known about targets right now: breakers, parked and dead keys, latencies, calls in flight. No configuration.

Rules
- It outlives snapshots: state hangs on the *place* (endpoint and upstream model) and the credential, so the same target
  under two models has one health, and one that moved to another address starts anew.
- A *lane* is a place by one credential. 5xx, cuts and time-outs open the lane's breaker; 429 parks the lane (the key,
  not the provider); 403 kills the lane; 401 and 402 kill the key, for all its lanes.
- A lane on a node is *away* while the hub says that no call can go there; nothing is held against it for that.
- `version` rises whenever a lane becomes ready or ceases to be: who has looked at lanes need not look before that.
- Only a breaker is ever passed over as the last way out; a parked or dead key, and a node that is away, would refuse
  for certain.
- What is known of a machine follows its node's stored offer (`offered`), and goes with the node (`gone`).

Long since lanes, places, keys and machines hang together: to drop or to clear one of them touches the others.
"""

import logging
import random
import time
from collections.abc import Callable, Collection, Container, Iterable
from typing import Literal
from weakref import WeakValueDictionary

import msgspec

from potluck.model.resources import Hedge
from potluck.model.snapshot import CompiledTarget, Snapshot
from potluck.policy.affinity import PrefixIndex
from potluck.policy.breaker import Breaker, BreakerView
from potluck.policy.credentials import KeyHealth, Parking, kills_whole_key
from potluck.policy.hedging import HedgeBudget
from potluck.policy.machine_groups import Host, Peers
from potluck.policy.machines import Machine
from potluck.policy.mix import TokenMix
from potluck.policy.objections import Objections
from potluck.policy.standing import Standing
from potluck.ports import Failure

log = logging.getLogger("potluck.routing")

READY, PROBE, OPEN, PARKED, DEAD, AWAY = range(6)
"""how a lane stands: free to use, free for one probe, not before others, and not at all (the last three)"""

STATES = ("closed", "half_open", "open", "parked", "dead", "away")
State = Literal["closed", "half_open", "open", "parked", "dead", "away"]

NOT_CONNECTED = "not connected"
"""why a node is away of which nothing was told yet"""
ENGINE_SILENT = "its engine does not answer"
AWAY_RETRY_S = 5.0
"""when it is worth asking again for a node that is away: a lost link is back within about that, or not soon"""

TICK_S = 1.0
MAX_PLACES = 50_000
"""lanes remembered; beyond it, those that the configuration no longer has are forgotten"""


class Lane:
    """A place by one credential."""

    __slots__ = (
        "away",
        "breaker",
        "credential",
        "credential_id",
        "held",
        "key",
        "mark",
        "node_id",
        "objections",
        "opened",
        "parking",
        "place",
        "probed",
        "probes",
        "refused",
        "target",
        "troubled",
    )

    def __init__(self, target: CompiledTarget, key: KeyHealth, now: float) -> None:
        self.place = target.place
        self.target = target.name
        self.credential_id = target.credential_id
        self.credential = target.credential
        self.breaker = Breaker(now)
        self.opened = 0
        """how often the breaker opened, ever"""
        self.parking = Parking()
        self.mark = 0
        """tells one secret of the credential from the next; not a secret"""
        self.key = key
        """shared with the credential's other lanes"""
        self.refused = KeyHealth()
        """this place refused the key (403)"""
        self.probes = 0
        """probes that it has had: the number of the last one"""
        self.probed: tuple[KeyHealth | Breaker, ...] = ()
        """what that one is to tell about"""
        self.node_id = "" if target.node is None else target.node.node_id
        """where it is on a node"""
        self.objections = Objections()
        """what that node said of its callers"""
        self.away = ""
        """why no call can go to that node now, in words"""
        self.held = False
        """something is held against the lane, so that the next success has to be told"""
        self.troubled = False
        """it has to be looked at before it is used: something is held against it, or its node is away"""

    def state(self, now: float) -> int:
        """READY, PROBE, OPEN, PARKED, DEAD or AWAY."""
        if self.away:
            return AWAY
        dead = self.key.dead or self.refused.dead
        if dead and not (self.key.ready(now) and self.refused.ready(now)):
            return DEAD
        if self.parking.parked(now):
            return PARKED
        if not self.breaker.ready(now):
            return OPEN
        return READY if self.breaker.state == "closed" and not dead else PROBE

    def retry_in_s(self, now: float) -> float:
        """When it is worth asking again; 0: now."""
        opens = self.breaker.retry_at if self.breaker.state != "closed" else 0.0
        return max(self.barred_s(now), opens - now)

    def barred_s(self, now: float) -> float:
        """For how long no call may go, even as the last way out; 0: one may now."""
        dead = [health.retry_at for health in (self.key, self.refused) if health.dead]
        return max(AWAY_RETRY_S if self.away else 0.0, max([*dead, self.parking.until]) - now)

    def reason(self, now: float, *, lasting: bool = False) -> str:
        """Why it is not simply ready, in words; empty: it is. Callers may read it: it names no credential.

        `lasting`: without times and counts, so that it stays the same for as long as the same is the matter.
        """
        if self.away:
            return f"away: {self.away}"
        for health in (self.key, self.refused):
            if health.dead:
                return f"its credential is dead: {health.detail}"
        if self.parking.parked(now):
            more = "" if lasting else f" for {self.parking.until - now:.0f} s more"
            return f"parked{more}: {self.parking.detail}"
        if self.breaker.state != "closed":
            why = self.breaker.detail if lasting else self.breaker.reason
            return f"breaker {self.breaker.state.replace('_', '-')}: {why}"
        return ""


class LaneView(msgspec.Struct, frozen=True):
    """One lane for people and metrics."""

    target: str
    credential_id: str | None
    credential: str
    state: State
    reason: str
    retry_in_s: float
    breaker: BreakerView
    in_flight: int
    first_token_ms: float | None
    p95_first_token_ms: float | None
    ms_per_token: float | None
    samples: int


class Registry:
    """All lanes and places that were ever used. Lives on one event loop."""

    def __init__(
        self, uniform: Callable[[], float] = random.random, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.random = uniform
        self.clock = clock
        """monotonic seconds, for what is not told the time"""
        self.lanes: dict[tuple[str, str | None], Lane] = {}
        self.standings: dict[str, Standing] = {}
        self.peers: WeakValueDictionary[str, Peers] = WeakValueDictionary()
        """of machines, by the model that they serve; there for as long as one of them is"""
        self.hosts: dict[str, Host] = {}
        """what an engine's models have in common, by the id of its node and its own"""
        self.keys: dict[str, KeyHealth] = {}
        """by credential id"""
        self.mixes: dict[str, TokenMix] = {}
        """by project id"""
        self._key_probes: dict[str, Lane] = {}
        """the lane over which a credential was probed last"""
        self.hedges: dict[str, HedgeBudget] = {}
        """by route id"""
        self.prefixes = PrefixIndex()
        self.impaired: set[Lane] = set()
        """lanes that are not simply ready"""
        self.version = 0
        """rises whenever a lane becomes ready or ceases to be"""
        self.on_notice: Callable[[str, Lane, str], None] | None = None
        """told of `target_down`, `target_up`, `credential_dead`, `credential_alive`, with the lane and the reason"""
        self._ticked_at = 0.0
        self.away: dict[str, str] = {}
        """why a node takes no calls, by id; empty: it does. One that is not here is not connected"""
        self.silent: dict[str, frozenset[str]] = {}
        """engines that do not answer their node, by its id"""
        self._on_node: dict[str, list[Lane]] = {}
        """lanes by the id of their node"""
        self._machines: dict[str, set[str]] = {}
        """places with a machine, by the id of their node"""
        self._known_in: tuple[Snapshot | None, set[tuple[str, str | None]]] = (None, set())
        """a snapshot, and the lanes that it has"""

    # --- where state is found

    def lane(self, target: CompiledTarget) -> Lane:
        """The target's lane, made when it is first asked for."""
        name = (target.place, target.credential_id)
        lane = self.lanes.get(name)
        if lane is None:
            key = KeyHealth()
            if target.credential_id is not None:
                key = self.keys.setdefault(target.credential_id, key)
            lane = self.lanes[name] = Lane(target, key, self.clock())
            if lane.node_id:
                lane.away = self._away_of(lane)
                self._on_node.setdefault(lane.node_id, []).append(lane)
            if key.dead or lane.away:
                self._review(lane, self.clock())
        lane.credential = target.credential
        mark = _mark(target) or lane.mark
        if lane.mark not in (0, mark):
            self._exchanged(lane.key, mark)
        lane.mark = mark
        return lane

    def _exchanged(self, key: KeyHealth, mark: int) -> None:
        """The secret was exchanged in place: what was held against the old one says nothing about the new one."""
        key.clear()
        for lane in self.lanes.values():
            if lane.key is key:
                lane.refused.clear()
                lane.parking.clear()
                lane.mark = mark
                self._review(lane, self.clock())

    def standing(self, place: str) -> Standing:
        """The live numbers of a place."""
        standing = self.standings.get(place)
        if standing is None:
            standing = self.standings[place] = Standing()
        return standing

    def machine(self, place: str) -> Machine:
        """The live estimate of a place on a node (`model.node.place_of`)."""
        standing = self.standing(place)
        if standing.machine is None:
            peers = self.peers.setdefault(_model_at(place), Peers())
            standing.machine = Machine(peers, self.hosts.setdefault(_host_at(place), Host()))
            self._machines.setdefault(_node_at(place), set()).add(place)
        return standing.machine

    def mix(self, project_id: str) -> TokenMix:
        """What a project's requests are like."""
        mix = self.mixes.get(project_id)
        if mix is None:
            mix = self.mixes[project_id] = TokenMix(self.clock())
        return mix

    def hedge_budget(self, route_id: str, hedge: Hedge) -> HedgeBudget:
        """The extra calls that a route may still make."""
        budget = self.hedges.get(route_id)
        if budget is None or budget.max_extra != hedge.max_extra:
            budget = self.hedges[route_id] = HedgeBudget(hedge.max_extra)
        return budget

    # --- what happens to a lane

    def set_away(self, node_id: str, reason: str) -> None:
        """Calls can go to the node from now on (empty), or not, for a reason in words: `paused: …`, `not connected`."""
        self.away[node_id] = reason
        self._renew_away(node_id)

    def set_silent(self, node_id: str, engines: frozenset[str]) -> None:
        """These engines of the node, by id, do not answer it: places on them are away, those on others are not."""
        if engines != self.silent.get(node_id, frozenset()):
            self.silent[node_id] = engines
            self._renew_away(node_id)

    def _renew_away(self, node_id: str) -> None:
        now = self.clock()
        for lane in self._on_node.get(node_id, ()):
            lane.away = self._away_of(lane)
            self._review(lane, now)

    def _away_of(self, lane: Lane) -> str:
        silent = _host_at(lane.place).partition(" ")[2] in self.silent.get(lane.node_id, ())
        return self.away.get(lane.node_id, NOT_CONNECTED) or (ENGINE_SILENT if silent else "")

    def begin(self, lane: Lane, now: float) -> bool:
        """A call goes out over a troubled lane. True: it is the lane's probe, its key's, or both."""
        parts: list[KeyHealth | Breaker] = [each for each in (lane.key, lane.refused) if each.dead and each.ready(now)]
        if lane.breaker.state != "closed" and lane.breaker.ready(now):
            parts.append(lane.breaker)
        if not parts:
            return False
        for part in parts:
            part.begin_probe(now)
        if lane.key in parts and lane.credential_id is not None:
            self._key_probes[lane.credential_id] = lane
        lane.probed = tuple(parts)
        lane.probes += 1
        return True

    def abandoned(self, lane: Lane) -> None:
        """The lane's last probe ended without a word on it (the caller left, another answered first)."""
        for part in lane.probed:
            # the key may have been probed over another lane since, or this one's breaker only
            if part is not lane.key or self._key_probes.get(lane.credential_id or "", lane) is lane:
                part.probe_abandoned()

    def succeeded(self, lane: Lane, now: float, begun_at: float, *, probe: bool = False) -> None:
        """A troubled lane answered a call begun at `begun_at`: what was held against it before that is forgotten.

        A long stream from before an outage says nothing about its end. `probe`: `begin` said that the call was one.
        """
        was_dead, was_open = lane.key.dead or lane.refused.dead, lane.breaker.state != "closed"
        if begun_at < max(lane.breaker.opened_at, lane.key.since, lane.refused.since):
            if probe:
                self.abandoned(lane)  # it began as one, and something else came up meanwhile
            return
        lane.breaker.succeeded(now)
        lane.parking.succeeded()
        if was_dead:
            lane.key.succeeded()
            lane.refused.succeeded()
        self._review(lane, now)
        if was_dead:
            self._notice("credential_alive", lane, "it is taken again")
        elif was_open:
            self._notice("target_up", lane, "it answers again")

    def failed(
        self, lane: Lane, failure: Failure, now: float, target: CompiledTarget | None = None, *, probe: bool = True
    ) -> None:
        """A call over the lane ended badly. `target`: as it was called; its secret may have been exchanged since.

        `probe`: `begin` said that the call was one. The end of another call does not end the probe that runs.
        """
        error_class, detail = failure.error_class, failure.detail
        if error_class in ("target_down", "target_slow"):
            if lane.breaker.failed(now, error_class, detail, self.random):
                lane.opened += 1
                self._notice("target_down", lane, lane.breaker.reason)
        elif error_class in ("key_dead", "key_limited") and target is not None and _mark(target) != lane.mark:
            pass  # the old secret is refused, as it should be
        elif error_class == "key_dead":
            whole = kills_whole_key(failure.status) and lane.credential_id is not None
            if (lane.key if whole else lane.refused).died(now, detail):
                self._notice("credential_dead", lane, detail)
                if whole:
                    for other in self.lanes.values():  # it happens once, and all its lanes have to know
                        if other.key is lane.key:
                            self._review(other, now)
        elif error_class == "key_limited":
            lane.parking.park(now, failure.retry_after_s, detail)
        if probe:
            self.abandoned(lane)  # what it said nothing about may be probed by the next one
        self._review(lane, now)

    def _review(self, lane: Lane, now: float) -> None:
        """Note whether the lane is simply ready, and whether anything is held against it at all."""
        lane.held = bool(
            lane.breaker.troubled or lane.parking.row or lane.parking.parked(now) or lane.key.dead or lane.refused.dead
        )
        lane.troubled = lane.held or lane.away != ""
        if self.lanes.get((lane.place, lane.credential_id)) is not lane:
            return  # forgotten while this call ran
        if (lane.state(now) == READY) == (lane in self.impaired):
            self.version += 1
            self.impaired ^= {lane}

    def clear(
        self, target: str | None = None, credential: str | None = None, among: Container[Lane] | None = None
    ) -> int:
        """Forget, by hand, what is held against lanes; returns against how many something was.

        `target`: its name (`openai/gpt-4o-mini`) or None for all; `credential`: its name or id; `among`: no others.
        """
        now, cleared = self.clock(), 0
        for lane in self.lanes.values():
            if not lane.held or (target is not None and lane.target != target):
                continue
            if credential is not None and credential not in (lane.credential, lane.credential_id):
                continue
            if among is not None and lane not in among:
                continue
            lane.breaker.clear(now)
            lane.parking.clear()
            lane.key.clear()
            lane.refused.clear()
            cleared += 1
        for lane in self.lanes.values():
            self._review(lane, now)
        return cleared

    def sweep(self, now: float) -> None:
        """Let what is past be forgotten; called ten times a second, works once in one."""
        if now - self._ticked_at < TICK_S:
            return
        self._ticked_at = now
        for lane in self.lanes.values():
            lane.breaker.tick(now)
            if lane.held:  # what is only away comes back by being told of
                self._review(lane, now)
        for mix in self.mixes.values():
            mix.tick(now)

    def forget(self, snapshot: Snapshot) -> None:
        """Drop lanes that the configuration no longer has, where some lane is in trouble or there are too many.

        Nobody would call such a lane again, so that its trouble would never end. A node that is gone takes its along.
        """
        for node_id in [node_id for node_id in self.away if node_id not in snapshot.nodes]:
            self.gone(node_id)
        few = max(len(self.lanes), len(self.standings)) <= MAX_PLACES
        if few and not any(lane.held for lane in self.impaired):
            return
        names = self._names_in(snapshot)
        self._drop([lane for name, lane in self.lanes.items() if name not in names])
        places = {place for place, _ in names}
        for place in [place for place, standing in self.standings.items() if not standing.in_flight]:
            if place not in places:
                self._drop_standing(place)

    def offered(self, node_id: str, places: Collection[str]) -> None:
        """A node offers these and nothing else: what was known of other models there is dropped."""
        for place in [place for place in self._machines.get(node_id, ()) if place not in places]:
            if not self.standings[place].in_flight:
                self._drop_standing(place)

    def restarted(self, node_id: str) -> None:
        """Nothing is in a node's memory, until it says so again."""
        for place in self._machines.get(node_id, ()):
            machine = self.standings[place].machine
            if machine is not None:
                machine.unload()

    def gone(self, node_id: str) -> None:
        """A node will not come back: nothing of it stays but what calls hold that still run."""
        self.away.pop(node_id, None)
        self.silent.pop(node_id, None)
        self._drop(self._on_node.pop(node_id, []))
        for place in list(self._machines.get(node_id, ())):
            self._drop_standing(place)

    def _drop(self, lanes: list[Lane]) -> None:
        for lane in lanes:
            self.impaired.discard(self.lanes.pop((lane.place, lane.credential_id)))
            if lane.node_id in self._on_node:
                self._on_node[lane.node_id].remove(lane)

    def _drop_standing(self, place: str) -> None:
        if self.standings.pop(place).machine is None:
            return
        node_id = _node_at(place)
        left = self._machines[node_id]
        left.discard(place)
        if not any(_host_at(each) == _host_at(place) for each in left):
            self.hosts.pop(_host_at(place), None)
        if not left:
            del self._machines[node_id]

    def _names_in(self, snapshot: Snapshot) -> set[tuple[str, str | None]]:
        """Place and credential of every lane that the configuration has."""
        known_in, names = self._known_in
        if known_in is not snapshot:
            models = [*snapshot.models.values(), *snapshot.pins.values()]
            names = {(target.place, target.credential_id) for model in models for target in model.targets}
            self._known_in = snapshot, names
        return names

    def _notice(self, event: str, lane: Lane, reason: str) -> None:
        by = f" by credential {lane.credential!r}" if lane.credential else ""
        if event in ("target_down", "credential_dead"):
            log.warning("%s: %s%s is set aside: %s", event, lane.target, by, reason)
        else:
            log.info("%s: %s%s is back: %s", event, lane.target, by, reason)
        if self.on_notice is not None:
            self.on_notice(event, lane, reason)

    # --- looking

    def lanes_of(self, snapshot: Snapshot) -> list[Lane]:
        """Those lanes that the configuration still has, the troubled ones first. Any thread may ask."""
        names = self._names_in(snapshot)
        return _sorted(lane for lane in list(self.lanes.values()) if (lane.place, lane.credential_id) in names)

    def view(self, now: float | None = None, lanes: Iterable[Lane] | None = None) -> list[LaneView]:
        """Every lane (or those), the troubled ones first."""
        now = self.clock() if now is None else now
        return [self._view(lane, now) for lane in _sorted(self.lanes.values() if lanes is None else lanes)]

    def _view(self, lane: Lane, now: float) -> LaneView:
        standing = self.standing(lane.place)
        latency = standing.latency
        return LaneView(
            target=lane.target,
            credential_id=lane.credential_id,
            credential=lane.credential,
            state=STATES[lane.state(now)],  # type: ignore[arg-type]
            reason=lane.reason(now),
            retry_in_s=round(lane.retry_in_s(now), 3),
            breaker=lane.breaker.view(now),
            in_flight=standing.in_flight,
            first_token_ms=latency.expected_ms(True, 0, 0),
            p95_first_token_ms=latency.p95_ms(stream=True),
            ms_per_token=latency.ms_per_token or None,
            samples=sum([each.samples for each in (*latency.first_token, *latency.whole)]),
        )


def _sorted(lanes: Iterable[Lane]) -> list[Lane]:
    return sorted(lanes, key=lambda lane: (not lane.troubled, lane.target, lane.credential))


def _node_at(place: str) -> str:
    """The id of its node."""
    return place.partition(" ")[0]


def _host_at(place: str) -> str:
    """Its node and engine."""
    return place.rpartition(" ")[0]


def _model_at(place: str) -> str:
    """The model of a place on a node: its name has no spaces, nor have those before it."""
    return place.rpartition(" ")[2]


def _mark(target: CompiledTarget) -> int:
    """Tells one secret of a credential from the next; 0: the target has no head that would show it."""
    head = next(iter(target.heads.values()), None)
    return hash(dict(head.headers).get("authorization", "")) if head is not None else 0
