"""Which of several machines a request goes to. No machine is ever refused a request because of an estimate.

1. Left out, unless that leaves none: machines that count as full (no news of their load, no answer for long, or they
   have just refused), and those with more than their share of what is in flight (bounded load, by speed; free slots are
   always in bounds).
2. Affinity: if some have `HIT` of the prompt cached, only those, while the best of them has its first token at most
   `T_MAX_MS` later than the best of all.
3. A machine that would have to load the model comes in only if the best of the others is slower than it by more than a
   tie, the wait for a load that runs already included: one load serves all who wait for it.
4. Ties: whatever is within a tie of the least total, and of the least first token among those. One of them is drawn by
   weight / cost, times what is owed to the own ones and to nodes that had no work for long: the best one does not get
   everything, nor the one listed first.
5. A share `EXPLORE_MACHINES` of the requests goes to nodes that have had nothing for `UNSERVED_S`, new ones too, while
   there are any: what is not called is not known.

In a large fleet a request is compared on `MAX_LOOKED_AT` machines drawn at random, and on as many at most that have its
prompt cached: the best of these is about as good as the best of all, and a choice takes no longer.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from math import ceil

import msgspec

from potluck.policy.machine_cost import Ask, Expected
from potluck.policy.machines import Machine
from potluck.policy.standing import MIN_EXPOSURE, Option

HIT = 0.8
"""share of a prompt that is cached from which on staying there is worth a wait"""
T_MAX_MS = 8_000.0
"""the wait that it is worth"""
TIE_SHARE = 0.15
TIE_MS = 1_500.0
"""totals within the larger of these two are the same"""
FIRST_TIE_MS = 150.0
"""and of these, first tokens within `TIE_SHARE` or this"""
GUESS_SHARE = 0.5
"""of a cost that is guessed, which has to be in the tie: unknown is not slow"""
BOUND = 1.25
"""a machine has at most this many times its share of the calls in flight"""
EXPLORE_MACHINES = 0.02
UNSERVED_S = 3_600.0
IDLE_S = 600.0
"""in which the draw's weight of a node without work doubles"""
OTHERS_PER_SLOT = 2
"""others' calls at a machine, which only it knows of, count up to so many per slot in what is in flight"""
OWN_FAVOUR = 2.0
"""how many times likelier an own machine is drawn than a stranger's of the same cost"""

MAX_LOOKED_AT = 64

Random = Callable[[], float]
"""uniform in [0, 1)"""

POOL, FULL, OVER_BOUND, COLD_PREFIX, LOADS, DEARER = range(6)
"""in the draw, or out of it by which rule"""
WORDS = (
    "in the draw",
    "counts as full: no news of its load, no answer for long, or it has just refused",
    "has more than its share of what is in flight",
    "others have the prompt cached",
    "would have to load the model",
    "dearer than a tie",
)


class Choice(msgspec.Struct, frozen=True):
    """What was considered, by option."""

    expected: list[Expected]
    verdicts: list[int]
    pool: list[int]
    """options in the draw; never empty"""
    weights: list[float]
    """of those, what the draw goes by"""


def choose(options: Sequence[Option], ask: Ask, now: float, random: Random) -> int:
    """Index of the machine to ask; each option has one (`standing.machine`). `now`: monotonic seconds."""
    if len(options) == 1:
        return 0
    if random() < EXPLORE_MACHINES:
        unserved = [index for index, option in enumerate(options) if _unserved(_machine(option), now)]
        if unserved:
            return unserved[int(random() * len(unserved))]
    if len(options) > MAX_LOOKED_AT:
        some = _some(options, ask, now, random)
        return some[_drawn(consider([options[index] for index in some], ask, now), random)]
    return _drawn(consider(options, ask, now), random)


def _drawn(choice: Choice, random: Random) -> int:
    point = random() * sum(choice.weights)
    for index, weight in zip(choice.pool, choice.weights, strict=True):
        point -= weight
        if point < 0:
            return index
    return choice.pool[-1]


def _some(options: Sequence[Option], ask: Ask, now: float, random: Random) -> list[int]:
    """Of many machines some at random, and some that have the prompt cached."""
    indices = list(range(len(options)))
    for drawn in range(MAX_LOOKED_AT):
        other = drawn + int(random() * (len(indices) - drawn))
        indices[drawn], indices[other] = indices[other], indices[drawn]
    rest = indices[MAX_LOOKED_AT:]
    cached = (index for index in rest if ask.blocks and _machine(options[index]).hit(ask, now) >= HIT)
    return [*indices[:MAX_LOOKED_AT], *islice(cached, MAX_LOOKED_AT)]


def consider(options: Sequence[Option], ask: Ask, now: float) -> Choice:
    """Rules 1 to 4 but for the draw."""
    machines = [_machine(option) for option in options]
    expected = [machine.expect(ask, now) for machine in machines]
    scores = [
        each.total_ms * min(max(option.exposure, MIN_EXPOSURE), 1.0)
        for each, option in zip(expected, options, strict=True)
    ]
    verdicts = [POOL] * len(options)

    def narrow(left: list[int], verdict: int, kept: list[int]) -> list[int]:
        """Only `kept` stay, unless that is none of them."""
        if not kept or len(kept) == len(left):
            return left
        for index in set(left).difference(kept):
            verdicts[index] = verdict
        return kept

    left = list(range(len(options)))
    left = narrow(left, FULL, [index for index in left if not expected[index].aside])
    left = narrow(left, OVER_BOUND, _within_bounds(left, machines, expected, now))
    warm = [index for index in left if expected[index].hit >= HIT]
    if warm:
        first = min(expected[index].ttft_ms for index in left)
        if min(expected[index].ttft_ms for index in warm) - first <= T_MAX_MS:
            left = narrow(left, COLD_PREFIX, warm)
    ready = [index for index in left if not expected[index].loads]
    if ready and len(ready) < len(left):
        pays_below = min(scores[index] for index in ready)
        pays_below -= max(pays_below * TIE_SHARE, TIE_MS)
        left = narrow(left, LOADS, [index for index in left if index in ready or scores[index] < pays_below])
    left = narrow(left, DEARER, _tied(left, scores, expected))
    weights = [
        options[index].weight * _favour(options[index], machines[index], now) / max(scores[index], 1.0)
        for index in left
    ]
    return Choice(expected, verdicts, left, weights)


def _machine(option: Option) -> Machine:
    machine = option.standing.machine
    assert machine is not None, "only machines are chosen between here"
    return machine


def _unserved(machine: Machine, now: float) -> bool:
    return now - machine.host.begun_at >= UNSERVED_S and not machine.set_aside(now) and machine.busy < machine.room(now)


def _within_bounds(left: list[int], machines: list[Machine], expected: list[Expected], now: float) -> list[int]:
    """Those with a free slot, or with no more than `BOUND` times their share, by speed, of what is in flight.

    Machines that would have to load are no part of it: they share nothing yet. Some are always within.
    """
    sharing = [index for index in left if not expected[index].loads]
    if all(expected[index].free for index in sharing):
        return left
    capacities = {index: machines[index].capacity_tps(now) for index in sharing}
    in_flight = sum(_believed_busy(machines[index], now) for index in sharing)
    each = BOUND * (in_flight + 1) / sum(capacities.values())
    return [
        index
        for index in left
        if expected[index].loads
        or machines[index].busy < max(machines[index].room(now), ceil(each * capacities[index]))
    ]


def _believed_busy(machine: Machine, now: float) -> int:
    """Its part of what is in flight: one absurd word must not raise everybody's share beyond every bound."""
    host = machine.host
    return len(host.works) + min(host.others, OTHERS_PER_SLOT * machine.room(now))


def _tied(left: list[int], scores: list[float], expected: list[Expected]) -> list[int]:
    """Those whose total, and then whose first token, is as good as the best."""

    def optimistic(index: int, ms: float) -> float:
        return ms * GUESS_SHARE if expected[index].guessed else ms

    best = min(scores[index] for index in left)
    most = best + max(best * TIE_SHARE, TIE_MS)
    tied = [index for index in left if optimistic(index, scores[index]) <= most]
    first = min(expected[index].ttft_ms for index in tied)
    soon = first + max(first * TIE_SHARE, FIRST_TIE_MS)
    return [index for index in tied if optimistic(index, expected[index].ttft_ms) <= soon]


def _favour(option: Option, machine: Machine, now: float) -> float:
    """What is owed: 1 to 2 by how long its node had no work, twice that to an own one."""
    idle = 1 + min(1.0, (now - machine.host.begun_at) / IDLE_S)
    return idle * OWN_FAVOUR if option.own else idle
