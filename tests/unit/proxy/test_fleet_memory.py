"""What the fleet keeps of nodes, and for how long."""

import asyncio
import threading
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from route_rig import World

from potluck.admin.operations.nodes import EPHEMERAL_KEPT_S
from potluck.model.node import CompiledNode, Offer
from potluck.runtime.fleet import OFFER_EVERY_S, OFFER_MOST_S, Fleet, NodeNotes, offer_of
from potluck.snapshot import Change
from potluck.wire import link_messages as m

NODE = "node_lab"


class Stored:
    """A snapshot that has a node; stands in for `snapshot.SnapshotStore`."""

    def __init__(self, made: World) -> None:
        self.made = made
        self.keep(Offer())

    @property
    def current(self) -> Any:
        return self.made.current

    def keep(self, offer: Offer) -> None:
        self.made.swap(nodes={NODE: CompiledNode(NODE, "org_test", "lab", True, {}, False, offer)})


def announced(number: int) -> m.Caps:
    models = [m.ModelOffer(engine="e", name=f"m{number}")]
    engine = m.EngineOffer(id="e", kind="ollama", paths=["/v1/chat/completions"])
    return m.Caps(revision=number, engines=[engine], models=models, slots=1, queue=0)


async def test_estimates_follow_the_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many models a node has named over the day, those are known that it offers now; revoked, none is."""
    monkeypatch.setattr("potluck.runtime.fleet.OFFER_EVERY_S", 0.0)
    made = World()
    stored = Stored(made)
    fleet = Fleet(None, None, stored, made.registry)  # type: ignore[arg-type] — nothing is written here

    async def keep(node_id: str, operation: Any) -> None:
        stored.keep(offer_of(fleet.notes[node_id].caps))  # type: ignore[arg-type]

    monkeypatch.setattr(fleet, "_do", keep)
    fleet.stands(NODE, "")
    for number in range(20):
        caps = announced(number)
        fleet.offered(NODE, caps, "fake/1")
        await fleet._store_offers()
        fleet.loaded(NODE, m.Load("ready", models=[m.ModelState(engine="e", name=f"m{number}", resident=True)]), 1.0)
    assert list(made.registry.standings) == ["node_lab e m19"]
    made.swap(nodes={})
    await fleet.upkeep()
    assert not made.registry.standings
    assert not made.registry.away
    assert not fleet.notes


async def test_a_gateways_own_downtime_counts_against_no_ephemeral_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an hour's outage the nodes that are still to come back are not revoked; after an hour up, those are."""
    made, done, now = World(), [], 1000.0

    class Written:
        async def write(self, operation: Any) -> Change:
            done.append(operation.__qualname__.partition(".")[0])
            return Change()

    class Kept(Stored):
        async def refresh(self, change: Change) -> None:
            assert change == Change()

    monkeypatch.setattr("potluck.runtime.fleet.time.monotonic", lambda: now)
    fleet = Fleet(Written(), None, Kept(made), made.registry)  # type: ignore[arg-type] — it only writes
    await fleet.upkeep()
    assert done == ["seen"]
    now += EPHEMERAL_KEPT_S
    await fleet.upkeep()
    assert done == ["seen", "seen", "forget_ephemeral"]


def test_who_announces_something_else_all_the_time_is_heard_less_and_less_often() -> None:
    """Each change is written, audited and compiled: a stranger's whims cost that once a minute, a person's at once."""
    notes, now, stored = NodeNotes(), 0.0, []
    while now < 3600.0:
        if notes.offer_is_due(now):
            notes.offer_stored(now)
            stored.append(now)
        now += 0.2
    waits = [later - earlier for earlier, later in pairwise(stored)]
    assert waits[:5] == pytest.approx([5, 10, 20, 40, 60], abs=0.4)
    assert len(stored) < 66
    now += 2 * OFFER_MOST_S
    notes.offer_stored(now)
    assert notes.offer_is_due(now + OFFER_EVERY_S)


async def test_what_could_not_be_written_down_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk costs no report of a second machine with a node's key."""
    made, told, full = World(), [], True
    fleet = Fleet(None, None, Stored(made), made.registry)  # type: ignore[arg-type] — nothing is written here

    async def do(node_id: str, operation: Any) -> None:
        if full:
            raise OSError("no space left on device")
        told.append(node_id)

    monkeypatch.setattr(fleet, "_do", do)
    fleet.reported(NODE, "clone", "refused")
    fleet.reported(NODE, "violation", "bad_frame")
    with pytest.raises(OSError, match="no space"):
        await fleet._store_reports()
    full = False
    await fleet._store_reports()
    await fleet._store_reports()
    assert told == [NODE, NODE]


def test_an_engine_without_a_number_of_slots_has_its_nodes() -> None:
    """What the engine says itself counts more."""
    made = World()
    stored = Stored(made)
    fleet = Fleet(None, None, stored, made.registry)  # type: ignore[arg-type] — nothing is written here
    stored.keep(msgspec.structs.replace(offer_of(announced(1)), slots=7))
    model = m.ModelState(engine="e", name="m1", resident=True)
    machine = made.registry.machine("node_lab e m1")
    for engines, slots in (
        ([], 7),
        ([m.EngineState(id="e", reachable=True)], 7),
        ([m.EngineState(id="e", reachable=True, slots=3)], 3),
    ):
        fleet.loaded(NODE, m.Load("ready", models=[model], engines=engines), 1.0)
        assert machine.slots == slots


def test_a_restarted_node_has_nothing_in_memory_until_it_says_so() -> None:
    """Of all its models, and of no other node's."""
    made = World()
    stored = Stored(made)
    fleet = Fleet(None, None, stored, made.registry)  # type: ignore[arg-type] — nothing is written here
    machines = [made.registry.machine(place) for place in ("node_lab e m1", "node_lab f m2", "node_else e m1")]
    for machine in machines:
        machine.report(reported_at=1.0, resident=True)
    fleet.reported(NODE, "restarted", "its agent was started anew")
    assert [machine.resident for machine in machines] == [False, False, True]
    stored.keep(offer_of(announced(1)))
    fleet.loaded(NODE, m.Load("ready", models=[m.ModelState(engine="e", name="m1", resident=True)]), 1.0)
    assert machines[0].resident is True


@pytest.mark.parametrize(("input_price", "output_price"), [(5, None), (None, 5), (None, None)])
def test_a_price_of_one_side_is_none(input_price: int | None, output_price: int | None) -> None:
    """The side of which nothing is said would be free otherwise."""
    model = m.ModelOffer(engine="e", name="m", price_input_nanousd=input_price, price_output_nanousd=output_price)
    caps = msgspec.structs.replace(announced(1), models=[model])
    assert offer_of(caps).models[0].price is None


async def test_what_a_fleet_needs_is_imported_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, in a thread, as soon as there is a node: half a second of imports would hold up every stream."""
    threads: list[threading.Thread] = []
    monkeypatch.setattr("potluck.runtime.fleet.LOOK_S", 0.001)
    monkeypatch.setattr("potluck.runtime.fleet.load_rest", lambda: threads.append(threading.current_thread()))
    made = World()
    stored = Stored(made)
    fleet = Fleet(None, None, stored, made.registry)  # type: ignore[arg-type]
    running = asyncio.create_task(fleet.run())  # noqa: TID251 — kept for the test
    async with asyncio.timeout(5):
        while not threads:
            await asyncio.sleep(0.001)
    running.cancel()
    assert threads[0] is not threading.main_thread()


def test_a_log_that_says_lost_says_connected_again(caplog: pytest.LogCaptureFixture) -> None:
    """However soon it is back; a link that flaps is told of once in a while."""
    made = World()
    fleet = Fleet(None, None, Stored(made), made.registry)  # type: ignore[arg-type]
    with caplog.at_level("INFO", "potluck.nodes"):
        for event in ("connected", "lost", "connected", "lost", "connected"):
            fleet.reported(NODE, event, "")
    assert [each.getMessage().split(": ")[1] for each in caplog.records] == ["connected", "lost", "connected"]
