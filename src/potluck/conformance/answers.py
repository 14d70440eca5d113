"""Canonical bodies and stream events in the OpenAI form. Deterministic: the same arguments give the same bytes."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

Json = dict[str, Any]

CREATED: Final = 1_767_225_600
"""unix seconds in every answer: fixed, so that answers can be compared byte for byte"""
WORDS: Final = ("Everyone", " brings", " a", " dish", ".")
USAGE: Final[Json] = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
DONE: Final = b"data: [DONE]\n\n"


def compact(value: Any) -> bytes:
    """`value` as JSON without spaces, UTF-8, members in order of insertion."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def error(status: int, message: str, *, kind: str = "api_error", code: str | None = None) -> bytes:
    """An error body in OpenAI's envelope. The status is only named in the default code."""
    return compact({"error": {"message": message, "type": kind, "param": None, "code": code or f"fake_{status}"}})


def completion(
    model: str,
    words: Iterable[str] = WORDS,
    *,
    usage: Mapping[str, Any] | None = USAGE,
    finish: str | None = "stop",
    choices: Sequence[Json] | None = None,
) -> bytes:
    """A whole `chat.completion` body; `usage=None` leaves the member out."""
    message = {"role": "assistant", "content": "".join(words)}
    body: Json = {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}] if choices is None else list(choices),
    }
    if usage is not None:
        body["usage"] = dict(usage)
    return compact(body)


def text_completion(model: str, words: Iterable[str] = WORDS) -> bytes:
    """A whole `text_completion` body, as `/v1/completions` answers."""
    choice = {"index": 0, "text": "".join(words), "logprobs": None, "finish_reason": "stop"}
    head = {"id": "cmpl-fake", "object": "text_completion", "created": CREATED, "model": model}
    return compact({**head, "choices": [choice], "usage": USAGE})


def embeddings(model: str, inputs: int) -> bytes:
    """An embedding list with one two-dimensional vector per input."""
    data = [{"object": "embedding", "index": i, "embedding": [0.25, -0.5]} for i in range(inputs)]
    usage = {"prompt_tokens": 3 * inputs, "total_tokens": 3 * inputs}
    return compact({"object": "list", "data": data, "model": model, "usage": usage})


def models(names: Iterable[str]) -> bytes:
    """The body of `GET /models`."""
    data = [{"id": name, "object": "model", "created": CREATED, "owned_by": "fake"} for name in names]
    return compact({"object": "list", "data": data})


def event(value: Json) -> bytes:
    """One SSE event as a well-behaved provider writes it."""
    return b"data: " + compact(value) + b"\n\n"


def chunk(model: str, delta: Json | None, finish: str | None = None, **members: Any) -> Json:
    """One `chat.completion.chunk`; `delta=None` gives empty `choices` (the usage chunk's form)."""
    head = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": CREATED, "model": model}
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {**head, "choices": choices, **members}


def role_chunk(model: str) -> Json:
    """The first chunk of most providers: a role and nothing to read."""
    return chunk(model, {"role": "assistant", "content": ""})


def usage_chunk(model: str) -> Json:
    """OpenAI's final chunk when `stream_options.include_usage` was set: no choices, the counts."""
    return chunk(model, None, usage=USAGE)


def text_chunk(model: str, text: str, finish: str | None = None) -> Json:
    """One `text_completion` event, as `/v1/completions` streams."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    head = {"id": "cmpl-fake", "object": "text_completion", "created": CREATED, "model": model}
    return {**head, "choices": [choice]}


def chat_events(model: str, words: Iterable[str] = WORDS, *, usage: bool = False) -> Iterator[bytes]:
    """The events of a good chat stream in order, the last being `[DONE]`."""
    yield event(role_chunk(model))
    for word in words:
        yield event(chunk(model, {"content": word}))
    yield event(chunk(model, {}, "stop"))
    if usage:
        yield event(usage_chunk(model))
    yield DONE


def text_events(model: str, words: Iterable[str] = WORDS, *, usage: bool = False) -> Iterator[bytes]:
    """The events of a good `/v1/completions` stream in order, the last being `[DONE]`."""
    for word in words:
        yield event(text_chunk(model, word))
    yield event(text_chunk(model, "", "stop"))
    if usage:
        yield event({**text_chunk(model, ""), "choices": [], "usage": USAGE})
    yield DONE
