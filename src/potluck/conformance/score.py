"""The failover score card: plays every case against a gateway and judges what both ends saw.

The two providers run here, so that the evidence of a line holds what the gateway did upstream as well as what its
caller got. A call belongs to a case by a mark in its prompt, which is random, so that no cache can answer. `WIDTH`
cases run side by side, each with a deadline.

    async with Fakes() as fakes:
        card = await run("http://127.0.0.1:7171", key, fakes)
"""

import asyncio
import fnmatch
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final, Self

import msgspec

from potluck.conformance.answers import Json
from potluck.conformance.asking import Gateway, HungUpError, Line, ask
from potluck.conformance.call import SeenRequest
from potluck.conformance.caller import CutError
from potluck.conformance.cases import CASES, Case
from potluck.conformance.judging import LET_GO_S
from potluck.conformance.observation import Answer, Seen
from potluck.conformance.provider import FakeProvider

WIDTH: Final = 12
"""cases at a time"""
RUN_S: Final = 90.0
"""the longest that all cases can take without the slow ones"""
PORTS: Final = (9801, 9802, 9803)
"""where the faulty and the healthy provider listen, and where nobody does"""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the card."""

    name: str
    section: str
    does: str
    must: str
    ok: bool
    evidence: str


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """The whole card."""

    gateway: str
    lines: tuple[Verdict, ...]

    @property
    def passed(self) -> int:
        return sum(line.ok for line in self.lines)

    @property
    def total(self) -> int:
        return len(self.lines)

    @property
    def failed(self) -> list[Verdict]:
        return [line for line in self.lines if not line.ok]

    @property
    def sections(self) -> dict[str, tuple[Verdict, ...]]:
        """The lines by section, in the order of the card."""
        names = dict.fromkeys(line.section for line in self.lines)
        return {name: tuple(line for line in self.lines if line.section == name) for name in names}


class Fakes:
    """The two providers and the port that refuses. Raises OSError when a port is taken."""

    def __init__(self, host: str = "127.0.0.1", ports: tuple[int, int, int] = PORTS) -> None:
        self.host = host
        self.first, self.second = FakeProvider(host, ports[0]), FakeProvider(host, ports[1])
        self._refused_port = ports[2]
        self._holder: socket.socket

    @property
    def ports(self) -> tuple[int, int, int]:
        """The real ones, once started."""
        return self.first.port, self.second.port, self._refused_port

    async def __aenter__(self) -> Self:
        self._holder = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        try:
            self._holder.bind((self.host, self._refused_port))  # bound and not listening: refuses
            self._refused_port = self._holder.getsockname()[1]
            await self.first.start()
            await self.second.start()
        except OSError:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._holder.close()
        await self.first.stop()
        await self.second.stop()

    def calls(self, mark: str) -> list[tuple[str, SeenRequest]]:
        """The calls whose prompt holds `mark`, in order of arrival, each with the provider's name."""
        pairs = (("first", self.first), ("second", self.second))
        seen = [(name, request) for name, fake in pairs for request in fake.requests if mark.encode() in request.body]
        return sorted(seen, key=lambda pair: pair[1].at_s)


class UnusableError(Exception):
    """The gateway cannot be measured. `refused`: it answers, and not with a list of models."""

    def __init__(self, message: str, *, refused: bool) -> None:
        super().__init__(message)
        self.refused = refused


def chosen(only: str = "", *, slow: bool = False) -> list[Case]:
    """The cases whose name or section matches the pattern (`*` and `?`, or a part); the slow ones when asked for."""
    pattern = only if any(mark in only for mark in "*?[") else f"*{only}*"
    named = [case for case in CASES if fnmatch.fnmatch(case.name, pattern) or fnmatch.fnmatch(case.section, pattern)]
    return [case for case in named if slow or not case.slow]


async def run(
    url: str,
    key: str,
    fakes: Fakes,
    cases: Sequence[Case] | None = None,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Card:
    """Play the cases (default: all but the slow ones). Raises ValueError for a bad URL, UnusableError."""
    gateway = Gateway.at(url, key)
    await _check(gateway, url)
    cases = chosen() if cases is None else cases
    room = asyncio.Semaphore(WIDTH)
    done = 0

    async def one(case: Case) -> Verdict:
        nonlocal done
        async with room:
            seen = await play(gateway, fakes, case)
        done += 1
        progress(done, len(cases))
        return judge(case, seen)

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one(case)) for case in cases]
    return Card(gateway=url, lines=tuple(each.result() for each in running))


async def play(gateway: Gateway, fakes: Fakes, case: Case) -> Seen:
    """One case; the connection's own failure is an answer without status."""
    mark = f"{case.name}/{secrets.token_hex(6)}"
    body: Json = {
        "model": case.model,
        "messages": [{"role": "user", "content": f"Who brings what? ({mark})"}],
        **({"stream": True} if case.stream else {}),
        **case.members,
    }
    hung_up_s = 0.0

    async def hang_up(line: Line) -> None:
        nonlocal hung_up_s
        hung_up_s = line.hang_up()
        raise HungUpError

    async def hang_up_once_asked(line: Line) -> None:
        await fakes.first.wait_for(lambda: fakes.calls(mark), case.deadline_s)
        await hang_up(line)

    moments = {"waiting": {"when_sent": hang_up_once_asked}, "talking": {"when_talking": hang_up}}
    try:
        answer = await ask(gateway, body, case.deadline_s, **moments.get(case.hang_up, {}))
    except OSError:
        answer = Answer(ended="cut")
    calls = fakes.calls(mark)
    return Seen(
        answer=answer,
        stream=case.stream,
        calls=tuple(name for name, _ in calls),
        altered=any(request.json.get("messages") != body["messages"] for _, request in calls),
        let_go_s=await _let_go_s(fakes, calls, hung_up_s) if hung_up_s else None,
    )


def judge(case: Case, seen: Seen) -> Verdict:
    """The line of the card."""
    faults = list(case.judge.faults(seen))
    return Verdict(
        name=case.name,
        section=case.section,
        does=case.does,
        must=case.judge.must,
        ok=not faults,
        evidence="; ".join([*faults, seen.evidence]),
    )


async def _check(gateway: Gateway, url: str) -> None:
    """Ask for the list of models first: a wrong address or key would fail every line for the same reason."""
    try:
        async with asyncio.timeout(5), Line(gateway, 5) as line:
            await line.send(gateway.request("GET", "/models"))
            status = (await line.read_head()).status
    except (CutError, OSError, ValueError) as error:
        raise UnusableError(f"{url} cannot be reached: {str(error) or type(error).__name__}", refused=False) from None
    if 400 <= status <= 403:  # a gateway without such a list (404) can be measured all the same
        raise UnusableError(f"{url} answers GET /v1/models with {status}: give a key that it knows", refused=True)


async def _let_go_s(fakes: Fakes, calls: list[tuple[str, SeenRequest]], hung_up_s: float) -> float | None:
    """Seconds from the hang-up until every upstream connection of the case was closed; None when one stays open."""
    if not calls:
        return None
    connections = [request.connection for _, request in calls]
    left_s = hung_up_s + 2 * LET_GO_S - time.monotonic()
    try:
        await fakes.first.wait_for(lambda: all(each.closed_how for each in connections), max(left_s, 0.0))
    except TimeoutError:
        return None
    return max(each.closed_s or 0.0 for each in connections) - hung_up_s
