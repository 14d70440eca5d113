"""A call over the pool, from the written request to the sink's last callback."""

import asyncio

import pytest
from upstream_rig import CHUNKED, HELLO, OK, POST, Peer, both_loops, echo, rig, target_at, until

from potluck.model.snapshot import RequestHead


@both_loops
async def test_the_upstream_gets_the_request_byte_for_byte() -> None:
    """Head, length and body arrive exactly as compiled, for a body below and above the size that is joined."""
    async with rig() as it:
        server = await it.server(echo)
        for body in (b"", b"{}", b"x" * 70_000, b"y" * 3_000_000):
            sink = await it.done(target_at(server.port), body)
            assert (sink.ended, sink.body) == ("end", body)
        (peer,) = server.peers
        assert [body for _, body in peer.requests] == [b"", b"{}", b"x" * 70_000, b"y" * 3_000_000]
        assert [head for head, _ in peer.requests] == [POST.wire + b"%d\r\n\r\n" % n for n in (0, 2, 70_000, 3_000_000)]


@both_loops
async def test_a_kept_alive_connection_serves_the_next_call() -> None:
    """The second call reuses the first one's connection; only the first was told of one; head, data, end in order."""
    async with rig() as it:
        server = await it.server(echo)
        first = await it.done(target_at(server.port), b"one")
        second = await it.done(target_at(server.port), b"two")
        assert first.events == [("connected", False), ("head", 200), ("data", b"one"), ("end",)]
        assert second.events == [("head", 200), ("data", b"two"), ("end",)]
        assert len(server.peers) == 1
        assert it.pool.stats().connects == 1


@both_loops
async def test_the_youngest_idle_connection_is_used_first() -> None:
    """Idle connections are taken last in, first out, so that those beyond the need can age and be closed."""
    async with rig() as it:
        server = await it.server(echo)
        target = target_at(server.port)
        calls = [it.call(target, b"%d" % n)[0] for n in range(3)]
        for sink in calls:
            await sink.over()
        assert len(server.peers) == 3
        for n in range(10):
            await it.done(target, b"again %d" % n)
        assert sorted(len(peer.requests) for peer in server.peers) == [1, 1, 11]


@both_loops
async def test_headers_come_in_lower_case() -> None:
    """Names come in lower case, values untouched; of a repeated field the last one counts, however it is written."""
    async with rig() as it:
        fields = b"X-B: 1\r\nSet-Cookie: A=1\r\nx-a: Two Words \r\nset-cookie: B=2\r\nContent-Length: 0\r\n\r\n"
        sink, _ = await it.answer(b"HTTP/1.1 418 Teapot\r\n" + fields)
        assert sink.status == 418
        assert sink.headers == {
            b"x-b": b"1",
            b"set-cookie": b"B=2",
            b"x-a": b"Two Words ",
            b"content-length": b"0",
        }
        assert sink.ended == "end"


@both_loops
async def test_chunks_of_one_read_come_as_one_piece() -> None:
    """A hundred chunks that arrive together are joined into one data call, with the end right behind it."""
    async with rig() as it:
        raw = CHUNKED + b"".join(b"4\r\n%04d\r\n" % n for n in range(100)) + b"0\r\n\r\n"
        sink, _ = await it.answer(raw)
        assert sink.chunks == [b"".join(b"%04d" % n for n in range(100))]
        assert sink.ended == "end"


@both_loops
async def test_a_chunk_is_delivered_before_the_next_is_sent() -> None:
    """Nothing is held back: each chunk reaches the sink while the upstream still waits to send the next one."""
    async with rig() as it:
        steps = [asyncio.Event() for _ in range(5)]

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED)
            for n, step in enumerate(steps):
                await peer.send(b"1\r\n%d\r\n" % n)
                await step.wait()
            await peer.send(b"0\r\n\r\n")

        server = await it.server(script)
        sink, _ = it.call(target_at(server.port))
        for n, step in enumerate(steps):
            await until(lambda n=n: len(sink.chunks) == n + 1)
            step.set()
        await sink.over()
        assert sink.chunks == [b"0", b"1", b"2", b"3", b"4"]


@both_loops
async def test_a_body_without_length_ends_with_the_connection() -> None:
    """Its end is reported as end_by_close, which is not the same word as a clean end."""
    async with rig() as it:
        sink, _ = await it.answer(OK + b"\r\nall of it", then="close")
        assert (sink.body, sink.ended) == (b"all of it", "end_by_close")


@both_loops
async def test_a_reset_is_not_the_end_of_a_body_without_length() -> None:
    """A body without length that ends with RST was cut."""
    async with rig() as it:
        resets = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK + b"\r\nhalf")
            await resets.wait()
            peer.reset()

        server = await it.server(script)
        sink, _ = it.call(target_at(server.port))
        await until(lambda: sink.chunks)
        resets.set()
        await sink.over()
        assert sink.failure is not None
        assert (sink.failure.error_class, sink.failure.phase) == ("target_down", "stream")


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        OK + b"connection: close\r\ncontent-length: 5\r\n\r\nhello",
        OK + b"Connection: Close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
    ids=["http-1.0", "close-length", "close-chunked"],
)
@both_loops
async def test_a_connection_that_may_not_be_kept_is_closed(raw: bytes) -> None:
    """HTTP/1.0 and `connection: close` end the connection with the message, from our side too."""
    async with rig() as it:
        sink, server = await it.answer(raw)
        assert (sink.body, sink.ended) == (b"hello", "end")
        await until(server.peers[0].gone.is_set)
        assert it.open_connections() == 0


@both_loops
async def test_http_1_0_with_keep_alive_is_kept() -> None:
    """An HTTP/1.0 server that asks for keep-alive gets it."""
    async with rig() as it:
        sink, _ = await it.answer(b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nhello")
        assert sink.ended == "end"
        assert it.open_connections() == 1


@pytest.mark.parametrize("raw", [b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 304 Not\r\ncontent-length: 9\r\n\r\n"])
@both_loops
async def test_204_and_304_have_no_body(raw: bytes) -> None:
    """They end with their head, whatever length they declare, and the connection is kept."""
    async with rig() as it:
        sink, _ = await it.answer(raw)
        assert (sink.chunks, sink.ended) == ([], "end")
        assert it.open_connections() == 1


@both_loops
async def test_head_has_no_body() -> None:
    """An answer to HEAD ends with its head although that describes a body."""
    async with rig() as it:
        head = RequestHead("HEAD", "/", (), b"HEAD / HTTP/1.1\r\nhost: a\r\ncontent-length: ")
        sink, _ = await it.answer(OK + b"content-length: 500\r\n\r\n", head=head)
        assert (sink.status, sink.chunks, sink.ended) == (200, [], "end")
        assert it.open_connections() == 0


@both_loops
async def test_interim_answers_are_skipped() -> None:
    """100 and 103 before the answer are not told, and their fields are not mixed into its head."""
    async with rig() as it:
        interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
        sink, _ = await it.answer(interim + HELLO)
        assert sink.events == [("connected", False), ("head", 200), ("data", b"hello"), ("end",)]
        assert b"link" not in sink.headers
        assert it.open_connections() == 1


@both_loops
async def test_trailers_are_dropped() -> None:
    """Fields after the last chunk neither reach the sink nor keep the connection from reuse."""
    async with rig() as it:
        sink, _ = await it.answer(CHUNKED + b"2\r\nhi\r\n0\r\nx-checksum: 1\r\n\r\n")
        assert (sink.body, sink.ended) == (b"hi", "end")
        assert b"x-checksum" not in sink.headers
        assert it.open_connections() == 1


@both_loops
async def test_the_end_callback_may_open_the_next_call_on_the_same_connection() -> None:
    """When end is told the connection is free already."""
    async with rig() as it:
        server = await it.server(echo)
        target = target_at(server.port)
        sinks = []

        def next_call() -> None:
            if len(sinks) < 5:
                sink, _ = it.call(target, b"%d" % len(sinks))
                sink.on_end = next_call
                sinks.append(sink)

        next_call()
        await until(lambda: len(sinks) == 5 and sinks[-1].ended)
        assert [sink.body for sink in sinks] == [b"0", b"1", b"2", b"3", b"4"]
        assert len(server.peers) == 1


@both_loops
async def test_pause_holds_the_upstream_back() -> None:
    """While paused the upstream's bytes pile up in the kernel, not in this process; after resume all of them arrive."""
    async with rig() as it:
        size = 64 * 1024 * 1024
        sent = 0

        async def script(peer: Peer) -> None:
            nonlocal sent
            await peer.request()
            await peer.send(OK + b"content-length: %d\r\n\r\n" % size)
            block = b"z" * 65536
            while sent < size:
                await peer.send(block)
                sent += len(block)
            await peer.closed_by_us()

        server = await it.server(script)
        sink, call = it.call(target_at(server.port))
        total = 0

        def count(chunk: bytes) -> None:
            nonlocal total
            total += len(chunk)
            sink.chunks.clear()
            sink.events.clear()
            if total == len(chunk):
                call.pause()
                call.pause()

        sink.on_data = count
        await until(lambda: total)
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.05)
        assert sent < size / 2
        assert total < 1024 * 1024
        call.resume()
        await sink.over(30)
        assert total == size


@both_loops
async def test_cancel_in_the_stream_is_seen_at_once() -> None:
    """The upstream sees the close, no callback follows, and a second cancel or one after the end does nothing."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED + b"2\r\nhi\r\n")
            await peer.closed_by_us()

        server = await it.server(script)
        sink, call = it.call(target_at(server.port))
        await until(lambda: sink.chunks)
        call.cancel("client gone")
        sink.cancelled = True
        call.cancel("again")
        await until(server.peers[0].gone.is_set, timeout_s=1)
        call.pause()
        call.resume()
        assert it.open_connections() == 0


@both_loops
async def test_a_finished_call_cannot_touch_the_next_one() -> None:
    """Cancel, pause and resume of a call that is over leave the connection's next call alone."""
    async with rig() as it:
        server = await it.server(echo)
        target = target_at(server.port)
        first, call = it.call(target, b"one")
        await first.over()
        second, _ = it.call(target, b"two")
        call.pause()
        call.cancel("late")
        await second.over()
        assert (second.body, second.reused) == (b"two", [True])


@pytest.mark.parametrize("moment", ["head", "data"])
@both_loops
async def test_cancel_from_inside_a_callback(moment: str) -> None:
    """A sink that cancels while it is told something hears nothing more of the same read."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(HELLO)
            await peer.closed_by_us()

        server = await it.server(script)
        sink, call = it.call(target_at(server.port))
        told = getattr(sink, moment)

        def cancel(*arguments: object) -> None:
            told(*arguments)
            call.cancel("enough")
            sink.cancelled = True

        setattr(sink, moment, cancel)
        await until(lambda: server.peers and server.peers[0].gone.is_set())
        assert sink.events[-1][0] == moment
        assert it.open_connections() == 0


@both_loops
async def test_forget_closes_idle_connections_and_lets_running_calls_end() -> None:
    """After the endpoint is forgotten its idle connection closes; a running call ends well and is not pooled."""
    async with rig() as it:
        release = asyncio.Event()

        async def script(peer: Peer) -> None:
            if await peer.request() == b"slow":
                await peer.send(CHUNKED + b"2\r\nhi\r\n")
                await release.wait()
                await peer.send(b"0\r\n\r\n")
            else:
                await peer.send(HELLO)
            await peer.closed_by_us()

        server = await it.server(script)
        target = target_at(server.port)
        slow, _ = it.call(target, b"slow")
        await until(lambda: slow.chunks)
        await it.done(target, b"quick")
        it.pool.forget(target.endpoint.key)
        await until(server.peers[1].gone.is_set)
        assert not server.peers[0].gone.is_set()
        release.set()
        await slow.over()
        assert slow.ended == "end"
        await until(server.peers[0].gone.is_set)
        assert it.pool.stats().endpoints == {}


@both_loops
async def test_close_fails_what_runs() -> None:
    """Closing the pool ends a running, a connecting and a later call with a failure, each exactly once."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.closed_by_us()

        server = await it.server(script)
        running, _ = it.call(target_at(server.port))
        await until(lambda: server.peers and server.peers[0].requests)
        connecting, _ = it.call(target_at(server.port))
        it.pool.close()
        later, _ = it.call(target_at(server.port))
        for sink in (running, connecting, later):
            await sink.over()
            assert sink.failure is not None
            assert sink.failure.error_class == "target_down"
