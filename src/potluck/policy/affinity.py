"""Where prompts with the same beginning went last, so that the next one finds its beginning in that place's cache."""

MAX_PREFIXES = 10_000
PREFIX_BYTES = 1_024


def prefix_of(project_id: str, model: str, raw: bytes) -> int:
    """Names the first `PREFIX_BYTES` of a prompt (`raw`: its JSON as sent) to a model within a project.

    Models are apart since one's cache is none of another's, projects since one's traffic must not steer another's. The
    number means something in this process only: it is keyed by the interpreter's secret, so nobody can send prompts
    that collide.
    """
    return hash((project_id, model, raw[:PREFIX_BYTES]))


class PrefixIndex:
    """Prefix → the place that saw it last, until it expires; the longest unused is dropped first. One event loop's."""

    __slots__ = ("_limit", "_places")

    def __init__(self, limit: int = MAX_PREFIXES) -> None:
        self._limit = limit
        self._places: dict[int, tuple[str, float]] = {}
        """in order of last use"""

    def __len__(self) -> int:
        return len(self._places)

    def find(self, prefix: int, now: float) -> str | None:
        """The place where the prefix is still warm at `now` (monotonic seconds)."""
        found = self._places.get(prefix)
        if found is None:
            return None
        place, until = found
        if now < until:
            return place
        del self._places[prefix]
        return None

    def used(self, prefix: int, place: str, now: float, window_s: float) -> None:
        """`place` answered a prompt with this prefix at `now`: it is warm there, and nowhere else, for `window_s`."""
        places = self._places
        if prefix in places:
            del places[prefix]
        elif len(places) >= self._limit:
            del places[next(iter(places))]
        places[prefix] = (place, now + window_s)
