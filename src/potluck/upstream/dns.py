"""Names to addresses, off the loop, remembered for a while.

Rules: a literal address is never looked up; one lookup per name at a time, shared by all who wait for it; at most
`MAX_LOOKUPS` at once; a good answer is kept `POSITIVE_TTL_S`, a bad one `NEGATIVE_TTL_S`; when a lookup fails and an
older answer is there, the older answer is used (for at most `STALE_TTL_S`), because a name server's bad minute is not
a target's.
"""

import asyncio
import ipaddress
import socket
from typing import NamedTuple

MAX_LOOKUPS = 4
"""libuv's thread pool has four threads: more would only queue there, unseen"""
MAX_NAMES = 4096
POSITIVE_TTL_S = 30.0
NEGATIVE_TTL_S = 2.0
STALE_TTL_S = 3600.0


class Address(NamedTuple):
    """Where a socket connects to: family and the sockaddr of that family."""

    family: int
    sockaddr: tuple[str, int] | tuple[str, int, int, int]


class _Answer:
    __slots__ = ("at", "error", "expires", "hosts")

    def __init__(self, hosts: list[tuple[int, str, int]], at: float) -> None:
        self.hosts = hosts
        """family, address text, scope id"""
        self.at = at
        self.expires = at + POSITIVE_TTL_S
        self.error: OSError | None = None


def literal(host: str, port: int) -> Address | None:
    """`127.0.0.1`, `::1` and `[::1]` as an address; None for a name."""
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    if ip.version == 4:
        return Address(socket.AF_INET, (str(ip), port))
    scope = getattr(ip, "scope_id", None)
    number = 0
    if scope:
        number = int(scope) if scope.isdigit() else socket.if_nametoindex(scope)
    return Address(socket.AF_INET6, (str(ip).partition("%")[0], port, 0, number))


class Resolver:
    """Looks names up with the system's resolver (`getaddrinfo`) and remembers the answers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._answers: dict[str, _Answer] = {}
        self._flights: dict[str, asyncio.Task[_Answer]] = {}
        self._slots = asyncio.Semaphore(MAX_LOOKUPS)

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Addresses in the system's order, at least one. Raises `OSError` (mostly `socket.gaierror`)."""
        known = literal(host, port)
        if known is not None:
            return [known]
        answer = self._answers.get(host)
        if answer is None or answer.expires <= self._loop.time():
            flight = self._flights.get(host)
            if flight is None:
                # kept until done: shared by everyone who asks meanwhile, and outlives the cancel of the one who
                # started it
                flight = self._flights[host] = self._loop.create_task(self._look_up(host))
                flight.add_done_callback(lambda _: self._flights.pop(host, None))
            answer = await asyncio.shield(flight)
        if not answer.hosts:
            assert answer.error is not None
            # a fresh one each time: an exception raised twice grows its traceback
            raise type(answer.error)(*answer.error.args)
        return [
            Address(family, (address, port) if family == socket.AF_INET else (address, port, 0, scope))
            for family, address, scope in answer.hosts
        ]

    def doubt(self, host: str) -> None:
        """No address of this name could be connected to: look again next time (the answer stays as the stale one)."""
        answer = self._answers.get(host)
        if answer is not None and answer.error is None:
            answer.expires = 0.0

    def close(self) -> None:
        """Stop waiting for lookups; those in a thread run out by themselves."""
        for flight in list(self._flights.values()):
            flight.cancel()

    async def _look_up(self, host: str) -> _Answer:
        error: OSError
        async with self._slots:
            try:
                found = await self._loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except OSError as failed:
                error = failed
            except UnicodeError:
                # the idna codec refuses what no name server could know (an empty or over-long label)
                error = socket.gaierror(socket.EAI_NONAME, "not a host name")
            else:
                return self._remember(host, [_host(entry) for entry in found])
        return self._remember_failure(host, error)

    def _remember(self, host: str, hosts: list[tuple[int, str, int]]) -> _Answer:
        if len(self._answers) >= MAX_NAMES:
            self._answers.clear()
        answer = self._answers[host] = _Answer(list(dict.fromkeys(hosts)), self._loop.time())
        return answer

    def _remember_failure(self, host: str, error: OSError) -> _Answer:
        now = self._loop.time()
        answer = self._answers.get(host)
        if answer is None or not answer.hosts or now - answer.at > STALE_TTL_S:
            answer = self._remember(host, [])
        answer.error = error
        answer.expires = now + NEGATIVE_TTL_S
        return answer


def _host(entry: tuple[int, int, int, str, tuple[object, ...]]) -> tuple[int, str, int]:
    family, _, _, _, sockaddr = entry
    return int(family), str(sockaddr[0]), int(sockaddr[3]) if len(sockaddr) > 3 else 0  # type: ignore[call-overload]
