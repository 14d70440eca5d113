"""docs/reference/configuration.md, made from the structs in `potluck.config` and scripts/reference_example.toml.

Rule: a member's meaning is the docstring below it; only what has none there is said in `WORDS`. Names that are missing
here, or no longer needed, are an error.
"""

import ast
import datetime as dt
import inspect
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from potluck.config import document, forms
from potluck.config.document import RESERVED_PROVIDERS, Document, PriceEntry
from potluck.config.routing import KINDS, RESERVED_ROUTES, RouteEntry
from potluck.model.secret import Secret

EXAMPLE = Path(__file__).with_name("reference_example.toml")

HEAD = """\
# potluck.toml

Made by `scripts/reference` from the program; a test keeps it current.

Everything that a gateway is configured with, in one file.
`potluck config check FILE` finds all mistakes at once, each with its line, and without a gateway as many as a text shows by itself; `config diff` shows what `config apply` would change, `config export` writes down what there is.
`apply` does all of it or nothing, takes effect without a restart, and removes only what an earlier `apply` had made.
What the process is told before it starts (address, home, limits) is not here: [settings](settings.md).

An unknown member is refused.
A name stands once in its section; models, aliases and routes share one space of names.
Taken: {taken}.
`"${VARIABLE}"` in any text is that environment variable, which must be set; `$${` is a plain `${`.

## Values

| Word | Allowed |
| --- | --- |
"""  # noqa: E501 — Markdown, a sentence a line

PATTERNS = """\

## Patterns

A pattern is a name in which each `*` stands for any text, the empty one too: `gpt-4*`, `*/qwen2.5-7b`, `*`.
Upper and lower case differ, and nothing else is special: no `?`, no regular expressions.
A pattern never makes a name exist, so a route that matches patterns alone cannot be called as a model.

| Where | Is compared with |
| --- | --- |
| `match.models` | the model as the caller wrote it, without a suffix such as `:cheapest`; of an alias its model's name as well |
| `match.projects`, `match.keys` | names of projects and keys |
| `constraints.only`, `constraints.ignore` | the provider's name, and the target `provider/upstream-model`. Some words mean kinds: {kinds} |
| `fallback` | the model's own targets: those that match are held back until the others have failed. `key:*` is the calling key's own list of models |
"""  # noqa: E501

NOT_YET = """\

## Not in this version yet

Refused, so that nobody believes in a limit that does not bind:
"""

NODES = """\

Refused by the gateway, and not by a check without one: a `dialect` other than `openai` (use the provider's OpenAI-compatible address), and names that are neither in the file nor in the gateway: of providers, of a key's project, and in a route's `match.projects`, `match.keys`, `only`, `ignore` and `fallback`.
"""  # noqa: E501

WORDS = {
    "CredentialEntry.key": "the secret that the provider gave you",
    "CredentialEntry.name": "tells the provider's keys apart",
    "CredentialEntry.weight": "its share of the calls, beside the provider's other keys",
    "ConstraintsEntry.data_class": "`private`: own targets only. The strictest of project, route and request counts",
    "ConstraintsEntry.ignore": "never these, by the same words",
    "ConstraintsEntry.max_price": "list price; a target without one is out",
    "KeyEntry.expires_at": "401 from then on; left out: never",
    "KeyEntry.name": "how it is called in lists, routes and usage",
    "KeyEntry.project": "where its usage is counted; must be there, here or in the gateway",
    "KeyEntry.tags": "shown with the key",
    "MatchEntry.keys": "names of API keys",
    "MatchEntry.models": "what the caller asks for",
    "MatchEntry.projects": "names of projects",
    "MaxPriceEntry.input": "for what a model reads",
    "MaxPriceEntry.output": "for what it writes",
    "ModelEntry.name": "what callers write as `model`",
    "ModelEntry.targets": "who serves it; at least one, each once",
    "PriceEntry.audio_input": "audio in what it reads; left out: as `input`",
    "PriceEntry.audio_output": "audio in what it writes; left out: as `output`",
    "PriceEntry.cache_write": "what that cache takes in; left out: as `input`",
    "PriceEntry.cached_input": "what of it comes from the provider's prompt cache; left out: as `input`",
    "PriceEntry.input": "what the model reads",
    "PriceEntry.output": "what it writes",
    "PriceEntry.per_request": "USD for each call, beside its tokens",
    "PriceEntry.reasoning": "reasoning in what it writes; left out: as `output`",
    "ProbeEntry.budget_usd_per_day": "no completion is asked for beyond this; needed with `model`",
    "ProbeEntry.every_s": "seconds between two rounds",
    "ProjectEntry": "Keys that are counted together, and may share a data class.",
    "ProjectEntry.name": "how keys and routes refer to it",
    "ProviderEntry.base_url": "`https://host/v1`: http or https, no user, query or fragment",
    "ProviderEntry.credentials": "its keys; none: called without",
    "ProviderEntry.dialect": "what it speaks; this version: `openai`",
    "ProviderEntry.max_connections": "open at once; more calls wait for one",
    "ProviderEntry.name": "the first part of its targets' names",
    "ProviderEntry.on_hangup": "a caller has gone: `cancel` ends the call, `drain` reads on, for one that bills anyway",
    "ProviderEntry.timeouts": "of each call",
    "RouteEntry.affinity": "keep to the target whose prompt cache is warm; `true`: with the defaults below",
    "RouteEntry.constraints": "who is in at all",
    "RouteEntry.hedge": "left out: never",
    "RouteEntry.match": "left out: every request",
    "RouteEntry.name": "callers may ask for it: `potluck.route`, or as the model",
    "RouteEntry.strategy": "how targets are [chosen](../concepts/routing.md#the-strategy)",
    "RouteEntry.timeouts": "go before the provider's",
    "RouteTimeoutsEntry.connect_s": "to a connection, new or free",
    "RouteTimeoutsEntry.first_token_s": "to the first content, in the place of the provider's `first_byte_s`",
    "RouteTimeoutsEntry.idle_s": "silence inside an answer",
    "RouteTimeoutsEntry.total_s": "the whole request",
    "TargetEntry.context_tokens": "prompt and answer together, as `GET /v1/models` shows it; nothing is refused by it",
    "TargetEntry.price": "goes before `[[prices]]` and the bundled table",
    "TargetEntry.target": "a provider's name, and the model as it is called there",
    "TimeoutsEntry.connect_s": "to a connection, new or free",
    "TimeoutsEntry.first_byte_s": "to the answer's first byte; of a stream, to its first content",
    "TimeoutsEntry.idle_s": "silence inside an answer",
    "TimeoutsEntry.total_s": "the whole call",
}

KIND_WORDS = {
    "own": "any own infrastructure",
    "provider": "whatever is behind an address",
    "node": "any node",
    "community": "other people's nodes",
}

FORMS = {
    forms.Name: "name",
    forms.ModelName: "model name",
    forms.Seconds: "seconds",
    forms.Usd: "USD",
    forms.Weight: "weight",
}
LONGER = {
    "name": "letters, digits, `.` `_` `-`; at most 64, a letter or digit first",
    "text": "any",
    "secret": 'printable ASCII without spaces, best as `"${VARIABLE}"`; never shown again',
    "date and time": "with a time zone: `2040-01-31T00:00:00Z`",
}
"""what a form's own description does not say, or not for readers of Markdown"""


def page() -> str:
    """The whole page. Raises SystemExit when `WORDS` and the structs do not fit together."""
    meanings = Meanings()
    routes, providers = (", ".join(f"`{name}`" for name in names) for names in (RESERVED_ROUTES, RESERVED_PROVIDERS))
    lines = [HEAD.rstrip("\n").replace("{taken}", f"for routes {routes}; for providers {providers}")]
    kinds = "; ".join(f"`{kind}`, {KIND_WORDS[kind]}" for kind in KINDS)
    allowed = {word: bounds(get_args(form)[1]) for form, word in FORMS.items()} | LONGER
    lines += [f"| {word} | {said} |" for word, said in allowed.items()]
    shown: set[type] = set()
    for field in msgspec.structs.fields(Document):
        lines += ["", f"## `[[{field.name}]]`", ""]
        lines += struct_lines(get_args(field.type)[0], field.name, meanings, shown)
    lines += [
        PATTERNS.replace("{kinds}", kinds),
        "## Example",
        "",
        "```toml",
        EXAMPLE.read_text(encoding="utf-8").rstrip("\n"),
        "```",
        NOT_YET,
    ]
    lines += [f"- `[[{section}]]`: {what};" for section, what in Document.NOT_YET.items()]
    lines += [f"- `{member}` in a route: {what};" for member, what in RouteEntry.NOT_YET.items()]
    meanings.check_all_used()
    return "\n".join([*lines, NODES])


class Meanings:
    """What a struct or member means: its docstring, else `WORDS`."""

    def __init__(self) -> None:
        self.docstrings: dict[str, str] = {}
        self.used: set[str] = set()
        for module in (document, sys.modules[RouteEntry.__module__]):
            for node in ast.parse(inspect.getsource(module)).body:
                if isinstance(node, ast.ClassDef):
                    self.docstrings |= dict(member_docstrings(node))

    def of(self, name: str) -> str:
        said, words = self.docstrings.get(name), WORDS.get(name)
        if said and words:
            raise SystemExit(f"{name} has a docstring now: take it out of WORDS")
        if not said and not words:
            raise SystemExit(f"{name} has no docstring: write one, or say in WORDS what it means")
        self.used.add(name)
        return " ".join(str(said or words).split()).replace("None: ", "left out: ").replace("|", "\\|")

    def check_all_used(self) -> None:
        if unused := WORDS.keys() - self.used:
            raise SystemExit(f"no longer in the structs, take out of WORDS: {', '.join(sorted(unused))}")


def member_docstrings(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """`Struct` and `Struct.member` with the texts below them."""
    yield node.name, ast.get_docstring(node) or ""
    for member, below in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            yield f"{node.name}.{member.target.id}", str(below.value.value) if is_text else ""


def struct_lines(struct: type[msgspec.Struct], path: str, meanings: Meanings, shown: set[type]) -> list[str]:
    """Its docstring and members, then each table in it, named by its path."""
    bases = [each for each in struct.__mro__ if each.__name__ in meanings.docstrings]
    lines = [
        " ".join(meanings.of(each.__name__) for each in bases),
        "",
        "| Member | Value | Default | |",
        "| --- | --- | --- | --- |",
    ]
    nested: list[tuple[type[msgspec.Struct], str]] = []
    fields = msgspec.structs.fields(struct)
    for field in sorted(fields, key=lambda each: each.name != document.IDENTITY.get(path)):
        owner = next(each for each in struct.__mro__ if field.name in vars(each).get("__annotations__", ()))
        meaning = meanings.of(f"{owner.__name__}.{field.name}")
        lines.append(f"| `{field.name}` | {value_text(field.type)} | {default_text(field)} | {meaning} |")
        nested += [(each, f"{path}.{field.name}") for each in structs_in(field.type)]
    for each, where in nested:
        lines += ["", f"### `{where}`", ""]
        if each is PriceEntry:
            lines.append("The members of `[[prices]]`, without `model`.")
        elif each in shown:
            raise SystemExit(f"{each.__name__} stands in two places: say so in struct_lines")
        else:
            shown.add(each)
            lines += struct_lines(each, where, meanings, shown)
    return lines


def structs_in(kind: Any) -> Iterator[type[msgspec.Struct]]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
    for each in get_args(kind):
        yield from structs_in(each)


def value_text(kind: Any) -> str:
    """What may be written there."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(value_text(each) for each in arguments if each is not type(None))
    if kind in FORMS:
        return FORMS[kind]
    if origin is Annotated and get_origin(arguments[0]) is tuple:
        return list_text(get_args(arguments[0])[0], arguments[1])
    if origin is tuple:
        return list_text(arguments[0], msgspec.Meta())
    if origin is Annotated:
        return bounds(arguments[1])
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return "table"
    return {str: "text", bool: "`true`, `false`", Secret: "secret", dt.datetime: "date and time"}[kind]


def list_text(item: Any, meta: msgspec.Meta) -> str:
    if meta.description:
        return f"list of {bounds(meta)}"
    what = {"table": "tables", "text": "texts", "model name": "model names"}.get(value_text(item), value_text(item))
    return f"list of {what}" + (f", at most {meta.max_length}" if meta.max_length else "")


def bounds(meta: msgspec.Meta) -> str:
    if meta.description:
        return meta.description.replace("*", "`*`")
    return f"{meta.ge:,} to {meta.le:,}"


def default_text(field: msgspec.structs.FieldInfo) -> str:
    """As one would write it; empty where leaving it out means something that the text says."""
    default = field.default
    if field.required:
        return "required"
    if default is None or default == () or isinstance(default, msgspec.Struct):
        return ""
    if isinstance(default, tuple):
        return f"`{list(default)}`".replace("'", '"')
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
