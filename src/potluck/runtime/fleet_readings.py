"""How nodes stand right now: for the admin API (`admin.fleet_readings`), and as gauges for `/metrics`.

A scrape runs in a thread: what is read here is copied in one step and never written to.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from potluck.admin.fleet_readings import LinkReading, ModelReading, NodeReading
from potluck.hub.links import Links
from potluck.hub.node import HubNode
from potluck.model.node import place_of
from potluck.proxy.registry import STATES
from potluck.runtime.fleet import Fleet, NodeNotes

if TYPE_CHECKING:
    from potluck.telemetry.exposition import Exposition

READY, NOT_CONNECTED = "ready", "not connected"
NOT_IN_FORCE = "what it offers is not in force yet"


class FleetReadings:
    """Reads the hub and the fleet."""

    def __init__(self, links: Links, fleet: Fleet) -> None:
        self.links = links
        self.fleet = fleet

    def of(self, node_id: str) -> NodeReading | None:
        """The node's reading; None: it was never seen since the start. On the loop."""
        notes = self.fleet.notes.get(node_id)
        if notes is None:
            return None
        node = self.links.nodes.get(node_id)
        now, now_ms = time.monotonic(), time.time() * 1000
        caps, load = notes.caps, notes.load
        connected = node is not None and any(link.core.phase == "open" for link in node.sessions)
        return NodeReading(
            stands=self._stands(node_id),
            connected=connected,
            since_ms=int(now_ms - (now - node.since_at) * 1000) if node is not None and node.since_at else None,
            links=_links(node, now, now_ms) if node is not None else [],
            presence=load.presence if load is not None else None,
            slots=caps.slots if caps is not None else None,
            running=len(node.calls) if node is not None else 0,
            waiting=len(node.waiting) + len(node.waiting_own) if node is not None else 0,
            models=self._models(node_id, notes, now),
            no_work=dict(notes.no_work),
            refusals=dict(notes.refusals),
            reconnects=max(0, notes.connects - 1),
            last_probe_at_ms=notes.last_probe_at_ms,
            last_probe=notes.last_probe,
            last_report=notes.last_report,
        )

    def _stands(self, node_id: str) -> str | None:
        """As the hub says; but no node is ready of which no model is known to routing."""
        notes, known = self.fleet.notes.get(node_id), self.fleet.snapshots.current.nodes.get(node_id)
        if notes is None:
            return None
        return NOT_IN_FORCE if notes.stands == "" and known is not None and not known.offer.models else notes.stands

    def _models(self, node_id: str, notes: NodeNotes, now: float) -> list[ModelReading]:
        load = notes.load
        said = {(model.engine, model.name): model for model in load.models} if load is not None else {}
        readings = []
        for model in notes.caps.models if notes.caps is not None else ():
            place = place_of(node_id, model.engine, model.name)
            standing = self.fleet.registry.standings.get(place)
            lane = self.fleet.registry.lanes.get((place, None))
            machine = standing.machine if standing is not None else None
            state = said.get((model.engine, model.name))
            prefill_ms = machine.own_prefill_ms(now) if machine is not None else None
            decode_ms = machine.own_decode_ms(now) if machine is not None else None
            readings.append(
                ModelReading(
                    engine=model.engine,
                    name=model.name,
                    resident=state.resident if state is not None else None,
                    running=state.running if state is not None else None,
                    waiting=state.waiting if state is not None else None,
                    prefill_tps=1000 / prefill_ms if prefill_ms else None,
                    decode_tps=1000 / decode_ms if decode_ms else None,
                    load_s=machine.own_load_s() if machine is not None else None,
                    state=STATES[lane.state(now)] if lane is not None else None,
                )
            )
        return readings

    # --- gauges

    def states(self) -> dict[tuple[str, ...], float]:
        """(state,) → enrolled nodes that stand so, details left out."""
        counts: Counter[str] = Counter()
        for node_id in list(self.fleet.snapshots.current.nodes):
            stands = self._stands(node_id)
            counts[READY if stands == "" else (stands or NOT_CONNECTED).partition(":")[0]] += 1
        return {(state,): float(count) for state, count in counts.items()}

    def refusals(self) -> dict[tuple[str, ...], float]:
        """(code,) → calls that nodes refused, or the hub in their name."""
        counts: Counter[str] = Counter()
        for notes in list(self.fleet.notes.values()):
            counts.update(dict(notes.refusals))
        return {(code,): float(count) for code, count in counts.items()}

    def expose(self, exposition: "Exposition") -> None:
        """Declare them."""
        links = self.links
        gauge, counter = exposition.gauge, exposition.counter
        gauge("potluck_nodes", "enrolled machines by how they stand", self.states, ("state",))
        gauge("potluck_node_links", "connections of nodes, those of strangers included", lambda: links.sockets)
        gauge("potluck_node_streams", "calls that run on nodes", lambda: _sum(links, lambda node: len(node.calls)))
        gauge(
            "potluck_node_queue",
            "calls that wait in the gateway for a node",
            lambda: _sum(links, lambda node: len(node.waiting) + len(node.waiting_own)),
        )
        counter("potluck_node_calls_total", "calls sent to nodes", lambda: links.opened)
        counter("potluck_node_queued_total", "calls that had to wait for a node", lambda: links.queued)
        counter("potluck_node_resumes_total", "answers that went on over another link", lambda: links.resumes)
        counter("potluck_node_refusals_total", "calls that nodes refused, by code", self.refusals, ("code",))
        counter(
            "potluck_node_links_failed_total",
            "links that the gateway ended, by code",
            lambda: {(code,): float(count) for code, count in dict(links.failed).items()},
            ("code",),
        )
        counter("potluck_node_frames_total", "frames received from nodes", links.frames)
        counter("potluck_node_bytes_total", "bytes of node links", links.bytes, ("direction",))


def _sum(links: Links, read: Callable[[HubNode], int]) -> int:
    return sum(read(node) for node in list(links.nodes.values()))


def _links(node: HubNode, now: float, now_ms: float) -> list[LinkReading]:
    return [
        LinkReading(
            since_ms=int(now_ms - (now - link.opened_at) * 1000),
            rtt_ms=link.core.rtt_s * 1000 if link.core.rtt_s is not None else None,
            streams=sum(job.link is link.core for job in node.calls),
            sent_bytes=link.socket.sent_bytes,
            received_bytes=link.socket.received_bytes,
        )
        for link in node.sessions
        if link.core.phase == "open"
    ]
