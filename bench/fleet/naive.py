"""Policies that failed in the field, each as it was meant: a few lines that look right.

All of them see what ours sees, count calls in flight at dispatch unless they are about not doing so, leave out machines
that are away, and try three machines before they give up.
"""

from collections.abc import Callable

from bench.fleet.sight import Prompt, Report

MAX_TRIES = 3
GATE_S = 10.0
"""hard_gate: a longer expected time to the first token is refused"""
RUN = 5
"""per session: failures in a row that open the breaker, which forgets at the next connection"""


class Naive:
    """The bookkeeping that they share. Implements `sight.Scheduler`."""

    def __init__(self, choose: "Choose") -> None:
        self._choose = choose
        self._models: dict[str, tuple[str, ...]] = {}
        self._away: dict[str, str] = {}
        self._failures: dict[str, int] = {}
        """in a row, in this session"""
        self.reports: dict[tuple[str, str], Report] = {}
        self.in_flight: dict[str, int] = {}
        self.last: dict[int, str] = {}
        """by first block: the machine that was called for it last"""
        self.turn = 0

    def joined(self, box: str, models: tuple[str, ...], now: float) -> None:
        self._models[box] = models
        self._failures[box] = 0
        self.in_flight.setdefault(box, 0)

    def away(self, box: str, reason: str, now: float) -> None:
        self._away[box] = reason

    def report(self, report: Report, now: float) -> None:
        self.reports[report.box, report.model] = report

    def pick(self, prompt: Prompt, tried: list[str], now: float) -> str | None:
        places = [
            self.reports[box, prompt.model]
            for box, models in self._models.items()
            if prompt.model in models and box not in tried and not self._away.get(box) and self._failures[box] < RUN
        ]
        if not places or len(tried) >= MAX_TRIES:
            return None
        chosen = self._choose(self, places, prompt)
        return chosen.box if chosen else None

    def begin(self, box: str, prompt: Prompt, now: float) -> "NaiveCall":
        self.in_flight[box] += 1
        if prompt.blocks:
            self.last[prompt.blocks[0]] = box
        return NaiveCall(self, box)

    def done(self, box: str, failed: bool = False) -> None:
        self.in_flight[box] -= 1
        self._failures[box] = self._failures[box] + 1 if failed else 0


class NaiveCall:
    """Implements `sight.Call`."""

    def __init__(self, fleet: Naive, box: str) -> None:
        self._fleet = fleet
        self._box = box

    def first_token(self, now: float) -> None:
        pass

    def end(self, output_tokens: int, now: float) -> None:
        self._fleet.done(self._box)

    def refused(self, now: float) -> None:
        self._fleet.done(self._box)

    def failed(self, now: float, slow: bool) -> None:
        self._fleet.done(self._box, failed=True)


Choose = Callable[[Naive, list[Report], Prompt], Report | None]
"""of the places that may be called, never none; None: refuse the request"""


def round_robin(fleet: Naive, places: list[Report], _prompt: Prompt) -> Report:
    """One after the other, whatever they are."""
    fleet.turn += 1
    return places[fleet.turn % len(places)]


def first_listed(_fleet: Naive, places: list[Report], _prompt: Prompt) -> Report:
    """All score the same, and the first of the best is taken."""
    return places[0]


def best_first(fleet: Naive, places: list[Report], _prompt: Prompt) -> Report:
    """The fastest machine, by its own words, that has a free slot."""
    free = [place for place in places if fleet.in_flight[place.box] < place.slots]
    return max(free or places, key=lambda place: place.decode_tps or 0.0)


def least_connections(fleet: Naive, places: list[Report], _prompt: Prompt) -> Report:
    """The fewest calls in flight."""
    return min(places, key=lambda place: fleet.in_flight[place.box])


def last_report(_fleet: Naive, places: list[Report], _prompt: Prompt) -> Report:
    """The shortest queue, as the machines told it last; what was sent since then is not counted."""
    return min(places, key=lambda place: place.running + place.waiting)


def resident_first(fleet: Naive, places: list[Report], _prompt: Prompt) -> Report:
    """Where the model is loaded, since that costs nothing; among those the fewest calls in flight."""
    return min(places, key=lambda place: (not place.resident, fleet.in_flight[place.box]))


def sticky(fleet: Naive, places: list[Report], prompt: Prompt) -> Report:
    """Where the prompt's beginning was last, whatever waits there; new ones go to the fewest calls in flight."""
    last = fleet.last.get(prompt.blocks[0]) if prompt.blocks else None
    return next((place for place in places if place.box == last), None) or least_connections(fleet, places, prompt)


def hard_gate(fleet: Naive, places: list[Report], prompt: Prompt) -> Report | None:
    """The least expected time to the first token; refused where even that is too long."""
    ttft_s, number = min((_ttft_s(fleet, place, prompt), n) for n, place in enumerate(places))
    return places[number] if ttft_s <= GATE_S else None


def _ttft_s(fleet: Naive, place: Report, prompt: Prompt) -> float:
    """Prefill as the machine says; where it says nothing, four times its decode speed."""
    prefill_tps = place.prefill_tps or 4 * (place.decode_tps or 1.0)
    return (1 + fleet.in_flight[place.box] / place.slots) * prompt.tokens / prefill_tps


NAIVE: dict[str, Choose] = {
    "round_robin": round_robin,
    "first_listed": first_listed,
    "best_first": best_first,
    "least_connections": least_connections,
    "last_report": last_report,
    "resident_first": resident_first,
    "sticky": sticky,
    "hard_gate": hard_gate,
}
