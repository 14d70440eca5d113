"""Costs and prices: a golden table, written by hand from the rates."""

import pytest

from potluck.model.price import (
    Price,
    PriceTier,
    cost_nanousd,
    nanousd_to_usd_text,
    usd_per_million_to_nanousd,
)
from potluck.model.usage import TokenUsage

PLAIN = Price(input=150_000_000, output=600_000_000, version="v", source="catalog")
CACHED = Price(
    input=3_000_000_000,
    output=15_000_000_000,
    cached_input=300_000_000,
    cache_write=3_750_000_000,
    version="v",
    source="catalog",
)
PARTS = Price(
    input=2_000_000,
    output=8_000_000,
    cached_input=500_000,
    reasoning=10_000_000,
    audio_input=40_000_000,
    audio_output=80_000_000,
    version="v",
    source="operator",
)
TIERED = Price(
    input=1_250_000_000,
    output=10_000_000_000,
    cached_input=125_000_000,
    version="v",
    source="catalog",
    tiers=(
        PriceTier(above_input_tokens=200_000, input=2_500_000_000, output=15_000_000_000, cached_input=250_000_000),
        PriceTier(above_input_tokens=500_000, input=5_000_000_000, output=20_000_000_000),
    ),
)
PER_REQUEST = Price(input=0, output=1, per_request=5_000_000, version="v", source="operator")
FREE = Price(input=0, output=0, version="own", source="own")


@pytest.mark.parametrize(
    ("price", "usage", "cost"),
    [
        (PLAIN, TokenUsage(), 0),
        (PLAIN, TokenUsage(1_000_000, 0), 150_000_000),
        (PLAIN, TokenUsage(0, 1_000_000), 600_000_000),
        (PLAIN, TokenUsage(1000, 100), 150_000 + 60_000),
        (PLAIN, TokenUsage(1, 0), 150),
        (PLAIN, TokenUsage(1000, 100, cached_input_tokens=500, reasoning_tokens=50), 210_000),
        (CACHED, TokenUsage(1000, 10, cached_input_tokens=400), 600 * 3000 + 400 * 300 + 10 * 15_000),
        (CACHED, TokenUsage(1000, 0, cached_input_tokens=400, cache_write_tokens=600), 400 * 300 + 600 * 3750),
        (CACHED, TokenUsage(1000, 0, cache_write_tokens=1000), 3_750_000),
        (PARTS, TokenUsage(10, 0), 20),
        (PARTS, TokenUsage(10, 10, audio_input_tokens=4, audio_output_tokens=3), 6 * 2 + 4 * 40 + 7 * 8 + 3 * 80),
        (PARTS, TokenUsage(0, 10, reasoning_tokens=10), 100),
        (PARTS, TokenUsage(1, 0, cached_input_tokens=1), 1),
        (PARTS, TokenUsage(3, 0, cached_input_tokens=3), 2),
        (TIERED, TokenUsage(200_000, 1), 200_000 * 1250 + 10_000),
        (TIERED, TokenUsage(200_001, 1), 200_001 * 2500 + 15_000),
        (TIERED, TokenUsage(300_000, 0, cached_input_tokens=100_000), 200_000 * 2500 + 100_000 * 250),
        (TIERED, TokenUsage(500_001, 0, cached_input_tokens=500_001), 500_001 * 5000),
        (PER_REQUEST, TokenUsage(), 5_000_000),
        (PER_REQUEST, TokenUsage(5, 1), 5_000_001),
        (FREE, TokenUsage(10**9, 10**9, cached_input_tokens=10**9), 0),
    ],
)
def test_cost_by_hand(price: Price, usage: TokenUsage, cost: int) -> None:
    """Every kind of rate gives the cost that a person works out with pencil and paper."""
    assert cost_nanousd(usage, price) == cost


def test_rounds_up_once() -> None:
    """Three parts that each leave a fraction are rounded up together, not one by one."""
    price = Price(input=400_000, output=400_000, cached_input=300_000, version="v", source="operator")
    assert cost_nanousd(TokenUsage(2, 1, cached_input_tokens=1), price) == 2  # 0.4 + 0.3 + 0.4 = 1.1


def test_parts_beyond_the_whole_are_cut() -> None:
    """An upstream that reports more cached than prompt tokens is charged the prompt at the cached rate, never less."""
    assert cost_nanousd(TokenUsage(10, 0, cached_input_tokens=10_000), CACHED) == 10 * 300
    assert cost_nanousd(TokenUsage(10, 0, cached_input_tokens=8, cache_write_tokens=8), CACHED) == 8 * 300 + 2 * 3750
    assert cost_nanousd(TokenUsage(0, 5, reasoning_tokens=50), PARTS) == 50
    assert cost_nanousd(TokenUsage(-5, -5), CACHED) == 0


@pytest.mark.parametrize(
    ("usd", "nanousd"),
    [
        (0, 0),
        (0.15, 150_000_000),
        ("0.075", 75_000_000),
        (15, 15_000_000_000),
        (1e-9, 1),
        ("2.000000001", 2_000_000_001),
    ],
)
def test_usd_per_million(usd: float | str, nanousd: int) -> None:
    """A price as people write it becomes exactly its integer."""
    assert usd_per_million_to_nanousd(usd) == nanousd


@pytest.mark.parametrize("usd", [-0.1, float("nan"), float("inf"), "1e400", "cheap", ""])
def test_usd_per_million_refuses(usd: float | str) -> None:
    """What is no price is refused with a sentence that says what a price is."""
    with pytest.raises(ValueError, match="a price is a number of USD"):
        usd_per_million_to_nanousd(usd)


@pytest.mark.parametrize(
    ("nanousd", "text"),
    [
        (0, "0.0"),
        (1, "0.000000001"),
        (1_234_567, "0.001234567"),
        (2_500_000_000, "2.5"),
        (7_000_000_000, "7.0"),
        (-1_500_000_000, "-1.5"),
        (10**20, "100000000000.0"),
    ],
)
def test_usd_text(nanousd: int, text: str) -> None:
    """Money is written exactly, without an exponent, with at least one decimal."""
    assert nanousd_to_usd_text(nanousd) == text
