"""A request body, decoded once: the members that routing, limits and records read; everything else stays raw.

Rules:
1. The body is one UTF-8 JSON object. Each member that is read has the type that OpenAI's API description gives it;
   `null` stands for absent. What is not read is not judged.
2. A member that is read may come once only, however its name is escaped: what policy decided on is what the target
   reads.
3. What goes upstream is written anew from the decoded members, never spliced into the caller's bytes.
"""

import json
import re
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
from msgspec import Raw

from potluck.model.resources import Capability
from potluck.wire.dialects.controls import Controls, controls_of_fields
from potluck.wire.errors import RequestError

MAX_MODEL_CHARS = 256
MAX_USER_CHARS = 256
MAX_MEMBERS = 1000
"""OpenAI's own requests have fewer than forty; each one costs time that all callers share"""
_MODEL_NAME = re.compile(rf"[\x21-\x7e]{{1,{MAX_MODEL_CHARS}}}").fullmatch
MAX_KNOWN_MODELS = 1_000
_KNOWN_MODELS: dict[bytes, str] = {}
"""good names as they were written, decoded: a gateway serves few, and each is asked for again and again"""
MAX_COUNT = (1 << 53) - 1
"""the largest integer that every JSON reader takes alike"""
EXACT_SCAN_MAX_BYTES = 1 << 20
"""bodies beyond this that repeat or escape member names are refused: the exact scan is slow and holds the loop"""

_READ: dict[Capability, tuple[str, ...]] = {
    "chat": (
        "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "user", "potluck",
    ),
    "completions": ("model", "prompt", "stream", "stream_options", "max_tokens", "n", "user", "potluck"),
    "embeddings": ("model", "input", "user", "potluck"),
    "responses": ("model", "stream", "max_output_tokens", "user", "potluck"),
}  # fmt: skip
_PROMPT = ("messages", "prompt", "input", "instructions", "tools", "functions", "response_format")
_WRITE_OUT_BYTES = 4096
"""up to here writing members out to see how long they are is cheaper than adding lengths up"""
_LEAST_DUPLICATE_BYTES = 6
_ARRAY = ord("[")
"""`"n":1,` is the shortest repetition of a member that is read"""

T = TypeVar("T")

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_str = msgspec.json.Decoder(str).decode
_decode_bool = msgspec.json.Decoder(bool | None).decode
_decode_user = msgspec.json.Decoder(str | None).decode
_decode_array = msgspec.json.Decoder(list[Raw]).decode
_decode_options = msgspec.json.Decoder(dict[str, Raw] | None).decode
_decode_at_least_0 = msgspec.json.Decoder(Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)] | None).decode
_decode_at_least_1 = msgspec.json.Decoder(Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)] | None).decode
_decode_n = msgspec.json.Decoder(Annotated[int, msgspec.Meta(ge=1, le=128)] | None).decode
_decode_controls = msgspec.json.Decoder(Controls | None).decode
_encode = msgspec.json.encode

_AT_LEAST_1 = "an integer of at least 1 and at most 2^53 - 1"
_N = "an integer from 1 to 128"
_USAGE_ASKED = Raw(b'{"include_usage":true}')


class Envelope(msgspec.Struct):
    """What a request says. `members` holds every top-level member as its caller wrote it, in order."""

    capability: Capability
    model: str
    members: dict[str, Raw]
    stream: bool = False
    wants_usage: bool = False
    """the caller set `stream_options.include_usage`"""
    user: str = ""
    tags: tuple[str, ...] = ()
    max_output_tokens: int | None = None
    n: int = 1
    """choices that a whole answer has: the request's `n`, times `prompts`"""
    prompts: int = 1
    """completions may bring several"""
    controls: Controls | None = None
    stream_options: dict[str, Raw] | None = None

    def __repr__(self) -> str:
        return f"Envelope({self.capability} {self.model} stream={self.stream})"


def decode_envelope(capability: Capability, body: bytes) -> Envelope:
    """The request in `body`. Raises `RequestError` (`invalid_json`, `invalid_request`) and nothing else."""
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise RequestError(
                "invalid_json", f"the body is not UTF-8: byte {error.start} cannot be read; send JSON as UTF-8"
            ) from None
    try:
        members = _decode_members(body)
    except RecursionError:
        raise RequestError("invalid_json", "the body nests arrays or objects too deeply") from None
    except msgspec.ValidationError:
        raise RequestError("invalid_request", "the body must be a JSON object with a member 'model'") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError("invalid_json", f"the body is not readable as JSON: {_reason(error, body)}") from None
    if len(members) > MAX_MEMBERS:
        raise RequestError("invalid_request", f"the body has more than {MAX_MEMBERS} members at its top level")
    if len(body) - _compact_bytes(members, len(body)) >= _LEAST_DUPLICATE_BYTES:
        _refuse_duplicates(capability, body)

    envelope = Envelope(capability, _model(members), members)
    if capability == "chat":
        _need_array(members, "messages", b"{", "objects")
        if "max_tokens" in members:
            envelope.max_output_tokens = _read(members, "max_tokens", _decode_at_least_1, _AT_LEAST_1)
        if "max_completion_tokens" in members:
            limit = _read(members, "max_completion_tokens", _decode_at_least_1, _AT_LEAST_1)
            envelope.max_output_tokens = limit or envelope.max_output_tokens
        if "stream" in members or "stream_options" in members:
            _read_stream(envelope)
        if "n" in members:
            envelope.n = _read(members, "n", _decode_n, _N) or 1
    elif capability == "completions":
        envelope.max_output_tokens = _read(
            members, "max_tokens", _decode_at_least_0, "an integer of at least 0 and at most 2^53 - 1"
        )
        _read_stream(envelope)
        envelope.prompts = _prompts(members)
        envelope.n = (_read(members, "n", _decode_n, _N) or 1) * envelope.prompts
    elif capability == "embeddings":
        _need_input(members)
    else:
        envelope.max_output_tokens = _read(members, "max_output_tokens", _decode_at_least_1, _AT_LEAST_1)
        envelope.stream = bool(_read(members, "stream", _decode_bool, "true or false"))
    if "user" in members:
        envelope.user = (_read(members, "user", _decode_user, "a string") or "")[:MAX_USER_CHARS]
    if "potluck" in members:
        _read_controls(envelope, members["potluck"])
    return envelope


def encode_upstream_body(envelope: Envelope, model_json: bytes, quirks: frozenset[str] = frozenset()) -> bytes:
    """The body for a target: `model` replaced, `potluck` removed, usage asked for in a stream (unless a quirk says no).

    `model_json` is the upstream model's name as JSON text; `quirks` are names of `providers.quirks`.
    """
    members = {**envelope.members, "model": Raw(model_json)}
    members.pop("potluck", None)
    if envelope.stream and envelope.capability in ("chat", "completions"):
        if "no_stream_usage" in quirks:
            members.pop("stream_options", None)
        elif not envelope.wants_usage:
            options = envelope.stream_options
            members["stream_options"] = Raw(_encode({**options, "include_usage": True})) if options else _USAGE_ASKED
    return _encode(members)


def _model(members: dict[str, Raw]) -> str:
    raw = members.get("model")
    if raw is None:
        _refuse("model", "is missing: name the model to use")
    text = bytes(raw)
    known = _KNOWN_MODELS.get(text)
    if known is not None:
        return known
    try:
        model = _decode_str(raw)
    except msgspec.ValidationError:
        _refuse("model", "must be a string")
    if _MODEL_NAME(model) is None:
        _refuse("model", f"must be 1 to {MAX_MODEL_CHARS} characters of printable ASCII without spaces")
    if len(text) <= MAX_MODEL_CHARS:
        if len(_KNOWN_MODELS) >= MAX_KNOWN_MODELS:
            _KNOWN_MODELS.clear()
        _KNOWN_MODELS[text] = model
    return model


def _read_stream(envelope: Envelope) -> None:
    members = envelope.members
    if "stream" in members:
        envelope.stream = bool(_read(members, "stream", _decode_bool, "true or false"))
    if "stream_options" in members:
        options = _read(members, "stream_options", _decode_options, "an object")
        envelope.stream_options = options
        if options and "include_usage" in options:
            try:
                envelope.wants_usage = bool(_decode_bool(options["include_usage"]))
            except msgspec.ValidationError:
                _refuse("stream_options.include_usage", "must be true or false")


def _read_controls(envelope: Envelope, raw: Raw) -> None:
    try:
        controls = _decode_controls(raw)
    except msgspec.ValidationError as error:
        _refuse("potluck", f"cannot be used: {str(error)[:300]}")
    json.loads(bytes(raw), object_pairs_hook=_each_once)  # a limit must not be hidden behind a second one
    if controls is not None:
        _take_controls(envelope, controls)


def _each_once(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            _refuse(f"potluck.{name}", "comes more than once: send it once")


def prompt_bytes(envelope: Envelope) -> int:
    """The size of what the model reads, as JSON: without the request's settings and the gateway's own member."""
    members = envelope.members
    return sum([memoryview(members[name]).nbytes for name in _PROMPT if name in members])


def _take_controls(envelope: Envelope, controls: Controls) -> None:
    envelope.controls = controls
    envelope.user = controls.user or envelope.user
    envelope.tags = controls.tags or ()


def read_control_fields(envelope: Envelope, fields: dict[bytes, bytes]) -> None:
    """Take the caller's `x-potluck-…` headers into the envelope. Raises RequestError."""
    try:
        _take_controls(envelope, controls_of_fields(fields, envelope.controls))
    except ValueError as error:
        raise RequestError("invalid_request", str(error)) from None


def _read(members: dict[str, Raw], name: str, decode: Any, wanted: str) -> Any:
    raw = members.get(name)
    if raw is None:
        return None
    try:
        return decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        _refuse(name, f"must be {wanted}")


def _first_bytes(raw: Raw) -> bytes:
    """The value's first character and the next one that is not white space."""
    text = bytes(memoryview(raw)[:64])
    inside = text[1:].lstrip(b" \t\r\n")
    if not inside and len(memoryview(raw)) > len(text):
        inside = bytes(raw)[1:].lstrip(b" \t\r\n")
    return text[:1] + inside[:1]


def _need_array(members: dict[str, Raw], name: str, opening: bytes, of: str) -> None:
    raw = members.get(name)
    if raw is None:
        _refuse(name, "is missing")
    if bytes(memoryview(raw)[:2]) != b"[" + opening and _first_bytes(raw) != b"[" + opening:
        _refuse(name, f"must be a non-empty array of {of}")


def _prompts(members: dict[str, Raw]) -> int:
    """How many prompts a completions request has: a string or an array of tokens is one."""
    raw = members.get("prompt")
    if raw is None:
        return 1
    first = _first_bytes(raw)
    if first[:1] == b'"' or first == b"nu":
        return 1
    if first[:1] != b"[" or first == b"[]":
        _refuse("prompt", "must be a string or a non-empty array of strings or tokens")
    return len(_decode_array(raw)) if first in (b'["', b"[[") else 1


def _need_input(members: dict[str, Raw]) -> None:
    raw = members.get("input")
    if raw is None:
        _refuse("input", "is missing: give the text to embed")
    first = _first_bytes(raw)
    if first[:1] not in (b'"', b"[") or first == b"[]" or bytes(memoryview(raw)[:3]) == b'""':
        _refuse("input", "must be a non-empty string or a non-empty array of strings or tokens")


def _refuse(name: str, why: str) -> NoReturn:
    raise RequestError("invalid_request", f"'{name}' {why}", param=name)


def _compact_bytes(members: dict[str, Raw], size_bytes: int) -> int:
    """How long the members are, written without white space between them (escapes in names not counted)."""
    if size_bytes <= _WRITE_OUT_BYTES:
        return len(_encode(members))
    values = sum([memoryview(raw).nbytes for raw in members.values()])
    return len("".join(members).encode()) + values + 4 * len(members) + 1


def _refuse_duplicates(capability: Capability, body: bytes) -> None:
    """Called when the members, written compactly, are shorter than `body`: white space, or something twice.

    Without the white space the same comparison decides; only names that are escaped or do come twice are left.
    """
    compact = msgspec.json.format(body, indent=-1)
    if len(compact) - len(_encode(_decode_members(compact))) < _LEAST_DUPLICATE_BYTES:
        return
    if len(compact) > EXACT_SCAN_MAX_BYTES:
        raise RequestError(
            "invalid_request", "the body has members that come twice or have escaped names; send each once, unescaped"
        )
    names: list[str] = []

    def last_object_is_the_body(pairs: list[tuple[str, Any]]) -> None:
        names[:] = [name for name, _ in pairs]

    try:
        json.loads(compact, object_pairs_hook=last_object_is_the_body, parse_int=str, parse_float=str)
    except RecursionError:
        raise RequestError("invalid_json", "the body nests arrays or objects too deeply") from None
    for name in _READ[capability]:
        if names.count(name) > 1:
            _refuse(name, "comes more than once: send it once")


def _reason(error: Exception, body: bytes) -> str:
    if not body.strip():
        return "it is empty"
    text = str(error).removeprefix("JSON is malformed: ")
    if text == "Input data was truncated":
        return "it ends too early, or has half of a surrogate pair"
    return text[:200]
