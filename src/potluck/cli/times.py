"""Times as people write them on a command line."""

import datetime as dt
import re
import time

import click

_LENGTH = re.compile(r"^(\d+(?:\.\d+)?)\s*(s|m|h|d|w)\Z")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def length_s(text: str) -> float:
    """`90s`, `30m`, `12h`, `7d`, `2w` in seconds. Raises click's BadParameter."""
    found = _LENGTH.match(text.strip().lower())
    if not found:
        raise click.BadParameter(f"{text!r} is no length of time: write 30m, 12h or 7d")
    return float(found[1]) * _UNIT_S[found[2]]


def moment_ms(text: str, *, ahead: bool) -> int:
    """A length of time from now (`ahead`) or back, or a date, as unix milliseconds. Dates are local unless they say."""
    if _LENGTH.match(text.strip().lower()):
        return int((time.time() + (1 if ahead else -1) * length_s(text)) * 1000)
    try:
        at = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a length of time (7d) nor a date (2030-01-31)") from None
    return int(at.astimezone().timestamp() * 1000)
