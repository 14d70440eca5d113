"""The official OpenAI SDK for Python, unmodified, against a running gateway and the built-in model."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel
from served_gateway import MAX_BODY_BYTES, MODEL, Served

pytestmark = pytest.mark.local_model

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hi."}]
STORY: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me a long story about a fox."}]
WEATHER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
ON_AND_ON = {"ignore_eos": True}
"""the engine's own member: generate until the limit"""


class City(BaseModel):
    """What the parse helper makes a JSON schema of."""

    name: str
    population: int


@pytest.fixture
def client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=served.base_url, api_key=served.api_key, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
async def async_client(served: Served) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=served.base_url, api_key=served.api_key, max_retries=0, timeout=60) as client:
        yield client


def test_chat(client: OpenAI) -> None:
    """A whole answer, with its usage."""
    answer = client.chat.completions.create(model=MODEL, messages=HI, max_tokens=16)
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_request_id_is_the_records(client: OpenAI, served: Served) -> None:
    """What the SDK shows as `_request_id` finds the record of the call, with the same tokens."""
    answer = client.chat.completions.create(model=MODEL, messages=HI, max_tokens=5)
    assert answer._request_id is not None
    record = served.record(answer._request_id)
    assert answer.usage is not None
    assert record["outcome"] == "ok"
    assert record["output_tokens"] == answer.usage.completion_tokens


def test_stream(client: OpenAI) -> None:
    """Pieces of text, then a reason; no usage, since none was asked for."""
    chunks = list(client.chat.completions.create(model=MODEL, messages=HI, max_tokens=16, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert all(chunk.usage is None for chunk in chunks)


def test_stream_with_usage(client: OpenAI) -> None:
    """The last chunk has the counts and no choice."""
    stream = client.chat.completions.create(
        model=MODEL, messages=STORY, max_tokens=12, stream=True, stream_options={"include_usage": True},
        extra_body=ON_AND_ON,
    )  # fmt: skip
    chunks = list(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_stream_helper(client: OpenAI) -> None:
    """The SDK's own accumulator is content with our chunks."""
    with client.chat.completions.stream(model=MODEL, messages=HI, max_tokens=500, temperature=0) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "content.delta" in kinds
    assert final.choices[0].message.content


def test_tools(client: OpenAI) -> None:
    """A function is called with arguments that are JSON."""
    answer = client.chat.completions.create(model=MODEL, messages=WEATHER, tools=TOOLS, max_tokens=100, temperature=0)
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}


def test_tools_stream(client: OpenAI) -> None:
    """The SDK puts the pieces of a call together."""
    with client.chat.completions.stream(
        model=MODEL, messages=WEATHER, tools=TOOLS, max_tokens=100, temperature=0
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "tool_calls"
    (call,) = final.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments) == {"city": "Paris"}


def test_tools_round_trip(client: OpenAI) -> None:
    """Call, result, answer in words: the loop that every agent runs."""
    first = client.chat.completions.create(
        model=MODEL, messages=WEATHER, tools=TOOLS, tool_choice="required", max_tokens=100, temperature=0
    )
    said = first.choices[0].message
    (call,) = said.tool_calls or []
    messages = [
        *WEATHER,
        cast("ChatCompletionMessageParam", said.model_dump(exclude_none=True)),
        cast("ChatCompletionMessageParam", {"role": "tool", "tool_call_id": call.id, "content": "sunny, 21 degrees"}),
    ]
    second = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS, max_tokens=60, temperature=0)
    assert "sunny" in (second.choices[0].message.content or "")


def test_json_schema(client: OpenAI) -> None:
    """The parse helper gets an object of its class."""
    answer = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Paris has two million people. Answer as JSON."}],
        response_format=City,
        max_tokens=200,
        temperature=0,
    )
    parsed = answer.choices[0].message.parsed
    assert isinstance(parsed, City)
    assert parsed.name


def test_logprobs(client: OpenAI) -> None:
    """One entry per token, with the alternatives that were asked for."""
    answer = client.chat.completions.create(model=MODEL, messages=HI, max_tokens=4, logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    content = logprobs.content or []
    assert answer.usage is not None
    assert len(content) == answer.usage.completion_tokens
    assert all(len(each.top_logprobs) == 2 and each.logprob <= 0 for each in content)


def test_several_choices(client: OpenAI, served: Served) -> None:
    """All of their tokens are counted, in the answer and in the record."""
    answer = client.chat.completions.create(model=MODEL, messages=STORY, n=3, max_tokens=8, extra_body=ON_AND_ON)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24
    record = served.record(answer._request_id or "")
    assert record["output_tokens"] == 24
    assert not record["estimated"]


def test_several_choices_stream(client: OpenAI) -> None:
    """Interleaved pieces of two choices, and one usage over both."""
    stream = client.chat.completions.create(
        model=MODEL, messages=STORY, n=2, max_tokens=6, stream=True, stream_options={"include_usage": True},
        extra_body=ON_AND_ON,
    )  # fmt: skip
    chunks = list(stream)
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [12]


def test_seed(client: OpenAI) -> None:
    """The same seed gives the same answer."""

    def said(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model=MODEL, messages=STORY, max_tokens=12, seed=seed, temperature=1.5, n=1
        )
        return answer.choices[0].message.content

    assert said(11) == said(11)


def test_completions(client: OpenAI) -> None:
    """The older endpoint, whole and streamed."""
    answer = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8, logprobs=1, temperature=0)
    assert answer.object == "text_completion"
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or []) == answer.choices[0].text
    stream = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8, stream=True, temperature=0)
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


def test_embeddings(client: OpenAI) -> None:
    """The SDK's default (base64 on the wire) and plain numbers are the same vector."""
    packed = client.embeddings.create(model=MODEL, input=["hello", "world"])
    plain = client.embeddings.create(model=MODEL, input=["hello", "world"], encoding_format="float")
    assert [len(each.embedding) for each in packed.data] == [576, 576]
    for a, b in zip(packed.data, plain.data, strict=True):
        assert a.embedding == pytest.approx(b.embedding, abs=1e-5)
    assert math.isclose(sum(x * x for x in plain.data[0].embedding), 1, rel_tol=1e-3)
    assert packed.usage.prompt_tokens >= 2


def test_models(client: OpenAI) -> None:
    """The model is listed, and can be looked up by its name."""
    assert MODEL in [model.id for model in client.models.list()]
    model = client.models.retrieve(MODEL)
    assert (model.id, model.object) == (MODEL, "model")


def test_bad_request(client: OpenAI) -> None:
    """400 is BadRequestError, with a code and the request's id; ours and the engine's alike."""
    with pytest.raises(openai.BadRequestError) as ours:
        client.chat.completions.create(model=MODEL, messages=cast("Any", "hi"))
    assert ours.value.code == "invalid_request"
    with pytest.raises(openai.BadRequestError) as engines:
        client.chat.completions.create(model=MODEL, messages=HI, temperature=cast("Any", "hot"))
    assert engines.value.code == "invalid_request"
    assert engines.value.request_id
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 9000}])


def test_bad_request_in_a_stream(client: OpenAI) -> None:
    """A stream that cannot begin is an exception at once, not an empty iteration."""
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=HI, temperature=cast("Any", "hot"), stream=True)


def test_authentication(served: Served) -> None:
    """401 is AuthenticationError."""
    with (
        OpenAI(base_url=served.base_url, api_key="plk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_not_found(client: OpenAI) -> None:
    """404 is NotFoundError, for a model and for an address."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="smollm2-135", messages=HI)
    assert caught.value.code == "model_not_found"
    assert MODEL in str(caught.value)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")
    with pytest.raises(openai.NotFoundError):
        client.get("/nowhere", cast_to=object)


def test_too_large(client: OpenAI) -> None:
    """413 is an APIStatusError of that status, and the client can go on."""
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x" * (MAX_BODY_BYTES + 1)}])
    assert caught.value.status_code == 413
    assert client.chat.completions.create(model=MODEL, messages=HI, max_tokens=1).choices


def test_cancel_mid_stream(client: OpenAI, served: Served) -> None:
    """The stream is closed: the engine rests within a second and a bit, and the record says who left."""
    stream = client.chat.completions.create(
        model=MODEL, messages=STORY, max_tokens=1500, stream=True, extra_body=ON_AND_ON
    )
    request_id = stream.response.headers["x-request-id"]
    for _, _ in zip(range(5), stream, strict=False):
        pass
    stream.close()
    served.until_engine_rests(within_s=1.3)
    record = served.record(request_id)
    assert record["outcome"] == "client_closed"
    assert 1 <= record["output_tokens"] < 1500


def test_giving_up_on_a_whole_answer(client: OpenAI, served: Served) -> None:
    """The SDK's own time-out: the engine does not generate on for nobody."""
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.7).chat.completions.create(
            model=MODEL, messages=STORY, max_tokens=1500, extra_body=ON_AND_ON
        )
    served.until_engine_rests(within_s=1.3)


async def test_async_chat_and_stream(async_client: AsyncOpenAI) -> None:
    """The asynchronous client, both ways at once."""
    whole, stream = await asyncio.gather(
        async_client.chat.completions.create(model=MODEL, messages=HI, max_tokens=8),
        async_client.chat.completions.create(model=MODEL, messages=HI, max_tokens=8, stream=True),
    )
    assert whole.choices[0].message.content
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def test_async_many_at_once(async_client: AsyncOpenAI) -> None:
    """More calls than the engine has slots: each is answered."""
    answers = await asyncio.gather(
        *(async_client.chat.completions.create(model=MODEL, messages=HI, max_tokens=6, seed=n) for n in range(12))
    )
    assert all(answer.choices[0].message.content for answer in answers)


async def test_async_tools_and_schema(async_client: AsyncOpenAI) -> None:
    """The asynchronous stream helper puts a call together, the parse helper an object."""
    async with async_client.chat.completions.stream(
        model=MODEL, messages=WEATHER, tools=TOOLS, max_tokens=100, temperature=0
    ) as stream:
        final = await stream.get_final_completion()
    assert [call.function.name for call in final.choices[0].message.tool_calls or []] == ["get_weather"]
    parsed = await async_client.chat.completions.parse(
        model=MODEL, messages=HI, response_format=City, max_tokens=200, temperature=0
    )
    assert isinstance(parsed.choices[0].message.parsed, City)


async def test_async_embeddings_and_models(async_client: AsyncOpenAI) -> None:
    """The asynchronous client reads the list and the vectors."""
    answer = await async_client.embeddings.create(model=MODEL, input="hello")
    assert len(answer.data[0].embedding) == 576
    assert MODEL in [model.id async for model in async_client.models.list()]


async def test_async_errors(async_client: AsyncOpenAI) -> None:
    """The same classes of error."""
    with pytest.raises(openai.BadRequestError):
        await async_client.chat.completions.create(model=MODEL, messages=cast("Any", "hi"))
    with pytest.raises(openai.NotFoundError):
        await async_client.chat.completions.create(model="nothing", messages=HI)


async def test_async_cancel_before_the_first_byte(async_client: AsyncOpenAI, served: Served) -> None:
    """A task that is cancelled while it waits takes its generation along."""
    task = asyncio.ensure_future(
        async_client.chat.completions.create(model=MODEL, messages=STORY, max_tokens=1500, extra_body=ON_AND_ON)
    )
    await asyncio.sleep(0)
    engine = served.engine()
    before = sum(engine.cpu_times()[:2])
    async with asyncio.timeout(20):
        while sum(engine.cpu_times()[:2]) - before < 0.3:
            await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(served.until_engine_rests, 1.3)
