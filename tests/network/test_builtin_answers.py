"""What the built-in model answers: the real engine, the real model, through the mending upstream.

The tests named `test_the_engine_…` go straight to the engine and pin the faults that are mended: when one of them fails
after an upgrade of the engine, its mending can go.
"""

import asyncio
import base64
import json
import math
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from builtin_bench import HI, Answer, Bench, Json, running_bench

from potluck.engines.model_file import MODEL_NAME, model_path

pytestmark = [pytest.mark.local_model, pytest.mark.asyncio(loop_scope="module")]

WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
STORY = [{"role": "user", "content": "Tell me a long story about a fox."}]


def tool(name: str, description: str) -> Json:
    city: Json = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": city}}


TOOLS = [tool("get_weather", "Get the weather of a city"), tool("get_time", "Get the local time of a city")]
CITY: Json = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "population": {"type": "integer"}},
    "required": ["city", "population"],
    "additionalProperties": False,
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(local_model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    home = tmp_path_factory.mktemp("home")
    place = model_path(home)
    place.parent.mkdir()
    place.symlink_to(local_model_file)
    async with running_bench(home) as bench:
        yield bench


async def test_a_whole_answer_has_the_form_of_the_dialect(bench: Bench) -> None:
    """Every member that an SDK reads, and nothing of the engine: no file's path, no timings."""
    answer = (await bench.chat(temperature=0)).json
    assert sorted(answer) == ["choices", "created", "id", "model", "object", "usage"]
    assert answer["object"] == "chat.completion"
    assert answer["model"] == MODEL_NAME
    (choice,) = answer["choices"]
    assert choice["finish_reason"] in ("stop", "length")
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 1 <= usage["completion_tokens"] <= 16


async def test_a_stream_says_the_same_as_a_whole_answer(bench: Bench) -> None:
    """Same request, same seed: the pieces of the stream are the whole, and end with usage and the end mark."""
    whole = (await bench.chat(seed=5, temperature=0.7)).json
    stream = await bench.chat(seed=5, temperature=0.7, stream=True, stream_options={"include_usage": True})
    assert stream.text == whole["choices"][0]["message"]["content"]
    assert stream.events[-1] == "[DONE]"
    assert stream.events[-2]["choices"] == []
    assert stream.events[-2]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


async def test_a_seed_makes_an_answer_repeatable(bench: Bench) -> None:
    """The same seed gives the same words, other seeds give others."""

    async def said(seed: int) -> str:
        answer = await bench.chat(messages=STORY, seed=seed, temperature=1.5)
        return str(answer.json["choices"][0]["message"]["content"])

    first = await said(1)
    assert await said(1) == first
    assert len({first, await said(2), await said(3)}) > 1


@pytest.mark.parametrize("stream", [False, True])
async def test_several_choices_are_counted_exactly(bench: Bench, stream: bool) -> None:
    """Each of three choices has its twelve tokens counted, and the prompt is counted once."""
    request: Json = {"n": 3, "max_tokens": 12, "temperature": 1.2, "messages": STORY, "ignore_eos": True}
    if stream:
        answer = await bench.chat(**request, stream=True, stream_options={"include_usage": True})
        usage = answer.events[-2]["usage"]
        indexes = {choice["index"] for event in answer.events[:-1] for choice in event["choices"]}
        assert sum(1 for event in answer.events[:-1] if event.get("usage")) == 1
    else:
        whole = (await bench.chat(**request)).json
        usage, indexes = whole["usage"], {choice["index"] for choice in whole["choices"]}
    assert indexes == {0, 1, 2}
    assert usage["completion_tokens"] == 36
    alone = (await bench.chat(messages=STORY, max_tokens=1)).json["usage"]["prompt_tokens"]
    assert usage["prompt_tokens"] == alone


async def test_more_choices_than_slots_are_refused(bench: Bench) -> None:
    """As many choices as the engine has slots; beyond it a 400, not a hang."""
    answer = await bench.chat(n=5)
    assert answer.status == 400
    assert answer.error["code"] == "invalid_request"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_is_called(bench: Bench, stream: bool) -> None:
    """The shipped template makes so small a model call the function that the question is about."""
    request: Json = {"messages": WEATHER, "tools": TOOLS, "max_tokens": 100, "temperature": 0}
    calls = calls_of(await bench.chat(**request, stream=stream), stream)
    assert [call["name"] for call in calls] == ["get_weather"]
    assert json.loads(calls[0]["arguments"])["city"] == "Paris"


async def test_the_function_that_the_question_names_is_called(bench: Bench) -> None:
    """Of several functions it is not always the first."""
    asked = [{"role": "user", "content": "What time is it in Rome?"}]
    answer = await bench.chat(messages=asked, tools=TOOLS, max_tokens=100, temperature=0)
    assert [call["name"] for call in calls_of(answer, stream=False)] == ["get_time"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", {"get_weather", "get_time"}), ({"type": "function", "function": {"name": "get_time"}}, {"get_time"})],
)
async def test_a_call_that_must_come_comes(bench: Bench, choice: Any, names: set[str], stream: bool) -> None:
    """Even at a temperature at which the model would rather chat; a named function is that function.

    A model of 135 M parameters now and then never ends a string, so an answer may be cut at its limit; never a word.
    """
    whole = 0
    for seed in range(8):
        answer = await bench.chat(
            messages=HI, tools=TOOLS, tool_choice=choice, max_tokens=200, temperature=1.0, seed=seed, stream=stream
        )
        if finish_reason_of(answer, stream) == "length":
            continue
        calls = calls_of(answer, stream)
        assert len(calls) == 1
        assert calls[0]["name"] in names
        assert "city" in json.loads(calls[0]["arguments"])
        whole += 1
        if whole == 3:
            break
    assert whole


async def test_no_tool_is_called_when_none_may_be(bench: Bench) -> None:
    """`tool_choice: "none"` gives words."""
    answer = await bench.chat(messages=WEATHER, tools=TOOLS, tool_choice="none", max_tokens=60, temperature=0)
    message = answer.json["choices"][0]["message"]
    assert "tool_calls" not in message
    assert "<tool_call>" not in message["content"]


async def test_the_result_of_a_call_is_talked_about(bench: Bench) -> None:
    """A conversation with a call and its result gets an answer in words that has the result in it."""
    called = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
    messages: list[Json] = [
        *WEATHER,
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "a", "content": '{"sky": "sunny"}'},
    ]
    answer = (await bench.chat(messages=messages, tools=TOOLS, max_tokens=60, temperature=0)).json
    assert "sunny" in answer["choices"][0]["message"]["content"]


def finish_reason_of(answer: Answer, stream: bool) -> str:
    """How the only choice ended."""
    if not stream:
        return str(answer.json["choices"][0]["finish_reason"])
    reasons = [choice["finish_reason"] for event in answer.events[:-1] for choice in event["choices"]]
    return next(str(reason) for reason in reasons if reason)


def calls_of(answer: Answer, stream: bool) -> list[dict[str, str]]:
    """Name and arguments of each tool call; the answer must have ended for that reason, with a well-formed id."""
    if not stream:
        (choice,) = answer.json["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        assert all(call["id"] and call["type"] == "function" for call in choice["message"]["tool_calls"])
        return [call["function"] for call in choice["message"]["tool_calls"]]
    calls: dict[int, dict[str, str]] = {}
    reasons = []
    for event in answer.events[:-1]:
        for choice in event["choices"]:
            reasons.append(choice["finish_reason"])
            assert not choice["delta"].get("content")
            for piece in choice["delta"].get("tool_calls", ()):
                if "id" in piece:
                    assert piece["type"] == "function"
                    calls[piece["index"]] = {"name": piece["function"]["name"], "arguments": ""}
                calls[piece["index"]]["arguments"] += piece["function"].get("arguments", "")
    assert [reason for reason in reasons if reason] == ["tool_calls"]
    return list(calls.values())


@pytest.mark.parametrize("stream", [False, True])
async def test_a_json_schema_binds_the_answer(bench: Bench, stream: bool) -> None:
    """The answer is JSON of exactly that shape."""
    shape = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    asked = [{"role": "user", "content": "Describe Paris as JSON."}]
    answer = await bench.chat(messages=asked, response_format=shape, max_tokens=200, temperature=0, stream=stream)
    value = json.loads(answer.text if stream else answer.json["choices"][0]["message"]["content"])
    assert sorted(value) == ["city", "population"]
    assert isinstance(value["population"], int)


async def test_json_mode_gives_an_object(bench: Bench) -> None:
    """`json_object` without a schema: what was not cut at its limit is an object."""
    for seed in range(8):
        form = {"type": "json_object"}
        answer = await bench.chat(response_format=form, max_tokens=200, temperature=0.7, seed=seed)
        if finish_reason_of(answer, stream=False) == "stop":
            assert isinstance(json.loads(answer.json["choices"][0]["message"]["content"]), dict)
            return
    pytest.fail("eight answers in a row were cut")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "banana"},
        {"$ref": "https://example.com/x.json"},
        {"$ref": "#/nope"},
        {"enum": []},
        {"oneOf": []},
        [],
        "x",
        {"type": "array", "items": {"type": "array", "items": {"type": "string"}, "minItems": 3000}, "minItems": 3000},
    ],
)
async def test_a_schema_that_cannot_be_used_is_refused(bench: Bench, schema: Any) -> None:
    """A 400 in words, and the engine lives on."""
    answer = await bench.chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert answer.status == 400
    assert answer.error["code"] == "invalid_request"
    assert (await bench.chat(max_tokens=1)).status == 200


async def test_logprobs_come_with_as_many_alternatives_as_asked(bench: Bench) -> None:
    """None when none were asked for, else that many, whole and streamed alike."""
    for top in (0, 2):
        whole = (await bench.chat(logprobs=True, top_logprobs=top, max_tokens=4, temperature=0)).json
        content = whole["choices"][0]["logprobs"]["content"]
        assert len(content) == whole["usage"]["completion_tokens"]
        assert all(each["logprob"] <= 0 and len(each["top_logprobs"]) == top for each in content)
        stream = await bench.chat(logprobs=True, top_logprobs=top, max_tokens=4, temperature=0, stream=True)
        streamed = [
            each
            for event in stream.events[:-1]
            for choice in event["choices"]
            for each in (choice.get("logprobs") or {}).get("content", ())
        ]
        assert [each["token"] for each in streamed] == [each["token"] for each in content]


async def test_a_stop_sequence_ends_the_answer(bench: Bench) -> None:
    """It is not part of the answer, and the reason is `stop`."""
    whole = (await bench.chat(messages=STORY, max_tokens=40, temperature=0)).json["choices"][0]["message"]["content"]
    word = whole.split()[4]
    answer = (await bench.chat(messages=STORY, max_tokens=40, temperature=0, stop=[word])).json["choices"][0]
    assert answer["finish_reason"] == "stop"
    assert word not in answer["message"]["content"]


async def test_a_huge_token_limit_is_taken(bench: Bench) -> None:
    """Far more tokens than there is room for is no error: the answer ends where the model ends it."""
    answer = (await bench.chat(max_tokens=2_000_000_000, temperature=0)).json
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_all_slots_can_be_filled_at_once(bench: Bench) -> None:
    """Four callers use all of their context at the same time: each gets its own to the last token, none an error."""
    prompts = [[100 + n] + [200 + at for at in range(1960)] for n in range(4)]
    calls = [bench.open("completions", {"prompt": each, "max_tokens": 500, "ignore_eos": True})[1] for each in prompts]
    for answer in calls:
        await asyncio.wait_for(answer.over.wait(), 300)
        assert answer.json["usage"]["total_tokens"] == 2048
        assert answer.json["choices"][0]["finish_reason"] == "length"


@pytest.mark.long
async def test_an_answer_ends_with_the_context(bench: Bench) -> None:
    """Where prompt and answer fill the room, the reason is `length`."""
    filler = [{"role": "user", "content": "word " * 1900}]
    answer = (await bench.chat(messages=filler, max_tokens=500, ignore_eos=True)).json
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] <= 2048


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_is_too_long_is_a_400(bench: Bench, stream: bool) -> None:
    """Never a 500, and the message has both numbers."""
    answer = await bench.chat(messages=[{"role": "user", "content": "word " * 9000}], stream=stream)
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"
    assert "2048" in answer.error["message"]


@pytest.mark.parametrize(
    "members",
    [
        {"tools": "x"},
        {"tools": [{"type": "function"}]},
        {"temperature": "hot"},
        {"response_format": {"type": "zzz"}},
        {"messages": "hi"},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]},
    ],
)
async def test_bad_requests_are_400_in_words(bench: Bench, members: Json) -> None:
    """None of the engine's 500s, numeric codes or hints for its operator reaches a caller."""
    answer = await bench.chat(**members)
    assert answer.status == 400
    assert answer.error["code"] == "invalid_request"
    assert answer.error["type"] == "invalid_request_error"
    for word in ("json.exception", "mmproj", "hint", "batch", "/"):
        assert word not in answer.error["message"]


@pytest.mark.parametrize("messages", [[{"role": "user", "content": None}], [{"role": "system", "content": None}, *HI]])
async def test_messages_without_content_are_answered(bench: Bench, messages: list[Json]) -> None:
    """The template takes null for nothing."""
    assert (await bench.chat(messages=messages)).status == 200


async def test_content_in_parts_is_read(bench: Bench) -> None:
    """Text parts count as the text."""
    parts = [{"role": "user", "content": [{"type": "text", "text": "Say"}, {"type": "text", "text": "hi."}]}]
    assert (await bench.chat(messages=parts)).json["usage"]["prompt_tokens"] > 30


async def test_completions_of_several_prompts_are_counted_exactly(bench: Bench) -> None:
    """Two prompts with two choices each: four texts, each prompt counted once."""
    request: Json = {"prompt": ["Once upon", "Twice"], "n": 2, "max_tokens": 5, "ignore_eos": True}
    answer = (await bench.ask("completions", request)).json
    assert answer["object"] == "text_completion"
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["completion_tokens"] == 20
    singles = [
        (await bench.ask("completions", {"prompt": each, "max_tokens": 1})).json["usage"] for each in request["prompt"]
    ]
    assert answer["usage"]["prompt_tokens"] == sum(usage["prompt_tokens"] for usage in singles)


async def test_a_completions_stream_has_the_form_of_the_dialect(bench: Bench) -> None:
    """No `data: null`, usage only in a chunk of its own and only when asked for."""
    request: Json = {"prompt": ["Once upon", "Twice"], "max_tokens": 3, "stream": True}
    plain = await bench.ask("completions", request)
    assert all("usage" not in event and event["choices"] for event in plain.events[:-1])
    asked = await bench.ask("completions", {**request, "stream_options": {"include_usage": True}})
    assert asked.events[-2]["choices"] == []
    assert asked.events[-2]["usage"]["completion_tokens"] == 6


async def test_completions_logprobs_have_their_own_form(bench: Bench) -> None:
    """Parallel lists whose tokens are the text."""
    answer = (await bench.ask("completions", {"prompt": "Once upon", "max_tokens": 4, "logprobs": 2})).json
    choice = answer["choices"][0]
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert [len(each) for each in logprobs["top_logprobs"]] == [2, 2, 2, 2]
    for token, at in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert choice["text"][at:].startswith(token)


async def test_tokens_are_a_prompt_too(bench: Bench) -> None:
    """An array of numbers is one prompt of that many tokens."""
    answer = (await bench.ask("completions", {"prompt": [1, 2, 3], "max_tokens": 2})).json
    assert answer["usage"]["prompt_tokens"] == 3
    assert len(answer["choices"]) == 1


async def test_embeddings_have_unit_length_and_meaning(bench: Bench) -> None:
    """576 numbers of length 1; like texts are nearer than unlike ones."""
    texts = ["The cat sleeps on the sofa.", "A cat is asleep on the couch.", "Interest rates rose by two percent."]
    answer = (await bench.ask("embeddings", {"input": texts})).json
    vectors = [item["embedding"] for item in answer["data"]]
    assert [item["index"] for item in answer["data"]] == [0, 1, 2]
    assert all(len(vector) == 576 for vector in vectors)
    assert all(math.isclose(sum(x * x for x in vector), 1.0, rel_tol=1e-3) for vector in vectors)
    near = sum(a * b for a, b in zip(vectors[0], vectors[1], strict=True))
    far = sum(a * b for a, b in zip(vectors[0], vectors[2], strict=True))
    assert near > far


async def test_an_embedding_does_not_depend_on_its_neighbours(bench: Bench) -> None:
    """Alone, in one call with others, beside other calls, beside a running chat: the same vector."""
    texts = ["The cat sleeps on the sofa.", "A cat is asleep on the couch.", "Interest rates rose by two percent."]

    async def embed(*inputs: str) -> list[list[float]]:
        return [item["embedding"] for item in (await bench.ask("embeddings", {"input": list(inputs)})).json["data"]]

    alone = [(await embed(text))[0] for text in texts]
    together = await embed(*texts)
    beside = [vectors[0] for vectors in await asyncio.gather(*(embed(text) for text in texts))]
    call, running = bench.open("chat", {"messages": STORY, "max_tokens": 1500, "ignore_eos": True})
    await bench.until_generating()
    during = await embed(*texts)
    assert not running.over.is_set(), "the embeddings waited for the chat to end"
    call.cancel("client_closed")
    for vectors in (together, beside, during):
        for vector, expected in zip(vectors, alone, strict=True):
            assert vector == pytest.approx(expected, abs=1e-3)
    await bench.until_busy(0, within_s=5)


async def test_embeddings_in_base64_are_the_same_numbers(bench: Bench) -> None:
    """What the official SDKs ask for by default."""
    plain = (await bench.ask("embeddings", {"input": "hello"})).json["data"][0]["embedding"]
    packed = (await bench.ask("embeddings", {"input": "hello", "encoding_format": "base64"})).json["data"][0][
        "embedding"
    ]
    assert struct.unpack(f"<{len(plain)}f", base64.b64decode(packed)) == pytest.approx(plain, abs=1e-6)


async def test_token_arrays_are_embedded_and_counted(bench: Bench) -> None:
    """Two inputs of three and two tokens: five in all."""
    answer = (await bench.ask("embeddings", {"input": [[1, 2, 3], [4, 5]]})).json
    assert len(answer["data"]) == 2
    assert answer["usage"]["prompt_tokens"] == 5


async def test_the_longest_text_that_can_be_embedded(bench: Bench) -> None:
    """512 tokens at once; one more is a 400 that says so."""
    assert (await bench.ask("embeddings", {"input": [[7] * 511]})).status == 200
    answer = await bench.ask("embeddings", {"input": "hello " * 600})
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_that_hangs_up_frees_the_engine(bench: Bench, stream: bool) -> None:
    """Within a second, whether it wanted a stream or a whole answer."""
    call, answer = bench.open("chat", {"messages": STORY, "max_tokens": 1500, "ignore_eos": True, "stream": stream})
    await bench.until_generating()
    if stream:
        await asyncio.wait_for(answer.begun.wait(), 10)
    call.cancel("client_closed")
    await bench.until_busy(0, within_s=1.0)


async def test_callers_that_hang_up_while_they_queue_cost_nothing(bench: Bench) -> None:
    """More calls than slots: those that waited and left are never generated, and the next caller is served."""
    request: Json = {"messages": STORY, "max_tokens": 1500, "ignore_eos": True}
    calls = [bench.open("chat", request)[0] for _ in range(8)]
    await bench.until_busy(4, within_s=15)
    for call in calls:
        call.cancel("client_closed")
    await bench.until_busy(0, within_s=2.0)
    assert (await bench.chat(max_tokens=2)).status == 200


async def test_callers_beyond_the_slots_wait_their_turn(bench: Bench) -> None:
    """Ten at once on four slots: all are answered."""
    answers = await asyncio.gather(*(bench.chat(max_tokens=8, seed=seed) for seed in range(10)))
    assert [answer.status for answer in answers] == [200] * 10


async def test_the_engine_counts_one_choice_only(bench: Bench) -> None:
    """Pinned fault: with n = 3 a whole answer of the bare engine counts a third of its tokens."""
    raw = (await bench.ask_raw("chat", {"messages": STORY, "n": 3, "max_tokens": 12, "ignore_eos": True})).json
    assert len(raw["choices"]) == 3
    assert raw["usage"]["completion_tokens"] == 12


async def test_the_engine_does_not_notice_a_hang_up_without_a_stream(bench: Bench) -> None:
    """Pinned fault: half a second after its caller left, the bare engine still generates."""
    request: Json = {"messages": STORY, "max_tokens": 300, "ignore_eos": True}
    call, _ = bench.open("chat", request, bench.pool)
    await bench.until_generating()
    call.cancel("client_closed")
    with pytest.raises(TimeoutError):
        await bench.until_busy(0, within_s=0.5)
    await bench.until_busy(0, within_s=30)


async def test_the_engine_numbers_its_error_codes(bench: Bench) -> None:
    """Pinned fault: the dialect's codes are words."""
    assert (await bench.ask_raw("chat", {"messages": "hi"})).error["code"] == 400


async def test_the_engine_calls_a_callers_fault_its_own(bench: Bench) -> None:
    """Pinned fault: an image for a model that sees none is a 500 of the bare engine."""
    image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    assert (await bench.ask_raw("chat", {"messages": [{"role": "user", "content": image}]})).status == 500


async def test_the_engine_needs_its_key(bench: Bench) -> None:
    """Another process of this machine cannot use the port: without the key there is no answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.model.port)
    body = b'{"messages":[{"role":"user","content":"hi"}]}'
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    assert b" 401 " in await asyncio.wait_for(reader.readline(), 10)
    writer.close()
