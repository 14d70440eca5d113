"""A machine that lies about what it used: sizes and time bound what is paid for, and an honest count stays as it is."""

from hypothesis import given
from hypothesis import strategies as st

from potluck.model.usage import TokenUsage
from potluck.policy.estimate import HIDDEN_INPUT_TOKENS, believable

COUNT = st.integers(0, 10**12)


def test_an_honest_count_is_taken_as_it_is():
    """Also with thinking that nobody sees, and a picture that the request only points to."""
    for usage in (TokenUsage(30, 5), TokenUsage(9_000, 2_000, 8_000, reasoning_tokens=1_990)):
        assert believable(usage, 120, 20, 3.0) is usage


def test_a_trillion_tokens_in_two_bytes_are_not_paid_for():
    """What is left is what could have been, and says that it is not counted."""
    said = TokenUsage(10**12, 10**12, 10**12, 0, 10**12)
    assert believable(said, 120, 2, 0.01) == TokenUsage(
        120 + HIDDEN_INPUT_TOKENS, 12, 120 + HIDDEN_INPUT_TOKENS, 0, 12, estimated=True
    )


@given(st.builds(TokenUsage, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT), COUNT, COUNT, st.floats(0, 1e5))
def test_whatever_is_said_stays_in_bounds(said: TokenUsage, request_bytes: int, output_bytes: int, took_s: float):
    """Never more than was said, nor more than sizes and time allow."""
    found = believable(said, request_bytes, output_bytes, took_s)
    assert found.input_tokens <= min(said.input_tokens, request_bytes + HIDDEN_INPUT_TOKENS)
    assert found.output_tokens <= min(said.output_tokens, output_bytes + round(took_s * 1000))
