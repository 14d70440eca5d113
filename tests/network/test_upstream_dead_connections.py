"""Kept-alive connections that turn out to be dead: tried once more on a new one, and only where that is safe."""

import asyncio

import pytest
from upstream_rig import HELLO, OK, Peer, Server, both_loops, echo, rig, target_at, until


async def _dies_on_second_request(it, how: str, answer: bytes = b"") -> Server:  # type: ignore[no-untyped-def]
    """The first connection answers once, takes a second request and then dies after `answer`; later ones echo."""

    async def script(peer: Peer) -> None:
        if peer.number:
            await echo(peer)
        await peer.request()
        await peer.send(HELLO)
        await peer.request()
        if answer:
            await peer.send(answer)
        peer.close() if how == "close" else peer.reset()

    server: Server = await it.server(script)
    return server


@pytest.mark.parametrize("how", ["close", "reset"])
@both_loops
async def test_a_dead_connection_is_replaced_once_unseen(how: str) -> None:
    """EOF or RST before any byte of the answer: the same request goes out on a new connection, the call succeeds."""
    async with rig() as it:
        server = await _dies_on_second_request(it, how)
        target = target_at(server.port)
        await it.done(target)
        sink = await it.done(target, b"again")
        assert sink.events == [("connected", False), ("head", 200), ("data", b"again"), ("end",)]
        assert [body for _, body in server.peers[1].requests] == [b"again"]
        assert it.pool.stats().retried == 1


@pytest.mark.parametrize("how", ["close", "reset"])
@both_loops
async def test_never_after_a_byte(how: str) -> None:
    """One byte of an answer, and the call is not repeated."""
    async with rig() as it:
        server = await _dies_on_second_request(it, how, b"H")
        target = target_at(server.port)
        await it.done(target)
        sink = await it.done(target)
        assert sink.failure is not None or how == "reset"
        if how == "close":
            assert (sink.failure.error_class, sink.failure.phase) == ("target_down", "first_byte")
            assert len(server.peers) == 1


@pytest.mark.parametrize("how", ["close", "reset"])
@both_loops
async def test_never_twice(how: str) -> None:
    """The new connection dies as well: the call fails."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            await peer.request()
            if peer.number == 0:
                await peer.send(HELLO)
                await peer.request()
            peer.close() if how == "close" else peer.reset()

        server = await it.server(script)
        target = target_at(server.port)
        await it.done(target)
        sink = await it.done(target)
        assert sink.failure is not None
        assert (sink.failure.error_class, sink.failure.phase) == ("target_down", "first_byte")
        assert [len(peer.requests) for peer in server.peers] == [2, 1]


@both_loops
async def test_never_on_a_fresh_connection() -> None:
    """A first request on a connection that dies is not repeated."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            await peer.request()
            peer.reset()

        server = await it.server(script)
        sink = await it.done(target_at(server.port))
        assert sink.failure is not None
        assert len(server.peers) == 1
        assert it.pool.stats().retried == 0


@both_loops
async def test_a_close_while_idle_is_noticed() -> None:
    """A connection that the upstream closed between calls leaves the pool; the next call opens one."""
    async with rig() as it:
        close = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(HELLO)
            await close.wait()
            peer.close()

        server = await it.server(script)
        target = target_at(server.port)
        await it.done(target)
        assert it.open_connections() == 1
        close.set()
        await until(lambda: it.open_connections() == 0)
        sink = await it.done(target)
        assert sink.reused == [False]


@both_loops
async def test_the_retry_of_a_large_request_sends_it_whole() -> None:
    """A body that was partly written to the dead connection goes out again from its first byte."""
    async with rig() as it:
        body = b"0123456789" * 500_000

        async def script(peer: Peer) -> None:
            if peer.number:
                await echo(peer)
            await peer.request()
            await peer.send(HELLO)
            await peer.head()
            peer.reset()

        server = await it.server(script)
        target = target_at(server.port)
        await it.done(target)
        sink = await it.done(target, body)
        assert sink.body == body
        assert sink.reused == [True, False]


@both_loops
async def test_the_retry_goes_ahead_of_the_queue() -> None:
    """With one slot, the call whose connection died gets the slot back, and those who waited come after it."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            if peer.number:
                await echo(peer)
            await peer.request()
            await peer.send(HELLO)
            await peer.request()
            peer.reset()

        server = await it.server(script)
        target = target_at(server.port, max_connections=1)
        await it.done(target)
        sinks = [it.call(target, b"%d" % n)[0] for n in range(4)]
        for sink in sinks:
            await sink.over()
        assert [sink.body for sink in sinks] == [b"0", b"1", b"2", b"3"]
        assert [body for _, body in server.peers[1].requests] == [b"0", b"1", b"2", b"3"]


@both_loops
async def test_a_retry_that_cannot_connect_fails() -> None:
    """The upstream went away altogether: the call fails as refused, with the slot given back."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK + b"content-length: 0\r\n\r\n")
            await peer.request()
            server._server.close()
            peer.close()

        server = await it.server(script)
        target = target_at(server.port)
        await it.done(target)
        sink = await it.done(target)
        assert sink.failure is not None
        assert (sink.failure.error_class, sink.failure.phase) == ("target_down", "connect")
        assert sink.failure.detail == "connection refused"
        await until(lambda: it.pool.stats().endpoints[target.endpoint.key][:4] == (0, 0, 0, 0))


@both_loops
async def test_cancel_during_the_retry() -> None:
    """Cancelled while the second connection is being made: nothing is told, nothing is left."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            if peer.number:
                await peer.closed_by_us()
            await peer.request()
            await peer.send(HELLO)
            await peer.request()
            peer.reset()

        server = await it.server(script)
        target = target_at(server.port)
        await it.done(target)
        sink, call = it.call(target)
        await until(lambda: it.pool.stats().retried)
        call.cancel("client gone")
        sink.cancelled = True
        await until(lambda: it.pool.stats().endpoints[target.endpoint.key].connecting == 0)
