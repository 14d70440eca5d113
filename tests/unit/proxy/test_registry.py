"""How lanes stand, from the calls over them: every transition, by a clock that the test turns."""

import pytest
from route_rig import World, api_key, failure, target

from potluck.model.resources import Hedge
from potluck.policy.breaker import FIRST_OPEN_S, MAX_OPEN_S, PROBE_LOST_S
from potluck.policy.credentials import PROBE_EVERY_S
from potluck.policy.retry import JITTER_MAX
from potluck.proxy import registry
from potluck.proxy.registry import DEAD, OPEN, PARKED, PROBE, READY, Lane

A, B = target("a/m"), target("b/m")
MINI, MAXI = target("p/mini"), target("p/maxi")
"""two places behind one credential"""
DOWN = failure("target_down", phase="connect")
LIMITED = failure("key_limited", retry_after_s=30.0)
KEY_REFUSED, MODEL_REFUSED = failure("key_dead", status=401), failure("key_dead", status=403)
NO_WORD = [failure("caller_fault", status=400), failure("policy"), failure("client_closed")]


def world(*targets) -> World:
    made = World(*targets)
    for each in targets:
        made.lane(each)
    return made


def fails(made: World, lane: Lane, what, *, probe: bool = False) -> None:
    made.registry.failed(lane, what, made.now, probe=probe)


def consistent(made: World) -> None:
    """`impaired` holds what is not simply ready, and each lane with anything against it is troubled."""
    for lane in made.registry.lanes.values():
        ready = lane.state(made.now) == READY
        assert lane.troubled or ready
        assert (lane in made.registry.impaired) == (not ready)


# -------------------------------------------------------------------------------------------------- open, probed, back


def test_a_breaker_opens_is_probed_and_closes() -> None:
    """READY → OPEN → PROBE → READY, told and counted; after it nothing is held against the lane."""
    made = world(A, B)
    lane = made.lane(A)
    for _ in range(4):
        fails(made, lane, DOWN)
        assert (lane.state(made.now), lane.troubled) == (READY, True)
        consistent(made)
    version = made.registry.version
    fails(made, lane, DOWN)
    assert lane.state(made.now) == OPEN
    assert made.registry.version > version
    assert lane.opened == 1
    assert lane.reason(made.now).startswith("breaker open: 5 failures in a row")
    consistent(made)
    made.passes(FIRST_OPEN_S * JITTER_MAX)
    assert lane.state(made.now) == PROBE
    assert made.registry.begin(lane, made.now) is True
    assert lane.state(made.now) == OPEN
    assert made.registry.begin(lane, made.now) is False
    made.succeeds(lane)
    assert (lane.state(made.now), lane.troubled, made.registry.impaired) == (READY, False, set())
    assert made.notices == [("target_down", "a/m"), ("target_up", "a/m")]


def test_a_failed_probe_opens_for_longer() -> None:
    """Twice as long each time, up to the longest."""
    made = world(A)
    lane = made.lane(A)
    made.opens(lane)
    waits = []
    for _ in range(8):
        waits.append(lane.retry_in_s(made.now))
        made.passes(waits[-1])
        assert made.registry.begin(lane, made.now)
        fails(made, lane, failure("target_slow"), probe=True)
        assert lane.state(made.now) == OPEN
    assert waits[0] < FIRST_OPEN_S * JITTER_MAX
    assert MAX_OPEN_S * 0.8 <= waits[-1] <= MAX_OPEN_S * JITTER_MAX


@pytest.mark.parametrize("what", [*NO_WORD, LIMITED])
def test_a_probe_without_a_verdict_frees_the_next(what) -> None:
    """Its end says nothing about the target; the end of another call does not end the probe that runs."""
    made = world(A)
    lane = made.lane(A)
    made.opens(lane)
    made.passes(20)
    made.registry.begin(lane, made.now)
    fails(made, lane, what)
    assert lane.breaker.state == "half_open"
    fails(made, lane, what, probe=True)
    assert lane.breaker.state == "open"
    made.passes(31)
    assert lane.state(made.now) == PROBE


def test_a_probe_that_never_ends_is_lost() -> None:
    """Its lane is not left alone for ever."""
    made = world(A)
    lane = made.lane(A)
    made.opens(lane)
    made.passes(20)
    made.registry.begin(lane, made.now)
    made.passes(PROBE_LOST_S - 1)
    assert lane.state(made.now) == OPEN
    made.passes(1)
    assert lane.state(made.now) == PROBE


def test_an_answer_from_before_an_outage_does_not_end_it() -> None:
    """Only a call that began after the breaker opened, or the key died."""
    made = world(A)
    lane = made.lane(A)
    for what in (DOWN, KEY_REFUSED):
        begun_at = made.now
        made.passes(10)
        for _ in range(5):
            fails(made, lane, what)
        state = lane.state(made.now)
        assert state in (OPEN, DEAD)
        made.succeeds(lane, begun_at=begun_at)
        assert lane.state(made.now) == state
        made.succeeds(lane)
        assert lane.state(made.now) == READY


def test_a_probe_ends_only_what_it_was_the_probe_of() -> None:
    """A key that is probed over another lane by now is not its business."""
    made = world(MINI, MAXI)
    mini, maxi = made.lane(MINI), made.lane(MAXI)
    made.opens(maxi)
    fails(made, mini, KEY_REFUSED)
    made.passes(PROBE_EVERY_S)
    made.registry.begin(mini, made.now)
    made.passes(PROBE_LOST_S)
    assert made.registry.begin(maxi, made.now)
    made.passes(PROBE_EVERY_S)
    made.registry.abandoned(mini)  # it counted as lost
    assert [mini.state(made.now), maxi.state(made.now)] == [DEAD, DEAD]
    made.registry.abandoned(maxi)
    assert [mini.state(made.now), maxi.state(made.now)] == [PROBE, PROBE]


def test_a_probes_answer_ends_it_also_where_it_says_too_little() -> None:
    """A key's probe begins, the target's breaker opens, the probe answers: from before that, and over all the same."""
    made = world(MINI)
    lane = made.lane(MINI)
    fails(made, lane, KEY_REFUSED)
    made.passes(PROBE_EVERY_S)
    begun_at = made.now
    assert made.registry.begin(lane, made.now)
    made.passes(1)
    for _ in range(5):
        fails(made, lane, DOWN)
    made.registry.succeeded(lane, made.now, begun_at)
    made.passes(PROBE_EVERY_S)
    assert lane.state(made.now) == DEAD  # another call's answer: the probe still runs
    made.registry.succeeded(lane, made.now, begun_at, probe=True)
    assert lane.state(made.now) == PROBE


@pytest.mark.parametrize("what", NO_WORD)
def test_what_is_nobodys_fault_holds_nothing(what) -> None:
    """A caller's fault, a policy, a hang-up: however many."""
    made = world(A)
    for _ in range(50):
        fails(made, made.lane(A), what)
    assert (made.lane(A).state(made.now), made.lane(A).troubled, made.registry.version) == (READY, False, 0)


# ------------------------------------------------------------------------------------------------- parked, dead, back


def test_a_parked_lane_comes_back_by_itself() -> None:
    """READY → PARKED → READY after the time that was asked for; other lanes of the key are free."""
    made = world(MINI, MAXI)
    lane = made.lane(MINI)
    fails(made, lane, LIMITED)
    assert (lane.state(made.now), made.lane(MAXI).state(made.now)) == (PARKED, READY)
    assert lane.reason(made.now) == "parked for 30 s more: key_limited 429"
    consistent(made)
    made.passes(29)
    assert lane.state(made.now) == PARKED
    made.passes(1)
    assert lane.state(made.now) == READY
    consistent(made)
    assert lane.troubled  # until a call says that the limit is over
    made.succeeds(lane)
    assert not lane.troubled


def test_a_401_kills_all_lanes_of_the_credential() -> None:
    """READY → DEAD everywhere, one probe a minute among all; one success revives all."""
    made = world(MINI, MAXI, A)
    version = made.registry.version
    fails(made, made.lane(MINI), KEY_REFUSED)
    lanes = [made.lane(MINI), made.lane(MAXI)]
    assert [lane.state(made.now) for lane in (*lanes, made.lane(A))] == [DEAD, DEAD, READY]
    assert made.registry.version == version + 2
    consistent(made)
    assert lanes[1].reason(made.now) == "its credential is dead: key_dead 401"
    late = target("p/late")
    assert made.lane(late).state(made.now) == DEAD
    assert made.lane(late).troubled
    consistent(made)
    made.passes(PROBE_EVERY_S)
    assert [lane.state(made.now) for lane in lanes] == [PROBE, PROBE]
    assert made.registry.begin(lanes[1], made.now) is True
    assert [lane.state(made.now) for lane in lanes] == [DEAD, DEAD]
    assert made.registry.begin(lanes[0], made.now) is False
    made.succeeds(lanes[1])
    assert [lane.state(made.now) for lane in lanes] == [READY, READY]
    made.passes(1)  # the others are looked at by the sweep
    consistent(made)
    assert made.registry.impaired == set()
    assert made.notices == [("credential_dead", "p/mini"), ("credential_alive", "p/maxi")]


class Counted(dict):
    """Lanes that count how often somebody goes through all of them."""

    walks = 0

    def values(self):
        self.walks += 1
        return super().values()


def test_a_dead_key_is_told_to_its_lanes_once() -> None:
    """When it dies: more refusals, and the sweep over its many lanes, look at each lane for itself."""
    targets = [target(f"p/m{n}") for n in range(50)]
    made = world(*targets)
    made.registry.lanes = lanes = Counted(made.registry.lanes)
    fails(made, made.lane(targets[0]), KEY_REFUSED)
    assert lanes.walks == 1
    assert len(made.registry.impaired) == 50
    fails(made, made.lane(targets[1]), KEY_REFUSED)
    assert lanes.walks == 1
    made.registry.sweep(made.now)
    assert lanes.walks == 2
    consistent(made)


def test_a_lasting_reason_has_no_times_and_no_counts() -> None:
    """The same words while the same is the matter; the full ones go on counting."""
    made = world(MINI, A)
    fails(made, made.lane(MINI), LIMITED)
    made.opens(made.lane(A))
    mini, one = made.lane(MINI), made.lane(A)
    assert mini.reason(made.now, lasting=True) == "parked: key_limited 429"
    assert one.reason(made.now, lasting=True) == "breaker open: target_down 0"
    fails(made, mini, KEY_REFUSED)
    assert mini.reason(made.now, lasting=True) == mini.reason(made.now) == "its credential is dead: key_dead 401"


def test_a_403_kills_one_lane() -> None:
    """Many providers say it for one model."""
    made = world(MINI, MAXI)
    fails(made, made.lane(MINI), MODEL_REFUSED)
    assert [made.lane(each).state(made.now) for each in (MINI, MAXI)] == [DEAD, READY]
    consistent(made)


def test_targets_without_a_key_die_alone() -> None:
    """A 401 of one that is called without a credential says nothing about others that are."""
    made = world(*[target(name, credential_id=None, credential="") for name in ("x/m", "y/m")])
    one, other = made.registry.lanes.values()
    fails(made, one, KEY_REFUSED)
    assert [one.state(made.now), other.state(made.now)] == [DEAD, READY]


@pytest.mark.parametrize("what", [DOWN, LIMITED, KEY_REFUSED, *NO_WORD])
def test_a_dead_keys_probe_is_over_however_it_ends(what) -> None:
    """The next one goes a minute after it, not only once it counts as lost."""
    made = world(MINI)
    lane = made.lane(MINI)
    fails(made, lane, KEY_REFUSED)
    made.passes(PROBE_EVERY_S)
    assert made.registry.begin(lane, made.now)
    fails(made, lane, what, probe=True)
    made.passes(PROBE_EVERY_S)
    assert lane.state(made.now) == PROBE


def test_everything_against_a_lane_counts() -> None:
    """A key that is dead, and parked here: no probe before the park is over. Dead here and everywhere: not before both
    may be tried. Dead, and the target down: the last way out, and its call is the key's probe."""
    made = world(MINI, MAXI)
    lane = made.lane(MINI)
    fails(made, lane, failure("key_limited", retry_after_s=100.0))
    fails(made, lane, KEY_REFUSED)
    made.passes(60)
    assert [lane.state(made.now), made.lane(MAXI).state(made.now)] == [PARKED, PROBE]
    assert lane.barred_s(made.now) == pytest.approx(40)
    made.passes(40)
    assert lane.state(made.now) == PROBE
    fails(made, lane, MODEL_REFUSED)
    assert lane.state(made.now) == DEAD
    made.passes(60)
    made.opens(lane)
    assert lane.state(made.now) == OPEN
    assert lane.barred_s(made.now) == 0 < lane.retry_in_s(made.now)
    assert made.registry.begin(lane, made.now) is True
    assert lane.state(made.now) == DEAD


# ---------------------------------------------------------------------------------------------------- secrets, by hand


def exchanged(each, secret: str = "sk-new"):
    return target(each.name, secret=secret)


def test_an_exchanged_secret_revives() -> None:
    """On all lanes of the credential, as soon as one is compiled anew; the breaker is the target's and stays."""
    made = world(MINI, MAXI)
    fails(made, made.lane(MINI), KEY_REFUSED)
    fails(made, made.lane(MAXI), LIMITED)
    made.opens(made.lane(MAXI))
    made.lane(exchanged(MINI))
    mini, maxi = made.registry.lanes.values()
    assert [mini.state(made.now), maxi.state(made.now)] == [READY, OPEN]
    consistent(made)


def test_an_exchanged_secret_is_judged_by_its_own_calls() -> None:
    """Late refusals of the old secret say nothing; what the new one did is kept when other models are compiled."""
    made = world(MINI, MAXI)
    lane = made.lane(exchanged(MINI))
    made.registry.failed(lane, KEY_REFUSED, made.now, MINI)
    made.registry.failed(lane, LIMITED, made.now, MINI)
    assert lane.state(made.now) == READY
    made.registry.failed(lane, KEY_REFUSED, made.now, exchanged(MINI))
    assert made.lane(exchanged(MAXI)).state(made.now) == DEAD
    assert made.lane(exchanged(MINI)).state(made.now) == DEAD
    assert made.lane(exchanged(MAXI, "sk-third")).state(made.now) == READY


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        ({}, set()),
        ({"target": "a/m"}, {"p/mini", "p/maxi", "b/m"}),
        ({"credential": "crd_p_main"}, {"a/m", "b/m"}),
        ({"target": "a/m", "credential": "main"}, {"p/mini", "p/maxi", "b/m"}),
        ({"target": "a/m", "credential": "crd_p_main"}, {"p/mini", "p/maxi", "a/m", "b/m"}),
        ({"target": "gone/m"}, {"p/mini", "p/maxi", "a/m", "b/m"}),
        ({"among": ()}, {"p/mini", "p/maxi", "a/m", "b/m"}),
    ],
)
def test_cleared_by_hand(chosen: dict, left: set[str]) -> None:
    """All, or those of a target, a credential, or both; returns how many there were."""
    made = world(MINI, MAXI, A, B)
    fails(made, made.lane(MINI), KEY_REFUSED)
    fails(made, made.lane(A), LIMITED)
    made.opens(made.lane(B))
    assert made.registry.clear(**chosen) == 4 - len(left)
    assert {lane.target for lane in made.registry.impaired} == left
    consistent(made)


# --------------------------------------------------------------------------------------- what outlives a configuration


def test_the_same_target_under_two_models_has_one_health() -> None:
    """State hangs on the place and the credential, not on model or target id."""
    made = world(A)
    assert made.lane(target("a/m", id="tgt_other", weight=7)) is made.lane(A)
    assert made.lane(target("a/m", "second")) is not made.lane(A)
    assert made.lane(target("a/m", place="elsewhere")) is not made.lane(A)
    assert made.registry.standing("a/m") is made.registry.standing("a/m")


def test_removed_targets_are_no_trouble() -> None:
    """A lane that the configuration no longer has leaves `impaired`, also when a call over it fails after that."""
    made = World(A, B, target("a/m", "old"))
    made.ask()
    old = made.lane(target("a/m", "old"))
    fails(made, old, KEY_REFUSED)
    fails(made, made.lane(A), LIMITED)
    made.registry.standing("b/m").in_flight = 1
    made.swap(pins={})
    made.serve("small", A)
    made.ask()
    assert made.registry.impaired == {made.lane(A)}
    assert set(made.registry.lanes) == {("a/m", "crd_a_main")}
    assert set(made.registry.standings) == {"a/m", "b/m"}  # a call still runs at b
    fails(made, old, KEY_REFUSED)
    made.succeeds(old)
    assert made.registry.impaired == {made.lane(A)}


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing is wrong and there is room, a target that left may come back to what was known of it."""
    made = World(A, B)
    made.ask()
    made.swap(pins={})
    made.serve("small", A)
    made.ask()
    assert len(made.registry.lanes) == 2
    monkeypatch.setattr(registry, "MAX_PLACES", 1)
    made.serve("small", A)
    made.ask()
    assert set(made.registry.lanes) == {("a/m", "crd_a_main")}


def test_budgets_and_mixes_outlive_a_swap() -> None:
    """By route and project; a changed share begins a new budget."""
    made = World(A, hedge=Hedge(max_extra=0.5))
    budget, mix = made.ask().hedge_budget, made.ask().mix
    made.serve("other", B)
    assert (made.ask().hedge_budget, made.ask().mix) == (budget, mix)
    assert made.ask(key=api_key(project_id="prj_2")).mix is not mix
    assert made.registry.hedge_budget("rte_rule", Hedge(max_extra=0.1)) is not budget


def test_the_view_puts_trouble_first() -> None:
    """Every lane with its state, reason, and time until it is worth asking again."""
    made = world(A, B, MINI)
    fails(made, made.lane(MINI), LIMITED)
    made.registry.standing("b/m").in_flight = 3
    first, *rest = made.registry.view(made.now)
    assert (first.target, first.state, first.retry_in_s) == ("p/mini", "parked", 30.0)
    assert [(view.target, view.state, view.reason, view.in_flight) for view in rest] == [
        ("a/m", "closed", "", 0),
        ("b/m", "closed", "", 3),
    ]
    assert [view.target for view in made.registry.view(made.now, [made.lane(B)])] == ["b/m"]
    assert {lane.target for lane in made.registry.lanes_of(made.current)} == {"a/m", "b/m", "p/mini"}
    made.swap(pins={})
    made.serve("small", A)
    assert [lane.target for lane in made.registry.lanes_of(made.current)] == ["a/m"]
