"""Whether this machine serves now: the rules' decision, the owner's word, and what becomes of what runs.

Rules of this file
- The owner's word and past exits are in `state.json` before anything is done about them, and outlive a restart.
- What could not be written is tried again each second, and `unkept` says why: a full disk ends no order.
- Times of the day are used for what is kept, and nowhere else: a clock that is set changes no rule.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import msgspec

from potluck.node import rules
from potluck.node.facts import Facts
from potluck.node.home import Home, HomeError, Kept
from potluck.node.settings import NodeSettings

DRAIN_S: Final = 120.0  # what runs may run on after the owner said drain


class Standing:
    """The decision in force, and when what it asks for is due (`reset_by`, `unload_by`: the loop's clock, or None)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, home: Home, complain: Callable[[str], None]) -> None:
        """Raises HomeError when what was kept cannot be read."""
        self._loop = loop
        self._home = home
        self._complain = complain
        self.kept = home.kept()
        self._memory = rules.restored(self.kept.exits, loop.time(), time.time())
        self.decision = rules.Decision(False, "it does not serve: it has just started", "paused")
        self.decided = False
        self.unkept = ""
        """why what was said last would not outlive a restart"""
        self.reset_by: float | None = None
        self.unload_by: float | None = None
        self._leaving: tuple[bool, float | None] | None = None
        """how hard the exit is for which those were set, and with what grace"""

    @property
    def drains(self) -> bool:
        """The owner wants what runs to come to its end, and nothing new."""
        return self.kept.serve is False and self.kept.drain

    def say(self, word: Kept) -> None:
        """The owner's word."""
        if word.serve:
            self._memory = rules.forgiven(self._memory)
        self._keep(word)
        self.reset_by = self._loop.time() + DRAIN_S if word.drain else None
        self._leaving = None

    def decide(self, settings: NodeSettings, facts: Facts) -> None:
        """Work out `decision` anew."""
        now, unix_s = self._loop.time(), time.time()
        until = self.kept.until_s
        if until is not None and unix_s >= until:
            self._keep(self.kept.over())
            until = None
        elif self.unkept:
            self._keep(self.kept)
        wish = rules.Wish(self.kept.serve, None if until is None else now + until - unix_s, self.kept.drain)
        memory = self._memory
        self.decision, self._memory = rules.decide(settings, facts, wish, memory, now)
        if (memory.exits_s, memory.rest_until_s) != (self._memory.exits_s, self._memory.rest_until_s):
            self._keep(self.kept)
        self.decided = True
        after = self.decision
        if after.serve:
            self.reset_by = self.unload_by = self._leaving = None
        elif self._leaving != (after.hard, after.grace_s):
            self._leaving = (after.hard, after.grace_s)
            if after.grace_s is not None:
                self.reset_by = min(self.reset_by or now + after.grace_s, now + after.grace_s)
            if after.unload_after_s is not None:
                self.unload_by = now + after.unload_after_s

    def unix(self, at: float) -> float:
        """A time of the loop's clock as unix seconds."""
        return time.time() - self._loop.time() + at

    def _keep(self, word: Kept) -> None:
        exits = rules.kept(self._memory, self._loop.time(), time.time())
        self.kept = msgspec.structs.replace(word, exits=exits)
        try:
            self._home.write("state.json", self.kept)
        except HomeError as error:
            if str(error) != self.unkept:
                self._complain(str(error))
            self.unkept = str(error)
        else:
            self.unkept = ""
