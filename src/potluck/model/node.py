"""Nodes: machines that somebody enrolled. What is stored of them, and what the data plane knows of them."""

from typing import Literal

import msgspec

NodeState = Literal["pending", "approved", "revoked"]
"""`pending`: enrolled, and nobody has approved it yet; it may hold a link, and gets no work. `revoked`: for ever."""
OwnDevices = Literal["off", "own_first", "own_only"]
"""What a key's requests do about its own devices: nothing, try them before all others, or use nothing else. Its own are
the nodes that its project owns, and those of the whole organisation; never a community node."""

NODE_PREFIX = "node:"
"""before a node's name wherever it stands among providers: `node:lab-1/llama3.2:3b`"""


def place_of(node_id: str, engine: str, model: str) -> str:
    """Names the live state of one model on one node (`CompiledTarget.place`)."""
    return f"{node_id} {engine} {model}"


class NodePrice(msgspec.Struct, frozen=True):
    """Nano-USD per million tokens."""

    input: int
    output: int


class JoinToken(msgspec.Struct, frozen=True):
    """What lets machines enrol. The secret is stored as its keyed hash and shown once."""

    id: str
    organisation_id: str
    name: str
    hint: str
    created_at_ms: int
    expires_at_ms: int
    uses_left: int | None = 1
    """None: without end"""
    approved: bool = True
    """nodes that come by it need nobody's approval"""
    ephemeral: bool = False
    """they are forgotten `EPHEMERAL_KEPT_S` after they were last seen"""
    community: bool = False
    """they are somebody else's machines: data class `open` only, and no own infrastructure"""
    owner: str = ""
    """whose they are: `project:NAME`, or empty for the whole organisation"""
    tags: tuple[str, ...] = ()
    max_models: int | None = None
    max_price: NodePrice | None = None
    """What their owners may ask at most. None: 0 for own machines (own use is free); for the community's no announced
    price counts, and their models cost what is set at the gateway."""
    revoked_at_ms: int | None = None


class OfferedModel(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model as its node announced it: a stranger's words, validated (`wire.link_messages.ModelOffer`)."""

    engine: str
    """the engine's id at the node"""
    name: str
    capabilities: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    """of its engine: which of the public endpoints it serves"""
    digest: str = ""
    format: str = ""
    quantization: str = ""
    confidence: str = "low"
    context_tokens: int | None = None
    price: NodePrice | None = None
    """what the owner asks, as announced; None: nothing was said"""


class Offer(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that a node announced last, as it is stored: the link may be gone, and the models are still known."""

    models: tuple[OfferedModel, ...] = ()
    engines: tuple[tuple[str, str, str], ...] = ()
    """id, kind, version"""
    slots: int = 1
    queue: int = 0
    os: str = ""
    arch: str = ""


class Node(msgspec.Struct, frozen=True):
    """An enrolled machine."""

    id: str
    organisation_id: str
    name: str
    """unique in its organisation, of letters, digits, `.`, `_` and `-`"""
    state: NodeState
    created_at_ms: int
    keys: tuple[tuple[str, bytes], ...]
    """key id and Ed25519 public key (32 bytes): the one in force first, then the one before it while that is valid"""
    owner: str = ""
    community: bool = False
    ephemeral: bool = False
    tags: tuple[str, ...] = ()
    max_models: int | None = None
    max_price: NodePrice | None = None
    drained: bool = False
    """the operator wants no new work there, until told otherwise"""
    offer: Offer = Offer()
    prices: dict[str, NodePrice] = {}
    """set at the gateway by the owner, by model: they win over announced ones"""
    agent: str = ""
    last_seen_at_ms: int | None = None


class NodePlace(msgspec.Struct, frozen=True):
    """Where on which node a target is; with what a request of a certain kind has to say there."""

    node_id: str
    engine: str
    model: str
    data_class: Literal["open", "standard", "private"] = "standard"
    own: bool = False
    """the machine's owner asks: first in its queue"""


class CompiledNode(msgspec.Struct, frozen=True, eq=False):
    """A node as the hub sees it. Revoked ones are not in the snapshot."""

    id: str
    organisation_id: str
    name: str
    approved: bool
    keys: dict[str, bytes]
    """public keys by key id"""
    drained: bool
    offer: Offer
