"""The expected cost of a project's requests."""

from math import inf

import pytest

from potluck.model.price import Price, PriceTier, cost_nanousd
from potluck.model.usage import TokenUsage
from potluck.policy.mix import DEFAULT_REQUEST, HALF_LIFE_S, MIN_REQUESTS, TokenMix

CACHING = Price(1_000_000_000, 4_000_000_000, "v", "operator", cached_input=100_000_000)
PLAIN = Price(800_000_000, 4_000_000_000, "v", "operator")


def mix_of(usage: TokenUsage, requests: int = 100) -> TokenMix:
    """The mix of a project that has sent the same request over and over."""
    mix = TokenMix(0.0)
    for _ in range(requests):
        mix.observe(usage)
    return mix


@pytest.mark.parametrize(
    "price",
    [
        PLAIN,
        CACHING,
        Price(10**9, 10**9, "v", "catalog", per_request=7_000),
        Price(0, 0, "v", "own"),
        Price(10**8, 10**9, "v", "catalog", tiers=(PriceTier(5_000, 10**9, 10**10, cached_input=10**7),)),
        Price(10**8, 10**9, "v", "catalog", tiers=(PriceTier(50_000, 10**9, 10**10),)),
    ],
)
def test_the_expected_cost_is_that_of_the_mean_request(price: Price) -> None:
    """Rates, cache reads, the charge per request and tiers by the mean prompt: all as a bill would have them."""
    mix = mix_of(TokenUsage(4_000, 100, 3_000), 50)
    for _ in range(50):
        mix.observe(TokenUsage(8_000, 300, 5_000))
    assert mix.expected_cost_nanousd(price) == cost_nanousd(TokenUsage(6_000, 200, 4_000), price)


def test_no_price_is_no_cost_to_expect() -> None:
    """What has no price sorts behind everything that has one."""
    assert TokenMix(0.0).expected_cost_nanousd(None) == inf


def test_the_ratio_of_a_project_decides_what_is_cheapest() -> None:
    """A discount for cache reads wins for a project whose prompts are cached, and a lower list price for another."""
    cached, fresh = mix_of(TokenUsage(4_000, 100, 3_500)), mix_of(TokenUsage(4_000, 100))
    assert cached.expected_cost_nanousd(CACHING) < cached.expected_cost_nanousd(PLAIN)
    assert fresh.expected_cost_nanousd(CACHING) > fresh.expected_cost_nanousd(PLAIN)


def test_a_new_project_counts_as_the_default() -> None:
    """Too few requests, or too few tokens in them, are no basis."""
    assert TokenMix(0.0).mean_request() == DEFAULT_REQUEST
    assert mix_of(TokenUsage(50_000, 10), MIN_REQUESTS - 1).mean_request() == DEFAULT_REQUEST
    assert mix_of(TokenUsage(10, 10), 500).mean_request() == DEFAULT_REQUEST
    assert mix_of(TokenUsage(990, 10), MIN_REQUESTS).mean_request() == TokenUsage(990, 10)


def test_old_requests_count_half_after_a_day() -> None:
    """The mean leans to what was sent of late; how often it is brought up to date changes nothing."""
    often, once = mix_of(TokenUsage(1_000, 1_000, 400)), mix_of(TokenUsage(1_000, 1_000, 400))
    once.tick(HALF_LIFE_S)
    for hour in range(1, 25):
        often.tick(hour * 3600.0)
    for mix in (often, once):
        assert mix.requests == pytest.approx(50)
        for _ in range(50):
            mix.observe(TokenUsage(3_000, 0))
        assert mix.mean_request() == TokenUsage(2_000, 500, 200)


def test_a_silent_project_is_forgotten() -> None:
    """After a week without a request too little is left to go by."""
    mix = mix_of(TokenUsage(4_000, 100))
    mix.tick(7 * HALF_LIFE_S)
    assert mix.mean_request() == DEFAULT_REQUEST


def test_time_does_not_run_backwards() -> None:
    """A tick before the last one leaves the sums as they are."""
    mix = mix_of(TokenUsage(4_000, 100))
    mix.ticked_s = 100.0
    mix.tick(50.0)
    assert mix.requests == 100
