"""One engine, watched for as long as its owner shares it: what it serves, how busy it is, and that it is there.

Rules of this file
- One watch per engine, one question at a time: the engine never sees more of us.
- An engine that lets a question pass is not gone: one that works on a long prompt answers late. It is gone when nobody
  listens, or when it was looked for three times in vain; then it is looked for ever more seldom, at least every minute,
  and where it was before every few seconds: it may just be starting again.
- It is never started, restarted, loaded or unloaded from here.
"""

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from potluck.engines.asking import ASK_TIMEOUT_S, Place, converse
from potluck.engines.discover import look
from potluck.engines.load_signals import LoadReader
from potluck.model.engine import Engine, EngineLoad

SILENT_LOOKS = 3
NOT_LOOKED = "it was not looked for yet"


class WatchPace(msgspec.Struct, frozen=True):
    """Seconds."""

    look_every_s: float = 30.0
    """who it is and what it serves"""
    load_every_s: float = 2.0
    """how busy it is; also how soon an engine that is still loading is looked at again"""
    first_back_off_s: float = 2.0
    """doubles with every look in vain"""
    max_back_off_s: float = 60.0
    missed_back_off_s: float = 4.0
    """longest where it was found before"""
    timeout_s: float = ASK_TIMEOUT_S


class EngineWatch:
    """`engine` and `load` are what was last found; `reason` says why there is none."""

    def __init__(self, place: Place, on_change: Callable[[], None], pace: WatchPace | None = None) -> None:
        """`on_change` is called when `engine` is another than before: it came, went, or serves something else."""
        self.place = place
        self.engine: Engine | None = None
        self.load = EngineLoad()
        self.reason = NOT_LOOKED
        self._on_change = on_change
        self._pace = pace or WatchPace()
        self._last: Engine | None = None
        self._reader: LoadReader | None = None
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look now: a call to it failed, or its owner just started it."""
        self._woken.set()

    async def run(self) -> None:
        """Watch until cancelled. Raises nothing but what `on_change` does."""
        missed = 0
        while True:
            found = await look(self.place, self._last, self._pace.timeout_s)
            if isinstance(found, Engine):
                missed = 0
                self._set(found, "")
                await self._follow(found)
                continue
            missed += 1
            if found.refused or missed >= SILENT_LOOKS or self.engine is None:
                self._set(None, found.reason)
            pause_s = back_off_s(missed, self._pace)
            await self._pause(pause_s if self._last is None else min(pause_s, self._pace.missed_back_off_s))

    async def _follow(self, engine: Engine) -> None:
        """Read its load until it is time to look again."""
        if engine.state != "ready":
            await self._pause(self._pace.load_every_s)
            return
        reader = self._reader = self._reader or LoadReader(engine.kind)
        for _ in range(max(round(self._pace.look_every_s / self._pace.load_every_s), 1)):
            reading = await converse(self.place, reader.read(), self._pace.timeout_s)
            self.load = reading.load
            if reading.heard == "refused" or await self._pause(self._pace.load_every_s):
                return

    def _set(self, engine: Engine | None, reason: str) -> None:
        changed = engine != self.engine
        if engine is None or self.engine is None or _signature(engine) != _signature(self.engine):
            self._reader = None  # what it learnt is of another engine, or of another start of this one
        self.engine, self.reason = engine, reason
        if engine is None:
            self.load = EngineLoad()
        else:
            self._last = engine
        if changed:
            self._on_change()

    async def _pause(self, seconds: float) -> bool:
        """True: woken before the time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        woken = self._woken.is_set()
        self._woken.clear()
        return woken


def _signature(engine: Engine) -> tuple[object, ...]:
    """What changes with a new start, not with what is in memory."""
    return engine.kind, engine.state, engine.version, tuple(model.name for model in engine.models)


def back_off_s(missed: int, pace: WatchPace) -> float:
    """How long to wait after `missed` looks in vain, from 1."""
    return min(pace.first_back_off_s * 2.0 ** min(missed - 1, 30), pace.max_back_off_s)
