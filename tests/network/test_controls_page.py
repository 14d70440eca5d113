"""The examples in docs/reference/controls.md, pasted into a shell beside a real gateway, print what the page shows."""

import asyncio
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from potluck.conformance.answers import WORDS, chat_events, chunk, event, role_chunk
from potluck.conformance.call import Call
from potluck.conformance.faults import FAULTS
from potluck.conformance.process import GatewayProcess
from potluck.conformance.provider import FakeProvider

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "controls.md"
EXAMPLE = re.compile(r"```sh\n(curl .*?)```\n\n```text\n(.*?)```", re.DOTALL)
ADDRESS = "http://127.0.0.1:7171"
SAID = 3
"""words before the cut"""


def config(fake: FakeProvider) -> str:
    """A gateway with the page's two targets, both at the fake."""
    return f"""
[[providers]]
name = "lab"
base_url = "{fake.base_url}"
own = true

[[providers]]
name = "openai"
base_url = "{fake.base_url}"
assistant_prefix = "plain"
credentials = [{{ name = "main", key = "sk-upstream-canary-secret" }}]

[[models]]
name = "small"
targets = [
  {{ target = "lab/qwen2.5-7b", price = {{ input = 0.02, output = 0.05 }} }},
  {{ target = "openai/gpt-4o-mini", price = {{ input = 0.15, output = 0.60 }} }},
]
"""


async def is_cut_in_streams(call: Call) -> None:
    """Answers well, but dies in the middle of a stream."""
    if not call.stream:
        await FAULTS["ok"].play(call)
        return
    await call.sse()
    await call.chunk(event(role_chunk(call.model)))
    for word in WORDS[:SAID]:
        await call.chunk(event(chunk(call.model, {"content": word})))
    await call.settle()
    call.reset()


async def goes_on(call: Call) -> None:
    """Writes what is missing of the answer that it is sent."""
    assert call.asked["messages"][-1]["content"] == "".join(WORDS[:SAID])
    await call.sse()
    await call.chunks(chat_events(call.model, WORDS[SAID:], usage=True))
    await call.end()


def examples() -> Iterator[tuple[str, str]]:
    """Each command with the output below it."""
    for found in EXAMPLE.finditer(PAGE.read_text(encoding="utf-8")):
        yield found[1], found[2]


async def output_of(command: str, gateway: GatewayProcess, cwd: Path) -> str:
    """What it prints on a terminal; a measured time is written as the page writes it."""
    assert ADDRESS in command
    line = command.replace(ADDRESS, f"http://{gateway.host}:{gateway.port}")
    env = os.environ | {"POTLUCK_KEY": gateway.key}
    process = await asyncio.create_subprocess_exec("sh", "-c", line, cwd=cwd, env=env, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    assert process.returncode == 0
    text = printed.decode().replace("\r", "")
    return re.sub(r"(?<=x-potluck-overhead-us: )\d+", "212", text)


async def test_the_examples_print_what_the_page_shows(tmp_path: Path, fake: FakeProvider) -> None:
    """Both commands, with the key in the environment; the second one's first target dies in the middle."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    fake.script["qwen2.5-7b"], fake.script["gpt-4o-mini"] = is_cut_in_streams, goes_on
    shown = list(examples())
    assert len(shown) == 2
    async with GatewayProcess(tmp_path / "home", config(fake)) as gateway:
        await gateway.ready()
        printed = [(command, await output_of(command, gateway, tmp_path)) for command, _ in shown]
    assert printed == shown
