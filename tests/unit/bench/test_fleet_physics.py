"""The simulated machine and the arrivals: what is judged against them has to be able to rely on them."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.fleet.arrivals import BLOCK_TOKENS, Request, arrivals
from bench.fleet.physics import Box, Job, Note
from bench.fleet.scenario import Machines, Model, Scenario, Traffic, load, names
from bench.fleet.sight import Prompt

MODELS = {"m": Model(), "n": Model()}
FAST = Machines("fast", prefill_tps=1000.0, decode_tps=50.0, k=0.3, slots=2, load_s=10.0, models=("m", "n"))


def _job(number: int, *, tokens: int = 1000, output: int = 101, model: str = "m", blocks: tuple[int, ...] = ()) -> Job:
    return Job(number, Request(0.0, Prompt(number, model, tokens, blocks, 100), output))


def _times(box: Box, *jobs: Job, until_s: float = 1000.0) -> dict[tuple[int, str], float]:
    """When each note came, by the job's number and kind; the jobs are submitted now."""
    for job in jobs:
        box.submit(job)
    found: dict[tuple[int, str], float] = {}
    while (at_s := box.next_s()) <= until_s:
        for kind, job in box.advance(at_s):
            found[job.number, kind] = box.now_s
    return found


def test_a_lone_request_takes_its_prompt_and_then_its_tokens() -> None:
    """1,000 tokens at 1,000 a second, then 100 more at 50 a second."""
    assert _times(Box(FAST, MODELS), _job(1)) == {(1, "first"): 1.0, (1, "end"): 3.0}


def test_prompts_are_read_one_after_the_other_and_streams_share_the_speed() -> None:
    """The second first token comes a second after the first; two streams run at 50 / 1.3 each."""
    found = _times(Box(FAST, MODELS), _job(1), _job(2))
    assert (found[1, "first"], found[2, "first"]) == (1.0, 2.0)
    assert abs(found[1, "end"] - (2 + 50 * 1.3 / 50)) < 1e-9
    assert found[2, "end"] > found[1, "end"]


def test_a_third_call_waits_for_a_slot() -> None:
    """Two slots: the third prompt is read when the first answer is complete."""
    found = _times(Box(FAST, MODELS), _job(1), _job(2), _job(3))
    assert abs(found[3, "first"] - (found[1, "end"] + 1.0)) < 1e-9


def test_a_cached_beginning_is_not_read_again() -> None:
    """Of 1,024 tokens in four blocks, three are known: a quarter is read."""
    box = Box(FAST, MODELS)
    _times(box, _job(1, tokens=4 * BLOCK_TOKENS, blocks=(1, 2, 3, 4)))
    began_s = box.now_s
    found = _times(box, _job(2, tokens=4 * BLOCK_TOKENS, blocks=(1, 2, 3, 9)))
    assert abs(found[2, "first"] - began_s - 0.256) < 1e-9


def test_another_model_is_loaded_in_the_place_of_the_unused_one() -> None:
    """Memory for one: the load takes its time, counts, and the first model has to come back for its next call."""
    box = Box(FAST, MODELS)
    assert _times(box, _job(1, model="n"))[1, "first"] == 11.0
    assert (box.is_resident("n"), box.is_resident("m"), box.loads) == (True, False, 1)
    _times(box, _job(2))
    assert (box.is_resident("m"), box.loads) == (True, 2)


def test_a_running_call_keeps_its_model_in_memory() -> None:
    """A call for another model waits until the running one is over, and then for the load."""
    found = _times(Box(FAST, MODELS), _job(1), _job(2, model="n"))
    assert abs(found[2, "first"] - (found[1, "end"] + 11.0)) < 1e-9


def test_an_owner_stops_new_calls_and_frees_the_memory() -> None:
    """What runs goes on; when it is over the model leaves."""
    box = Box(FAST, MODELS)
    box.submit(_job(1))
    box.owner_comes()
    assert box.refusal() == "owner_active"
    assert box.is_resident("m")
    box.advance(3.0)
    assert not box.is_resident("m")


def test_a_full_queue_refuses() -> None:
    """Slots and queue taken: busy, until one is over."""
    box = Box(Machines("tiny", prefill_tps=1000.0, decode_tps=50.0, slots=1, queue=1), MODELS)
    box.submit(_job(1))
    assert box.refusal() == ""
    box.submit(_job(2))
    assert box.refusal() == "busy"
    box.advance(3.0)
    assert box.refusal() == ""


def test_a_cancelled_call_gives_its_place_to_the_next() -> None:
    """Cancelled while its prompt is read, waiting, or decoding: nothing more is heard of it, others go on."""
    box = Box(FAST, MODELS)
    jobs = [_job(number) for number in range(1, 5)]
    for job in jobs:
        box.submit(job)
    box.advance(1.5)
    box.cancel(jobs[3])
    box.cancel(jobs[1])
    box.cancel(jobs[0])
    assert _times(box) == {(3, "first"): 2.5, (3, "end"): 4.5}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 30), st.integers(1, 3000), st.integers(1, 400), st.sampled_from("mn"), st.integers(0, 5)
        ),
        min_size=1,
        max_size=25,
    ),
    st.floats(0.05, 3),
)
def test_every_call_ends_once_whenever_one_looks(calls: list[tuple[float, int, int, str, int]], step_s: float) -> None:
    """Every call has one first token and one end, in that order, and looking more often changes no time."""
    ends: list[dict[tuple[int, str], float]] = []
    for looks in (False, True):
        box = Box(FAST, MODELS)
        notes: list[tuple[float, Note]] = []
        for number, (at_s, tokens, output, model, family) in enumerate(sorted(calls)):
            if looks:
                while box.now_s + step_s < at_s:
                    notes += [(0.0, note) for note in box.advance(box.now_s + step_s)]
            notes += [(0.0, note) for note in box.advance(at_s)]
            blocks = tuple(hash((family, n)) for n in range(tokens // BLOCK_TOKENS))
            box.submit(_job(number, tokens=tokens, output=output, model=model, blocks=blocks))
        late = _times(box, until_s=1e9)
        seen = [(note.job.number, note.kind) for _, note in notes] + list(late)
        assert len(seen) == len(set(seen)) == 2 * len(calls)
        assert all(seen.index((number, "first")) < seen.index((number, "end")) for number in range(len(calls)))
        assert (box.running, box.waiting) == (0, 0)
        ends.append(late)
    assert ends[0].keys() == ends[1].keys()
    assert all(abs(ends[0][key] - ends[1][key]) < 1e-6 for key in ends[0])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 400), st.sampled_from("mn")), max_size=12))
def test_what_is_foreseen_is_what_happens(calls: list[tuple[int, int, str]]) -> None:
    """With nothing new, first and last token come when they were foreseen; and looking changes nothing."""
    box = Box(FAST, MODELS)
    for number, (tokens, output, model) in enumerate(calls):
        box.submit(_job(number, tokens=tokens, output=output, model=model))
    box.advance(2.0)
    last = _job(99, tokens=700, output=50, model="n")
    before = (box.running, box.waiting, box.loads, box.next_s())
    foreseen = box.foresee(last, 2.0)
    assert (box.running, box.waiting, box.loads, box.next_s()) == before
    found = _times(box, last, until_s=1e9)
    assert abs(found[99, "first"] - foreseen[0]) < 1e-6
    assert abs(found[99, "end"] - foreseen[1]) < 1e-6


def _scenario(traffic: Traffic, seed: int = 1) -> Scenario:
    return Scenario("t", "f", traffic, (FAST,), {}, seed=seed, name="t")


def test_arrivals_are_the_same_for_a_seed_and_others_for_another() -> None:
    """Times, prompts and lengths come from the seed alone."""

    def drawn(seed: int) -> list[tuple[float, int, tuple[int, ...], int]]:
        found = arrivals(_scenario(Traffic(2.0, 100.0, families=3), seed))
        return [(each.at_s, each.prompt.tokens, each.prompt.blocks, each.output_tokens) for each in found]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_each_shape_has_its_rate_and_its_form() -> None:
    """All three bring about `per_s`; bursts come together, and by day there is more than by night."""
    for shape in ("poisson", "bursty", "diurnal"):
        traffic = Traffic(2.0, 4000.0, shape=shape, burst=20, day_s=4000.0)  # type: ignore[arg-type]
        times = [each.at_s for each in arrivals(_scenario(traffic))]
        assert times == sorted(times)
        assert 0.8 < len(times) / 8000 < 1.2
        close = sum(later - earlier < 0.1 for earlier, later in pairwise(times)) / len(times)
        assert (close > 0.7) == (shape == "bursty")
        day = sum(1000 < at_s < 3000 for at_s in times) / len(times)
        assert (day > 0.7) == (shape == "diurnal")


def test_families_share_their_beginning_and_nothing_else() -> None:
    """Prompts of a family have its blocks first; no block of one's own is another's."""
    found = arrivals(_scenario(Traffic(2.0, 300.0, families=2, family_tokens=1024, hottest_share=0.9)))
    beginnings = [each.prompt.blocks[:4] for each in found]
    assert len(set(beginnings)) == 2
    assert max(beginnings.count(one) for one in set(beginnings)) / len(found) > 0.9
    rest = [block for each in found for block in each.prompt.blocks[4:]]
    assert len(rest) == len(set(rest))


def test_every_scenario_reads_and_says_where_it_comes_from() -> None:
    """No file has a misspelt member, a naive policy that is none, or a thing to miss that is not wanted."""
    from bench.fleet.naive import NAIVE
    from bench.fleet.scenario import Wanted

    assert names()
    for name in names():
        scenario = load(name)
        assert scenario.title
        assert scenario.field
        assert scenario.naive
        assert scenario.naive.keys() <= NAIVE.keys()
        for has_to_miss in scenario.naive.values():
            assert has_to_miss
            assert all(getattr(scenario.wanted, each) is not None for each in has_to_miss)
            assert set(has_to_miss) <= set(Wanted.__struct_fields__)
