"""What a member of a document may look like, and how a value that does not fit is said in words.

Rules
- Every form that more than one section or the admin API uses stands here, with the words that explain it.
- A pattern that documents show ends in `$(?!\\n)`, any other in `\\Z`: `$` alone lets a line feed through.
"""

import difflib
import re
from collections.abc import Iterable
from typing import Annotated

import msgspec

_NAME = msgspec.Meta(
    pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$(?!\n)",
    description="letters, digits, . _ - (at most 64, a letter or digit first)",
)
_MODEL_NAME = msgspec.Meta(
    pattern=r"^[\x21-\x7e]{1,200}$(?!\n)", description="printable ASCII without spaces, at most 200 characters"
)
Name = Annotated[str, _NAME]
"""of a provider, credential, project or key"""
ModelName = Annotated[str, _MODEL_NAME]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400, description="more than 0 and at most 86400 seconds")]
Weight = Annotated[int, msgspec.Meta(ge=1, le=1_000)]
"""a share beside others"""
Usd = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]

TYPE_NAMES = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "datetime": "a date and time",
    "object": "an object",
    "array": "an array",
    "null": "null",
}
_BOUNDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
_EXPECTED = re.compile(r"^Expected `([^`]+)`(?:( of length)? ([<>]=?) (\S+)|, got `([^`]+)`)\Z")
_MEMBER_FAULTS = (
    (re.compile(r"^Object missing required field `([^`]+)`\Z"), "{!r} is missing"),
    (re.compile(r"^Object contains unknown field `([^`]+)`\Z"), "unknown member {!r}"),
)


def in_words(message: str, *metas: msgspec.Meta) -> str:
    """A validation message of `msgspec` in words; `metas` explain patterns beside the document's own."""
    for meta in (_NAME, _MODEL_NAME, *metas):
        message = message.replace(f"Expected `str` matching regex {meta.pattern!r}", f"allowed: {meta.description}")
    for pattern, words in _MEMBER_FAULTS:
        if found := pattern.match(message):
            return words.format(found[1])
    found = _EXPECTED.match(message)
    if found is None:
        return message
    kind, length, bound, limit, got = found.groups()
    wanted = " or ".join(TYPE_NAMES.get(each, each) for each in kind.split(" | "))
    if got:
        return f"must be {wanted}, not {TYPE_NAMES.get(got, got)}"
    limit = limit.removesuffix(".0")
    if not length:
        return f"must be {wanted}, {_BOUNDS[bound]} {limit}"
    unit = "characters" if kind == "str" else "items"
    return f"must have {_BOUNDS[bound]} {limit} {unit if limit != '1' else unit[:-1]}"


def missing_member(message: str) -> str:
    """The member that a validation message says is missing or unknown, else an empty text."""
    return next((found[1] for pattern, _ in _MEMBER_FAULTS if (found := pattern.match(message))), "")


def doubled(names: Iterable[str]) -> str:
    """The first name that stands there a second time, else an empty text."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return ""


def near(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'base_url'?`, or what there is to choose from."""
    names = list(known)
    found = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else f" (known: {', '.join(names) or 'none'})"
