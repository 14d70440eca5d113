"""What a fake node does with a request: the pen for its answer, and the ways to answer that a model's name asks for."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from potluck.conformance import answers
from potluck.wire import link_messages as m
from potluck.wire.link_jobs import Job

if TYPE_CHECKING:
    from potluck.conformance.node import FakeNode


class NodeCall:
    """One request at the node, and the pen for its answer. Each wait ends with CancelledError when the job is over."""

    def __init__(self, node: "FakeNode", job: Job) -> None:
        self.node = node
        self.job = job
        self.body = b""
        self.room = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        name, *options = job.request.model.split(";")
        self.name = name
        self.options = dict(option.split("=", 1) for option in options if "=" in option)
        self.at_s = time.monotonic()
        self.ended = ""
        """how: `finished`, `lost`, `cancelled`"""

    @property
    def asked(self) -> dict[str, Any]:
        """The body decoded."""
        asked = json.loads(self.body) if self.body else {}
        return asked if isinstance(asked, dict) else {}

    def number(self, name: str, default: float) -> float:
        """An option as a number."""
        return float(self.options.get(name, default))

    def accept(self) -> None:
        self.job.accept()
        self.node.pump(self.job)

    def refuse(self, code: m.RefuseCode, **more: Any) -> None:
        """Instead of accepting."""
        self.job.refuse(m.Refuse(code, **more))
        self.node.flush()

    def head(self, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        """Accepts too, if that was not said."""
        self.job.accept()
        self.job.head(status, [("content-type", kind), *((k.replace("_", "-"), v) for k, v in headers.items())])
        self.node.pump(self.job)

    async def data(self, chunk: bytes) -> None:
        """A part of the body; waits until there is room for more."""
        more = self.job.data(chunk)
        self.node.pump(self.job)
        if not more:
            self.room.clear()
            await self.room.wait()

    def end(self) -> None:
        self.job.end()
        self.node.pump(self.job)

    def reset(self, code: m.ResetCode, detail: str = "") -> None:
        self.job.reset(code, detail)
        self.node.flush()


Play = Callable[[NodeCall], Awaitable[None]]


def _words(call: NodeCall) -> tuple[str, ...]:
    count, size = int(call.number("chunks", len(answers.WORDS))), int(call.number("size", 0))
    return tuple(answers.WORDS[i % len(answers.WORDS)].ljust(size, ".") for i in range(count))


async def ok(call: NodeCall) -> None:
    """Answers well; options chunks, size, gap_ms, wait_ms."""
    call.accept()
    await asyncio.sleep(call.number("wait_ms", 0) / 1000)
    asked, path = call.asked, call.job.request.path
    if path.endswith("/embeddings"):
        inputs = asked.get("input")
        call.head()
        await call.data(answers.embeddings(call.job.request.model, len(inputs) if isinstance(inputs, list) else 1))
    elif asked.get("stream") is not True:
        make = answers.completion if path.endswith("/chat/completions") else answers.text_completion
        call.head()
        await call.data(make(call.job.request.model, _words(call)))
    else:
        make_events = answers.chat_events if path.endswith("/chat/completions") else answers.text_events
        usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        gap_s = call.number("gap_ms", 0) / 1000
        call.head(kind="text/event-stream")
        for part in make_events(call.job.request.model, _words(call), usage=usage):
            await call.data(part)
            if gap_s:
                await asyncio.sleep(gap_s)
    call.end()


async def refuse(call: NodeCall) -> None:
    """Refuses; option code, eta_s."""
    code: Any = call.options.get("code", "busy")
    call.refuse(code, eta_s=float(call.options["eta_s"]) if "eta_s" in call.options else None)


async def reset(call: NodeCall) -> None:
    """Accepts and resets; options code, after: `accept`, `head` or `content`."""
    code: Any = call.options.get("code", "engine_failed")
    after = call.options.get("after", "accept")
    call.accept()
    if after != "accept":
        call.head(kind="text/event-stream")
    if after == "content":
        for part in list(answers.chat_events(call.job.request.model))[:3]:
            await call.data(part)
    call.reset(code)


async def stall(call: NodeCall) -> None:
    """Sends three events of a stream and then nothing more; option before: nothing at all."""
    if call.options.get("before") == "accept":
        await asyncio.sleep(600)
    call.accept()
    if call.options.get("before") != "head":
        call.head(kind="text/event-stream")
        for part in list(answers.chat_events(call.job.request.model))[:3]:
            await call.data(part)
    await asyncio.sleep(600)


async def error(call: NodeCall) -> None:
    """Answers with an HTTP error; option status."""
    status = int(call.number("status", 500))
    call.head(status)
    await call.data(answers.error(status, "the fake engine says no"))
    call.end()


PLAYS: dict[str, Play] = {"ok": ok, "refuse": refuse, "reset": reset, "stall": stall, "error": error}
