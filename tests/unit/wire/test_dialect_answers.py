"""Whole answers: usage in every spelling, finish reasons, emptiness, errors inside a 200."""

import json
from typing import Any

import pytest

from potluck.model.usage import TokenUsage
from potluck.wire.dialects.answer import MalformedAnswer, add_cost, read_response, with_usage

USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}


def chat(message: dict[str, Any] | None = None, usage: Any = USAGE, reason: Any = "stop", **more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"} if message is None else message}
    value = {"object": "chat.completion", "choices": [choice | {"finish_reason": reason}], "usage": usage}
    return json.dumps(value | more).encode()


def usage_of(usage: Any) -> TokenUsage | None:
    return read_response("chat", chat(usage=usage)).usage


SPELLINGS: dict[str, tuple[Any, TokenUsage | None]] = {
    "plain": (USAGE, TokenUsage(10, 4)),
    "parts inside": (
        USAGE
        | {
            "prompt_tokens_details": {"cached_tokens": 6, "audio_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 1},
        },
        TokenUsage(10, 4, 6, 0, 3, 2, 1),
    ),
    "cache writes": (USAGE | {"prompt_tokens_details": {"cache_write_tokens": 5}}, TokenUsage(10, 4, 0, 5)),
    "cache creation": (USAGE | {"prompt_tokens_details": {"cache_creation_tokens": 5}}, TokenUsage(10, 4, 0, 5)),
    "null parts": (
        USAGE | {"prompt_tokens_details": None, "completion_tokens_details": {"reasoning_tokens": None}},
        TokenUsage(10, 4),
    ),
    "responses words": (
        {"input_tokens": 7, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 1}},
        TokenUsage(7, 2, 1),
    ),
    "hit tokens": (USAGE | {"prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 2}, TokenUsage(10, 4, 8)),
    "cached beside details": (USAGE | {"cached_tokens": 3}, TokenUsage(10, 4, 3)),
    "cached beside the prompt": (USAGE | {"prompt_tokens_details": {"cached_tokens": 90}}, TokenUsage(100, 4, 90)),
    "reasoning beside, by the total": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 50,
            "total_tokens": 80,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        TokenUsage(10, 70, reasoning_tokens=20),
    ),
    "reasoning beside, by its size": (
        {"prompt_tokens": 10, "completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 20}},
        TokenUsage(10, 24, reasoning_tokens=20),
    ),
    "thinking in the total only": (USAGE | {"total_tokens": 100}, TokenUsage(10, 90, reasoning_tokens=86)),
    "no total": ({"prompt_tokens": 10, "completion_tokens": 4}, TokenUsage(10, 4)),
    "whole floats": ({"prompt_tokens": 10.0, "completion_tokens": 4.0}, TokenUsage(10, 4)),
    "text counts": ({"prompt_tokens": "10", "completion_tokens": 4}, TokenUsage(0, 4)),
    "negative": ({"prompt_tokens": 10, "completion_tokens": -4}, TokenUsage(10, 0)),
    "absurd": ({"prompt_tokens": 10, "completion_tokens": 10**30}, TokenUsage(10, 0)),
    "zeros": ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None),
    "empty": ({}, None),
    "null": (None, None),
    "a list": ([1], None),
    "a number": (5, None),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_usage(case: str) -> None:
    """Each way of spelling usage becomes counts whose parts lie inside input and output."""
    said, want = SPELLINGS[case]
    usage = usage_of(said)
    assert usage == want
    if usage is not None:
        assert usage.cached_input_tokens + usage.cache_write_tokens <= usage.input_tokens
        assert usage.reasoning_tokens <= usage.output_tokens


@pytest.mark.parametrize(
    "message",
    [
        {"content": "hi"},
        {"content": None, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": ""}}]},
        {"content": "", "reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"refusal": "no"},
        {"content": None, "audio": {"data": "AA=="}},
        {"function_call": {"name": "f"}},
        {"content": [{"type": "text", "text": "hi"}]},
        {"content": "", "images": [{}]},
    ],
)
def test_content_of_any_kind_is_content(message: dict[str, Any]) -> None:
    """Text, reasoning, refusal, tool calls, audio and kinds yet unknown make an answer that is not empty."""
    assert not read_response("chat", chat({"role": "assistant"} | message, usage=None)).empty


@pytest.mark.parametrize(
    "message",
    [{}, {"content": ""}, {"content": None, "tool_calls": [], "refusal": None, "annotations": [], "reasoning": ""}],
)
def test_nothing_is_empty(message: dict[str, Any]) -> None:
    """A message with nothing but its role is empty, unless tokens were used or it was filtered."""
    message = {"role": "assistant"} | message
    assert read_response("chat", chat(message, usage=None)).empty
    assert read_response("chat", chat(message, usage={"prompt_tokens": 5, "completion_tokens": 0})).empty
    assert not read_response("chat", chat(message)).empty
    assert not read_response("chat", chat(message, usage=None, reason="content_filter")).empty


def test_no_choices_is_empty() -> None:
    """A list of no choices, of no embeddings, of no output items carries nothing."""
    assert read_response("chat", b'{"choices":[]}').empty
    assert read_response("embeddings", b'{"data":[]}').empty
    assert read_response("responses", b'{"output":[],"status":"completed"}').empty


def test_completions_text() -> None:
    """Completions carry their content in `text`."""
    facts = read_response("completions", b'{"choices":[{"text":"hi","finish_reason":"length","index":0}]}')
    assert (facts.empty, facts.finish_reason, facts.usage) == (False, "length", None)
    assert read_response("completions", b'{"choices":[{"text":"","finish_reason":"stop"}]}').empty


def test_embeddings() -> None:
    """Embeddings have data and the prompt's tokens."""
    body = b'{"object":"list","data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":3,"total_tokens":3}}'
    facts = read_response("embeddings", body)
    assert (facts.empty, facts.usage, facts.finish_reason, facts.body) == (False, TokenUsage(3), "stop", body)
    odd = read_response("embeddings", b'{"data":[[1]],"usage":{"prompt_tokens":"3","total_tokens":3}}')
    assert odd.usage is not None


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"status": "completed"}, "stop"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ({"status": "incomplete"}, "length"),
        ({}, "stop"),
        ({"status": 5}, "stop"),
    ],
)
def test_responses(more: dict[str, Any], reason: str) -> None:
    """A response object tells its usage and why it ended, in chat's words."""
    value = {"output": [{"type": "message"}], "usage": {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}}
    facts = read_response("responses", json.dumps(value | {"error": None} | more).encode())
    assert (facts.finish_reason, facts.usage, facts.empty, facts.error) == (reason, TokenUsage(7, 2), False, None)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"error":{"message":"no","code":429}}', {"message": "no", "code": 429}),
        (b'{"error":"no"}', {"message": "no"}),
        (b'{"error":{}}', {"message": "{}"}),
        (b'{"object":"error","message":"no","code":40001}', {"object": "error", "message": "no", "code": 40001}),
        (b'{"type":"error","message":"no"}', {"type": "error", "message": "no"}),
        (b'{"choices":[{"finish_reason":"error","message":{}}]}', {"message": "finish_reason error"}),
    ],
)
def test_an_error_in_a_200(body: bytes, error: dict[str, Any]) -> None:
    """An error object where an answer should be is found, in every shape."""
    assert read_response("chat", body).error == error
    if b"choices" not in body:
        assert read_response("embeddings", body).error == error
        assert read_response("responses", body).error == error


def test_failed_response_is_an_error() -> None:
    """A response whose status is `failed` is an error, with or without its object."""
    assert read_response("responses", b'{"output":[],"status":"failed","error":{"code":"x"}}').error == {"code": "x"}
    assert read_response("responses", b'{"output":[],"status":"failed"}').error is not None


MALFORMED = [
    b"",
    b"<html>busy</html>",
    b"[]",
    b'"x"',
    b"null",
    b"{}",
    b'{"ok":true}',
    b'{"choices":null}',
    b'{"choices":[1]}',
    b'{"choices":[{"finish_reason":"stop"}]',
    b'{"choices":NaN}',
    b'{"choices":[{"message":{"content":"\xff"}}]}',
    b'{"choices":' + b"[" * 200_000,
    b'{"choices":[{"message":' + b'{"a":' * 100_000,
]


@pytest.mark.parametrize("body", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_answers(body: bytes) -> None:
    """What is not an object of the dialect is malformed, told in our own words."""
    with pytest.raises(MalformedAnswer) as caught:
        read_response("chat", body)
    assert "sent" in str(caught.value)
    for capability in ("embeddings", "responses"):
        with pytest.raises(MalformedAnswer):
            read_response(capability, body)  # type: ignore[arg-type]


def test_members_of_other_types_are_not_malformed() -> None:
    """A dialect's looser relatives are read as far as they go: numbers for text, half a surrogate pair."""
    body = b'{"choices":[{"index":"0","message":{"content":"\\ud83d"},"finish_reason":7}],"usage":{"prompt_tokens":9}}'
    facts = read_response("chat", body)
    assert (facts.empty, facts.finish_reason, facts.usage, facts.body) == (False, "", TokenUsage(9), body)


LLAMA_CPP = {
    "choices": [
        {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": "0123456789"}},
        {"index": 1, "finish_reason": "stop", "message": {"role": "assistant", "content": "01234"}},
    ],
    "usage": {
        "completion_tokens": 6, "prompt_tokens": 33, "total_tokens": 39, "prompt_tokens_details": {"cached_tokens": 8}
    },
    "id": "x",
    "timings": {"predicted_n": 6},
}  # fmt: skip


def test_usage_of_one_choice_is_extended() -> None:
    """Where usage counts the first of several choices, the others are estimated by size, in record and body alike."""
    facts = read_response("chat", json.dumps(LLAMA_CPP).encode())
    assert facts.usage == TokenUsage(33, 9, 8, estimated=True)
    sent = json.loads(facts.body)
    assert sent["usage"] == LLAMA_CPP["usage"] | {"completion_tokens": 9, "total_tokens": 42}  # type: ignore[operator]
    assert {name: value for name, value in sent.items() if name != "usage"} == {
        name: value for name, value in LLAMA_CPP.items() if name != "usage"
    }


def test_usage_of_one_choice_is_recognised() -> None:
    """llama.cpp's timings give it away, unless its usage counts all choices after all."""
    whole = LLAMA_CPP | {"usage": {"completion_tokens": 9, "prompt_tokens": 33}}
    assert read_response("chat", json.dumps(whole).encode()).usage == TokenUsage(33, 9)
    untimed = json.dumps(LLAMA_CPP | {"timings": None}).encode()
    assert read_response("chat", untimed).usage == TokenUsage(33, 6, 8)
    several = read_response("chat", json.dumps(LLAMA_CPP).encode(), prompts=2)
    assert several.usage == TokenUsage(66, 9, 8, estimated=True)
    odd = json.dumps(LLAMA_CPP | {"timings": {"predicted_n": "6"}}).encode()
    assert read_response("chat", odd).usage == TokenUsage(33, 6, 8)
    single = LLAMA_CPP | {"choices": LLAMA_CPP["choices"][:1]}  # type: ignore[index]
    assert read_response("chat", json.dumps(single).encode()).usage == TokenUsage(33, 6, 8)


def test_add_cost() -> None:
    """A cost is an exact JSON number inside usage; the rest of the body keeps its spelling."""
    body = b'{"a":1.50,"usage":{"prompt_tokens":3},"b":"\\u00e9"}'
    assert add_cost(body, 1_234_567) == (b'{"a":1.50,"usage":{"prompt_tokens":3,"cost_usd":0.001234567},"b":"\\u00e9"}')
    assert b'"cost_usd":0.0}' in add_cost(body, 0)
    assert b'"cost_usd":12.5}' in add_cost(body, 12_500_000_000)
    event = b'{"type":"response.completed","response":{"id":"r","usage":{"input_tokens":3}}}'
    assert b'"response":{"id":"r","usage":{"input_tokens":3,"cost_usd":0.000000001}}' in add_cost(event, 1)


@pytest.mark.parametrize("body", [b"{}", b'{"usage":null}', b'{"usage":5}', b'{"usage":[]}'])
def test_add_cost_where_there_is_no_usage(body: bytes) -> None:
    """A body without a usage object stays as it is."""
    assert add_cost(body, 5) == body


HALF = b'"\\ud800"'


@pytest.mark.parametrize(
    ("capability", "body"),
    [
        ("chat", b'{"choices":[{"message":{"content":"a"},"finish_reason":%b}]}'),
        ("responses", b'{"status":%b,"output":[{}]}'),
        ("responses", b'{"status":"incomplete","output":[{}],"incomplete_details":{"reason":%b}}'),
    ],
)
def test_finish_reasons_can_be_written(capability: Any, body: bytes) -> None:
    """Half a surrogate pair in a finish reason is replaced, and a long reason is cut, by either way of reading."""
    assert read_response(capability, body % HALF).finish_reason == "?"
    used = b'{"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2},'
    for long in (body % (b'"%b"' % (b"r" * 100)), used + body[1:] % (b'"%b"' % (b"r" * 100))):
        assert read_response(capability, long).finish_reason == "r" * 64
    lenient = (body % (b'"%b"' % (b"r" * 100))).replace(b"{", b'{"usage":{"prompt_tokens":"1"},', 1)
    assert read_response(capability, lenient).finish_reason == "r" * 64


def test_errors_inside_a_200_can_be_written() -> None:
    """Half a surrogate pair is replaced at any depth of an error object, names included; whole pairs stay."""
    body = b'{"error":{"message":"a\\ud800b\\ud83d\\ude00","\\udfff":[{"x":"\\udc00"}]}}'
    assert read_response("chat", body).error == {"message": "a?b😀", "?": [{"x": "?"}]}
    assert read_response("embeddings", body).error == {"message": "a?b😀", "?": [{"x": "?"}]}


def test_member_names_that_are_no_text_are_malformed() -> None:
    """A name that cannot be written as UTF-8 is the target's fault, told as such, where members are rewritten."""
    for body in (b'{"\\ud800":1,"usage":{}}', b'{"\\ud800":1,"response":{}}'):
        with pytest.raises(MalformedAnswer, match="UTF-8"):
            add_cost(body, 1)
    with pytest.raises(MalformedAnswer, match="UTF-8"):
        with_usage(b'{"usage":{"\\ud800":1}}', TokenUsage(1, 1))
    assert b"\\ud83d" in add_cost(b'{"x":["\\ud83d"],"usage":{},"y":{"\\ud83d":1}}', 1), "values pass as they are"


def test_json_in_other_encodings_is_malformed() -> None:
    """JSON is UTF-8: bytes that happen to be UTF-16 are not guessed at."""
    with pytest.raises(MalformedAnswer):
        read_response("chat", '{"choices":[],"usage":"x"}'.encode("utf-16-le"))
