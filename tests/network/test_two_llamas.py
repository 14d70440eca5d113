"""Two real llama.cpp servers behind a real gateway, under load: one of them is killed, and hardly anybody notices.

A caller whose answer had not begun gets it from the other server. One whose stream had begun is told so, or, where the
request allows it, reads on as if nothing had happened.

The model is asked to count, which so small a one does without a fault once it has seen it done, whatever else the
server computes beside it (other texts change with that). Each character is a token. So every text is known beforehand.
"""

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from builtin_bench import until

from potluck.conformance.caller import Response, encode_request
from potluck.conformance.process import GatewayProcess
from potluck.engines.builtin import BuiltinModel, Pace
from potluck.engines.model_file import MODEL_NAME, model_path

pytestmark = [pytest.mark.local_model, pytest.mark.asyncio(loop_scope="module")]

COUNTS = (101, 130, 172, 411, 440, 683)
"""what each caller counts from"""
STREAMS = 4
PLAINS = 2
"""two more callers than the server has slots: some wait for their first token at any moment"""
MAX_TOKENS = 40
WAIT_S = 100.0
RESUME = {"potluck": {"resume": "allow"}}
NEVER = Pace(first_delay_s=3600.0)
"""a server that was killed stays away"""


class Asked:
    """One request and what came of it."""

    def __init__(self, start: int, *, stream: bool) -> None:
        self.expected = ", ".join(str(number) for number in range(start, start + MAX_TOKENS))[:MAX_TOKENS]
        self.body = request(start, stream=stream)
        self.stream = stream
        self.response: Response
        self.chunks_with_content = 0

    @property
    def request_id(self) -> str:
        return self.response.header("x-request-id") or ""

    def pieces(self) -> Iterator[tuple[str, Any]]:
        """The stream in its order: comments as text, events decoded."""
        for block in self.response.body.decode().split("\n\n")[:-1]:
            kind, _, rest = block.partition(": ")
            yield ("comment", rest) if not kind else ("end", rest) if rest == "[DONE]" else ("event", json.loads(rest))

    @property
    def parts(self) -> list[str]:
        """The text, in parts where there is a seam in the stream."""
        if self.response.status != 200:
            return [""]
        if not self.stream:
            return [self.response.json["choices"][0]["message"]["content"]]
        parts = [""]
        for kind, value in self.pieces():
            if kind == "comment" and value.startswith("x-potluck-resumed"):
                parts.append("")
            elif kind == "event":
                parts[-1] += "".join(each["delta"].get("content") or "" for each in value.get("choices", ()))
        return parts

    @property
    def text(self) -> str:
        return "".join(self.parts)

    @property
    def whole(self) -> bool:
        """The whole answer, ended as it should be."""
        if self.response.status != 200 or self.text != self.expected:
            return False
        if not self.stream:
            return bool(self.response.json["choices"][0]["finish_reason"] == "length")
        events = [value for kind, value in self.pieces() if kind == "event"]
        ends = [each["finish_reason"] for event in events for each in event.get("choices", ()) if each["finish_reason"]]
        no_error = not any("error" in event for event in events)
        return ends == ["length"] and no_error and self.response.body.count(b"data: [DONE]") == 1

    @property
    def error(self) -> Any:
        """What a stream that ended honestly ends with; None when it did not."""
        kind, last = list(self.pieces())[-1]
        if self.response.status != 200 or kind != "event" or b"[DONE]" in self.response.body:
            return None
        return last.get("error")


class Load:
    """Callers who ask without pause. The server is killed at a moment when the kill hits every kind of request."""

    def __init__(
        self, gateway: GatewayProcess, victim: BuiltinModel, requests_after: int, more: dict[str, Any]
    ) -> None:
        self.gateway = gateway
        self.victim = victim
        self.more = more
        self.requests_after = requests_after
        self.first_token = random.randint(1, MAX_TOKENS // 3)
        """streams that are so far are in their middle"""
        self.running: set[Asked] = set()
        self.done: list[Asked] = []
        self.hit: set[Asked] = set()
        """those that were under way at the kill"""

    async def run(self) -> None:
        """Until each caller has had so many answers to what it asked after the kill. Raises TimeoutError."""
        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as callers:
            for n in range(STREAMS + PLAINS):
                callers.create_task(self._ask_on(n, stream=n < STREAMS))
        assert self.hit, "there was no moment for a kill"

    async def _ask_on(self, n: int, *, stream: bool) -> None:
        after = 0
        async with self.gateway.caller(timeout_s=WAIT_S) as caller:
            while after < self.requests_after:
                asked = Asked(COUNTS[n], stream=stream)
                after += bool(self.hit)
                self.running.add(asked)
                await caller.send(encode_request(body={**asked.body, **self.more}, key=self.gateway.key))
                asked.response = await caller.read_head()
                if stream and asked.response.status == 200:
                    while piece := await caller.read_chunk(asked.response):
                        asked.chunks_with_content += b'"content":"' in piece
                        self._look()
                else:
                    await caller.read_rest(asked.response)
                self.running.discard(asked)
                self.done.append(asked)

    def _look(self) -> None:
        """Kill, once all goes its way, if streams are in their middle, one is without content, and a plain call out."""
        if self.hit or len(self.done) < STREAMS + PLAINS:
            return
        begun = [each for each in self.running if self.first_token <= each.chunks_with_content <= MAX_TOKENS // 2]
        waiting = {each.stream for each in self.running if not each.chunks_with_content}
        if len(begun) >= 2 and len(waiting) == 2:
            assert self.victim.pid is not None
            os.kill(self.victim.pid, signal.SIGKILL)
            self.hit = set(self.running)


def request(start: int, *, stream: bool) -> dict[str, Any]:
    """Two examples of how to count, and what to count from."""
    messages = []
    for example in (301, 520):
        numbers = ", ".join(str(number) for number in range(example, example + 10))
        messages += [{"role": "user", "content": f"Count from {example}."}, {"role": "assistant", "content": numbers}]
    messages.append({"role": "user", "content": f"Count from {start}."})
    return {"model": "story", "messages": messages, "max_tokens": MAX_TOKENS, "temperature": 0, "stream": stream}


def config(*models: BuiltinModel) -> str:
    """Two own providers, and a model that both of them serve."""
    lines = []
    for name, model in zip(("one", "two"), models, strict=True):
        lines += ["[[providers]]", f'name = "{name}"', f'base_url = "http://127.0.0.1:{model.port}/v1"', "own = true"]
        lines += ['assistant_prefix = "plain"', f'credentials = [{{ name = "main", key = "{model.api_key}" }}]']
    targets = ", ".join(f'{{ target = "{name}/{MODEL_NAME}" }}' for name in ("one", "two"))
    return "\n".join([*lines, "[[models]]", 'name = "story"', f"targets = [{targets}]"])


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def llamas(
    local_model_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[BuiltinModel, BuiltinModel]]:
    """Two servers with the same model, each with a port and a key of its own."""
    models = []
    for name in ("one", "two"):
        home = tmp_path_factory.mktemp(name)
        model_path(home).parent.mkdir()
        model_path(home).symlink_to(local_model_file)
        models.append(BuiltinModel(home, asyncio.get_running_loop(), lambda port, secret: None, pace=NEVER))
    try:
        for model in models:
            await model.start()
        for model in models:
            await until(model, "ready")
        yield models[0], models[1]
    finally:
        for model in models:
            await model.stop()


@asynccontextmanager
async def killed_under_load(
    llamas: tuple[BuiltinModel, BuiltinModel], home: Path, requests_after: int, **more: Any
) -> AsyncIterator[tuple[Load, dict[str, dict[str, Any]]]]:
    """The load when it is over, and the record of each of its requests. The first server runs again afterwards."""
    first, _ = llamas
    try:
        async with GatewayProcess(home, config(*llamas)) as gateway:
            load = Load(gateway, first, requests_after, more)
            await load.run()
            yield load, {asked.request_id: await gateway.record(asked.request_id) for asked in load.done}
    finally:
        await first.stop()
        await first.start()
        await until(first, "ready")


async def ends_honestly(llamas: tuple[BuiltinModel, BuiltinModel], home: Path, requests_after: int) -> None:
    async with killed_under_load(llamas, home, requests_after) as (load, records):
        cut = [asked for asked in load.done if not asked.whole]
        assert set(cut) <= load.hit, "only what was under way at the kill can have failed"
        for asked in cut:
            assert asked.stream, "a plain answer has not begun before it is whole"
            assert asked.text, "a stream without content had not begun"
            assert asked.expected.startswith(asked.text)
            error = asked.error
            assert error is not None, f"not an honest end: {asked.response.body[-300:]!r}"
            assert error["code"] == "upstream_truncated"
            assert asked.request_id in error["message"]
            assert records[asked.request_id]["outcome"] == "upstream_truncated"
        assert cut, "the kill hit streams in their middle"
        saved = [asked for asked in load.hit if asked.whole and len(records[asked.request_id]["attempts"]) > 1]
        assert not all(asked.stream for asked in saved), "it hit plain calls as well"
        for asked in set(load.done) - set(cut):
            assert records[asked.request_id]["outcome"] == "ok"


async def goes_on(llamas: tuple[BuiltinModel, BuiltinModel], home: Path, requests_after: int) -> None:
    async with killed_under_load(llamas, home, requests_after, **RESUME) as (load, records):
        for asked in load.done:
            assert asked.whole, (asked.response.status, asked.parts, asked.response.body[-300:])
            assert records[asked.request_id]["outcome"] == "ok"
        resumed = [asked for asked in load.done if len(asked.parts) > 1]
        assert resumed, "the kill hit streams in their middle"
        assert set(resumed) <= load.hit


async def test_a_killed_server_fails_nobody_whose_answer_had_not_begun(
    llamas: tuple[BuiltinModel, BuiltinModel], tmp_path: Path
) -> None:
    """Plain calls and streams without content are answered by the other server; begun streams end with an error."""
    await ends_honestly(llamas, tmp_path / "gateway", requests_after=1)


async def test_with_leave_to_go_on_nobody_fails(llamas: tuple[BuiltinModel, BuiltinModel], tmp_path: Path) -> None:
    """Every stream is whole, and where it was cut its text goes on with nothing lost and nothing said twice."""
    await goes_on(llamas, tmp_path / "gateway", requests_after=1)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_kill_after_kill(llamas: tuple[BuiltinModel, BuiltinModel], tmp_path: Path) -> None:
    """The same at many moments, and with more that is asked afterwards."""
    for turn in range(6):
        await ends_honestly(llamas, tmp_path / f"honest-{turn}", requests_after=2)
        await goes_on(llamas, tmp_path / f"on-{turn}", requests_after=2)
