"""How often strangers may try: a token bucket per address prefix. Pure: the time is passed in.

Rule: memory is bounded. When there are too many prefixes, those that have all their tries back are forgotten first,
then the one that tried longest ago.
"""

from potluck.wire.address import prefix_of

MAX_PREFIXES = 4096


class Buckets:
    """`per_minute` tries at once and in each minute, by address prefix (/24, /64)."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._left: dict[str, tuple[float, float]] = {}
        """tries left and when that was so, the one that tried last at the end"""

    def take(self, address: str, now_s: float) -> float:
        """Use one try. 0.0, or how many seconds from now there is one."""
        prefix = prefix_of(address)
        left, at_s = self._left.pop(prefix, (float(self._per_minute), now_s))
        left = min(self._per_minute, left + (now_s - at_s) * self._per_minute / 60)
        wait_s = 0.0
        if left >= 1:
            left -= 1
        else:
            wait_s = (1 - left) * 60 / self._per_minute
        if len(self._left) >= MAX_PREFIXES:
            self._forget(now_s)
        self._left[prefix] = (left, now_s)
        return wait_s

    def _forget(self, now_s: float) -> None:
        self._left = {prefix: each for prefix, each in self._left.items() if now_s - each[1] < 60}
        if len(self._left) >= MAX_PREFIXES:
            del self._left[next(iter(self._left))]
