"""The agent: links, jobs, engines, rules and the owner's word, put together.

    joining → pending → ready ⇄ paused(reason) → draining → stopped
    joining: no link is up. pending: the gateway has not taken up what is offered here. draining: what runs may end.

Rules of this file
- One decision a second, and at once when the owner says something. Not serving: from that moment nothing new is taken,
  and the gateway is told; what runs may run for the decision's grace and is then reset. A hard exit resets at once and
  unloads.
- A drain that the gateway asked for lasts as long as the link over which it asked, or until the gateway ends it: the
  gateway knows its nodes, and tells anew at each connect. What the owner says outlives restarts.
- The gateway commands nothing that the owner did not allow (`commands`).
- What this node had loaded is unloaded when the rules say so, and when no link was up for so long that all jobs are
  over. An engine that was in the middle of loading ends that first: it is looked after until the machine serves again.
"""

import asyncio
import contextlib
import logging
import platform
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal, Protocol

from potluck.engines.fingerprints import PORTS
from potluck.engines.watch import WatchPace
from potluck.node.commands import Commands
from potluck.node.dialing import Credentials, Link, Links
from potluck.node.enrolment import EnrolmentError
from potluck.node.facts import Facts
from potluck.node.home import Enrolled, Home, HomeError, Kept
from potluck.node.identity import Identity, from_text
from potluck.node.jobs import Jobs
from potluck.node.keys import is_pending, rotate
from potluck.node.offers import Offers
from potluck.node.remembered import Remembered
from potluck.node.rules import room_for
from potluck.node.settings import NodeSettings
from potluck.node.standing import Standing
from potluck.node.telling import Telling
from potluck.node.unloading import Claims
from potluck.upstream import Pool
from potluck.wire import link_events as e
from potluck.wire import link_messages as m

TICK_S: Final = 1.0
FACTS_S: Final = 3.0
SWEEP_EVERY_S: Final = 0.25
STOP_S: Final = 30.0  # what runs may run on after the order to stop
OTHERS_S: Final = 5.0  # somebody else used an engine within so long
UNLOAD_AGAIN_S: Final = 5.0  # what was unloaded, and is in memory nevertheless
KEPT_ERRORS: Final = 20
SETTLE_EVERY_S: Final = 3600.0  # an old key is good for a day

State = Literal["joining", "pending", "ready", "paused", "draining", "stopped"]
_JOB_EVENTS = (e.Opened, e.DataCame, e.Cancelled, e.Writable, e.Lost)
_EXPELLED: Final = ("revoked", "unknown")  # nobody will come back for what runs
_LOGGER = logging.getLogger("potluck.node")


class Machine(Protocol):
    """What is known of the machine, and what gives it back. See `machine.OwnMachine`."""

    claims: Claims
    """which models this node had loaded"""

    def note(self, offers: Offers, jobs: Jobs) -> None:
        """Our calls, or what the engines say of themselves, may be others than before."""

    async def facts(self, settings: NodeSettings, offers: Offers) -> Facts:
        """Right now. Raises nothing."""

    async def free(self, settings: NodeSettings, offers: Offers) -> list[str]:
        """Unload what this node had loaded; what is still there then."""

    async def close(self) -> None:
        """Leave nothing behind."""


class Agent:
    """One enrolled machine. `run` until `stop`."""

    def __init__(
        self,
        home: Home,
        read_settings: Callable[[], NodeSettings],
        machine: Machine,
        *,
        engine_keys: Mapping[str, str] | None = None,
        model_home: Path | None = None,
        ports: tuple[int, ...] = PORTS,
        pace: WatchPace | None = None,
    ) -> None:
        """`read_settings`: asked again when `settings.json` is another; which engines and links there are stays as at
        the start. `engine_keys`: by the address as the settings name it. `model_home`: where the built-in model lies.

        Raises HomeError where the machine has not joined, `engines.asking.NotHereError` for an address that is none.
        """
        enrolled = home.enrolled()
        if enrolled is None:
            raise HomeError(f"this machine has not joined a gateway: potluck node join URL (nothing in {home.path})")
        self.enrolled: Enrolled = enrolled
        self._read_settings = read_settings
        self._joined_at = home.changed_at("node.json")
        self._settings_of = home.changed_at("settings.json")
        settings = self.settings = read_settings()
        self.home = home
        self._machine = machine
        self.loop = loop = asyncio.get_running_loop()
        self.errors: deque[tuple[float, str]] = deque(maxlen=KEPT_ERRORS)
        """unix seconds, what"""
        self.started_at = loop.time()
        self.standing = Standing(loop, home, self.note)
        self._credentials()  # a key that cannot be read is said now, not at the first dial
        self._pool = Pool(loop)
        self.links = Links(
            loop, self._credentials, self._on_link, self._changed, settings.links, sends_log=settings.send_log
        )
        self.offers = Offers(
            settings,
            enrolled.node,
            self._pool,
            self._changed,
            keys=engine_keys,
            home=model_home or home.path,
            ports=ports,
            pace=pace,
        )
        self.offers.most_models = enrolled.max_models
        self._remembered = Remembered(home, self.note)
        self.offers.recall(self._remembered.read())
        self.jobs = Jobs(self.offers.find, self.links.pump, self._changed, self._engine_failed, self._has_room)
        self._commands = Commands(loop, self.offers, machine.claims, lambda: self.serves, self._has_room)
        self.telling = Telling(loop, self.links, self._caps, self._load, self._knows)
        self._drains: dict[Link, tuple[float, float]] = {}
        """links over which the gateway asked for no more work; when what runs is to be over, and when the drain is"""
        self._drained_said = False
        self._facts = Facts()
        self._told_serving = False
        self._will_apply = False
        self._leaves = asyncio.Event()
        self._stop = asyncio.Event()
        self._look = asyncio.Event()
        self._heartbeat_at = 0.0
        self._homeless = False
        self._freed = False
        self._free_again_at = 0.0

    # --- what it is like ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        if self._stop.is_set():
            return "stopped"
        if self._stopping or ((self._drains or self.standing.drains) and self.jobs.running):
            return "draining"
        if not self.links.up:
            return "joining"
        if not self.serves:
            return "paused"
        return "ready" if self.telling.in_force else "pending"

    @property
    def _stopping(self) -> bool:
        """Told to stop; what runs may end."""
        return self._leaves.is_set()

    @property
    def serves(self) -> bool:
        """As far as this machine is concerned."""
        return self.standing.decision.serve and not self._drains and not self._stopping and self._can_call

    @property
    def _can_call(self) -> bool:
        """There is an engine, and it answers."""
        return bool(self.offers.offered) and not self.offers.away

    @property
    def reason(self) -> str:
        """One line: why it serves, or does not."""
        if self._stopping:
            return "it stops: what runs may end"
        if not self.links.up:
            last = next((slot.last for slot in self.links.slots if slot.last is not None), None)
            return f"it does not serve: {last.why if last is not None else 'it is connecting'}"
        if not self.standing.decision.serve:
            return self.standing.decision.reason
        if self._drains:
            return "it does not serve: drained by the gateway's operator"
        if not self.offers.offered:
            return f"it does not serve: {self.offers.none_why}"
        if self.offers.away:
            return f"it does not serve: {self.offers.away}"
        if not self.telling.in_force:
            return "it does not serve yet: the gateway has not taken it up; it may wait for an administrator's approval"
        return self.standing.decision.reason

    # --- the owner's word --------------------------------------------------------------------------------------------

    def pause(self, for_s: float | None = None) -> None:
        """No new work, what runs ends now, the GPU is freed."""
        self._say(self.standing.kept.pause(None if for_s is None else time.time() + for_s))

    def resume(self) -> None:
        """Serve again, as far as the mode allows, and without a rest."""
        self._say(Kept(True))

    def drain(self, for_s: float | None = None) -> None:
        """No new work; what runs may end."""
        self._say(self.standing.kept.pause(None if for_s is None else time.time() + for_s, drain=True))

    def stop(self) -> None:
        """Let what runs end within `STOP_S`, then end `run`. A second time: at once."""
        if self._stopping:
            self._stop.set()
        self._leaves.set()
        self._apply()
        self._look.set()

    def note(self, what: str) -> None:
        """Something went wrong, for the owner to see."""
        self.errors.append((time.time(), what))
        _LOGGER.warning("%s", what)
        if self.settings.send_log:
            text = "".join(each if each.isprintable() else " " for each in what)[:300]
            for link in self.links.up[:1]:
                link.core.log(m.Log("warning", text), self.loop.time())

    def _say(self, word: Kept) -> None:
        self.standing.say(word)
        self.standing.decide(self.settings, self._facts)
        self._apply()
        self._look.set()

    # --- life --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until `stop`, or cancelled. Leaves no connection, task or child process behind."""
        parts = [
            self.offers.run(),
            self.links.run(),
            self._tick(),
            self._sweep(),
            self._settle(),
            self._until_stopped(),
        ]
        tasks = [self.loop.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()  # a part that failed takes the agent with it
        finally:
            self._stop.set()
            self.jobs.close("draining", "the agent stops")
            self.jobs.reset_all("draining", "the agent stops")
            await asyncio.sleep(0)  # the links send it
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.telling.close()
            await self._commands.close()
            await self._machine.close()
            self._pool.close()
            await asyncio.sleep(0)  # sockets are gone a turn later

    async def _tick(self) -> None:
        while True:
            self._look.clear()
            self._heed_files()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FACTS_S):
                    self._facts = await self._machine.facts(self.settings, self.offers)
            self.standing.decide(self.settings, self._facts)
            now = self.loop.time()
            self.links.tick(now)
            self.jobs.expired(self.links.table.expire(now))
            self.offers.refresh()
            self._remembered.keep(self.offers.seen)
            self._apply()
            if now - self._heartbeat_at >= m.HEARTBEAT_S - TICK_S:
                self._heartbeat_at = now
                self.telling.heartbeat()
            await self._unload(now)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._look.wait()

    async def _unload(self, now: float) -> None:
        """Free the machine when that is due."""
        due, alone_since = self.standing.unload_by, self.links.alone_since
        is_alone = alone_since is not None and now - alone_since > m.NODE_KEEPS_S and not self.settings.keep_warm
        if not is_alone and (due is None or now < due):
            self._freed = False
        elif not self._freed or (self._machine.claims.seen and now >= self._free_again_at):
            self._freed, self._free_again_at = True, now + UNLOAD_AGAIN_S
            for left in await self._machine.free(self.settings, self.offers):
                self.note(f"it is still in memory though it was unloaded: {left}")

    def _has_room(self, engine: str, model: str) -> bool:
        """True also where that cannot be known."""
        watch = self.offers.watch_of(engine)
        if watch is None or watch.engine is None or watch.load.resident is None or model in watch.load.resident:
            return True
        [size_bytes] = [each.size_bytes for each in watch.engine.models if each.name == model] or [None]
        return size_bytes is None or room_for(self.settings, self._facts, size_bytes)

    def _heed_files(self) -> None:
        if not self.home.path.is_dir():
            if not self._homeless:
                self.note(f"{self.home.path} is gone: the settings before stay in force, and nothing can be kept")
            self._homeless = True
            return
        self._homeless = False
        joined = self.home.changed_at("node.json")
        if joined != self._joined_at:
            self._joined_at = joined
            self._joined_anew()
        changed = self.home.changed_at("settings.json")
        if changed != self._settings_of:
            self._settings_of = changed
            try:
                self.settings = self.offers.settings = self._read_settings()
            except (HomeError, ValueError) as error:
                self.note(f"the settings before stay in force: {error}")

    def _joined_anew(self) -> None:
        """Links of another node than the one that this machine is now are over; so are all, where it has left."""
        before = self.enrolled.node
        why = "" if self._joined_at else "this machine has left its gateway"
        with contextlib.suppress(HomeError):
            if self._credentials().enrolled.node != before:
                why = "this machine has joined anew"
        if why:
            self.jobs.reset_all("draining", why)
            self.links.pump()
            for link in tuple(self.links.live):
                link.abort(why)
        self.offers.most_models = self.enrolled.max_models
        for slot in self.links.slots:
            slot.hurry(anew=True)

    async def _settle(self) -> None:
        """A change of the key whose end was not heard is asked for again, while the old key is still good."""
        while True:
            try:
                if is_pending(self.home):
                    _LOGGER.info("this machine's key is now %s", await asyncio.to_thread(rotate, self.home))
            except (HomeError, EnrolmentError) as error:
                self.note(f"the change of this machine's key is not done: {error}")
            await asyncio.sleep(SETTLE_EVERY_S)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            self._pool.sweep(self.loop.time())

    async def _until_stopped(self) -> None:
        await self._leaves.wait()
        for link in self.links.up:
            link.core.drain(m.Drain("stop", STOP_S, reason="the agent stops"))
        self.links.pump()
        waits = [self.loop.create_task(self._stop.wait()), self.loop.create_task(self.jobs.idle.wait())]
        try:
            await asyncio.wait(waits, timeout=STOP_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        self.jobs.reset_all("draining", "the agent stops")
        for link in self.links.up:
            link.core.drained()

    # --- what follows from a change ----------------------------------------------------------------------------------

    def _changed(self) -> None:
        """Jobs, engines or links are not what they were: look at the end of this turn, whatever it was part of."""
        if not self._will_apply:
            self._will_apply = True
            self.loop.call_soon(self._apply)

    def _apply(self) -> None:
        """Let jobs and gateway know whether it serves, and end what is over its time."""
        self._will_apply = False
        now = self.loop.time()
        self._drains = {link: drain for link, drain in self._drains.items() if link.up and now < drain[1]}
        jobs = self.jobs
        self._machine.note(self.offers, jobs)
        if self.serves:
            jobs.closed = None
        else:
            without = "draining" if self._drains or self._stopping else self.offers.away_code
            code: m.RefuseCode = self.standing.decision.code or without
            jobs.close(code, self.reason)
        jobs.resize(self.offers.slots, self.settings.queue)
        if jobs.running and not self.serves:
            due = [by for by in (self.standing.reset_by, *(by for by, _ in self._drains.values())) if by is not None]
            if due and now >= min(due):
                drained = self._drains or self.standing.drains
                jobs.reset_all("draining" if drained else "owner_active", self.reason)
        if self._drains and not jobs.running and not self._drained_said:
            self._drained_said = True
            for link in self.links.up:
                link.core.drained()
        if self.serves == self._told_serving:
            self.telling.soon()
        else:
            self._told_serving = self.serves
            self.telling.at_once()

    def _caps(self, revision: int) -> m.Caps:
        return self.offers.caps(revision, sys.platform, platform.machine().lower())

    def _load(self) -> m.Load:
        engines, models = self.loads()
        drains = self._stopping or self._drains or (self.standing.drains and self.jobs.running)
        state: Literal["ready", "paused", "draining"] = "ready" if self.serves else "draining" if drains else "paused"
        return m.Load(state, self.reason[:300], self.standing.decision.presence, engines, models)

    def _knows(self) -> bool:
        """How this machine is, not only how it starts."""
        return self.standing.decided and (self._can_call or self.offers.looked)

    def loads(self) -> tuple[list[m.EngineState], list[m.ModelState]]:
        """How engines and models are."""
        used_s = self._facts.local_use_s
        return self.offers.loads(self.jobs.load_of, None if used_s is None else used_s < OTHERS_S)

    def _engine_failed(self, engine: str, detail: str) -> None:
        self.note(f"engine {engine}: {detail}")
        watch = self.offers.watch_of(engine)
        if watch is not None:
            watch.wake()

    # --- links -------------------------------------------------------------------------------------------------------

    def _credentials(self) -> Credentials:
        """Read anew at each dial: the machine may have another key, or have joined anew. Raises HomeError."""
        enrolled = self.home.enrolled()
        if enrolled is None:
            raise HomeError("this machine has left its gateway: potluck node join URL")
        self.enrolled, key = enrolled, self.home.key()
        try:
            from_text(enrolled.gateway_key, 32)
            return Credentials(self.enrolled, key.id, Identity(from_text(key.private, 32)))
        except ValueError:
            files = f"{self.home.path / 'key'} or {self.home.path / 'node.json'}"
            raise HomeError(f"a key in {files} is damaged: join again: potluck node join URL --force") from None

    def _on_link(self, link: Link, event: e.Event) -> None:
        if isinstance(event, _JOB_EVENTS):
            self.jobs.take(event)
        elif isinstance(event, e.Welcomed):
            _LOGGER.info("linked with %s", self.enrolled.url)
            self.links.welcomed()
            self.telling.welcomed(link)
            self.links.resume()
        elif isinstance(event, e.CapsAcked):
            self.telling.acked(event.revision)
        elif isinstance(event, e.DrainCame):
            self._asked_to_drain(link, event.drain)
        elif isinstance(event, e.TaskCame):
            self._commands.take(link, event.task)
        elif isinstance(event, e.GoingAway):
            if event.goaway.code in _EXPELLED:
                self.jobs.reset_all("draining", "the gateway has revoked this machine's enrolment")
        elif isinstance(event, e.Failed):
            self.note(f"link: {event.code}: {event.detail}")

    def _asked_to_drain(self, link: Link, drain: m.Drain) -> None:
        if drain.resume_after_s == 0:
            self._drains = {}
        else:
            now, lasts_s = self.loop.time(), drain.resume_after_s
            self._drains[link] = (now + drain.deadline_s, float("inf") if lasts_s is None else now + lasts_s)
            self._drained_said = False
            for each in self.links.up:
                each.core.drain(drain)
        self._apply()
