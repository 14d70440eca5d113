"""How often and when a second target is asked."""

import random

import pytest

from potluck.model.resources import Hedge
from potluck.policy.hedging import MAX_SAVED_HEDGES, HedgeBudget, delay_ms
from potluck.policy.latency import MIN_P95_SAMPLES, Latency


@pytest.mark.parametrize("max_extra", [0.0, 0.01, 0.05, 0.5, 1.0])
def test_extra_calls_stay_within_their_share(max_extra: float) -> None:
    """Even if every request wants a hedge, at no moment have more been sent than the share of requests so far."""
    budget = HedgeBudget(max_extra)
    sent = 0
    for request in range(1, 5_001):
        budget.earned()
        sent += budget.spend()
        assert sent <= max_extra * request + 1e-6
    assert sent >= max_extra * 5_000 - 1


def test_saved_hedges_are_capped() -> None:
    """A quiet night does not pay for a storm of extra calls in the morning."""
    budget = HedgeBudget(0.05)
    for _ in range(100_000):
        budget.earned()
    assert sum(budget.spend() for _ in range(1_000)) == MAX_SAVED_HEDGES


def test_a_refused_hedge_takes_nothing() -> None:
    """Asking too early does not put off the next one."""
    budget = HedgeBudget(0.5)
    budget.earned()
    assert not budget.spend()
    budget.earned()
    assert budget.spend()


def test_a_fixed_delay_needs_no_samples() -> None:
    """`after_ms` is what it says, whatever was measured."""
    assert delay_ms(Hedge(after_ms=300), Latency(), stream=True) == 300.0
    assert delay_ms(Hedge(after_ms=300), Latency(), stream=False) == 300.0


def test_p95_waits_for_samples() -> None:
    """`after = "p95"` asks nobody else until the target's own p95 is known, then after it."""
    latency = Latency()
    assert delay_ms(Hedge(), latency, stream=True) is None
    draw = random.Random(1)
    for n in range(MIN_P95_SAMPLES):
        latency.observe_stream(0, draw.uniform(100, 200), 10.0, float(n))
    assert delay_ms(Hedge(), latency, stream=True) == latency.p95_ms(stream=True)
    assert delay_ms(Hedge(), latency, stream=True) == pytest.approx(195, rel=0.19)


def test_a_plain_request_waits_for_a_whole_answer() -> None:
    """It is late when it is later than other whole answers, not when a stream would have begun."""
    latency = Latency()
    for n in range(MIN_P95_SAMPLES):
        latency.observe_stream(0, 100.0, 10.0, float(n))
    assert delay_ms(Hedge(), latency, stream=False) is None
    for n in range(MIN_P95_SAMPLES):
        latency.observe_plain(0, 3_000.0, float(n))
    assert delay_ms(Hedge(), latency, stream=False) == pytest.approx(3_000, rel=0.19)
