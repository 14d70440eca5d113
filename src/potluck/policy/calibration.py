"""What many samples of one number say, when each of them may be wrong: windowed medians.

A median needs half of its samples to be wrong before it is; a mean needs one. What was measured on a machine that was
doing something else, or of a prompt whose beginning its engine had cached, is such a sample. Samples go stale: what
looked slow in one bad hour is given another chance in the next.
"""

from collections import deque
from collections.abc import Iterable
from statistics import median

WINDOW = 64
"""samples that a median is of"""
WINDOW_S = 3_600.0
"""and how old they may be"""
MIN_SAMPLES = 30
"""from so many on a machine's own measure is believed over its word and its class's"""
FEW_SAMPLES = 3
"""from so many on it is better than nothing"""


class Samples:
    """The last `WINDOW` samples of one number. One event loop's; `now` in monotonic seconds."""

    __slots__ = ("_median", "_values")

    def __init__(self) -> None:
        self._values: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        """when, what"""
        self._median: float | None = None

    def add(self, value: float, now: float) -> None:
        self._values.append((now, value))
        self._median = None

    def median(self, now: float, least: int = FEW_SAMPLES) -> float | None:
        """None: there are fewer than `least`."""
        values = self._values
        while values and values[0][0] < now - WINDOW_S:
            values.popleft()
            self._median = None
        if len(values) < least:
            return None
        if self._median is None:
            self._median = median([value for _, value in values])
        return self._median


def known_median(values: Iterable[float | None]) -> float | None:
    """The median of those that are known; None: none is."""
    known = [value for value in values if value is not None]
    return median(known) if known else None
