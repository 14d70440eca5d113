"""Costs under random usage and prices."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from potluck.model.price import Price, PriceTier, cost_nanousd, nanousd_to_usd_text, usd_per_million_to_nanousd
from potluck.model.usage import TokenUsage

COUNTS = st.integers(0, 2_000_000)
RATES = st.integers(0, 10**12)
MAYBE = st.none() | RATES


@st.composite
def usages(draw: st.DrawFn) -> TokenUsage:
    """Usage whose parts lie inside their wholes, as the model says."""
    cached, write, audio_in, text_in = (draw(COUNTS) for _ in range(4))
    reasoning, audio_out, text_out = (draw(COUNTS) for _ in range(3))
    return TokenUsage(
        input_tokens=cached + write + audio_in + text_in,
        output_tokens=reasoning + audio_out + text_out,
        cached_input_tokens=cached,
        cache_write_tokens=write,
        reasoning_tokens=reasoning,
        audio_input_tokens=audio_in,
        audio_output_tokens=audio_out,
    )


@st.composite
def prices(draw: st.DrawFn) -> Price:
    above = sorted(draw(st.sets(st.integers(1, 5_000_000), max_size=3)))
    return Price(
        input=draw(RATES),
        output=draw(RATES),
        version="v",
        source="operator",
        cached_input=draw(MAYBE),
        cache_write=draw(MAYBE),
        reasoning=draw(MAYBE),
        audio_input=draw(MAYBE),
        audio_output=draw(MAYBE),
        per_request=draw(RATES),
        tiers=tuple(PriceTier(n, draw(RATES), draw(RATES), draw(MAYBE), draw(MAYBE)) for n in above),
    )


def exact(usage: TokenUsage, price: Price) -> Fraction:
    """The cost as a sum over disjoint parts, each at its own rate: the definition, without any shortcut."""
    rates = (price.input, price.output, price.cached_input, price.cache_write)
    for tier in price.tiers:
        if usage.input_tokens > tier.above_input_tokens:
            rates = (tier.input, tier.output, tier.cached_input, tier.cache_write)
    rate_in, rate_out, cached, write = rates

    def part(tokens: int, rate: int | None, whole: int) -> Fraction:
        return Fraction(tokens * (whole if rate is None else rate), 1_000_000)

    text_in = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens - usage.audio_input_tokens
    text_out = usage.output_tokens - usage.reasoning_tokens - usage.audio_output_tokens
    return (
        part(text_in, rate_in, rate_in)
        + part(usage.cached_input_tokens, cached, rate_in)
        + part(usage.cache_write_tokens, write, rate_in)
        + part(usage.audio_input_tokens, price.audio_input, rate_in)
        + part(text_out, rate_out, rate_out)
        + part(usage.reasoning_tokens, price.reasoning, rate_out)
        + part(usage.audio_output_tokens, price.audio_output, rate_out)
        + price.per_request
    )


@given(usages(), prices())
def test_cost_is_the_sum_of_its_parts_rounded_up_once(usage: TokenUsage, price: Price) -> None:
    """The cost is the exact sum over the parts, never less, and less than one nano-USD more."""
    cost = cost_nanousd(usage, price)
    assert 0 <= cost - exact(usage, price) < 1


@given(st.lists(st.integers(0, 10**7), min_size=7, max_size=7), prices())
def test_cost_is_never_negative(counts: list[int], price: Price) -> None:
    """Whatever counts an upstream invents, parts greater than their whole too, the cost is not below the flat fee."""
    assert cost_nanousd(TokenUsage(*counts), price) >= price.per_request


@given(usages(), prices(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_cost_grows_with_tokens(usage: TokenUsage, price: Price, more_in: int, more_out: int) -> None:
    """More text tokens never cost less, as long as no tier is cheaper than the one below it."""
    rising = Price(
        input=price.input,
        output=price.output,
        version="v",
        source="operator",
        reasoning=price.reasoning,
        per_request=price.per_request,
        tiers=tuple(
            PriceTier(tier.above_input_tokens, price.input + (n + 1) * 1000, price.output + (n + 1) * 1000)
            for n, tier in enumerate(price.tiers)
        ),
    )
    plain = TokenUsage(usage.input_tokens, usage.output_tokens)
    more = TokenUsage(usage.input_tokens + more_in, usage.output_tokens + more_out)
    assert cost_nanousd(more, rising) >= cost_nanousd(plain, rising)


@given(st.integers(0, 10**15))
def test_money_text_reads_back(nanousd: int) -> None:
    """Written as text and read as a price again, an amount is the same to the last nano-USD."""
    assert usd_per_million_to_nanousd(nanousd_to_usd_text(nanousd)) == nanousd
