"""This machine as the rules see it, and giving it back to its owner (`agent.Machine`).

Rules of this file
- What can hang is asked in threads of its own (`sampling`), and only while a setting needs it.
- Use of the engines by others, and which models this node had loaded, are told of each change of our own calls.
"""

import asyncio
import datetime as dt
import logging
import time
from zoneinfo import ZoneInfo

from potluck.node.engines_use import LocalUse
from potluck.node.facts import Facts, Hardware, Reading
from potluck.node.home import Home
from potluck.node.jobs import Jobs
from potluck.node.offers import Offers
from potluck.node.presence import presence_here
from potluck.node.presence.reports import Reports, heard, secret_of
from potluck.node.sampling import Sampler
from potluck.node.schedule import Span, parse_window, span_at
from potluck.node.settings import NodeSettings
from potluck.node.unloading import Claims, unload

PRESENCE_EVERY_S = 1.0
PRESENCE_STALE_S = 10.0
_LOGGER = logging.getLogger("potluck.node")


class OwnMachine:
    """The machine that the agent runs on."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._use = LocalUse()
        self._claims = Claims()
        self._presence: Sampler[Reading] | None = None
        self._reports: Reports | None = None
        self._listening: asyncio.DatagramTransport | None = None
        self._windows: tuple[tuple[str, ...], str] = ((), "")
        self._span = Span(False)

    def note(self, offers: Offers, jobs: Jobs) -> None:
        """Our calls, or what the engines say of themselves, may be others than before."""
        now = time.monotonic()
        for id_ in offers.offered:
            watch = offers.watch_of(id_)
            if watch is not None:
                models = [call.job.request.model for call in jobs.running.values() if call.engine.id == id_]
                self._use.note(id_, watch.load, models, now)
                self._claims.note(id_, watch.load.resident, models, now)

    async def facts(self, settings: NodeSettings, offers: Offers) -> Facts:
        """Right now."""
        now = time.monotonic()
        self._use.forget(offers.offered)
        span = self._schedule(settings)
        left_s = None if span.until is None else max((span.until - _now(settings)).total_seconds(), 0.0)
        seen = await self._seen(settings) if "idle" in settings.mode else Reading()
        return Facts(seen, Hardware(), self._use.ago_s(now), span.is_open, left_s)

    async def free(self, settings: NodeSettings, offers: Offers) -> list[str]:
        """Unload what this node had loaded, or all where the engines are ours; what is still there then."""
        orders, where = [], []
        for id_ in offers.offered:
            watch = offers.watch_of(id_)
            if watch is None or watch.engine is None:
                continue
            models = (watch.load.resident or ()) if settings.engines_are_ours else self._claims.of(id_)
            if models:
                where.append(id_)
                orders.append(unload(watch.place, watch.engine.kind, models))
        left = await asyncio.gather(*orders)
        return [f"{model} of {id_}" for id_, models in zip(where, left, strict=True) for model in models]

    async def close(self) -> None:
        """Ask nothing any more."""
        if self._presence is not None:
            self._presence.stop()
        if self._listening is not None:
            self._listening.close()

    def _schedule(self, settings: NodeSettings) -> Span:
        if not settings.schedule:
            return Span(False)
        now = _now(settings)
        asked = (settings.schedule, settings.timezone)
        if asked != self._windows or self._span.until is None or now >= self._span.until:
            self._windows = asked
            self._span = span_at([parse_window(each) for each in settings.schedule], now)
        return self._span

    async def _seen(self, settings: NodeSettings) -> Reading:
        if self._presence is None:
            here = presence_here()
            self._presence = Sampler(here.read, PRESENCE_EVERY_S, PRESENCE_STALE_S)
            self._presence.start()
        if settings.presence_port and self._reports is None:
            self._reports = Reports(secret_of(self._home.path))
            try:
                self._listening = await self._reports.listen(settings.presence_port)
            except OSError as error:
                _LOGGER.warning("presence helpers are not heard: %s", error)
        local = self._presence.latest() or Reading()
        return heard(local, self._reports.readings() if self._reports is not None else [])


def _now(settings: NodeSettings) -> dt.datetime:
    return dt.datetime.now(ZoneInfo(settings.timezone)) if settings.timezone else dt.datetime.now().astimezone()
