"""What nodes announce leaves nothing behind once they announce something else, or are revoked."""

from typing import Any

import pytest
from route_rig import World

from potluck.model.node import CompiledNode, Offer
from potluck.runtime.fleet import Fleet, offer_of
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
