"""How busy an engine is, as far as it says; and that it is not kept awake by being asked."""

from typing import Any

from engine_dialogue import Pages, listing, play
from hypothesis import given
from hypothesis import strategies as st

from potluck.engines.load_signals import LoadReader, Reading
from potluck.engines.questions import Question, Reply
from potluck.model.engine import EngineKind, EngineLoad

KINDS: list[EngineKind] = [
    *("ollama", "lm-studio", "vllm", "llama.cpp", "sglang"),
    *("localai", "llama-swap", "koboldcpp", "openai-compatible"),
]


def read(kind: EngineKind, pages: Pages, reader: LoadReader | None = None) -> tuple[Reading, list[str]]:
    asked: list[Question] = []
    reading = play((reader or LoadReader(kind)).read(), pages, asked)
    assert not any(each.body for each in asked)
    return reading, [each.path for each in asked]


VLLM = b"""# HELP vllm:num_requests_running in execution
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4
vllm:num_requests_waiting{engine="0"} 1e0
vllm:num_requests_waiting_by_reason{reason="capacity"} 99
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.75
"""


def test_gauges_of_several_engines_are_added() -> None:
    """vLLM has one series each; the fullest cache is the one that counts, and a longer name is another gauge."""
    reading, asked = read("vllm", {"/metrics": VLLM})
    assert reading.load == EngineLoad(running=7, queued=1, cache_used=0.75)
    assert asked == ["/metrics"]


def test_an_older_name_of_a_gauge_is_known() -> None:
    """As vLLM called its cache before."""
    assert read("vllm", {"/metrics": b"vllm:gpu_cache_usage_perc 0.5\n"})[0].load == EngineLoad(cache_used=0.5)


def test_what_is_not_told_is_not_zero() -> None:
    """An engine without its endpoint says nothing, which is not that it is idle."""
    for kind in KINDS:
        reading, _ = read(kind, {})
        assert reading.heard == "answered"
        assert (reading.load.running, reading.load.queued, reading.load.slots) == (None, None, None), kind


def test_silence_and_refusal_are_told_apart() -> None:
    """A slow engine is not a gone one."""
    everywhere = ("/metrics", "/v1/loads", "/v1/models", "/api/ps", "/system", "/running", "/api/extra/perf")
    for kind in KINDS:
        for reply, heard in ((Reply(), "silent"), (Reply(refused=True), "refused")):
            pages = dict.fromkeys((*everywhere, "/api/v1/models", "/props"), reply)
            reading, asked = read(kind, pages)
            assert (reading.heard, reading.load) == (heard, EngineLoad()), kind
            assert len(asked) == 1, kind


def test_sglang_old_and_new() -> None:
    """The newer page first; the older one, which counts the waiting among all, only where there is no newer."""
    new = {"loads": [{"num_running_reqs": 2, "num_waiting_reqs": 1, "token_usage": 0.5, "max_running_requests": 8}] * 2}
    assert read("sglang", {"/v1/loads": new})[0].load == EngineLoad(running=4, queued=2, slots=16, cache_used=0.5)
    old = {"/get_load": [{"num_reqs": 5, "num_waiting_reqs": 2}]}
    reader = LoadReader("sglang")
    reading, asked = read("sglang", old, reader)
    assert (reading.load, asked) == (EngineLoad(running=3, queued=2), ["/v1/loads", "/get_load"])
    assert read("sglang", old, reader) == (reading, ["/get_load"])


def test_a_page_that_fails_once_is_not_given_up() -> None:
    """A server's error is no sign that the page is not there."""
    reader = LoadReader("sglang")
    assert read("sglang", {"/v1/loads": Reply(500)}, reader)[0].load == EngineLoad()
    assert read("sglang", {}, reader)[1] == ["/v1/loads", "/get_load"]


SLOTS = [{"id": 0, "is_processing": True}, {"id": 1, "is_processing": False}]
ALONE: Pages = {"/v1/models": listing("llamacpp"), "/props": {"total_slots": 2}, "/slots": SLOTS}


def test_slots_of_llama_cpp_are_counted_where_there_are_no_metrics() -> None:
    """And the closed door is not knocked at again."""
    reader = LoadReader("llama.cpp")
    reading, asked = read("llama.cpp", ALONE, reader)
    assert reading.load == EngineLoad(running=1, slots=2, resident=("m1",))
    assert asked == ["/v1/models", "/props", "/metrics", "/slots"]
    assert read("llama.cpp", ALONE, reader)[1] == ["/props", "/slots"]


def test_metrics_of_llama_cpp_tell_its_queue() -> None:
    """Then its slots are never asked for, since that would count as use."""
    metrics = b"llamacpp:requests_processing 2\nllamacpp:requests_deferred 3\n"
    reading, asked = read("llama.cpp", ALONE | {"/metrics": metrics})
    assert reading.load == EngineLoad(running=2, queued=3, slots=2, resident=("m1",))
    assert "/slots" not in asked


def test_a_sleeping_llama_cpp_is_let_sleep() -> None:
    """Nothing is asked that wakes it; one that was seen asleep is never again asked what would keep it awake."""
    reader = LoadReader("llama.cpp")
    asleep = ALONE | {"/props": {"total_slots": 2, "is_sleeping": True}}
    reading, asked = read("llama.cpp", asleep, reader)
    assert reading.load == EngineLoad(running=0, queued=0, slots=2, resident=())
    assert asked == ["/v1/models", "/props"]
    reading, asked = read("llama.cpp", ALONE, reader)
    assert reading.load == EngineLoad(slots=2, resident=("m1",))
    assert "/slots" not in asked


def test_a_router_of_llama_cpp_is_the_sum_of_its_loaded_models() -> None:
    """Each asked about by name, without leave to load it."""
    cards = [card for each in ("a", "b") for card in listing("llamacpp", each, status={"value": "loaded"})["data"]]
    cards += listing("llamacpp", "c", status={"value": "unloaded"})["data"]
    metrics = b"llamacpp:requests_processing 1\nllamacpp:requests_deferred 2\n"
    pages: Pages = {"/v1/models": {"data": cards}}
    for each in ("a", "b"):
        pages |= {f"/props?model={each}&autoload=false": {"total_slots": 4}}
        pages |= {f"/metrics?model={each}&autoload=false": metrics}
    reading, asked = read("llama.cpp", pages)
    assert reading.load == EngineLoad(running=2, queued=4, slots=8, resident=("a", "b"))
    assert all("autoload=false" in path for path in asked[1:])
    assert not any("model=c" in path for path in asked)


def test_a_router_with_a_model_asleep_is_one_that_lets_them_sleep() -> None:
    """Then none of its models is asked what would count as use."""
    cards = listing("llamacpp", "a", status={"value": "sleeping"})["data"]
    cards += listing("llamacpp", "b", status={"value": "loaded"})["data"]
    pages: Pages = {"/v1/models": {"data": cards}, "/props?model=b&autoload=false": {"total_slots": 4}}
    reading, asked = read("llama.cpp", pages)
    assert reading.load == EngineLoad(slots=4, resident=("b",))
    assert not any(path.startswith("/slots") for path in asked)


def test_residents_of_engines_without_a_queue() -> None:
    """Which models are in memory is all that they tell."""
    ps = {"models": [{"name": "m", "size_vram": 5}, {"name": "n", "size_vram": 6}]}
    assert read("ollama", {"/api/ps": ps})[0].load == EngineLoad(resident=("m", "n"), vram_bytes=11)
    assert read("ollama", {"/api/ps": {"models": []}})[0].load == EngineLoad(resident=(), vram_bytes=0)
    running = {"running": [{"model": "a", "state": "ready"}, {"model": "b", "state": "stopping"}]}
    assert read("llama-swap", {"/running": running})[0].load == EngineLoad(resident=("a",))
    assert read("localai", {"/system": {"loaded_models": [{"id": "x"}]}})[0].load == EngineLoad(resident=("x",))
    studio = {"models": [{"key": "k", "loaded_instances": [{"id": "k", "config": {"parallel": 4}}]}, {"key": "l"}]}
    assert read("lm-studio", {"/api/v1/models": studio})[0].load == EngineLoad(slots=4, resident=("k",))


def test_koboldcpp_tells_how_long_it_had_nothing_to_do() -> None:
    """Busy, queue and idle time."""
    idle = {"queue": 0, "idle": 1, "idletime": 90}
    assert read("koboldcpp", {"/api/extra/perf": idle})[0].load == EngineLoad(running=0, queued=0, idle_s=90.0)
    busy = {"queue": 2, "idle": 0}
    assert read("koboldcpp", {"/api/extra/perf": busy})[0].load == EngineLoad(running=1, queued=2)


MEMBERS = """
data models id name key loads num_running_reqs num_waiting_reqs num_reqs token_usage total_slots
status value is_sleeping idle queue idletime size_vram loaded_instances config parallel running
loaded_models
"""
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(MEMBERS.split()),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@given(st.sampled_from(KINDS), anything | st.binary(max_size=80))
def test_no_answer_breaks_a_reading(kind: EngineKind, value: Any) -> None:
    """Numbers that come out are numbers of something."""
    body = value
    if isinstance(value, bytes):
        body = b"vllm:num_requests_running " + value + b"\nllamacpp:requests_processing " + value
    everywhere = ("/metrics", "/v1/loads", "/get_load", "/api/ps", "/system", "/running", "/api/extra/perf", "/slots")
    reading, _ = read(kind, dict.fromkeys((*everywhere, "/api/v1/models", "/v1/models", "/props"), body))
    for number in (reading.load.running, reading.load.queued, reading.load.slots, reading.load.vram_bytes):
        assert number is None or number >= 0
    assert reading.load.cache_used is None or 0 <= reading.load.cache_used <= 1
