"""Requests to the built-in model, mended before its engine sees them."""

import json
from typing import Any

import pytest

from potluck.engines.mend import MAX_INPUT_BYTES, MAX_PROMPT_BYTES, MAX_REQUEST_BYTES, Prepared, Refused, prepare

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


def ready(path: str, **members: Any) -> tuple[Prepared, dict[str, Any]]:
    prepared = prepare(path, json.dumps({"model": "m", **members}).encode())
    return prepared, json.loads(prepared.body)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_every_generation_is_asked_for_as_a_stream_with_usage(path: str) -> None:
    """A whole answer is wanted, yet the engine is asked to stream: only so does it notice a hang-up."""
    prepared, sent = ready(path, temperature=0.5)
    assert prepared.whole
    assert sent == {"model": "m", "temperature": 0.5, "stream": True, "stream_options": {"include_usage": True}}


def test_a_plain_chat_stream_with_usage_is_not_touched() -> None:
    """The common case costs nothing: its bytes are forwarded as they come."""
    prepared, _ = ready(CHAT, stream=True, stream_options={"include_usage": True})
    assert prepared.untouched


@pytest.mark.parametrize(
    "members",
    [{"n": 2}, {"logprobs": True}, {"stream_options": None}, {"tools": [tool("f")], "tool_choice": "required"}],
)
def test_what_needs_mending_is_not_forwarded_untouched(members: dict[str, Any]) -> None:
    """Several choices, logprobs without alternatives, unasked usage and forced calls go through the mender."""
    prepared, _ = ready(CHAT, **{"stream": True, "stream_options": {"include_usage": True}, **members})
    assert not prepared.untouched


@pytest.mark.parametrize(
    ("last", "stays"),
    [
        ({"role": "assistant", "content": ""}, False),
        ({"role": "assistant", "content": None, "tool_calls": []}, False),
        ({"role": "assistant", "content": "Well,"}, True),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, True),
        ({"role": "user", "content": ""}, True),
    ],
)
def test_an_empty_last_message_of_the_assistant_is_left_out(last: dict[str, Any], stays: bool) -> None:
    """The engine would begin its answer with the word of the role; a start of the answer is gone on from."""
    asked = {"role": "user", "content": "Hi"}
    _, sent = ready(CHAT, messages=[asked, last])
    assert sent["messages"] == ([asked, last] if stays else [asked])
    _, sent = ready(CHAT, messages=[last])
    assert sent["messages"] == [last]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, EMBEDDINGS])
def test_only_what_the_engine_knows_reaches_it(path: str) -> None:
    """Its own members pass as they were written; what means nothing to it is left out, however much it is."""
    rest = {f"unknown-{number}": number for number in range(5000)}
    _, sent = ready(path, seed=7, min_p=0.1, stop=["a", "b"], banana={"a": [1, None]}, **rest)
    assert {"model": "m", "seed": 7, "min_p": 0.1, "stop": ["a", "b"]}.items() <= sent.items()
    assert set(sent) <= {"model", "seed", "min_p", "stop", "stream", "stream_options"}


@pytest.mark.parametrize(
    ("path", "members", "param"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "a" * MAX_PROMPT_BYTES}]}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": "a" * (30 << 20)}]}, "messages"),
        (CHAT, {"messages": [], "nothing": "a" * MAX_REQUEST_BYTES}, "messages"),
        (CHAT, {"messages": [], "n": "x", "nothing": "a" * MAX_PROMPT_BYTES}, "messages"),
        (CHAT, {"messages": [], "tools": ["a" * MAX_PROMPT_BYTES]}, "tools"),
        (CHAT, {"messages": [], "prompt": ["a" * MAX_PROMPT_BYTES]}, "prompt"),
        (COMPLETIONS, {"prompt": "a" * MAX_PROMPT_BYTES}, "prompt"),
        (COMPLETIONS, {"prompt": [10] * MAX_PROMPT_BYTES}, "prompt"),
        (COMPLETIONS, {"prompt": ["a"] * 2049}, "prompt"),
        (EMBEDDINGS, {"input": "a" * MAX_INPUT_BYTES}, "input"),
        (EMBEDDINGS, {"input": ["b", "a" * MAX_INPUT_BYTES]}, "input"),
        (EMBEDDINGS, {"input": [[1, 2], [10] * MAX_INPUT_BYTES]}, "input"),
        (EMBEDDINGS, {"input": ["a" * 1000] * 2000}, "input"),
        ("/v1/other", {"input": "a" * MAX_REQUEST_BYTES}, "body"),
    ],
)
def test_what_cannot_fit_is_refused_by_its_size(path: str, members: dict[str, Any], param: str) -> None:
    """The engine would take a minute over it, and then say that it is too long."""
    with pytest.raises(Refused) as caught:
        ready(path, **members)
    assert caught.value.param == param
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("path", "members"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "\u6f22" * 9000}]}),
        (COMPLETIONS, {"prompt": ["word " * 2000] * 20}),
        (EMBEDDINGS, {"input": ["word " * 100] * 2000}),
        (EMBEDDINGS, {"input": [[49_000] * 512] * 100}),
        (EMBEDDINGS, {"input": [10] * 512}),
        (EMBEDDINGS, {"input": []}),
    ],
)
def test_what_may_fit_is_left_to_the_engine_to_count(path: str, members: dict[str, Any]) -> None:
    """Long but possible, or many but each short: only the engine knows the tokens."""
    _, sent = ready(path, **members)
    assert members.items() <= sent.items()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"n":"x"}', b'{"stream":3}', b"\xff", b"[" * 5000])
def test_what_cannot_be_read_is_left_to_the_engine(body: bytes) -> None:
    """A body of the wrong types goes to the engine unchanged: it refuses such itself."""
    assert prepare(CHAT, body) == Prepared(body, "chat")


def test_other_endpoints_pass_untouched() -> None:
    """An endpoint that the mender does not know is none of its business."""
    assert prepare("/v1/responses", b"{").untouched


def test_tools_are_hidden_from_the_model_when_none_may_be_called() -> None:
    """With `tool_choice: "none"` the engine would put the tools into the prompt, and the model call one."""
    _, sent = ready(CHAT, tools=[tool("f")], tool_choice="none")
    assert "tools" not in sent
    assert "tool_choice" not in sent


def test_a_required_call_is_bound_to_its_form_by_a_schema() -> None:
    """The engine lets the model chat on before a required call; a schema does not."""
    prepared, sent = ready(CHAT, tools=[tool("f"), tool("g")], tool_choice="required")
    assert prepared.must_call
    assert "tools" not in sent
    names = [each["properties"]["name"]["const"] for each in sent["response_format"]["json_schema"]["schema"]["anyOf"]]
    assert names == ["f", "g"]
    assert [each["function"]["name"] for each in sent["chat_template_kwargs"]["offered"]] == ["f", "g"]


def test_a_named_call_offers_that_function_alone() -> None:
    """The engine takes a named `tool_choice` for `required`; here the other functions are left out."""
    _, sent = ready(CHAT, tools=[tool("f"), tool("g")], tool_choice={"type": "function", "function": {"name": "g"}})
    assert sent["response_format"]["json_schema"]["schema"]["properties"]["name"] == {"const": "g"}
    assert [each["function"]["name"] for each in sent["chat_template_kwargs"]["offered"]] == ["g"]


@pytest.mark.parametrize(
    ("path", "members", "param"),
    [
        (CHAT, {"tools": [tool("f")], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        (CHAT, {"tool_choice": "required"}, "tool_choice"),
        (CHAT, {"tools": [{"type": "function"}], "tool_choice": "required"}, "tool_choice"),
        (CHAT, {"tools": [tool("f")], "tool_choice": {}}, "tool_choice"),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": []}}}, "response_format"),
        (CHAT, {"response_format": {"type": "json_schema"}}, "response_format"),
        (COMPLETIONS, {"prompt": "a", "echo": True}, "echo"),
        (COMPLETIONS, {"prompt": "a", "suffix": "b"}, "suffix"),
        (COMPLETIONS, {"prompt": "a", "best_of": 2}, "best_of"),
        (EMBEDDINGS, {"input": "a", "dimensions": 8}, "dimensions"),
    ],
)
def test_what_the_engine_would_silently_not_do_is_refused(path: str, members: dict[str, Any], param: str) -> None:
    """Half obeyed is worse than refused: the error names the member."""
    with pytest.raises(Refused) as caught:
        ready(path, **members)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("path", "members"),
    [
        (COMPLETIONS, {"prompt": "a", "echo": False, "suffix": None, "best_of": 2, "n": 2}),
        (COMPLETIONS, {"prompt": "a", "suffix": ""}),
        (EMBEDDINGS, {"input": "a", "dimensions": 576}),
        (CHAT, {"tools": [tool("f")], "tool_choice": "auto"}),
    ],
)
def test_what_comes_to_the_same_is_not_refused(path: str, members: dict[str, Any]) -> None:
    """SDKs write defaults out; a default asks for nothing."""
    assert ready(path, **members)


@pytest.mark.parametrize(
    ("path", "members", "asked"),
    [
        (CHAT, {"logprobs": True}, 1),
        (CHAT, {"logprobs": True, "top_logprobs": 0}, 1),
        (CHAT, {"logprobs": True, "top_logprobs": 3}, 3),
    ],
)
def test_logprobs_without_alternatives_are_asked_for_with_one(path: str, members: dict[str, Any], asked: int) -> None:
    """The engine takes 0 for "no logprobs" and none for twenty."""
    prepared, sent = ready(path, **members)
    assert sent["top_logprobs"] == asked
    assert prepared.hide_top == (members.get("top_logprobs", 0) == 0)


def test_completions_logprobs_of_zero_are_asked_for_with_one() -> None:
    """`logprobs: 0` means the chosen token's own, which the engine gives from 1 on."""
    prepared, sent = ready(COMPLETIONS, prompt="a", logprobs=0)
    assert sent["logprobs"] == 1
    assert prepared.hide_top
