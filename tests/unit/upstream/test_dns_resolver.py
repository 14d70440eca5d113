"""The resolver's memory: what is asked, how often, and what is told when a name server fails."""

import asyncio
import socket
from typing import Any

import pytest

from potluck.upstream.dns import MAX_LOOKUPS, NEGATIVE_TTL_S, POSITIVE_TTL_S, STALE_TTL_S, Address, Resolver, literal


class FakeLoop:
    """The running loop with a clock and a name server that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: list[str] = []
        self.running = 0
        self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.answer: list[str] | OSError = ["192.0.2.1"]

    def time(self) -> float:
        return self.now

    def create_task(self, coroutine: Any) -> Any:
        return asyncio.get_running_loop().create_task(coroutine)

    async def getaddrinfo(self, host: str, port: None, *, type: int) -> list[Any]:  # noqa: A002 — as the loop names it
        self.asked.append(host)
        self.running += 1
        self.most = max(self.most, self.running)
        await self.gate.wait()
        self.running -= 1
        if isinstance(self.answer, OSError):
            raise self.answer
        found: list[Any] = []
        for ip in self.answer:
            if ":" in ip:
                found.append((socket.AF_INET6, type, 6, "", (ip, 0, 0, 0)))
            else:
                found.append((socket.AF_INET, type, 6, "", (ip, 0)))
        return found


def make() -> tuple[FakeLoop, Resolver]:
    loop = FakeLoop()
    return loop, Resolver(loop)  # type: ignore[arg-type]


UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def test_literals_are_never_looked_up() -> None:
    """Addresses of both families, in brackets or not, go straight through."""
    loop, resolver = make()
    assert await resolver.resolve("192.0.2.7", 80) == [Address(socket.AF_INET, ("192.0.2.7", 80))]
    assert await resolver.resolve("[2001:db8::1]", 80) == [Address(socket.AF_INET6, ("2001:db8::1", 80, 0, 0))]
    assert literal("fe80::1%3", 80) == Address(socket.AF_INET6, ("fe80::1", 80, 0, 3))
    assert literal("localhost", 80) is None
    assert not loop.asked


async def test_an_answer_is_kept_for_its_time() -> None:
    """One lookup serves every port for 30 s, doubled entries once, the system's order kept."""
    loop, resolver = make()
    loop.answer = ["2001:db8::1", "192.0.2.1", "192.0.2.1"]
    first = await resolver.resolve("a.test", 80)
    assert first == [Address(socket.AF_INET6, ("2001:db8::1", 80, 0, 0)), Address(socket.AF_INET, ("192.0.2.1", 80))]
    loop.now += POSITIVE_TTL_S - 1
    assert (await resolver.resolve("a.test", 443))[1] == Address(socket.AF_INET, ("192.0.2.1", 443))
    assert loop.asked == ["a.test"]
    loop.now += 2
    loop.answer = ["192.0.2.9"]
    assert await resolver.resolve("a.test", 80) == [Address(socket.AF_INET, ("192.0.2.9", 80))]
    assert loop.asked == ["a.test", "a.test"]


async def test_a_failure_is_kept_for_a_short_time() -> None:
    """Unknown names are not asked for again within 2 s, and each asker gets an exception of its own."""
    loop, resolver = make()
    loop.answer = UNKNOWN
    raised = []
    for _ in range(3):
        with pytest.raises(socket.gaierror) as caught:
            await resolver.resolve("a.test", 80)
        raised.append(caught.value)
    assert len(loop.asked) == 1
    assert len({id(error) for error in raised}) == 3
    loop.now += NEGATIVE_TTL_S + 0.1
    loop.answer = ["192.0.2.1"]
    assert await resolver.resolve("a.test", 80)


async def test_an_old_answer_outlives_a_failing_name_server() -> None:
    """Stale on error, asked again every 2 s, and not for ever."""
    loop, resolver = make()
    good = await resolver.resolve("a.test", 80)
    loop.answer = UNKNOWN
    loop.now += POSITIVE_TTL_S + 1
    assert await resolver.resolve("a.test", 80) == good
    assert await resolver.resolve("a.test", 80) == good
    assert len(loop.asked) == 2
    loop.now += NEGATIVE_TTL_S + 0.1
    assert await resolver.resolve("a.test", 80) == good
    assert len(loop.asked) == 3
    loop.now += STALE_TTL_S
    with pytest.raises(socket.gaierror):
        await resolver.resolve("a.test", 80)


async def test_one_lookup_serves_all_who_wait() -> None:
    """Callers that ask meanwhile share the lookup, and one that is cancelled takes it from nobody."""
    loop, resolver = make()
    loop.gate.clear()
    waiters = [asyncio.ensure_future(resolver.resolve("a.test", 80)) for _ in range(5)]
    while not loop.asked:
        await asyncio.sleep(0)
    waiters[0].cancel()
    await asyncio.sleep(0)
    loop.gate.set()
    answers = await asyncio.gather(*waiters[1:])
    assert all(answer == answers[0] for answer in answers)
    assert loop.asked == ["a.test"]
    assert waiters[0].cancelled()


async def test_lookups_are_bounded() -> None:
    """However many names are asked for at once, no more than the bound are under way."""
    loop, resolver = make()
    loop.gate.clear()
    waiters = [asyncio.ensure_future(resolver.resolve(f"{n}.test", 80)) for n in range(20)]
    while len(loop.asked) < MAX_LOOKUPS:
        await asyncio.sleep(0)
    loop.gate.set()
    await asyncio.gather(*waiters)
    assert loop.most == MAX_LOOKUPS
    assert len(loop.asked) == 20


async def test_a_doubted_answer_is_asked_for_again() -> None:
    """After no address could be connected to, the next call looks the name up, and falls back on the old answer."""
    loop, resolver = make()
    good = await resolver.resolve("a.test", 80)
    resolver.doubt("a.test")
    loop.answer = UNKNOWN
    assert await resolver.resolve("a.test", 80) == good
    assert len(loop.asked) == 2
    resolver.doubt("never-asked.test")


async def test_what_the_idna_codec_refuses_is_an_unknown_name() -> None:
    """A name that cannot be encoded fails as a lookup error does."""
    loop, resolver = make()

    async def refuse(*arguments: Any, **options: Any) -> None:
        raise UnicodeError("label empty or too long")

    loop.getaddrinfo = refuse  # type: ignore[assignment,method-assign]
    with pytest.raises(socket.gaierror):
        await resolver.resolve("a..test", 80)


async def test_close_lets_waiting_callers_go() -> None:
    """Lookups under way are cancelled with the resolver."""
    loop, resolver = make()
    loop.gate.clear()
    waiter = asyncio.ensure_future(resolver.resolve("a.test", 80))
    while not loop.asked:
        await asyncio.sleep(0)
    resolver.close()
    with pytest.raises(asyncio.CancelledError):
        await waiter
