"""How long a target asks to be left alone."""

from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER_S = 3600.0
"""absurd values are capped: a target that says a day is asked again after an hour"""


def parse_retry_after(value: bytes, now_unix_s: float) -> float | None:
    """Seconds to wait by a `Retry-After` field, 0 to `MAX_RETRY_AFTER_S`; None if it says nothing readable.

    Both forms of RFC 9110 §10.2.3, and decimal seconds as some targets send them.
    """
    text = value.decode("latin-1").strip()
    if text[:1].isdigit() and text.isascii():
        try:
            seconds = float(text)
        except ValueError:
            return None
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now_unix_s
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S)
