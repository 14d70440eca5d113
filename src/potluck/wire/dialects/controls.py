"""The `potluck` member of a request: what a caller may say about its handling. A caller can only tighten."""

from typing import Annotated, Literal

import msgspec

from potluck.model.resources import DataClass

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
UsdPerMillion = Annotated[float, msgspec.Meta(ge=0)]


class MaxPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hard filter, USD per million tokens. None: no bound."""

    input: UsdPerMillion | None = None
    output: UsdPerMillion | None = None


class CacheControl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mode: Literal["on", "off", "refresh"] = "on"
    ttl_s: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Controls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Decoded strictly: an unknown member or a wrong type is refused, so that a misspelt control never passes for one.

    `only`, `ignore`: names or kinds of providers and nodes; None: no filter.
    """

    route: Name | None = None
    prefer: Literal["cheapest", "fastest", "own", "balanced"] | None = None
    only: tuple[Name, ...] | None = None
    ignore: tuple[Name, ...] | None = None
    max_price: MaxPrice | None = None
    data_class: DataClass | None = None
    cache: CacheControl | None = None
    resume: Literal["allow"] | None = None
    user: Name | None = None
    tags: Annotated[tuple[Tag, ...], msgspec.Meta(max_length=16)] | None = None
