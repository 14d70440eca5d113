"""Token counts where the target does not say: from sizes, and marked as estimated; and what sizes allow it to say."""

import msgspec

from potluck.model.usage import TokenUsage

PROMPT_BYTES_PER_TOKEN = 4
OUTPUT_BYTES_PER_TOKEN = 4
"""English text in today's tokenisers lies between 3.5 and 4.5 bytes per token; code and other scripts have fewer"""
HIDDEN_INPUT_TOKENS = 16_384
"""of templates, and of images that a request only points to"""
HIDDEN_OUTPUT_TPS = 1_000.0
"""of thinking that is not shown: no faster than that"""


def estimate_usage(request_bytes: int, output_bytes: int) -> TokenUsage:
    """Usage of a call from the sizes of its request body and of the content that came back, rounded up."""
    return TokenUsage(
        -(-max(0, request_bytes) // PROMPT_BYTES_PER_TOKEN),
        -(-max(0, output_bytes) // OUTPUT_BYTES_PER_TOKEN),
        estimated=True,
    )


def believable(usage: TokenUsage, request_bytes: int, output_bytes: int, took_s: float) -> TokenUsage:
    """What a stranger's machine counts, as far as sizes and time allow; what is cut is marked as estimated.

    No token is less than a byte. `output_bytes`: of what came back, `took_s`: from the request's start to the end.
    """
    most_in = request_bytes + HIDDEN_INPUT_TOKENS
    most_out = output_bytes + round(took_s * HIDDEN_OUTPUT_TPS)
    if usage.input_tokens <= most_in and usage.output_tokens <= most_out:
        return usage
    into, out = min(usage.input_tokens, most_in), min(usage.output_tokens, most_out)
    cached = min(usage.cached_input_tokens, into)
    return msgspec.structs.replace(
        usage,
        input_tokens=into,
        output_tokens=out,
        cached_input_tokens=cached,
        cache_write_tokens=min(usage.cache_write_tokens, into - cached),
        reasoning_tokens=min(usage.reasoning_tokens, out),
        audio_input_tokens=min(usage.audio_input_tokens, into),
        audio_output_tokens=min(usage.audio_output_tokens, out),
        estimated=True,
    )
