"""What is asked of the built-in model: llama.cpp's faults on the way in, mended before its server sees them. Pure.

Its server (build 11549, measured) …
- does not notice that the caller of a whole answer hung up, and generates to the end: every generation is asked for
  as a stream, and put together in `answers` where a whole answer was wanted;
- renders the tools into the prompt with `tool_choice: "none"`, takes a named `tool_choice` for `required`, and lets the
  model chat on before a required call until its tokens are used up: where a call must come, the answer is bound to the
  form of one by a JSON schema, and `answers` makes a tool call of it;
- takes `top_logprobs` 0 or absent for "no logprobs" or twenty;
- goes on from a last message of role `assistant`, but from an empty one it begins with the word `assistant`: left out;
- ignores `dimensions`, `echo`, `suffix` and `best_of`, and a JSON schema that is no object: refused, not half obeyed;
- reads whatever it is given: 30 MB of prompt, or two million members that mean nothing to it, keep it from everyone
  else for a minute. What cannot fit is refused by its size, and members that it does not know are left out.
"""

import re
from typing import Any, Literal

import msgspec
from msgspec import Raw

from potluck.engines.builtin import EMBEDDING_TOKENS, SLOT_TOKENS

EMBEDDING_DIMENSIONS = 576
_BYTES_A_TOKEN = 64
"""of JSON; ordinary text has 4 to 5, escaped and indented text up to 20: nothing that fits is refused for its size"""
MAX_PROMPT_BYTES = SLOT_TOKENS * _BYTES_A_TOKEN
"""a conversation, one prompt, or any other member"""
MAX_INPUT_BYTES = EMBEDDING_TOKENS * _BYTES_A_TOKEN
"""one text to embed"""
MAX_REQUEST_BYTES = 1 << 20
"""a request with all its prompts or inputs"""
MAX_TEXTS = 2048
"""prompts or inputs in one request, as at OpenAI"""

UNDERSTOOD = frozenset({
    # OpenAI's
    "best_of", "dimensions", "echo", "encoding_format", "frequency_penalty", "input", "logit_bias", "logprobs",
    "max_completion_tokens", "max_tokens", "messages", "model", "n", "parallel_tool_calls", "presence_penalty",
    "prompt", "reasoning_effort", "response_format", "seed", "stop", "stream", "stream_options", "suffix",
    "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user",
    # llama.cpp's own
    "adaptive_decay", "adaptive_target", "add_generation_prompt", "backend_sampling", "cache_prompt",
    "chat_template_kwargs", "continue_final_message", "dry_allowed_length", "dry_base", "dry_multiplier",
    "dry_penalty_last_n", "dry_sequence_breakers", "dynatemp_exponent", "dynatemp_range", "embd_normalize", "grammar",
    "grammar_lazy", "grammar_triggers", "id_slot", "ignore_eos", "json_schema", "lora", "min_keep", "min_p", "mirostat",
    "mirostat_eta", "mirostat_tau", "n_cache_reuse", "n_discard", "n_indent", "n_keep", "n_predict", "n_probs",
    "parse_tool_calls", "post_sampling_probs", "preserved_tokens", "reasoning_format", "repeat_last_n",
    "repeat_penalty", "response_fields", "return_progress", "return_tokens", "samplers", "t_max_predict_ms",
    "timings_per_token", "top_k", "top_n_sigma", "typical_p", "verbose", "xtc_probability", "xtc_threshold",
})  # fmt: skip
"""what the engine reads; everything else is left out"""

Kind = Literal["chat", "completions", "embeddings", "other"]

_Members = msgspec.defstruct("_Members", [(name, Raw, Raw()) for name in sorted(UNDERSTOOD)])
_decode_members = msgspec.json.Decoder(_Members).decode
_SEVERAL = re.compile(rb"\s*\[\s*[\"\[]")
_decode_items = msgspec.json.Decoder(list[Raw]).decode
_encode = msgspec.json.encode
_TRUE = Raw(b"true")
_ONE = Raw(b"1")
_USAGE_ASKED = Raw(b'{"include_usage":true}')
_NOTHING = (None, b"null", b"false", b'""', b"[]")
_SILENT = frozenset((b"null", b'""', b"[]"))


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


class _Message(msgspec.Struct):
    role: Raw = Raw(b"null")
    content: Raw = Raw(b"null")
    calls: Raw = msgspec.field(default=Raw(b"null"), name="tool_calls")


_decode = msgspec.json.Decoder(_Asked).decode
_decode_message = msgspec.json.Decoder(_Message).decode
_decode_tool = msgspec.json.Decoder(_Tool).decode

_KINDS: dict[str, Kind] = {"/chat/completions": "chat", "/completions": "completions", "/embeddings": "embeddings"}
_TEXTS: dict[Kind, str] = {"chat": "messages", "completions": "prompt", "embeddings": "input", "other": "body"}
"""the member that holds what the model reads"""


def prepare(path: str, body: bytes) -> Prepared:
    """What to send to `path` for `body`. Raises Refused. A body of the wrong types is left for the engine to refuse."""
    kind: Kind = next((kind for end, kind in _KINDS.items() if path.endswith(end)), "other")
    text = _TEXTS[kind]
    if len(body) > MAX_REQUEST_BYTES:
        raise _too_large(text, "the request", len(body), MAX_REQUEST_BYTES)
    if kind == "other":
        return Prepared(body, kind)
    try:
        asked = _decode(body)
        members = _understood(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        if len(body) > MAX_PROMPT_BYTES:
            raise _too_large(text, "the request", len(body), MAX_PROMPT_BYTES) from None
        return Prepared(body, kind)
    _check_sizes(members, text)
    if kind == "embeddings":
        if asked.dimensions not in (None, EMBEDDING_DIMENSIONS):
            raise Refused("dimensions", f"this model's embeddings have {EMBEDDING_DIMENSIONS} dimensions, always")
        return Prepared(_encode(members), kind)
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


def _understood(body: bytes) -> dict[str, Raw]:
    """The members that the engine knows, in their order here; the others are skipped without being kept."""
    found = _decode_members(body)
    members: dict[str, Raw] = {}
    for name in _Members.__struct_fields__:
        raw = getattr(found, name)
        if bytes(raw):
            members[name] = raw
    return members


def _check_sizes(members: dict[str, Raw], text: str) -> None:
    """Refuse what the engine would work through only to find that it is too much."""
    for name, raw in members.items():
        if name == text and name != "messages":
            texts = _texts(bytes(raw))
            if len(texts) > MAX_TEXTS:
                raise Refused(
                    name, f"it holds {len(texts)} texts: the built-in model takes at most {MAX_TEXTS} at once"
                )
            what, most = "a text", MAX_INPUT_BYTES if name == "input" else MAX_PROMPT_BYTES
        else:
            texts, what, most = [bytes(raw)], "it", MAX_PROMPT_BYTES
        size = max(map(len, texts), default=0)
        if size > most:
            raise _too_large(name, what, size, most)


def _texts(raw: bytes) -> list[bytes]:
    """The texts of a `prompt` or `input`: one, or a list; each as a string or as its tokens."""
    if _SEVERAL.match(raw):
        try:
            return [bytes(item) for item in _decode_items(raw)]
        except msgspec.MsgspecError:
            pass
    return [raw]


def _too_large(param: str, what: str, size: int, most: int) -> Refused:
    return Refused(param, f"{what} has {size} bytes: the built-in model takes at most {most}, and far fewer tokens")


def _mend_chat(asked: _Asked, members: dict[str, Raw], out: Prepared) -> None:
    if "messages" in members:
        members["messages"] = _without_empty_end(members["messages"])
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


def _without_empty_end(messages: Raw) -> Raw:
    """`messages` without a last one that is the assistant's and says nothing."""
    try:
        items = _decode_items(messages)
        last = _decode_message(items[-1]) if len(items) > 1 else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # the engine's to refuse
        return messages
    if last is not None and bytes(last.role) == b'"assistant"' and {bytes(last.content), bytes(last.calls)} <= _SILENT:
        return Raw(_encode(items[:-1]))
    return messages


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
