"""What is asked of the built-in model: llama.cpp's faults on the way in, mended before its server sees them. Pure.

Its server (build 11549, measured) …
- does not notice that the caller of a whole answer hung up, and generates to the end: every generation is asked for
  as a stream, and put together in `answers` where a whole answer was wanted;
- renders the tools into the prompt with `tool_choice: "none"`, takes a named `tool_choice` for `required`, and lets the
  model chat on before a required call until its tokens are used up: where a call must come, the answer is bound to the
  form of one by a JSON schema, and `answers` makes a tool call of it;
- takes `top_logprobs` 0 or absent for "no logprobs" or twenty;
- ignores `dimensions`, `echo`, `suffix` and `best_of`, and a JSON schema that is no object: refused, not half obeyed.
"""

from typing import Any, Literal

import msgspec
from msgspec import Raw

EMBEDDING_DIMENSIONS = 576

Kind = Literal["chat", "completions", "embeddings", "other"]

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.encode
_TRUE = Raw(b"true")
_ONE = Raw(b"1")
_USAGE_ASKED = Raw(b'{"include_usage":true}')
_NOTHING = (None, b"null", b"false", b'""', b"[]")


class Refused(Exception):  # noqa: N818 — a finding about a request, not a fault of ours
    """The engine would not do what is asked; the message says what and why, `param` which member."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class Prepared(msgspec.Struct):
    """What to send, and how to read the answer to it."""

    body: bytes
    kind: Kind
    whole: bool = False
    """the caller wants one JSON answer: the stream is put together"""
    usage: bool = False
    """a stream's caller asked for the usage chunk"""
    choices_per_prompt: int = 1
    must_call: bool = False
    """the text that comes is `{"name": …, "arguments": …}`"""
    hide_top: bool = False
    """`top_logprobs` was only asked for to get logprobs at all"""

    @property
    def untouched(self) -> bool:
        """The answer needs no mending and is forwarded byte by byte."""
        if self.kind != "chat":
            return self.kind != "completions"
        return self.usage and self.choices_per_prompt == 1 and not (self.whole or self.hide_top or self.must_call)


class _Asked(msgspec.Struct):
    stream: bool | None = None
    n: int | None = None
    stream_options: dict[str, Any] | None = None
    best_of: int | None = None
    dimensions: int | None = None
    tools: list[Raw] | None = None
    tool_choice: Any = None
    response_format: Any = None
    logprobs: Any = None
    top_logprobs: int | None = None


class _Function(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str = ""
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Tool(msgspec.Struct):
    function: _Function = _Function()


_decode = msgspec.json.Decoder(_Asked).decode
_decode_tool = msgspec.json.Decoder(_Tool).decode

_KINDS: dict[str, Kind] = {"/chat/completions": "chat", "/completions": "completions", "/embeddings": "embeddings"}


def prepare(path: str, body: bytes) -> Prepared:
    """What to send to `path` for `body`. Raises Refused. A body of the wrong types is left for the engine to refuse."""
    kind: Kind = next((kind for end, kind in _KINDS.items() if path.endswith(end)), "other")
    if kind == "other":
        return Prepared(body, kind)
    try:
        asked = _decode(body)
        members = _decode_members(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Prepared(body, kind)
    if kind == "embeddings":
        if asked.dimensions not in (None, EMBEDDING_DIMENSIONS):
            raise Refused("dimensions", f"this model's embeddings have {EMBEDDING_DIMENSIONS} dimensions, always")
        return Prepared(body, kind)
    out = Prepared(b"", kind, choices_per_prompt=max(asked.n or 1, 1))
    if kind == "chat":
        _mend_chat(asked, members, out)
    else:
        _mend_completions(asked, members, out)
    out.whole = not asked.stream
    out.usage = out.whole or bool((asked.stream_options or {}).get("include_usage"))
    members["stream"] = _TRUE
    members["stream_options"] = _USAGE_ASKED
    out.body = _encode(members)
    return out


def _mend_chat(asked: _Asked, members: dict[str, Raw], out: Prepared) -> None:
    if asked.tool_choice == "none":
        members.pop("tools", None)
        members.pop("tool_choice")
    elif asked.tool_choice == "required" or isinstance(asked.tool_choice, dict):
        _force_call(asked, members)
        out.must_call = True
    if isinstance(asked.response_format, dict) and asked.response_format.get("type") == "json_schema":
        described = asked.response_format.get("json_schema")
        if not isinstance(described, dict) or not isinstance(described.get("schema", {}), dict):
            raise Refused("response_format", "'json_schema' must be an object whose 'schema' is a JSON schema object")
    if asked.logprobs is True and not asked.top_logprobs:
        members["top_logprobs"] = _ONE
        out.hide_top = True


def _mend_completions(asked: _Asked, members: dict[str, Raw], out: Prepared) -> None:
    for name in ("echo", "suffix"):
        raw = members.get(name)
        if (bytes(raw) if raw is not None else None) not in _NOTHING:
            raise Refused(name, "the built-in model cannot do it; leave it out")
    if asked.best_of is not None and asked.best_of != out.choices_per_prompt:
        raise Refused("best_of", "the built-in model cannot choose among more answers than it gives; leave it out")
    if asked.logprobs == 0 and asked.logprobs is not False:
        members["logprobs"] = _ONE
        out.hide_top = True


def _force_call(asked: _Asked, members: dict[str, Raw]) -> None:
    tools = [_function(tool) for tool in asked.tools or ()]
    choice = asked.tool_choice
    if isinstance(choice, dict):
        named = choice.get("function")
        name = named.get("name") if isinstance(named, dict) else None
        tools = [tool for tool in tools if tool.name == name]
    if not tools or not all(tool.name for tool in tools):
        raise Refused("tool_choice", "a call of a function is wanted that is not among 'tools'")
    forms = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": tool.parameters or {"type": "object"}},
            "required": ["name", "arguments"],
        }
        for tool in tools
    ]
    shape = {"name": "call", "schema": forms[0] if len(forms) == 1 else {"anyOf": forms}}
    members.pop("tool_choice")
    offered = [{"type": "function", "function": tool} for tool in tools]
    members.pop("tools")
    members["chat_template_kwargs"] = Raw(_encode({"offered": offered, "must_call": True}))
    members["response_format"] = Raw(_encode({"type": "json_schema", "json_schema": shape}))


def _function(tool: Raw) -> _Function:
    try:
        return _decode_tool(tool).function
    except msgspec.MsgspecError:
        return _Function()
