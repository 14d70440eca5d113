"""Streamed answers: where usage may hide, when a stream is finished, what its caller sees of it."""

import json
from typing import Any

import pytest

from potluck.model.price import Price
from potluck.model.usage import TokenUsage
from potluck.wire.dialects.answer import MalformedAnswer
from potluck.wire.dialects.stream import StreamTap

PRICE = Price(1_000_000_000, 2_000_000_000, "test:1", "operator")
USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
COST_USD = 18e-6


def chunk(delta: Any = None, reason: Any = None, index: int = 0, **more: Any) -> bytes:
    choice = {"index": index, "delta": {} if delta is None else delta, "finish_reason": reason}
    return json.dumps({"id": "x", "choices": [choice]} | more).encode()


def text(content: str, **more: Any) -> bytes:
    return chunk({"content": content}, **more)


def usage_chunk(usage: Any = USAGE, **more: Any) -> bytes:
    return json.dumps({"id": "x", "choices": [], "usage": usage} | more).encode()


ROLE = chunk({"role": "assistant", "content": ""})
MOONSHOT = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": USAGE}]}).encode()
PLACEMENTS: dict[str, list[bytes]] = {
    "chunk of its own": [ROLE, text("a"), chunk(reason="stop"), usage_chunk()],
    "last content chunk": [ROLE, text("a"), chunk({"content": "b"}, "stop", usage=USAGE)],
    "after the finish reason": [ROLE, text("a"), chunk(reason="stop"), chunk(usage=USAGE)],
    "growing on every chunk": [
        chunk({"role": "assistant"}, usage={"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 10}),
        text("a", usage={"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}),
        chunk({"content": "b"}, "stop", usage=USAGE),
    ],
    "inside a choice": [ROLE, text("a"), MOONSHOT],
    "x_groq": [ROLE, text("a"), chunk(reason="stop", x_groq={"id": "r", "usage": USAGE})],
    "nulls before": [
        chunk({"role": "assistant"}, usage=None), text("a", usage=None), chunk(reason="stop", usage=None),
        usage_chunk(),
    ],
    "zeros after": [ROLE, text("a"), chunk(reason="stop", usage=USAGE), usage_chunk({"prompt_tokens": 0})],
}  # fmt: skip


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("case", PLACEMENTS)
def test_usage_is_found(case: str, wanted: bool) -> None:
    """Usage is read exactly wherever it is placed, and the stream is finished once its choice has ended."""
    tap = StreamTap("chat", wanted, 1, PRICE)
    for payload in PLACEMENTS[case]:
        tap.read(payload)
    assert tap.usage == TokenUsage(10, 4)
    assert (tap.finished, tap.finish_reason, tap.has_content, tap.error) == (True, "stop", True, None)
    assert tap.chunks == len(PLACEMENTS[case])


@pytest.mark.parametrize("case", PLACEMENTS)
def test_usage_that_was_not_asked_for_is_kept_back(case: str) -> None:
    """A caller who did not ask gets every content chunk, no usage-only chunk, and no usage member with counts."""
    tap = StreamTap("chat", False, 1, PRICE)
    sent = [forward for payload in PLACEMENTS[case] if (forward := tap.read(payload)) is not None]
    want = [value for payload in PLACEMENTS[case] if (value := json.loads(payload))["choices"]]
    for value in want:
        if value.get("usage"):
            del value["usage"]
    assert [json.loads(payload) for payload in sent] == want


def test_chunks_without_news_are_forwarded_as_they_are() -> None:
    """An ordinary chunk is forwarded byte by byte, unknown members and odd spelling included."""
    tap = StreamTap("chat", False)
    for payload in (
        ROLE,
        b'{"choices" : [ {"delta":{"content":"\\u00e9\\/"}, "index":0,"x":1e400} ], "usage" : null,"new":[1]}',
        b'{"choices":[],"prompt_filter_results":[]}',
        b'{"choices":[{"delta":{},"index":0,"finish_reason":""}]}',
        '{"choices":[{"delta":{"content":"é😀"},"index":0}]}'.encode(),
        b'{"choices":[{"delta":{"content":"\\ud83d"},"index":0}]}',
        b'{"id":"x"}',
    ):
        assert tap.read(payload) is payload
    assert not tap.finished


def test_cost_is_told_with_usage() -> None:
    """A caller who asked for usage gets its cost with it, as a number; without a price, usage alone."""
    priced, unpriced = StreamTap("chat", True, 1, PRICE), StreamTap("chat", True, 1, None)
    for tap in (priced, unpriced):
        for payload in (ROLE, text("a"), chunk(reason="stop")):
            assert tap.read(payload) == payload
    sent = priced.read(usage_chunk())
    assert sent is not None
    assert json.loads(sent) == {"id": "x", "choices": [], "usage": USAGE | {"cost_usd": COST_USD}}
    assert unpriced.read(usage_chunk()) == usage_chunk()


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "a"},
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"refusal": "no"},
        {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]},
        {"function_call": {"name": "f"}},
        {"audio": {"id": "a"}},
        {"content": [{"type": "thinking"}]},
    ],
)
def test_signs_of_content(delta: dict[str, Any]) -> None:
    """Whatever a delta says besides its role is content; the opening chunk is not."""
    tap = StreamTap("chat", False)
    tap.read(ROLE)
    tap.read(chunk({"role": "assistant", "content": None, "tool_calls": [], "refusal": None}))
    assert not tap.has_content
    tap.read(chunk(delta))
    assert tap.has_content
    assert tap.output_bytes > 0


def test_completions_text_is_content() -> None:
    """Completions stream their text beside the index."""
    tap = StreamTap("completions", False)
    tap.read(b'{"choices":[{"text":"","index":0,"finish_reason":null}]}')
    assert not tap.has_content
    tap.read(b'{"choices":[{"text":"a","index":0,"finish_reason":null}]}')
    assert tap.has_content
    tap.read(b'{"choices":[{"text":"","index":0,"finish_reason":"length"}]}')
    assert (tap.finished, tap.finish_reason) == (True, "length")


def test_output_bytes_follow_the_content() -> None:
    """The size of the content is counted, whatever the chunks weigh around it."""
    tap = StreamTap("chat", False)
    said = ["hello", " world", "", "!", "x" * 100]
    tap.read(ROLE)
    for piece in said:
        tap.read(text(piece))
    tap.read(chunk(reason="stop", usage=USAGE, timings={"predicted_ms": 12.5, "predicted_n": 4}))
    tap.read(usage_chunk())
    assert tap.output_bytes == sum(map(len, said))


def test_finish_needs_every_choice() -> None:
    """With several choices the stream is finished when the last of them has ended."""
    tap = StreamTap("chat", False, n=3)
    for index in (1, 0, 2, 1, 2, 0):
        tap.read(text("a", index=index))
    for index, reason in ((2, "length"), (0, "stop")):
        tap.read(chunk(reason=reason, index=index))
        assert not tap.finished
        assert not tap.all_seen_finished
    tap.read(chunk(reason="tool_calls", index=1))
    assert tap.finished
    assert tap.finish_reason == "stop"


def test_fewer_choices_than_asked() -> None:
    """A target that gives one choice of two has finished what it began, which `all_seen_finished` tells."""
    tap = StreamTap("chat", False, n=2)
    tap.read(text("a"))
    assert not tap.all_seen_finished
    tap.read(chunk(reason="stop"))
    assert (tap.finished, tap.all_seen_finished) == (False, True)


def test_empty_streams() -> None:
    """A stream that ended without content or output tokens is empty, unless it was filtered."""
    for closing, empty in (
        ([chunk(reason="stop")], True),
        ([chunk(reason="stop"), usage_chunk({"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5})], True),
        ([chunk(reason="stop"), usage_chunk()], False),
        ([chunk(reason="content_filter")], False),
        ([text("a"), chunk(reason="stop")], False),
    ):
        tap = StreamTap("chat", False)
        for payload in (ROLE, *closing):
            tap.read(payload)
        assert tap.empty is empty, closing


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize(
    ("payload", "name", "error"),
    [
        (b'{"error":{"message":"no","code":502}}', b"", {"message": "no", "code": 502}),
        (b'{"error":"no"}', b"", {"message": "no"}),
        (b'{"object":"error","message":"no"}', b"", {"object": "error", "message": "no"}),
        (b'{"message":"no"}', b"error", {"message": "no"}),
        (b'{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}],"error":{"code":502}}', b"",
         {"code": 502}),
        (b'{"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}', b"", {"message": "finish_reason error"}),
    ],
)  # fmt: skip
def test_errors_inside_the_stream(payload: bytes, name: bytes, error: dict[str, Any], committed: bool) -> None:
    """An error is found before and after content, in every shape, and is not forwarded."""
    tap = StreamTap("chat", True, 1, PRICE)
    if committed:
        tap.read(text("a"))
    assert tap.read(payload, name) is None
    assert tap.error == error
    assert not tap.finished


@pytest.mark.parametrize("capability", ["chat", "completions"])
def test_null_payload_is_dropped(capability: Any) -> None:
    """llama.cpp sends `data: null` in streams of several completions: it says nothing and ends nothing."""
    tap = StreamTap(capability, False)
    assert tap.read(b"null") is None
    assert (tap.error, tap.chunks, tap.finished) == (None, 0, False)


def test_null_error_is_none() -> None:
    """Some servers put `error: null` into every chunk."""
    tap = StreamTap("chat", False)
    assert tap.read(text("a", error=None)) is not None
    assert tap.error is None


MALFORMED = [
    b"", b"oops", b"[]", b"1", b'"x"', b"[DONE]", b'{"choices":[{"delta":{"content":"a"}}]', b'{"a":NaN}',
    b'{"choices":[{"delta":{"content":"\xff"}}]}', b'{"choices":[1]}', b'{"choices":' + b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("capability", ["chat", "completions", "responses"])
@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("payload", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_payloads(payload: bytes, committed: bool, capability: Any) -> None:
    """A payload that is not a JSON object is malformed at any point of a stream."""
    tap = StreamTap(capability, False)
    if committed:
        tap.read(b'{"choices":[{"delta":{"content":"a"},"text":"a"}],"type":"response.output_text.delta","delta":"a"}')
        assert tap.has_content
    if capability == "responses" and payload == b'{"choices":[1]}':
        assert tap.read(payload) == payload
        return
    with pytest.raises(MalformedAnswer, match="sent"):
        tap.read(payload)


def llama_usage(tokens: int, cached: int) -> dict[str, Any]:
    """llama.cpp's usage of one choice; `timings` beside it count the same tokens."""
    details = {"cached_tokens": cached}
    usage = {"prompt_tokens": 32, "completion_tokens": tokens, "total_tokens": 32 + tokens}
    return {"usage": usage | {"prompt_tokens_details": details}, "timings": {"predicted_n": tokens}}


def test_usage_of_each_choice_is_summed() -> None:
    """A target that reports each choice by itself, as llama.cpp does, is summed exactly and reported once."""
    tap = StreamTap("chat", True, 2, PRICE)
    sent = [
        tap.read(payload)
        for payload in (
            text("a", index=1),
            text("b", index=0),
            chunk(reason="length", index=1),
            usage_chunk(**llama_usage(4, 8)),
            text("c", index=0),
            chunk(reason="length", index=0),
            usage_chunk(**llama_usage(5, 32)),
        )
    ]
    assert tap.usage == TokenUsage(32, 9, 8)
    assert [payload is None for payload in sent] == [False, False, False, True, False, False, False]
    assert sent[-1] is not None
    usage = json.loads(sent[-1])["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (32, 9, 41)
    assert usage["cost_usd"] == pytest.approx(50e-6)


def test_usage_of_each_choice_in_content_chunks() -> None:
    """Completions bring it in the last chunk of each choice: kept back there, and each prompt counts once."""
    tap = StreamTap("completions", True, 4, None, prompts=2)
    sent = []
    for index, prompt_tokens in enumerate((3, 3, 7, 7)):
        choice = {"text": "a", "index": index, "finish_reason": "length"}
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 2, "total_tokens": prompt_tokens + 2}
        value = {"choices": [choice], "usage": usage, "timings": {"predicted_n": 2}}
        sent.append(tap.read(json.dumps(value).encode()))
    assert tap.usage == TokenUsage(10, 8)
    assert tap.finished
    told = [json.loads(payload).get("usage") for payload in sent if payload is not None]
    assert told == [None, None, None, {"prompt_tokens": 10, "completion_tokens": 8, "total_tokens": 18}]


def test_growing_usage_of_several_choices_is_not_summed() -> None:
    """Cumulative usage on chunks of several choices stays cumulative: nothing marks it as one choice's."""
    tap = StreamTap("chat", True, 2, None)
    tap.read(text("a", index=0, usage={"prompt_tokens": 3, "completion_tokens": 1}))
    tap.read(text("a", index=1, usage={"prompt_tokens": 3, "completion_tokens": 2}))
    tap.read(usage_chunk({"prompt_tokens": 3, "completion_tokens": 8}))
    assert tap.usage == TokenUsage(3, 8)


def event(kind: str, **more: Any) -> bytes:
    return json.dumps({"type": kind, "sequence_number": 1} | more).encode()


def response(**more: Any) -> dict[str, Any]:
    value = {"id": "r", "status": "completed", "error": None, "output": [{"type": "message"}]}
    return value | {"usage": {"input_tokens": 10, "output_tokens": 4, "total_tokens": 14}} | more


def test_responses_stream() -> None:
    """Opening events are no content, deltas are; the terminal event brings usage, cost and the finish."""
    tap = StreamTap("responses", False, 1, PRICE)
    opening = response(status="in_progress", output=[], usage=None)
    for kind in ("response.created", "response.in_progress"):
        payload = event(kind, response=opening)
        assert tap.read(payload, kind.encode()) is payload
    assert tap.read(event("response.output_item.added", item={})) is not None
    assert (tap.has_content, tap.finished, tap.empty) == (False, False, True)
    tap.read(event("response.output_text.delta", delta="hello"))
    tap.read(event("response.output_text.delta", delta=" world"))
    assert (tap.has_content, tap.finished, tap.output_bytes) == (True, False, 11)
    sent = tap.read(event("response.completed", response=response()))
    assert sent is not None
    assert json.loads(sent)["response"]["usage"]["cost_usd"] == COST_USD
    assert (tap.finished, tap.finish_reason, tap.usage) == (True, "stop", TokenUsage(10, 4))


def test_responses_ends() -> None:
    """Incomplete is an end with its reason; failed and error events are errors and are not forwarded."""
    tap = StreamTap("responses", False)
    incomplete = response(status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    assert tap.read(event("response.incomplete", response=incomplete)) is not None
    assert (tap.finished, tap.finish_reason, tap.empty) == (True, "length", False)
    tap = StreamTap("responses", False)
    failed = event("response.failed", response=response(status="failed", error={"code": "server_error"}))
    assert tap.read(failed) is None
    assert (tap.error, tap.finished, tap.usage) == ({"code": "server_error"}, False, TokenUsage(10, 4))
    tap = StreamTap("responses", False)
    assert tap.read(event("error", code="rate_limit_exceeded", message="slow down")) is None
    assert tap.error is not None
    assert tap.error["code"] == "rate_limit_exceeded"
    tap = StreamTap("responses", False)
    assert tap.read(event("response.completed", response=response(output=[], usage=None))) is not None
    assert tap.empty


def test_responses_events_of_other_types() -> None:
    """Looser relatives are read as far as they go: the kind in the event's name, numbers for text."""
    tap = StreamTap("responses", False)
    tap.read(b'{"delta":"x"}', b"response.output_text.delta")
    assert tap.has_content
    tap.read(event("response.completed", response=response(status=7, usage={"input_tokens": "3", "output_tokens": 2})))
    assert (tap.finished, tap.usage) == (True, TokenUsage(0, 2))


def test_finish_reasons_of_streams_can_be_written() -> None:
    """Half a surrogate pair in a finish reason is replaced, and a long reason is cut, in every dialect."""
    for reason, read in ((b"\\ud800", "?"), (b"r" * 100, "r" * 64)):
        for index in (b"0", b'"0"'):
            tap = StreamTap("chat", False)
            tap.read(b'{"choices":[{"index":%b,"delta":{"content":"a"},"finish_reason":"%b"}]}' % (index, reason))
            assert (tap.finished, tap.finish_reason) == (True, read)
        tap = StreamTap("responses", False)
        tap.read(b'{"type":"response.completed","response":{"status":"%b","output":[{}]}}' % reason)
        assert (tap.finished, tap.finish_reason) == (True, read)


@pytest.mark.parametrize("wanted", [False, True])
def test_member_names_that_are_no_text_are_malformed(wanted: bool) -> None:
    """A chunk that has to be rewritten and has a name that is not UTF-8 is the target's fault."""
    tap = StreamTap("chat", wanted, 1, PRICE)
    with pytest.raises(MalformedAnswer, match="UTF-8"):
        tap.read(chunk({"content": "a"}, usage=USAGE).replace(b'"id"', b'"\\ud800"'))
