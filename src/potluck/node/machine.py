"""This machine as the rules see it, and giving it back to its owner (`agent.Machine`).

Rules of this file
- What can hang is asked in threads of its own (`sampling`); who is there only when a setting needs it.
- Use of the engines by others, and which models this node had loaded, are told of each change of our own calls.
"""

import asyncio
import datetime as dt
import logging
import time
from zoneinfo import ZoneInfo

from potluck.engines.asking import is_loopback
from potluck.node.engines_use import LocalUse
from potluck.node.facts import Facts, Hardware, Reading
from potluck.node.hardware import HardwareProbe
from potluck.node.home import Home
from potluck.node.jobs import Jobs
from potluck.node.offers import Offers
from potluck.node.presence import presence_here
from potluck.node.presence.reports import Reports, heard, secret_of
from potluck.node.sampling import Sampler
from potluck.node.schedule import Span, parse_window, span_at
from potluck.node.settings import NodeSettings
from potluck.node.unloading import Claims, unload

PRESENCE_EVERY_S = 0.5
PRESENCE_STALE_S = 10.0
HARDWARE_EVERY_S = 2.0
HARDWARE_STALE_S = 15.0
SCHEDULE_STALE_S = 600.0
"""after which the clock may have been set"""
_LOGGER = logging.getLogger("potluck.node")


class OwnMachine:
    """The machine that the agent runs on."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._use = LocalUse()
        self.claims = Claims()
        self._probe = HardwareProbe()
        self._hardware: Sampler[Hardware] | None = None
        self._presence: Sampler[Reading] | None = None
        self._listens = False
        self._reports: Reports | None = None
        self._listening: asyncio.DatagramTransport | None = None
        self._windows: tuple[tuple[str, ...], str] = ((), "")
        self._span = Span(False)
        self._span_at_s = float("-inf")

    def note(self, offers: Offers, jobs: Jobs) -> None:
        """Our calls, or what the engines say of themselves, may be others than before."""
        now = time.monotonic()
        self._probe.calling = bool(jobs.running)
        for id_ in offers.offered:
            watch = offers.watch_of(id_)
            if watch is not None:
                models = [call.job.request.model for call in jobs.running.values() if call.engine.id == id_]
                self._use.note(id_, watch.load, models, now)
                self.claims.note(id_, watch.load.resident, models, now)

    async def facts(self, settings: NodeSettings, offers: Offers) -> Facts:
        """Right now."""
        now = time.monotonic()
        self._use.forget(offers.offered)
        span = self._schedule(settings)
        left_s = None if span.until is None else max(span.until.timestamp() - time.time(), 0.0)
        seen = await self._seen(settings) if "idle" in settings.mode else Reading()
        hardware = self._measured(offers)
        self._use.note_work(hardware.cpu_engines, now)
        return Facts(seen, hardware, self._use.ago_s(now), span.is_open, left_s)

    async def free(self, settings: NodeSettings, offers: Offers) -> list[str]:
        """Unload what this node had loaded, or all where the engines are ours; what is still there then."""
        orders, asked = [], []
        for id_ in offers.offered:
            watch = offers.watch_of(id_)
            if watch is None or watch.engine is None:
                continue
            models = (watch.load.resident or ()) if settings.engines_are_ours else self.claims.of(id_)
            if models:
                asked.append((id_, models))
                orders.append(unload(watch.place, watch.engine.kind, models))
        found = []
        for (id_, models), left in zip(asked, await asyncio.gather(*orders), strict=True):
            self.claims.let_go(id_, set(models) - set(left))
            found += [f"{model} of {id_}" for model in left]
        return found

    async def close(self) -> None:
        """Ask nothing any more."""
        for sampler in (self._presence, self._hardware):
            if sampler is not None:
                sampler.stop()
        if self._listening is not None:
            self._listening.close()

    def _schedule(self, settings: NodeSettings) -> Span:
        if not settings.schedule:
            return Span(False)
        now = _now(settings)
        asked, at_s = (settings.schedule, settings.timezone), time.monotonic()
        is_over = self._span.until is not None and time.time() >= self._span.until.timestamp()
        if asked != self._windows or is_over or at_s - self._span_at_s > SCHEDULE_STALE_S:
            self._windows, self._span_at_s = asked, at_s
            self._span = span_at([parse_window(each) for each in settings.schedule], now)
        return self._span

    def _measured(self, offers: Offers) -> Hardware:
        """Of engines on other machines nothing is measured here."""
        watches = [watch for watch in map(offers.watch_of, offers.offered) if watch is not None]
        self._probe.ports = frozenset(watch.place.port for watch in watches if is_loopback(watch.place.host))
        if self._hardware is None:
            self._hardware = Sampler(self._probe.read, HARDWARE_EVERY_S, HARDWARE_STALE_S)
            self._hardware.start()
        return self._hardware.latest() or Hardware()

    async def _seen(self, settings: NodeSettings) -> Reading:
        if self._presence is None:
            here = presence_here()
            self._presence = Sampler(here.read, PRESENCE_EVERY_S, PRESENCE_STALE_S)
            self._presence.start()
        if settings.presence_port and not self._listens:
            self._listens = True
            try:
                self._reports = Reports(secret_of(self._home))
                self._listening = await self._reports.listen(settings.presence_port)
            except (OSError, ValueError) as error:
                _LOGGER.warning(
                    "presence helpers are not heard: port %d (presence_port) cannot be used: %s; choose another one, "
                    "and start the agent anew",
                    settings.presence_port,
                    error,
                )
        local = self._presence.latest() or Reading()
        return heard(local, self._reports.readings() if self._reports is not None else [])


def _now(settings: NodeSettings) -> dt.datetime:
    """By the clock of the owner's zone; without a zone by the machine's own, which changes with summer time too."""
    return dt.datetime.now(ZoneInfo(settings.timezone) if settings.timezone else None)
