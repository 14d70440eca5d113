"""What callers of the admin API send. Unknown members are refused: a typing mistake must not be taken for success."""

from typing import Annotated, Literal

import msgspec

from potluck.config.document import ModelName, Name, PriceEntry, TargetEntry, TimeoutsEntry
from potluck.model.resources import Capability, DataClass, Dialect, OnHangup

Placement = Literal["any", "own"]
Unset = msgspec.UnsetType
UNSET = msgspec.UNSET
Weight = Annotated[int, msgspec.Meta(ge=1, le=1000, description="share of the provider's traffic")]
Connections = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
Moment = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_000, description="unix milliseconds")]
_TAG = msgspec.Meta(pattern=r"^[\x20-\x7e]{1,64}$", description="printable ASCII, at most 64 characters")
Tag = Annotated[str, _TAG]
PATTERNS = (_TAG, msgspec.Meta(pattern=r"^[\x21-\x7e]*$", description="what a list gave as `next_cursor`"))
"""What callers' own patterns mean, for messages."""
ProviderKey = Annotated[str, msgspec.Meta(min_length=1, max_length=8192, description="a secret; never shown again")]
Models = Annotated[tuple[ModelName, ...], msgspec.Meta(max_length=1000)]
Tags = Annotated[tuple[Tag, ...], msgspec.Meta(max_length=50)]
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


class ChangeKey(Body, frozen=True, kw_only=True):
    name: Name | Unset = UNSET
    project: Name | Unset = UNSET
    models: Models | Unset = UNSET
    tags: Tags | Unset = UNSET
    expires_at_ms: Moment | Unset | None = UNSET


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
    key: ProviderKey | None = None


class ChangeProvider(Body, frozen=True, kw_only=True):
    name: Name | Unset = UNSET
    base_url: Annotated[str, msgspec.Meta(max_length=2000)] | Unset = UNSET
    dialect: Dialect | Unset = UNSET
    own: bool | Unset = UNSET
    on_hangup: OnHangup | Unset = UNSET
    timeouts: TimeoutsEntry | Unset = UNSET
    max_connections: Connections | Unset = UNSET


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
    targets: Targets = ()


class ChangeModel(Body, frozen=True, kw_only=True):
    """`targets` replaces the list; a target that stays keeps its id."""

    name: ModelName | Unset = UNSET
    placement: Placement | Unset = UNSET
    targets: Targets | Unset = UNSET


class MakeTarget(Body, frozen=True, kw_only=True):
    """`target`: `provider/upstream-model`. Without `position` it comes last."""

    model: ModelName
    target: ModelName
    price: PriceEntry | None = None
    capabilities: tuple[Capability, ...] | None = None
    context_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)] | None = None
    position: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None


class ChangeTarget(Body, frozen=True, kw_only=True):
    """A price of null takes the written one away."""

    position: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | Unset = UNSET
    price: PriceEntry | Unset | None = UNSET
    capabilities: tuple[Capability, ...] | Unset = UNSET
    context_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)] | Unset | None = UNSET


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
