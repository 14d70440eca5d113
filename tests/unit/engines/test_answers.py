"""Answers of the built-in model, mended before a caller sees them."""

import json
from typing import Any

import pytest

from potluck.engines.answers import CutError, ForcedCall, StreamAnswer, WholeAnswer, mended_error, refusal
from potluck.engines.mend import Kind, Prepared

Json = dict[str, Any]


def event(choices: list[Json], **more: Any) -> bytes:
    chunk = {"choices": choices, "created": 5, "id": "chatcmpl-abc", "model": "m", "object": "o", **more}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def usage(prompt: int, output: int, cached: int = 0) -> Json:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def delta(index: int = 0, finish: str | None = None, **said: Any) -> Json:
    return {"index": index, "delta": said, "finish_reason": finish}


def text(index: int, words: str, finish: str | None = None, logprobs: Json | None = None) -> Json:
    return {"index": index, "text": words, "logprobs": logprobs, "finish_reason": finish}


DONE = b"data: [DONE]\n\n"
TOO_LARGE = "input (3001 tokens) is too large to process. increase the physical batch size (current batch size: 512)"


def chat(**settings: Any) -> Prepared:
    return Prepared(b"", "chat", **{"usage": True, **settings})


def whole(prepared: Prepared, *events: bytes) -> Json:
    answer = WholeAnswer(prepared)
    for each in events:
        answer.feed(each)
    return json.loads(answer.finish())  # type: ignore[no-any-return]


def streamed(prepared: Prepared, *events: bytes) -> list[Any]:
    answer = StreamAnswer(prepared)
    out = b"".join(answer.feed(each) for each in events)
    return [each if each == "[DONE]" else json.loads(each) for each in payloads(out)]


def payloads(out: bytes) -> list[str]:
    return [line.removeprefix("data: ") for line in out.decode().split("\n\n") if line]


TWO_CHOICES = (
    event([delta(1, role="assistant", content=None)]),
    event([delta(1, content="b1")]),
    event([delta(0, role="assistant", content=None)]),
    event([delta(0, content="a1")]),
    event([delta(1, finish="stop")]),
    event([], usage=usage(33, 4, 32), timings={"x": 1}),
    event([delta(0, content="a2")]),
    event([delta(0, finish="length")]),
    event([], usage=usage(33, 7, 10), timings={"x": 1}),
    DONE,
)
"""as the engine sends two choices: each with a usage of its own, in the middle of the stream"""


def test_a_whole_answer_is_put_together_from_a_stream() -> None:
    """Texts, reasons and counts of all choices, in the order of their index."""
    answer = whole(chat(whole=True, choices_per_prompt=2), *TWO_CHOICES)
    assert answer["object"] == "chat.completion"
    assert (answer["id"], answer["created"], answer["model"]) == ("chatcmpl-abc", 5, "m")
    assert [each["message"]["content"] for each in answer["choices"]] == ["a1a2", "b1"]
    assert [each["finish_reason"] for each in answer["choices"]] == ["length", "stop"]
    assert answer["usage"] == usage(33, 11, 10)


def test_a_stream_of_several_choices_has_one_usage_over_all() -> None:
    """The prompt is counted once, the outputs are added, and it comes once, before the end."""
    events = streamed(chat(choices_per_prompt=2), *TWO_CHOICES)
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"] == usage(33, 11, 10)
    assert not any(each.get("usage") or each.get("timings") for each in events[:-2])


def test_usage_that_nobody_asked_for_is_not_forwarded() -> None:
    """A caller that did not set `include_usage` sees no usage chunk."""
    assert not any("usage" in each for each in streamed(chat(usage=False), *TWO_CHOICES)[:-1])


def test_any_split_of_the_bytes_gives_the_same_answer() -> None:
    """The engine's reads may end anywhere."""
    data = b"".join(TWO_CHOICES)
    prepared = chat(whole=True, choices_per_prompt=2)
    assert whole(prepared, *[data[at : at + 1] for at in range(len(data))]) == whole(prepared, data)


def test_several_prompts_are_each_counted_once() -> None:
    """Two prompts with two choices each: 2 + 3 prompt tokens, not twice that."""
    prepared = Prepared(b"", "completions", whole=True, usage=True, choices_per_prompt=2)
    answer = whole(
        prepared,
        b"data: null\n\n",
        event([text(0, "a")]),
        event([text(0, "", "stop")], usage=usage(2, 1)),
        event([text(1, "", "stop")], usage=usage(2, 1, 1)),
        event([text(2, "c")]),
        event([text(2, "", "stop")], usage=usage(3, 4)),
        event([text(3, "", "stop")], usage=usage(3, 5, 2)),
        DONE,
    )
    assert answer["object"] == "text_completion"
    assert answer["id"] == "cmpl-abc"
    assert [each["text"] for each in answer["choices"]] == ["a", "", "c", ""]
    assert answer["usage"] == usage(5, 11, 0)


def test_tool_calls_are_joined_by_their_index() -> None:
    """Name and id come once, arguments in pieces; a call without words has null for content."""
    first: Json = {"index": 0, "id": "i", "type": "function", "function": {"name": "f", "arguments": "{"}}
    answer = whole(
        chat(whole=True),
        event([delta(tool_calls=[first])]),
        event([delta(tool_calls=[{"index": 0, "function": {"arguments": "}"}}])]),
        event([delta(tool_calls=[{"index": 1, "id": "j", "function": {"name": "g", "arguments": "[]"}}])]),
        event([delta(finish="tool_calls")]),
        event([], usage=usage(1, 2)),
        DONE,
    )
    message = answer["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "i", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": "j", "type": "function", "function": {"name": "g", "arguments": "[]"}},
    ]


def token(word: str, logprob: float) -> Json:
    top = [{"token": word, "logprob": logprob, "bytes": [1]}, {"token": "?", "logprob": -9.0, "bytes": [2]}]
    return {"token": word, "logprob": logprob, "bytes": [1], "top_logprobs": top}


def test_chat_logprobs_are_joined_and_unasked_alternatives_hidden() -> None:
    """Each token once, in order; `top_logprobs` is empty when its caller asked for none."""
    answer = whole(
        chat(whole=True, hide_top=True),
        event([{**delta(content="a"), "logprobs": {"content": [token("a", -1.0)]}}]),
        event([{**delta(content="b"), "logprobs": {"content": [token("b", -2.0)]}}]),
        event([delta(finish="stop")]),
        event([], usage=usage(1, 2)),
        DONE,
    )
    content = answer["choices"][0]["logprobs"]["content"]
    assert [(each["token"], each["logprob"], each["top_logprobs"]) for each in content] == [
        ("a", -1.0, []),
        ("b", -2.0, []),
    ]


@pytest.mark.parametrize(("hide", "top"), [(False, [{"aa": -1.0, "?": -9.0}, {"b": -2.0, "?": -9.0}]), (True, None)])
def test_completions_logprobs_take_their_own_form(hide: bool, top: list[Json] | None) -> None:
    """The engine writes chat's form; completions have parallel lists, with offsets into the text."""
    answer = whole(
        Prepared(b"", "completions", whole=True, usage=True, hide_top=hide),
        event([text(0, "aa", logprobs={"content": [token("aa", -1.0)]})]),
        event([text(0, "b", logprobs={"content": [token("b", -2.0)]})]),
        event([text(0, "", "stop")], usage=usage(1, 2)),
        DONE,
    )
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["aa", "b"],
        "token_logprobs": [-1.0, -2.0],
        "top_logprobs": top,
        "text_offset": [0, 2],
    }


@pytest.mark.parametrize(
    "events",
    [
        (),
        (event([delta(content="a")]), DONE),
        (event([delta(content="a")]), event([delta(finish="stop")])),
        (DONE,),
        (event([delta(0, finish="stop")]), event([delta(1, content="b")]), DONE),
    ],
)
def test_a_cut_stream_never_becomes_a_whole_answer(events: tuple[bytes, ...]) -> None:
    """Without a reason for each choice and the end mark there is no answer."""
    with pytest.raises(CutError):
        whole(chat(whole=True), *events)


@pytest.mark.parametrize(
    "payload", [b'{"error":{"message":"x"}}', b"[]", b"3", b"{", b'{"choices":null}', b"[" * 9000, b'"\xff"']
)
def test_an_event_that_is_no_chunk_breaks_the_answer(payload: bytes) -> None:
    """An error inside the engine's stream, or nonsense, is a failure of the engine."""
    with pytest.raises(CutError):
        whole(chat(whole=True), b"data: " + payload + b"\n\n")


CALL = '{\n "name" : "get_weather", "arguments":  {"city": "Pa}ris", "at": {"x": 1}}\n}'


def test_a_forced_call_is_the_same_however_its_text_was_cut() -> None:
    """Every split gives the name once and the arguments whole, without the bracket that closes the object around."""
    for step in range(1, len(CALL)):
        call = ForcedCall("call_1")
        pieces = [call.feed(CALL[at : at + step]) for at in range(0, len(CALL), step)] + [call.close()]
        said = [piece for piece in pieces if piece]
        assert [piece["function"]["name"] for piece in said if "id" in piece] == ["get_weather"]
        assert "".join(piece["function"]["arguments"] for piece in said) == '{"city": "Pa}ris", "at": {"x": 1}}'


def test_a_forced_call_in_a_stream_has_no_content_and_no_empty_deltas() -> None:
    """Text becomes tool call deltas; what says nothing is left out; the reason is `tool_calls`."""
    events = streamed(
        chat(must_call=True),
        event([delta(role="assistant", content=None)]),
        *[event([delta(content=each)]) for each in CALL],
        event([delta(finish="stop")]),
        event([], usage=usage(1, 2)),
        DONE,
    )
    deltas = [each["choices"][0] for each in events[:-2]]
    assert all(each["delta"] or each["finish_reason"] for each in deltas)
    assert not any("content" in each["delta"] for each in deltas)
    assert deltas[-1]["finish_reason"] == "tool_calls"
    arguments = "".join(
        piece["function"]["arguments"] for each in deltas for piece in each["delta"].get("tool_calls", ())
    )
    assert json.loads(arguments) == {"city": "Pa}ris", "at": {"x": 1}}


def test_a_forced_call_that_ran_out_of_tokens_says_so() -> None:
    """The arguments stay cut and the reason stays `length`."""
    answer = whole(
        chat(whole=True, must_call=True),
        event([delta(content='{"name": "f", "arguments": {"a": {}')]),
        event([delta(finish="length")]),
        event([], usage=usage(1, 2)),
        DONE,
    )
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"a": {}'


def error(status: int, message: str, fault: str = "server_error", kind: Kind = "chat", **more: Any) -> tuple[int, Json]:
    body = json.dumps({"error": {"code": status, "message": message, "type": fault, **more}}).encode()
    mended, answer = mended_error(status, body, kind)
    return mended, json.loads(answer)["error"]


@pytest.mark.parametrize(
    ("status", "message", "kind", "code", "said"),
    [
        (500, TOO_LARGE, "server_error", "context_length_exceeded", "the prompt has 3001 tokens"),
        (500, "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
         "server_error", "invalid_request", "image input is not supported"),
        (500, "Failed to parse tools: Missing tool function: {}; tools = [\n]",
         "server_error", "invalid_request", "Failed to parse tools: Missing tool function: {}"),
        (400, "Field 'temperature': [json.exception.type_error.302] type must be number, but is string",
         "invalid_request_error", "invalid_request", "Field 'temperature': type must be number, but is string"),
    ],
)  # fmt: skip
def test_what_the_caller_did_wrong_is_a_400_in_words(
    status: int, message: str, kind: str, code: str, said: str
) -> None:
    """A 500 or a number for a code would look like a fault of the engine, or tell how to reconfigure it."""
    mended, found = error(status, message, kind)
    assert mended == 400
    assert found["code"] == code
    assert found["type"] == "invalid_request_error"
    assert found["message"].startswith(said)
    assert "batch size" not in found["message"]
    assert "hint" not in found["message"]


def test_a_prompt_that_is_too_long_says_how_long_it_may_be() -> None:
    """Both numbers are in the message."""
    status, found = error(400, "request exceeds", "exceed_context_size_error", n_prompt_tokens=9031, n_ctx=2048)
    assert (status, found["code"]) == (400, "context_length_exceeded")
    assert "9031" in found["message"]
    assert "2048" in found["message"]


def test_a_text_that_is_too_long_to_embed_says_how_long_it_may_be() -> None:
    """In the words of embeddings, whichever of the engine's limits it met."""
    for status, message, fault in ((500, TOO_LARGE, "server_error"), (400, "x", "exceed_context_size_error")):
        mended, found = error(status, message, fault, "embeddings", n_prompt_tokens=3001, n_ctx=512)
        assert (mended, found["param"]) == (400, "input")
        assert found["message"] == "an input has 3001 tokens: the built-in model embeds at most 512 at once"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"error":"x"}', b'{"error":{"message":"/secret/path","code":500}}']
)
def test_a_fault_of_the_engine_stays_one_and_tells_nothing(body: bytes) -> None:
    """Its status is kept and its text is not forwarded."""
    status, answer = mended_error(500, body)
    assert status == 500
    assert json.loads(answer)["error"]["message"] == "the built-in model failed"


def test_a_refusal_names_the_member() -> None:
    """What never reached the engine is told in the same form."""
    status, body = refusal("echo", "cannot")
    assert status == 400
    assert json.loads(body)["error"] == {
        "message": "'echo': cannot",
        "type": "invalid_request_error",
        "param": "echo",
        "code": "invalid_request",
    }
