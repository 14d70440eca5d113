"""When a round of probes is due, what it may conclude and what it may cost; on a clock of our own."""

from itertools import product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.model.price import Price, cost_nanousd
from potluck.model.usage import TokenUsage
from potluck.policy.breaker import FIRST_OPEN_S, RUN, Breaker
from potluck.policy.probing import (
    JITTER,
    MAX_TOKENS,
    DayBudget,
    Outcome,
    Rounds,
    bound_nanousd,
    completion_body,
    wants_completion,
)

T = 6_000.0
EVERY_S = 60.0
PRICE = Price(input=100_000_000, output=400_000_000, version="test:1", source="operator")


def middle() -> float:
    """A jitter in the middle."""
    return 0.5


def soonest() -> float:
    """No jitter."""
    return 0.0


def fail(breaker: Breaker, now: float, times: int = 1) -> None:
    """Failures that count."""
    for _ in range(times):
        breaker.failed(now, "target_down", "connection refused", middle)


def rounds(*breakers: Breaker, model: Breaker | None = None) -> Rounds:
    """The rounds of an account with these lanes, begun at T."""
    return Rounds(T, EVERY_S, soonest, breakers, model)


def begin(these: Rounds, now: float, *breakers: Breaker, model: Breaker | None = None) -> Rounds:
    """One more round."""
    these.begin(now, EVERY_S, soonest, breakers, model)
    return these


@given(st.floats(0, 1, exclude_max=True), st.floats(10, 86_400))
def test_a_round_comes_after_its_time_and_within_the_jitter(chance: float, every_s: float) -> None:
    """Never sooner than `every_s`, never later than that and a fifth."""
    these = Rounds(T, every_s, lambda: chance)
    assert not these.due(T + every_s * 0.999)
    assert these.due(T + every_s * (1 + JITTER) * 1.001)


def test_only_one_round_at_a_time() -> None:
    """While one is under way none is due, however long it takes; then the next is."""
    these = begin(rounds(), T + EVERY_S)
    assert not these.due(T + 10 * EVERY_S)
    these.end()
    assert these.due(T + 2 * EVERY_S)
    assert not these.due(T + 2 * EVERY_S - 1)


def test_a_success_since_the_last_round_is_live_traffic() -> None:
    """It is so for one round, whichever lane of the account it was on."""
    first, second = Breaker(T), Breaker(T)
    these = rounds(first, second)
    assert not begin(these, T + 60, first, second).live
    second.good += 1
    assert begin(these, T + 120, first, second).live
    assert not begin(these, T + 180, first, second).live


def test_what_succeeded_before_is_no_live_traffic() -> None:
    """Only what comes after the account was made counts, and a lane that is new brings its successes."""
    old = Breaker(T)
    old.good = 7
    these = rounds(old)
    assert not begin(these, T + 60, old).live
    fresh = Breaker(T)
    fresh.good = 1
    assert begin(these, T + 120, old, fresh).live


def test_the_models_lane_is_quiet_until_a_call_succeeds_there() -> None:
    """A success before the round counts, one during it counts, one on another lane does not."""
    model, other = Breaker(T), Breaker(T)
    these = rounds(model, other, model=model)
    other.good += 1
    assert begin(these, T + 60, model, other, model=model).quiet
    model.good += 1
    assert not these.quiet
    assert not begin(these, T + 120, model, other, model=model).quiet
    assert begin(these, T + 180, model, other, model=model).quiet


def test_without_a_model_nothing_is_quiet() -> None:
    """There is no lane that a completion could go over."""
    assert not begin(rounds(), T + 60).quiet


def test_a_probes_own_success_is_no_live_traffic() -> None:
    """It counts for the lane, and neither makes the account live nor its model loud."""
    model = Breaker(T)
    these = begin(rounds(model, model=model), T + 60, model, model=model)
    these.succeeded(model)
    assert model.good == 1
    assert begin(these, T + 120, model, model=model).quiet
    assert not these.live


def test_a_good_list_lets_an_open_breakers_probe_go_now() -> None:
    """It stays open: only a completion or a call closes it."""
    breaker = Breaker(T)
    fail(breaker, T, RUN)
    assert not breaker.ready(T + 1)
    begin(rounds(breaker), T + 1, breaker).listed(T + 1, [breaker])
    assert breaker.state == "open"
    assert breaker.ready(T + 1)


def test_a_good_list_does_not_hurry_a_model_that_failed_its_probe() -> None:
    """The server was well all the time, so it is the model: its growing delay stands."""
    breaker = Breaker(T)
    fail(breaker, T, RUN)
    breaker.begin_probe(T + FIRST_OPEN_S)
    fail(breaker, T + FIRST_OPEN_S)
    these = begin(rounds(breaker), T + 20, breaker)
    these.listed(T + 20, [breaker])
    assert not breaker.ready(T + 20)


def test_a_server_that_comes_back_hurries_every_breaker() -> None:
    """After a list that failed a good one is news, once."""
    breaker = Breaker(T)
    fail(breaker, T, RUN)
    breaker.begin_probe(T + FIRST_OPEN_S)
    fail(breaker, T + FIRST_OPEN_S)
    these = begin(rounds(breaker), T + 20, breaker)
    these.down([])
    these.listed(T + 21, [breaker])
    assert breaker.ready(T + 21)
    assert not these.was_down


def test_a_breaker_whose_probe_is_due_is_not_put_off() -> None:
    """`retry_at` is only ever brought forward."""
    breaker = Breaker(T)
    fail(breaker, T, RUN)
    due_at = breaker.retry_at
    begin(rounds(breaker), due_at + 5, breaker).listed(due_at + 5, [breaker])
    assert breaker.retry_at == due_at


def test_a_dead_key_is_revived_once_until_a_call_succeeds() -> None:
    """A server that lists its models to anybody would revive it for ever."""
    breaker = Breaker(T)
    these = begin(rounds(breaker), T + 60, breaker)
    assert these.may_revive()
    assert not begin(these, T + 120, breaker).may_revive()
    breaker.good += 1
    assert begin(these, T + 180, breaker).may_revive()


def test_failed_probes_far_apart_open_no_breaker() -> None:
    """A good list makes up for the failures that probes alone have added, and is not taken for live traffic."""
    breaker = Breaker(T)
    these = rounds(breaker)
    for n in range(1, 3 * RUN):
        begin(these, T + 60 * n, breaker)
        assert not these.live
        if n % 3:
            fail(breaker, T + 60 * n)
            these.down([breaker])
        else:
            these.listed(T + 60 * n, [breaker])
        assert breaker.state == "closed"
    assert breaker.run < RUN


def test_failed_probes_in_a_row_open_the_breaker() -> None:
    """Each counts as one failure, like a call's."""
    breaker = Breaker(T)
    these = rounds(breaker)
    for n in range(1, RUN + 1):
        assert breaker.state == "closed"
        begin(these, T + 60 * n, breaker)
        fail(breaker, T + 60 * n)
        these.down([breaker])
    assert breaker.state == "open"


def test_a_good_list_does_not_excuse_a_failed_call() -> None:
    """A failure of live traffic in between stays: the list says nothing about the model."""
    breaker = Breaker(T)
    these = begin(rounds(breaker), T + 60, breaker)
    fail(breaker, T + 60)
    these.down([breaker])
    fail(breaker, T + 70)
    begin(these, T + 120, breaker).listed(T + 120, [breaker])
    assert breaker.run == 2
    assert breaker.good == 0


def test_a_call_that_succeeds_ends_the_blame() -> None:
    """Failures of calls after it are not mistaken for those of the probe before it."""
    breaker = Breaker(T)
    these = begin(rounds(breaker), T + 60, breaker)
    fail(breaker, T + 60)
    these.down([breaker])
    breaker.good += 1
    fail(breaker, T + 100)
    begin(these, T + 120, breaker).listed(T + 120, [breaker])
    assert breaker.run == 1


@pytest.mark.parametrize(
    ("models", "quiet", "free", "is_open"),
    list(product(get_args(Outcome), (True, False), (True, False), (True, False))),
)
def test_a_completion_is_asked_for_in_two_cases_only(models: Outcome, quiet: bool, free: bool, is_open: bool) -> None:
    """No list of models; or a good list and an open breaker. Never over a lane that is loud or takes no call."""
    wanted = quiet and free and (models == "not_served" or (models == "ok" and is_open))
    assert wants_completion(models, quiet=quiet, free=free, is_open=is_open) == wanted


def test_a_completion_is_bounded_in_its_request() -> None:
    """The limit is in the body, under the name that the provider wants."""
    body = completion_body(b'"m"', "max_completion_tokens")
    assert b'"model":"m"' in body
    assert b'"max_completion_tokens":%d' % MAX_TOKENS in body


@given(st.integers(0, 200), st.integers(0, MAX_TOKENS), st.integers(0, 10**10), st.integers(0, 10**10))
def test_the_bound_is_never_passed_by_a_model_that_keeps_its_limit(
    request_bytes: int, output: int, rate: int, reasoning_rate: int
) -> None:
    """However many of its tokens are text or thoughts, and whichever is dearer."""
    price = Price(rate, rate, "test:1", "operator", reasoning=reasoning_rate, per_request=3)
    bound = bound_nanousd(price, request_bytes)
    for thoughts in range(output + 1):
        usage = TokenUsage(request_bytes, output, reasoning_tokens=thoughts)
        assert cost_nanousd(usage, price) <= bound


def test_a_free_model_costs_nothing() -> None:
    """The bound of a price of 0 is 0."""
    assert bound_nanousd(Price(0, 0, "own", "own"), 100) == 0


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=40), st.integers(0, 200))
def test_what_is_reserved_never_passes_the_days_budget(calls: list[tuple[int, int]], limit: int) -> None:
    """With costs of at most what was reserved, the day's sum stays within its limit at every moment."""
    budget = DayBudget()
    for reserved, cost in calls:
        before = budget.spent.get("prv", 0)
        if budget.reserve("prv", reserved, limit, 5):
            assert budget.spent["prv"] <= limit
            budget.settle("prv", reserved, min(cost, reserved), 5)
        else:
            assert limit == 0 or before + reserved > limit
            assert budget.spent.get("prv", 0) == before
    assert budget.spent.get("prv", 0) <= limit


def test_nothing_goes_without_a_budget() -> None:
    """Not even what costs nothing."""
    assert not DayBudget().reserve("prv", 0, 0, 5)


def test_each_provider_has_its_own_day() -> None:
    """Budgets are by provider, and a new day of UTC begins at 0."""
    budget = DayBudget(5, {"a": 100})
    assert not budget.reserve("a", 1, 100, 5)
    assert budget.reserve("b", 1, 100, 5)
    assert budget.reserve("a", 1, 100, 6)
    assert budget.spent == {"a": 1}


def test_a_clock_set_back_begins_no_new_day() -> None:
    """Yesterday's number is today still."""
    budget = DayBudget(5, {"a": 100})
    assert not budget.reserve("a", 1, 100, 4)
    assert budget.day == 5


def test_what_was_reserved_yesterday_is_not_given_back_today() -> None:
    """A completion over midnight changes nothing in the new day."""
    budget = DayBudget()
    assert budget.reserve("a", 10, 100, 5)
    assert budget.reserve("a", 20, 100, 6)
    budget.settle("a", 10, 1, 5)
    assert budget.spent == {"a": 20}


def test_a_cost_beyond_the_bound_is_counted_whole() -> None:
    """A model that thinks beyond its limit uses up the day sooner."""
    budget = DayBudget()
    assert budget.reserve("a", 10, 100, 5)
    budget.settle("a", 10, 95, 5)
    assert not budget.reserve("a", 10, 100, 5)
