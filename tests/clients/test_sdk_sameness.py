"""The official SDK cannot tell a machine from a provider: the same call to both, compared member by member.

One engine, known to the gateway as a provider and as a machine's. What may differ is named in `OWN`: ids of the
request, times, and the target; and an error's message says in other words why the target failed.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from potluck.conformance.faults import FAULTS
from potluck.conformance.process import GatewayProcess
from potluck.conformance.provider import FakeProvider
from tests.network.agent_process import AgentProcess

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

OWN = {"x-request-id", "date", "x-potluck-target", "x-potluck-cost", "x-potluck-overhead-us"}
"""headers that are each call's own"""
EMBED = "text-embedding-fake"
HI: list[Any] = [{"role": "user", "content": "Who brings what?"}]
PROVIDER = """[[providers]]
name = "{name}"
base_url = "{base_url}"
own = true
credentials = [{{ name = "main", key = "sk-upstream" }}]
"""
WHOLE = (
    "ok", "ok;chunks=300", "tool-calls", "reasoning-only", "unknown-members", "usage-none", "chunked-body",
    "leaky-headers", "split-utf8", "usage-final",
)  # fmt: skip
BROKEN = (
    "status-400", "status-400-html", "status-401", "status-403", "status-403-flagged", "status-404", "status-413",
    "status-422", "status-429-seconds", "status-500", "status-503-empty", "status-529", "empty-200", "html-200",
    "error-object-200", "reset-before-head", "short-body", "cut-after-head", "cut-between-chunks", "cut-rst",
    "error-event-first", "error-event-mid", "malformed-json-mid", "no-finish",
)  # fmt: skip
ASKS = ("plain", "stream")


class Scene:
    def __init__(self, client: AsyncOpenAI) -> None:
        self.client = client

    async def told(self, call: str, target: str, **members: Any) -> dict[str, Any]:
        """All that the SDK says of a call: pieces, or the answer, or its exception; and the headers."""
        found: dict[str, Any] = {"pieces": []}
        response: Any = None
        try:
            if call == "stream":
                members |= {"stream": True, "stream_options": {"include_usage": True}}
            make = {
                "embed": self.client.with_raw_response.embeddings,
                "text": self.client.with_raw_response.completions,
            }.get(call, self.client.chat.completions.with_raw_response)
            raw: Any = await make.create(model=target, **({"messages": HI} if call in ASKS else {}), **members)
            response = raw.http_response
            if call == "stream":
                async for piece in raw.parse():
                    found["pieces"].append(_plain(piece.model_dump()))
            else:
                found["answer"] = _plain(raw.parse().model_dump())
        except openai.APIError as error:
            found["error"] = _error(error, target)
            response = getattr(error, "response", response)
        own = {"content-length"} | OWN if "error" in found else OWN  # the target's name is in an error's words
        found["status"] = response.status_code
        found["headers"] = {name: value for name, value in response.headers.items() if name not in own}
        return found


def _plain(value: Any) -> Any:
    """Without what a call costs, which is each target's own."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items() if name != "cost_usd"}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _error(error: openai.APIError, target: str) -> dict[str, Any]:
    """Class, code and every word, but for the request's id, the target's name and what it did."""

    def said(words: str) -> str:
        words = re.sub(r"req_\w+", "ID", words).replace(target, "TARGET")
        return re.sub(r"TARGET .*?( \(\w+\))? \(request ID", r"TARGET …\1 (request ID", words)

    body: Any = error.body
    kinds = [kind.__name__ for kind in type(error).__mro__]
    members = {name: said(str(value)) for name, value in body.items()}
    return {"kinds": kinds, "code": error.code, "param": error.param, "words": said(error.message), "body": members}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    home = tmp_path_factory.mktemp("sameness")
    async with FakeProvider() as fake:
        fake.listed = [f"{model};as={call}" for model in (*WHOLE, *BROKEN) for call in ASKS] + ["ok", EMBED]
        async with GatewayProcess(home / "gateway", config(fake)) as gateway:
            (home / "node").mkdir()
            agent = AgentProcess(home / "node", options=("--engine", fake.base_url, "--page-port", "0"))
            secret = (await gateway.api("POST", "/join-tokens", {})).json["secret"]
            url = f"http://{gateway.host}:{gateway.port}"
            await agent.join(url, secret, "--name", "lab-1")
            await agent.node("set", "discover", "no")
            await agent.start()
            try:
                async with asyncio.timeout(30):
                    while (await gateway.api("GET", "/nodes/lab-1")).json["standing"] != "ready":
                        await asyncio.sleep(0.1)
                async with AsyncOpenAI(base_url=f"{url}/v1", api_key=gateway.key, max_retries=0) as client:
                    yield Scene(client)
            finally:
                await agent.end()


def config(fake: FakeProvider) -> str:
    """A provider for each call that fails: what one of them costs a key is no other's."""
    names = [f"{model}-{call}" for model in BROKEN for call in ASKS]
    return "\n".join(PROVIDER.format(name=name, base_url=fake.base_url) for name in ("fake", *names))


async def same(scene: Scene, call: str, model: str, provider: str = "fake", **members: Any) -> dict[str, Any]:
    one = await scene.told(call, f"{provider}/{model}", **members)
    other = await scene.told(call, f"node:lab-1/{model}", **members)
    assert _differing(one, other) == {}
    return other


def _differing(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Members that are not the same, each with both values."""
    found = {}
    for name in one.keys() | other.keys():
        a, b = one.get(name), other.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= {f"{name}.{inner}": values for inner, values in _differing(a, b).items()}
        elif a != b:
            found[name] = (a, b)
    return found


def meant(models: tuple[str, ...]) -> list[tuple[str, str]]:
    """With each way to ask that means something for it."""
    rows = [(model, FAULTS[model.partition(";")[0]]) for model in models]
    return [(model, call) for model, row in rows for call in ASKS if getattr(row, call) is not None]


@pytest.mark.parametrize(("model", "call"), meant(WHOLE))
async def test_answers_are_the_same(scene: Scene, model: str, call: str) -> None:
    """Objects, pieces, usage, finish reasons and headers."""
    told = await same(scene, call, f"{model};as={call}")
    assert "error" not in told
    assert told["pieces"] or told["answer"]


@pytest.mark.parametrize(("model", "call"), meant(BROKEN))
async def test_errors_are_the_same(scene: Scene, model: str, call: str) -> None:
    """Class of the exception, status, code, words, and what came before it."""
    await same(scene, call, f"{model};as={call}", f"{model}-{call}")


async def test_the_other_endpoints_are_the_same(scene: Scene) -> None:
    """Embeddings and the older completions."""
    assert "answer" in await same(scene, "embed", EMBED, input=["a", "b"])
    assert "answer" in await same(scene, "text", "ok", prompt="Once")
