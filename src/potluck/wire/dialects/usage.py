"""Token usage as targets spell it, read into one form.

What the field does, and what we make of it:
- OpenAI: parts (`cached_tokens`, `reasoning_tokens`, …) lie inside `prompt_tokens` and `completion_tokens`.
- Reasoning beside the completion (`total = prompt + completion + reasoning`, or more reasoning than completion): added
  to the output, since it is billed as output.
- A total above prompt + completion with nothing to explain it (thinking that is not itemised): the rest is output.
- Cached tokens beside the prompt (more cached than prompt): added to the input.
- Counts that are negative, absurd or not numbers say nothing; a usage of zeros says nothing either.
"""

from typing import Any

import msgspec

from potluck.model.usage import TokenUsage

MAX_TOKENS = 1_000_000_000_000
"""a count beyond this is not one"""


class InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    audio_tokens: int | None = None
    cache_creation_tokens: int | None = None
    cache_write_tokens: int | None = None


class OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


class Usage(msgspec.Struct):
    """The `usage` object: chat, completions and embeddings say prompt/completion, responses say input/output."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    """DeepSeek"""
    cached_tokens: int | None = None
    """Moonshot"""


_NO_INPUT_DETAILS = InputDetails()
_NO_OUTPUT_DETAILS = OutputDetails()


def token_usage(usage: Usage) -> TokenUsage | None:
    """`usage` in Potluck's form, or None when it says nothing."""
    # the plain form, which most answers have: prompt, completion and their sum
    plain_in, plain_out = usage.prompt_tokens, usage.completion_tokens
    if (
        plain_in
        and plain_out
        and plain_in > 0 < plain_out
        and usage.total_tokens == plain_in + plain_out <= MAX_TOKENS
        and usage.prompt_tokens_details is None
        and usage.completion_tokens_details is None
        and usage.cached_tokens is None
        and usage.prompt_cache_hit_tokens is None
    ):
        return TokenUsage(plain_in, plain_out)
    input_tokens = _count(usage.prompt_tokens) or _count(usage.input_tokens)
    output_tokens = _count(usage.completion_tokens) or _count(usage.output_tokens)
    total = _count(usage.total_tokens)
    if not (input_tokens or output_tokens or total):
        return None
    into = usage.prompt_tokens_details or usage.input_tokens_details or _NO_INPUT_DETAILS
    out = usage.completion_tokens_details or usage.output_tokens_details or _NO_OUTPUT_DETAILS
    cached = _count(into.cached_tokens) or _count(usage.prompt_cache_hit_tokens) or _count(usage.cached_tokens)
    written = _count(into.cache_creation_tokens) or _count(into.cache_write_tokens)
    reasoning = _count(out.reasoning_tokens)
    beside = total - input_tokens - output_tokens
    if reasoning > output_tokens or (reasoning and beside == reasoning):
        output_tokens += reasoning
    elif beside > 0 and not reasoning and input_tokens:
        output_tokens += beside
        reasoning = beside
    if cached + written > input_tokens:
        input_tokens += cached + written
    return TokenUsage(
        input_tokens,
        output_tokens,
        cached,
        written,
        reasoning,
        min(_count(into.audio_tokens), input_tokens),
        min(_count(out.audio_tokens), output_tokens),
    )


def lenient_usage(value: Any) -> Usage | None:
    """`value` decoded without a schema: what is of the wrong type is taken as absent."""
    if not isinstance(value, dict):
        return None
    usage = Usage()
    for name in Usage.__struct_fields__:
        said = value.get(name)
        if name.endswith("_details"):
            if isinstance(said, dict):
                details = InputDetails() if name.startswith(("prompt", "input")) else OutputDetails()
                for part in details.__struct_fields__:
                    setattr(details, part, _integer(said.get(part)))
                setattr(usage, name, details)
        else:
            setattr(usage, name, _integer(said))
    return usage


def _integer(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TOKENS:
        return None
    return int(value)


def _count(value: int | None) -> int:
    return value if value is not None and 0 < value <= MAX_TOKENS else 0
