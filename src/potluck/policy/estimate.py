"""Token counts where the target does not say: from sizes, and marked as estimated."""

from potluck.model.usage import TokenUsage

PROMPT_BYTES_PER_TOKEN = 4
OUTPUT_BYTES_PER_TOKEN = 4
"""English text in today's tokenisers lies between 3.5 and 4.5 bytes per token; code and other scripts have fewer"""


def estimate_usage(request_bytes: int, output_bytes: int) -> TokenUsage:
    """Usage of a call from the sizes of its request body and of the content that came back, rounded up."""
    return TokenUsage(
        -(-max(0, request_bytes) // PROMPT_BYTES_PER_TOKEN),
        -(-max(0, output_bytes) // OUTPUT_BYTES_PER_TOKEN),
        estimated=True,
    )
