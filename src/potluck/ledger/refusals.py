"""Refused calls, counted in memory per (reason, who, minute): a flood fills neither the disk nor a log."""

from potluck.model.usage import RefusalCount

MAX_PER_MINUTE = 1000
"""distinct (reason, who) pairs told apart within a minute; further ones are counted under `*`"""
MAX_REASONS = 64
MAX_TEXT = 200


class _Entry:
    __slots__ = ("count", "detail", "first_at_ms", "said")

    def __init__(self, first_at_ms: int, detail: str) -> None:
        self.count = 0
        self.said = False
        self.first_at_ms = first_at_ms
        self.detail = detail


class Refusals:
    """Counts of the current minute. `take()` gives what is new since the last `take()`, as spool lines."""

    def __init__(self) -> None:
        self._minute = 0
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._ready: list[RefusalCount] = []

    def add(self, reason: str, who: str, at_ms: int, detail: str) -> None:
        """One more. The first of each (reason, who) in a minute keeps its time and its detail (200 characters)."""
        if at_ms // 60_000 > self._minute:
            self._collect()
            self._entries = {}
            self._minute = at_ms // 60_000
        entry = self._entries.get((reason, who))
        if entry is None:
            entry = self._new(reason, who, at_ms, detail)
        entry.count += 1

    def take(self) -> list[RefusalCount]:
        self._collect()
        ready, self._ready = self._ready, []
        return ready

    def _new(self, reason: str, who: str, at_ms: int, detail: str) -> _Entry:
        if len(self._entries) >= MAX_PER_MINUTE:
            reason, who = (reason, "*") if len(self._entries) < MAX_PER_MINUTE + MAX_REASONS else ("other", "*")
        key = (reason[:MAX_TEXT], who[:MAX_TEXT])
        return self._entries.setdefault(key, _Entry(at_ms, detail[:MAX_TEXT]))

    def _collect(self) -> None:
        for (reason, who), entry in self._entries.items():
            if entry.count:
                first = (0, "") if entry.said else (entry.first_at_ms, entry.detail)
                self._ready.append(RefusalCount(reason, who, self._minute, entry.count, *first))
                entry.count, entry.said = 0, True
