"""What the engines here offered last, over restarts of the agent: an engine that is down then keeps its models.

Rules of this file
- `offers.json` is no settings file: one that cannot be read is as good as none, one that cannot be written is
  complained of once. It is written only when it would be another.
- It is bounded: engines beyond `MAX_BYTES` are left out. What is in memory changes all the time and is not in it.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from potluck.model.engine import Engine
from potluck.node.home import Home, HomeError

OFFERS_FILE: Final = "offers.json"
MAX_BYTES: Final = 256 * 1024


class Seen(msgspec.Struct, frozen=True):
    """An engine as it was when it answered last."""

    place: str
    """its address, as `Place.base_url`"""
    engine: Engine
    slots: int


class _File(msgspec.Struct, frozen=True):
    engines: tuple[Seen, ...] = ()


class Remembered:
    """Reads and writes it. `complain(what)`: for the owner to see. Raises nothing."""

    def __init__(self, home: Home, complain: Callable[[str], None]) -> None:
        self._home = home
        self._complain = complain
        self._before: tuple[Seen, ...] = ()
        self._complained = ""

    def read(self) -> tuple[Seen, ...]:
        """What was kept; empty where nothing was, or nothing that can be read."""
        try:
            kept = self._home.read(OFFERS_FILE, _File)
        except HomeError as error:
            self._complain(str(error))
            return ()
        self._before = kept.engines if kept is not None else ()
        return self._before

    def keep(self, engines: list[Seen]) -> None:
        """These are offered now."""
        kept, total_bytes = [], 0
        for each in engines:
            models = tuple(msgspec.structs.replace(model, resident=None) for model in each.engine.models)
            seen = Seen(each.place, msgspec.structs.replace(each.engine, models=models), each.slots)
            total_bytes += len(msgspec.json.encode(seen))
            if total_bytes <= MAX_BYTES:
                kept.append(seen)
        if tuple(kept) == self._before:
            return
        try:
            self._home.write(OFFERS_FILE, _File(tuple(kept)))
            self._before = tuple(kept)
        except HomeError as error:
            if str(error) != self._complained:
                self._complained = str(error)
                self._complain(self._complained)
