"""When a second target is asked as well, and how often at most.

Hedging buys a shorter tail with extra calls. When everything is slow it would double the load on what is already
overloaded: so extra calls are earned by ordinary ones, and what was earned in a quiet hour is soon spent.
"""

from potluck.model.resources import Hedge
from potluck.policy.latency import Latency

MAX_SAVED_HEDGES = 10.0
"""earned and not yet used: as many may go out at once"""


class HedgeBudget:
    """At most `max_extra` extra calls for each ordinary one, from the first request on. One event loop's."""

    __slots__ = ("max_extra", "saved")

    def __init__(self, max_extra: float) -> None:
        self.max_extra = max_extra
        self.saved = 0.0

    def earned(self) -> None:
        """An ordinary request has been sent."""
        if self.saved < MAX_SAVED_HEDGES:
            self.saved += self.max_extra

    def spend(self) -> bool:
        """Take one extra call; False: there is none, and nothing is taken."""
        if self.saved < 1:
            return False
        self.saved -= 1
        return True


def delay_ms(hedge: Hedge, latency: Latency, stream: bool) -> float | None:
    """How long to wait for the first token, or for a plain answer, before a second target is asked.

    Milliseconds; None: never, since the target's own p95 is wanted and not known yet.
    """
    return float(hedge.after_ms) if hedge.after_ms else latency.p95_ms(stream)
