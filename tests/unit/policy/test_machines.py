"""The estimate of one machine: what each term is, what is learned, and what is borrowed.

Long since each rule of the estimate has a case of its own, on machines that differ in one thing.
"""

import pytest
from fleet_rig import ASK, BLOCKS, NOW, machine, serve
from hypothesis import given
from hypothesis import strategies as st

from potluck.policy.calibration import FEW_SAMPLES, MIN_SAMPLES, WINDOW_S
from potluck.policy.machine_cost import Ask
from potluck.policy.machine_groups import DECODE_TPS, LOAD_S, PREFILL_TPS, RATIO_MAX, RATIO_MIN, Host, Peers
from potluck.policy.machines import (
    BATCH_COST,
    REFUSED_FIRST_S,
    REFUSED_MAX_S,
    STALE_LOAD_S,
    Machine,
)

speeds = st.floats(1.0, 10_000.0)
asks = st.builds(Ask, st.integers(0, 100_000), st.floats(0.0, 5_000.0))


def test_the_terms_of_an_idle_loaded_machine() -> None:
    """Round trip, prompt over prefill speed, output over the speed of a single stream; in words too."""
    found = machine(rtt_ms=30.0).expect(ASK, NOW)
    assert found.parts == {"rtt": 30.0, "prompt": 1_000.0, "output": 4_000.0}
    assert (found.ttft_ms, found.total_ms) == (1_030.0, 5_030.0)
    assert found.text == "5030 ms: 30 rtt + 1000 prompt + 4000 output"
    assert [found.loads, found.aside, found.guessed] == [False] * 3


@given(asks, speeds, speeds, st.floats(0, 500), st.integers(0, 3), st.integers(0, 3))
def test_parts_add_up_and_no_term_is_negative(
    ask: Ask, prefill: float, decode: float, rtt: float, ours: int, others: int
) -> None:
    """Whatever a machine says of itself and has to do."""
    made = machine(prefill_tps=prefill, decode_tps=decode, rtt_ms=rtt, slots=2, running=others)
    for _ in range(ours):
        made.begin(ASK, NOW)
    found = made.expect(ask, NOW)
    assert sum(found.parts.values()) == pytest.approx(found.total_ms)
    assert all(ms >= 0 for ms in found.parts.values())


@given(asks, st.integers(1, 5_000), st.floats(1.0, 500.0), st.integers(0, 6))
def test_the_cost_rises_with_each_term(ask: Ask, more_tokens: int, more_ms: float, ours: int) -> None:
    """A longer prompt, a longer answer, a longer way, a slower machine, one more call: never cheaper."""

    def total(asked: Ask = ask, calls: int = ours, **report: float) -> float:
        made = machine(**{"slots": 3, **report})
        for _ in range(calls):
            made.begin(ASK, NOW)
        return made.expect(asked, NOW).total_ms

    plain = total()
    assert total(Ask(ask.prompt_tokens + more_tokens, ask.output_tokens)) > plain
    assert total(Ask(ask.prompt_tokens, ask.output_tokens + more_tokens)) > plain
    assert total(rtt_ms=more_ms) > plain
    assert total(prefill_tps=900.0) >= plain
    assert total(decode_tps=40.0) >= plain
    assert total(calls=ours + 1) >= plain
    assert total(running=1) >= plain
    assert total(resident=False, load_s=more_ms) >= plain


def test_a_cached_beginning_is_not_read_again() -> None:
    """Four blocks of 256 tokens went there before: of 1,280 tokens 256 are left."""
    made = machine()
    made.begin(Ask(1_024, 10, BLOCKS), NOW).end(10, NOW + 1)
    found = made.expect(Ask(1_280, 10, (*BLOCKS, 99)), NOW + 1)
    assert (found.hit, found.prompt_ms) == (0.8, 256.0)
    assert "256 prompt (80 % cached)" in found.text
    made.unload()
    assert made.expect(Ask(1_280, 10, BLOCKS), NOW + 1).hit == 0


def test_a_refused_call_leaves_no_beginning_behind() -> None:
    """What never got there is not cached there, and is not ahead of anybody."""
    made = machine()
    made.begin(Ask(1_024, 10, BLOCKS), NOW).dropped(NOW, refused=True)
    assert made.expect(Ask(1_024, 10, BLOCKS), NOW).hit == 0
    assert (made.in_flight, made.busy, made.expect(ASK, NOW).queue_ms) == (0, 0, 0)


@pytest.mark.parametrize("report", [{"resident": False}, {"resident": True, "slots": 8}, {"context_tokens": 4_096}])
def test_a_cache_that_was_laid_out_anew_is_empty(report: dict[str, object]) -> None:
    """After an unload, a change of slots or of context nothing counts as cached."""
    made = machine()
    made.begin(Ask(1_024, 10, BLOCKS), NOW).end(10, NOW + 1)
    made.report(reported_at=NOW + 2, **report)  # type: ignore[arg-type]
    assert made.expect(Ask(1_024, 10, BLOCKS), NOW + 2).hit == 0


# --- in flight


def test_a_call_counts_before_anything_is_sent() -> None:
    """The second call of a burst sees the first one's prompt ahead of it and its stream beside it."""
    made = machine()
    before = made.expect(ASK, NOW)
    made.begin(ASK, NOW)
    after = made.expect(ASK, NOW)
    assert (before.queue_ms, after.queue_ms) == (0, 1_000)
    assert after.output_ms == pytest.approx(before.output_ms * (1 + BATCH_COST))


def test_a_full_machine_makes_wait_for_the_slot_that_is_free_first() -> None:
    """Of two streams one ends after a second: the third call begins then, loaded or not."""
    made = machine(slots=2)
    short, long = made.begin(Ask(0, 50), NOW), made.begin(Ask(0, 5_000), NOW)
    for work in (short, long):
        work.first_token(NOW)
    assert made.expect(Ask(0, 50), NOW).queue_ms == pytest.approx(50 / 50 * 1.3 * 1000, rel=0.31)
    short.end(50, NOW + 1)
    assert made.expect(Ask(0, 50), NOW + 1).queue_ms == 0


def test_a_loaded_machine_without_a_slot_is_not_free() -> None:
    """Lesson 7: residency is no capacity; strangers' calls fill slots as ours do."""
    full = machine(slots=2, running=2, waiting=3).expect(ASK, NOW)
    assert full.load_ms == 0
    assert full.queue_ms > 10_000


def test_reported_calls_are_not_counted_twice() -> None:
    """What a report counts as running is ours as far as we had sent it by then; the rest is others'."""
    made = machine()
    work = made.begin(ASK, NOW)
    made.report(reported_at=NOW + 1, running=3)
    assert made.busy == 3
    work.end(200, NOW + 2)
    assert made.busy == 2
    made.report(reported_at=NOW + 3, running=0)
    assert made.busy == 0


def test_models_of_one_engine_share_its_slots() -> None:
    """A call of one model is ahead of the other's calls; loads follow each other."""
    host = Host()
    one, other = machine(host=host, slots=1), machine(host=host, slots=1)
    work = one.begin(ASK, NOW)
    assert other.expect(ASK, NOW).queue_ms == pytest.approx(5_000)
    work.dropped(NOW)
    cold, colder = machine(host=host, resident=False, load_s=10.0), machine(host=host, resident=False, load_s=5.0)
    cold.begin(ASK, NOW)
    assert colder.expect(ASK, NOW).load_ms == 15_000


def test_too_many_streams_are_those_that_leave_each_too_little() -> None:
    """Lesson 5: sixteen slots of a machine that writes 12 tokens a second are two, as far as we send there."""
    slow, fast = machine(slots=16, decode_tps=12.0), machine(slots=16, decode_tps=100.0)
    assert (slow.room(NOW), fast.room(NOW)) == (2, 16)
    assert slow.expect(ASK, NOW).queue_ms == 0
    for _ in range(2):
        slow.begin(ASK, NOW).first_token(NOW)
    assert slow.expect(ASK, NOW).queue_ms > 10_000


def test_every_end_leaves_the_machine_free() -> None:
    """After any mixture of ends nothing is in flight, nothing is ahead; a second end changes nothing."""
    made = machine()
    works = [made.begin(ASK, NOW) for _ in range(6)]
    works[0].first_token(NOW + 1)
    works[1].first_token(NOW + 1)
    for work in works[::2]:
        work.end(10, NOW + 2)
    for work in works:
        work.dropped(NOW + 3, refused=True)
        work.end(10, NOW + 3)
    assert (made.in_flight, made.busy, made.host.ahead_ms) == (0, 0, 0)


# --- loads


def test_a_model_that_is_not_loaded_has_to_be_and_only_once() -> None:
    """The first call starts the load; the second waits for what is left of it; the first token ends it."""
    made = machine(resident=False, load_s=12.0)
    first = made.expect(ASK, NOW)
    assert (first.load_ms, first.loads) == (12_000, True)
    work = made.begin(ASK, NOW)
    second = made.expect(ASK, NOW + 5)
    assert (second.load_ms, second.loads) == (7_000, False)
    work.first_token(NOW + 13)
    assert made.resident
    assert made.expect(ASK, NOW + 13).load_ms == 0


def test_a_load_that_failed_has_to_begin_again() -> None:
    """The call that was to load the model is gone, and nothing is loaded."""
    made = machine(resident=False, load_s=12.0)
    made.begin(ASK, NOW).dropped(NOW + 1)
    assert made.expect(ASK, NOW + 1).loads


def test_a_report_from_before_the_load_does_not_end_it() -> None:
    """A heartbeat that crosses the first call still says that nothing is loaded."""
    made = machine(resident=False, load_s=12.0)
    made.begin(ASK, NOW)
    made.report(reported_at=NOW + 1, resident=False)
    assert not made.expect(ASK, NOW + 1).loads
    made.report(reported_at=NOW + 2, resident=False, loading_eta_s=30.0)
    assert made.expect(ASK, NOW + 2).load_ms == 30_000


def test_a_load_time_that_nobody_told_is_measured() -> None:
    """The first answer after a load says how long it takes, for its class too."""
    peers = Peers()
    made, twin = machine(peers, resident=False), machine(peers, resident=False)
    assert made.expect(ASK, NOW).load_ms == LOAD_S * 1000
    made.begin(ASK, NOW).first_token(NOW + 6)
    assert twin.expect(ASK, NOW + 6).load_ms == 5_000


# --- what is learned


def test_a_wrong_word_is_corrected_by_what_is_measured() -> None:
    """Lessons 1 and 2: a prefill word four times too slow is believed for 30 samples, and then it is not."""
    made = machine(prefill_tps=250.0)
    for n in range(MIN_SAMPLES):
        assert made.expect(ASK, NOW).prompt_ms == 4_000
        serve(made, ASK, NOW + 10 * n, 1.0, 100, 20.0)
    now = NOW + 10 * MIN_SAMPLES
    assert made.expect(ASK, now).prompt_ms == pytest.approx(1_000)
    assert made.ratio(now) == pytest.approx(0.25)


def test_one_bad_sample_in_two_changes_nothing() -> None:
    """A median stands while less than half of its samples are wrong."""
    made = machine()
    for n in range(2 * MIN_SAMPLES):
        serve(made, ASK, NOW + 60 * n % 1_800, 30.0 if n % 5 < 2 else 1.0, 100, 20.0)
    assert made.expect(ASK, NOW + 1_800).prompt_ms == pytest.approx(1_000)


def test_what_was_measured_long_ago_is_forgotten() -> None:
    """A machine that was slow in one bad hour is given its word back in the next."""
    made = machine()
    for n in range(MIN_SAMPLES):
        serve(made, ASK, NOW + n, 10.0, 100, 20.0)
    assert made.expect(ASK, NOW + 100).prompt_ms == pytest.approx(10_000)
    assert made.expect(ASK, NOW + 2 * WINDOW_S).prompt_ms == 1_000


@pytest.mark.parametrize(("times", "borrowed"), [(0.5, 0.5), (2.0, 2.0), (9.0, RATIO_MAX), (0.05, RATIO_MIN)])
def test_a_newcomers_word_counts_as_its_classs_words_were_worth(times: float, borrowed: float) -> None:
    """The class's median of actual by told is borrowed until 30 samples are there, within bounds."""
    peers = Peers()
    known, newcomer = machine(peers), machine(peers, prefill_tps=2_000.0)
    for n in range(MIN_SAMPLES):
        serve(known, ASK, NOW + 60 * n, 1.0 * times, 100, 20.0)
    assert newcomer.expect(ASK, NOW + 60 * MIN_SAMPLES).prompt_ms == pytest.approx(500 * borrowed)


def test_unknown_is_the_median_of_the_class_and_says_so() -> None:
    """Neither prefill nor decode are guessed from the other; with no class at all, constants stand."""
    peers = Peers()
    words = ((500.0, 100.0), (1_000.0, 40.0), (4_000.0, 10.0))
    kept = [machine(peers, prefill_tps=prefill, decode_tps=decode) for prefill, decode in words]
    assert not any(each.expect(ASK, NOW).guessed for each in kept)
    found = machine(peers, prefill_tps=None, decode_tps=None).expect(ASK, NOW + 2)
    assert (found.prompt_ms, found.output_ms, found.guessed) == (1_000, 5_000, True)
    assert found.text.endswith("guessed from its class")
    alone = machine(prefill_tps=None, decode_tps=None).expect(ASK, NOW)
    assert (alone.prompt_ms, alone.output_ms) == (1_000_000 / PREFILL_TPS, 200_000 / DECODE_TPS)


def test_a_machine_that_says_nothing_is_known_by_a_few_answers() -> None:
    """Three measured answers beat the class's median."""
    made = machine(prefill_tps=None, decode_tps=None)
    for n in range(FEW_SAMPLES):
        serve(made, ASK, NOW + 60 * n, 0.5, 100, 10.0)
    found = made.expect(ASK, NOW + 600)
    assert (found.prompt_ms, found.output_ms, found.guessed) == (pytest.approx(500), pytest.approx(2_000), False)


def test_plain_answers_teach_what_most_of_their_time_went_to() -> None:
    """A long prompt with a short answer tells of reading, the other way round of writing."""
    made = machine(prefill_tps=None, decode_tps=None)
    for n in range(FEW_SAMPLES):
        made.begin(Ask(10_000, 1), NOW + 100 * n).end(1, NOW + 100 * n + 2)
        made.begin(Ask(4, 1_000), NOW + 100 * n + 50).end(1_000, NOW + 100 * n + 60)
    found = made.expect(Ask(10_000, 1_000), NOW + 1_000)
    assert found.prompt_ms == pytest.approx(2_000, rel=0.05)
    assert found.output_ms == pytest.approx(10_000, rel=0.05)


def test_short_prompts_and_calls_that_waited_do_not_tell_the_prefill_speed() -> None:
    """A machine's overhead, a load or a queue is no speed."""
    made = machine(slots=1)
    for n in range(2 * MIN_SAMPLES):
        begun = NOW + 100 * n
        serve(made, Ask(20, 10), begun, 0.5, 100, 20.0)
        first = made.begin(ASK, begun + 30)
        second = made.begin(ASK, begun + 30)
        second.first_token(begun + 60)
        second.end(200, begun + 61)
        first.dropped(begun + 61)
    assert made.expect(ASK, NOW + 100 * 2 * MIN_SAMPLES).prompt_ms == 1_000


def test_what_streams_cost_each_other_is_learned() -> None:
    """Two streams that do not slow each other down bring k to nothing; ones that halve each other raise it."""
    for ms_per_token, cost in ((20.0, 0.0), (40.0, 1.0)):
        made = machine()
        for n in range(60):
            begun = NOW + 100 * n
            beside = made.begin(Ask(0, 4_000), begun)
            beside.first_token(begun)
            other = made.begin(Ask(0, 200), begun)
            other.first_token(begun)
            other.end(200, begun + 199 * ms_per_token / 1000)
            beside.dropped(begun + 90)
        made.begin(Ask(0, 4_000), NOW + 6_000)
        expected = 4_000 * (1 + cost)
        assert made.expect(Ask(0, 200), NOW + 6_000).output_ms == pytest.approx(expected, rel=0.02)


def test_a_slow_caller_says_nothing_about_a_machine() -> None:
    """An end with 0 tokens counts as an end and teaches no speed."""
    made = machine()
    for n in range(MIN_SAMPLES):
        work = made.begin(Ask(0, 100), NOW + n)
        work.first_token(NOW + n)
        work.end(0, NOW + n + 500)
    assert made.expect(ASK, NOW + 600).output_ms == 4_000


# --- aside


def test_old_news_count_as_full_and_no_news_do_not() -> None:
    """Two heartbeats after the last report a machine is set aside; one that never reported is not."""
    made = machine()
    assert not made.expect(ASK, NOW + STALE_LOAD_S).aside
    assert made.expect(ASK, NOW + STALE_LOAD_S + 0.1).aside
    assert not Machine().expect(ASK, NOW).aside


def test_refusals_in_a_row_set_a_machine_aside_for_longer() -> None:
    """1, 2, 4, … seconds up to a minute, or as long as it asks for; an answer ends the row."""
    made = Machine()
    now = NOW
    for pause in (REFUSED_FIRST_S, 2.0, 4.0):
        made.begin(ASK, now).dropped(now, refused=True)
        assert made.set_aside(now + pause - 0.1)
        assert not made.set_aside(now + pause)
        now += pause
    made.begin(ASK, now).dropped(now, refused=True, retry_after_s=1_000_000.0)
    assert not made.set_aside(now + REFUSED_MAX_S)
    now += 1_000
    made.begin(ASK, now).dropped(now, refused=True, retry_after_s=0.0)
    assert made.set_aside(now)
    assert made.set_aside(now + REFUSED_FIRST_S - 0.01)
    assert not made.set_aside(now + REFUSED_FIRST_S)
    serve(made, ASK, now, 1.0, 10, 20.0)
    made.begin(ASK, now).dropped(now, refused=True)
    assert not made.set_aside(now + REFUSED_FIRST_S)
    made.begin(ASK, now).dropped(now)
    assert not made.set_aside(now + REFUSED_FIRST_S)
