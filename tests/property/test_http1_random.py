"""Heads and bodies from random bytes: the invariants, and agreement with another parser."""

import h11
from hypothesis import given
from hypothesis import strategies as st

from potluck.wire.http1 import MAX_HEAD_BYTES, BadRequest, BodyReader, Head, HeadReader, find_head_end, parse_head

token = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_!#$%&'*+.^`|~", min_size=1, max_size=12)
value = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)


@given(st.binary(max_size=400))
def test_any_bytes_give_a_head_or_a_refusal(raw):
    """Whatever the bytes, the result is a head or BadRequest with a 4xx or 5xx status, nothing else."""
    try:
        end = find_head_end(raw)
        if end > 0:
            assert isinstance(parse_head(raw[:end]), Head)
    except BadRequest as error:
        assert 400 <= error.status < 600


@given(st.lists(st.sampled_from([b"GET ", b"/v1/", b" HTTP/1.1", b"\r\n", b"\n", b"\r", b"Host: a", b"\0", b": ",
                                 b"Content-Length: 1", b"Transfer-Encoding: chunked", b"\r\n\r\n", b" ", b"\t"]),
                max_size=20))  # fmt: skip
def test_pieces_of_heads_give_a_head_or_a_refusal(pieces):
    """Shuffled pieces of real heads, likewise: and an accepted one has one framing only."""
    raw = b"".join(pieces)
    try:
        end = find_head_end(raw)
        if end > 0:
            head = parse_head(raw[:end])
            assert not (head.chunked and head.content_length)
    except BadRequest as error:
        assert 400 <= error.status < 600


@given(st.lists(st.tuples(token, value), max_size=8), st.integers(0, 5000))
def test_an_accepted_head_reads_as_h11_reads_it(fields, length):
    """Two parsers agree on every head that we accept: same target, same fields, same length."""
    reserved = {"host", "content-length", "transfer-encoding", "connection", "expect", "upgrade", "authorization",
                "content-type", "x-api-key", "api-key"}  # fmt: skip
    lines = [(n, v) for n, v in fields if n.lower() not in reserved]
    raw = b"POST /v1/x?y=1 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n" % length
    raw += b"".join(f"{n}: {v}\r\n".encode() for n, v in lines) + b"\r\n"
    head = parse_head(raw)
    other = h11.Connection(h11.SERVER)
    other.receive_data(raw)
    event = other.next_event()
    assert isinstance(event, h11.Request)
    assert head.target == event.target
    assert head.content_length == length
    theirs: dict[bytes, list[bytes]] = {}
    for name, text in event.headers:
        theirs.setdefault(name, []).append(text.strip(b" \t"))
    ours = {name: [part.strip() for part in text.split(b",")] for name, text in head.headers.items()}
    assert {name: [p.strip() for t in texts for p in t.split(b",")] for name, texts in theirs.items()} == ours


@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(1, 60), max_size=30))
def test_chunks_come_back_whole_over_any_split(pieces, cuts):
    """A chunked body is read back exactly, wherever the reads cut it, and what follows is left."""
    wire = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"
    data = wire + b"NEXT"
    reader = BodyReader(parse_head(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), 10_000)
    at = 0
    for cut in [*cuts, len(data)]:
        step = data[at : at + cut]
        while step and not reader.done:
            taken = reader.feed(step)
            at += taken
            step = step[taken:]
    assert reader.done
    assert at == len(wire)
    assert reader.body() == b"".join(pieces)


@given(st.binary(max_size=300))
def test_any_chunked_bytes_end_or_are_refused(raw):
    """Random bytes as a chunked body: consumed, complete or refused, and never more is kept than the limit."""
    reader = BodyReader(parse_head(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), 64)
    try:
        assert reader.feed(raw) <= len(raw)
        assert reader.size_bytes <= 64
    except BadRequest as error:
        assert error.status in (400, 413)


@given(st.integers(MAX_HEAD_BYTES - 40, MAX_HEAD_BYTES + 40))
def test_the_head_limit_is_exact(size):
    """A head of exactly the limit is read, one byte more is refused."""
    fixed = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
    raw = fixed + b"a" * (size - len(fixed) - 4) + b"\r\n\r\n"
    try:
        assert find_head_end(raw) == size <= MAX_HEAD_BYTES
    except BadRequest as error:
        assert error.status == 431
        assert size > MAX_HEAD_BYTES


def _facts(head: Head) -> tuple:
    members = ("method", "target", "minor", "keep_alive", "expect_continue", "content_length", "chunked")
    return (*[getattr(head, name) for name in members], sorted(head.headers))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"7", b"12", b"0", b"007", b"99999999999999999999", b"1x", b"", b"1 ", b"1\r", b"-1"]),
            st.sampled_from([b"Content-Length: ", b"content-length:", b"X-Content-Length: ", b"X: Content-Length: "]),
            st.sampled_from([b"", b"X: 1\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n"]),
            st.sampled_from([b"", b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"X: 2\r\n"]),
        ),
        max_size=8,
    )
)
def test_heads_of_one_connection_are_read_as_if_each_were_the_first(variants):
    """What the reader remembers of the last head never changes what the next one means."""
    reader = HeadReader()
    for digits, name, before, after in variants:
        raw = b"POST /v1/x HTTP/1.1\r\nHost: a\r\n" + before + name + digits + b"\r\n" + after + b"\r\n"
        try:
            expected = _facts(parse_head(raw))
        except BadRequest as error:
            expected = error.status
        try:
            found = _facts(reader.parse(raw))
        except BadRequest as error:
            found = error.status
        assert found == expected
