"""What an upstream may do wrong in its answer; none of it passes for an answer, none of it reaches the next call."""

import asyncio

import pytest
from upstream_rig import CHUNKED, HELLO, OK, Peer, both_loops, rig, target_at, until

from potluck.upstream.connection import MAX_HEAD_BYTES, MAX_INTERIM

BROKEN_HEADS = {
    "not-http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "html": b"<html><body>502 Bad Gateway</body></html>",
    "bad-status": b"HTTP/1.1 2x0 OK\r\n\r\n",
    "status-below-100": b"HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n",
    "bare-lf": b"HTTP/1.1 200 OK\ncontent-length: 2\n\nhi",
    "folded-field": OK + b"x: 1\r\n  2\r\ncontent-length: 0\r\n\r\n",
    "no-colon": OK + b"nonsense\r\n\r\n",
    "length-and-chunked": OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "chunked-and-length": OK + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "two-lengths": OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\nhi",
    "length-list": OK + b"content-length: 2, 2\r\n\r\nhi",
    "negative-length": OK + b"content-length: -1\r\n\r\nhi",
    "huge-length": OK + b"content-length: 99999999999999999999999\r\n\r\nhi",
    "unknown-coding": OK + b"transfer-encoding: gzip\r\n\r\nabc",
    "gzip-chunked": OK + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "two-codings": OK + b"transfer-encoding: chunked\r\ntransfer-encoding: gzip\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "switching-protocols": b"HTTP/1.1 101 Sw\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n" + HELLO,
    "switching-protocols-bare": b"HTTP/1.1 101 Sw\r\n\r\n" + HELLO,
    "endless-interim": b"HTTP/1.1 102 Processing\r\n\r\n" * (MAX_INTERIM + 1),
    "bad-chunk-size": CHUNKED + b"zz\r\nhi\r\n",
}


@pytest.mark.parametrize("raw", BROKEN_HEADS.values(), ids=list(BROKEN_HEADS))
@both_loops
async def test_a_broken_head_is_no_answer(raw: bytes) -> None:
    """The call fails as target_down before anything reached the sink, so that another target can be tried."""
    async with rig() as it:
        sink, server = await it.answer(raw)
        assert [event[0] for event in sink.events] == ["connected", "failed"]
        assert sink.failure is not None
        assert (sink.failure.error_class, sink.failure.phase, sink.failure.timeout) == (
            "target_down",
            "first_byte",
            False,
        )
        await until(server.peers[0].gone.is_set)
        assert it.open_connections() == 0


@both_loops
async def test_no_failure_tells_what_the_upstream_said_or_where_it_is() -> None:
    """Details hold neither the peer's text nor its host, port or path."""
    async with rig() as it:
        for raw in BROKEN_HEADS.values():
            sink, server = await it.answer(raw)
            assert sink.failure is not None
            for secret in ("127.0.0.1", str(server.port), "provider", "chat", "SSH", "html", "zz", "nonsense"):
                assert secret not in sink.failure.detail


TRUNCATED = {
    "inside-length": OK + b"content-length: 10\r\n\r\nhello",
    "after-head": OK + b"content-length: 10\r\n\r\n",
    "inside-chunk": CHUNKED + b"a\r\nhello",
    "between-chunks": CHUNKED + b"5\r\nhello\r\n",
    "before-last-line": CHUNKED + b"5\r\nhello\r\n0\r\n",
}


@pytest.mark.parametrize("raw", TRUNCATED.values(), ids=list(TRUNCATED))
@pytest.mark.parametrize("then", ["close", "reset"])
@both_loops
async def test_a_cut_body_is_a_failure(raw: bytes, then: str) -> None:
    """EOF or RST inside the framing fails the call as cut, after the bytes that did arrive."""
    async with rig() as it:
        received = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(raw)
            await received.wait()
            peer.close() if then == "close" else peer.reset()

        server = await it.server(script)
        sink, _ = it.call(target_at(server.port))
        await until(lambda: sink.status and (sink.body == b"hello" or b"hello" not in raw))
        received.set()
        await sink.over()
        assert sink.failure is not None
        assert (sink.failure.error_class, sink.failure.phase) == ("target_down", "stream")
        assert sink.failure.detail.startswith("cut:")


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nx: "], ids=["nothing", "line", "field"])
@both_loops
async def test_a_connection_that_ends_before_the_head_is_a_failure(raw: bytes, then: str) -> None:
    """On a fresh connection this is not tried again: the upstream got the request once."""
    async with rig() as it:
        sink, server = await it.answer(raw, then=then)
        assert sink.failure is not None
        assert (sink.failure.error_class, sink.failure.phase) == ("target_down", "first_byte")
        assert len(server.peers) == 1


FLOODS = {
    "fields": (OK, b"x-filler: " + b"y" * 990 + b"\r\n"),
    "one-field": (OK + b"x: ", b"y" * 1000),
    "reason": (b"HTTP/1.1 200 ", b"y" * 1000),
    "interim-fields": (b"HTTP/1.1 103 Early Hints\r\n", b"x-filler: " + b"y" * 990 + b"\r\n"),
    "chunk-extension": (CHUNKED + b"5;", b"y" * 1000),
    "trailers": (CHUNKED + b"0\r\n", b"x-filler: " + b"y" * 990 + b"\r\n"),
    "one-trailer": (CHUNKED + b"0\r\nx: ", b"y" * 1000),
    "chunk-size-zeros": (CHUNKED, b"0" * 1000),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=list(FLOODS))
@both_loops
async def test_endless_framing_ends_the_call(flood: tuple[bytes, bytes]) -> None:
    """Framing without content is cut off after 64 KiB and what the kernel had buffered, not read for ever."""
    async with rig() as it:
        first, more = flood
        sent = 0

        async def script(peer: Peer) -> None:
            nonlocal sent
            await peer.request()
            await peer.send(first)
            while True:
                await peer.send(more * 8)
                sent += len(more) * 8
                await asyncio.sleep(0)

        server = await it.server(script)
        sink = await it.done(target_at(server.port))
        assert sink.failure is not None
        assert sink.failure.error_class == "target_down"
        await until(server.peers[0].gone.is_set)
        assert sent < 8 * 1024 * 1024


@both_loops
async def test_a_head_just_under_the_limit_is_read() -> None:
    """64 KiB are allowed exactly, also when head and body come in one read."""
    async with rig() as it:
        end = b"content-length: 5\r\n\r\n"
        head = OK + b"x: " + b"y" * (MAX_HEAD_BYTES - len(OK) - len(end) - 5) + b"\r\n" + end
        assert len(head) == MAX_HEAD_BYTES
        sink, _ = await it.answer(head + b"hello")
        assert (sink.ended, sink.body) == ("end", b"hello")
        sink, _ = await it.answer(head.replace(b"yyy", b"yyyy", 1) + b"hello")
        assert sink.failure is not None


@both_loops
async def test_a_large_body_behind_a_small_head_is_not_a_large_head() -> None:
    """The head's limit does not count the body that arrives in the same read."""
    async with rig() as it:
        body = b"b" * 1_000_000
        sink, _ = await it.answer(OK + b"content-length: 1000000\r\n\r\n" + body)
        assert (sink.ended, sink.body) == ("end", body)


EXCESS = {
    "a-byte": HELLO + b"x",
    "line-ends": HELLO + b"\r\n\r\n",
    "second-answer": HELLO + HELLO.replace(b"hello", b"EVIL!"),
    "partial-answer": HELLO + b"HTTP/1.1 200 OK\r\n",
    "interim-after": HELLO + b"HTTP/1.1 100 Continue\r\n\r\n",
    "after-chunked": CHUNKED + b"5\r\nhello\r\n0\r\n\r\nHTTP/1.1",
    "line-end-after-chunked": CHUNKED + b"5\r\nhello\r\n0\r\n\r\n\r\n",
}


@pytest.mark.parametrize("raw", EXCESS.values(), ids=list(EXCESS))
@both_loops
async def test_bytes_past_the_answer_cost_the_connection(raw: bytes) -> None:
    """The answer is whole and delivered; not one byte past it is, and the connection is closed instead of pooled."""
    async with rig() as it:
        sink, server = await it.answer(raw)
        assert (sink.ended, sink.body) == ("end", b"hello")
        await until(server.peers[0].gone.is_set)
        assert it.open_connections() == 0


@both_loops
async def test_a_byte_on_an_idle_connection_closes_it() -> None:
    """An answer that nobody asked for is never the next caller's: its connection is closed, the next call opens one."""
    async with rig() as it:
        late = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(HELLO)
            if peer.number == 0:
                await late.wait()
                await peer.send(HELLO.replace(b"hello", b"EVIL!"))
            await peer.closed_by_us()

        server = await it.server(script)
        target = target_at(server.port)
        await it.done(target)
        late.set()
        await until(server.peers[0].gone.is_set)
        sink = await it.done(target)
        assert (sink.body, sink.reused) == (b"hello", [False])


@both_loops
async def test_an_answer_before_the_request_closes_the_connection() -> None:
    """A server that speaks first is not answering us."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            await peer.send(HELLO)
            await peer.closed_by_us()

        server = await it.server(script)
        sink, _ = it.call(target_at(server.port), b"x" * 10)
        await sink.over()
        assert it.open_connections() <= 1


@both_loops
async def test_an_early_answer_costs_the_connection() -> None:
    """An answer that comes while the request is still being written is delivered; the connection is not kept."""
    async with rig() as it:

        async def script(peer: Peer) -> None:
            await peer.head()
            await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\n\r\nlarge")
            await peer.gone.wait()

        server = await it.server(script)
        sink = await it.done(target_at(server.port), b"x" * 50_000_000)
        assert (sink.status, sink.ended, sink.body) == (413, "end", b"large")
        assert it.open_connections() == 0
