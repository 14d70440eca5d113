"""The bounds of an endpoint: connections, waiting calls, idle connections."""

import asyncio

from upstream_rig import CHUNKED, HELLO, Peer, RecordingSink, both_loops, deaf_port, echo, rig, target_at, until

from potluck.model.resources import Timeouts
from potluck.upstream.room import MAX_IDLE, QUEUE_FACTOR


class NumberedSink(RecordingSink):
    """Notes in `order` when it was given a connection."""

    def __init__(self, number: int, order: list[int]) -> None:
        super().__init__()
        self._number, self._order = number, order

    def may_resend(self) -> bool:
        return True

    def connected(self, *, reused: bool) -> None:
        super().connected(reused=reused)
        self._order.append(self._number)


@both_loops
async def test_never_more_connections_than_allowed_and_first_come_first_served() -> None:
    """Fifteen calls over three connections: all are answered, and those who wait are served in order of arrival."""
    async with rig() as it:
        server = await it.server(echo)
        target = target_at(server.port, max_connections=3)
        order: list[int] = []
        sinks = [it.call(target, b"%02d" % n, sink=NumberedSink(n, order))[0] for n in range(15)]
        stats = it.pool.stats().endpoints[target.endpoint.key]
        assert (stats.connecting, stats.waiting) == (3, 12)
        for n, sink in enumerate(sinks):
            await sink.over()
            assert (sink.ended, sink.body) == ("end", b"%02d" % n)
        assert len(server.peers) == 3
        # the first three each wait for a connection of their own, which may be made in any order
        assert [n for n in order if n > 2] == list(range(3, 15))


@both_loops
async def test_the_queue_is_bounded() -> None:
    """A call beyond the queue's end fails at once as slow, not as down and not as timed out."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.closed_by_us()

        server = await it.server(script)
        target = target_at(server.port, max_connections=2)
        calls = [it.call(target) for _ in range(2 + 2 * QUEUE_FACTOR)]
        late, _ = it.call(target)
        await late.over(1)
        assert late.failure is not None
        assert (late.failure.error_class, late.failure.phase, late.failure.timeout) == ("target_slow", "connect", False)
        assert not any(sink.ended for sink, _ in calls)
        for sink, call in calls:
            call.cancel("over")
            sink.cancelled = True
        await until(lambda: it.pool.stats().endpoints[target.endpoint.key][:5] == (0, 0, 0, 0, 0))


@both_loops
async def test_waiting_counts_against_the_connect_deadline() -> None:
    """A call that gets no connection in time fails as slow, and leaves the queue."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED + b"2\r\nhi\r\n")
            await peer.closed_by_us()

        server = await it.server(script)
        timeouts = Timeouts(connect_s=0.15, first_byte_s=30, idle_s=30, total_s=30)
        target = target_at(server.port, max_connections=1, timeouts=timeouts)
        running, _ = it.call(target)
        await until(lambda: running.chunks)
        waiting = await it.done(target)
        assert waiting.failure is not None
        assert (waiting.failure.error_class, waiting.failure.phase) == ("target_slow", "connect")
        assert waiting.failure.timeout
        assert not running.ended
        assert it.pool.stats().endpoints[target.endpoint.key].waiting == 0


@both_loops
async def test_a_cancelled_waiter_is_passed_over() -> None:
    """The connection goes to the next who still waits."""
    async with rig() as it:
        release = asyncio.Event()

        async def script(peer: Peer) -> None:
            while True:
                body = await peer.request()
                await release.wait()
                await peer.send(HELLO.replace(b"hello", body))

        server = await it.server(script)
        target = target_at(server.port, max_connections=1)
        sinks, calls = zip(*(it.call(target, b"body%d" % n) for n in range(3)), strict=True)
        await until(lambda: server.peers and server.peers[0].requests)
        calls[1].cancel("client gone")
        sinks[1].cancelled = True
        release.set()
        await sinks[0].over()
        await sinks[2].over()
        assert sinks[2].body == b"body2"
        assert [body for _, body in server.peers[0].requests] == [b"body0", b"body2"]


@both_loops
async def test_a_slot_comes_free_when_a_connection_dies() -> None:
    """Those who wait get a new connection when the running call's one is reset or refused."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            await peer.request()
            if peer.number == 0:
                peer.reset()
            else:
                await peer.send(HELLO)
                await peer.closed_by_us()

        server = await it.server(script)
        target = target_at(server.port, max_connections=1)
        first, second = (it.call(target)[0] for _ in range(2))
        await first.over()
        await second.over()
        assert (first.ended, second.ended) == ("failed", "end")


@both_loops
async def test_cancel_while_connecting_frees_the_slot() -> None:
    """Cancelling a call whose connection hangs lets the next one try, and closes the socket."""
    with deaf_port() as port:
        async with rig() as it:
            target = target_at(port, max_connections=1)
            sink, call = it.call(target)
            waiting, second = it.call(target)
            await asyncio.sleep(0)
            assert it.pool.stats().endpoints[target.endpoint.key][3:5] == (1, 1)
            call.cancel("client gone")
            sink.cancelled = True
            await until(lambda: it.pool.stats().endpoints[target.endpoint.key][3:5] == (1, 0))
            second.cancel("client gone")
            waiting.cancelled = True
            await until(lambda: it.pool.stats().endpoints[target.endpoint.key][3:5] == (0, 0))


@both_loops
async def test_idle_connections_are_bounded() -> None:
    """After a burst no more than the idle limit stays open."""
    async with rig() as it:
        server = await it.server(echo)
        target = target_at(server.port)
        sinks = [it.call(target)[0] for _ in range(MAX_IDLE + 20)]
        for sink in sinks:
            await sink.over()
        stats = it.pool.stats().endpoints[target.endpoint.key]
        assert stats.idle <= MAX_IDLE
        assert stats.in_flight == 0


@both_loops
async def test_endpoints_do_not_share_connections() -> None:
    """Two keys at one address have connections of their own."""
    async with rig() as it:
        server = await it.server(echo)
        await it.done(target_at(server.port, key="a"))
        sink = await it.done(target_at(server.port, key="b"))
        assert sink.reused == [False]
        assert set(it.pool.stats().endpoints) == {"a", "b"}
