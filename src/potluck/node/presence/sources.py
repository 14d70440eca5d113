"""What several sources of presence say together, and how often each is asked.

Rules of this file
- Whoever saw somebody last is right: the smallest idle time counts.
- Somebody of whom no idle time is known is there now, whatever the others measured.
- A source that says nothing is asked ever more seldom, at least every minute.
"""

import time
from collections.abc import Callable, Iterable

from potluck.node.facts import Reading

MAX_BACK_OFF_S = 60.0


def together(readings: Iterable[Reading]) -> Reading:
    """One reading of many; those that know nothing do not count."""
    known = [each for each in readings if each.active is not None or each.idle_s is not None]
    if not known:
        return Reading()
    timed = [each for each in known if each.idle_s is not None]
    here = [each for each in known if each.idle_s is None and each.active]
    last = here[0] if here else min(timed, key=lambda each: each.idle_s or 0.0) if timed else known[0]
    locks = [each.locked for each in known if each.locked is not None]
    return Reading(
        active=last.active,
        idle_s=last.idle_s,
        locked=all(locks) if locks else None,
        full_screen=any(each.full_screen for each in known),
        source=last.source,
    )


def measured(idle_s: float, source: str, *, full_screen: bool = False) -> Reading:
    """By a source that knows when there was input. Whoever gave none for some seconds may be there still: how long
    that is, is for the rules to say."""
    return Reading(idle_s < 1.0, idle_s, full_screen=full_screen, source=source)


class Paced:
    """A source, asked every `every_s` at most. `ask` gives None when it has no answer."""

    def __init__(
        self, ask: Callable[[], list[Reading] | None], every_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._every_s = every_s
        self._clock = clock
        self._last: list[Reading] = []
        self._next_s = float("-inf")
        self._missed = 0

    def read(self) -> list[Reading]:
        """What it said last, at most `every_s` ago; nothing where it does not answer."""
        now_s = self._clock()
        if now_s >= self._next_s:
            said = self._ask()
            self._last = said or []
            self._missed = 0 if said is not None else self._missed + 1
            self._next_s = now_s + min(self._every_s * 2.0 ** min(self._missed, 10), MAX_BACK_OFF_S)
        return self._last
