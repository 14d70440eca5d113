"""A helper in a person's session tells the agent, which may be a service that cannot see the desktop.

    datagram to 127.0.0.1:PORT:  HMAC-SHA256(secret, body) (32 bytes) + body
    body: JSON {"session": text, "sent_ns": unix time, "idle_s": number or null, "active": …, "locked": …, …}

Rules of this file
- What is not signed with the secret of this node, was not sent just now, or is older than what came before from the
  same session is ignored: another person on the machine can neither make nor repeat a report.
- A report counts for `STALE_S` by the receiver's monotonic clock. After it, and before the first, nothing is known.
- A report holds a `Reading`, nothing else.
"""

import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from potluck.node.facts import Reading
from potluck.node.home import Home
from potluck.node.presence import Presence
from potluck.node.presence.sources import together

STALE_S = 30.0
SEND_EVERY_S = 1.0
MAX_AGE_NS = 5 * 10**9
"""by a clock that sender and receiver share; below `STALE_S`, so that what is forgotten cannot be repeated"""
MAX_BODY_BYTES = 1024
MAX_SESSIONS = 64
SECRET_FILE = "presence-secret"  # noqa: S105 - a file's name
SECRET_BYTES = 32


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a datagram."""

    session: str
    sent_ns: int
    idle_s: float | None = None
    active: bool | None = None
    locked: bool | None = None
    full_screen: bool = False


def sealed(secret: bytes, report: Report) -> bytes:
    """The datagram."""
    body = msgspec.json.encode(report)
    return hmac.digest(secret, body, hashlib.sha256) + body


def opened(secret: bytes, datagram: bytes) -> Report | None:
    """The report of a datagram; None for what is none, or not signed."""
    signature, body = datagram[:32], datagram[32:]
    if len(body) > MAX_BODY_BYTES or not hmac.compare_digest(hmac.digest(secret, body, hashlib.sha256), signature):
        return None
    try:
        report = msgspec.json.decode(body, type=Report)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return report if report.idle_s is None or report.idle_s >= 0 else None


def secret_of(home: Home) -> bytes:
    """The node's secret; made when there is none. Raises OSError, and ValueError for a damaged file."""
    path = home.path / SECRET_FILE
    try:
        fd = home.create(SECRET_FILE)
    except FileExistsError:
        return read_secret(path)
    with os.fdopen(fd, "w") as file:
        file.write(secrets.token_hex(SECRET_BYTES) + "\n")
    return read_secret(path)


def read_secret(path: Path) -> bytes:
    """A secret file: 64 hexadecimal digits. Raises OSError and ValueError."""
    try:
        secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"{path} is damaged: remove it, and restart the node")
    return secret


class Reports(asyncio.DatagramProtocol):
    """The agent's end: what the helpers said."""

    def __init__(
        self,
        secret: bytes,
        clock: Callable[[], float] = time.monotonic,
        unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._secret = secret
        self._clock = clock
        self._unix_ns = unix_ns
        self._latest: dict[str, tuple[Report, float]] = {}

    async def listen(self, port: int) -> asyncio.DatagramTransport:
        """On loopback. Raises OSError when the port is taken; the transport's `close` ends it."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", port))
        return transport

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 - the protocol's
        """Never answers."""
        report = opened(self._secret, data)
        if report is None or abs(self._unix_ns() - report.sent_ns) > MAX_AGE_NS:
            return
        before = self._latest.get(report.session)
        if before is not None and before[0].sent_ns >= report.sent_ns:
            return
        now_s = self._clock()
        self._latest = {session: each for session, each in self._latest.items() if now_s - each[1] <= STALE_S}
        if len(self._latest) < MAX_SESSIONS:
            self._latest[report.session] = report, now_s

    def readings(self) -> list[Reading]:
        """One for each session that reported of late. A session of which nothing is known is somebody."""
        now_s = self._clock()
        return [
            Reading(
                active=True if report.active is None and report.idle_s is None else report.active,
                idle_s=report.idle_s,
                locked=report.locked,
                full_screen=report.full_screen,
                source="presence helper",
            )
            for report, heard_s in self._latest.values()
            if now_s - heard_s <= STALE_S
        ]


def heard(local: Reading, reports: list[Reading]) -> Reading:
    """What the agent sees itself and what helpers say. The agent's own guess that somebody is there, without knowing
    when there was input, is left to helpers that know."""
    is_guess = local.active is True and local.idle_s is None and not local.full_screen
    return together([*reports, *([] if is_guess and reports else [local])])


def report_for_ever(presence: Presence, secret: bytes, port: int, stop: Callable[[float], bool]) -> None:
    """The helper: reports what `presence` sees, once a second. `stop(seconds)` waits, and says True to end it."""
    session = secrets.token_hex(8)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        while True:
            seen = presence.read()
            report = Report(session, time.time_ns(), seen.idle_s, seen.active, seen.locked, seen.full_screen)
            with contextlib.suppress(OSError):  # nobody listens: the service is not up yet
                out.sendto(sealed(secret, report), ("127.0.0.1", port))
            if stop(SEND_EVERY_S):
                return
