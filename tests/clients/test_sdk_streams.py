"""What the official SDKs make of a stream in which something happens: silence, failover, a cut, a seam, a refusal.

Rule: every case is heard by four clients, which must all hear the same: OpenAI's Python SDK, its asynchronous client,
its stream helper, and the SDK for Node.js; once with providers behind the gateway and once with machines. Providers and
engines are the fake one, so that what happens is known; each client has its own targets, so that none meets what
another one's failures left behind.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionChunk

from potluck.conformance.answers import DONE, chat_events, chunk, error, event, role_chunk, usage_chunk
from potluck.conformance.call import Call, SeenRequest
from potluck.conformance.engines import FakeEngine
from potluck.conformance.process import GatewayProcess
from tests.network.agent_process import AgentProcess

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

NODE = Path(__file__).parent / "node"
ASKED: Any = {
    "messages": [{"role": "user", "content": "Tell me a story."}],
    "stream_options": {"include_usage": True},
}
WORDS = ["Once ", "upon ", "a ", "time ", "there ", "was ", "a ", "cook."]
WHOLE = "".join(WORDS)
BEGUN = "".join(WORDS[:3])
COMMENT_S = 0.1
SILENCE_S = 0.45
"""several comments long, though they are looked for ten times a second only"""
RESUME = {"potluck": {"resume": "allow"}}


class Heard(msgspec.Struct):
    """What a client was told by its SDK."""

    text: str = ""
    finish: str | None = None
    output_tokens: int | None = None
    headers: dict[str, str] = {}
    error: dict[str, Any] | None = None
    """class, code, message and status of the SDK's error"""

    def add(self, chunk: ChatCompletionChunk) -> None:
        for choice in chunk.choices:
            self.text += choice.delta.content or ""
            self.finish = choice.finish_reason or self.finish
        if chunk.usage is not None:
            self.output_tokens = chunk.usage.completion_tokens

    def failed(self, error: openai.APIError) -> None:
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        if isinstance(error, openai.APIStatusError):
            self.headers = dict(error.response.headers)
        kind = type(error).__name__
        self.error = {"kind": kind, "code": error.code, "message": error.message, "status": status}


# --- the clients


def _hear(gateway: GatewayProcess, model: str, retries: int, more: dict[str, Any]) -> Heard:
    heard = Heard()
    with OpenAI(base_url=_base_url(gateway), api_key=gateway.key, max_retries=retries) as client:
        try:
            stream = client.chat.completions.create(model=model, stream=True, extra_body=more, **ASKED)
            heard.headers = dict(stream.response.headers)
            for piece in stream:
                heard.add(piece)
        except openai.APIError as error:
            heard.failed(error)
    return heard


def _hear_by_helper(gateway: GatewayProcess, model: str, retries: int, more: dict[str, Any]) -> Heard:
    heard = Heard()
    with OpenAI(base_url=_base_url(gateway), api_key=gateway.key, max_retries=retries) as client:
        try:
            with client.chat.completions.stream(model=model, extra_body=more, **ASKED) as stream:
                heard.headers = dict(stream._response.headers)
                for happened in stream:
                    if happened.type == "chunk":
                        heard.add(happened.chunk)
                final = stream.get_final_completion()
        except openai.APIError as error:
            heard.failed(error)
        else:
            assert final.choices[0].message.content == heard.text, "the SDK put together what it had passed on"
    return heard


async def sync_client(*asked: Any) -> Heard:
    return await asyncio.to_thread(_hear, *asked)


async def stream_helper(*asked: Any) -> Heard:
    return await asyncio.to_thread(_hear_by_helper, *asked)


async def async_client(gateway: GatewayProcess, model: str, retries: int, more: dict[str, Any]) -> Heard:
    heard = Heard()
    async with AsyncOpenAI(base_url=_base_url(gateway), api_key=gateway.key, max_retries=retries) as client:
        try:
            stream = await client.chat.completions.create(model=model, stream=True, extra_body=more, **ASKED)
            heard.headers = dict(stream.response.headers)
            async for piece in stream:
                heard.add(piece)
        except openai.APIError as error:
            heard.failed(error)
    return heard


async def node_client(gateway: GatewayProcess, model: str, retries: int, more: dict[str, Any]) -> Heard:
    env = {**os.environ, "POTLUCK_BASE_URL": _base_url(gateway), "POTLUCK_KEY": gateway.key}
    process = await asyncio.create_subprocess_exec(
        "node", "streams.mjs", model, str(retries), json.dumps(more),
        cwd=NODE, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, wrong = await process.communicate()
    assert process.returncode == 0, wrong[-3000:]
    return msgspec.json.decode(said, type=Heard)


Client = Callable[[GatewayProcess, str, int, dict[str, Any]], Awaitable[Heard]]
CLIENTS: dict[str, Client] = {
    "sync": sync_client,
    "helper": stream_helper,
    "async": async_client,
    "node": node_client,
}


def _base_url(gateway: GatewayProcess) -> str:
    return f"http://{gateway.host}:{gateway.port}/v1"


# --- the provider


async def _tell(call: Call, words: list[str]) -> None:
    for word in words:
        await call.chunk(event(chunk(call.model, {"content": word})))


async def silent(call: Call) -> None:
    """Says nothing for long, then begins, pauses as long in the middle, and ends well."""
    await call.pause(SILENCE_S)
    await call.sse()
    await call.chunk(event(role_chunk(call.model)))
    await call.pause(SILENCE_S)
    await _tell(call, WORDS[:3])
    await call.pause(SILENCE_S)
    await _tell(call, WORDS[3:])
    await _end(call)


async def _end(call: Call) -> None:
    await call.chunk(event(chunk(call.model, {}, "stop")))
    await call.chunk(event(usage_chunk(call.model)))
    await call.chunk(DONE)
    await call.end()


async def late(call: Call) -> None:
    """Says nothing for long, and dies."""
    await call.pause(SILENCE_S)
    call.reset()


async def cut(call: Call) -> None:
    """Dies after three words."""
    await call.sse()
    await call.chunk(event(role_chunk(call.model)))
    await _tell(call, WORDS[:3])
    await call.settle()
    call.reset()


async def goes_on(call: Call) -> None:
    """Tells the whole story, or the rest of the one that it is sent."""
    last = call.asked["messages"][-1]
    said = last["content"].split() if last["role"] == "assistant" else []
    rest = WORDS[len(said) :]
    if said:
        rest[0] = f" {rest[0]}"  # white space at the end of what was delivered is not sent along
    await call.sse()
    await call.chunk(event(role_chunk(call.model)))
    await _tell(call, rest)
    await _end(call)


class Limited:
    """Refuses the first call of each model for rate, for a second; then answers."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    async def __call__(self, call: Call) -> None:
        if call.model in self._seen:
            await call.sse()
            await call.chunks(chat_events(call.model, WORDS, usage=True))
            await call.end()
            return
        self._seen.add(call.model)
        await call.answer(error(429, "slow down"), (b"retry-after", b"1"), status=429, reason="Too Many Requests")


CASES = {
    "silent": ("two/silent",),
    "late": ("one/late", "two/goes-on"),
    "lost": ("one/late",),
    "unseen": ("one/status-503", "two/goes-on"),
    "cut": ("one/cut",),
    "story": ("one/cut", "two/goes-on"),
    "limited": ("one/limited",),
    "patient": ("two/limited",),
}
"""the models, one of each per client, and their targets"""


class Engine(FakeEngine):
    """One that can go on with an answer, and serves whatever is asked."""

    def __init__(self) -> None:
        super().__init__("vllm")
        self.listed = [f"{name};for={case}-{client}" for client, case, targets in _models() for name in targets]
        self.script |= {"silent": silent, "late": late, "cut": cut, "goes-on": goes_on, "limited": Limited()}

    def _answer(self, request: SeenRequest, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, self._list("vllm", *self.listed, max_model_len=16_384)
        return super()._answer(request, path, query)


def _models() -> list[tuple[str, str, tuple[str, ...]]]:
    """Client, case, what the engines are asked for."""
    return [
        (client, case, tuple(target.partition("/")[2] for target in targets))
        for client in (*CLIENTS, "raw")
        for case, targets in CASES.items()
    ]


def _config(engines: dict[str, Engine], prefix: str) -> str:
    lines = []
    for name, engine in engines.items() if not prefix else ():
        lines += ["[[providers]]", f'name = "{name}"', f'base_url = "{engine.base_url}"', "own = true"]
        lines += ['assistant_prefix = "plain"', 'credentials = [{ name = "main", key = "sk-upstream" }]']
    for client in (*CLIENTS, "raw"):
        for case, targets in CASES.items():
            entries = ", ".join(f'{{ target = "{prefix}{target};for={case}-{client}" }}' for target in targets)
            lines += ["[[models]]", f'name = "{case}-{client}"', f"targets = [{entries}]"]
    return "\n".join(lines) + "\n"


async def _join(gateway: GatewayProcess, home: Path, name: str, engine: Engine) -> AgentProcess:
    """A machine of that name with this engine, running."""
    home.mkdir()
    agent = AgentProcess(home, options=("--engine", engine.base_url, "--page-port", "0"))
    secret = (await gateway.api("POST", "/join-tokens", {})).json["secret"]
    await agent.join(f"http://{gateway.host}:{gateway.port}", secret, "--name", name)
    await agent.node("set", "discover", "no")
    await agent.start()
    return agent


async def _serve(gateway: GatewayProcess) -> None:
    """Returns when all machines do. Raises TimeoutError."""
    async with asyncio.timeout(30):
        while [each["standing"] for each in (await gateway.api("GET", "/nodes")).json["data"]] != ["ready", "ready"]:
            await asyncio.sleep(0.1)


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["", "node:"], ids=["provider", "machine"])
async def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[GatewayProcess]:
    """A gateway that comments on silence ten times a second, before two providers or machines."""
    home = tmp_path_factory.mktemp("streams")
    async with AsyncExitStack() as stack:
        engines = {name: await stack.enter_async_context(Engine()) for name in ("one", "two")}
        env = {"POTLUCK_KEEPALIVE_COMMENT_S": str(COMMENT_S)}
        gateway = GatewayProcess(home / "gateway", _config(engines, request.param), env)
        await stack.enter_async_context(gateway)
        if request.param:
            for name, engine in engines.items():
                stack.push_async_callback((await _join(gateway, home / name, name, engine)).end)
            await _serve(gateway)
        yield gateway


@pytest.fixture
def prefix(request: pytest.FixtureRequest, gateway: GatewayProcess) -> str:
    """Before a provider's name where it is a machine's."""
    found: str = request.node.callspec.params["gateway"]
    return found


Hear = Callable[..., Awaitable[Heard]]


@pytest.fixture(params=CLIENTS)
def hear(request: pytest.FixtureRequest, gateway: GatewayProcess) -> Hear:
    """`await hear(case)`: what one of the clients hears."""
    if request.param == "node":
        request.getfixturevalue("node")

    async def ask(case: str, retries: int = 0, **more: Any) -> Heard:
        return await CLIENTS[request.param](gateway, f"{case}-{request.param}", retries, more)

    return ask


async def raw(gateway: GatewayProcess, case: str, **more: Any) -> bytes:
    """The bytes of such a stream, from targets of their own."""
    async with gateway.caller() as caller:
        body = {**ASKED, "model": f"{case}-raw", "stream": True, **more}
        return (await caller.ask("POST", "/v1/chat/completions", body, key=gateway.key)).body


# --- what they hear


async def test_comments_in_a_silence_are_not_heard(hear: Hear, gateway: GatewayProcess) -> None:
    """Before the head, before the first content and in the middle: the story is whole, with end and usage."""
    heard = await hear("silent")
    assert (heard.text, heard.finish, heard.output_tokens, heard.error) == (WHOLE, "stop", 5, None)
    record = await gateway.record(heard.headers["x-request-id"])
    assert record["outcome"] == "ok"


async def test_there_are_comments(gateway: GatewayProcess, prefix: str) -> None:
    """Such streams do have them: in each silence, with target and attempts at the end, and at a seam."""
    body = await raw(gateway, "silent")
    before, middle = body.split(b'"content":"a "')[0], body.split(b'"content":"a "')[1]
    assert before.count(b": still working\n\n") >= 2 * 2
    assert middle.count(b": still working\n\n") >= 2
    told = f": x-potluck-target: {prefix}two/silent;for=silent-raw, x-potluck-attempts: 1\n\ndata: [DONE]\n\n"
    assert told.encode() in body
    assert b": x-potluck-resumed: " in await raw(gateway, "story", **RESUME)


async def test_a_failover_after_comments_is_not_heard(hear: Hear, gateway: GatewayProcess) -> None:
    """The first target dies when the head is out already: the second one's story follows the comments."""
    heard = await hear("late")
    assert (heard.text, heard.finish, heard.error) == (WHOLE, "stop", None)
    record = await gateway.record(heard.headers["x-request-id"])
    assert record["outcome"] == "ok"
    assert len(record["attempts"]) == 2


async def test_an_unseen_failure_is_not_heard(hear: Hear, prefix: str) -> None:
    """The first target refuses: the head names the second one, and two attempts."""
    heard = await hear("unseen")
    assert (heard.text, heard.finish, heard.error) == (WHOLE, "stop", None)
    assert heard.headers["x-potluck-attempts"] == "2"
    assert heard.headers["x-potluck-target"].startswith(f"{prefix}two/goes-on")


async def test_a_cut_stream_raises(hear: Hear, gateway: GatewayProcess) -> None:
    """After the text that came: the SDK's error, with the code and the request's id in the message."""
    heard = await hear("cut")
    assert (heard.text, heard.finish) == (BEGUN, None)
    request_id = heard.headers["x-request-id"]
    assert heard.error is not None
    assert (heard.error["kind"], heard.error["code"]) == ("APIError", "upstream_truncated")
    assert heard.error["message"].endswith(f"(request {request_id})")
    record = await gateway.record(request_id)
    assert record["outcome"] == "upstream_truncated"


async def test_an_error_after_nothing_but_comments_raises(hear: Hear, gateway: GatewayProcess) -> None:
    """All targets failed when the status could no longer say so: no empty answer, but the SDK's error."""
    heard = await hear("lost")
    assert (heard.text, heard.finish) == ("", None)
    assert heard.error is not None
    assert (heard.error["kind"], heard.error["code"]) == ("APIError", "upstream_error")
    record = await gateway.record(heard.headers["x-request-id"])
    assert record["outcome"] == "upstream_error"


async def test_a_seam_is_not_heard(hear: Hear, gateway: GatewayProcess) -> None:
    """Cut, and gone on elsewhere: one story, with one end and one usage."""
    heard = await hear("story", **RESUME)
    assert (heard.text, heard.finish, heard.error) == (WHOLE, "stop", None)
    assert heard.output_tokens
    record = await gateway.record(heard.headers["x-request-id"])
    assert record["outcome"] == "ok"
    assert len(record["attempts"]) == 2


async def test_a_refusal_for_rate_raises(hear: Hear) -> None:
    """429 is RateLimitError, with the code and the time to wait."""
    heard = await hear("limited")
    assert heard.error is not None
    assert (heard.error["kind"], heard.error["code"]) == ("RateLimitError", "upstream_rate_limited")
    assert heard.error["status"] == 429
    assert heard.headers["retry-after"] == "1"
    assert heard.headers["x-request-id"] in heard.error["message"]


async def test_the_time_to_wait_is_the_right_one(hear: Hear) -> None:
    """An SDK that waits as long as it was told and asks again is answered: its second call is not refused again."""
    heard = await hear("patient", retries=1)
    assert (heard.text, heard.finish, heard.error) == (WHOLE, "stop", None)
