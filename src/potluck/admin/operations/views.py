"""What the admin API shows of each object. Times are unix milliseconds, prices USD per million tokens. No secrets,
save in the one answer that makes it (`secret`)."""

from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import msgspec

from potluck.admin.operations.work import Row
from potluck.config.document import PriceEntry
from potluck.config.routing import (
    AffinityEntry,
    ConstraintsEntry,
    HedgeEntry,
    MatchEntry,
    ProbeEntry,
    RouteEntry,
    RouteTimeoutsEntry,
)
from potluck.model.node import OwnDevices
from potluck.model.price import Price
from potluck.model.resources import (
    Affinity,
    AssistantPrefix,
    Capability,
    DataClass,
    Dialect,
    Hedge,
    OnHangup,
    Origin,
    Probe,
    RouteConstraints,
    RouteMatch,
    RouteTimeouts,
    Strategy,
    Timeouts,
)

_STRINGS = msgspec.json.Decoder(list[str])
_CAPABILITIES = msgspec.json.Decoder(list[Capability])
_PRICE = msgspec.json.Decoder(Price)
_TIMEOUTS = msgspec.json.Decoder(Timeouts)

T = TypeVar("T")


class Page(msgspec.Struct, frozen=True):
    """Where a list goes on."""

    next_cursor: str | None


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """An API key. `hint` is what people recognise it by."""

    id: str
    name: str
    project: str
    project_id: str
    hint: str
    models: list[str]
    tags: list[str]
    own_device_priority: OwnDevices
    """its project's nodes and the organisation's own: `own_first` before all other targets, `own_only` nothing else"""
    data_class: DataClass | None
    """the most open one that its requests may have; null: its project's. The stricter of both counts"""
    status: Literal["active", "expired", "revoked"]
    expires_at_ms: int | None
    revoked_at_ms: int | None
    last_used_at_ms: int | None
    previous_until_ms: int | None
    """the secret before the last rotation is good until then"""
    origin: Origin
    created_at_ms: int


class MadeKey(KeyView, frozen=True, kw_only=True):
    """A key with its secret: shown in this answer and never again (null when the answer is a replay)."""

    secret: str | None
    warnings: list[str] = []
    """what its list of models names in vain"""

    def without_secret(self) -> "MadeKey":
        return msgspec.structs.replace(self, secret=None)


class ProjectView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    data_class: DataClass
    origin: Origin
    created_at_ms: int


class CredentialView(msgspec.Struct, frozen=True, kw_only=True):
    """A key of an upstream account, without the key."""

    id: str
    provider: str
    provider_id: str
    name: str
    hint: str
    weight: int
    disabled: bool
    origin: Origin
    created_at_ms: int


class ProviderView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    dialect: Dialect
    base_url: str
    own: bool
    on_hangup: OnHangup
    max_connections: int
    timeouts: Timeouts
    assistant_prefix: AssistantPrefix | None
    """null: what is known of its host"""
    probe: ProbeEntry | None
    builtin: bool
    credentials: list[CredentialView]
    listed_models: int
    """how many models its own `GET /models` named at the last test"""
    origin: Origin
    created_at_ms: int


class TargetView(msgspec.Struct, frozen=True, kw_only=True):
    """One place of a declared model, or its places on nodes of a name or pattern. `price` is what was written for this
    very target, if anything was; those on nodes cost what each node does."""

    id: str
    model: str
    model_id: str
    target: str
    provider: str
    """`node:NAME`, or a pattern, of those on nodes"""
    provider_id: str | None
    """null: it is on nodes"""
    upstream_model: str
    position: int
    price: PriceEntry | None
    capabilities: list[Capability]
    """empty on nodes: what each says"""
    context_tokens: int | None
    weight: int
    priority: int | None
    """its tier under the strategy `priority`; null: its position"""
    slots: int | None
    """requests at once that it serves well; null: its provider's `max_connections`, or its node's own"""
    origin: Origin
    created_at_ms: int


class DeclaredModelView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    placement: Literal["any", "own"]
    aliases: list[str]
    """other public names for the same"""
    targets: list[TargetView]
    origin: Origin
    created_at_ms: int


class RouteView(msgspec.Struct, frozen=True, kw_only=True):
    """A routing rule. Rules are tried by `position`, lowest first, the older first among equals; the first that matches
    is the request's."""

    id: str
    name: str
    position: int
    match: MatchEntry
    strategy: Strategy
    split: Literal["key", "user"] | None
    constraints: ConstraintsEntry
    fallback: list[str]
    timeouts: RouteTimeoutsEntry
    hedge: HedgeEntry | None
    affinity: AffinityEntry | None
    origin: Origin
    created_at_ms: int


class MadeRoute(RouteView, frozen=True, kw_only=True):
    """A rule that was made or changed just now. `warnings`: what it names and what is not there yet."""

    warnings: list[str]


class PriceView(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's price for a model name or a `provider/upstream-model`."""

    id: str
    model: str
    price: PriceEntry
    version: str
    origin: Origin
    created_at_ms: int


class AuditView(msgspec.Struct, frozen=True, kw_only=True):
    seq: int
    at_ms: int
    actor: str
    action: str
    object_id: str
    name: str
    detail: dict[str, Any]
    hash: str
    """hexadecimal; covers the entry and the hash before it"""


def key_view(row: Row, project: str, now_ms: int) -> KeyView:
    return KeyView(**_key_members(row, project, now_ms))


def made_key(row: Row, project: str, now_ms: int, secret: str, warnings: Iterable[str] = ()) -> MadeKey:
    return MadeKey(**_key_members(row, project, now_ms), secret=secret, warnings=list(warnings))


def _key_members(row: Row, project: str, now_ms: int) -> dict[str, Any]:
    expired = row["expires_at_ms"] is not None and row["expires_at_ms"] <= now_ms
    overlaps = (row["previous_until_ms"] or 0) > now_ms
    return _taken(
        KeyView,
        row,
        project=project,
        models=_STRINGS.decode(row["models"]),
        tags=_STRINGS.decode(row["tags"]),
        own_device_priority=row["own_devices"],
        status="revoked" if row["revoked_at_ms"] is not None else "expired" if expired else "active",
        previous_until_ms=row["previous_until_ms"] if overlaps else None,
    )


def project_view(row: Row) -> ProjectView:
    return ProjectView(**_taken(ProjectView, row))


def credential_view(row: Row, provider: str) -> CredentialView:
    return CredentialView(**_taken(CredentialView, row, provider=provider))


def provider_view(row: Row, credentials: list[Row], listed_models: int) -> ProviderView:
    return ProviderView(
        **_taken(
            ProviderView,
            row,
            credentials=[credential_view(each, row["name"]) for each in credentials],
            timeouts=_TIMEOUTS.decode(row["timeouts"]),
            probe=probe_entry(row),
            listed_models=listed_models,
        )
    )


def probe_entry(row: Row) -> ProbeEntry | None:
    """A provider's probes as a file says them."""
    return None if row["probe"] is None else ProbeEntry.from_probe(msgspec.json.decode(row["probe"], type=Probe))


def target_view(row: Row, model: str, provider: str) -> TargetView:
    price = None if row["price"] is None else PriceEntry.from_price(_PRICE.decode(row["price"]))
    return TargetView(
        **_taken(
            TargetView,
            row,
            model=model,
            provider=provider,
            target=f"{provider}/{row['upstream_model']}",
            price=price,
            capabilities=_CAPABILITIES.decode(row["capabilities"]),
        )
    )


def model_view(row: Row, targets: list[TargetView]) -> DeclaredModelView:
    aliases = _STRINGS.decode(row["aliases"])
    return DeclaredModelView(**_taken(DeclaredModelView, row, targets=targets, aliases=aliases))


def route_view(row: Row) -> RouteView:
    entry = route_entry(row)
    affinity = entry.to_affinity()
    made = {name: getattr(entry, name) for name in entry.__struct_fields__}
    made |= {
        "fallback": list(entry.fallback),
        "affinity": None if affinity is None else AffinityEntry.from_affinity(affinity),
    }
    return RouteView(**_taken(RouteView, row, **made))


def route_entry(row: Row) -> RouteEntry:
    """A route as a file says it."""

    def stored(member: str, kind: type[T]) -> T:
        return msgspec.json.decode(row[member], type=kind)

    affinity = None if row["affinity"] is None else stored("affinity", Affinity)
    return RouteEntry(
        name=row["name"],
        match=MatchEntry.from_match(stored("match", RouteMatch)),
        strategy=row["strategy"],
        split=row["split_by"] or None,
        constraints=ConstraintsEntry.from_constraints(stored("constraints", RouteConstraints)),
        fallback=stored("fallback", tuple[str, ...]),
        timeouts=RouteTimeoutsEntry.from_timeouts(stored("timeouts", RouteTimeouts)),
        hedge=None if row["hedge"] is None else HedgeEntry.from_hedge(stored("hedge", Hedge)),
        affinity=affinity == Affinity() or (False if affinity is None else AffinityEntry.from_affinity(affinity)),
    )


def price_view(row: Row) -> PriceView:
    price = _PRICE.decode(row["price"])
    return PriceView(**_taken(PriceView, row, price=PriceEntry.from_price(price), version=price.version))


def audit_view(row: Row) -> AuditView:
    detail = msgspec.json.decode(row["detail"])
    return AuditView(**_taken(AuditView, row, detail=detail, hash=row["hash"].hex()))


def _taken(view: type[msgspec.Struct], row: Row, **made: Any) -> dict[str, Any]:
    """The members of `view`: those given, and the rest from the columns of the same name."""
    names = (field.name for field in msgspec.structs.fields(view))
    return {name: made[name] if name in made else row[name] for name in names}
