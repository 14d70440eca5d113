"""How an engine is questioned, without I/O: what is asked, what came back, and reading it without trusting it.

A dialogue is a generator that yields a `Question`, is sent its `Reply`, and returns what it found out. It knows no
socket and no clock, so a test can play the engine; `asking.converse` plays it over HTTP.

Rules of this file
- An engine is asked for what it is, never told to do something: GET, and the one POST that only reads.
- What comes back may be anything: the readers here give an empty value for what has not the wanted form, and no name,
  number or text passes that a gateway could not handle.
"""

import json
from collections.abc import Generator, Iterator
from functools import cached_property
from typing import Any, TypeVar

import msgspec

MAX_TEXT_CHARS = 256
MAX_WHOLE = 1 << 53
"""whole numbers beyond it are nonsense"""
MAX_ITEMS = 1000
"""of a list that an engine sends; the rest is not looked at"""

T = TypeVar("T")
Json = dict[str, Any]


class Question(msgspec.Struct, frozen=True):
    """`path` begins with `/`. A `body` makes it a POST of JSON."""

    path: str
    body: bytes = b""


class Reply:
    """What came back. `status` is 0 when nothing did: `refused` says that nobody listens there."""

    def __init__(
        self, status: int = 0, headers: dict[str, str] | None = None, body: bytes = b"", *, refused: bool = False
    ) -> None:
        self.status = status
        self.headers = headers or {}
        """names in lower case"""
        self.body = body
        self.refused = refused

    @property
    def ok(self) -> bool:
        return self.status == 200

    @cached_property
    def json(self) -> Any:
        """The body, decoded; None unless the status is 200 and it is JSON."""
        return _decoded(self.body) if self.ok else None

    @cached_property
    def error(self) -> Any:
        """The member `error` of a body with another status, as every OpenAI dialect has one; else None."""
        return None if self.ok else member(_decoded(self.body), "error")


Dialogue = Generator[Question, Reply, T]


def _decoded(body: bytes) -> Any:
    """None: it is no JSON. One bad text in it is no reason to read nothing of the rest."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        pass
    try:
        return json.loads(body.decode("utf-8", "replace"))  # half a surrogate pair, bytes that are no UTF-8
    except (ValueError, RecursionError):
        return None


def member(value: Any, *path: str) -> Any:
    """What lies at `path` inside nested objects; None when something on the way is missing or no object."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def text(value: Any, *path: str) -> str:
    """A printable text of at most `MAX_TEXT_CHARS`, else empty."""
    found = member(value, *path)
    return found if isinstance(found, str) and len(found) <= MAX_TEXT_CHARS and found.isprintable() else ""


def name(value: Any, *path: str) -> str:
    """A text that can be a model's name: printable ASCII without spaces; else empty."""
    found = text(value, *path)
    return found if found.isascii() and " " not in found else ""


def whole(value: Any, *path: str) -> int | None:
    """A whole number from 0 to `MAX_WHOLE`, also when it is written as a float."""
    found = member(value, *path)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= MAX_WHOLE:
        return None
    return int(found) if found == int(found) else None


def positive(value: Any, *path: str) -> int | None:
    """A whole number of at least 1."""
    return whole(value, *path) or None


def fraction(value: Any, *path: str) -> float | None:
    """A number from 0 to 1; a hair above is 1."""
    found = member(value, *path)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= 1.001:
        return None
    return min(float(found), 1.0)


def objects(value: Any, *path: str) -> Iterator[Json]:
    """The objects of a list."""
    found = member(value, *path)
    yield from (each for each in found[:MAX_ITEMS] if isinstance(each, dict)) if isinstance(found, list) else ()


def words(value: Any, *path: str) -> set[str]:
    """The texts of a list, in lower case."""
    found = member(value, *path)
    return {each.lower() for each in found[:MAX_ITEMS] if isinstance(each, str)} if isinstance(found, list) else set()
