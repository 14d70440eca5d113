"""Weekly windows in local time: is one open, and until when.

Rules of this file
- A window is what a clock on the wall says, nothing else: it is open while weekday and time of day lie inside. So an
  hour that a change of summer time skips is never inside, and one that it repeats is inside twice.
- A window that ends before it begins ends on the next day. The weekday is that of its beginning.
- Time is passed in; nothing here reads a clock.
"""

import re
from collections.abc import Sequence
from datetime import datetime

import msgspec

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MIN = 24 * 60
LOOK_AHEAD_DAYS = 8
_FORM = re.compile(r"(?:([a-z]{3}|daily)(?:-([a-z]{3}))? +)?(\d{1,2}):(\d\d) ?- ?(\d{1,2}):(\d\d)")


class Window(msgspec.Struct, frozen=True):
    """Minutes of the day; `end_min` up to 1440, and at or before `start_min` on the next day."""

    days: frozenset[int]
    """weekdays on which it begins, Monday is 0"""
    start_min: int
    end_min: int

    def has(self, weekday: int, minute: int) -> bool:
        if self.end_min > self.start_min:
            return weekday in self.days and self.start_min <= minute < self.end_min
        yesterday = (weekday - 1) % 7
        return (weekday in self.days and minute >= self.start_min) or (yesterday in self.days and minute < self.end_min)


class Span(msgspec.Struct, frozen=True):
    """`is_open` from the moment that was asked about until `until`; None: it never changes."""

    is_open: bool
    until: datetime | None = None


def parse_window(text: str) -> Window:
    """`mon-fri 22:00-07:00`, `sat 10:00-12:30`, `daily 00:00-24:00`, `22:00-06:00`. Raises ValueError."""
    found = _FORM.fullmatch(text.strip().lower())
    if not found:
        raise ValueError(f"{text!r} is not a window like `mon-fri 22:00-07:00`")
    first, last, *clock = found.groups()
    for day in (first, last):
        if day and day != "daily" and day not in DAYS:
            raise ValueError(f"{day!r} is not a weekday: {', '.join(DAYS)}")
    if first == "daily" and last:
        raise ValueError(f"{text!r}: `daily` stands alone")
    start_hour, start, end_hour, end = (int(each) for each in clock)
    start_min, end_min = start_hour * 60 + start, end_hour * 60 + end
    if max(start, end) > 59 or start_min >= DAY_MIN or end_min > DAY_MIN:
        raise ValueError(f"{text!r} has a time that no clock shows")
    if start_min == end_min:
        raise ValueError(f"{text!r} is empty: a whole day is 00:00-24:00")
    if first in (None, "daily"):
        return Window(frozenset(range(7)), start_min, end_min)
    begin = DAYS.index(first)
    count = (DAYS.index(last or first) - begin) % 7 + 1
    return Window(frozenset((begin + each) % 7 for each in range(count)), start_min, end_min)


def span_at(windows: Sequence[Window], now: datetime) -> Span:
    """Whether one of `windows` is open at `now`, and the first whole minute at which that is different.

    `now` carries the zone whose clock counts; without one it is the machine's own clock, as is the answer. Costs up to
    some ms where the next change is days away: keep the answer until it is over.
    """
    is_open = _is_open(windows, now)
    zone = now.tzinfo
    moment = now.timestamp() // 60 * 60
    for _ in range(LOOK_AHEAD_DAYS * DAY_MIN):
        moment += 60
        then = datetime.fromtimestamp(moment, zone)
        if _is_open(windows, then) != is_open:
            return Span(is_open, then)
    return Span(is_open)


def _is_open(windows: Sequence[Window], now: datetime) -> bool:
    weekday, minute = now.weekday(), now.hour * 60 + now.minute
    return any(window.has(weekday, minute) for window in windows)
