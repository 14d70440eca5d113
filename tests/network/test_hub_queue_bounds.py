"""What a node says of its slots: more than a link carries is not believed."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from potluck.hub.node import HubNode
from potluck.wire import link_messages as m


def test_no_word_of_a_node_lets_more_wait_than_a_link_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 slots: as many calls run as a link has streams, as many wait, and the next one is refused as busy."""
    monkeypatch.setattr(HubNode, "reason", lambda _: "")
    events = SimpleNamespace(refused=lambda *_: None)
    node = HubNode(cast("Any", SimpleNamespace(events=events, queued=0)), "node_1")
    node.caps = m.Caps(1, slots=10_000, queue=10_000, engines=[], models=[])
    node.calls = cast("Any", {object(): None for _ in range(m.MAX_STREAMS)})
    for _ in range(m.MAX_STREAMS):
        assert node.open(cast("Any", SimpleNamespace(place=SimpleNamespace(own=False, model="m")))) is None
    failure = node.open(cast("Any", SimpleNamespace(place=SimpleNamespace(own=False, model="m"))))
    assert failure is not None
    assert "busy" in failure.detail
