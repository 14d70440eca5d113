"""The agent's links: dialled, kept up, given up. Sockets and time for `wire.link.LinkCore`, whose rules are the link's.

Rules of this file
- Always outward, to the one address that the machine joined: no redirect is followed. The system's proxy is used, but
  never for loopback. TLS is verified by the system's roots, or by those of the file that the owner named.
- Two links: the second is dialled when the first is up, so that a gateway or a route can go without a gap.
- After a loss: a random part of a time that doubles from `FIRST_BACK_OFF_S` to `MAX_BACK_OFF_S`, and begins anew only
  after a link was good for `STABLE_S`. A gateway that says `spread_s` gets its reconnects over that time. When this
  machine's addresses change, all is tried at once.
- A gateway that said no (`REFUSALS`) is asked again much later: it is shown, not hammered.
- The socket is read always; what limits a sender is the link's window. The writer asks the core for little at a time,
  so that control frames overtake bodies.
"""

import asyncio
import contextlib
import logging
import random
import secrets
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
import psutil  # type: ignore[import-untyped]
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from potluck.engines.asking import is_loopback
from potluck.node.enrolment import AGENT, EnrolmentError, trust
from potluck.node.home import Enrolled, HomeError
from potluck.node.identity import Identity, from_text, verify
from potluck.wire import link_events as e
from potluck.wire import link_frames as f
from potluck.wire import link_messages as m
from potluck.wire.link import LinkCore
from potluck.wire.link_handshake import Party
from potluck.wire.link_jobs import JobTable

LINK_PATH: Final = "/node/v1/link"
FIRST_BACK_OFF_S: Final = 1.0
MAX_BACK_OFF_S: Final = 60.0
STABLE_S: Final = 60.0
OPEN_S: Final = 10.0
CLOSE_S: Final = 2.0
NETWORK_LOOK_S: Final = 2.0
MAX_SPREAD_S: Final = 300.0  # of a gateway's word, which before its welcome is anybody's
USER_TIMEOUT_MS: Final = 30_000  # unacknowledged for so long, the kernel gives the connection up
WRITE_BYTES: Final = 32 * 1024  # asked of the core at once

REFUSALS: Final[dict[str, tuple[float, str]]] = {
    "revoked": (900.0, "this machine's enrolment was revoked: join again with a new token"),
    "unknown": (900.0, "the gateway does not know this machine: join again with a new token"),
    "not_approved": (30.0, "waits for an administrator of the gateway to approve it: potluck nodes approve"),
    "clone": (120.0, "another machine is linked with this machine's key: if it is a copy, rotate the key or join anew"),
    "bad_proof": (300.0, "the gateway does not accept this machine's key: join again with a new token"),
    "bad_origin": (120.0, "the gateway knows itself by another address than the one that was joined"),
    "bad_gateway": (300.0, "another gateway answers at this address: its key is not the pinned one"),
    "version": (600.0, "the gateway speaks another version of the link: update the older of the two"),
}
"""by GOAWAY code: seconds until it is asked again, and what that means here"""
_STATUSES: Final = {
    401: "the gateway refuses the link",
    403: "the gateway refuses the link",
    404: "no gateway answers there, or one without nodes",
    421: "the gateway does not know itself by this address: see its --public-url",
    426: "what answers there does not speak WebSocket: a proxy in between may not pass it on",
    429: "too many links were dialled",
    503: "the gateway takes no link right now",
}
_LOGGER = logging.getLogger("potluck.node")


class Credentials(msgspec.Struct, frozen=True):
    """Who dials whom; read anew at each dial, so that a changed key counts from then on."""

    enrolled: Enrolled
    key_id: str
    identity: Identity


class Ended(msgspec.Struct, frozen=True):
    """Why a link is no more, in words; `code`: the peer's or ours, empty where the socket just went."""

    code: str
    why: str
    spread_s: float = 0.0


class _Connect(connect):
    """Follows no redirect: the link goes where the machine joined, or nowhere."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class Link:
    """One connection and its core."""

    def __init__(self, links: "Links", credentials: Credentials) -> None:
        enrolled, identity = credentials.enrolled, credentials.identity
        self._links = links
        self._credentials = credentials
        self._loop = links.loop
        party = Party("node", enrolled.origin, identity.sign, verify, from_text(enrolled.gateway_key, 32))
        self.core = LinkCore(party, self._loop.time(), links.table)
        self.since = 0.0
        """of the welcome, by the loop's clock"""
        self.going = asyncio.Event()
        """it takes no new streams: another one may be dialled"""
        self._goaway: m.Goaway | None = None
        self._fault: Ended | None = None
        self._closing_since = 0.0
        self._wake = asyncio.Event()
        self._socket: ClientConnection | None = None

    @property
    def up(self) -> bool:
        return self.core.phase == "open"

    @property
    def local_address(self) -> str:
        """Of this end; empty while there is none."""
        address = self._socket.local_address if self._socket is not None else None
        return str(address[0]).partition("%")[0] if address else ""

    def wake(self) -> None:
        """The core may have something to send."""
        self._wake.set()

    def abort(self, why: str) -> None:
        """The connection is of no use any more."""
        self._fault = self._fault or Ended("", why)
        if self._socket is not None:
            self._socket.transport.abort()

    async def run(self) -> Ended:
        """Dial, and carry frames until the link is no more. Raises nothing; cancelled, it goes with `leaving`."""
        try:
            self._socket = await self._dial()
        except (OSError, WebSocketException, EnrolmentError, ValueError, EOFError, ImportError) as error:
            return Ended("", dial_fault(error))
        socket_ = self._socket
        if socket_.subprotocol != m.SUBPROTOCOL:
            socket_.transport.abort()
            return Ended("", "what answers there is no Potluck gateway")
        _watch_dead_peers(socket_)
        writer = self._loop.create_task(self._write(socket_))
        try:
            self._hello()
            self._wake.set()
            while self.core.phase != "closed":
                frame = await socket_.recv()
                now = self._loop.time()
                if isinstance(frame, str):
                    self.take(self.core.close("bad_frame", "a text message", now))
                    self._fault = Ended("bad_frame", "the gateway sent text")
                else:
                    self.take(self.core.receive(frame, now))
                self._wake.set()
        except ConnectionClosed:
            pass
        except asyncio.CancelledError:
            self.take(self.core.close("leaving", "the agent stops", self._loop.time()))
            raise
        except Exception:  # whatever a gateway says ends its link at most
            _LOGGER.exception("an error of the agent's own ends a link")
            self._fault = Ended("internal", "an error of the agent's own; its log says more")
        finally:
            self.take(self.core.lost(self._loop.time()))
            self._wake.set()
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_S):
                    await asyncio.shield(writer)
            writer.cancel()
            socket_.transport.abort()
        return self._why()

    def take(self, events: list[e.Event]) -> None:
        """What the core tells: of the link here, of jobs to the agent."""
        for event in events:
            if isinstance(event, e.GoingAway):
                self._goaway = event.goaway
                if event.goaway.graceful:
                    self.going.set()
            elif isinstance(event, e.Failed):
                self._fault = Ended(event.code, event.detail)
            elif isinstance(event, e.Welcomed):
                self.since = self._loop.time()
            self._links.on_event(self, event)

    def tick(self, now: float) -> None:
        """Heartbeats and deadlines."""
        self.take(self.core.tick(now))
        self._wake.set()
        if self.core.phase == "closed":
            self._closing_since = self._closing_since or now
            deaf = self._fault is not None and self._fault.code in ("lost", "overflow")
            if deaf or now - self._closing_since > CLOSE_S:
                self.abort("the connection was cut")  # nobody takes a last frame

    def leaving(self) -> Ended:
        """Why another link is wanted while this one is still up."""
        assert self._goaway is not None
        return Ended(self._goaway.code, self._goaway.detail or self._goaway.code, self._goaway.spread_s)

    def _hello(self) -> None:
        enrolled = self._credentials.enrolled
        nonce = secrets.token_hex(32)
        features = sorted(m.FEATURES if self._links.sends_log else m.FEATURES - {"log"})
        self.core.hello(
            m.Hello(enrolled.node, self._credentials.key_id, self._links.boot, AGENT, m.MINOR, m.MINOR, features, nonce)
        )

    async def _dial(self) -> ClientConnection:
        origin = self._credentials.enrolled.origin
        scheme, _, authority = origin.partition("://")
        extra: dict[str, Any] = {}
        if scheme == "https":
            extra["ssl"] = await self._links.trust(self._credentials.enrolled.ca_file)
        return await _Connect(
            f"{'wss' if scheme == 'https' else 'ws'}://{authority}{LINK_PATH}",
            subprotocols=[Subprotocol(m.SUBPROTOCOL)],
            compression=None,
            user_agent_header=AGENT,
            proxy=None if is_loopback(_host(authority)) else True,
            open_timeout=OPEN_S,
            ping_interval=None,
            close_timeout=CLOSE_S,
            max_size=max(m.MAX_DATA_BYTES + f.DATA_HEADER.size, m.MAX_CONTROL_BYTES + f.HEADER.size),
            **extra,
        )

    async def _write(self, socket_: ClientConnection) -> None:
        core = self.core
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self._wake.wait()
                self._wake.clear()
                while frames := core.frames_to_send(WRITE_BYTES):
                    for frame in frames:
                        await socket_.send(frame)
                if core.phase == "closed":
                    await socket_.close()
                    return

    def _why(self) -> Ended:
        if self._goaway is not None and not (self._goaway.graceful and self._fault):
            goaway = self._goaway
            said = REFUSALS[goaway.code][1] if goaway.code in REFUSALS else goaway.detail or goaway.code
            return Ended(goaway.code, said, goaway.spread_s)
        if self._fault is not None:
            said = REFUSALS[self._fault.code][1] if self._fault.code in REFUSALS else self._fault.why
            return Ended(self._fault.code, said)
        return Ended("", "the connection was cut")


class Slot:
    """One of the links that are to be up: dials, waits, dials again."""

    def __init__(self, links: "Links", index: int) -> None:
        self._links = links
        self._index = index
        self._failures = 0
        self._now = asyncio.Event()
        self.link: Link | None = None
        self.last: Ended | None = None
        """why the last link, or the last try, ended"""
        self.next_try = 0.0
        """by the loop's clock; 0 while it tries or is up"""

    def hurry(self, *, anew: bool = False) -> None:
        """The network changed: try now, unless the gateway said no. `anew`: what it said was to another node."""
        if anew or self.last is None or self.last.code not in REFUSALS:
            self._now.set()

    async def run(self) -> None:
        """Until cancelled."""
        links = self._links
        running: set[asyncio.Task[Ended]] = set()
        try:
            while True:
                await links.may_dial(self._index)
                try:
                    link = self.link = Link(links, links.credentials())
                except HomeError as error:
                    self.last = Ended("unknown", str(error))
                    await self._pause(0.0)
                    continue
                links.live.append(link)
                task = links.loop.create_task(link.run())
                running.add(task)
                task.add_done_callback(running.discard)
                task.add_done_callback(partial(links.gone, link))
                going = links.loop.create_task(link.going.wait())
                try:
                    await asyncio.wait({task, going}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    going.cancel()
                self.link = None
                self.last = task.result() if task.done() else link.leaving()
                await self._pause(link.since)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _pause(self, since: float) -> None:
        loop, last = self._links.loop, self.last
        assert last is not None
        stable = since and loop.time() - since >= STABLE_S
        self._failures = 1 if stable else self._failures + 1
        if last.code in REFUSALS:
            wait_s = REFUSALS[last.code][0] * random.uniform(0.8, 1.2)  # noqa: S311 — nothing to guess
        elif last.spread_s:
            wait_s = random.uniform(0, min(last.spread_s, MAX_SPREAD_S))  # noqa: S311
        else:
            wait_s = random.uniform(0, back_off_s(self._failures))  # noqa: S311
        (_LOGGER.info if self._index else _LOGGER.warning)("link: %s; next try in %.1f s", last.why, wait_s)
        self.next_try = loop.time() + wait_s
        self._links.on_change()
        self._now.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._now.wait()
        self.next_try = 0.0


class Links:
    """All links of this machine. `on_event(link, event)` and `on_change()` are plain callbacks of the agent."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        credentials: Callable[[], Credentials],
        on_event: Callable[[Link, e.Event], None],
        on_change: Callable[[], None],
        count: int = 2,
        *,
        sends_log: bool = False,
    ) -> None:
        self.loop = loop
        self.credentials = credentials
        self.on_event = on_event
        self.on_change = on_change
        self.sends_log = sends_log
        self.table = JobTable("node")
        self.boot = secrets.token_hex(8)
        self.slots = [Slot(self, index) for index in range(count)]
        self.live: list[Link] = []
        """dialled, up, or on their way out"""
        self.alone_since: float | None = None
        """no link has been up since, by the loop's clock; None: one is, or none was tried yet"""
        self._first_up = asyncio.Event()
        self._pumping = False
        self._trust: tuple[str, ssl.SSLContext] | None = None

    @property
    def up(self) -> list[Link]:
        return [link for link in self.live if link.up]

    async def run(self) -> None:
        """Keep the links up until cancelled; then each goes with a last word."""
        tasks = [self.loop.create_task(slot.run()) for slot in self.slots]
        tasks.append(self.loop.create_task(self._watch_network()))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def tick(self, now: float) -> None:
        """About once a second."""
        for link in tuple(self.live):
            link.tick(now)
            if link.going.is_set() and not any(job.link is link.core for job in self.table.jobs.values()):
                link.take(link.core.close("leaving", "nothing runs here any more", now))
                link.wake()
        self.resume()

    def resume(self) -> None:
        """Ask for jobs that have lost their link to go on over another one."""
        for link in self.up:
            if not link.going.is_set() and link.core.resume():
                link.wake()
                return

    def pump(self) -> None:
        """Something was said to a job or a core: send it, at the end of this turn of the loop."""
        if not self._pumping:
            self._pumping = True
            self.loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        for link in self.live:
            link.wake()

    def gone(self, link: Link, _: object = None) -> None:
        """A link's task is over."""
        if link in self.live:
            self.live.remove(link)
        if not self.up:
            self._first_up.clear()
            self.alone_since = self.alone_since or self.loop.time()
        self.resume()
        self.on_change()

    def welcomed(self) -> None:
        """A link is up: the next one may be dialled."""
        self._first_up.set()
        self.alone_since = None

    async def may_dial(self, index: int) -> None:
        """The first slot always; another one when a link is up."""
        if index:
            await self._first_up.wait()

    async def trust(self, ca_file: str) -> ssl.SSLContext:
        """Read once, off the loop. Raises EnrolmentError."""
        if self._trust is None or self._trust[0] != ca_file:
            self._trust = (ca_file, await asyncio.to_thread(trust, ca_file))
        return self._trust[1]

    async def _watch_network(self) -> None:
        known = addresses()
        while True:
            await asyncio.sleep(NETWORK_LOOK_S)
            found = addresses()
            if found in (known, frozenset()):
                continue
            known = found
            here = {address for _, address in found}
            for link in tuple(self.live):
                if link.local_address and link.local_address not in here:
                    link.abort("this machine's address changed")
            for slot in self.slots:
                slot.hurry()


def back_off_s(failures: int) -> float:
    """The longest wait after so many failures, from 1."""
    return min(FIRST_BACK_OFF_S * 2.0 ** min(failures - 1, 30), MAX_BACK_OFF_S)


def addresses() -> frozenset[tuple[str, str]]:
    """(interface, address) of this machine, without the zone of link-local ones; empty: the system does not say."""
    families = (socket.AF_INET, socket.AF_INET6)
    try:
        interfaces = psutil.net_if_addrs()
    except OSError:  # some sandboxes
        interfaces = {}
    return frozenset(
        (name, each.address.partition("%")[0])
        for name, found in interfaces.items()
        for each in found
        if each.family in families
    )


def dial_fault(error: BaseException) -> str:
    """Why no connection came about, in words."""
    if isinstance(error, EnrolmentError):
        return str(error)
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        if 300 <= status < 400:
            return "what answers there sends elsewhere (a redirect), which is not followed"
        return f"{_STATUSES.get(status, 'the gateway refuses the link')} (HTTP {status})"
    if isinstance(error, InvalidProxy):
        return "the system's proxy setting is not one that can be used"
    if isinstance(error, ImportError):
        return "the system's proxy is a SOCKS proxy: that needs the package python-socks beside the agent"
    if isinstance(error, InvalidHandshake):
        return "what answers there does not speak WebSocket"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the gateway's certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return "TLS failed"
    if isinstance(error, TimeoutError):
        return "the gateway does not answer in time"
    if isinstance(error, socket.gaierror):
        return "the gateway's name is not known"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens at the gateway's address"
    if isinstance(error, OSError) and error.strerror:
        return f"the gateway is not reached: {error.strerror.lower()[:200]}"
    return "the gateway is not reached"


def _watch_dead_peers(connection: ClientConnection) -> None:
    raw = connection.transport.get_extra_info("socket")
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if raw is not None and option is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.IPPROTO_TCP, option, USER_TIMEOUT_MS)


def _host(authority: str) -> str:
    return authority[1:].partition("]")[0] if authority.startswith("[") else authority.partition(":")[0]
