"""An engine watched over time: it comes, changes, stalls, goes and comes back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from potluck.conformance.engines import CHAT, FakeEngine
from potluck.conformance.provider import refused_port
from potluck.engines.asking import Place
from potluck.engines.watch import EngineWatch, WatchPace, back_off_s
from potluck.model.engine import EngineLoad

QUICK = WatchPace(look_every_s=0.1, load_every_s=0.02, first_back_off_s=0.02, max_back_off_s=0.1, timeout_s=0.3)
PATIENT = WatchPace(look_every_s=600, load_every_s=600, first_back_off_s=600, max_back_off_s=600, timeout_s=2)


class Watched:
    """A watch that runs, and a way to wait for what it sees."""

    def __init__(self, place: Place, pace: WatchPace) -> None:
        self.changes = 0
        self.watch = EngineWatch(place, self._count, pace)

    def _count(self) -> None:
        self.changes += 1

    async def until(self, condition: Callable[[EngineWatch], object]) -> None:
        async with asyncio.timeout(10):
            while not condition(self.watch):
                await asyncio.sleep(0.005)


@asynccontextmanager
async def watching(port: int, pace: WatchPace = QUICK) -> AsyncIterator[Watched]:
    watched = Watched(Place("127.0.0.1", port), pace)
    task = asyncio.ensure_future(watched.watch.run())
    try:
        yield watched
        assert not task.done(), task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_what_changes_is_seen_and_said_once() -> None:
    """A new load is read without a word; another set of models is a change."""
    async with FakeEngine("ollama") as engine, watching(engine.port) as watched:
        await watched.until(lambda watch: watch.engine)
        assert (watched.changes, watched.watch.reason) == (1, "")
        await watched.until(lambda watch: watch.load.resident == (CHAT,))
        engine.resident = set()
        await watched.until(lambda watch: watch.load.resident == ())
        await watched.until(lambda watch: watch.engine and not watch.engine.models[0].resident)
        assert watched.changes == 2


async def test_unchanging_details_are_asked_for_once() -> None:
    """However often it is looked at."""
    async with FakeEngine("ollama") as engine, watching(engine.port) as watched:
        await watched.until(lambda _: engine.asked.count("GET /api/tags") >= 4)
        assert engine.asked.count("POST /api/show") == 2


async def test_an_engine_that_ends_is_gone_at_once_and_comes_back() -> None:
    """Nobody listening is certain; it is looked for until it is there again, on the same port."""
    async with FakeEngine("vllm") as engine, watching(engine.port) as watched:
        await watched.until(lambda watch: watch.engine)
        await engine.stop()
        await watched.until(lambda watch: watch.engine is None)
        assert watched.watch.reason == "nobody listens there"
        assert watched.watch.load == EngineLoad()
        again = FakeEngine("koboldcpp", port=engine.port)
        async with again:
            await watched.until(lambda watch: watch.engine)
            assert watched.watch.engine is not None
            assert watched.watch.engine.kind == "koboldcpp"
    assert watched.changes == 3


async def test_a_slow_engine_is_not_a_gone_one() -> None:
    """Its load is unknown meanwhile; it is given up after the third look in vain, and not before."""
    async with FakeEngine("vllm") as engine, watching(engine.port) as watched:
        await watched.until(lambda watch: watch.load.running is not None)
        engine.silent = True
        await watched.until(lambda watch: watch.load == EngineLoad())
        assert watched.watch.engine is not None
        engine.silent = False
        await watched.until(lambda watch: watch.load.running is not None)
        assert watched.changes == 1
        engine.silent, before = True, len(engine.asked)
        await watched.until(lambda watch: watch.engine is None)
        # a look that had begun when it fell silent is the first of the three
        assert 2 <= engine.asked[before:].count("GET /v1/models") <= 3
        assert watched.watch.reason == "it does not answer in time"


async def test_an_engine_that_loads_is_looked_at_again_soon() -> None:
    """It is there at first without a model, then with one."""
    async with FakeEngine("llama.cpp") as engine:
        engine.loading = True
        pace = WatchPace(look_every_s=600, load_every_s=0.02)
        async with watching(engine.port, pace) as watched:
            await watched.until(lambda watch: watch.engine)
            assert watched.watch.engine is not None
            assert watched.watch.engine.state == "loading"
            engine.loading = False
            await watched.until(lambda watch: watch.engine and watch.engine.models)


async def test_waking_looks_at_once() -> None:
    """Whatever it was waiting for: the next load, or the end of a back-off."""
    port, holder = refused_port()
    async with watching(port, PATIENT) as watched:
        await watched.until(lambda watch: watch.reason == "nobody listens there")
        holder.close()
        async with FakeEngine("vllm", port=port) as engine:
            watched.watch.wake()
            await watched.until(lambda watch: watch.engine)
            await watched.until(lambda watch: watch.load.running == 0)
            engine.running = 3
            watched.watch.wake()
            await watched.until(lambda watch: watch.load.running == 3)


async def test_a_watched_engine_is_never_told_to_do_anything() -> None:
    """Asleep, busy or empty: it is only asked."""
    async with FakeEngine("llama.cpp") as engine, watching(engine.port) as watched:
        engine.has_metrics = False
        await watched.until(lambda _: len(engine.asked) > 12)
        engine.sleeping = True
        before = len(engine.asked)
        await watched.until(lambda watch: watch.load.resident == ())
        await watched.until(lambda _: len(engine.asked) > before + 12)
        # the reading under way when it fell asleep may have had one question left
        assert len(engine.harm) <= 1
        engine.sleeping = False
        await watched.until(lambda watch: watch.load.resident)
        before = len(engine.asked)
        await watched.until(lambda _: engine.asked[before:].count("GET /v1/models") >= 3)
        assert "GET /slots" not in engine.asked[before:], "it would never sleep again"


@pytest.mark.parametrize(("missed", "seconds"), [(1, 2), (2, 4), (3, 8), (5, 32), (6, 60), (7, 60), (10_000, 60)])
def test_the_back_off_doubles_up_to_a_minute(missed: int, seconds: float) -> None:
    """With each look in vain."""
    assert back_off_s(missed, WatchPace()) == seconds
