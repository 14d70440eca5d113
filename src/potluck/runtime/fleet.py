"""What the hub tells of nodes, carried to whom it concerns: implements `ports.NodeEvents`.

Rules of this file
- Routing hears at once: whether calls can go to a node, and how busy its models say they are. Only models of the stored
  offer are heard: a stranger's words make no state.
- The store hears later, from one task (`run`): an announced offer at most once in `OFFER_EVERY_S` per node and only if
  it differs, from a node that changes it all the time in the end once in `OFFER_MOST_S`; who is connected each
  `SEEN_EVERY_S`, clones and violations at most once in `REPORT_EVERY_S` per node.
- Nothing here raises or waits on the hub's call.
"""

import asyncio
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from potluck.identity.vault import Vault
from potluck.model.node import NodePrice, Offer, OfferedModel, place_of
from potluck.proxy.registry import Registry
from potluck.snapshot import SnapshotStore
from potluck.store import Store
from potluck.wire.link_messages import Caps, EngineState, Load, ModelState

if TYPE_CHECKING:
    from collections.abc import Callable

    from potluck.admin.operations.work import Work

log = logging.getLogger("potluck.nodes")

OFFER_EVERY_S: Final = 5.0
OFFER_MOST_S: Final = 60.0
"""each further change soon after the last one is waited with twice as long, up to this"""
SEEN_EVERY_S: Final = 30.0
REPORT_EVERY_S: Final = 60.0
LOOK_S: Final = 0.2
"""how long an offer waits for the task at most"""
FAILED_S: Final = 5.0
"""until the store is tried again"""
REPORTED: Final = frozenset({"clone", "violation"})
"""kept in the audit log; the rest is only logged"""
ORDINARY: Final = frozenset({"connected", "lost", "probe", "restarted"})


class NodeNotes:
    """What is known of one node since the start."""

    __slots__ = (
        "agent",
        "caps",
        "connects",
        "last_probe",
        "last_probe_at_ms",
        "last_report",
        "load",
        "no_work",
        "offer_every_s",
        "refusals",
        "reported_at",
        "rtt_ms",
        "stands",
        "stored_at",
    )

    def __init__(self) -> None:
        self.stands: str | None = None
        self.no_work: Counter[str] = Counter()
        """how often it came to stand so, by reason"""
        self.refusals: Counter[str] = Counter()
        self.connects = 0
        self.caps: Caps | None = None
        self.agent = ""
        self.load: Load | None = None
        self.rtt_ms: float | None = None
        self.last_report: str | None = None
        self.last_probe: str | None = None
        self.last_probe_at_ms: int | None = None
        self.reported_at: dict[str, float] = {}
        self.stored_at = float("-inf")
        self.offer_every_s = OFFER_EVERY_S

    def offer_is_due(self, now: float) -> bool:
        """What it announced may be stored by now (monotonic)."""
        return now - self.stored_at >= self.offer_every_s

    def offer_stored(self, now: float) -> None:
        """One is about to be: how soon after the last decides how long the next one waits."""
        soon = now - self.stored_at < 2 * self.offer_every_s
        self.offer_every_s = min(2 * self.offer_every_s, OFFER_MOST_S) if soon else OFFER_EVERY_S
        self.stored_at = now


class Fleet:
    """All nodes' notes. Lives on the event loop."""

    def __init__(self, store: Store, vault: Vault, snapshots: SnapshotStore, registry: Registry) -> None:
        self.store = store
        self.vault = vault
        self.snapshots = snapshots
        self.registry = registry
        self.notes: dict[str, NodeNotes] = {}
        self.in_force: Callable[[str, int], None] = _nobody
        """`hub.Links.in_force`, set once there is a hub: each of both needs the other"""
        self._offers: dict[str, tuple[Caps, str]] = {}
        """announced, not stored yet"""
        self._unapproved: dict[str, int] = {}
        """revisions that are stored, and not routed by: their nodes wait for approval"""
        self._reports: list[tuple[str, str, str]] = []
        self._began_at = time.monotonic()
        self._seen: set[str] = set()
        """connected now, or since the last time that this was written down"""

    # --- ports.NodeEvents

    def offered(self, node_id: str, caps: Caps, agent: str) -> None:
        notes = self._notes(node_id)
        notes.caps, notes.agent = caps, agent
        known = self.snapshots.current.nodes.get(node_id)
        if known is not None and known.offer == offer_of(caps) and node_id not in self._offers:
            self._acknowledge(node_id, caps.revision)
        else:
            self._offers[node_id] = (caps, agent)

    def stands(self, node_id: str, reason: str) -> None:
        notes = self._notes(node_id)
        notes.stands = reason
        if reason:
            notes.no_work[_kind(reason)] += 1
        if reason != "not connected":
            self._seen.add(node_id)
        self.registry.set_away(node_id, reason)

    def loaded(self, node_id: str, load: Load, rtt_ms: float | None) -> None:
        notes = self._notes(node_id)
        notes.load, notes.rtt_ms = load, rtt_ms
        self._seen.add(node_id)
        known = self.snapshots.current.nodes.get(node_id)
        if known is None:
            return
        self.registry.set_silent(node_id, frozenset(engine.id for engine in load.engines if not engine.reachable))
        now = time.monotonic()
        contexts = {(model.engine, model.name): model.context_tokens for model in known.offer.models}
        engines = {engine.id: engine for engine in load.engines}
        alone = Counter(model.engine for model in known.offer.models)
        for model in load.models:
            if (model.engine, model.name) in contexts:
                engine = engines.get(model.engine)
                self._report(
                    node_id,
                    model,
                    engine,
                    contexts[model.engine, model.name],
                    known.offer.slots,
                    alone[model.engine] == 1,
                    rtt_ms,
                    now,
                )

    def refused(self, node_id: str, model: str, code: str, eta_s: float | None) -> None:  # noqa: ARG002 — the port's
        self._notes(node_id).refusals[code] += 1

    def reported(self, node_id: str, event: str, detail: str) -> None:
        notes = self._notes(node_id)
        if event == "connected":
            notes.connects += 1
        elif event == "restarted":
            self.registry.restarted(node_id)
        elif event == "probe":
            notes.last_probe, notes.last_probe_at_ms = detail, int(time.time() * 1000)
        now = time.monotonic()
        if now - notes.reported_at.get(event, float("-inf")) < REPORT_EVERY_S:
            return
        notes.reported_at[event] = now
        if event == "lost":
            notes.reported_at.pop("connected", None)  # a log that ends with `lost` would say that it is away
        if event not in ORDINARY:
            notes.last_report = f"{event}: {detail}"
        known = self.snapshots.current.nodes.get(node_id)
        name = known.name if known is not None else node_id
        (log.warning if event in REPORTED else log.info)("node %s: %s: %s", name, event, detail)
        if event in REPORTED:
            self._reports.append((node_id, event, detail))

    # --- the store's side

    async def run(self) -> None:
        """Until cancelled."""
        written_at, warm = time.monotonic(), False
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if not warm and self.snapshots.current.nodes:
                    await asyncio.to_thread(load_rest)
                    warm = True
                await self._store_offers()
                for node_id, revision in list(self._unapproved.items()):
                    self._acknowledge(node_id, revision)
                await self._store_reports()
                if time.monotonic() - written_at >= SEEN_EVERY_S:
                    written_at = time.monotonic()
                    await self.upkeep()
            except Exception as error:
                # a full or failing disk: what runs goes on by what is stored, and what was announced is tried again
                log.warning("what nodes tell could not be stored: %s: %s", type(error).__name__, error)
                await asyncio.sleep(FAILED_S)

    async def upkeep(self) -> None:
        """Write down who is connected, and let ephemeral nodes go that were not seen for long enough.

        While this gateway was down it saw nobody: that time counts against none of them.
        """
        for node_id, notes in list(self.notes.items()):
            if node_id not in self.snapshots.current.nodes:
                del self.notes[node_id]
                self.registry.gone(node_id)
            elif notes.stands not in (None, "not connected"):
                self._seen.add(node_id)
        seen, self._seen = self._seen, set()
        if not self.snapshots.current.nodes:
            return
        from potluck.admin.operations import nodes

        await self.store.write(nodes.seen(sorted(seen), int(time.time() * 1000)))
        if time.monotonic() - self._began_at >= nodes.EPHEMERAL_KEPT_S:
            change = await self.store.write(nodes.forget_ephemeral(self.vault))
            await self.snapshots.refresh(change)

    async def _store_offers(self) -> None:
        now = time.monotonic()
        due = [node_id for node_id in self._offers if self._notes(node_id).offer_is_due(now)]
        if not due:
            return
        from potluck.admin.errors import OperationError
        from potluck.admin.operations import nodes

        for node_id in due:
            caps, agent = self._offers.pop(node_id)
            self._notes(node_id).offer_stored(time.monotonic())
            offer = offer_of(caps)

            def store_offer(work: "Work", node_id: str = node_id, offer: Offer = offer, agent: str = agent) -> bool:
                return nodes.store_offer(work, node_id, offer, agent)

            try:
                await self._do(node_id, store_offer)
            except OperationError as error:
                log.info("the offer of node %s is not kept: %s", node_id, error.detail)
            except Exception:
                self._offers.setdefault(node_id, (caps, agent))
                raise
            else:
                self._routed(node_id)
                self._acknowledge(node_id, caps.revision)

    def _acknowledge(self, node_id: str, revision: int) -> None:
        """Now, or once the node is approved."""
        known = self.snapshots.current.nodes.get(node_id)
        if known is None or known.approved:
            self._unapproved.pop(node_id, None)
            self.in_force(node_id, revision)
        else:
            self._unapproved[node_id] = revision

    async def _store_reports(self) -> None:
        while self._reports:
            node_id, event, detail = self._reports[0]

            def report(work: "Work", node_id: str = node_id, event: str = event, detail: str = detail) -> None:
                known = self.snapshots.current.nodes.get(node_id)
                work.audit(f"node.{event}", node_id, known.name if known is not None else "", detail=detail)

            await self._do(node_id, report)
            del self._reports[0]

    async def _do(self, node_id: str, operation: "Callable[[Work], object]") -> None:
        known = self.snapshots.current.nodes.get(node_id)
        if known is None:
            return
        # SQLAlchemy comes with these: a gateway without nodes does without
        from potluck.admin.control import Control
        from potluck.admin.operations.work import Actor

        actor = Actor("hub", "hub", known.organisation_id)
        await Control(self.store, self.vault, self.snapshots).do(actor, operation)

    # --- steps

    def _routed(self, node_id: str) -> None:
        """Its stored offer is another one now: estimates of what it no longer has would only pile up."""
        known = self.snapshots.current.nodes.get(node_id)
        if known is not None:
            self.registry.offered(
                node_id, {place_of(node_id, model.engine, model.name) for model in known.offer.models}
            )

    def _notes(self, node_id: str) -> NodeNotes:
        notes = self.notes.get(node_id)
        if notes is None:
            notes = self.notes[node_id] = NodeNotes()
        return notes

    def _report(
        self,
        node_id: str,
        model: ModelState,
        engine: EngineState | None,
        context_tokens: int | None,
        node_slots: int,
        alone: bool,
        rtt_ms: float | None,
        now: float,
    ) -> None:
        running, waiting = model.running, model.waiting
        if engine is not None and alone:  # what the engine does, its only model does
            running = engine.running if running is None else running
            waiting = engine.waiting if waiting is None else waiting
        self.registry.machine(place_of(node_id, model.engine, model.name)).report(
            reported_at=now,
            resident=model.resident,
            loading_eta_s=model.loading_eta_s,
            running=running,
            waiting=waiting,
            prefill_tps=model.prefill_tps,
            decode_tps=model.decode_tps,
            load_s=model.load_s,
            slots=(engine.slots if engine is not None else None) or node_slots or None,
            rtt_ms=rtt_ms,
            context_tokens=context_tokens,
        )


def load_rest() -> None:
    """What a gateway with nodes needs and one without does not: half a second of imports, for a thread."""
    import potluck.admin.control
    import potluck.admin.operations.nodes
    import potluck.hub.socket  # noqa: F401


def offer_of(caps: Caps) -> Offer:
    """What is stored of an announcement. A model that is named twice counts once."""
    paths = {engine.id: tuple(sorted(engine.paths)) for engine in caps.engines}
    models = {(model.engine, model.name): model for model in reversed(caps.models)}
    return Offer(
        models=tuple(
            OfferedModel(
                engine=model.engine,
                name=model.name,
                capabilities=tuple(model.capabilities),
                paths=paths[model.engine],
                digest=model.digest,
                format=model.format,
                quantization=model.quantization,
                confidence=model.confidence,
                context_tokens=model.context_tokens,
                price=_price(model.price_input_nanousd, model.price_output_nanousd),
            )
            for model in reversed(models.values())
        ),
        engines=tuple((engine.id, engine.kind, engine.version) for engine in caps.engines),
        slots=caps.slots,
        queue=caps.queue,
        os=caps.os,
        arch=caps.arch,
    )


def _nobody(node_id: str, revision: int) -> None:
    """There is no hub yet, so that no node can have announced anything."""


def _price(input_nanousd: int | None, output_nanousd: int | None) -> NodePrice | None:
    # one side alone is no price: the other one would be had for nothing
    return None if input_nanousd is None or output_nanousd is None else NodePrice(input_nanousd, output_nanousd)


def _kind(reason: str) -> str:
    """A reason without its details: there are few of them."""
    return reason.partition(":")[0]
