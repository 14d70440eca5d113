"""HTTP/1.1 heads and bodies as callers send them: what is accepted, and the status of everything that is not."""

import time
import tracemalloc

import pytest

from potluck.wire.http1 import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_TARGET_BYTES,
    BadRequest,
    BodyReader,
    find_head_end,
    parse_head,
)

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"


def head(*lines: bytes, start: bytes = POST) -> bytes:
    return start + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def test_an_ordinary_head_is_read_whole():
    """Method, target, lower-case names and the framing of an ordinary request come out."""
    parsed = parse_head(head(b"Content-Length: 12", b"X-Tag:  a b ", b"x-tag: c"))
    assert (parsed.method, parsed.target, parsed.minor) == (b"POST", b"/v1/chat/completions", 1)
    assert parsed.headers == {b"host": b"a", b"content-length": b"12", b"x-tag": b"a b , c"}
    assert (parsed.content_length, parsed.chunked, parsed.keep_alive, parsed.expect_continue) == (
        12,
        False,
        True,
        False,
    )


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (head(b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400),
        (head(b"Transfer-Encoding: chunked", b"Content-Length: 5"), 400),
        (head(b"Content-Length: 5", b"Content-Length: 5"), 400),
        (head(b"Content-Length: 5", b"Content-Length: 6"), 400),
        (head(b"Content-Length: 5, 5"), 400),
        (head(b"Content-Length: -1"), 400),
        (head(b"Content-Length: +1"), 400),
        (head(b"Content-Length: 0x10"), 400),
        (head(b"Content-Length: 99999999999999999999999"), 400),
        (head(b"Content-Length: 999999999999999999"), 200),
        (head(b"Content-Length:"), 400),
        (head(b"Transfer-Encoding: gzip, chunked"), 501),
        (head(b"Transfer-Encoding: chunked, gzip"), 400),
        (head(b"Transfer-Encoding: identity"), 400),
        (head(b"Transfer-Encoding: chunked", start=b"POST /v1/x HTTP/1.0\r\n"), 400),
        (head(b"Host: b"), 400),
        (head(start=b"GET /v1/models HTTP/1.1\r\n"), 400),
        (head(start=b"GET /v1/models HTTP/1.0\r\n"), 200),
        (head(b"X: a\r\n folded"), 400),
        (head(b"X: a\r\n\tfolded"), 400),
        (head(b"X: a\nY: b"), 400),
        (head(b"X: a\rY: b"), 400),
        (head(b"X: a\0b"), 400),
        (head(b"X : a"), 400),
        (head(b": a"), 400),
        (head(b"X"), 400),
        (head(start=b"GET http://a/v1/models HTTP/1.1\r\nHost: a\r\n"), 400),
        (head(start=b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n"), 405),
        (head(start=b"TRACE /v1/models HTTP/1.1\r\nHost: a\r\n"), 405),
        (head(start=b"PUNCH /v1/models HTTP/1.1\r\nHost: a\r\n"), 400),
        (head(start=b"GET /v1/models HTTP/2.0\r\nHost: a\r\n"), 505),
        (head(start=b"GET /v1/models HTTP/0.9\r\nHost: a\r\n"), 505),
        (head(start=b"GET /v1/models HTTP/1.10\r\nHost: a\r\n"), 400),
        (head(start=b"GET /v1/models\r\nHost: a\r\n"), 505),
        (head(start=b"GET /v1/\xc3\xa9 HTTP/1.1\r\nHost: a\r\n"), 400),
        (head(start=b"GET /v1/" + b"a" * MAX_TARGET_BYTES + b" HTTP/1.1\r\nHost: a\r\n"), 414),
        (head(*[b"X-%d: 1" % n for n in range(MAX_HEADERS)]), 431),
        (head(*[b"X-%d: 1" % n for n in range(MAX_HEADERS - 1)]), 200),
        (head(b"Expect: 200-ok", b"Content-Length: 1"), 417),
        (head(b"Authorization: Bearer a", b"Authorization: Bearer b"), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
)
def test_each_head_gets_its_status(raw, status):
    """Every ambiguous, malformed or unsupported head is refused with its own status (200 stands for accepted)."""
    try:
        parse_head(raw)
        got = 200
    except BadRequest as error:
        got = error.status
        assert error.message
        assert "\n" not in error.message
    assert got == status


def test_upgrade_is_ignored_and_the_body_stays_framed():
    """`curl --http2` sends Upgrade: h2c with its body; the body is framed as if it had not."""
    parsed = parse_head(head(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"Content-Length: 3"))
    assert parsed.content_length == 3
    assert parsed.keep_alive


@pytest.mark.parametrize(
    ("version", "connection", "keeps"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"close", False),
        (b"1.1", b"Keep-Alive, Close", False),
        (b"1.0", b"", False),
        (b"1.0", b"keep-alive", True),
        (b"1.0", b"Keep-Alive", True),
    ],
)
def test_persistence_follows_version_and_connection(version, connection, keeps):
    """HTTP/1.1 keeps the connection unless told; HTTP/1.0 closes it unless asked."""
    fields = [b"Connection: " + connection] if connection else []
    parsed = parse_head(head(*fields, start=b"GET /v1/models HTTP/" + version + b"\r\nHost: a\r\n"))
    assert parsed.keep_alive is keeps


def test_expect_counts_only_with_a_body():
    """100-continue is only sent for a body that is still to come, and never to HTTP/1.0."""
    assert parse_head(head(b"Expect: 100-continue", b"Content-Length: 1")).expect_continue
    assert not parse_head(head(b"Expect: 100-Continue")).expect_continue
    old = head(b"Expect: 100-continue", b"Content-Length: 1", start=b"POST /v1/x HTTP/1.0\r\n")
    assert not parse_head(old).expect_continue


def test_head_end_is_found_over_any_split():
    """The blank line is found though it arrives byte by byte, with what was searched before left out."""
    raw = head(b"X: 1") + b"rest"
    end = len(raw) - 4
    searched = 0
    for cut in range(1, len(raw) + 1):
        found = find_head_end(raw[:cut], searched)
        assert found == (end if cut >= end else -1)
        searched = cut if found < 0 else 0


def test_oversized_heads_are_refused_complete_or_not():
    """A head over the limit gets 431 as soon as the limit is passed, ended or endless."""
    for raw in (b"GET / HTTP/1.1\r\nX: " + b"a" * MAX_HEAD_BYTES, head(b"X: " + b"a" * MAX_HEAD_BYTES)):
        with pytest.raises(BadRequest) as refused:
            find_head_end(raw)
        assert refused.value.status == 431


@pytest.mark.parametrize("raw", [b"GET / HTTP/1.1\nHost: a\n\n", b"\nGET /", b"GET / HTTP/1.1\r\nHost: a\n"])
def test_bare_line_feeds_are_refused_at_once(raw):
    """A head with bare LF would never find its blank line: it is refused instead of waited for."""
    with pytest.raises(BadRequest) as refused:
        find_head_end(raw)
    assert refused.value.status == 400


def reader(*lines: bytes, max_bytes: int = 1000) -> BodyReader:
    return BodyReader(parse_head(head(*lines)), max_bytes)


def test_a_body_by_length_ends_exactly():
    """What follows a body by length is left alone."""
    body = reader(b"Content-Length: 5")
    assert body.feed(b"ab") == 2
    assert not body.done
    assert body.feed(b"cdefgh") == 3
    assert body.done
    assert body.body() == b"abcde"
    assert body.feed(b"more") == 0


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100])
def test_a_chunked_body_ends_exactly(step):
    """Chunks, extensions and trailers are taken off, over any split, and the boundary is exact."""
    wire = b"3;name=value\r\nabc\r\n0000A \r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
    tail = b"GET / HTTP/1.1\r\n"
    body = reader(b"Transfer-Encoding: chunked")
    taken = 0
    data = wire + tail
    while not body.done:
        taken += body.feed(data[taken : taken + step])
    assert taken == len(wire)
    assert body.body() == b"abc0123456789"


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"x\r\n", 400),
        (b"\r\n", 400),
        (b"3\nabc", 400),
        (b"-3\r\nabc", 400),
        (b"0x3\r\nabc", 400),
        (b"3 3\r\nabc", 400),
        (b"3\r\nabcd\r\n", 400),
        (b"3\r\nabc\n", 400),
        (b"11111111111111111\r\n", 400),
        (b"fffffffffffffff\r\n", 413),
        (b"3e9\r\n", 413),
        (b"1" + b";" * 300 + b"\r\n", 400),
        (b"1" * 300, 400),
        (b"0\r\n" + b"T: x\r\n" * 2000, 400),
        (b"0\r\nT: x\n\r\n", 400),
        (b"0\r\n" + b"T" * 9000, 400),
    ],
)
def test_bad_chunks_are_refused(wire, status):
    """Unreadable sizes, wrong chunk ends, endless extensions and trailers are refused, and too much of it is 413."""
    with pytest.raises(BadRequest) as refused:
        reader(b"Transfer-Encoding: chunked").feed(wire)
    assert refused.value.status == status


def test_many_small_chunks_count_against_the_limit():
    """The limit holds for the sum of the chunks."""
    body = reader(b"Transfer-Encoding: chunked", max_bytes=10)
    body.feed(b"6\r\nabcdef\r\n")
    with pytest.raises(BadRequest) as refused:
        body.feed(b"6\r\nabcdef\r\n")
    assert refused.value.status == 413


def chunks(size_bytes: int, count: int) -> bytes:
    return (b"%x\r\n%s\r\n" % (size_bytes, b"x" * size_bytes)) * count


@pytest.mark.parametrize("step", [7, 1 << 18])
def test_a_body_of_mostly_framing_is_refused(step):
    """Chunk lines may outweigh the body by 64 KiB and no more: beyond it the caller makes work, not a body."""
    wire = chunks(2, 131_072)
    body = reader(b"Transfer-Encoding: chunked", max_bytes=1 << 20)

    def feed() -> None:
        for at in range(0, len(wire), step):
            body.feed(wire[at : at + step])

    with pytest.raises(BadRequest) as refused:
        feed()
    assert refused.value.status == 400
    assert body.size_bytes < 64 * 1024


@pytest.mark.parametrize(("size_bytes", "count"), [(1, 5000), (2, 20_000), (5, 100_000), (16, 65_536)])
def test_small_chunks_are_read_and_take_little(size_bytes, count):
    """Ordinary small chunks pass; what is held is about the body, not a multiple, and the loop is quick."""
    wire = chunks(size_bytes, count) + b"0\r\n\r\n"
    body = reader(b"Transfer-Encoding: chunked", max_bytes=1 << 20)
    tracemalloc.start()
    try:
        assert body.feed(wire) == len(wire)
        held_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert body.done
    assert body.body() == b"x" * (size_bytes * count)
    assert held_bytes < 2 * size_bytes * count + 4096
    best_s = float("inf")
    for _ in range(3):
        again = reader(b"Transfer-Encoding: chunked", max_bytes=1 << 20)
        started_s = time.perf_counter()
        again.feed(wire)
        best_s = min(best_s, time.perf_counter() - started_s)
    assert best_s < count * 4e-6
