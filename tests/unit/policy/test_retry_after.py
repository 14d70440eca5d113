"""Both forms of Retry-After, and what some targets make of them."""

import pytest

from potluck.policy.retry_after import MAX_RETRY_AFTER_S, parse_retry_after

NOW = 1_794_000_000.0  # Fri, 06 Nov 2026 21:20:00 GMT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"0", 0.0),
        (b"7", 7.0),
        (b" 7 ", 7.0),
        (b"1.5", 1.5),
        (b"86400", MAX_RETRY_AFTER_S),
        (b"9" * 400, MAX_RETRY_AFTER_S),
        (b"Fri, 06 Nov 2026 21:20:30 GMT", 30.0),
        (b"Fri, 06 Nov 2026 21:19:00 GMT", 0.0),
        (b"Fri, 06 Nov 2099 21:20:30 GMT", MAX_RETRY_AFTER_S),
        (b"Friday, 06-Nov-26 21:20:05 GMT", 5.0),
        (b"", None),
        (b"soon", None),
        (b"-5", None),
        (b"1e", None),
        (b"nan", None),
        (b"inf", None),
        (b"Fri, 99 Nov 2026 21:20:30 GMT", None),
        (b"\xff\xb2", None),
        (b"\xb2", None),
    ],
)
def test_forms(value: bytes, seconds: float | None) -> None:
    """Seconds, decimals and dates give a wait between none and the cap; anything else gives none at all."""
    assert parse_retry_after(value, NOW) == seconds
