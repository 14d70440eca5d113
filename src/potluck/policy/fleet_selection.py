"""The strategies where people's machines are among the options. What they promise is the same.

What is written down (tier, weight, price) decides as ever; if the draw falls on a machine, `machine_choice` says which
of those that are as good: weights decide between machines and providers, and scale the draw between machines. Where
speed or load decides, machines come in by what they would take, and only those of the best tie at all.
"""

from collections.abc import Sequence

import msgspec

from potluck.model.resources import Strategy
from potluck.policy.machine_choice import POOL, WORDS, choose, consider
from potluck.policy.selection import (
    COST_TIE,
    EXPLORE,
    PICK,
    TIME_TIE,
    Pick,
    Random,
    Score,
    Wish,
    expected_ms,
    peak_ms,
    pulls_of,
    score,
    times_of,
)
from potluck.policy.standing import Option


def pick_of(strategy: Strategy, options: Sequence[Option]) -> Pick:
    """How to choose among these, now and until some of them become machines or cease to be."""
    return PICK[strategy] if all(option.standing.machine is None for option in options) else _PICK[strategy]


def scores(strategy: Strategy, options: Sequence[Option], wish: Wish) -> list[Score]:
    """What ranks each of `options`, in words; of a machine also its share of the draw between machines, or why none."""
    times = times_of(options, wish)
    found = [score(strategy, options, index, wish, times) for index in range(len(options))]
    machines = _machines(options)
    if len(machines) < 2:
        return found
    choice = consider([options[index] for index in machines], wish.of_machines(), wish.now)
    shares = dict(zip(choice.pool, choice.weights, strict=True))
    for number, index in enumerate(machines):
        verdict = choice.verdicts[number]
        said = f"{100 * shares[number] / sum(choice.weights):.0f} % of the draw" if verdict == POOL else WORDS[verdict]
        found[index] = msgspec.structs.replace(found[index], text=f"{found[index].text}; {said}")
    return found


def _priority(options: Sequence[Option], wish: Wish, random: Random) -> int:
    chosen = PICK["priority"](options, wish, random)
    tier = options[chosen].priority
    return _settled(options, chosen, [each.priority == tier for each in options], wish, random)


def _weighted(options: Sequence[Option], wish: Wish, random: Random) -> int:
    chosen = PICK["weighted"](options, wish, random)
    return chosen if wish.subject else _settled(options, chosen, [True] * len(options), wish, random)


def _cheapest(options: Sequence[Option], wish: Wish, random: Random) -> int:
    chosen = PICK["cheapest"](options, wish, random)
    limit = min(each.cost for each in options) * COST_TIE
    return _settled(options, chosen, [each.cost <= limit for each in options], wish, random)


def _settled(options: Sequence[Option], chosen: int, as_good: list[bool], wish: Wish, random: Random) -> int:
    """`chosen`, or if that is a machine, the one of those as good as it that the machines' own rules draw."""
    if options[chosen].standing.machine is None:
        return chosen
    machines = [index for index in _machines(options) if as_good[index]]
    return machines[choose([options[index] for index in machines], wish.of_machines(), wish.now, random)]


def _fastest(options: Sequence[Option], wish: Wish, random: Random) -> int:
    """One machine, as they are chosen between, against the providers' expected times."""
    machines = _machines(options)
    if not machines:  # those of the pool were tried, or are away
        return PICK["fastest"](options, wish, random)
    rivals = [index for index, option in enumerate(options) if option.standing.machine is None]
    rivals.append(machines[choose([options[index] for index in machines], wish.of_machines(), wish.now, random)])
    if random() < EXPLORE:
        return rivals[int(random() * len(rivals))]
    times = [expected_ms(options[index], wish) for index in rivals]
    limit = min([ms for ms in times if ms is not None]) * TIME_TIE
    tied = [index for index, ms in zip(rivals, times, strict=True) if ms is None or ms <= limit]
    return tied[PICK["weighted"]([options[index] for index in tied], Wish(), random)]


def _least_busy(options: Sequence[Option], wish: Wish, random: Random) -> int:
    """Of two drawn by slots the one with the lower load, times its time if both have one."""
    eligible = _eligible(options, wish)
    if len(eligible) == 1 or random() < EXPLORE:
        return eligible[int(random() * len(eligible))]
    one = _by_slots(options, eligible, random)
    other = _by_slots(options, [index for index in eligible if index != one], random)
    loads = [_load(options[index]) for index in (one, other)]
    peaks = [peak_ms(options[index], wish) for index in (one, other)]
    if peaks[0] is not None and peaks[1] is not None:
        loads = [loads[0] * peaks[0], loads[1] * peaks[1]]
    return other if loads[1] < loads[0] else one


def _balanced(options: Sequence[Option], wish: Wish, random: Random) -> int:
    eligible = _eligible(options, wish)
    if random() < EXPLORE:
        return eligible[int(random() * len(eligible))]
    pulls = pulls_of([options[index] for index in eligible], wish)
    point = random() * sum(pulls)
    for index, pull in zip(eligible, pulls, strict=True):
        point -= pull
        if point < 0:
            return index
    return eligible[-1]


def _machines(options: Sequence[Option]) -> list[int]:
    return [index for index, option in enumerate(options) if option.standing.machine is not None]


def _eligible(options: Sequence[Option], wish: Wish) -> list[int]:
    """The providers, and the machines of the best tie."""
    machines = _machines(options)
    if not machines:
        return list(range(len(options)))
    pool = consider([options[index] for index in machines], wish.of_machines(), wish.now).pool
    drawn = {machines[index] for index in pool}
    return [index for index, option in enumerate(options) if option.standing.machine is None or index in drawn]


def _load(option: Option) -> float:
    """Calls per slot, this one included."""
    machine = option.standing.machine
    if machine is None:
        return (option.standing.in_flight + 1) / option.slots
    return (machine.busy + 1) / machine.slots


def _by_slots(options: Sequence[Option], among: list[int], random: Random) -> int:
    point = random() * sum(options[index].slots for index in among)
    for index in among:
        point -= options[index].slots
        if point < 0:
            return index
    return among[-1]


_PICK: dict[Strategy, Pick] = {
    "priority": _priority,
    "weighted": _weighted,
    "cheapest": _cheapest,
    "fastest": _fastest,
    "least_busy": _least_busy,
    "balanced": _balanced,
}
