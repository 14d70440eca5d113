"""What the gateway is told: CAPS when what is offered changes, LOAD each heartbeat and when something changed.

Rules of this file
- On each link CAPS comes first, and a revision is said once; LOAD follows, and names no engine that CAPS did not. At
  the start engines are looked for before it is said that there are none: a gateway takes changes up with a delay. Nor
  is a node paused that has not looked yet: until then, or `LOOKING_S`, nothing is said.
- What changes is said together, not oftener than each `SAY_EVERY_S`, far below the rate at which a gateway ends the
  link; only whether the machine serves is said at once.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from potluck.node.dialing import Link, Links
from potluck.wire import link_messages as m

SAY_EVERY_S: Final = 0.25
LOOKING_S: Final = 10.0


class Telling:
    """Says it. `caps(revision)` and `load()` give what is to be said now, `knows()` whether that is known yet."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        links: Links,
        caps: Callable[[int], m.Caps],
        load: Callable[[], m.Load],
        knows: Callable[[], bool] = lambda: True,
    ) -> None:
        self._loop = loop
        self._links = links
        self._caps = caps
        self._load = load
        self._knows = knows
        self._knew = False
        self._said = caps(0)
        """as it was said last, with its revision"""
        self._revision_of: dict[Link, int] = {}
        self._last: m.Load | None = None
        self._born_at = loop.time()
        self.in_force = False
        """the gateway said that it routes by what is offered; forgotten when all links are gone"""
        self._said_at = -SAY_EVERY_S
        self._later: asyncio.TimerHandle | None = None

    def acked(self, revision: int) -> None:
        """CAPS_ACK came."""
        if revision == self._said.revision and self._said.models:
            self.in_force = True

    def soon(self) -> None:
        """Something may have changed: say it, if it did."""
        if self._later is None:
            wait_s = max(self._said_at + SAY_EVERY_S - self._loop.time(), 0.0)
            self._later = self._loop.call_later(wait_s, self._now)

    def at_once(self) -> None:
        """Whether this machine serves has changed: nobody is to be sent here in vain."""
        self.close()
        self._now()

    def heartbeat(self) -> None:
        """Say LOAD though nothing changed."""
        self._last = None
        self.soon()

    def close(self) -> None:
        """Say nothing any more."""
        if self._later is not None:
            self._later.cancel()
            self._later = None

    def welcomed(self, link: Link) -> None:
        """A new link knows nothing yet."""
        self._say_to(link)

    def _now(self) -> None:
        self._later = None
        self._said_at = self._loop.time()
        up = self._links.up
        self._revision_of = {link: self._revision_of[link] for link in up if link in self._revision_of}
        if not up:
            self.in_force = False
        if not self._may_tell():
            return
        load = self._load()
        changed = load != self._last
        for link in up:
            if self._tell_caps(link) or changed:
                link.core.load(load)
        self._last = load
        self._links.pump()

    def _may_tell(self) -> bool:
        self._knew = self._knew or self._knows() or self._loop.time() - self._born_at >= LOOKING_S
        return self._knew

    def _say_to(self, link: Link) -> None:
        if not self._may_tell():
            return
        self._tell_caps(link)
        link.core.load(self._load())
        self._links.pump()

    def _tell_caps(self, link: Link) -> bool:
        """True: they were said."""
        caps = self._caps(self._said.revision)
        if not caps.models and not self._said.revision and self._loop.time() - self._born_at < LOOKING_S:
            return False
        if caps != self._said:
            self._said = msgspec.structs.replace(caps, revision=self._said.revision + 1)
        if self._revision_of.get(link, -1) >= self._said.revision:
            return False
        self._revision_of[link] = self._said.revision
        link.core.caps(self._said)
        return True
