"""What is offered of what was found: names, prices, sizes, and where requests for it go."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.engines import model_file
from potluck.engines.asking import NotHereError
from potluck.model.engine import Engine, EngineLoad, EngineModel
from potluck.model.node import NodePrice
from potluck.node.offers import Offers
from potluck.node.settings import NodeSettings
from potluck.wire import link_frames as f
from potluck.wire import link_messages as m

URL = "http://127.0.0.1:11434"
CHAT = "/v1/chat/completions"
TINY = EngineModel("tiny:1b", ("chat", "completions", "tools"), served_context=8192)


def offers(*models: EngineModel, node: str = "node_1", kind: Any = "ollama", **settings: Any) -> Offers:
    """One engine that was found with these models."""
    said = NodeSettings(engines=(URL,), discover=False, **settings)
    found = Offers(said, node, None, lambda: None)  # type: ignore[arg-type]
    [watch] = found.watches
    watch.engine = Engine(kind, watch.place.base_url, models=models)
    found.refresh()
    return found


def nothing(engine: str, model: str | None) -> tuple[int, int]:
    return 0, 0


def test_an_id_is_the_same_over_restarts_and_tells_no_address() -> None:
    """It changes with the machine and the engine's kind, and holds neither host nor port."""
    [id_] = offers(TINY).offered
    assert [id_] == list(offers(TINY).offered)
    assert [id_] != list(offers(TINY, node="node_2").offered)
    assert [id_] != list(offers(TINY, kind="llama.cpp").offered)
    assert "11434" not in id_
    [llama] = offers(TINY, kind="llama.cpp").offered
    f.decode(f.CAPS, f.encode(offers(TINY, kind="llama.cpp").caps(1, "linux", "x86_64")))
    assert llama.startswith("llama_cpp-")


def test_requests_go_where_exactly_that_is_offered() -> None:
    """Engine, model and path together; any other is not there."""
    found = offers(TINY, EngineModel("embed", ("embeddings",)))
    [id_] = found.offered
    place = found.find(id_, "tiny:1b", CHAT)
    assert place is not None
    assert (place.host, place.port, place.prefix) == ("127.0.0.1", 11434, "")
    for engine, model, path in (
        (id_, "tiny:1b", "/v1/embeddings"),
        (id_, "embed", CHAT),
        (id_, "huge:cloud", CHAT),
        ("local", "tiny:1b", CHAT),
    ):
        assert found.find(engine, model, path) is None


def test_prices_are_the_owners() -> None:
    """One of the model, else the one for all others, else none."""
    prices = {"tiny:1b": NodePrice(1, 2), "*": NodePrice(3, 4)}
    caps = offers(TINY, EngineModel("other", ("chat",)), prices=prices).caps(1, "", "")
    said = {each.name: (each.price_input_nanousd, each.price_output_nanousd) for each in caps.models}
    assert said == {"tiny:1b": (1, 2), "other": (3, 4)}
    [free] = offers(TINY).caps(1, "", "").models
    assert (free.price_input_nanousd, free.price_output_nanousd) == (None, None)


def test_how_sure_it_is_goes_along() -> None:
    """A hash is high, a name medium, a guess low; what does not fit the protocol is left out."""
    models = [
        EngineModel("a", ("chat",), "digest", digest="sha256:" + "ab" * 32, quantisation="Q4_K_M", format="gguf"),
        EngineModel("b", ("chat",), "named", quantisation="Q4 K", digest="x" * 200),
        EngineModel("c", ("chat",)),
        EngineModel("d d", ("chat",)),
        EngineModel("e" * 201, ("chat",)),
        EngineModel("f", ("audio",)),
    ]
    said = {each.name: each for each in offers(*models).caps(1, "", "").models}
    assert {name: each.confidence for name, each in said.items()} == {"a": "high", "b": "medium", "c": "low"}
    assert (said["a"].digest, said["a"].quantization) == ("sha256:" + "ab" * 32, "Q4_K_M")
    assert (said["b"].digest, said["b"].quantization) == ("", "")


@pytest.mark.parametrize("count", [3, 1000])
def test_whatever_an_engine_has_fits_into_the_frames(count: int) -> None:
    """CAPS and LOAD of an engine with very many long names are valid, and not too large."""
    models = [
        EngineModel(f"{n:04d}" + "n" * 196, ("chat", "completions", "embeddings", "tools"), "digest", "d" * 128)
        for n in range(count)
    ]
    found = offers(*models)
    caps = f.encode(found.caps(1, "linux", "x86_64"))
    engines, states = found.loads(nothing, None)
    load = f.encode(m.Load("ready", "it serves", "idle", engines, states))
    assert len(caps) <= m.MAX_CAPS_BYTES
    assert len(load) <= m.MAX_CONTROL_BYTES
    f.decode(f.CAPS, caps)
    f.decode(f.LOAD, load)
    assert len(f.decode(f.CAPS, caps).models) >= min(count, 300)


@given(
    st.lists(st.builds(EngineModel, name=st.text(max_size=30), quantisation=st.text(max_size=50)), max_size=5),
    st.text(max_size=60),
)
def test_nothing_that_an_engine_says_breaks_the_protocol(models: list[EngineModel], version: str) -> None:
    """Whatever names and versions an engine has, CAPS is valid."""
    found = offers(TINY)
    [watch] = found.watches
    chats = tuple(EngineModel(each.name, ("chat",), quantisation=each.quantisation) for each in models)
    watch.engine = Engine("vllm", URL + "/v1", version=version, models=(TINY, *chats))
    found.refresh()
    f.decode(f.CAPS, f.encode(found.caps(1, "linux", "x86_64")))


def test_slots_are_the_owners_or_the_engines() -> None:
    """The owner's number bounds all; without it the engine's, and one where nothing is known."""
    assert offers(TINY).slots == 1
    assert offers(TINY, kind="vllm").slots > 8
    found = offers(TINY)
    found.watches[0].load = EngineLoad(slots=4)
    found.refresh()
    assert found.slots == 4
    assert offers(TINY, slots=3).slots == 3


def test_what_others_do_is_said_only_when_it_is_seen() -> None:
    """An engine's own count is seconds old: it counts only while somebody else is known to use the engine."""
    found = offers(TINY)
    found.watches[0].load = EngineLoad(running=2, queued=1, resident=("tiny:1b",), cache_used=0.5)
    for others, running in ((None, 1), (False, 1), (True, 2)):
        [engine], [model] = found.loads(lambda engine, model: (1, 0), others)
        assert (engine.running, engine.waiting, engine.local_use, engine.kv_used) == (running, 1, others, 0.5)
        assert (model.resident, model.running) == (True, 1)


def test_an_engine_that_stopped_answering_stays_offered() -> None:
    """Its models, slots and id are as they were, and it is not reachable: gone, or loading after a restart."""
    found = offers(TINY)
    [watch] = found.watches
    watch.load = EngineLoad(slots=4)
    found.refresh()
    before, was = found.caps(1, "", ""), watch.engine
    assert was is not None
    for engine, word in ((None, "does not answer"), (Engine("ollama", URL + "/v1", "loading"), "is loading")):
        watch.engine, watch.load = engine, EngineLoad()
        found.refresh()
        assert found.caps(1, "", "") == before
        [state], [model] = found.loads(nothing, None)
        assert (state.reachable, model.name) == (False, "tiny:1b")
        assert word in found.away
        assert any(word in each for each in found.withheld)
        place = found.find(state.id, "tiny:1b", CHAT)
        assert place is not None
        assert word in place.away
    watch.engine = was
    found.refresh()
    [state], _ = found.loads(nothing, None)
    assert (state.reachable, found.away, found.withheld) == (True, "", [])


def test_an_engine_is_forgotten_when_another_answers_there() -> None:
    """Also when it is the same one, without any model."""
    found = offers(TINY)
    [watch] = found.watches
    watch.engine = Engine("vllm", URL + "/v1", "locked")
    found.refresh()
    assert found.offered == {}
    found = offers(TINY)
    [watch] = found.watches
    watch.engine = Engine("ollama", URL + "/v1")
    found.refresh()
    watch.engine = None
    found.refresh()
    assert found.offered == {}


def test_of_two_engines_one_may_be_away() -> None:
    """The other serves as before."""
    said = NodeSettings(engines=(URL, "http://127.0.0.1:8000"), discover=False)
    found = Offers(said, "node_1", None, lambda: None)  # type: ignore[arg-type]
    first, second = found.watches
    first.engine = Engine("ollama", first.place.base_url, models=(TINY,))
    second.engine = Engine("vllm", second.place.base_url, models=(EngineModel("other", ("chat",)),))
    found.refresh()
    second.engine = None
    found.refresh()
    assert [each.reachable for each in found.loads(nothing, None)[0]] == [True, False]
    assert found.away == ""


def test_a_token_for_few_models_offers_the_first_ones() -> None:
    """What is left out is said by name, and is not there for requests either."""
    found = offers(*(EngineModel(f"m{n}", ("chat",)) for n in range(9)))
    found.most_models = 2
    found.refresh()
    assert [each.name for each in found.caps(1, "", "").models] == ["m0", "m1"]
    [line] = found.withheld
    assert "allows 2 models" in line
    assert "m2, m3, m4, m5, m6, 2 more" in line
    [id_] = found.offered
    assert found.find(id_, "m2", CHAT) is None


def test_names_that_no_request_can_carry_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each in a line for the owner, and once in the log, however often the engines are looked at."""
    found = offers(TINY, EngineModel("n" * 201, ("chat",)))
    [watch] = found.watches
    assert watch.engine is not None
    watch.engine = msgspec.structs.replace(watch.engine, unusable=("two words",))
    caplog.clear()
    for _ in range(3):
        found.refresh()
    assert sum("two words" in each for each in found.withheld) == 1
    assert sum("nnnn" in each for each in found.withheld) == 1
    assert len([each for each in caplog.messages if "two words" in each]) == 1


def test_an_address_that_is_none_is_refused() -> None:
    """In words, before anything runs."""
    with pytest.raises(NotHereError):
        Offers(NodeSettings(engines=("ftp://x",)), "node_1", None, lambda: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("has", "lacks"), [(True, "file"), (False, "engine")])
async def test_a_built_in_model_that_cannot_be_shared_is_why_nothing_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has: bool, lacks: str
) -> None:
    """The agent runs on, and says what is missing; other engines are watched meanwhile."""
    monkeypatch.setattr(model_file, "has_engine", lambda: has)
    said = NodeSettings(discover=False, local_model=True)
    found = Offers(said, "node_1", None, lambda: None, home=tmp_path)  # type: ignore[arg-type]
    running = asyncio.get_running_loop().create_task(found.run())
    async with asyncio.timeout(10):
        while not found.local_state.startswith("missing"):
            await asyncio.sleep(0.005)
    assert not running.done()
    assert not found.offered
    assert f"built-in model's {lacks} is not installed: potluck node doctor" in found.none_why
    assert str(tmp_path) not in found.none_why
    assert ("its engine is not installed" in found.local_state) is not has
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
