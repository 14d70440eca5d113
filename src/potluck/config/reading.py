"""Text of a `potluck.toml` → `Document`. Every problem of the file is reported at once, each with line and path.

`${NAME}` in any text is replaced by that environment variable; `$${` stands for a plain `${`.
"""

import re
import tomllib
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from potluck.config.document import IDENTITY, Document
from potluck.config.errors import ConfigError, Problem
from potluck.config.forms import TYPE_NAMES, near
from potluck.config.positions import Step, line_of, positions
from potluck.model.secret import Secret

_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{")
_MISSING = object()

Place = tuple[Step, ...]
"""a path in a document: `("providers", 0, "name")`"""


class Draft:
    """A text that was read as far as it goes: what is wrong with it, and what is sound in it."""

    def __init__(self, text: str, source: str) -> None:
        self.text, self.source = text, source
        self.document: Document | None = None
        """the whole, when nothing is wrong"""
        self.faults: list[tuple[Place, str]] = []
        self.entries: dict[Place, msgspec.Struct] = {}
        """sound objects by their place, also those beside a fault"""
        self.values: dict[Place, object] = {}
        """sound plain values by their place; no secrets"""

    def names(self, section: str) -> dict[Place, str]:
        """The names given in a section, each with its place, of faulty objects too."""
        return {
            at: value
            for at, value in self.values.items()
            if len(at) == 3 and at[0] == section and at[2] == IDENTITY[section] and isinstance(value, str)
        }

    def problems(self, *more: tuple[Place, str]) -> list[Problem]:
        """The faults and `more` of them, each with its line, in the order of the text."""
        return self.located([*self.faults, *more])

    def located(self, faults: Sequence[tuple[Place, str]]) -> list[Problem]:
        """Each with its line, in the order of the text."""
        lines = positions(self.text) if faults else {}
        found = [
            Problem(message, where=_path_text(at), line=line_of(lines, at), source=self.source)
            for at, message in faults
        ]
        return sorted(found, key=lambda problem: problem.line)


def load(path: str | Path, env: Mapping[str, str]) -> Document:
    """Read and check a file. Raises ConfigError, also when it cannot be read."""
    path = Path(path)
    return parse(read_text(path), env, source=path.name)


def read_text(path: str | Path) -> str:
    """The file's text. Raises ConfigError when there is none."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {(error.strerror or 'I/O error').lower()}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {path}: not UTF-8 text (byte {error.start})") from None


def variables(text: str) -> tuple[str, ...]:
    """Names of the environment variables that a document asks for, sorted; empty when it is not TOML."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return ()
    names: set[str] = set()

    def walk(value: object) -> None:
        if isinstance(value, str):
            names.update(name for name in _VARIABLE.findall(value) if name)
        elif isinstance(value, dict):
            for member in value.values():
                walk(member)
        elif isinstance(value, list):
            for member in value:
                walk(member)

    walk(tree)
    return tuple(sorted(names))


def parse(text: str, env: Mapping[str, str], *, source: str = "potluck.toml") -> Document:
    """Check a document whole. Raises ConfigError with all its problems; messages never hold a secret."""
    draft = read(text, env, source=source)
    if draft.document is None:
        raise ConfigError(draft.problems())
    return draft.document


def read(text: str, env: Mapping[str, str], *, source: str = "potluck.toml") -> Draft:
    """Read a text with all that is wrong with it. Raises ConfigError only for what is not TOML."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        message = str(error).split(" (at ")[0]
        raise ConfigError(Problem(f"not TOML: {message}", line=int(found[1]) if found else 0, source=source)) from None
    draft = Draft(text, source)
    document = _Reader(env, draft).build(Document, tree, ())
    draft.faults += _doubles(draft)
    if not draft.faults:
        assert isinstance(document, Document)
        draft.document = document
    return draft


def _doubles(draft: Draft) -> list[tuple[Place, str]]:
    """Each name of a section that stands there again."""
    found: list[tuple[Place, str]] = []
    for section in IDENTITY:
        seen: set[str] = set()
        for at, name in draft.names(section).items():
            if name in seen:
                mend = "keep one" if section == "prices" else "give each its own name"
                found.append((at, f"two of them are named {name!r}: {mend}"))
            seen.add(name)
    return found + _shared(draft)


def _shared(draft: Draft) -> list[tuple[Place, str]]:
    """Each alias and route whose name is another's already: callers name models, aliases and routes alike."""
    found: list[tuple[Place, str]] = []
    models, routes = draft.names("models"), draft.names("routes")
    holders = {name: f"a model is named {name!r}" for name in models.values()}
    for at, alias in draft.values.items():
        match at:
            case ("models", int(index), "aliases", _):
                if alias in holders:
                    found.append((at, f"{holders[str(alias)]} already: choose another alias"))
                else:
                    owner = models.get(("models", index, "name"), "?")
                    holders[str(alias)] = f"model {owner!r} has the alias {alias!r}"
    for at, name in routes.items():
        if name in holders:
            found.append((at, f"{holders[name]} already: choose another name for the route"))
    return found


class _Reader:
    """Builds structs from plain values and collects what is wrong instead of stopping at the first."""

    def __init__(self, env: Mapping[str, str], draft: Draft) -> None:
        self.env = env
        self.draft = draft

    def wrong(self, at: Place, message: str) -> None:
        self.draft.faults.append((at, message))

    def build(self, cls: type[msgspec.Struct], value: object, at: Place) -> object:
        """A struct of `cls`, or `_MISSING` when something in it is wrong (and noted)."""
        if not isinstance(value, dict):
            self.wrong(at, f"must be a table, not {_kind(value)}")
            return _MISSING
        known = {field.name: field for field in msgspec.structs.fields(cls)}
        sound = True
        for name in value:
            if name not in known:
                sound = False
                if later := getattr(cls, "NOT_YET", {}).get(name):
                    what = f"[[{name}]]" if cls is Document else f"`{name}`"
                    self.wrong((*at, name), f"{later} are not in this version of Potluck yet: remove {what}")
                else:
                    self.wrong((*at, name), f"unknown member{near(name, known)}")
        built: dict[str, Any] = {}
        for name, field in known.items():
            if name in value:
                built[name] = self.convert(field.type, value[name], (*at, name))
                sound = sound and built[name] is not _MISSING
            elif field.required:
                sound = False
                self.wrong(at, f"{name!r} is missing")
        if not sound:
            return _MISSING
        made = cls(**built)
        check: Callable[[], dict[str, str]] | None = getattr(made, "check", None)
        for member, message in (check() if check else {}).items():
            sound = False
            self.wrong((*at, *member.split(".")), message)
        if not sound:
            return _MISSING
        self.draft.entries[at] = made
        return made

    def convert(self, kind: Any, value: object, at: Place) -> object:
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            kinds = [each for each in arguments if each is not type(None)]
            meant = kinds[0] if len(kinds) == 1 else next((each for each in kinds if _suits(each, value)), None)
            if meant is None:
                self.wrong(at, f"must be {' or '.join(map(_named, kinds))}, not {_shown(value)}")
                return _MISSING
            return self.convert(meant, value, at)
        if origin is Annotated and get_origin(arguments[0]) is tuple:
            return self.items(get_args(arguments[0])[0], value, at, arguments[1])
        if origin is tuple:
            return self.items(arguments[0], value, at, msgspec.Meta())
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self.build(kind, value, at)
        if isinstance(value, str):
            text = self.interpolate(value, at)
            if text is None:
                return _MISSING
            value = text
        if kind is Secret:
            if not isinstance(value, str) or not value:
                self.wrong(at, "must be a text that is not empty")
                return _MISSING
            if not value.isascii() or not value.isprintable() or " " in value:
                self.wrong(at, "holds a space or a character outside printable ASCII: is it the whole key and only it?")
                return _MISSING
            return Secret(value)
        made = self.leaf(kind, value, at)
        if made is not _MISSING:
            self.draft.values[at] = made
        return made

    def items(self, kind: Any, value: object, at: Place, bounds: msgspec.Meta) -> object:
        if not isinstance(value, list):
            self.wrong(at, f"must be an array, not {_kind(value)}")
            return _MISSING
        items = [self.convert(kind, item, (*at, index)) for index, item in enumerate(value)]
        least, most = bounds.min_length or 0, bounds.max_length or len(items)
        if not least <= len(items) <= most:
            self.wrong(at, f"must have at least {least} item" if len(items) < least else f"may have {most} items")
            return _MISSING
        return _MISSING if _MISSING in items else tuple(items)

    def leaf(self, kind: Any, value: object, at: Place) -> object:
        meta = next((each for each in get_args(kind)[1:]), None) if get_origin(kind) is Annotated else None
        bare = get_args(kind)[0] if meta is not None else kind
        if get_origin(bare) is Literal:
            choices = [str(choice) for choice in get_args(bare)]
            if value not in choices:
                self.wrong(at, f"must be one of {', '.join(choices)}, not {_shown(value)}{near(str(value), choices)}")
                return _MISSING
            return value
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            kinds = (int, float) if bare is float else bare if isinstance(bare, type) else object
            if isinstance(meta, msgspec.Meta) and isinstance(value, kinds) and not isinstance(value, bool):
                self.wrong(at, f"is {_shown(value)}; allowed: {_allowed(meta)}")
            else:
                wanted = getattr(bare, "__name__", str(error))
                self.wrong(at, f"must be {TYPE_NAMES.get(wanted, wanted)}, not {_kind(value)}")
            return _MISSING

    def interpolate(self, text: str, at: Place) -> str | None:
        failed = False

        def replace(match: re.Match[str]) -> str:
            nonlocal failed
            if match[0] == "$${":
                return "${"
            if match[1] is None:
                failed = True
                self.wrong(at, "has a ${ that is no ${VARIABLE}: write $${ for a plain ${")
            elif not (value := self.env.get(match[1])):
                failed = True
                state = "empty" if value == "" else "not set"
                self.wrong(at, f"environment variable {match[1]} is {state}: export {match[1]}=…")
            else:
                return value
            return ""

        replaced = _VARIABLE.sub(replace, text)
        return None if failed else replaced


def _suits(kind: Any, value: object) -> bool:
    """Whether `value` is meant as this one of several kinds, by its form."""
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if get_origin(bare) is Literal:
        return value in get_args(bare)
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        return isinstance(value, dict)
    return type(value) is bare


def _named(kind: Any) -> str:
    """What to write for this one of several kinds."""
    if get_origin(kind) is Annotated:
        bare, meta = get_args(kind)[:2]
        return str(meta.description or TYPE_NAMES[bare.__name__])
    if get_origin(kind) is Literal:
        return " or ".join(f'"{choice}"' for choice in get_args(kind))
    return TYPE_NAMES.get(kind.__name__, "a table")


def _kind(value: object) -> str:
    names = {"dict": "a table", "list": "an array", **TYPE_NAMES}
    return names.get(type(value).__name__, type(value).__name__)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _allowed(meta: msgspec.Meta) -> str:
    if meta.description:
        return meta.description
    parts = [f"at least {meta.ge}" if meta.ge is not None else "", f"at most {meta.le}" if meta.le is not None else ""]
    return " and ".join(part for part in parts if part)


def _path_text(at: Place) -> str:
    text = ""
    for step in at:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
