"""What the hub's tests share: a data plane with a hub on real sockets, nodes that dial it, and an ear for events."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from dataplane import CAPABILITIES, PATIENT, PRICE, Gateway

from potluck.conformance.node import ENGINE, FakeLink, FakeNode, NodeIdentity, NotLetInError
from potluck.hub.links import Links
from potluck.identity.gateway_key import verify
from potluck.model.node import CompiledNode, NodePlace, Offer, place_of
from potluck.model.resources import Timeouts
from potluck.model.snapshot import CompiledTarget, Endpoint, RequestHead
from potluck.proxy.limits import PlaneLimits
from potluck.wire import link_messages as m

GATEWAY = NodeIdentity("gateway", "gateway", b"g" * 32)
"""the same kind of key"""
PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions", "embeddings": "/v1/embeddings"}
QUICK = m.Welcome(0, [], heartbeat_s=1.0, stream_window_bytes=192 * 1024)
"""terms with which a silent link is suspect after 1.3 s and lost after 3"""


class Heard:
    """Implements `ports.NodeEvents`: keeps what it hears, and tells routing, as the runtime does."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.caps: list[tuple[str, m.Caps]] = []
        self.stood: list[tuple[str, str, float]] = []
        """node, reason, when (monotonic)"""
        self.loads: list[tuple[str, m.Load, float | None]] = []
        self.refusals: list[tuple[str, str, str]] = []
        self.reports: list[tuple[str, str, str]] = []

    def offered(self, node_id: str, caps: m.Caps, agent: str) -> None:
        assert agent.startswith(("fake/", "potluck/"))
        self.caps.append((node_id, caps))

    def stands(self, node_id: str, reason: str) -> None:
        self.stood.append((node_id, reason, time.monotonic()))
        self.gateway.plane.registry.set_away(node_id, reason)

    def loaded(self, node_id: str, load: m.Load, rtt_ms: float | None) -> None:
        self.loads.append((node_id, load, rtt_ms))

    def refused(self, node_id: str, model: str, code: str, eta_s: float | None) -> None:
        self.refusals.append((node_id, model, code))

    def reported(self, node_id: str, event: str, detail: str) -> None:
        self.reports.append((node_id, event, detail))

    def stand(self, node_id: str) -> str | None:
        """As told last."""
        return next((reason for node, reason, _ in reversed(self.stood) if node == node_id), None)


class HubGateway(Gateway):
    """A data plane whose nodes are enrolled by the test."""

    def __init__(self, home: Path, limits: PlaneLimits | None = None, terms: m.Welcome | None = None) -> None:
        super().__init__(home, limits or PlaneLimits())
        self.heard = Heard(self)
        self.links = Links(
            asyncio.get_running_loop(),
            self.snapshots,
            self.heard,
            sign=GATEWAY.sign,
            verify=verify,
            origin_of=lambda host, tls, _address: None if host.startswith("evil") else f"http{'s' * tls}://{host}",
            terms=terms,
        )
        self.plane.upstreams["hub"] = self.links
        self.plane.links = self.links.accept
        self.nodes: list[FakeNode] = []

    async def _sweep(self) -> None:
        while True:
            now = time.monotonic()
            self.plane.sweep(now)
            self.pool.sweep(now)
            self.links.sweep(now)
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        for node in self.nodes:
            await node.stop()
        self.links.close()
        self.links.cut()
        await super().stop()

    # configuration

    def enrol(self, name: str = "lab-1", *, approved: bool = True, **members: Any) -> NodeIdentity:
        """A node that the snapshot has."""
        identity = NodeIdentity(f"node_{name}", f"nky_{name}")
        self.change(
            CompiledNode(
                identity.node,
                "org_test",
                name,
                approved,
                {identity.key: identity.public_key},
                False,
                Offer(),
                **members,
            )
        )
        return identity

    def change(self, node: CompiledNode) -> None:
        self.snapshots.swap(nodes={**self.snapshots.current.nodes, node.id: node})

    def alter(self, node_id: str, **members: Any) -> None:
        self.change(msgspec.structs.replace(self.snapshots.current.nodes[node_id], **members))

    def revoke(self, node_id: str) -> None:
        nodes = {**self.snapshots.current.nodes}
        del nodes[node_id]
        self.snapshots.swap(nodes=nodes)

    def fake_node(self, identity: NodeIdentity, **more: Any) -> FakeNode:
        """A machine with that key."""
        node = FakeNode(self.host, self.port, identity, GATEWAY.public_key, **more)
        self.nodes.append(node)
        return node

    async def node(self, name: str = "lab-1", *, links: int = 1, **more: Any) -> FakeNode:
        """Enrolled, connected, ready; a public model for each of its models: the model's name."""
        identity = self.enrol(name)
        node = self.fake_node(identity, **more)
        for _ in range(links):
            await node.dial()
        await self.until(lambda: self.heard.stand(identity.node) == "")
        for model in node.models:
            if model not in self.snapshots.current.models:
                self.serve(model, self.on_node(identity.node, model))
        return node

    def on_node(
        self, node_id: str, model: str, *, timeouts: Timeouts = PATIENT, own: bool = False, **members: Any
    ) -> CompiledTarget:
        """A target on a node."""
        name = node_id.removeprefix("node_")
        heads = {
            capability: RequestHead(
                "POST", PATHS[capability], (("content-type", "application/json"), ("authorization", "Bearer no")), b""
            )
            for capability in CAPABILITIES
            if capability in PATHS
        }
        return CompiledTarget(
            **{
                "id": f"tgt_{name}_{model}",
                "name": f"node:{name}/{model}",
                "provider_id": node_id,
                "provider": f"node:{name}",
                "credential_id": None,
                "upstream": "hub",
                "endpoint": Endpoint(node_id, "", 0, False, timeouts),
                "model_json": msgspec.json.encode(model),
                "heads": heads,
                "price": PRICE,
                "own": True,
                "on_hangup": "cancel",
                "quirks": frozenset(),
                "place": place_of(node_id, ENGINE, model),
                "node": NodePlace(node_id, ENGINE, model),
                "owner": "" if own else "project:somebody",
                **members,
            }
        )

    def _left(self) -> dict[str, Any]:
        left = super()._left()
        left.pop("tasks", None)  # fake nodes have some
        hub = {
            "node calls": sum(len(node.calls) for node in self.links.nodes.values()),
            "jobs": sum(len(node.table.jobs) for node in self.links.nodes.values()),
            "queued": sum(len(node.waiting) + len(node.waiting_own) for node in self.links.nodes.values()),
        }
        return {**left, **{name: count for name, count in hub.items() if count}}


@contextlib.asynccontextmanager
async def hub_gateway(home: Path, **more: Any) -> AsyncIterator[HubGateway]:
    """A gateway that is at rest when the block is over."""
    gateway = HubGateway(home, **more)
    await gateway.start()
    try:
        yield gateway
        await gateway.at_rest()
    finally:
        await gateway.stop()


async def refused_code(node: FakeNode) -> str:
    """Dial; how it was not let in."""
    try:
        link: FakeLink = await node.dial()
    except NotLetInError as error:
        return error.code
    raise AssertionError(f"it was let in: {link}")
