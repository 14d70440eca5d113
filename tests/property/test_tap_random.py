"""Answers and chunks at random: a value or `MalformedAnswer`, nothing else, whatever a target sends."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from potluck.model.price import Price
from potluck.wire.dialects.answer import MalformedAnswer, read_response
from potluck.wire.dialects.stream import StreamTap

CAPABILITIES = st.sampled_from(["chat", "completions", "embeddings", "responses"])
LEAF = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["error", "stop"])
)
NAMES = st.sampled_from(
    [
        *("choices", "usage", "error", "object", "type", "response", "status", "output", "data", "x_groq", "timings"),
        *("index", "delta", "message", "text", "finish_reason", "content", "role", "tool_calls", "predicted_n"),
        *("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "cached_tokens"),
        *("prompt_tokens_details", "completion_tokens_details", "reasoning_tokens", "incomplete_details", "reason"),
    ]
)
JSON = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=6), max_leaves=20
)
OBJECT = st.dictionaries(NAMES, JSON, max_size=6)
COUNT = st.none() | st.integers(-5, 200) | st.sampled_from(["7", 1.5, 10**30, True])
COUNTS = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "total_tokens": COUNT,
        "prompt_tokens_details": st.none()
        | st.fixed_dictionaries(
            {}, optional={"cached_tokens": COUNT, "audio_tokens": COUNT, "cache_write_tokens": COUNT}
        ),
        "completion_tokens_details": st.none()
        | st.fixed_dictionaries({}, optional={"reasoning_tokens": COUNT, "audio_tokens": COUNT}),
    },
)
PRICE = Price(1_000_000_000, 2_000_000_000, "test:1", "operator", cached_input=0)


@given(CAPABILITIES, OBJECT | JSON)
def test_any_answer(capability: Any, value: Any) -> None:
    """Any JSON is an answer, or malformed."""
    try:
        read_response(capability, json.dumps(value).encode())
    except MalformedAnswer as error:
        assert "sent" in str(error)


@given(
    CAPABILITIES,
    st.lists(OBJECT | JSON, max_size=6),
    st.booleans(),
    st.integers(1, 3),
    st.sampled_from([b"", b"error"]),
)
def test_any_stream(capability: Any, values: list[Any], wanted: bool, n: int, name: bytes) -> None:
    """Any sequence of JSON payloads is read to its end, to an error or to something malformed; forwards are JSON."""
    tap = StreamTap(capability, wanted, n, PRICE)
    for value in values:
        try:
            forward = tap.read(json.dumps(value).encode(), name)
        except MalformedAnswer:
            return
        if tap.error is not None:
            assert forward is None
            return
        assert forward is None or isinstance(json.loads(forward), dict)


@given(CAPABILITIES, st.binary(max_size=80))
def test_any_bytes(capability: Any, data: bytes) -> None:
    """Arbitrary bytes never raise anything but `MalformedAnswer`."""
    for read in (lambda: read_response(capability, data), lambda: StreamTap(capability, True).read(data)):
        try:
            read()
        except MalformedAnswer:
            continue


@given(COUNTS)
def test_usage_is_sane(counts: dict[str, Any]) -> None:
    """Counts are never negative or absurd, and parts lie inside what they are parts of."""
    body = json.dumps({"choices": [{"message": {"content": "a"}}], "usage": counts}).encode()
    usage = read_response("chat", body).usage
    if usage is not None:
        assert 0 <= usage.cached_input_tokens + usage.cache_write_tokens <= usage.input_tokens <= 10**13
        assert 0 <= usage.reasoning_tokens <= usage.output_tokens <= 10**13
        assert 0 <= usage.audio_input_tokens <= usage.input_tokens
        assert 0 <= usage.audio_output_tokens <= usage.output_tokens
