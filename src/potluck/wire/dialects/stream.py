"""A streamed answer, chunk by chunk: the tap reads usage, finish reasons and signs of content as chunks pass.

Until content has been seen each chunk is decoded with its delta; after that only what can end the stream is. Rules:
1. Usage may come in a chunk without choices, in the last content chunk, after the finish reason, growing on every chunk
   (the last one counts), in `x_groq` or inside a choice. `null` and all zeros say nothing.
2. A caller who did not ask for usage does not see it: a chunk of usage alone is dropped, else the member is taken out.
   One who did also gets `usage.cost_usd`, and gets it in any case: where the target puts its counts elsewhere or has
   none, `missing_usage` makes the last chunk. A `"usage": null` is left where it is.
3. The stream is `finished` when all choices have a finish reason (responses: at the terminal event).
4. An error inside the stream ends it: `error` is set and nothing is forwarded.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from potluck.model.price import Price, cost_nanousd
from potluck.model.resources import Capability
from potluck.model.usage import TokenUsage
from potluck.wire.dialects.answer import (
    DECODE_ERRORS,
    MAX_REASON_CHARS,
    MalformedAnswer,
    ResponseObject,
    add_cost,
    as_error,
    carries_content,
    check_utf8,
    counts_one_choice,
    decode_leniently,
    error_of,
    lenient_choices,
    lenient_response,
    members_of,
    with_usage,
)
from potluck.wire.dialects.usage import Usage, lenient_usage, token_usage

__all__ = ["MalformedAnswer", "StreamTap"]


class _Groq(msgspec.Struct, gc=False):
    usage: Usage | None = None


class _Ending(msgspec.Struct, gc=False):
    index: int = 0
    finish_reason: str | None = None
    usage: Usage | None = None


class _Chunk(msgspec.Struct, gc=False):
    """What matters once content has been seen."""

    choices: list[_Ending] | None = None
    usage: Usage | None = None
    error: Any = None
    x_groq: _Groq | None = None


class _Saying(msgspec.Struct, gc=False):
    index: int = 0
    finish_reason: str | None = None
    usage: Usage | None = None
    delta: dict[str, Raw] | None = None
    text: str | None = None


class _FirstChunk(msgspec.Struct, gc=False):
    choices: list[_Saying] | None = None
    usage: Usage | None = None
    error: Any = None
    x_groq: _Groq | None = None


class _Event(msgspec.Struct, gc=False):
    """An event of the responses dialect."""

    type: str = ""
    response: ResponseObject | None = None
    error: Any = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_first = msgspec.json.Decoder(_FirstChunk).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_encode = msgspec.json.encode

_TERMINAL = frozenset(("response.completed", "response.incomplete", "response.failed", "response.cancelled"))
_CHUNK_HEAD = ("id", "object", "created", "model", "system_fingerprint", "service_tier")
_SILENT = frozenset(
    (
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_summary_part.added",
        "keepalive",
    )
)
"""events that say nothing yet: another target may still be tried"""


class StreamTap:
    """Reads one stream. `n`: choices it will have (`Envelope.n`), of `prompts` prompts. `price`: None when unknown."""

    __slots__ = (
        "_decode",
        "_ended",
        "_ending",
        "_n",
        "_overhead_bytes",
        "_price",
        "_prompts",
        "_reads_events",
        "_seen",
        "_shares",
        "_shown",
        "_sums",
        "_wants_usage",
        "chunks",
        "error",
        "finish_reason",
        "finished",
        "has_content",
        "output_bytes",
        "usage",
    )

    def __init__(
        self,
        capability: Capability,
        wants_usage: bool,
        n: int = 1,
        price: Price | None = None,
        prompts: int = 1,
    ) -> None:
        self.usage: TokenUsage | None = None
        self.finish_reason = ""
        """of the choice with the lowest index among those that ended"""
        self.finished = False
        """all choices have ended, or the terminal event came"""
        self.has_content = False
        """an event with content was seen: text, reasoning, refusal, tool call, audio, …"""
        self.error: dict[str, Any] | None = None
        """the target's error object, when one came inside the stream"""
        self.chunks = 0
        self.output_bytes = 0
        """size of the content so far, near enough to estimate tokens from; chunks that bring usage are not counted"""
        self._reads_events = capability == "responses"
        self._wants_usage = wants_usage
        self._price = price
        self._n = n
        self._prompts = prompts
        self._sums = False
        """the target counts each choice by itself: the counts are summed, and forwarded once"""
        self._shares: list[TokenUsage] = []
        self._shown = False
        """the caller has been given usage"""
        self._ending = b""
        """the last chunk with a finish reason"""
        self._ended: set[int] = set()
        self._seen: set[int] = set()
        self._decode: Callable[[bytes], Any] = _decode_first
        self._overhead_bytes = 0
        """what a chunk weighs beside its content, learnt from the first one"""

    def passes(self, events: list[tuple[bytes, bytes]]) -> bool:
        """Every one of these events of one read is forwarded as it is, and says nothing but content; they are counted.

        False: at least one has to be looked at by itself. Then nothing was counted, and `read` wants them all.
        """
        if not self.has_content or self._n > 1 or self._reads_events:
            return False
        size = 0
        try:
            for name, payload in events:
                chunk = _decode_chunk(payload)
                choices = chunk.choices
                if (
                    not choices
                    or len(choices) > 1
                    or choices[0].finish_reason
                    or choices[0].usage is not None
                    or chunk.usage is not None
                    or chunk.error is not None
                    or chunk.x_groq is not None
                    or name
                    or not payload.isascii()
                ):
                    return False
                size += len(payload)
        except DECODE_ERRORS:
            return False
        self.chunks += len(events)
        size -= self._overhead_bytes * len(events)
        if size > 0:
            self.output_bytes += size
        return True

    def read(self, payload: bytes, name: bytes = b"") -> bytes | None:
        """What to forward of one event, or None. Raises `MalformedAnswer` if `payload` is not a JSON object.

        `null` is dropped: llama.cpp sends it between the chunks of several completions.
        """
        if self._reads_events:
            return self._read_event(payload, name)
        if not payload.isascii():
            check_utf8(payload)
        try:
            chunk = self._decode(payload)
        except DECODE_ERRORS:
            if payload == b"null":
                return None
            chunk = _lenient_chunk(payload)
        self.chunks += 1
        choices = chunk.choices
        if choices is None or chunk.error is not None or name == b"error":
            if self._is_error(chunk.error, payload, name):
                return None
            choices = ()
        for choice in choices:
            if choice.finish_reason:
                self._end_choice(choice.index, choice.finish_reason)
                self._ending = payload
                if self.error is not None:
                    return None
            elif self._n > 1:
                self._seen.add(choice.index)
            if choice.usage is not None:
                self.usage = token_usage(choice.usage) or self.usage
        if self.has_content:
            size = len(payload) - self._overhead_bytes
            if size > 0 and choices and chunk.usage is None:
                self.output_bytes += size
        elif choices:
            self._look_for_content(choices, payload)
        if chunk.usage is None:
            if chunk.x_groq is not None and chunk.x_groq.usage is not None:
                self.usage = token_usage(chunk.x_groq.usage) or self.usage
            return payload
        usage = token_usage(chunk.usage)
        if self._n > 1 and not self._sums and usage is not None:
            self._sums = counts_one_choice(payload, usage)
        self._shown = self._wants_usage and usage is not None
        return self._take_usage(usage, payload, bool(choices))

    def missing_usage(self, usage: TokenUsage) -> bytes | None:
        """The chunk that tells the caller of a finished stream its usage; None if it was told, or was not asked for.

        `usage`: what the target said in a place that callers do not read, or an estimate, which then says so.
        """
        if not self._wants_usage or self._shown or not self._ending:
            return None
        return self._usage_chunk(usage, cost_nanousd(usage, self._price) if self._price is not None else None)

    def _usage_chunk(self, usage: TokenUsage, cost: int | None) -> bytes:
        counts: dict[str, Any] = {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
        }
        if usage.cached_input_tokens:
            counts["prompt_tokens_details"] = {"cached_tokens": usage.cached_input_tokens}
        if usage.reasoning_tokens:
            counts["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
        if usage.estimated:
            counts["estimated"] = True
        members = {name: raw for name, raw in members_of(self._ending).items() if name in _CHUNK_HEAD}
        chunk = _encode({**members, "choices": [], "usage": counts})
        return chunk if cost is None else add_cost(chunk, cost)

    @property
    def all_seen_finished(self) -> bool:
        """Every choice seen has ended: with `[DONE]`, the end of a target that gives fewer choices than asked for."""
        return self.finished or (bool(self._ended) and self._seen <= self._ended)

    @property
    def empty(self) -> bool:
        """Up to here the stream carries nothing. Filtered answers and hidden reasoning are not nothing."""
        used = self.usage is not None and self.usage.output_tokens > 0
        return not self.has_content and not used and self.finish_reason != "content_filter"

    def _look_for_content(self, choices: Any, payload: bytes) -> None:
        said = opening = 0
        for choice in choices:
            if choice.text:
                said += len(choice.text)
                self.has_content = True
            delta = choice.delta
            if delta and carries_content(delta):
                said += sum([len(bytes(raw)) - 2 for name, raw in delta.items() if name != "role"])
                if "role" in delta:
                    opening += len(bytes(delta["role"])) + len('"role":,')  # which later chunks do not have
                self.has_content = True
        if self.has_content:
            self.output_bytes += said
            self._overhead_bytes = len(payload) - said - opening
            self._decode = _decode_chunk

    def _end_choice(self, index: int, reason: str) -> None:
        if reason == "error":
            self.error = {"message": "finish_reason error"}
            return
        if not self._ended or index < min(self._ended):
            self.finish_reason = reason[:MAX_REASON_CHARS]
        self._ended.add(index)
        self.finished = len(self._ended) >= self._n

    def _is_error(self, error: Any, payload: bytes, name: bytes) -> bool:
        if error is not None:
            self.error = as_error(error)
        else:
            value = decode_leniently(payload)
            self.error = error_of(value) or (as_error(value) if name == b"error" else None)
        return self.error is not None

    def _take_usage(self, usage: TokenUsage | None, payload: bytes, has_choices: bool) -> bytes | None:
        if self._sums and usage is not None:
            self._shares.append(usage)
            self.usage = usage = self._sum_of_shares()
            if len(self._shares) < self._n:
                return _without_usage(payload) if has_choices else None
            if self._wants_usage:
                payload = with_usage(payload, usage)
        elif usage is not None:
            self.usage = usage
        if not self._wants_usage:
            return _without_usage(payload) if has_choices else None
        if self._price is None or usage is None:
            return payload
        return add_cost(payload, cost_nanousd(usage, self._price))

    def _sum_of_shares(self) -> TokenUsage:
        """Outputs add up; each prompt counts once, though each of its choices reports it."""
        shares = self._shares
        output = sum([share.output_tokens for share in shares])
        reasoning = sum([share.reasoning_tokens for share in shares])
        per_prompt = self._n // self._prompts
        whole = len(shares) == self._n
        inputs, cached = ([share.input_tokens for share in shares], [share.cached_input_tokens for share in shares])
        return TokenUsage(
            sum(inputs) // per_prompt if whole else max(inputs),
            output,
            min(cached),  # the further choices of a prompt find it cached by the first
            reasoning_tokens=reasoning,
        )

    def _read_event(self, payload: bytes, name: bytes = b"") -> bytes | None:
        """Responses."""
        if not payload.isascii():
            check_utf8(payload)
        try:
            event = _decode_event(payload)
        except DECODE_ERRORS:
            event = _lenient_event(payload)
        self.chunks += 1
        kind = event.type or name.decode("latin-1")
        if kind == "error" or event.error is not None:
            self.error = as_error(event.error if event.error is not None else decode_leniently(payload))
            return None
        if kind in _TERMINAL and event.response is not None:
            return self._end_response(kind, event.response, payload)
        if kind.endswith(".delta"):
            size = len(payload) - self._overhead_bytes
            if not self.has_content:
                self.has_content = True
                delta = decode_leniently(payload).get("delta")
                size = len(delta) if isinstance(delta, str) else 0
                self._overhead_bytes = len(payload) - size
            if size > 0:
                self.output_bytes += size
        elif kind not in _SILENT:
            self.has_content = True
        return payload

    def _end_response(self, kind: str, response: ResponseObject, payload: bytes) -> bytes | None:
        if response.usage is not None:
            self.usage = token_usage(response.usage)
        if kind == "response.failed" or response.error is not None:
            self.error = as_error(response.error if response.error is not None else {"message": "status failed"})
            return None
        self.finish_reason = response.finish_reason()
        self.finished = True
        if response.output:
            self.has_content = True
        if self.usage is None or self._price is None:
            return payload
        return add_cost(payload, cost_nanousd(self.usage, self._price))


def _without_usage(payload: bytes) -> bytes:
    members = members_of(payload)
    members.pop("usage", None)
    return _encode(members)


def _lenient_chunk(payload: bytes) -> _FirstChunk:
    """A chunk with members of other types than the dialect's, or half of a surrogate pair in a string."""
    value = decode_leniently(payload)
    choices = lenient_choices(value, "delta")
    groq = value.get("x_groq")
    return _FirstChunk(
        [_Saying(choice.index, choice.finish_reason, None, choice.message, choice.text) for choice in choices]
        if choices is not None
        else None,
        lenient_usage(value.get("usage")),
        value.get("error"),
        _Groq(lenient_usage(groq.get("usage"))) if isinstance(groq, dict) else None,
    )


def _lenient_event(payload: bytes) -> _Event:
    value = decode_leniently(payload)
    kind, response = value.get("type"), value.get("response")
    return _Event(
        kind if isinstance(kind, str) else "",
        lenient_response(response) if isinstance(response, dict) else None,
        value.get("error"),
    )
