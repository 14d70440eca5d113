"""Stored objects as the control plane handles them: rows of the store, bodies of the admin API."""

from typing import Literal

import msgspec

from potluck.model.price import Price

Dialect = Literal["openai", "anthropic", "gemini", "azure-openai"]
Capability = Literal["chat", "completions", "embeddings", "responses"]
OnHangup = Literal["cancel", "drain"]
DataClass = Literal["open", "standard", "private"]
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
    builtin: bool = False
    """the supervised local model: base URL and credential come from the supervisor at run time"""
    origin: Origin = "api"


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
    origin: Origin = "api"
