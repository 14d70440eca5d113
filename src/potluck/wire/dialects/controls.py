"""The `potluck` member of a request: what a caller may say about its handling. A caller can only tighten."""

from typing import Annotated, Any, Literal

import msgspec

from potluck.model.resources import DataClass

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Filter = Annotated[tuple[Name, ...], msgspec.Meta(max_length=64)]
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

    `only`, `ignore`: names or kinds of providers and nodes, 64 at most; None: no filter.
    """

    route: Name | None = None
    prefer: Literal["cheapest", "fastest", "own", "balanced"] | None = None
    only: Filter | None = None
    ignore: Filter | None = None
    max_price: MaxPrice | None = None
    data_class: DataClass | None = None
    cache: CacheControl | None = None
    resume: Literal["allow"] | None = None
    user: Name | None = None
    tags: Annotated[tuple[Tag, ...], msgspec.Meta(max_length=16)] | None = None


_FIELDS = {
    b"x-potluck-route": "route",
    b"x-potluck-prefer": "prefer",
    b"x-potluck-data-class": "data_class",
    b"x-potluck-cache": "cache",
    b"x-potluck-resume": "resume",
    b"x-potluck-tags": "tags",
}
"""header → member of the same meaning"""
_STRICTEST_FIRST = ("private", "standard", "open")


def controls_of_fields(fields: dict[bytes, bytes], controls: Controls | None) -> Controls:
    """`controls` with what the `x-potluck-…` request headers say.

    Where both say something, the body's member counts; of two data classes the stricter one, since either may be a wall
    that somebody on the way has put up.

    Raises ValueError (in words, naming the header) for an unknown header or a value that the member would not take.
    """
    said: dict[str, Any] = {}
    for name, value in fields.items():
        member = _FIELDS.get(name)
        if member is None:
            known = ", ".join(field.decode() for field in _FIELDS)
            raise ValueError(f"there is no header {name.decode('latin-1')}; there are: {known}")
        text = value.decode("latin-1").strip()
        if member == "tags":
            said[member] = [tag.strip() for tag in text.split(",") if tag.strip()]
        else:
            said[member] = {"mode": text} if member == "cache" else text
        try:
            msgspec.convert({member: said[member]}, Controls)
        except msgspec.ValidationError as error:
            raise ValueError(f"header {name.decode()} cannot be used: {str(error)[:200]}") from None
    if controls is not None:
        route = said.get("route")
        if route is not None and controls.route not in (None, route):
            raise ValueError(f"header x-potluck-route names {route!r} and the body another route: name one")
        asked = said.get("data_class")
        said |= {name: value for name, value in msgspec.to_builtins(controls).items() if value is not None}
        if asked is not None:
            said["data_class"] = min(asked, said["data_class"], key=_STRICTEST_FIRST.index)
    return msgspec.convert(said, Controls)
