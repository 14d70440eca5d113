"""What callers of the admin API send. Unknown members are refused: a typing mistake must not be taken for success."""

from typing import Annotated, Literal, TypeVar

import msgspec

from potluck.admin.errors import invalid
from potluck.config.document import Aliases, PriceEntry, Priority, Slots, TargetEntry, TimeoutsEntry
from potluck.config.forms import ModelName, Name, Seconds, Usd, Weight, in_words, missing_member
from potluck.config.routing import (
    Fallback,
    HedgeAfter,
    Patterns,
    ProbeEntry,
    ProbeSeconds,
    RouteEntry,
    Share,
    Tolerance,
)
from potluck.model.node import OwnDevices
from potluck.model.resources import AssistantPrefix, Capability, DataClass, Dialect, OnHangup, Strategy

T = TypeVar("T", bound=msgspec.Struct)

Placement = Literal["any", "own"]
Unset = msgspec.UnsetType
UNSET = msgspec.UNSET
Connections = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
Moment = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_000, description="unix milliseconds")]
_TAG = msgspec.Meta(pattern=r"^[\x20-\x7e]{1,64}$(?!\n)", description="printable ASCII, at most 64 characters")
Tag = Annotated[str, _TAG]
PATTERNS = (_TAG, msgspec.Meta(pattern=r"^[\x21-\x7e]*$(?!\n)", description="what a list gave as `next_cursor`"))
"""What callers' own patterns mean, for messages."""
ProviderKey = Annotated[str, msgspec.Meta(min_length=1, max_length=8192, description="a secret; never shown again")]
Models = Annotated[tuple[ModelName, ...], msgspec.Meta(max_length=1000)]
Tags = Annotated[tuple[Tag, ...], msgspec.Meta(max_length=50)]
Position = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
RoutePosition = Annotated[int, msgspec.Meta(ge=-10_000, le=10_000, description="lowest first, older first if equal")]
Targets = Annotated[tuple[TargetEntry, ...], msgspec.Meta(max_length=100)]


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JSON object."""


class MakeKey(Body, frozen=True, kw_only=True):
    name: Name
    project: Name = "default"
    models: Models = ()
    """model names it may use; empty: all"""
    tags: Tags = ()
    expires_at_ms: Moment | None = None
    own_device_priority: OwnDevices = "off"
    data_class: DataClass | None = None
    """the most open one that its requests may have; null: its project's. The stricter of both counts"""


class ChangeKey(Body, frozen=True, kw_only=True):
    name: Name | Unset = UNSET
    project: Name | Unset = UNSET
    models: Models | Unset = UNSET
    tags: Tags | Unset = UNSET
    expires_at_ms: Moment | Unset | None = UNSET
    own_device_priority: OwnDevices | Unset = UNSET
    data_class: DataClass | Unset | None = UNSET


class RotateKey(Body, frozen=True, kw_only=True):
    overlap_s: Annotated[int, msgspec.Meta(ge=0, le=2_592_000, description="how long the old secret stays good")] = 0


class MakeProject(Body, frozen=True, kw_only=True):
    name: Name
    data_class: DataClass = "standard"


class ChangeProject(Body, frozen=True, kw_only=True):
    name: Name | Unset = UNSET
    data_class: DataClass | Unset = UNSET


class MakeProvider(Body, frozen=True, kw_only=True):
    """`key`, if given, becomes its first credential, named `main`."""

    name: Name
    base_url: Annotated[str, msgspec.Meta(max_length=2000)]
    dialect: Dialect = "openai"
    own: bool = False
    on_hangup: OnHangup = "cancel"
    timeouts: TimeoutsEntry = TimeoutsEntry()
    max_connections: Connections = 1024
    assistant_prefix: AssistantPrefix | None = None
    probe: ProbeEntry | None = None
    key: ProviderKey | None = None


class ChangeTimeouts(Body, frozen=True, kw_only=True):
    """Seconds; null: the default."""

    connect_s: Seconds | Unset | None = UNSET
    first_byte_s: Seconds | Unset | None = UNSET
    idle_s: Seconds | Unset | None = UNSET
    total_s: Seconds | Unset | None = UNSET


class ChangeProbe(Body, frozen=True, kw_only=True):
    """Null: the default."""

    every_s: ProbeSeconds | Unset | None = UNSET
    model: ModelName | Unset | None = UNSET
    budget_usd_per_day: Usd | Unset | None = UNSET


class ChangeProvider(Body, frozen=True, kw_only=True):
    """Null takes an assistant prefix or probes away."""

    name: Name | Unset = UNSET
    base_url: Annotated[str, msgspec.Meta(max_length=2000)] | Unset = UNSET
    dialect: Dialect | Unset = UNSET
    own: bool | Unset = UNSET
    on_hangup: OnHangup | Unset = UNSET
    timeouts: ChangeTimeouts | Unset = UNSET
    max_connections: Connections | Unset = UNSET
    assistant_prefix: AssistantPrefix | Unset | None = UNSET
    probe: ChangeProbe | Unset | None = UNSET


class MakeCredential(Body, frozen=True, kw_only=True):
    provider: Name
    name: Name = "main"
    key: ProviderKey
    weight: Weight = 1


class ChangeCredential(Body, frozen=True, kw_only=True):
    name: Name | Unset = UNSET
    weight: Weight | Unset = UNSET
    disabled: bool | Unset = UNSET


class RotateCredential(Body, frozen=True, kw_only=True):
    key: ProviderKey


class MakeModel(Body, frozen=True, kw_only=True):
    name: ModelName
    placement: Placement = "any"
    aliases: Aliases = ()
    targets: Targets = ()


class ChangeModel(Body, frozen=True, kw_only=True):
    """`aliases` and `targets` replace the list; a target that stays keeps its id."""

    name: ModelName | Unset = UNSET
    placement: Placement | Unset = UNSET
    aliases: Aliases | Unset = UNSET
    targets: Targets | Unset = UNSET


class MakeTarget(TargetEntry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`target`: `provider/upstream-model`, `node:NAME/upstream-model` or `node:*/upstream-model`. Without `position` it
    comes last."""

    model: ModelName
    position: Position | None = None


class ChangeTarget(Body, frozen=True, kw_only=True):
    """Null takes a written price, number of tokens, priority or number of slots away."""

    position: Position | Unset = UNSET
    price: PriceEntry | Unset | None = UNSET
    capabilities: tuple[Capability, ...] | Unset = UNSET
    context_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)] | Unset | None = UNSET
    weight: Weight | Unset = UNSET
    priority: Priority | Unset | None = UNSET
    slots: Slots | Unset | None = UNSET


class MakeRoute(RouteEntry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule as in a file. Without `position` it comes last."""

    position: RoutePosition | None = None


class ChangeMatch(Body, frozen=True, kw_only=True):
    """Null: all."""

    models: Patterns | Unset | None = UNSET
    projects: Patterns | Unset | None = UNSET
    keys: Patterns | Unset | None = UNSET


class ChangeMaxPrice(Body, frozen=True, kw_only=True):
    """USD per million tokens."""

    input: Usd | Unset | None = UNSET
    output: Usd | Unset | None = UNSET


class ChangeConstraints(Body, frozen=True, kw_only=True):
    """Null: no such filter."""

    only: Patterns | Unset | None = UNSET
    ignore: Patterns | Unset | None = UNSET
    max_price: ChangeMaxPrice | Unset | None = UNSET
    data_class: DataClass | Unset | None = UNSET


class ChangeRouteTimeouts(Body, frozen=True, kw_only=True):
    """Seconds; null: the provider's own."""

    connect_s: Seconds | Unset | None = UNSET
    first_token_s: Seconds | Unset | None = UNSET
    idle_s: Seconds | Unset | None = UNSET
    total_s: Seconds | Unset | None = UNSET


class ChangeHedge(Body, frozen=True, kw_only=True):
    after: HedgeAfter | Unset = UNSET
    max_extra: Share | Unset | None = UNSET


class ChangeAffinity(Body, frozen=True, kw_only=True):
    window_s: Seconds | Unset | None = UNSET
    tolerance: Tolerance | Unset | None = UNSET


class ChangeRoute(Body, frozen=True, kw_only=True):
    """What is sent replaces what is there, member by member, inside objects too; null: the default."""

    name: Name | Unset = UNSET
    position: RoutePosition | Unset = UNSET
    match: ChangeMatch | Unset | None = UNSET
    strategy: Strategy | Unset | None = UNSET
    split: Literal["key", "user"] | Unset | None = UNSET
    constraints: ChangeConstraints | Unset | None = UNSET
    fallback: Fallback | Unset = UNSET
    timeouts: ChangeRouteTimeouts | Unset | None = UNSET
    hedge: ChangeHedge | Unset | None = UNSET
    affinity: ChangeAffinity | bool | Unset | None = UNSET


class SetPrice(Body, frozen=True, kw_only=True):
    """`model`: a public name, an upstream model's name, or `provider/upstream-model`. USD per million tokens."""

    model: ModelName
    price: PriceEntry


class ConfigText(Body, frozen=True, kw_only=True):
    """A `potluck.toml` and the values of the variables it asks for."""

    text: Annotated[str, msgspec.Meta(max_length=4_000_000)]
    variables: dict[str, str] = {}
    source: Annotated[str, msgspec.Meta(max_length=200)] = "potluck.toml"


def given(body: msgspec.Struct) -> dict[str, object]:
    """The members that the caller sent."""
    return {name: value for name in body.__struct_fields__ if (value := getattr(body, name)) is not UNSET}


def merged(entry: T, patch: msgspec.Struct) -> T:
    """The entry with the patch's members in their places, as RFC 7396 merges. Raises 400 when that does not fit."""
    whole = _merge(msgspec.to_builtins(entry), msgspec.to_builtins(patch))
    known = {name: value for name, value in whole.items() if name in entry.__struct_fields__}
    try:
        return msgspec.convert(known, type(entry))
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        where = ".".join(part for part in (place.rstrip("`"), missing_member(message)) if part)
        raise invalid(where, in_words(message, *PATTERNS)) from None


def _merge(value: object, patch: dict[str, object]) -> dict[str, object]:
    whole = dict(value) if isinstance(value, dict) else {}
    for name, part in patch.items():
        if part is None:
            whole.pop(name, None)
        else:
            whole[name] = _merge(whole.get(name), part) if isinstance(part, dict) else part
    return whole
