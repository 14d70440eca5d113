"""The rules of serving: each objection, and what holds whatever happens."""

import itertools
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.node.facts import Facts, Gpu, Hardware, Reading
from potluck.node.rules import (
    BUSY_S,
    MAX_REST_S,
    QUIET_S,
    Decision,
    KeptExits,
    Memory,
    Wish,
    decide,
    forgiven,
    kept,
    restored,
    room_for,
)
from potluck.node.settings import NodeSettings

GIB = 1 << 30
AWAY = Facts(presence=Reading(active=False, idle_s=9000.0))
HERE = Facts(presence=Reading(active=True, idle_s=0.5))
IDLE = NodeSettings(mode=("idle",))


@dataclass
class Machine:
    """Plays moments one after the other."""

    settings: NodeSettings = IDLE
    memory: Memory = field(default_factory=Memory)
    wish: Wish = field(default_factory=Wish)
    now_s: float = 1000.0

    def after(self, seconds: float, facts: Facts = AWAY) -> Decision:
        """The decision `seconds` later."""
        self.now_s += seconds
        decision, self.memory = decide(self.settings, facts, self.wish, self.memory, self.now_s)
        return decision


def with_gpu(**members: object) -> Facts:
    """Nobody is there, and one GPU of 10 GiB."""
    gpu = msgspec.convert({"id": "0", "total_bytes": 10 * GIB, "used_bytes": 0, **members}, Gpu)
    return Facts(presence=AWAY.presence, hardware=Hardware(gpus=(gpu,)))


def on_hardware(**members: object) -> Facts:
    """Nobody is there."""
    return Facts(presence=AWAY.presence, hardware=msgspec.convert(members, Hardware))


def test_the_mode_always_serves_whoever_is_there() -> None:
    """In mode `always` neither the owner's presence nor not knowing of it objects."""
    machine = Machine(NodeSettings())
    assert machine.after(0, HERE).serve
    assert machine.after(1, Facts()).serve


def test_the_owner_coming_back_is_a_soft_exit() -> None:
    """Input stops new work at once, lets what runs go on for the grace, and unloads a minute later."""
    machine = Machine()
    assert machine.after(0).serve
    decision = machine.after(1, HERE)
    assert (decision.serve, decision.hard, decision.grace_s, decision.unload_after_s) == (False, False, 10.0, 60.0)
    assert (decision.code, decision.presence) == ("owner_active", "active")
    warm = Machine(msgspec.structs.replace(IDLE, keep_warm=True))
    warm.after(0)
    assert warm.after(1, HERE).unload_after_s is None


def test_presence_says_when_it_may_serve_again() -> None:
    """Two minutes after the last input, the change is three minutes ahead."""
    decision = Machine().after(0, Facts(presence=Reading(active=True, idle_s=120.0)))
    assert not decision.serve
    assert decision.until_s == 1000.0 + 180.0


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (on_hardware(on_battery=True), "battery"),
        (on_hardware(thermal="serious"), "thermal"),
        (on_hardware(thermal="critical"), "thermal"),
        (with_gpu(too_hot=True), "thermal"),
        (with_gpu(used_others_bytes=6 * GIB), "no_vram"),
        (Facts(presence=Reading(active=True, idle_s=4000.0, full_screen=True)), "owner_active"),
    ],
)
def test_what_ends_everything_at_once(facts: Facts, code: str) -> None:
    """Battery, heat, another program's need of the GPU and a full screen end what runs and free the GPU."""
    machine = Machine()
    assert machine.after(0).serve
    decision = machine.after(1, facts)
    assert (decision.serve, decision.hard, decision.grace_s, decision.unload_after_s) == (False, True, 0.0, 0.0)
    assert decision.code == code


@pytest.mark.parametrize(
    "facts", [on_hardware(on_battery=False), on_hardware(thermal="fair"), with_gpu(used_others_bytes=4 * GIB)]
)
def test_what_does_not_object(facts: Facts) -> None:
    """Mains power, some warmth and a little use of the GPU's memory are no reason."""
    assert Machine().after(0, facts).serve


def test_battery_is_the_owners_choice() -> None:
    """With `on_battery` a laptop serves without its plug, also in mode `always`."""
    facts = on_hardware(on_battery=True)
    assert not Machine(NodeSettings()).after(0, facts).serve
    assert Machine(NodeSettings(on_battery=True)).after(0, facts).serve


def test_not_knowing_is_being_there_unless_headless() -> None:
    """A machine on which nobody can be seen serves only when its owner declared it headless."""
    decision = Machine().after(0, Facts())
    assert (decision.serve, decision.presence) == (False, "unknown")
    assert "headless" in decision.reason
    headless = msgspec.structs.replace(IDLE, headless=True)
    assert Machine(headless).after(0, Facts()).serve
    assert not Machine(headless).after(0, HERE).serve


def test_a_source_without_a_clock_is_timed_here() -> None:
    """A locked screen counts from when it was first seen."""
    locked = Facts(presence=Reading(active=False, locked=True))
    machine = Machine()
    assert not machine.after(0, locked).serve
    assert not machine.after(299, locked).serve
    assert machine.after(1, locked).serve
    assert not machine.after(1, Facts(presence=Reading(active=True))).serve


@pytest.mark.parametrize(
    ("quiet", "busy"),
    [
        (with_gpu(busy_others=0.05), with_gpu(busy_others=0.5)),
        (on_hardware(cpu_others=0.2), on_hardware(cpu_others=0.3)),
    ],
)
def test_other_programs_are_waited_for_and_given_way(quiet: Facts, busy: Facts) -> None:
    """It begins after a quiet minute, a spike does not end it, and ten busy seconds do."""
    machine = Machine()
    first = machine.after(0, quiet)
    assert (first.serve, first.until_s) == (False, 1000.0 + QUIET_S)
    assert machine.after(QUIET_S, quiet).serve
    assert machine.after(1, busy).serve
    assert machine.after(BUSY_S - 1, busy).serve
    assert machine.after(1, quiet).serve
    assert machine.after(1, busy).serve
    decision = machine.after(BUSY_S, busy)
    assert (decision.serve, decision.hard) == (False, False)


def test_local_use_of_the_engine_goes_first() -> None:
    """New work waits until the engine was left alone for 20 s; what runs goes on."""
    machine = Machine(NodeSettings())
    machine.after(0)
    decision = machine.after(1, Facts(local_use_s=0.0))
    assert (decision.serve, decision.hard, decision.grace_s, decision.unload_after_s) == (False, False, None, None)
    assert decision.until_s == machine.now_s + 20
    assert not machine.after(19.5, Facts(local_use_s=19.5)).serve
    assert machine.after(0.5, Facts(local_use_s=20.0)).serve
    assert Machine(NodeSettings(owner_first_s=0)).after(0, Facts(local_use_s=0.0)).serve


def test_some_of_the_gpus_memory_is_kept_free() -> None:
    """What the owner reserved is not used by a new model, and ends serving when it is used up."""
    wanted = NodeSettings(keep_vram_bytes=2 * GIB)
    assert room_for(wanted, with_gpu(), 8 * GIB)
    assert not room_for(wanted, with_gpu(), 8 * GIB + 1)
    assert room_for(NodeSettings(), Facts(), 99 * GIB)
    assert Machine(wanted).after(0, with_gpu(used_bytes=8 * GIB)).serve
    decision = Machine(wanted).after(0, with_gpu(used_bytes=9 * GIB))
    assert (decision.hard, decision.code) == (True, "no_vram")


def test_modes_combine_and_a_window_says_when_it_opens() -> None:
    """`idle,schedule` serves when nobody is there and the window is open."""
    both = NodeSettings(mode=("idle", "schedule"), schedule=("22:00-07:00",))
    decision = Machine(both).after(0, msgspec.structs.replace(AWAY, window_left_s=600.0))
    assert (decision.serve, decision.code, decision.until_s) == (False, "schedule", 1600.0)
    assert not Machine(both).after(0, msgspec.structs.replace(HERE, window_open=True)).serve
    assert Machine(both).after(0, msgspec.structs.replace(AWAY, window_open=True)).serve


def test_the_end_of_a_window_begins_no_rest() -> None:
    """The schedule is the owner's word, not a disturbance."""
    machine = Machine(NodeSettings(mode=("schedule",), schedule=("22:00-07:00",)))
    is_open = Facts(window_open=True)
    assert machine.after(0, is_open).serve
    assert not machine.after(1, Facts()).serve
    assert machine.after(1, is_open).serve


def test_the_owners_word() -> None:
    """A pause ends what runs and ends by itself when it has an end; a drain lets it finish; `manual` waits."""
    machine = Machine(NodeSettings())
    machine.wish = Wish(serve=False, until_s=1060.0)
    decision = machine.after(0)
    assert (decision.hard, decision.code, decision.until_s) == (True, "paused", 1060.0)
    assert machine.after(60).serve
    machine.wish = Wish(serve=False, drain=True)
    decision = machine.after(1)
    assert (decision.serve, decision.hard, decision.grace_s) == (False, False, None)
    manual = Machine(NodeSettings(mode=("manual",)))
    assert "potluck node resume" in manual.after(0).reason
    manual.wish = Wish(serve=True)
    assert manual.after(1).serve


def test_the_rest_doubles_with_each_hard_exit_within_the_hour() -> None:
    """5 minutes after the first, then 10, 20, 40, 60; an hour of peace later 5 again; `resume` ends it."""
    machine = Machine(NodeSettings())
    battery = on_hardware(on_battery=True)
    rests = []
    assert machine.after(0).serve
    for _ in range(3):
        decision = machine.after(1, battery)
        assert decision.hard
        decision = machine.after(0)
        assert decision.until_s is not None
        rests.append(decision.until_s - machine.now_s)
        assert not machine.after(rests[-1] - 1).serve
        assert machine.after(1).serve
    assert rests == [300, 600, 1200]
    assert machine.after(4000).serve
    machine.after(1, battery)
    machine.after(299)
    assert machine.after(1).serve
    machine.after(1, battery)
    assert not machine.after(1).serve
    machine.memory = forgiven(machine.memory)
    assert machine.after(1).serve


def test_a_game_that_begins_with_a_mouse_click_is_one_hard_exit() -> None:
    """A soft exit that turns hard is counted, and once only however often it turns."""
    machine = Machine()
    machine.after(0)
    game = Facts(presence=Reading(active=True, idle_s=0.0, full_screen=True))
    for facts in (HERE, game, HERE, game):
        machine.after(1, facts)
    assert len(machine.memory.exits_s) == 1


def test_a_rest_that_idle_began_ends_with_that_mode() -> None:
    """The owner says `always`: it serves at once, also after a restart. A rest for the battery goes on."""
    for facts, serves in ((HERE, True), (on_hardware(on_battery=True), False)):
        for over_restart in (False, True):
            machine = Machine()
            assert machine.after(0).serve
            assert not machine.after(1, facts).serve
            if over_restart:
                was = kept(machine.memory, machine.now_s, 1e9)
                machine.memory = restored(msgspec.json.decode(msgspec.json.encode(was), type=KeptExits), 1001.0, 1e9)
            machine.settings = NodeSettings()
            assert machine.after(1).serve is serves


def test_a_restart_keeps_the_rest() -> None:
    """What is written and read again leaves the same rest, by another monotonic clock; a wrong clock makes it no longer
    than the longest."""
    machine = Machine(NodeSettings())
    machine.after(0)
    machine.after(1, on_hardware(on_battery=True))
    written = msgspec.json.encode(kept(machine.memory, machine.now_s, 1_700_000_000.0))
    again = Machine(NodeSettings(), restored(msgspec.json.decode(written, type=KeptExits), 50.0, 1_700_000_100.0))
    again.now_s = 50.0
    decision = again.after(0)
    assert (decision.serve, decision.until_s) == (False, pytest.approx(250.0))
    assert again.after(200).serve
    assert again.after(1, on_hardware(on_battery=True)).hard
    assert len(again.memory.exits_s) == 2
    lying = restored(msgspec.json.decode(written, type=KeptExits), 50.0, 0.0)
    assert lying.rest_until_s <= 50.0 + MAX_REST_S
    assert all(each <= 50.0 for each in lying.exits_s)


shares = st.none() | st.floats(0, 1)
sizes = st.none() | st.integers(0, 10 * GIB)
gpus = st.builds(
    Gpu,
    id=st.just("0"),
    busy_others=shares,
    total_bytes=st.just(10 * GIB),
    used_bytes=sizes,
    used_others_bytes=sizes,
    too_hot=st.booleans(),
)
hardware = st.builds(
    Hardware,
    cpu_others=shares,
    on_battery=st.none() | st.booleans(),
    thermal=st.sampled_from([None, "nominal", "fair", "serious", "critical"]),
    gpus=st.tuples() | st.tuples(gpus),
)
presences = st.builds(
    Reading,
    active=st.none() | st.booleans(),
    idle_s=st.none() | st.floats(0, 10_000),
    full_screen=st.booleans(),
)
# mostly peace, so that it serves now and then
facts = st.just(AWAY) | st.builds(
    Facts,
    presence=st.just(AWAY.presence) | presences,
    hardware=st.just(Hardware()) | hardware,
    local_use_s=st.none() | st.floats(0, 100),
    window_open=st.booleans(),
    window_left_s=st.none() | st.floats(0, 100_000),
)
wishes = st.just(Wish()) | st.builds(Wish, st.sampled_from([None, True, False]), st.none() | st.floats(0, 10_000))
modes = st.sampled_from(
    [("always",), ("idle",), ("schedule",), ("manual",), ("idle", "schedule"), ("idle", "manual", "schedule")]
)
moments = st.lists(st.tuples(st.floats(-5, 900), facts, wishes), min_size=1, max_size=40)


@settings(max_examples=300, deadline=None)
@given(modes, st.booleans(), moments)
def test_what_holds_whatever_happens(
    mode: tuple[str, ...], headless: bool, story: list[tuple[float, Facts, Wish]]
) -> None:
    """It never serves in mode `idle` while somebody may be there, on battery, when paused, or outside its window; what
    is not served has a reason and a code; the clock going back changes nothing."""
    wanted = msgspec.convert({"mode": mode, "headless": headless}, NodeSettings)
    memory, now_s, latest_s = Memory(), 1000.0, 0.0
    for step_s, seen, wish in story:
        now_s += step_s
        latest_s = max(latest_s, now_s)
        decision, memory = decide(wanted, seen, wish, memory, now_s)
        assert memory.clock_s == latest_s
        assert decision.reason.startswith("it serves" if decision.serve else "it does not serve: ")
        assert "\n" not in decision.reason
        assert (decision.code is None) == decision.serve
        assert decision.until_s is None or decision.until_s >= latest_s or decision.serve
        assert not decision.hard or (decision.grace_s, decision.unload_after_s) == (0.0, 0.0)
        if not decision.serve:
            continue
        assert seen.hardware.on_battery is not True
        assert seen.hardware.thermal not in ("serious", "critical")
        assert wish.serve is not False or (wish.until_s is not None and wish.until_s <= latest_s)
        assert seen.local_use_s is None or seen.local_use_s >= wanted.owner_first_s
        assert "schedule" not in mode or seen.window_open
        assert "manual" not in mode or wish.serve is not None
        if "idle" in mode:
            there = seen.presence
            assert not there.full_screen
            assert there.idle_s is None or there.idle_s >= wanted.idle_after_s
            assert there.idle_s is not None or there.active is False or (headless and there.active is None)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 400), facts), min_size=2, max_size=60))
def test_it_does_not_flap(story: list[tuple[float, Facts]]) -> None:
    """Between giving the machine back and serving again lies at least the rest, and the more hard exits there were in
    the hour the longer."""
    memory, now_s = Memory(), 0.0
    was_running, left_s, hard = False, float("-inf"), 0
    for step_s, seen in story:
        now_s += step_s
        decision, memory = decide(IDLE, seen, Wish(), memory, now_s)
        runs = decision.serve or (was_running and decision.grace_s is None)
        if was_running and not runs:
            left_s, hard = now_s, len(memory.exits_s)
        if runs and not was_running:
            assert now_s - left_s >= min(IDLE.reenter_s * 2 ** max(hard - 1, 0), MAX_REST_S) - 1e-6
        was_running = runs


@given(st.lists(st.floats(0, 5000), max_size=8), st.floats(-MAX_REST_S, MAX_REST_S), st.floats(0, 4000))
def test_a_restart_changes_no_age(ages: list[float], rest_s: float, down_s: float) -> None:
    """Ages and rests are the same after a restart, less the time that it took."""
    memory = Memory(clock_s=9000.0, exits_s=tuple(9000.0 - each for each in ages), rest_until_s=9000.0 + rest_s)
    again = restored(kept(memory, 9000.0, 1e9), 77.0, 1e9 + down_s)
    assert again.rest_until_s - 77.0 == pytest.approx(rest_s - down_s, abs=1e-3)
    expected = [age + down_s for age in ages]
    for age, found in itertools.zip_longest(
        [each for each in expected if each < 3600 - 1e-3], [77.0 - each for each in again.exits_s][: len(expected)]
    ):
        if age is not None:
            assert found == pytest.approx(age, abs=1e-3)
