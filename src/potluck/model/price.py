"""Prices and costs: integers only, nano-USD (10⁻⁹ USD), per million tokens."""

from typing import Literal

import msgspec

from potluck.model.usage import TokenUsage

NANOUSD_PER_USD = 1_000_000_000
TOKENS_PER_UNIT = 1_000_000
MAX_USD_PER_MILLION = 1_000_000

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
    """The cost of one call in nano-USD: exact integer sum over the parts, rounded up once. Never negative.

    A tier replaces the base rates for the whole prompt. Parts that an upstream reports beyond the whole they belong to
    are cut to it, in the order cached, written, audio; reasoning, audio: nothing is charged twice, nothing below zero.
    """
    rate_in, rate_out = price.input, price.output
    if not (
        price.tiers
        or usage.cached_input_tokens
        or usage.reasoning_tokens
        or usage.cache_write_tokens
        or usage.audio_input_tokens
        or usage.audio_output_tokens
    ):
        plain = max(0, usage.input_tokens) * rate_in + max(0, usage.output_tokens) * rate_out
        return -(-plain // TOKENS_PER_UNIT) + price.per_request
    rate_cached, rate_write = price.cached_input, price.cache_write
    for tier in price.tiers:
        if usage.input_tokens > tier.above_input_tokens:
            rate_in, rate_out, rate_cached, rate_write = tier.input, tier.output, tier.cached_input, tier.cache_write
    left_in, left_out = max(0, usage.input_tokens), max(0, usage.output_tokens)
    total = left_in * rate_in + left_out * rate_out
    # the parts are inside input_tokens and output_tokens: each moves its tokens from the base rate to its own
    if usage.cached_input_tokens and rate_cached is not None:
        part = min(usage.cached_input_tokens, left_in)
        total += part * (rate_cached - rate_in)
        left_in -= part
    if usage.cache_write_tokens and rate_write is not None:
        part = min(usage.cache_write_tokens, left_in)
        total += part * (rate_write - rate_in)
        left_in -= part
    if usage.audio_input_tokens and price.audio_input is not None:
        total += min(usage.audio_input_tokens, left_in) * (price.audio_input - rate_in)
    if usage.reasoning_tokens and price.reasoning is not None:
        part = min(usage.reasoning_tokens, left_out)
        total += part * (price.reasoning - rate_out)
        left_out -= part
    if usage.audio_output_tokens and price.audio_output is not None:
        total += min(usage.audio_output_tokens, left_out) * (price.audio_output - rate_out)
    return -(-total // TOKENS_PER_UNIT) + price.per_request


def usd_per_million_to_nanousd(usd: float | str) -> int:
    """A price as people write it (USD per million tokens) as integer nano-USD per million; exact for ≤ 9 decimals.

    Raises ValueError for what is not a number of 0 or more.
    """
    from decimal import Decimal, InvalidOperation

    try:
        amount = Decimal(str(usd))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0 or amount > MAX_USD_PER_MILLION:
        raise ValueError(f"a price is a number of USD between 0 and {MAX_USD_PER_MILLION}, not {usd!r}")
    return int((amount * NANOUSD_PER_USD).to_integral_value())


def nanousd_to_usd_text(nanousd: int) -> str:
    """`1234567` → `0.001234567`: exact decimal text without an exponent, at least one decimal."""
    sign = "-" if nanousd < 0 else ""
    whole, rest = divmod(abs(nanousd), NANOUSD_PER_USD)
    return f"{sign}{whole}.{rest:09d}".rstrip("0").ljust(len(f"{sign}{whole}.") + 1, "0")
