"""Stored objects as the control plane handles them: rows of the store, bodies of the admin API."""

from typing import Literal

import msgspec

from potluck.model.price import Price

Dialect = Literal["openai", "anthropic", "gemini", "azure-openai"]
Capability = Literal["chat", "completions", "embeddings", "responses"]
OnHangup = Literal["cancel", "drain"]
DataClass = Literal["open", "standard", "private"]
OPENNESS: dict[DataClass, int] = {"private": 0, "standard": 1, "open": 2}
"""of two classes that both hold, the one with the lower number counts"""
Strategy = Literal["priority", "weighted", "cheapest", "fastest", "least_busy", "balanced"]
"""what `policy.selection` knows; a request's `prefer: own` puts own targets first, whatever the strategy"""
SplitBy = Literal["", "key", "user"]
"""`weighted` draws at random, or always alike for the same key or end user (an A/B split)"""
AssistantPrefix = Literal["none", "plain", "prefix_flag", "continue_flag"]
"""How a target goes on from text that is already there, as the last message of role `assistant`. `plain`: it does so by
itself (llama.cpp). `prefix_flag`: the message carries `"prefix": true` (Mistral, DeepSeek). `continue_flag`: the
request carries `continue_final_message` and `add_generation_prompt` (vLLM, SGLang). `none`: it cannot."""
Origin = Literal["api", "file", "first_start"]
"""who made it: a file's objects are changed by the next `config apply` only"""


class Organisation(msgspec.Struct, frozen=True):
    id: str
    name: str
    created_at_ms: int


class Project(msgspec.Struct, frozen=True):
    id: str
    organisation_id: str
    name: str
    created_at_ms: int
    data_class: DataClass = "standard"
    origin: Origin = "api"


class ApiKey(msgspec.Struct, frozen=True):
    """An API key without its secret; `hash` is the keyed hash that the snapshot looks up."""

    id: str
    organisation_id: str
    project_id: str
    name: str
    hash: bytes
    hint: str
    """first and last characters, for people to recognise it by: `plk-ab…xyz`"""
    created_at_ms: int
    models: tuple[str, ...] = ()
    """model names it may use; empty: all"""
    tags: tuple[str, ...] = ()
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None
    origin: Origin = "api"


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds. Defaults from the field: see `docs/reference/defaults.md`."""

    connect_s: float = 5.0
    first_byte_s: float = 60.0
    idle_s: float = 30.0
    total_s: float = 900.0


class Provider(msgspec.Struct, frozen=True):
    id: str
    organisation_id: str
    name: str
    dialect: Dialect
    base_url: str
    created_at_ms: int
    own: bool = False
    on_hangup: OnHangup = "cancel"
    timeouts: Timeouts = Timeouts()
    max_connections: int = 1024
    assistant_prefix: AssistantPrefix | None = None
    """None: what `providers.quirks` knows of its host"""
    probe: "Probe | None" = None
    """active probes; None: live traffic alone tells its health"""
    builtin: bool = False
    """the supervised local model: base URL and credential come from the supervisor at run time"""
    origin: Origin = "api"


class Probe(msgspec.Struct, frozen=True):
    """Active health checks of a provider. `GET /models` costs nothing; a completion is asked for only on a budget."""

    every_s: float = 60.0
    model: str = ""
    """upstream model for a paid completion of a few tokens; empty: `GET /models` only"""
    budget_usd_per_day: float = 0.0
    """no paid probe is sent beyond this, nor while live traffic succeeds"""


class Credential(msgspec.Struct, frozen=True):
    """An upstream account key. `sealed` is AES-256-GCM under the master key; the plain secret is never stored."""

    id: str
    organisation_id: str
    provider_id: str
    name: str
    sealed: bytes
    hint: str
    created_at_ms: int
    weight: int = 1
    disabled: bool = False
    origin: Origin = "api"


class Model(msgspec.Struct, frozen=True):
    """A public model name."""

    id: str
    organisation_id: str
    name: str
    created_at_ms: int
    placement: Literal["any", "own"] = "any"
    aliases: tuple[str, ...] = ()
    """other public names for the same"""
    origin: Origin = "api"


class Target(msgspec.Struct, frozen=True):
    """One place that serves a public model: provider × upstream model, with an optional price of its own."""

    id: str
    organisation_id: str
    model_id: str
    provider_id: str
    upstream_model: str
    created_at_ms: int
    position: int = 0
    price: Price | None = None
    capabilities: tuple[Capability, ...] = ("chat", "completions", "embeddings")
    context_tokens: int | None = None
    weight: int = 1
    """its share under `weighted`, and among ties"""
    priority: int | None = None
    """its tier under `priority`, lower first; None: its position, so that a plain list is an order"""
    slots: int | None = None
    """concurrent requests that it serves well, for `least_busy`; None: its provider's `max_connections`"""
    origin: Origin = "api"


class RouteMatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which requests a route takes: each list holds names or patterns with `*`; all three have to match."""

    models: tuple[str, ...] = ("*",)
    projects: tuple[str, ...] = ("*",)
    keys: tuple[str, ...] = ("*",)


class RouteConstraints(msgspec.Struct, frozen=True, omit_defaults=True):
    """Hard filters of a route, in the meaning of the request controls of the same name. None: no filter."""

    only: tuple[str, ...] | None = None
    ignore: tuple[str, ...] | None = None
    max_price_input: int | None = None
    """nano-USD per million tokens"""
    max_price_output: int | None = None
    data_class: DataClass | None = None


class RouteTimeouts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Seconds; None: the provider's own. `total_s` bounds the whole request, over all attempts."""

    connect_s: float | None = None
    first_token_s: float | None = None
    idle_s: float | None = None
    total_s: float | None = None


class Hedge(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ask a second target when the first is late. `after_ms` 0: when it is later than 95 % of its own first tokens."""

    after_ms: int = 0
    max_extra: float = 0.05
    """at most this share of extra calls"""


class Affinity(msgspec.Struct, frozen=True, omit_defaults=True):
    """Send prompts with the same beginning to the same target, for its prompt cache."""

    window_s: float = 600.0
    """after the last use; every answer to a prompt with the same beginning renews it"""
    tolerance: float = 2.0
    """the price of staying: the target is kept while its score is at most this many times the best one's"""


class Route(msgspec.Struct, frozen=True):
    """A routing rule. Rules are tried in order of `position`; the first that matches is the request's."""

    id: str
    organisation_id: str
    name: str
    created_at_ms: int
    position: int = 0
    match: RouteMatch = RouteMatch()
    strategy: Strategy = "priority"
    split_by: SplitBy = ""
    constraints: RouteConstraints = RouteConstraints()
    fallback: tuple[str, ...] = ()
    """in order, once the model's own targets have failed: a model or alias; a pin `provider/model`; a pattern
    (`node:*`, `openai/*`) that holds back those of the model's targets that it matches; `key:*`, the calling key's own
    list of models"""
    timeouts: RouteTimeouts = RouteTimeouts()
    hedge: Hedge | None = None
    affinity: Affinity | None = None
    origin: Origin = "api"
