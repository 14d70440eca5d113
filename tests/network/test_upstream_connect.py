"""Making connections: names, several addresses, refusals."""

import asyncio
import socket

import pytest
from upstream_rig import both_loops, deaf_port, echo, rig, target_at, until, unused_port

from potluck.upstream import Resolver
from potluck.upstream.connect import STAGGER_S, connect_any, interleave
from potluck.upstream.dns import Address


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
    return True


class Book(Resolver):
    """A resolver whose names a test writes down; counts how often each is asked for."""

    def __init__(self, **names: list[tuple[str, int]]) -> None:
        super().__init__(asyncio.get_running_loop())
        self.names = names
        self.doubted: list[str] = []

    async def resolve(self, host: str, port: int) -> list[Address]:
        return [Address(socket.AF_INET6 if ":" in ip else socket.AF_INET, (ip, to)) for ip, to in self.names[host]]

    def doubt(self, host: str) -> None:
        self.doubted.append(host)


@both_loops
async def test_a_name_of_this_machine_is_found_by_the_systems_resolver() -> None:
    """`localhost` works without a name server."""
    async with rig() as it:
        server = await it.server(echo)
        sink = await it.done(target_at(server.port, host="localhost"), b"hi")
        assert sink.body == b"hi"


@both_loops
async def test_a_name_that_does_not_exist() -> None:
    """An unknown name is target_down in phase connect, and its text is not in the words."""
    async with rig() as it:
        sink = await it.done(target_at(80, host="does-not-exist.invalid"))
        assert sink.failure is not None
        assert (sink.failure.error_class, sink.failure.phase) == ("target_down", "connect")
        assert "name" in sink.failure.detail
        assert "invalid" not in sink.failure.detail


@both_loops
async def test_names_that_are_no_names() -> None:
    """Empty labels and over-long ones fail like unknown names, not as an exception somewhere."""
    async with rig() as it:
        for host in ("a..b", "x" * 70 + ".test", "."):
            sink = await it.done(target_at(80, host=host))
            assert sink.failure is not None
            assert (sink.failure.error_class, sink.failure.phase) == ("target_down", "connect")


@both_loops
async def test_refused() -> None:
    """Nobody listens: target_down, connection refused, at once."""
    async with rig() as it:
        sink = await it.done(target_at(unused_port()))
        assert sink.failure is not None
        assert (sink.failure.error_class, sink.failure.phase, sink.failure.detail) == (
            "target_down",
            "connect",
            "connection refused",
        )


@both_loops
async def test_the_next_address_is_tried_when_one_refuses() -> None:
    """A name with a refusing address and a good one connects without waiting for the stagger."""
    loop = asyncio.get_running_loop()
    book = Book()
    async with rig(resolver=book) as it:
        server = await it.server(echo)
        book.names["both.test"] = [("127.0.0.1", unused_port()), ("127.0.0.1", server.port)]
        started = loop.time()
        sink = await it.done(target_at(1, host="both.test"), b"hi")
        assert sink.body == b"hi"
        assert loop.time() - started < STAGGER_S
        assert not book.doubted


@both_loops
async def test_a_deaf_address_delays_by_the_stagger_only() -> None:
    """A name whose first address answers nothing connects to the second after 250 ms; the first attempt is closed."""
    loop = asyncio.get_running_loop()
    book = Book()
    with deaf_port() as deaf:
        async with rig(resolver=book) as it:
            server = await it.server(echo)
            book.names["slow.test"] = [("127.0.0.1", deaf), ("127.0.0.1", server.port)]
            started = loop.time()
            sink = await it.done(target_at(1, host="slow.test"), b"hi")
            assert sink.body == b"hi"
            assert STAGGER_S * 0.9 <= loop.time() - started < STAGGER_S + 1


@both_loops
async def test_all_addresses_refuse() -> None:
    """The failure is the first address's, and the name is looked up anew next time."""
    book = Book()
    async with rig(resolver=book) as it:
        book.names["none.test"] = [("127.0.0.1", unused_port()), ("127.0.0.1", unused_port())]
        sink = await it.done(target_at(1, host="none.test"))
        assert sink.failure is not None
        assert sink.failure.detail == "connection refused"
        assert book.doubted == ["none.test"]


@both_loops
async def test_cancel_in_the_middle_of_a_race() -> None:
    """A cancelled call stops every attempt; no socket is left (checked by the decorator)."""
    book = Book()
    with deaf_port() as first, deaf_port() as second:
        async with rig(resolver=book) as it:
            book.names["deaf.test"] = [("127.0.0.1", first), ("127.0.0.1", second)]
            target = target_at(1, host="deaf.test")
            for wait_s in (0.0, 0.01, STAGGER_S + 0.1):
                sink, call = it.call(target)
                await asyncio.sleep(wait_s)
                call.cancel("client gone")
                sink.cancelled = True
                await until(lambda: it.pool.stats().endpoints[target.endpoint.key].connecting == 0)


@both_loops
async def test_two_attempts_that_both_connect_leave_one_socket() -> None:
    """With no stagger every address of a race connects: one wins, the others are closed."""
    async with rig() as it:
        server = await it.server(echo)
        address = Address(socket.AF_INET, ("127.0.0.1", server.port))
        for _ in range(20):
            sock = await connect_any(asyncio.get_running_loop(), [address] * 8, stagger_s=0)
            assert sock.getpeername()[1] == server.port
            sock.close()


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
@both_loops
async def test_an_ipv6_literal_is_connected_to_directly() -> None:
    """`::1` and `[::1]` both name the loopback."""
    async with rig() as it:
        server = await it.server(echo, host="::1")
        for host in ("::1", "[::1]"):
            sink = await it.done(target_at(server.port, host=host), b"hi")
            assert sink.body == b"hi"


def test_families_alternate_in_the_resolvers_order() -> None:
    """RFC 8305: the first address's family first, then by turns, order within a family kept."""
    four = [Address(socket.AF_INET, (f"10.0.0.{n}", 1)) for n in range(3)]
    six = [Address(socket.AF_INET6, (f"::{n}", 1, 0, 0)) for n in range(1, 3)]
    assert interleave([*six, *four]) == [six[0], four[0], six[1], four[1], four[2]]
    assert interleave([*four, *six]) == [four[0], six[0], four[1], six[1], four[2]]
    assert interleave([]) == []
