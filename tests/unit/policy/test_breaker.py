"""Every transition of a breaker, on a clock of our own."""

import pytest

from potluck.model.usage import ErrorClass
from potluck.policy.breaker import (
    BUCKET_S,
    FIRST_OPEN_S,
    MAX_OPEN_S,
    MIN_SAMPLES,
    PROBE_LOST_S,
    RUN,
    WINDOW_S,
    Breaker,
    BreakerView,
    counts,
)

T = 6_000.0
"""the start of a bucket"""


def middle() -> float:
    """A jitter factor of exactly 1."""
    return 0.5


def fail(breaker: Breaker, now: float, times: int = 1, detail: str = "connection refused") -> bool:
    """Failures that count; whether the last one opened the breaker."""
    opened = False
    for _ in range(times):
        opened = breaker.failed(now, "target_down", detail, middle)
    return opened


def succeed(breaker: Breaker, now: float, times: int = 1) -> None:
    """Successes, told as a caller does."""
    for _ in range(times):
        breaker.good += 1
        if breaker.troubled:
            breaker.succeeded(now)


def opened(now: float = T) -> Breaker:
    """A breaker that opened at `now`."""
    breaker = Breaker(now)
    assert fail(breaker, now, RUN)
    return breaker


def probing(now: float) -> Breaker:
    """A breaker whose probe began at `now`."""
    breaker = opened(now - FIRST_OPEN_S)
    assert breaker.ready(now)
    breaker.begin_probe(now)
    return breaker


def test_a_new_breaker_is_closed() -> None:
    """Nothing is known: calls go, and a success has nothing to tell."""
    breaker = Breaker(T)
    assert breaker.ready(T)
    assert not breaker.troubled
    assert breaker.view(T) == BreakerView("closed", "", 0.0, 0, 0, 0)


@pytest.mark.parametrize("error_class", ["target_down", "target_slow"])
def test_failures_in_a_row_open_it(error_class: ErrorClass) -> None:
    """The fifth in a row opens it, says so once, and says why."""
    breaker = Breaker(T)
    verdicts = [breaker.failed(T + n, error_class, "connection refused", middle) for n in range(RUN)]
    assert verdicts == [False] * (RUN - 1) + [True]
    assert breaker.state == "open"
    assert breaker.reason == "5 failures in a row, the last: connection refused"
    assert breaker.detail == "connection refused"
    assert (breaker.opened_at, breaker.opens) == (T + 4, 1)
    assert breaker.retry_at == T + 4 + FIRST_OPEN_S
    assert breaker.view(T + 5) == BreakerView("open", breaker.reason, FIRST_OPEN_S - 1, 5, 5, 1)


@pytest.mark.parametrize(
    "error_class", ["none", "key_dead", "key_limited", "caller_fault", "policy", "client_closed", "lost"]
)
def test_other_classes_change_nothing(error_class: ErrorClass) -> None:
    """What says nothing about the target neither opens a breaker nor troubles it nor breaks a row."""
    breaker = Breaker(T)
    fail(breaker, T, RUN - 1)
    assert not counts(error_class)
    assert not any(breaker.failed(T, error_class, "bad request", middle) for _ in range(100))
    assert (breaker.state, breaker.run, breaker.bad) == ("closed", RUN - 1, RUN - 1)
    assert fail(breaker, T)


def test_a_success_ends_the_row() -> None:
    """Four failures, a success, four failures: still closed, and the row says four."""
    breaker = Breaker(T)
    fail(breaker, T, RUN - 1)
    succeed(breaker, T)
    assert breaker.run == 0
    fail(breaker, T, RUN - 1)
    assert (breaker.state, breaker.run) == ("closed", RUN - 1)


def test_a_row_may_take_longer_than_the_window() -> None:
    """One call in two minutes, all of them failures: the fifth opens, though no window ever held more than one."""
    breaker = Breaker(T)
    verdicts = []
    for n in range(RUN):
        breaker.tick(T + n * 120 - BUCKET_S)
        assert not breaker.troubled
        verdicts.append(fail(breaker, T + n * 120))
    assert verdicts == [False] * (RUN - 1) + [True]


def test_a_success_between_two_windows_ends_the_row() -> None:
    """A success that nobody had to tell, as nothing was troubled, still ends the row."""
    breaker = Breaker(T)
    fail(breaker, T, RUN - 1)
    breaker.tick(T + 100)
    succeed(breaker, T + 101)
    assert breaker.run == 0
    assert not fail(breaker, T + 102)
    assert breaker.run == 1


def test_half_of_twenty_opens_it() -> None:
    """Ten good and ten bad in turns: the twentieth call opens it, not one before."""
    breaker = Breaker(T)
    for n in range(MIN_SAMPLES // 2):
        assert breaker.state == "closed"
        succeed(breaker, T + n)
        was_opened = fail(breaker, T + n, detail="HTTP 503")
    assert was_opened
    assert breaker.reason == "10 of 20 calls failed within 60 s, the last: HTTP 503"


def test_less_than_half_leaves_it_closed() -> None:
    """Two good ones for each bad one, however many."""
    breaker = Breaker(T)
    for n in range(500):
        succeed(breaker, T + n / 10, 2)
        assert not fail(breaker, T + n / 10)


def test_a_closed_breaker_does_not_forget_failures_over_a_success() -> None:
    """A success ends a row only: the window keeps its failures."""
    breaker = Breaker(T)
    fail(breaker, T, 3)
    succeed(breaker, T)
    assert breaker.troubled
    assert (breaker.view(T).failures, breaker.view(T).samples) == (3, 4)


def test_successes_before_the_first_failure_count() -> None:
    """A quiet breaker that is ticked knows its successes of the last minute: 30 of them outweigh 20 failures."""
    breaker = Breaker(T)
    for n in range(10):
        breaker.tick(T + n * BUCKET_S)
        succeed(breaker, T + n * BUCKET_S, 3)
    now = T + 9 * BUCKET_S
    for _ in range(5):
        fail(breaker, now, RUN - 1)
        succeed(breaker, now)
    assert breaker.state == "closed"
    assert (breaker.view(now).failures, breaker.view(now).samples) == (20, 55)


def test_old_successes_do_not_hide_failures() -> None:
    """A thousand good calls an hour ago weigh nothing now."""
    breaker = Breaker(T)
    succeed(breaker, T, 1000)
    now = T + 3600
    breaker.tick(now)
    for _ in range(MIN_SAMPLES // 2):
        succeed(breaker, now)
        was_opened = fail(breaker, now)
    assert was_opened


def test_a_failure_turns_the_buckets_itself() -> None:
    """Half of twenty, but 19 of them more than a minute ago and no tick since: closed."""
    breaker = Breaker(T)
    for _ in range(MIN_SAMPLES // 2 - 1):
        fail(breaker, T)
        succeed(breaker, T)
    succeed(breaker, T)
    assert not fail(breaker, T + WINDOW_S)
    assert breaker.view(T + WINDOW_S).samples == 1


@pytest.mark.parametrize(("offset_s", "lives_s"), [(0.0, 60.0), (3.0, 57.0), (5.5, 54.5)])
def test_how_long_a_failure_counts(offset_s: float, lives_s: float) -> None:
    """Until its bucket leaves: 54 to 60 s, by where in the bucket it fell. Then nothing is troubled any more."""
    breaker = Breaker(T)
    fail(breaker, T + offset_s)
    breaker.tick(T + offset_s + lives_s - 0.01)
    assert breaker.troubled
    assert breaker.view(T + offset_s + lives_s - 0.01).failures == 1
    breaker.tick(T + offset_s + lives_s)
    assert not breaker.troubled
    assert breaker.view(T + offset_s + lives_s).samples == 0


def test_how_long_a_success_counts() -> None:
    """It is put at the tick before it, so the worst placed one counts for a little more than 48 s."""
    breaker = Breaker(T + 5.9)
    succeed(breaker, T + 11.8)
    breaker.tick(T + 11.9)
    assert breaker.view(T + WINDOW_S - 0.1).samples == 1
    assert breaker.view(T + WINDOW_S).samples == 0


def test_an_open_breaker_lets_one_probe_go_when_its_time_has_come() -> None:
    """Not a moment earlier, and while it runs no second one."""
    breaker = opened()
    assert not breaker.ready(T + FIRST_OPEN_S - 0.001)
    assert breaker.ready(T + FIRST_OPEN_S)
    breaker.begin_probe(T + FIRST_OPEN_S)
    assert breaker.state == "half_open"
    assert not breaker.ready(T + FIRST_OPEN_S)
    assert not breaker.ready(T + FIRST_OPEN_S + PROBE_LOST_S - 0.001)


def test_a_good_probe_closes_and_forgets() -> None:
    """One success, and the breaker is as new: no row, no window, the first delay again."""
    breaker = probing(T)
    succeed(breaker, T + 1)
    assert breaker.view(T + 1) == BreakerView("closed", "", 0.0, 0, 0, 0)
    assert (breaker.troubled, breaker.run, breaker.opened_at, breaker.detail) == (False, 0, 0.0, "")
    assert not fail(breaker, T + 2, RUN - 1)
    assert fail(breaker, T + 2)
    assert breaker.retry_at == T + 2 + FIRST_OPEN_S


def test_a_success_closes_an_open_breaker() -> None:
    """A call that was let through as the last one standing may close it at any time."""
    breaker = opened()
    succeed(breaker, T + 1)
    assert breaker.state == "closed"
    assert breaker.ready(T + 1)


def test_failed_probes_double_the_delay_up_to_the_cap() -> None:
    """15, 30, 60, 120, 240, 300, 300 s …, and the reason tells how many."""
    breaker = opened()
    delays = []
    now = T
    for _ in range(2000):
        delays.append(breaker.retry_at - now)
        now = breaker.retry_at
        breaker.begin_probe(now)
        assert fail(breaker, now, detail="timed out")
    assert delays[:7] == [15, 30, 60, 120, 240, 300, 300]
    assert max(delays) == MAX_OPEN_S
    assert (breaker.opens, breaker.opened_at) == (2001, T)
    assert breaker.reason == "5 failures in a row, then 2000 failed probes, the last: timed out"


def test_one_failed_probe_in_words() -> None:
    """The singular, too."""
    breaker = probing(T)
    fail(breaker, T, detail="HTTP 500")
    assert breaker.reason == "5 failures in a row, then 1 failed probe, the last: HTTP 500"


def test_a_failure_while_open_restarts_the_delay_without_doubling() -> None:
    """A call that was let through and failed puts the probe off by the same delay again."""
    breaker = Breaker(T)
    for _ in range(RUN):
        breaker.failed(T, "target_down", "connection refused", lambda: 0.0)
    assert breaker.retry_at == T + 0.8 * FIRST_OPEN_S
    assert not fail(breaker, T + 10, detail="HTTP 502")
    assert breaker.retry_at == T + 10 + 0.8 * FIRST_OPEN_S
    assert (breaker.opens, breaker.opened_at) == (1, T)
    assert breaker.reason == "5 failures in a row, the last: HTTP 502"


def test_an_abandoned_probe_lets_the_next_one_go_at_once() -> None:
    """A caller that hung up proved nothing: no doubling, no wait."""
    breaker = probing(T)
    breaker.probe_abandoned()
    assert (breaker.state, breaker.opens) == ("open", 1)
    assert breaker.ready(T)


def test_a_lost_probe_makes_room_for_another() -> None:
    """A probe whose end was never told blocks the lane for two minutes only; its successor is alone again."""
    breaker = probing(T)
    later = T + PROBE_LOST_S
    assert breaker.ready(later)
    breaker.begin_probe(later)
    assert not breaker.ready(later + 1)


@pytest.mark.parametrize("state", ["closed", "open", "half_open"])
def test_clearing_by_hand(state: str) -> None:
    """From every state to that of a new breaker, at once."""
    breaker = {"closed": Breaker, "open": opened, "half_open": probing}[state](T)
    fail(breaker, T, 1 if state == "closed" else 0)
    assert breaker.state == state
    breaker.clear(T + 1)
    assert breaker.view(T + 1) == BreakerView("closed", "", 0.0, 0, 0, 0)
    assert breaker.ready(T + 1)
    assert not breaker.troubled


def test_a_closed_breaker_has_no_probe() -> None:
    """Beginning or abandoning one changes nothing there."""
    breaker = Breaker(T)
    breaker.begin_probe(T)
    breaker.probe_abandoned()
    assert breaker.state == "closed"


def test_an_open_breaker_stays_troubled() -> None:
    """However long nobody calls: the next success has to be told."""
    breaker = opened()
    breaker.tick(T + 10_000)
    assert breaker.troubled
    breaker.begin_probe(T + 10_000)
    breaker.tick(T + 20_000)
    assert breaker.troubled
