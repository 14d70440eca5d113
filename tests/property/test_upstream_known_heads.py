"""An answer with a known head ends a call as it would on a connection that knows none."""

from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_upstream_splits import ENDPOINT, HEAD, LOOP, Story, Wire

from potluck.upstream.call import PooledCall
from potluck.upstream.connect import Connector
from potluck.upstream.connection import Connection
from potluck.upstream.pool import Counters
from potluck.upstream.room import Room

START = b"HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: "
AFTER = b"\r\nContent-Type: application/json\r\n\r\n"
ANSWERS = [
    START + b"2" + AFTER + b"{}",
    START + b"5" + AFTER + b"[1,2]",
    START + b"0" + AFTER,
    START + b"002" + AFTER + b"{}",
    START + b"2" + AFTER + b"{}{}",  # longer than it says
    START + b"9" + AFTER + b"{}",  # shorter, and no more comes
    START + b"2" + AFTER + b"{}" + START + b"2" + AFTER + b"{}",  # a second answer, unasked
    START + b"2" + AFTER + b"{}\r\n",
    START + b"2 " + AFTER + b"{}",
    START + b"+2" + AFTER + b"{}",
    START + b"2\r\nContent-Length: 2" + AFTER + b"{}",
    START + b"2\r\nConnection: close" + AFTER + b"{}",
    START + b"2\r\nTransfer-Encoding: chunked" + AFTER + b"2\r\n{}\r\n0\r\n\r\n",
    START.replace(b"200 OK", b"429 No") + b"2" + AFTER + b"{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + START + b"2" + AFTER + b"{}",
    START[:-3],
]


class Line:
    """One connection and what became of each call on it."""

    def __init__(self) -> None:
        self.room = Room(LOOP, ENDPOINT, Connector(LOOP), Counters())
        self.connection = Connection(self.room)
        self.wire = Wire()
        self.connection.connection_made(self.wire)  # type: ignore[arg-type]
        self.room.conns.add(self.connection)

    def ask(self, *reads: bytes) -> tuple[object, ...]:
        """Status, length field, body, end, and whether the connection may be used again."""
        story = Story()
        call = PooledCall(self.room, ENDPOINT, HEAD, b"{}", story)
        if self.connection in self.room.idle:
            self.room.idle.remove(self.connection)
        self.connection.start(call)
        for read in reads:
            if not self.wire.closed:
                self.connection.data_received(read)
        length = story.headers.get(b"content-length", b"").strip()
        return story.status, length, story.body, story.end_of_it, self.connection in self.room.idle


@settings(deadline=None)
@given(st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=12), st.data())
@example([ANSWERS[0], ANSWERS[1], ANSWERS[6]], None)
@example([ANSWERS[0], ANSWERS[4]], None)
@example([ANSWERS[1], ANSWERS[5]], None)
def test_a_known_head_changes_nothing(answers: list[bytes], data: st.DataObject | None) -> None:
    """Over any sequence of answers, whole or cut in two, each call ends as the first one of a connection would."""
    line = Line()
    for answer in answers:
        at = data.draw(st.integers(0, len(answer))) if data is not None and data.draw(st.booleans()) else len(answer)
        reads = [part for part in (answer[:at], answer[at:]) if part]
        got = line.ask(*reads)
        assert got == Line().ask(*reads)
        if not got[-1]:
            line = Line()


def test_a_head_that_repeats_is_known() -> None:
    """The second answer of the same form is recognised, whatever its length, and the parser is not asked."""
    line = Line()
    line.ask(ANSWERS[0])
    line.connection._feed = None  # any use of it would fail
    assert line.ask(ANSWERS[1]) == (200, b"5", b"[1,2]", "end", True)


def test_heads_that_never_repeat_are_not_kept_for_ever() -> None:
    """After some answers that all differ, only one in many is kept to compare with."""
    line = Line()
    kept = set()
    for number in range(63):
        line.ask(ANSWERS[0].replace(b"Server: s", b"Server: %d" % number))
        kept.add(line.connection._known)
    assert len(kept) == 8
