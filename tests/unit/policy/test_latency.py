"""What is learned of a place's speed."""

import random
from statistics import quantiles

import pytest

from potluck.policy.latency import (
    ALPHA,
    MIN_P95_SAMPLES,
    PEAK_DECAY_S,
    SIZE_CLASS_BYTES,
    SIZE_CLASSES,
    STALE_S,
    Average,
    Latency,
    size_class,
)


def test_size_classes_have_sharp_edges() -> None:
    """A body of exactly a bound's size belongs to the class above it."""
    assert [size_class(0), size_class(10**9)] == [0, SIZE_CLASSES - 1]
    for index, bound in enumerate(SIZE_CLASS_BYTES):
        assert (size_class(bound - 1), size_class(bound)) == (index, index + 1)


def test_nothing_measured_is_unknown() -> None:
    """A new place has no times at all, rather than slow or fast ones."""
    latency = Latency()
    for stream in (True, False):
        assert latency.expected_ms(stream, 0, 100) is None
        assert latency.peak_ms(stream, 0, 1.0) is None
        assert latency.p95_ms(stream) is None


def test_an_average_settles_on_a_steady_value() -> None:
    """The first sample is the average; a bad first one is gone within thirty good ones."""
    average = Average()
    average.add(30_000.0, 0.0)
    assert average.ms == 30_000.0
    for n in range(30):
        average.add(100.0, n * 0.1)
    assert 100 <= average.ms < 200


def test_an_average_follows_a_step() -> None:
    """Once settled, ten samples close two thirds of a step, and one sample a tenth of it."""
    average = Average()
    for n in range(100):
        average.add(100.0, n * 0.1)
    assert average.add(200.0, 10.0) == ALPHA
    assert average.ms == pytest.approx(110)
    for n in range(9):
        average.add(200.0, 10 + n * 0.1)
    assert 160 < average.ms < 170


def test_an_old_average_gives_way_to_the_next_sample() -> None:
    """After half of `STALE_S` a sample weighs a half; after all of it nothing before counts."""
    average = Average()
    for n in range(100):
        average.add(100.0, n * 0.1)
    last_s = average.seen_s
    assert average.add(200.0, last_s + STALE_S / 2) == pytest.approx(0.5)
    assert average.ms == pytest.approx(150)
    average.add(900.0, average.seen_s + STALE_S * 2)
    assert average.ms == pytest.approx(900)


def test_a_peak_jumps_up_and_fades() -> None:
    """A slow sample is the peak at once; its distance from the average fades with time, read or measured."""
    latency = Latency()
    for n in range(50):
        latency.observe_plain(1, 100.0, n * 0.1)
    latency.observe_plain(1, 2_000.0, 5.0)
    assert latency.peak_ms(False, 1, 5.0) == 2_000.0
    mean = latency.whole[1].ms
    assert latency.peak_ms(False, 1, 5.0 + PEAK_DECAY_S) == pytest.approx(mean + (2_000 - mean) * 0.3679, rel=1e-3)
    latency.observe_plain(1, 100.0, 5.0 + PEAK_DECAY_S)
    later = latency.peak_ms(False, 1, 5.0 + PEAK_DECAY_S)
    mean = latency.whole[1].ms
    assert later == pytest.approx(mean + (2_000 - mean) * 0.3679, rel=1e-3), "a sample below it does not hide it"
    assert latency.peak_ms(False, 1, 500.0) == pytest.approx(mean)
    assert latency.peak_ms(False, 1, 0.0) == later, "a caller without a clock gets it as measured"


def test_a_faded_peak_is_no_lower_than_the_newest_sample() -> None:
    """A sample above what is left of the peak is the new peak."""
    average = Average()
    for n in range(50):
        average.add(100.0, n * 0.1)
    average.add(1_000.0, 5.0)
    average.add(600.0, 5.0 + 5 * PEAK_DECAY_S)
    assert average.peak_ms == 600.0


def test_peaks_are_of_like_requests() -> None:
    """Long prompts, or plain answers, do not make a place look slow to short streams."""
    latency = Latency()
    latency.observe_stream(0, 100.0, 10.0, 1.0)
    latency.observe_stream(3, 9_000.0, 10.0, 1.0)
    latency.observe_plain(0, 20_000.0, 1.0)
    assert latency.peak_ms(True, 0, 1.0) == 100.0


def test_expected_time_of_a_stream() -> None:
    """First token of the size class plus the expected tokens at the measured speed."""
    latency = Latency()
    latency.observe_stream(0, 100.0, 10.0, 1.0)
    latency.observe_stream(2, 900.0, 10.0, 1.0)
    assert latency.expected_ms(True, 0, 50) == pytest.approx(600)
    assert latency.expected_ms(True, 2, 50) == pytest.approx(1_400)


def test_a_stream_too_short_to_tell_leaves_the_speed_alone() -> None:
    """`ms_per_token` 0 says nothing, neither that tokens are free."""
    latency = Latency()
    latency.observe_stream(0, 100.0, 0, 1.0)
    assert latency.ms_per_token == 0
    latency.observe_stream(0, 100.0, 20.0, 2.0)
    latency.observe_stream(0, 100.0, 0, 3.0)
    assert latency.ms_per_token == 20.0


def test_the_first_stream_of_a_size_does_not_outweigh_all_others() -> None:
    """Speed per token is shared by all sizes: the first sample of a new size class moves it by half at most."""
    latency = Latency()
    for n in range(50):
        latency.observe_stream(0, 100.0, 10.0, n * 0.1)
    latency.observe_stream(3, 100.0, 30.0, 5.0)
    assert latency.ms_per_token == pytest.approx(20)


def test_an_unknown_size_is_taken_for_its_neighbour() -> None:
    """The nearest size class with samples answers for one without, the smaller of two equally near."""
    latency = Latency()
    latency.observe_plain(0, 100.0, 1.0)
    latency.observe_plain(2, 900.0, 1.0)
    assert latency.expected_ms(False, 1, 0) == 100.0
    assert latency.expected_ms(False, 3, 0) == 900.0


def test_streams_and_plain_answers_stand_in_for_each_other() -> None:
    """Where only the other kind was measured, that is what is known."""
    streams, plain = Latency(), Latency()
    streams.observe_stream(1, 200.0, 10.0, 1.0)
    plain.observe_plain(1, 1_500.0, 1.0)
    assert streams.expected_ms(False, 1, 100) == pytest.approx(1_200)
    assert plain.expected_ms(True, 1, 100) == pytest.approx(1_500)


def test_p95_needs_samples() -> None:
    """Below `MIN_P95_SAMPLES` first tokens there is no p95; with them there is, and it is near the samples."""
    latency = Latency()
    for n in range(MIN_P95_SAMPLES):
        assert latency.p95_ms(stream=True) is None
        latency.observe_stream(0, 100.0, 10.0, float(n))
    assert latency.p95_ms(stream=True) == pytest.approx(100, rel=0.19)


def test_streams_and_plain_answers_have_a_p95_each() -> None:
    """How soon first tokens come says nothing of when whole answers do, and the other way round."""
    latency = Latency()
    for n in range(MIN_P95_SAMPLES):
        latency.observe_stream(0, 100.0, 10.0, float(n))
    assert latency.p95_ms(stream=False) is None
    for n in range(MIN_P95_SAMPLES):
        latency.observe_plain(0, 5_000.0, float(n))
    assert latency.p95_ms(stream=True) == pytest.approx(100, rel=0.19)
    assert latency.p95_ms(stream=False) == pytest.approx(5_000, rel=0.19)


@pytest.mark.parametrize("seed", range(5))
def test_p95_is_near_the_exact_one(seed: int) -> None:
    """Over log-normal first-token times the histogram's p95 is within 19 % of the exact quantile."""
    draw = random.Random(seed)
    samples = [draw.lognormvariate(5.5, 0.6) for _ in range(400)]
    latency = Latency()
    for n, sample in enumerate(samples):
        latency.observe_stream(0, sample, 10.0, n * 0.1)
    assert latency.p95_ms(stream=True) == pytest.approx(quantiles(samples, n=20)[-1], rel=0.19)


def test_p95_forgets() -> None:
    """After a place became four times as fast, its p95 follows within a thousand requests."""
    draw = random.Random(1)
    latency = Latency()
    for n in range(1_000):
        latency.observe_stream(0, draw.lognormvariate(7, 0.3), 10.0, n * 0.1)
    slow = latency.p95_ms(stream=True)
    for n in range(1_000):
        latency.observe_stream(0, draw.lognormvariate(7, 0.3) / 4, 10.0, 100 + n * 0.1)
    fast = latency.p95_ms(stream=True)
    assert slow is not None
    assert fast is not None
    assert fast < slow / 3


@pytest.mark.parametrize("first_ms", [0.0, 0.01, 1e7])
def test_p95_takes_any_time(first_ms: float) -> None:
    """Times outside the histogram's range count in its outermost buckets."""
    latency = Latency()
    for n in range(50):
        latency.observe_stream(0, first_ms, 0, float(n))
    assert latency.p95_ms(stream=True) is not None
