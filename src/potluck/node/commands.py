"""What a gateway may command (TASK), as far as the machine's owner allows: look at an engine, load, unload a model.

Rules of this file
- `probe` is always obeyed: it only looks. `load` and `unload` need the owner's `allow_load` and `allow_unload`.
- Only models that are offered, only while this machine serves, and never into memory that its owner keeps free.
- Unloaded is only what this node had loaded (`unloading.Claims`).
- Every command is answered, with its time; one that takes longer than `LOAD_S` has failed.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import msgspec

from potluck.engines.asking import Place, ask
from potluck.engines.questions import Question
from potluck.engines.watch import EngineWatch
from potluck.model.engine import EngineKind
from potluck.node.dialing import Link
from potluck.node.offers import Offers
from potluck.node.unloading import Claims, unload
from potluck.wire import link_messages as m

LOAD_S: Final = 300.0
_LOADS: Final[dict[EngineKind, str]] = {
    "ollama": "/api/generate",
    "llama.cpp": "/models/load",
    "lm-studio": "/api/v1/models/load",
}
"""where an engine takes the order; the others load with the first request"""


class Commands:
    """Obeys or declines. `serves()`: new work is taken; `has_room(engine, model)`: it fits beside what is kept free."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        offers: Offers,
        claims: Claims,
        serves: Callable[[], bool],
        has_room: Callable[[str, str], bool],
    ) -> None:
        self._loop = loop
        self._offers = offers
        self._claims = claims
        self._serves = serves
        self._has_room = has_room
        self._running: set[asyncio.Task[None]] = set()

    def take(self, link: Link, task: m.Task) -> None:
        """Begin; the answer goes over the same link."""
        running = self._loop.create_task(self._obey(link, task))
        self._running.add(running)  # kept until it is done
        running.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Give up what runs."""
        for each in tuple(self._running):
            each.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _obey(self, link: Link, task: m.Task) -> None:
        began = self._loop.time()
        watch = self._offers.watch_of(task.engine)
        try:
            why_not = await self._do(task, watch)
        except (OSError, ValueError) as error:
            why_not = f"it failed: {type(error).__name__}"
        if watch is not None:
            watch.wake()
        if link.up:
            took_ms = round((self._loop.time() - began) * 1000)
            link.core.task_result(m.TaskResult(task.task, not why_not, why_not[:300], took_ms))
            link.wake()

    async def _do(self, task: m.Task, watch: EngineWatch | None) -> str:
        """Why it was not done; empty: it was."""
        settings, offered = self._offers.settings, self._offers.offered.get(task.engine)
        if offered is None:
            return "the engine is not there any more"
        if task.action == "probe":
            return ""
        if not (settings.allow_load if task.action == "load" else settings.allow_unload):
            return "the owner of this machine does not allow that"
        if task.model is None or task.model not in offered.models:
            return "the model is not offered"
        if watch is None or watch.engine is None:
            return "the engine looks after its model itself"
        place, kind = watch.place, watch.engine.kind
        if task.action == "unload":
            if task.model not in self._claims.of(task.engine):
                return "this node did not load it"
            return "it is still in memory" if await unload(place, kind, [task.model]) else ""
        if not self._serves():
            return "this machine does not serve now"
        if not self._has_room(task.engine, task.model):
            return "the model does not fit beside what is kept free of the GPU's memory"
        self._claims.note(task.engine, watch.load.resident, [task.model], time.monotonic())
        return await load(place, kind, task.model)


async def load(place: Place, kind: EngineKind, model: str, timeout_s: float = LOAD_S) -> str:
    """Have the engine load a model. Why it did not; empty: it did. Raises nothing."""
    path = _LOADS.get(kind)
    if path is None:
        return "this engine loads a model with the first request for it"
    reply = await ask(place, Question(path, msgspec.json.encode({"model": model})), timeout_s)
    if reply.ok:
        return ""
    return f"the engine answers {reply.status}" if reply.status else "the engine does not answer"
