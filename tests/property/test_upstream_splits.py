"""However the network cuts an upstream's bytes, a call ends the same way, and never with bytes that are not its own."""

import asyncio
import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.model.resources import Timeouts
from potluck.model.snapshot import Endpoint, RequestHead
from potluck.ports import Failure
from potluck.upstream.call import PooledCall
from potluck.upstream.connect import Connector
from potluck.upstream.connection import Connection
from potluck.upstream.pool import Counters
from potluck.upstream.room import Room

HEAD = RequestHead("POST", "/", (), b"POST / HTTP/1.1\r\ncontent-length: ")
LOOP = asyncio.SelectorEventLoop()
LOOP.close()  # nothing here may need it
ENDPOINT = Endpoint("key", "127.0.0.1", 1, False, Timeouts())


class Wire:
    """A transport that remembers what was done to it."""

    def __init__(self) -> None:
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return 0


class Story:
    """A sink that keeps the outcome: status, headers, body, end."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.end_of_it = ""
        self.datas_per_read = 0

    def may_resend(self) -> bool:
        return True

    def connected(self, *, reused: bool) -> None:
        pass

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        assert not self.status
        self.status, self.headers = status, headers

    def data(self, chunk: bytes) -> None:
        assert self.status
        assert chunk
        assert not self.end_of_it
        self.body += chunk
        self.datas_per_read += 1

    def end(self) -> None:
        assert not self.end_of_it
        self.end_of_it = "end"

    def end_by_close(self) -> None:
        assert not self.end_of_it
        self.end_of_it = "end_by_close"

    def failed(self, failure: Failure) -> None:
        assert not self.end_of_it
        self.end_of_it = failure.error_class


def play(reads: list[bytes], *, eof: bool) -> tuple[Story, Connection, Wire]:
    """One call on one connection that reads `reads`, then perhaps EOF."""
    room = Room(LOOP, ENDPOINT, Connector(LOOP), Counters())
    conn, wire, story = Connection(room), Wire(), Story()
    conn.connection_made(wire)  # type: ignore[arg-type]
    room.conns.add(conn)
    conn.start(PooledCall(room, ENDPOINT, HEAD, b"{}", story))
    for read in reads:
        if wire.closed:
            break
        story.datas_per_read = 0
        conn.data_received(read)
        assert story.datas_per_read <= 1
    if eof or wire.closed:
        conn.connection_lost(None)
    return story, conn, wire


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted({n % (len(data) + 1) for n in at}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


bodies = st.binary(max_size=200) | st.sampled_from([b"", b"\r\n", b"{}\n", b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
tokens = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=8).map(str.encode)
reserved = {b"content-length", b"transfer-encoding", b"connection", b"upgrade"}
fields = st.lists(st.tuples(tokens.filter(lambda name: name not in reserved), tokens), max_size=4)


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A well-formed answer with a length or chunks, perhaps behind 1xx: its bytes and its body."""
    body = draw(bodies)
    lines = b"".join(b"%b: %b\r\n" % field for field in draw(fields))
    interim = b"HTTP/1.1 103 Early Hints\r\n%b\r\n" % lines if draw(st.booleans()) else b""
    head = interim + b"HTTP/1.1 200 OK\r\n" + lines
    if draw(st.booleans()):
        return head + b"content-length: %d\r\n\r\n%b" % (len(body), body), body
    pieces = cut(body, draw(st.lists(st.integers(0, 200), max_size=5)))
    extension = draw(st.sampled_from([b"", b";a=b", b";a"]))
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    trailers = draw(st.sampled_from([b"", b"x-sum: 1\r\n"]))
    return head + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailers + b"\r\n", body


splits = st.lists(st.integers(0, 1000), max_size=8)


@given(answers(), splits)
def test_a_well_formed_answer_survives_any_split(answer: tuple[bytes, bytes], at: list[int]) -> None:
    """Status, fields and body are those of the unsplit answer, it ends cleanly, and the sink heard once per read."""
    raw, body = answer
    whole, _, _ = play([raw], eof=False)
    story, conn, _ = play(cut(raw, at), eof=False)
    assert (story.status, story.body, story.end_of_it) == (200, body, "end")
    assert story.headers == whole.headers
    assert conn.call is None


@given(
    answers(), splits, st.binary(min_size=1, max_size=40) | st.sampled_from([b"\r\n", b"\n", b"HTTP/1.1 200 OK\r\n"])
)
def test_bytes_past_the_answer_close_the_connection(answer: tuple[bytes, bytes], at: list[int], excess: bytes) -> None:
    """Wherever the cuts fall: the answer is whole, nothing past it is told, and the connection is not kept."""
    raw, body = answer
    story, conn, wire = play(cut(raw + excess, at), eof=False)
    assert (story.body, story.end_of_it) == (body, "end")
    assert wire.closed
    assert conn not in conn.room.idle


@given(answers(), splits, st.integers(0, 10_000))
def test_a_cut_answer_never_looks_whole(answer: tuple[bytes, bytes], at: list[int], keep: int) -> None:
    """Every proper prefix followed by EOF ends as target_down, with a prefix of the body."""
    raw, body = answer
    prefix = raw[: keep % len(raw)]
    story, _, _ = play(cut(prefix, at), eof=True)
    assert story.end_of_it == "target_down"
    assert body.startswith(story.body)


@settings(max_examples=300)
@given(st.lists(st.binary(min_size=1, max_size=60) | answers().map(lambda a: a[0]), min_size=1, max_size=5), splits)
def test_any_bytes_give_one_outcome(parts: list[Any], at: list[int]) -> None:
    """No bytes raise; after EOF the sink has heard its last callback exactly once."""
    story, conn, _ = play(cut(b"".join(parts), at), eof=True)
    assert story.end_of_it
    assert not conn.room.conns
