"""Keys that are parked and keys that are dead, on a clock of our own."""

import pytest

from potluck.policy.breaker import PROBE_LOST_S
from potluck.policy.credentials import (
    PARK_MAX_S,
    PROBE_EVERY_S,
    KeyHealth,
    Parking,
    kills_whole_key,
)

T = 1000.0


def test_retry_after_is_honoured() -> None:
    """The lane is parked exactly as long as the provider asked."""
    parking = Parking()
    parking.park(T, 20.0, "rate limited")
    assert parking.parked(T + 19.9)
    assert not parking.parked(T + 20)
    assert (parking.detail, parking.row) == ("rate limited", 1)


@pytest.mark.parametrize("retry_after_s", [None, 0.0])
def test_without_one_the_park_doubles(retry_after_s: float | None) -> None:
    """1, 2, 4 … 60 s per 429 in a row; a `Retry-After` of 0 is none."""
    parking = Parking()
    now, parks = T, []
    for _ in range(100):
        parking.park(now, retry_after_s, "rate limited")
        parks.append(parking.until - now)
        now = parking.until
    assert parks[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert max(parks) == PARK_MAX_S


def test_a_success_resets_the_doubling() -> None:
    """After a success the next park is a second again."""
    parking = Parking()
    parking.park(T, None, "rate limited")
    parking.park(T + 1, None, "rate limited")
    assert parking.row == 2
    parking.succeeded()
    assert parking.row == 0
    parking.park(T + 10, None, "rate limited")
    assert parking.until == T + 11


def test_a_success_does_not_end_a_running_park() -> None:
    """A call from before the 429 may end well: the provider's wait is kept all the same."""
    parking = Parking()
    parking.park(T, 30.0, "rate limited")
    parking.succeeded()
    assert parking.parked(T + 29)


def test_a_shorter_retry_after_never_shortens_a_park() -> None:
    """The longest of what was asked wins."""
    parking = Parking()
    parking.park(T, 60.0, "rate limited")
    parking.park(T + 1, 2.0, "rate limited")
    parking.park(T + 2, None, "rate limited")
    assert parking.until == T + 60


def test_calls_under_way_do_not_double_the_park() -> None:
    """Fifty calls that were sent before the first 429 came back are one event, not fifty in a row."""
    parking = Parking()
    for n in range(50):
        parking.park(T + n / 100, None, "rate limited")
    assert parking.until == pytest.approx(T + 0.49 + 1)
    parking.park(T + 2, None, "rate limited")
    assert parking.until == T + 4


def test_a_park_is_cleared_by_hand() -> None:
    """At once, the doubling included."""
    parking = Parking()
    parking.park(T, 3600.0, "rate limited")
    parking.clear()
    assert not parking.parked(T)
    assert (parking.detail, parking.row) == ("", 0)


@pytest.mark.parametrize(("status", "whole"), [(401, True), (402, True), (403, False), (200, False), (0, False)])
def test_which_refusals_kill_the_whole_key(status: int, whole: bool) -> None:
    """401 and 402 are said of the key; 403 may be said of one model, an error inside a 200 of anything."""
    assert kills_whole_key(status) is whole


def test_a_dead_key_is_tried_after_a_minute() -> None:
    """It dies once, is reported, and its first probe goes one minute later."""
    key = KeyHealth()
    assert key.ready(T)
    assert key.died(T, "HTTP 401")
    assert not key.died(T + 1, "HTTP 401")
    assert key.since == T
    assert not key.ready(T + 1 + PROBE_EVERY_S - 0.1)
    assert key.ready(T + 1 + PROBE_EVERY_S)
    assert (key.detail, key.retry_at) == ("HTTP 401", T + 1 + PROBE_EVERY_S)


def test_a_dead_key_has_one_probe_a_minute() -> None:
    """While one runs there is no other; after its failure the minute starts anew."""
    key = KeyHealth()
    key.died(T, "HTTP 401")
    key.begin_probe(T + 60)
    assert not key.ready(T + 60)
    assert not key.ready(T + 60 + PROBE_LOST_S - 1)
    key.died(T + 62, "HTTP 402")
    assert (key.since, key.detail) == (T, "HTTP 402")
    assert not key.ready(T + 121)
    assert key.ready(T + 122)


def test_an_abandoned_probe_was_this_minutes() -> None:
    """A caller that hangs up does not buy a second probe within the minute."""
    key = KeyHealth()
    key.died(T, "HTTP 401")
    key.begin_probe(T + 60)
    key.probe_abandoned()
    assert not key.ready(T + 119)
    assert key.ready(T + 120)


def test_a_lost_probe_of_a_key_makes_room_for_another() -> None:
    """A probe whose end was never told does not bury the key."""
    key = KeyHealth()
    key.died(T, "HTTP 401")
    key.begin_probe(T + 60)
    assert key.ready(T + 60 + PROBE_LOST_S)


@pytest.mark.parametrize("way", ["succeeded", "clear"])
def test_a_key_revives(way: str) -> None:
    """By a success or by hand: alive, nothing kept, and it can die again."""
    key = KeyHealth()
    key.died(T, "HTTP 401")
    key.begin_probe(T + 60)
    getattr(key, way)()
    assert key.ready(T + 60)
    assert (key.dead, key.detail, key.since, key.retry_at) == (False, "", 0.0, 0.0)
    assert key.died(T + 61, "HTTP 401")


def test_a_living_key_has_no_probe() -> None:
    """Beginning one changes nothing there."""
    key = KeyHealth()
    key.begin_probe(T)
    assert key.ready(T)
    assert key.retry_at == 0.0
