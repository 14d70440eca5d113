"""Text from the command line or the environment → the value that a setting wants."""

import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from potluck.model.secret import Secret

_SIZE = re.compile(r"^(\d+)\s*([KMG]i?B?|B)?\Z", re.IGNORECASE)
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def read_value(kind: Any, value: object) -> Any:
    """`value` as a `kind`. Raises ValueError saying what is wanted, without showing a secret.

    Numbers of bytes may be written `32MiB`; lists are separated by commas.
    """
    meta = None
    if get_origin(kind) is Annotated:
        kind, meta = get_args(kind)[:2]
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (each for each in get_args(kind) if each is not type(None))
    text = str(value).strip()
    if kind is bool:
        return _boolean(text)
    if kind is Secret:
        return Secret(text)
    if kind is Path:
        return Path(text).expanduser().absolute()
    if get_origin(kind) is tuple:
        return tuple(item.strip() for item in text.split(",") if item.strip())
    if get_origin(kind) is Literal:
        if text.lower() not in get_args(kind):
            raise ValueError(f"{text!r} is not one of {', '.join(get_args(kind))}")
        return text.lower()
    if kind in (int, float):
        return _number(kind, text, meta)
    return text


def _boolean(text: str) -> bool:
    if text.lower() not in _YES + _NO:
        raise ValueError(f"{text!r} is neither true nor false: write 1 or 0")
    return text.lower() in _YES


def _number(kind: type[int] | type[float], text: str, meta: msgspec.Meta | None) -> int | float:
    extra = (meta.extra if meta else None) or {}
    unit = extra.get("unit", "")
    try:
        number = _size(text) if unit == "bytes" else kind(text)
    except ValueError:
        form = "a number of bytes (33554432, 32MiB)" if unit == "bytes" else _NUMBER_NAMES[kind]
        raise ValueError(f"{text!r} is not {form}") from None
    if meta is not None:
        low = meta.ge if meta.ge is not None else meta.gt
        within = (meta.ge is None or number >= meta.ge) and (meta.gt is None or number > meta.gt)
        if not within or (meta.le is not None and number > meta.le):
            bounds = [f"{'at least' if meta.ge is not None else 'more than'} {low:g}" if low is not None else ""]
            bounds += [f"at most {meta.le:g}" if meta.le is not None else ""]
            raise ValueError(f"{text} is out of range: {' and '.join(each for each in bounds if each)} {unit}".rstrip())
    return number


_NUMBER_NAMES: dict[type, str] = {int: "a whole number", float: "a number"}


def _size(text: str) -> int:
    if not (found := _SIZE.match(text)):
        raise ValueError(text)
    unit = (found[2] or "B").upper()
    step = 1000 if unit.endswith("B") and "I" not in unit and len(unit) == 2 else 1024
    return int(found[1]) * int(step ** "BKMG".index(unit[0]))
