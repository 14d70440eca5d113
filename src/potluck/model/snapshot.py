"""The compiled, immutable view of configuration that the data plane reads. Counters and breakers are not in it."""

import msgspec

from potluck.model.node import CompiledNode, NodePlace, OwnDevices
from potluck.model.price import Price
from potluck.model.resources import (
    AssistantPrefix,
    Capability,
    DataClass,
    OnHangup,
    Probe,
    Route,
    Timeouts,
)


class Endpoint(msgspec.Struct, frozen=True):
    """Where bytes go. `key` names the connection pool: two endpoints with the same key are interchangeable."""

    key: str
    host: str
    port: int
    tls: bool
    timeouts: Timeouts
    max_connections: int = 1024


class RequestHead(msgspec.Struct, frozen=True):
    """A request head made once at compile time. `wire` ends with `content-length: `, ready for number and blank line.

    `headers` holds the same fields, for carriers that do not speak HTTP/1.1 bytes (node links). Secret: never log it.
    """

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    wire: bytes

    def __repr__(self) -> str:
        return f"RequestHead({self.method} {self.path})"


class CompiledTarget(msgspec.Struct, frozen=True, eq=False):
    """One routable place, with everything that the exchange needs ready-made. Compared by identity."""

    id: str
    name: str
    """`openai/gpt-4o-mini`: provider name / upstream model"""
    provider_id: str
    provider: str
    credential_id: str | None
    upstream: str
    """which implementation of `ports.Upstream` carries it: `pool`, `local`, `hub`"""
    endpoint: Endpoint
    model_json: bytes
    """the upstream model's name as JSON text, for the `model` member"""
    heads: dict[Capability, RequestHead]
    """one per endpoint that this target serves"""
    price: Price | None
    own: bool
    on_hangup: OnHangup
    quirks: frozenset[str]
    """names from `providers.quirks`"""
    credential: str = ""
    """the credential's name, for people"""
    credential_weight: int = 1
    weight: int = 1
    priority: int = 0
    slots: int = 1024
    """concurrent requests that it serves well"""
    assistant_prefix: AssistantPrefix = "none"
    place: str = ""
    """names the target's state (breaker, estimates): the same for every model that has this target"""
    unroutable: str = ""
    """why it must not be called ("no price: potluck model price …"); empty: routable"""
    node: NodePlace | None = None
    """it is on a node; `provider_id` is then the node's id, and `provider` `node:NAME`"""
    community: bool = False
    """somebody else's machine: data class `open` only"""
    owner: str = ""
    """of a node: `project:NAME`, or empty for the whole organisation"""

    @property
    def unroutable_told(self) -> str:
        """`unroutable` for callers: of a node, nothing that is between its owner and the operator."""
        return self.unroutable if self.node is None else self.unroutable.partition(": ")[0]


class CompiledModel(msgspec.Struct, frozen=True, eq=False):
    """A public model: its targets in order, and its entry of `GET /v1/models` as JSON bytes."""

    name: str
    targets: tuple[CompiledTarget, ...]
    """one per target and credential, those of one target side by side"""
    card: bytes
    alias_of: str = ""
    """the model's proper name, when this is an alias"""
    declared: bool = False
    """somebody wrote it down, aliases too; else it is a provider's word, or a pin"""


class CompiledProbe(msgspec.Struct, frozen=True, eq=False):
    """A provider that wants active probes, and one target per credential to probe it by."""

    provider_id: str
    provider: str
    probe: Probe
    targets: tuple[CompiledTarget, ...]
    models_heads: tuple[RequestHead, ...]
    """of a `GET /models`, for the target of the same index"""


class CompiledKey(msgspec.Struct, frozen=True, eq=False):
    """An API key as the data plane sees it. Revoked and expired keys are not in the snapshot."""

    id: str
    name: str
    organisation_id: str
    project_id: str
    project: str
    data_class: DataClass
    """the most open one that its requests may have: its project's, or its own where that is stricter"""
    models: frozenset[str] | None
    """None: all"""
    tags: tuple[str, ...]
    expires_at_s: float
    """unix seconds; `inf` when it never does. The exchange checks it, since the snapshot may be older"""
    created_at_ms: int
    model_order: tuple[str, ...] = ()
    """`models` in the key's own order, for routes that fall back to `key:*`"""
    own_devices: OwnDevices = "off"
    scope: str = ""
    """Keys of one scope are served alike, as far as no route looks at the key: its project's id, or its own where
    something of its own decides. Empty: its own"""


class Snapshot(msgspec.Struct, frozen=True, eq=False):
    """Everything that a request may need to know, at one moment. Swapped whole."""

    version: int
    keys: dict[bytes, CompiledKey]
    """by keyed hash of the full key text (`identity.keys.hash_secret`)"""
    models: dict[str, CompiledModel]
    """by public name, in listing order"""
    pins: dict[str, CompiledModel]
    """`provider/upstream-model` → a one-target model"""
    routes: tuple[Route, ...] = ()
    """in the order in which they are tried"""
    probes: tuple[CompiledProbe, ...] = ()
    nodes: dict[str, CompiledNode] = {}
    """by id; without the revoked ones"""
