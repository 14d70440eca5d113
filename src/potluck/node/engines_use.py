"""Does somebody else use an engine that is shared? Whoever sits at the machine goes first.

Rules of this file
- An engine's own number is best: what it works on, less what the node gave it. Numbers are some seconds old, so the
  most that the node had there within `LAG_S` is taken off.
- KoboldCpp says how long it has been idle: work that ended when the node had none was somebody else's.
- An engine that says nothing gives itself away: a model appears in memory that the node did not call for, or its
  processes work while the node has nothing there.
- Time is passed in.
"""

from collections import deque
from collections.abc import Collection

import msgspec

from potluck.model.engine import EngineLoad

LAG_S = 5.0
"""how old an engine's numbers may be"""
AFTERMATH_S = 15.0
"""processes may work on for so long after the node's last call there"""
CALLED_S = 300.0
"""a model that the node called for may appear in memory so much later"""
BUSY_CORES = 0.5


class _Seen(msgspec.Struct):
    ours: deque[tuple[float, int]]
    """when the node had how many calls there, at each change"""
    called_s: dict[str, float]
    """models → when the node last had a call there"""
    busy_s: float = float("-inf")
    """when the node last had any"""
    resident: frozenset[str] | None = None
    tells: bool = False
    """it says how much it works on"""


class LocalUse:
    """Use of the shared engines by others on this machine."""

    def __init__(self) -> None:
        self._engines: dict[str, _Seen] = {}
        self._last_s: float | None = None

    def note(self, engine: str, load: EngineLoad, ours: Collection[str], now_s: float) -> None:
        """What the engine says, and the models of the node's calls there, one for each call. To be told of each change
        and every few seconds."""
        seen = self._engines.setdefault(engine, _Seen(deque(), {}))
        most = _most(seen, len(ours), now_s)
        seen.tells = load.running is not None
        if load.running is not None and load.running + (load.queued or 0) > most:
            self._used(now_s)
        if load.idle_s is not None and load.running == 0 and not ours and now_s - load.idle_s > seen.busy_s + LAG_S:
            self._used(now_s - load.idle_s)
        for model in ours:
            seen.called_s[model] = now_s
        seen.called_s = {model: at_s for model, at_s in seen.called_s.items() if now_s - at_s <= CALLED_S}
        resident = None if load.resident is None else frozenset(load.resident)
        if resident is not None and seen.resident is not None and resident - seen.resident - seen.called_s.keys():
            self._used(now_s)
        if resident is not None:
            seen.resident = resident
        if ours:
            seen.busy_s = now_s

    def note_work(self, cores: float | None, now_s: float) -> None:
        """How many processors the engines' processes use; it says something while the node has no calls."""
        silent = [each for each in self._engines.values() if not each.tells]
        last_s = max((each.busy_s for each in self._engines.values()), default=float("-inf"))
        if cores is not None and cores >= BUSY_CORES and silent and now_s - last_s > AFTERMATH_S:
            self._used(now_s)

    def forget(self, engines: Collection[str]) -> None:
        """Only these are still there."""
        self._engines = {id_: seen for id_, seen in self._engines.items() if id_ in engines}

    def ago_s(self, now_s: float) -> float | None:
        """Since the last use by others; None: none was seen."""
        return None if self._last_s is None else max(now_s - self._last_s, 0.0)

    def _used(self, at_s: float) -> None:
        self._last_s = at_s if self._last_s is None else max(self._last_s, at_s)


def _most(seen: _Seen, ours: int, now_s: float) -> int:
    """The most calls that the node had there at once within the lag."""
    if not seen.ours or seen.ours[-1][1] != ours:
        seen.ours.append((now_s, ours))
    while len(seen.ours) > 1 and now_s - seen.ours[1][0] > LAG_S:
        seen.ours.popleft()  # the one after it was already so before the lag began
    return max(count for _, count in seen.ours)
