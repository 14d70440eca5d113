"""Giving the GPU back: each engine is told in its own way, only what is ours goes, and it is seen to be gone."""

import time
from collections.abc import Collection

import pytest
from unloadable import Unloadable

from potluck.conformance.engines import CHAT, EMBED, FakeEngine
from potluck.engines.asking import Place
from potluck.model.engine import EngineKind
from potluck.node.unloading import LOADING_S, Claims, unload

UNLOADERS: tuple[EngineKind, ...] = ("ollama", "lm-studio", "llama.cpp", "llama-swap", "localai")


async def freed(engine: FakeEngine, models: Collection[str], timeout_s: float = 5.0) -> list[str]:
    """What was left."""
    return await unload(Place("127.0.0.1", engine.port), engine.kind, models, timeout_s)


@pytest.mark.parametrize("kind", UNLOADERS)
async def test_an_engine_lets_go_of_what_is_named_and_nothing_else(kind: EngineKind) -> None:
    """One order, well within two seconds; the other model stays."""
    async with Unloadable(kind) as engine:
        engine.resident = {CHAT, EMBED}
        began_s = time.monotonic()
        assert await freed(engine, [CHAT]) == []
        assert time.monotonic() - began_s < 2.0
        assert engine.resident == {EMBED}
        assert len(engine.harm) == 1


@pytest.mark.parametrize("kind", UNLOADERS)
async def test_an_engine_that_only_says_so_is_not_believed(kind: EngineKind) -> None:
    """What is still listed when the time is up is told."""
    async with Unloadable(kind) as engine:
        engine.resident, engine.deaf = {CHAT, EMBED}, True
        assert await freed(engine, [CHAT], 0.3) == [CHAT]


async def test_an_engine_that_does_not_answer_takes_no_longer_than_the_limit() -> None:
    """A hanging order is left behind; the model may be gone all the same."""
    async with Unloadable("ollama") as engine:
        engine.dumb = True
        began_s = time.monotonic()
        assert await freed(engine, [CHAT], 0.3) == [CHAT]
        assert time.monotonic() - began_s < 2.0


async def test_an_engine_that_is_gone_holds_nothing() -> None:
    """Nobody listens there: its memory is free."""
    async with Unloadable("ollama") as engine:
        place = Place("127.0.0.1", engine.port)
    assert await unload(place, "ollama", [CHAT], 5.0) == []


@pytest.mark.parametrize("kind", ["vllm", "sglang", "koboldcpp", "openai-compatible"])
async def test_an_engine_that_was_started_with_its_model_is_left_alone(kind: EngineKind) -> None:
    """It is not even asked."""
    async with Unloadable(kind) as engine:
        assert await freed(engine, [CHAT]) == [CHAT]
        assert engine.harm == engine.asked == []


async def test_nothing_of_ours_is_no_order() -> None:
    """An engine in which the node had nothing loaded hears nothing."""
    async with Unloadable("ollama") as engine:
        assert await freed(engine, []) == []
        assert engine.asked == engine.harm == []


def test_what_was_not_in_memory_before_our_call_is_ours() -> None:
    """From the call on, through loading, until it leaves memory."""
    claims = Claims()
    claims.note("e", {"theirs"}, ["ours", "theirs"], 0.0)
    assert claims.of("e") == ["ours"]
    claims.note("e", {"theirs"}, [], 100.0)
    assert claims.of("e") == ["ours"]
    claims.note("e", {"theirs", "ours"}, [], 130.0)
    claims.note("e", {"theirs"}, [], 131.0)
    assert claims.of("e") == []


def test_what_the_owner_loads_again_is_theirs() -> None:
    """A claim ends when the model leaves memory."""
    claims = Claims()
    claims.note("e", set(), ["m"], 0.0)
    for resident in ({"m"}, set(), {"m"}):
        claims.note("e", resident, [], 1.0)
    assert claims.of("e") == []


def test_a_model_that_never_comes_is_not_claimed_for_ever() -> None:
    """A call that failed loads nothing."""
    claims = Claims()
    claims.note("e", set(), ["m"], 0.0)
    claims.note("e", set(), [], LOADING_S + 1)
    assert claims.of("e") == []


def test_of_an_engine_that_does_not_say_nothing_is_claimed() -> None:
    """Neither when memory is not known, nor for another engine."""
    claims = Claims()
    claims.note("e", None, ["m"], 0.0)
    claims.note("f", set(), ["m"], 0.0)
    assert (claims.of("e"), claims.of("f")) == ([], ["m"])
