"""Every phase of a call has a deadline, which the sweep fires: never early, and at most two sweeps late."""

import asyncio

from upstream_rig import CHUNKED, HELLO, OK, Peer, RecordingSink, both_loops, deaf_port, echo, rig, target_at, until

from potluck.model.resources import Timeouts

LONG = 30.0


def only(**seconds: float) -> Timeouts:
    """Timeouts that are all long but those given."""
    return Timeouts(**{"connect_s": LONG, "first_byte_s": LONG, "idle_s": LONG, "total_s": LONG, **seconds})


def assert_late(sink: RecordingSink, phase: str) -> None:
    assert sink.failure is not None
    assert (sink.failure.error_class, sink.failure.phase, sink.failure.timeout) == ("target_slow", phase, True)


@both_loops
async def test_connect_timeout() -> None:
    """An upstream that neither accepts nor refuses is slow in phase connect; the socket is closed."""
    with deaf_port() as port:
        async with rig() as it:
            started = asyncio.get_running_loop().time()
            sink = await it.done(target_at(port, timeouts=only(connect_s=0.2)))
            assert_late(sink, "connect")
            assert 0.2 <= asyncio.get_running_loop().time() - started < 1.0
            await until(lambda: it.pool.stats().endpoints.popitem()[1].connecting == 0)


@both_loops
async def test_first_byte_timeout() -> None:
    """An upstream that takes the request and says nothing is slow in phase first_byte; it sees the close."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.closed_by_us()

        server = await it.server(script)
        sink = await it.done(target_at(server.port, timeouts=only(first_byte_s=0.15)))
        assert_late(sink, "first_byte")
        await until(server.peers[0].gone.is_set)


@both_loops
async def test_a_dripping_head_does_not_extend_the_first_byte_timeout() -> None:
    """A head that comes byte by byte is as late as none."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            await peer.request()
            for byte in OK * 100:
                await peer.send(bytes([byte]))
                await asyncio.sleep(0.02)

        server = await it.server(script)
        assert_late(await it.done(target_at(server.port, timeouts=only(first_byte_s=0.15))), "first_byte")


@both_loops
async def test_a_head_without_a_body_byte_is_still_waiting_for_the_first_byte() -> None:
    """Servers that send the head at once and think afterwards get the first-byte time, not the shorter idle time."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            while True:
                await peer.request()
                await peer.send(CHUNKED)
                await asyncio.sleep(0.3)  # the time under test
                await peer.send(b"2\r\nhi\r\n0\r\n\r\n")

        server = await it.server(script)
        sink = await it.done(target_at(server.port, timeouts=only(idle_s=0.1)))
        assert (sink.ended, sink.body) == ("end", b"hi")
        sink = await it.done(target_at(server.port, timeouts=only(first_byte_s=0.1)))
        assert_late(sink, "first_byte")
        assert sink.status == 200


@both_loops
async def test_a_request_that_is_not_taken_is_late_in_phase_send() -> None:
    """An upstream that does not read the request is slow in phase send."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            await peer.head()
            await peer.gone.wait()

        server = await it.server(script)
        sink = await it.done(target_at(server.port, timeouts=only(first_byte_s=0.2)), b"x" * 50_000_000)
        assert_late(sink, "send")


@both_loops
async def test_idle_timeout_runs_between_reads() -> None:
    """A stream with pauses below the idle time lives longer than it; one that stops is slow in phase stream."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED)
            for n in range(10):
                await peer.send(b"1\r\n%d\r\n" % n)
                await asyncio.sleep(0.05)
            await peer.closed_by_us()

        server = await it.server(script)
        sink = await it.done(target_at(server.port, timeouts=only(idle_s=0.25)))
        assert_late(sink, "stream")
        assert sink.body == b"0123456789"
        await until(server.peers[0].gone.is_set)


@both_loops
async def test_the_idle_timeout_rests_while_paused() -> None:
    """Silence that we asked for is not the upstream's; after resume the idle time starts anew."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED + b"2\r\nhi\r\n")
            await peer.closed_by_us()

        server = await it.server(script)
        sink, call = it.call(target_at(server.port, timeouts=only(idle_s=0.1)))
        sink.on_data = lambda _: call.pause()
        await until(lambda: sink.chunks)
        await asyncio.sleep(0.4)
        assert not sink.ended
        call.resume()
        assert_late(await sink.over(), "stream")


@both_loops
async def test_the_total_timeout_runs_through_everything() -> None:
    """A stream that never pauses, read or paused, ends at the total time."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED)
            while True:
                await peer.send(b"1\r\nx\r\n")
                await asyncio.sleep(0.01)

        server = await it.server(script)
        started = asyncio.get_running_loop().time()
        assert_late(await it.done(target_at(server.port, timeouts=only(total_s=0.3))), "stream")
        assert 0.3 <= asyncio.get_running_loop().time() - started < 1.5
        sink, call = it.call(target_at(server.port, timeouts=only(total_s=0.3)))
        sink.on_data = lambda _: call.pause()
        assert_late(await sink.over(), "stream")


@both_loops
async def test_a_reused_connection_starts_with_fresh_deadlines() -> None:
    """Ten calls, each near the first-byte time, on one connection: none of them is late."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            while True:
                await peer.request()
                await asyncio.sleep(0.1)
                await peer.send(HELLO)

        server = await it.server(script)
        target = target_at(server.port, timeouts=only(first_byte_s=0.25, idle_s=0.25))
        for _ in range(5):
            assert (await it.done(target)).ended == "end"
        assert len(server.peers) == 1


@both_loops
async def test_idle_connections_age_out() -> None:
    """A connection nobody used for 55 s is closed by the sweep; one used meanwhile starts anew."""
    async with rig(swept=False) as it:
        server = await it.server(echo)
        target = target_at(server.port)
        first, second = (it.call(target)[0] for _ in range(2))
        await first.over()
        await second.over()
        loop = asyncio.get_running_loop()
        now = loop.time()
        it.pool.sweep(now)
        it.pool.sweep(now + 54)
        assert it.open_connections() == 2
        await it.done(target)
        it.pool.sweep(now + 54)
        it.pool.sweep(now + 56)
        assert it.open_connections() == 1
        await until(lambda: sum(peer.gone.is_set() for peer in server.peers) == 1)
