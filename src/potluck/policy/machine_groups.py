"""What machines have in common: the engine that several models are on, and the class of those with the same model.

A machine that nothing is known of is taken for the median of its class, never for a slow one.
"""

from typing import TYPE_CHECKING
from weakref import WeakSet

from potluck.policy.calibration import known_median

if TYPE_CHECKING:
    from potluck.policy.machines import Machine, Work

PREFILL_TPS = 500.0
"""of a class of which nothing is known"""
DECODE_TPS = 30.0
LOAD_S = 20.0
RATIO_MIN = 0.2
RATIO_MAX = 3.0
"""what a class's words were off by counts within these"""
SILENT_S = 2.0
SILENT_TIMES = 3.0
"""of what a call was expected to take, all in all; the larger of both without any answer, and the machine is silent"""
PEERS_REFRESH_S = 1.0
"""how old a class's medians may be"""


class Peers:
    """The machines that serve the same model: what the others are like is the best guess at one that says nothing."""

    __slots__ = ("__weakref__", "_decode_ms", "_load_s", "_members", "_prefill_ms", "_ratio", "_seen_at")

    def __init__(self) -> None:
        self._members: WeakSet[Machine] = WeakSet()
        self._seen_at = float("-inf")
        self._prefill_ms = 1000 / PREFILL_TPS
        self._decode_ms = 1000 / DECODE_TPS
        self._load_s = LOAD_S
        self._ratio = 1.0

    def join(self, machine: "Machine") -> None:
        self._members.add(machine)

    def prefill_ms(self, now: float) -> float:
        """Per token."""
        self._look(now)
        return self._prefill_ms

    def decode_ms(self, now: float) -> float:
        """Per token of a single stream."""
        self._look(now)
        return self._decode_ms

    def load_s(self, now: float) -> float:
        self._look(now)
        return self._load_s

    def ratio(self, now: float) -> float:
        """How many times longer prompts took than the machines' words would have it."""
        self._look(now)
        return self._ratio

    def _look(self, now: float) -> None:
        if now - self._seen_at < PEERS_REFRESH_S:
            return
        self._seen_at = now
        members = list(self._members)
        self._prefill_ms = known_median(each.own_prefill_ms(now) for each in members) or 1000 / PREFILL_TPS
        self._decode_ms = known_median(each.own_decode_ms(now) for each in members) or 1000 / DECODE_TPS
        self._load_s = known_median(each.own_load_s() for each in members) or LOAD_S
        ratio = known_median(each.ratio(now) for each in members)
        self._ratio = 1.0 if ratio is None else min(max(ratio, RATIO_MIN), RATIO_MAX)


class Host:
    """What the models of one engine on one node share: their calls take its slots, and its time.

    Another engine on that node has slots of its own; what the two take from each other is measured, not known.
    """

    __slots__ = ("_others", "ahead_ms", "begun_at", "machines", "silent", "works")

    def __init__(self) -> None:
        self.machines: WeakSet[Machine] = WeakSet()
        self.works: dict[Work, None] = {}
        """our own calls there"""
        self.begun_at = float("-inf")
        """when the last one was sent"""
        self.ahead_ms = 0.0
        """of reading the prompts of those without a first token"""
        self.silent: Work | None = None
        """the first call that was sent after its last answer to any"""
        self._others: tuple[int, int] | None = (0, 0)

    @property
    def others(self) -> int:
        """Calls that are not ours, as reported."""
        return (self._others or self._counted())[0]

    @property
    def others_waiting(self) -> int:
        """Of these, those without a slot."""
        return (self._others or self._counted())[1]

    def reported(self) -> None:
        """One of its models told its load: counted when it is asked for, as hundreds may tell at once."""
        self._others = None

    def _counted(self) -> tuple[int, int]:
        members = list(self.machines)
        found = self._others = (sum(each.others for each in members), sum(each.others_waiting for each in members))
        return found

    def is_silent(self, now: float) -> bool:
        """It has answered nothing for much longer than a call that it has should have taken."""
        work = self.silent
        return work is not None and now - work.begun_at > max(SILENT_S, SILENT_TIMES * work.expected.total_ms / 1000)

    def begun(self, work: "Work", now: float) -> None:
        self.works[work] = None
        self.silent = self.silent or work
        self.ahead_ms += work.expected.prompt_ms
        self.begun_at = now

    def answered(self, work: "Work") -> None:
        """Its prompt is read, or will not be."""
        self.ahead_ms = max(0.0, self.ahead_ms - work.expected.prompt_ms)

    def gone(self, work: "Work") -> None:
        del self.works[work]
        if work is self.silent:
            self.silent = next((each for each in self.works if not each.first_at), None)
        if not self.works:
            self.ahead_ms = 0.0

    def load_wait_ms(self, now: float) -> float:
        """Until no model is being loaded any more: it loads one at a time."""
        return max([machine.loading_ms(now) for machine in self.machines], default=0.0)
