"""Machines that lie about themselves: what they say and what they do not do cannot keep requests from the others."""

import time

from fleet_rig import ASK, NOW, machine, options, pool

from potluck.policy.machine_choice import FULL, OVER_BOUND, consider
from potluck.policy.machine_groups import SILENT_S, Host
from potluck.policy.machines import Machine

INFINITE = {"prefill_tps": 1e7, "decode_tps": 1e7, "slots": 2**53 - 1}


def test_a_machine_that_claims_infinite_speed_and_answers_nothing_is_left():
    """It gets what comes in the first seconds; then it counts as full until it answers something."""
    liar, honest = machine(**INFINITE), machine()
    assert pool([liar, honest]) == [0]
    works = [liar.begin(ASK, NOW + n / 10) for n in range(20)]
    later = NOW + SILENT_S + 0.1
    choice = consider(options(liar, honest), ASK, later)
    assert (choice.verdicts[0], choice.pool) == (FULL, [1])
    assert pool([liar], now=later) == [0], "alone it is asked all the same"
    works[7].first_token(later)
    assert pool([liar, honest], now=later) == [0]


def test_time_that_was_to_be_expected_is_no_silence():
    """A slow machine that is at work on a long prompt is not left for it, nor one whose caller has gone."""
    slow = machine(prefill_tps=100.0)
    first = slow.begin(ASK, NOW)
    assert not slow.set_aside(NOW + 10)
    streaming = slow.begin(ASK, NOW)
    streaming.first_token(NOW + 11)
    gone = slow.begin(ASK, NOW + 12)
    gone.dropped(NOW + 12.1)
    first.end(200, NOW + 14)
    assert not slow.set_aside(NOW + 29), "the only call that it has is being answered"


def test_a_silence_goes_on_when_its_first_caller_leaves():
    """Callers that give up one by one hide nothing."""
    stuck = machine(**INFINITE)
    works = [stuck.begin(ASK, NOW + n / 10) for n in range(3)]
    works[0].dropped(NOW + 0.5)
    assert stuck.set_aside(NOW + SILENT_S + 0.2)
    for work in works[1:]:
        work.dropped(NOW + 3)
    assert not stuck.set_aside(NOW + 3), "nothing is there that it could answer"


def test_the_load_of_five_hundred_models_is_counted_once():
    """A report of each of an engine's models takes time by their number, not by its square."""
    host = Host()
    models = [Machine(host=host) for _ in range(2_000)]
    began = time.process_time()
    for n, model in enumerate(models):
        model.report(reported_at=NOW, running=n % 3, waiting=n % 2)
    assert time.process_time() - began < 0.5
    assert host.others == models[0].busy == sum(n % 3 + n % 2 for n in range(2_000))
    assert host.others_waiting == 1_000


def test_an_absurd_count_raises_nobodys_share():
    """One machine says that it has 2**53 calls: the bound on what the others have in flight holds all the same."""
    absurd, busy, other = machine(running=2**53 - 1), machine(), machine(running=4)
    for n in range(60):
        busy.begin(ASK, NOW - n / 100)
    assert consider(options(absurd, busy, other), ASK, NOW).verdicts[1] == OVER_BOUND
