"""What `potluck.toml` may say: one struct per section. Names are checked here, references between objects by `admin`.

Everything is optional but names, addresses and targets; a default is what the object gets when the file says nothing.
"""

import datetime as dt
import re
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

import msgspec

from potluck.config.forms import ModelName, Name, Seconds, Usd, Weight, doubled
from potluck.config.routing import ProbeEntry, RouteEntry
from potluck.model.node import NODE_PREFIX, OwnDevices
from potluck.model.price import Price, PriceSource, usd_per_million_to_nanousd
from potluck.model.resources import AssistantPrefix, Capability, DataClass, Dialect, OnHangup, Timeouts
from potluck.model.secret import Secret

Priority = Annotated[int, msgspec.Meta(ge=0, le=1_000)]
Slots = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Aliases = Annotated[tuple[ModelName, ...], msgspec.Meta(max_length=100)]


NODE_NAMES = re.compile(r"[A-Za-z0-9._*-]{1,63}")
NODES_OWN = {
    "price": "a target on nodes costs what each node does: see potluck nodes price",
    "capabilities": "a target on nodes serves what each node says: remove it",
    "context_tokens": "a target on nodes has the context that each node says: remove it",
    "slots": "a target on nodes has the slots of each node: remove it",
}
"""members that a target on nodes cannot have, and why"""


class PriceEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """USD per million tokens, as people write it; `per_request` in USD. A written 0 is a price."""

    input: Usd
    output: Usd
    cached_input: Usd | None = None
    cache_write: Usd | None = None
    reasoning: Usd | None = None
    audio_input: Usd | None = None
    audio_output: Usd | None = None
    per_request: Usd = 0.0

    def to_price(self, version: str, source: PriceSource) -> Price:
        """The same in integers: nano-USD per million tokens."""

        def optional(usd: float | None) -> int | None:
            return None if usd is None else usd_per_million_to_nanousd(usd)

        return Price(
            input=usd_per_million_to_nanousd(self.input),
            output=usd_per_million_to_nanousd(self.output),
            version=version,
            source=source,
            cached_input=optional(self.cached_input),
            cache_write=optional(self.cache_write),
            reasoning=optional(self.reasoning),
            audio_input=optional(self.audio_input),
            audio_output=optional(self.audio_output),
            per_request=usd_per_million_to_nanousd(self.per_request),
        )

    @classmethod
    def from_price(cls, price: Price) -> "PriceEntry":
        """The inverse of `to_price`; tiers have no form in a document and are left out."""

        def usd(nanousd: int | None) -> float | None:
            return None if nanousd is None else nanousd / 1_000_000_000

        return cls(
            input=price.input / 1_000_000_000,
            output=price.output / 1_000_000_000,
            cached_input=usd(price.cached_input),
            cache_write=usd(price.cache_write),
            reasoning=usd(price.reasoning),
            audio_input=usd(price.audio_input),
            audio_output=usd(price.audio_output),
            per_request=price.per_request / 1_000_000_000,
        )


class CredentialEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One key of an upstream account. Write it as `"${VARIABLE}"`."""

    name: Name = "main"
    key: Secret
    weight: Weight = 1


class TimeoutsEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds."""

    connect_s: Seconds = Timeouts().connect_s
    first_byte_s: Seconds = Timeouts().first_byte_s
    idle_s: Seconds = Timeouts().idle_s
    total_s: Seconds = Timeouts().total_s

    def to_timeouts(self) -> Timeouts:
        return Timeouts(self.connect_s, self.first_byte_s, self.idle_s, self.total_s)

    @classmethod
    def from_timeouts(cls, timeouts: Timeouts) -> "TimeoutsEntry":
        return cls(**msgspec.structs.asdict(timeouts))


class ProviderEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream account or a server of one's own."""

    name: Name
    base_url: str
    dialect: Dialect = "openai"
    own: bool = False
    """own infrastructure: may serve private data, costs 0 unless a price is written"""
    on_hangup: OnHangup = "cancel"
    max_connections: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 1024
    timeouts: TimeoutsEntry = TimeoutsEntry()
    assistant_prefix: AssistantPrefix | None = None
    """None: what is known of its host"""
    probe: ProbeEntry | None = None
    """active health checks; None: live traffic alone tells"""
    credentials: tuple[CredentialEntry, ...] = ()

    def check(self) -> dict[str, str]:
        """What is wrong beyond types, by member."""
        wrong = {}
        if reason := provider_name_fault(self.name):
            wrong["name"] = reason
        if reason := base_url_fault(self.base_url):
            wrong["base_url"] = reason
        if double := doubled(entry.name for entry in self.credentials):
            wrong["credentials"] = f"two credentials are named {double!r}: give each its own name"
        return wrong


class TargetEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One place that serves a model: `provider/upstream-model`, split at the first `/`. `node:lab-1/upstream-model` is
    on that node, `node:*/upstream-model` on every approved one that offers it, now or later."""

    target: ModelName
    price: PriceEntry | None = None
    capabilities: tuple[Capability, ...] | None = None
    """None: chat, completions and embeddings"""
    context_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)] | None = None
    weight: Weight = 1
    """its share under the strategy `weighted`, and among ties"""
    priority: Priority | None = None
    """its tier under the strategy `priority`, lower first; None: its place in the list"""
    slots: Slots | None = None
    """requests at once that it serves well; None: its provider's `max_connections`"""

    @property
    def provider(self) -> str:
        return self.target.partition("/")[0]

    @property
    def node(self) -> str:
        """A node's name, or a pattern with `*`; empty: it is at a provider."""
        return self.provider.removeprefix(NODE_PREFIX) if self.provider.startswith(NODE_PREFIX) else ""

    @property
    def upstream_model(self) -> str:
        return self.target.partition("/")[2]

    def check(self) -> dict[str, str]:
        if self.target.startswith(NODE_PREFIX):
            if not NODE_NAMES.fullmatch(self.node) or not self.upstream_model:
                return {"target": f"{self.target!r} names no node: write node:NAME/model, or node:*/model for all"}
            said = [member for member in NODES_OWN if getattr(self, member) is not None]
            return {said[0]: NODES_OWN[said[0]]} if said else {}
        if not self.provider or not self.upstream_model:
            return {"target": f"{self.target!r} names no provider: write provider/upstream-model"}
        return {}


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A public model name and the targets that serve it, in order."""

    name: ModelName
    targets: tuple[TargetEntry, ...]
    placement: Literal["any", "own"] = "any"
    """`own`: private weights, never leaves own infrastructure"""
    aliases: Aliases = ()
    """other public names for the same"""

    def check(self) -> dict[str, str]:
        if not self.targets:
            return {"targets": 'a model needs at least one target: targets = [{ target = "provider/model" }]'}
        if double := doubled(entry.target for entry in self.targets):
            return {"targets": f"{double!r} stands here twice: remove one"}
        return {}


class ModelPriceEntry(PriceEntry, frozen=True, kw_only=True):
    """The operator's own price, which goes before the bundled table's."""

    model: ModelName
    """a public name, an upstream model's name, or `provider/upstream-model`"""

    @property
    def price(self) -> PriceEntry:
        return PriceEntry(**{part: getattr(self, part) for part in PriceEntry.__struct_fields__})

    @classmethod
    def of(cls, model: str, price: PriceEntry) -> "ModelPriceEntry":
        return cls(model=model, **msgspec.structs.asdict(price))


class ProjectEntry(msgspec.Struct, frozen=True, kw_only=True):
    name: Name
    data_class: DataClass = "standard"
    """the most open class that its keys may use"""


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An API key. Without `key` a secret is made when the file is first applied, and shown once."""

    name: Name
    project: Name = "default"
    key: Secret | None = None
    """`"${VARIABLE}"` holding a `plk-…` of one's own, for keys that must be the same everywhere"""
    models: tuple[ModelName, ...] = ()
    """model names it may use; empty: all"""
    tags: tuple[str, ...] = ()
    expires_at: dt.datetime | None = None
    own_device_priority: OwnDevices = "off"
    """its project's nodes, and the organisation's own: `own_first` before all other targets, `own_only` nothing else"""
    data_class: DataClass | None = None
    """the most open class that its requests may have; without it its project's, and never a more open one"""

    @property
    def expires_at_ms(self) -> int | None:
        return None if self.expires_at is None else round(self.expires_at.timestamp() * 1000)

    def check(self) -> dict[str, str]:
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            return {"expires_at": "has no time zone: write 2030-01-31T00:00:00Z"}
        return {}


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A whole `potluck.toml`."""

    NOT_YET: ClassVar[dict[str, str]] = {
        "limits": "rate limits",
        "budgets": "budgets",
        "cache": "cache policies",
        "notifications": "notifications",
    }
    """sections that this version does not carry out: refused, so that nobody believes a limit binds"""

    providers: tuple[ProviderEntry, ...] = ()
    models: tuple[ModelEntry, ...] = ()
    prices: tuple[ModelPriceEntry, ...] = ()
    projects: tuple[ProjectEntry, ...] = ()
    keys: tuple[KeyEntry, ...] = ()
    routes: tuple[RouteEntry, ...] = ()


IDENTITY = {
    "providers": "name",
    "models": "name",
    "prices": "model",
    "projects": "name",
    "keys": "name",
    "routes": "name",
}
"""The member that tells the objects of a section apart."""


RESERVED_PROVIDERS = ("own", "provider", "node", "nodes", "community", "any")
"""names that no provider can have: where providers are named, they mean kinds of them"""


def provider_name_fault(name: str) -> str:
    """Why a provider cannot be called that, or an empty text."""
    if name not in RESERVED_PROVIDERS:
        return ""
    return f"{name!r} means a kind of provider wherever providers are named: choose another name"


def base_url_fault(base_url: str) -> str:
    """Why `base_url` cannot be a provider's address, or an empty text."""
    try:
        parts = urlsplit(base_url)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        return "is not a URL: write https://host/v1"
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_valid:
        return "is not an http(s) URL: write https://host/v1"
    if parts.username is not None or parts.password is not None:
        return "carries a user or password: put the key under credentials"
    if parts.query or parts.fragment:
        return "carries a query or fragment: end it with the path, https://host/v1"
    if not base_url.isascii() or any(character <= " " for character in base_url):
        return "holds a space or a character outside ASCII"
    return ""
