"""Estimates where a target says nothing."""

import pytest

from potluck.model.usage import TokenUsage
from potluck.policy.estimate import estimate_usage


@pytest.mark.parametrize(
    ("request_bytes", "output_bytes", "tokens"), [(0, 0, (0, 0)), (1, 1, (1, 1)), (400, 80, (100, 20)), (-5, 5, (0, 2))]
)
def test_estimates_are_marked(request_bytes: int, output_bytes: int, tokens: tuple[int, int]) -> None:
    """Sizes become tokens, rounded up, never negative, and say that they are estimated."""
    assert estimate_usage(request_bytes, output_bytes) == TokenUsage(*tokens, estimated=True)
