"""When the official SDK asks again: not where time mends nothing, else as it does with any provider."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from potluck.conformance.process import GatewayProcess
from potluck.conformance.provider import FakeProvider

PROVIDER = """[[providers]]
name = "fake"
base_url = "{base_url}"
credentials = [{{ name = "main", key = "sk-upstream" }}]

[[models]]
name = "well"
targets = [{{ target = "fake/ok", price = {{ input = 1, output = 1 }} }}]

[[models]]
name = "broken"
targets = [{{ target = "fake/status-500", price = {{ input = 1, output = 1 }} }}]
"""
HI: list[Any] = [{"role": "user", "content": "Who brings what?"}]
PRIVATE = {"potluck": {"data_class": "private"}}


@pytest_asyncio.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    async with (
        FakeProvider() as fake,
        GatewayProcess(tmp_path / "gateway", PROVIDER.format(base_url=fake.base_url)) as gateway,
    ):
        yield gateway


@pytest.mark.parametrize(
    ("model", "more", "stream", "status", "asked"),
    [
        ("well", PRIVATE, False, 503, 1),
        ("well", PRIVATE, True, 503, 1),
        ("broken", {}, False, 502, 2),
    ],
)
async def test_a_refusal_that_time_does_not_mend_is_not_asked_again(
    gateway: GatewayProcess, model: str, more: dict[str, Any], stream: bool, status: int, asked: int
) -> None:
    """No target may have private data, now or later: one request. A target that failed is asked a second time."""
    answers: list[Any] = []

    async def note(response: Any) -> None:
        answers.append(response)

    url = f"http://{gateway.host}:{gateway.port}/v1"
    http = DefaultAsyncHttpxClient(event_hooks={"response": [note]})
    async with AsyncOpenAI(base_url=url, api_key=gateway.key, max_retries=1, http_client=http) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model=model, messages=HI, stream=stream, extra_body=more)
    assert caught.value.status_code == status
    assert len(answers) == asked
    headers = answers[-1].headers
    assert (headers.get("x-should-retry"), headers.get("retry-after")) == ("false" if asked == 1 else None, None)
