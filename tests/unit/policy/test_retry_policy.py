"""What may be called after a failed call, and who is to blame."""

from typing import get_args

import pytest

from potluck.model.usage import ErrorClass
from potluck.policy.retry import (
    MAX_CALLS,
    MAX_TARGETS,
    SAME_TARGET_MAX_S,
    Blame,
    Spent,
    another_key_first,
    another_key_may_do,
    backoff_s,
    blame,
    smallest_retry_after,
)

NEVER = float("inf")
NOW = 100.0


def middle() -> float:
    """A jitter factor of exactly 1."""
    return 0.5


def after(
    *failures: tuple[str, str, ErrorClass, str, int], deadline: float = NEVER, retry_after_s: float | None = None
) -> Spent:
    """What is left after calls, each of (target, credential, class, phase, status)."""
    spent = Spent(deadline)
    for target, credential, error_class, phase, status in failures:
        spent.called(target, credential)
        spent.failed(target, error_class, phase, status, retry_after_s)
    return spent


def test_a_new_target_is_tried_at_once_up_to_the_cap() -> None:
    """After the first and the second target another, after the third none."""
    spent = Spent(NEVER)
    for n in range(MAX_TARGETS):
        assert spent.may_try(f"t{n}", "k", NOW)
        spent.called(f"t{n}", "k")
        spent.failed(f"t{n}", "target_down", "first_byte", 200)
    assert spent.targets == MAX_TARGETS
    assert not spent.may_try("t9", "k", NOW)
    assert spent.may_call(NOW)


def test_calls_are_capped() -> None:
    """After four calls nothing goes, neither new nor again."""
    spent = after(*[("t", f"k{n}", "key_limited", "first_byte", 429) for n in range(MAX_CALLS)])
    assert not spent.may_call(NOW)
    assert not spent.may_try("t", "k9", NOW)
    assert not spent.may_try("other", "k", NOW)
    spent = after(*[(f"t{n % 3}", "k", "target_down", "connect", 0) for n in range(MAX_CALLS)])
    assert spent.again_after_s("t1", NOW, middle) is None


@pytest.mark.parametrize("error_class", ["key_dead", "key_limited"])
def test_another_key_of_the_target_is_no_new_target(error_class: ErrorClass) -> None:
    """Where the key was at fault, the target's other keys may be tried at once, also with three targets used."""
    spent = after(
        ("a", "k", "target_down", "connect", 0),
        ("b", "k", "target_down", "connect", 0),
        ("c", "k1", error_class, "", 0),
    )
    assert spent.may_try("c", "k2", NOW)
    assert not spent.may_try("c", "k1", NOW)
    assert spent.again_after_s("c", NOW, middle) is None


@pytest.mark.parametrize(
    ("error_class", "status", "may"),
    [
        ("key_dead", 401, True),
        ("key_dead", 402, True),
        ("key_dead", 403, True),
        ("key_limited", 429, True),
        ("policy", 402, True),
        ("policy", 403, False),
        ("target_down", 503, False),
        ("target_slow", 0, False),
        ("caller_fault", 400, False),
    ],
)
def test_when_another_key_may_do(error_class: ErrorClass, status: int, may: bool) -> None:
    """Where the key was the matter; after a 403, which may be the model's, only once other targets have been asked."""
    assert another_key_may_do(error_class, status) is may
    assert another_key_first(error_class, status) is (may and status != 403)
    spent = after(("a", "k1", error_class, "first_byte", status))
    assert spent.may_try("a", "k2", NOW) is may


def test_a_targets_own_rules_end_nothing() -> None:
    """Another target may take what this one refuses; this one is not asked again."""
    spent = after(("a", "k", "policy", "first_byte", 403))
    assert not spent.final
    assert spent.may_try("b", "k", NOW)
    assert spent.again_after_s("a", NOW, middle) is None


def test_another_key_does_not_help_where_the_target_is_at_fault() -> None:
    """A refused connection meets every key: it is the same target again, with its back-off."""
    spent = after(("a", "k1", "target_down", "connect", 0))
    assert not spent.may_try("a", "k2", NOW)
    assert spent.again_after_s("a", NOW, middle) == 0.5


@pytest.mark.parametrize(
    ("error_class", "phase", "status", "again"),
    [
        ("target_down", "connect", 0, True),
        ("target_slow", "connect", 0, True),
        ("target_down", "first_byte", 500, True),
        ("target_down", "first_byte", 503, True),
        ("target_slow", "first_byte", 504, True),
        ("target_down", "first_byte", 404, False),
        ("target_down", "first_byte", 200, False),
        ("target_down", "first_byte", 0, False),
        ("target_slow", "first_byte", 0, False),
        ("target_down", "send", 0, False),
        ("target_down", "stream", 200, False),
        ("key_limited", "first_byte", 429, False),
    ],
)
def test_which_failures_allow_the_same_target_again(
    error_class: ErrorClass, phase: str, status: int, again: bool
) -> None:
    """Only where it was not reached, or said 5xx: in every other case it worked, or may have."""
    assert (after(("a", "k", error_class, phase, status)).again_after_s("a", NOW, middle) is not None) is again


def test_the_same_target_is_called_again_once() -> None:
    """The second failure of a target is its last; the next target's back-off is longer."""
    refused = ("target_down", "connect", 0)
    spent = after(("a", "k", *refused), ("a", "k", *refused), ("b", "k", *refused))
    assert spent.again_after_s("a", NOW, middle) is None
    assert spent.again_after_s("b", NOW, middle) == 1.0


def test_a_target_never_called_is_not_called_again() -> None:
    """Again needs a first time."""
    assert after(("a", "k", "target_down", "connect", 0)).again_after_s("b", NOW, middle) is None


def test_a_call_under_way_is_not_repeated() -> None:
    """A target that is being called at this moment has not failed."""
    spent = Spent(NEVER)
    spent.called("a", "k")
    assert spent.again_after_s("a", NOW, middle) is None
    assert not spent.may_try("a", "k2", NOW)


def test_another_key_is_not_the_same_call_again() -> None:
    """A target that refused one key and could not be reached with the next has its repetition left."""
    spent = after(("a", "k1", "key_limited", "first_byte", 429), ("a", "k2", "target_down", "connect", 0))
    assert spent.again_after_s("a", NOW, middle) == 0.5
    assert not spent.may_try("a", "k3", NOW)


def test_a_key_under_way_is_waited_for() -> None:
    """While the second key is tried, neither a third nor the same goes."""
    spent = after(("a", "k1", "key_limited", "first_byte", 429))
    spent.called("a", "k2")
    assert not spent.may_try("a", "k3", NOW)
    assert spent.again_after_s("a", NOW, middle) is None


def test_the_last_failure_of_a_target_decides() -> None:
    """Of two calls under way at once, the one that ended later says what may follow."""
    spent = Spent(NEVER)
    spent.called("a", "k1")
    spent.called("a", "k2")
    spent.failed("a", "key_limited", "first_byte", 429)
    assert spent.may_try("a", "k3", NOW)
    spent.failed("a", "target_slow", "first_byte", 0)
    assert not spent.may_try("a", "k3", NOW)


@pytest.mark.parametrize("error_class", ["caller_fault", "client_closed"])
def test_some_failures_are_final(error_class: ErrorClass) -> None:
    """A caller's fault never goes on, and nobody waits for the rest of a call hung up."""
    spent = after(("a", "k", "target_down", "connect", 0), ("b", "k", error_class, "first_byte", 400))
    assert spent.final
    assert not spent.may_call(NOW)
    assert not spent.may_try("c", "k", NOW)
    assert spent.again_after_s("a", NOW, middle) is None


def test_nothing_goes_past_the_deadline() -> None:
    """No call at or after it, and no back-off that would end there."""
    spent = after(("a", "k", "target_down", "connect", 0), deadline=NOW)
    assert spent.may_try("b", "k", NOW - 0.1)
    assert not spent.may_try("b", "k", NOW)
    assert spent.again_after_s("a", NOW - 0.6, middle) == 0.5
    assert spent.again_after_s("a", NOW - 0.5, middle) is None


@pytest.mark.parametrize(("asked_s", "wait_s"), [(0.1, 0.5), (3.0, 3.0), (5.0, 5.0), (5.1, None), (3600.0, None)])
def test_a_5xx_with_retry_after_is_given_its_time(asked_s: float, wait_s: float | None) -> None:
    """The target is called again no earlier than it asked, and not at all when that is long."""
    spent = after(("a", "k", "target_down", "first_byte", 503), retry_after_s=asked_s)
    assert spent.again_after_s("a", NOW, middle) == wait_s


def test_back_off_doubles_up_to_the_cap() -> None:
    """0.5 s doubling to 5 s, times 0.8 to 1.2."""
    assert [backoff_s(n, middle) for n in range(6)] == [0.5, 1, 2, 4, SAME_TARGET_MAX_S, SAME_TARGET_MAX_S]
    assert backoff_s(0, lambda: 0.0) == pytest.approx(0.4)
    assert backoff_s(0, lambda: 1.0) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("waits", "smallest"), [([], None), ([None, None], None), ([30.0, None, 2.0], 2.0), ([0.0, 1.0], 0.0)]
)
def test_the_smallest_retry_after(waits: list[float | None], smallest: float | None) -> None:
    """The soonest of those that said something; 0 is something."""
    assert smallest_retry_after(waits) == smallest


@pytest.mark.parametrize(
    ("error_class", "of_provider", "of_node"),
    [
        ("none", None, None),
        ("caller_fault", "caller", "caller"),
        ("client_closed", "caller", "caller"),
        ("policy", "policy", "policy"),
        ("lost", "gateway", "gateway"),
        ("key_dead", "provider", "node"),
        ("key_limited", "provider", "node"),
        ("target_down", "provider", "node"),
        ("target_slow", "provider", "node"),
    ],
)
def test_blame(error_class: ErrorClass, of_provider: Blame | None, of_node: Blame | None) -> None:
    """Every class has one culprit, by what kind of target it was."""
    assert blame(error_class, "openai/gpt-4o-mini") == of_provider
    assert blame(error_class, "node:lab-1/llama3.2:3b") == of_node


def test_our_own_shutdown_is_the_gateways_fault() -> None:
    """An attempt that our drain cut failed without a class of its own; one that failed by itself keeps its culprit."""
    assert blame("none", "openai/gpt-4o-mini", shutdown=True) == "gateway"
    assert blame("target_down", "openai/gpt-4o-mini", shutdown=True) == "provider"


def test_every_error_class_has_an_answer() -> None:
    """A class added to the closed set without a culprit is noticed here."""
    assert [name for name in get_args(ErrorClass) if name != "none" and blame(name) is None] == []


def test_a_refusal_inside_an_answer_was_a_call() -> None:
    """It did some of the work: unlike one before the answer, it counts as a call and as a target."""
    begun = after(*[(f"t{n}", "k", "refused", "stream", 200) for n in range(MAX_TARGETS)])
    assert (begun.calls, begun.targets, begun.refusals) == (MAX_TARGETS, MAX_TARGETS, 0)
    unbegun = after(*[(f"t{n}", "k", "refused", "connect", 0) for n in range(MAX_TARGETS)])
    assert (unbegun.calls, unbegun.targets) == (0, 0)
