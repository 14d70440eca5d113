"""Frees the GPU: has an engine let go of models, and sees that they are gone.

Rules of this file
- Unloaded is what this node had loaded: a model that was not in memory when the node's first request for it came. What
  the owner had loaded stays, and so does a model of an engine that does not say what is in memory. Only where the owner
  said that the engines work for the node alone is everything unloaded.
- An order is believed when the engine no longer lists the model. What is still there when the time is up is told.
- llama.cpp's server with one model, vLLM, SGLang and KoboldCpp were started with their model, by their owner: they have
  nothing that the node could have loaded.
"""

import asyncio
from collections.abc import Collection, Iterable
from urllib.parse import quote

import msgspec

from potluck.engines.asking import Place, ask, converse
from potluck.engines.load_signals import LoadReader
from potluck.engines.questions import Question, name, objects, text
from potluck.model.engine import EngineKind

UNLOAD_S = 2.0
LOOK_AGAIN_S = 0.05
LOADING_S = 600.0
"""a model that the node called for may take so long to appear in memory"""


class Claims:
    """Which models this node had loaded."""

    def __init__(self) -> None:
        self._claims: dict[tuple[str, str], float] = {}
        """engine and model → when it was called or seen in memory last"""

    def note(self, engine: str, resident: Collection[str] | None, called: Iterable[str], now_s: float) -> None:
        """What is in memory (None: not known), and which models the node is calling. To be told of each call."""
        called = set(called)
        if resident is None:
            return
        for model in called:
            if model not in resident:
                self._claims.setdefault((engine, model), now_s)
        for key, last_s in list(self._claims.items()):
            if key[0] != engine:
                continue
            if key[1] in resident:
                self._claims[key] = float("inf")  # seen: from now on, out of memory is out of claim
            elif key[1] in called:
                self._claims[key] = now_s
            elif last_s == float("inf") or now_s - last_s > LOADING_S:
                del self._claims[key]

    @property
    def seen(self) -> bool:
        """Some of them are in memory."""
        return float("inf") in self._claims.values()

    def let_go(self, engine: str, models: Collection[str]) -> None:
        """These were seen to be gone. A model that is not in memory yet may still be on its way there."""
        for model in models:
            if self._claims.get((engine, model)) == float("inf"):
                del self._claims[engine, model]

    def of(self, engine: str) -> list[str]:
        """Sorted."""
        return sorted(model for each, model in self._claims if each == engine)


async def unload(place: Place, kind: EngineKind, models: Collection[str], timeout_s: float = UNLOAD_S) -> list[str]:
    """Have the engine let go of `models`. Gives those that were still there after `timeout_s`. Raises nothing."""
    left = sorted(models)
    if not left or kind not in _CAN_UNLOAD:
        return left
    reader = LoadReader(kind)
    try:
        async with asyncio.timeout(timeout_s):
            orders = await _orders(place, kind, models, timeout_s)
            ordering = asyncio.gather(*(ask(place, each, timeout_s) for each in orders))
            try:
                while left:
                    reading = await converse(place, reader.read(), timeout_s)
                    if reading.heard == "refused":
                        return []
                    if reading.heard == "answered" and reading.load.resident is not None:
                        left = [each for each in left if each in reading.load.resident]
                    await asyncio.sleep(LOOK_AGAIN_S if left else 0)
            finally:
                ordering.cancel()
                await asyncio.gather(ordering, return_exceptions=True)
    except TimeoutError:
        pass
    return left


_CAN_UNLOAD: frozenset[EngineKind] = frozenset({"ollama", "lm-studio", "llama.cpp", "llama-swap", "localai"})


async def _orders(place: Place, kind: EngineKind, models: Collection[str], timeout_s: float) -> list[Question]:
    if kind == "ollama":
        return [_order("/api/generate", model=model, keep_alive=0) for model in models]
    if kind == "llama.cpp":
        return [_order("/models/unload", model=model) for model in models]
    if kind == "llama-swap":
        return [_order(f"/api/models/unload/{quote(model, safe='')}") for model in models]
    if kind == "localai":
        return [_order("/backend/shutdown", model=model) for model in models]
    listed = await ask(place, Question("/api/v1/models"), timeout_s)
    wanted = [card for card in objects(listed.json, "models") if name(card, "key") in models]
    instances = [text(each, "id") for card in wanted for each in objects(card, "loaded_instances")]
    return [_order("/api/v1/models/unload", instance_id=each) for each in instances if each]


def _order(path: str, **members: object) -> Question:
    return Question(path, msgspec.json.encode(members))
