"""Weekly windows: what is written, what is open, and how long, also when the clocks change."""

import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.node.schedule import Window, parse_window, span_at

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> datetime:
    """A moment in Berlin."""
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("text", "days", "start_min", "end_min"),
    [
        ("mon-fri 22:00-07:00", {0, 1, 2, 3, 4}, 1320, 420),
        ("Sat 10:00-12:30", {5}, 600, 750),
        ("daily 00:00-24:00", set(range(7)), 0, 1440),
        ("9:00-17:00", set(range(7)), 540, 1020),
        ("fri-mon 01:00-02:00", {4, 5, 6, 0}, 60, 120),
    ],
)
def test_windows_are_read(text: str, days: set[int], start_min: int, end_min: int) -> None:
    """Weekdays, ranges over the week's end, every day, and none for every day."""
    assert parse_window(text) == Window(frozenset(days), start_min, end_min)


@pytest.mark.parametrize(
    "text",
    ["", "mon", "25:00-26:00", "10:60-11:00", "mun 1:00-2:00", "daily-mon 1:00-2:00", "10:00-10:00", "24:00-1:00"],
)
def test_nonsense_is_no_window(text: str) -> None:
    """What no clock or calendar shows is refused."""
    with pytest.raises(ValueError, match=r"."):
        parse_window(text)


def test_a_night_belongs_to_the_day_on_which_it_begins() -> None:
    """Friday's window is open on Saturday morning, Sunday's does not exist."""
    windows = [parse_window("mon-fri 22:00-07:00")]
    assert span_at(windows, at("2026-11-28 06:59")).until == at("2026-11-28 07:00")
    assert not span_at(windows, at("2026-11-29 23:00")).is_open
    assert span_at(windows, at("2026-11-29 23:00")).until == at("2026-11-30 22:00")


def test_a_window_that_never_closes_has_no_end() -> None:
    """Around the clock is open for ever, and no window at all is closed for ever."""
    assert span_at([parse_window("daily 00:00-24:00")], at("2026-11-28 06:59")).until is None
    assert span_at([], at("2026-11-28 06:59")) == span_at([], at("2026-01-01 00:00"))


def test_a_night_in_which_the_clocks_change_is_as_long_as_the_clocks_say() -> None:
    """Seven hours on the wall are six in March and eight in October."""
    windows = [parse_window("daily 00:00-07:00")]
    for day, hours in (("2026-03-29", 6), ("2026-10-25", 8), ("2026-06-01", 7)):
        span = span_at(windows, at(f"{day} 00:00"))
        assert span.until is not None
        assert (span.until - at(f"{day} 00:00").astimezone(UTC)) == timedelta(hours=hours)


def test_an_hour_that_is_skipped_is_never_inside() -> None:
    """A window inside the skipped hour opens on the next day; one that ends there closes when it is skipped."""
    assert span_at([parse_window("02:15-02:45")], at("2026-03-29 01:00")).until == at("2026-03-30 02:15")
    assert span_at([parse_window("01:00-02:30")], at("2026-03-29 01:30")).until == at("2026-03-29 03:00")


def test_the_machines_own_clock_changes_with_summer_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment without a zone is by the machine's clock, also over the change in March."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        now = datetime(2026, 3, 29)  # noqa: DTZ001 - what is tested
        span = span_at([parse_window("daily 00:00-07:00")], now)
        assert span.until is not None
        assert span.until.timestamp() - now.timestamp() == 6 * 3600
    finally:
        monkeypatch.undo()
        time.tzset()


windows = st.lists(
    st.builds(
        Window,
        st.frozensets(st.integers(0, 6), min_size=1),
        st.integers(0, 1439),
        st.integers(1, 1440),
    ).filter(lambda window: window.start_min != window.end_min),
    max_size=3,
)
zones = st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"])
moments = st.integers(1_760_000_000, 1_800_000_000)


@settings(max_examples=60, deadline=None)
@given(windows, zones, moments, st.floats(0, 0.999))
def test_nothing_changes_before_it_was_said_to(some: list[Window], zone: str, moment: int, part: float) -> None:
    """Until the end of a span every moment is as it said, and at its end it is the other way."""
    now = datetime.fromtimestamp(moment, ZoneInfo(zone))
    span = span_at(some, now)
    if span.until is None:
        return
    between = now.timestamp() + (span.until.timestamp() - now.timestamp()) * part
    assert span_at(some, datetime.fromtimestamp(between, ZoneInfo(zone))).is_open == span.is_open
    assert span_at(some, span.until).is_open != span.is_open
    assert span.until > now
