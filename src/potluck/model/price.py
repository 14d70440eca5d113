"""Prices and costs: integers only, nano-USD (10⁻⁹ USD), per million tokens."""

from typing import Literal

import msgspec

from potluck.model.usage import TokenUsage

NANOUSD_PER_USD = 1_000_000_000
TOKENS_PER_UNIT = 1_000_000

PriceSource = Literal["catalog", "operator", "target", "own"]


class PriceTier(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rates that replace the base rates when the prompt has more than `above_input_tokens` tokens."""

    above_input_tokens: int
    input: int
    output: int
    cached_input: int | None = None
    cache_write: int | None = None


class Price(msgspec.Struct, frozen=True, omit_defaults=True):
    """Nano-USD per million tokens. A part that is None is charged as the part it belongs to (input or output).

    `version` names the table row this came from (`catalog:2026-11-01`, `operator:7`), kept in every usage record.
    """

    input: int
    output: int
    version: str
    source: PriceSource
    cached_input: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None
    per_request: int = 0
    """nano-USD for each request, whatever its size"""
    tiers: tuple[PriceTier, ...] = ()


def cost_nanousd(usage: TokenUsage, price: Price) -> int:
    """The cost of one call in nano-USD: exact integer sum over the parts, rounded up once."""
    rate_in, rate_out, rate_cached, rate_write = price.input, price.output, price.cached_input, price.cache_write
    for tier in price.tiers:
        if usage.input_tokens > tier.above_input_tokens:
            rate_in, rate_out, rate_cached, rate_write = tier.input, tier.output, tier.cached_input, tier.cache_write
    cached, write, audio_in = usage.cached_input_tokens, usage.cache_write_tokens, usage.audio_input_tokens
    reasoning, audio_out = usage.reasoning_tokens, usage.audio_output_tokens
    total = usage.input_tokens * rate_in + usage.output_tokens * rate_out
    # the parts are inside input_tokens and output_tokens: each moves its tokens from the base rate to its own
    if cached and rate_cached is not None:
        total += cached * (rate_cached - rate_in)
    if write and rate_write is not None:
        total += write * (rate_write - rate_in)
    if audio_in and price.audio_input is not None:
        total += audio_in * (price.audio_input - rate_in)
    if reasoning and price.reasoning is not None:
        total += reasoning * (price.reasoning - rate_out)
    if audio_out and price.audio_output is not None:
        total += audio_out * (price.audio_output - rate_out)
    return max(0, -(-total // TOKENS_PER_UNIT)) + price.per_request


def usd_per_million_to_nanousd(usd: float | str) -> int:
    """A price as people write it (USD per million tokens) as integer nano-USD per million; exact for ≤ 9 decimals."""
    from decimal import Decimal  # noqa: PLC0415 — control plane only

    return int((Decimal(str(usd)) * NANOUSD_PER_USD).to_integral_value())


def nanousd_to_usd_text(nanousd: int) -> str:
    """`1234567` → `0.001234567`: exact decimal text without an exponent, at least one decimal."""
    sign = "-" if nanousd < 0 else ""
    whole, rest = divmod(abs(nanousd), NANOUSD_PER_USD)
    return f"{sign}{whole}.{rest:09d}".rstrip("0").ljust(len(f"{sign}{whole}.") + 1, "0")
