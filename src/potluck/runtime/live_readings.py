"""Gauges of how targets stand, for `/metrics`. A scrape runs in a thread: what is read here is never written to.

Bounded: lanes that the configuration has and that some request was considered for, `MAX_LANES` of them, those in
trouble first.
"""

import time

from potluck.ports import SnapshotSource
from potluck.proxy.registry import STATES, Lane, Registry

MAX_LANES = 4_000


class LiveReadings:
    """Label values → reading, in the order of the labels that `runtime.gateway` declares."""

    def __init__(self, registry: Registry, snapshots: SnapshotSource) -> None:
        self.registry = registry
        self.snapshots = snapshots

    def _lanes(self) -> list[Lane]:
        return self.registry.lanes_of(self.snapshots.current)[:MAX_LANES]

    def states(self) -> dict[tuple[str, ...], float]:
        """(target, credential, state) → 1 for the state it is in, 0 for the others."""
        now = time.monotonic()
        found = {(lane.target, lane.credential): STATES[lane.state(now)] for lane in self._lanes()}
        return {(*lane, state): float(state == current) for lane, current in found.items() for state in STATES}

    def in_flight(self) -> dict[tuple[str, ...], float]:
        """(target,) → calls under way, by all its credentials."""
        standings = self.registry.standings
        found = {lane.target: standings.get(lane.place) for lane in self._lanes()}
        return {(target,): float(standing.in_flight) for target, standing in found.items() if standing is not None}

    def opened(self) -> dict[tuple[str, ...], float]:
        """(target,) → breakers that opened, over all its credentials."""
        opened: dict[tuple[str, ...], float] = {}
        for lane in self._lanes():
            opened[(lane.target,)] = opened.get((lane.target,), 0.0) + lane.opened
        return opened
