"""A whole JSON answer: what it says of itself (usage, finish reason, emptiness, an error in a 200).

Only the members that are asked about are decoded; unknown ones pass through untouched. The body is forwarded as it
came, but for usage that counts one choice of several, which is mended.
"""

import json
from typing import Any

import msgspec
from msgspec import Raw

from potluck.model.price import nanousd_to_usd_text
from potluck.model.resources import Capability
from potluck.model.usage import TokenUsage
from potluck.wire.dialects.usage import Usage, lenient_usage, token_usage

_encode = msgspec.json.encode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode

DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
NOTHING = frozenset((b"null", b'""', b"[]", b"{}", b"false"))
"""values that carry no content"""
UNSAID = ("role", "name", "id")
"""members of a message or delta that are not content"""
MAX_REASON_CHARS = 64
"""a finish reason is a word; what is longer is cut before it is recorded"""


class MalformedAnswer(Exception):  # noqa: N818 — a finding about a target, not a fault of ours
    """The target's bytes are not an answer of the dialect; the message is in our words and safe to show."""


class ResponseFacts(msgspec.Struct):
    """What a whole answer says of itself.

    `empty`: a 200 that carries nothing. An answer without text that used output tokens (hidden reasoning), or that was
    filtered, is not empty. `error`: the target's error object, when the 200 is one. `body`: what to forward.
    """

    usage: TokenUsage | None
    finish_reason: str
    empty: bool
    error: dict[str, Any] | None
    body: bytes


class Choice(msgspec.Struct):
    """One choice of chat (`message`) or completions (`text`)."""

    index: int = 0
    message: dict[str, Raw] | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None


class _End(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _Ending(msgspec.Struct, gc=False):
    """What is enough of most answers."""

    choices: list[_End] = []
    usage: Usage | None = None
    error: Any = None


class _Embeddings(msgspec.Struct):
    data: list[Raw] | None = None
    usage: Usage | None = None
    error: Any = None


class Incomplete(msgspec.Struct):
    reason: str | None = None


class ResponseObject(msgspec.Struct):
    """The object of the responses dialect, whole or inside a stream's terminal event."""

    status: str | None = None
    output: list[Raw] | None = None
    usage: Usage | None = None
    incomplete_details: Incomplete | None = None
    error: Any = None

    def finish_reason(self) -> str:
        """In chat's words: `stop`, `length`, `content_filter`."""
        if self.status != "incomplete":
            return "stop" if self.status in ("completed", None) else self.status[:MAX_REASON_CHARS]
        reason = self.incomplete_details.reason if self.incomplete_details else None
        return "length" if reason in ("max_output_tokens", None) else reason[:MAX_REASON_CHARS]


class _Timings(msgspec.Struct):
    predicted_n: int


class _Timed(msgspec.Struct):
    timings: _Timings | None = None


_decode_timings = msgspec.json.Decoder(_Timed).decode
_decode_ending = msgspec.json.Decoder(_Ending).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode
_decode_response = msgspec.json.Decoder(ResponseObject).decode


def read_response(capability: Capability, body: bytes, prompts: int = 1) -> ResponseFacts:
    """What `body` says. `prompts` as in the envelope. Raises `MalformedAnswer`: not a JSON object of the dialect."""
    check_utf8(body)
    if capability == "embeddings":
        return _read_embeddings(body)
    if capability == "responses":
        return _read_responses(body)
    try:
        ending = _decode_ending(body)
    except DECODE_ERRORS:
        ending = None
    if ending is not None and ending.usage is not None and len(ending.choices) == 1 and ending.error is None:
        # one choice that used output tokens: whatever it says, it is an answer
        usage = token_usage(ending.usage)
        reason = ending.choices[0].finish_reason
        if usage is not None and usage.output_tokens and reason != "error":
            return ResponseFacts(usage, reason[:MAX_REASON_CHARS] if reason else "", False, None, body)
    try:
        answer = _decode_answer(body)
    except DECODE_ERRORS:
        answer = _lenient_answer(decode_leniently(body))
    choices = answer.choices
    if answer.error is not None or choices is None:
        return _failure(answer.error, body, "no choices")
    usage = token_usage(answer.usage) if answer.usage is not None else None
    finish_reason = (choices[0].finish_reason or "")[:MAX_REASON_CHARS] if choices else ""
    if finish_reason == "error":
        return _failure({"message": "finish_reason error"}, body, "")
    used = usage is not None and usage.output_tokens
    said = [content_bytes(choice) for choice in choices]
    if len(choices) > 1 and usage is not None and counts_one_choice(body, usage):
        usage = _for_all_choices(usage, said, prompts)
        body = with_usage(body, usage)
    empty = not choices or (not any(said) and not used and finish_reason != "content_filter")
    return ResponseFacts(usage, finish_reason, empty, None, body)


def add_cost(body: bytes, cost_nanousd: int) -> bytes:
    """`body`, an answer or chunk, with `usage.cost_usd` added as a JSON number; unchanged if it has no usage object.

    In the responses dialect's events the usage lies in `response`.
    """
    members = members_of(body)
    if "usage" not in members and "response" in members:
        members["response"] = Raw(add_cost(bytes(members["response"]), cost_nanousd))
        return _encode(members)
    try:
        usage = members_of(members["usage"])
    except (KeyError, MalformedAnswer):
        return body
    usage["cost_usd"] = Raw(nanousd_to_usd_text(cost_nanousd).encode())
    members["usage"] = Raw(_encode(usage))
    return _encode(members)


def with_usage(body: bytes, usage: TokenUsage) -> bytes:
    """`body` with the counts of its `usage` object replaced; its other members stay."""
    members = members_of(body)
    counts = members_of(members["usage"])
    for name, value in (
        ("prompt_tokens", usage.input_tokens),
        ("completion_tokens", usage.output_tokens),
        ("total_tokens", usage.input_tokens + usage.output_tokens),
    ):
        counts[name] = Raw(b"%d" % value)
    members["usage"] = Raw(_encode(counts))
    return _encode(members)


def carries_content(member: dict[str, Raw]) -> bool:
    """A message or delta has something other than its role: content, reasoning, refusal, tool calls, audio, …"""
    return any(name not in UNSAID and bytes(raw) not in NOTHING for name, raw in member.items())


def content_bytes(choice: Choice) -> int:
    """The size of what a choice says, in bytes of JSON without the quotes."""
    size = len(choice.text) if choice.text else 0
    for name, raw in (choice.message or {}).items():
        if name not in UNSAID and (value := bytes(raw)) not in NOTHING:
            size += len(value) - 2
    return size


def counts_one_choice(body: bytes, usage: TokenUsage) -> bool:
    """Whether the usage of an answer or chunk with several choices is that of one: llama.cpp's `timings` tell.

    They count the tokens of one choice. Should its `usage` come to count all of them, the two will differ.
    """
    try:
        timings = _decode_timings(body).timings
    except DECODE_ERRORS:
        return False
    return timings is not None and timings.predicted_n == usage.output_tokens


def check_utf8(body: bytes) -> None:
    """Raises `MalformedAnswer`: JSON is UTF-8, and the decoder does not look into what it skips."""
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            raise MalformedAnswer("sent bytes that are not UTF-8") from None


def members_of(value: bytes | Raw) -> dict[str, Raw]:
    """The members of a JSON object, raw. Raises `MalformedAnswer` if it is not one, or has a name that is not UTF-8."""
    try:
        return _decode_members(value)
    except DECODE_ERRORS:
        members = _load(bytes(value))
    try:
        for name in members:
            name.encode()
        # half of a surrogate pair in a value stays as it is: escaped
        return {name: Raw(json.dumps(part).encode()) for name, part in members.items()}
    except UnicodeEncodeError:
        raise MalformedAnswer("sent a member whose name is not UTF-8") from None
    except RecursionError:
        raise MalformedAnswer("sent something that is not JSON") from None


def decode_leniently(body: bytes) -> dict[str, Any]:
    """A JSON object whose members are not of the usual types, or that has half of a surrogate pair in a string.

    Such a half is replaced by `?`, so that everything in the object can be written as UTF-8.
    """
    value = _load(body)
    if b"\\ud" not in body and b"\\uD" not in body:
        return value
    try:
        text = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        mended: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedAnswer("sent something that is not JSON") from None
    return mended


def _load(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise MalformedAnswer("sent something that is not JSON") from None
    if not isinstance(value, dict):
        raise MalformedAnswer("sent JSON that is not an object")
    return value


def error_of(value: dict[str, Any]) -> dict[str, Any] | None:
    """`value`, if it is an error without an `error` member: `{"object": "error", …}`, as older servers say."""
    return value if value.get("object") == "error" or value.get("type") == "error" else None


def as_error(error: Any) -> dict[str, Any]:
    return error if isinstance(error, dict) and error else {"message": str(error)}


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _failure(error: Any, body: bytes, lacks: str) -> ResponseFacts:
    found = as_error(error) if error is not None else error_of(decode_leniently(body))
    if found is None:
        raise MalformedAnswer(f"sent JSON that is not an answer: it has {lacks}")
    return ResponseFacts(None, "", False, found, body)


def _read_embeddings(body: bytes) -> ResponseFacts:
    try:
        answer = _decode_embeddings(body)
    except DECODE_ERRORS:
        value = decode_leniently(body)
        data = value.get("data")
        answer = _Embeddings([Raw()] * len(data) if isinstance(data, list) else None)
        answer.usage, answer.error = lenient_usage(value.get("usage")), value.get("error")
    if answer.error is not None or answer.data is None:
        return _failure(answer.error, body, "no data")
    usage = token_usage(answer.usage) if answer.usage is not None else None
    return ResponseFacts(usage, "stop", not answer.data, None, body)


def _read_responses(body: bytes) -> ResponseFacts:
    try:
        answer = _decode_response(body)
    except DECODE_ERRORS:
        answer = lenient_response(decode_leniently(body))
    if answer.error is not None or answer.output is None:
        return _failure(answer.error, body, "no output")
    if answer.status == "failed":
        return _failure({"message": "status failed"}, body, "")
    usage = token_usage(answer.usage) if answer.usage is not None else None
    reason = answer.finish_reason()
    empty = not answer.output and (usage is None or not usage.output_tokens) and reason != "content_filter"
    return ResponseFacts(usage, reason, empty, None, body)


def _for_all_choices(usage: TokenUsage, sizes: list[int], prompts: int) -> TokenUsage:
    """The usage of the first choice and prompt, extended to all by their sizes; hence estimated."""
    first = sizes[0] or 1
    output = sum([max(1, round(usage.output_tokens * size / first)) for size in sizes])
    return msgspec.structs.replace(
        usage, input_tokens=usage.input_tokens * prompts, output_tokens=output, estimated=True
    )


def lenient_response(value: dict[str, Any]) -> ResponseObject:
    """A responses object with members of other types than the dialect's."""
    status, output, details = value.get("status"), value.get("output"), value.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    return ResponseObject(
        status if isinstance(status, str) else None,
        [Raw()] * len(output) if isinstance(output, list) else None,
        lenient_usage(value.get("usage")),
        Incomplete(reason if isinstance(reason, str) else None),
        value.get("error"),
    )


def _lenient_answer(value: dict[str, Any]) -> _Answer:
    return _Answer(lenient_choices(value, "message"), lenient_usage(value.get("usage")), value.get("error"))


def lenient_choices(value: dict[str, Any], member: str) -> list[Choice] | None:
    """The choices of `value`, what is of a wrong type left out; `member` is `message` or `delta`."""
    choices = value.get("choices")
    if not isinstance(choices, list):
        return None
    out = []
    for choice in choices:
        if not isinstance(choice, dict):
            raise MalformedAnswer("sent a choice that is not an object")
        index, said = choice.get("index"), choice.get(member)
        text, reason = choice.get("text"), choice.get("finish_reason")
        out.append(
            Choice(
                index if type(index) is int else 0,
                {name: Raw(json.dumps(part).encode()) for name, part in said.items()}
                if isinstance(said, dict)
                else None,
                text if isinstance(text, str) else None,
                reason if isinstance(reason, str) else None,
            )
        )
    return out
