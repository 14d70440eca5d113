"""Whether a machine is believed that the request is wrong."""

from hypothesis import given
from hypothesis import strategies as st

from potluck.policy.objections import BELIEVED_IN_A_ROW, Objections


def test_who_never_answered_well_is_not_believed() -> None:
    """However often it says so."""
    made = Objections()
    assert not any(made.believed(0) for _ in range(10))


def test_a_machine_that_answers_is_believed_a_few_times_in_a_row() -> None:
    """Then it is doubted, until it has answered well again."""
    made = Objections()
    assert [made.believed(7) for _ in range(BELIEVED_IN_A_ROW + 2)] == [True] * BELIEVED_IN_A_ROW + [False] * 2
    assert made.believed(8)


@given(st.lists(st.booleans(), max_size=60))
def test_belief_is_what_the_last_answers_say(events: list[bool]) -> None:
    """True: a good answer, False: an objection. Believed exactly where a good one is among the few before it."""
    made, good = Objections(), 0
    for n, well in enumerate(events):
        if well:
            good += 1
        else:
            assert made.believed(good) == any(events[max(0, n - BELIEVED_IN_A_ROW) : n])
