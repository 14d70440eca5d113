"""A caller who asked for usage is told it, wherever the target put it, or did not."""

import json

import pytest

from potluck.model.price import Price
from potluck.model.usage import TokenUsage
from potluck.wire.dialects.stream import StreamTap

HEAD = b'{"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
SAID = HEAD + b'"choices":[{"index":0,"delta":{"content":"a"}}]}'
STOP = HEAD + b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
COUNTED = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
PRICE = Price(input=1_000_000_000, output=2_000_000_000, version="t", source="operator")


def tap(*events: bytes, wants: bool = True) -> StreamTap:
    made = StreamTap("chat", wants, price=PRICE)
    for event in events:
        made.read(event)
    return made


def test_an_estimate_says_that_it_is_one() -> None:
    """The chunk has the stream's own id and model, no choices, the counts, the cost, and the mark."""
    chunk = tap(SAID, STOP).missing_usage(TokenUsage(10, 4, estimated=True))
    assert chunk is not None
    value = json.loads(chunk)
    assert (value["id"], value["model"], value["choices"]) == ("c", "m", [])
    assert value["usage"] == {
        "prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14, "estimated": True, "cost_usd": 0.000018
    }  # fmt: skip


def test_counts_in_another_place_are_lifted() -> None:
    """What `x_groq` said is told where callers read it, with its parts."""
    made = tap(SAID, STOP[:-1] + b',"x_groq":{"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}}')
    assert made.usage is not None
    chunk = made.missing_usage(TokenUsage(3, 2, 1, reasoning_tokens=1))
    assert chunk is not None
    usage = json.loads(chunk)["usage"]
    assert (usage["prompt_tokens_details"], usage["completion_tokens_details"]) == (
        {"cached_tokens": 1},
        {"reasoning_tokens": 1},
    )
    assert "estimated" not in usage


@pytest.mark.parametrize("wants", [True, False])
def test_nothing_is_told_twice_or_unasked(wants: bool) -> None:
    """Usage that went by is not repeated, and a caller who did not ask gets none."""
    assert tap(SAID, STOP, COUNTED, wants=wants).missing_usage(TokenUsage(3, 2)) is None
    assert tap(SAID, STOP, wants=False).missing_usage(TokenUsage(3, 2)) is None


def test_a_stream_without_an_end_has_no_usage_chunk() -> None:
    """Only a finished stream has a last chunk."""
    assert tap(SAID).missing_usage(TokenUsage(3, 2)) is None
