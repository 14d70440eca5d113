"""Event streams in, events out: every line end, every split, every end of body."""

from collections import deque

import pytest

from potluck.wire.sse import SseError, SseReader, encode_comment, encode_event

NO_NAME = b""


def read(*pieces: bytes) -> list[tuple[bytes, bytes]]:
    reader = SseReader()
    return [event for piece in pieces for event in reader.feed(piece)]


def bytewise(data: bytes) -> list[tuple[bytes, bytes]]:
    return read(*[data[at : at + 1] for at in range(len(data))])


CASES = {
    "one": (b"data: a\n\n", [(NO_NAME, b"a")]),
    "several": (b"data: a\n\ndata: b\n\ndata: c\n\n", [(NO_NAME, b"a"), (NO_NAME, b"b"), (NO_NAME, b"c")]),
    "crlf": (b"data: a\r\n\r\ndata: b\r\n\r\n", [(NO_NAME, b"a"), (NO_NAME, b"b")]),
    "lone cr": (b"data: a\r\rdata: b\r\r", [(NO_NAME, b"a"), (NO_NAME, b"b")]),
    "mixed ends": (b"data: a\r\n\ndata: b\n\r\ndata: c\r\r\n", [(NO_NAME, b"a"), (NO_NAME, b"b"), (NO_NAME, b"c")]),
    "no space": (b"data:a\n\n", [(NO_NAME, b"a")]),
    "two spaces": (b"data:  a\n\n", [(NO_NAME, b" a")]),
    "colon inside": (b"data: a: b\n\n", [(NO_NAME, b"a: b")]),
    "many data lines": (b"data: a\ndata: b\ndata:\ndata: c\n\n", [(NO_NAME, b"a\nb\n\nc")]),
    "many data lines among plain ones": (
        b"data: a\n\ndata: b\ndata: c\n\ndata: d\n\n",
        [(NO_NAME, b"a"), (NO_NAME, b"b\nc"), (NO_NAME, b"d")],
    ),
    "named": (b"event: done\ndata: a\n\ndata: b\n\n", [(b"done", b"a"), (NO_NAME, b"b")]),
    "name after data": (b"data: a\nevent: late\n\n", [(b"late", b"a")]),
    "last name wins": (b"event: x\nevent: y\ndata: a\n\n", [(b"y", b"a")]),
    "comments": (b": hi\n\ndata: a\n: in between\ndata: b\n\n:\n\n", [(NO_NAME, b"a\nb")]),
    "id and retry": (b"id: 7\nretry: 10\ndata: a\n\nid: 8\n\n", [(NO_NAME, b"a")]),
    "unknown field": (b"error: x\nfoo\ndata: a\n\n", [(NO_NAME, b"a")]),
    "name without data": (b"event: ping\n\ndata: a\n\n", [(NO_NAME, b"a")]),
    "empty data": (b"data:\n\ndata\n\ndata: \n\ndata: a\n\n", [(NO_NAME, b"a")]),
    "blank lines": (b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [(NO_NAME, b"a"), (NO_NAME, b"b")]),
    "mark": (b"\xef\xbb\xbfdata: a\n\n", [(NO_NAME, b"a")]),
    "mark inside": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [(NO_NAME, b"a")]),
    "separator text in data": (b"data: data: x\n\ndata: y\n\n", [(NO_NAME, b"data: x"), (NO_NAME, b"y")]),
    "field prefix": (b"database: a\n\ndata: b\n\n", [(NO_NAME, b"b")]),
    "nothing": (b"", []),
}


@pytest.mark.parametrize("case", CASES)
def test_reads_whole_and_byte_by_byte(case: str) -> None:
    """Each form of stream gives its events, fed at once, byte by byte, and cut in two at every place."""
    data, events = CASES[case]
    assert read(data) == events
    assert bytewise(data) == events
    for cut in range(len(data) + 1):
        assert read(data[:cut], data[cut:]) == events, cut


@pytest.mark.parametrize("case", CASES)
def test_carries_on_after_plain_events(case: str) -> None:
    """A reader that has seen a plain event reads every other form alike, but for the byte order mark."""
    data, events = CASES[case]
    if not case.startswith("mark"):
        assert read(b"data: first\n\n", data) == [(NO_NAME, b"first"), *events]


def test_long_rest_is_kept() -> None:
    """An event longer than what the fast path keeps raw comes out whole, however it was split."""
    payload = b"x" * 50_000
    data = encode_event(payload) + encode_event(b"y")
    for step in (1, 7, 4095, 4096, 4097, 50_000):
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        assert read(*pieces) == [(NO_NAME, payload), (NO_NAME, b"y")], step


def test_pending_tells_of_an_open_event() -> None:
    """`pending` is set exactly while bytes of an unfinished event are held."""
    reader = SseReader()
    assert not reader.pending
    reader.feed(b"data: a\n\n")
    assert not reader.pending
    for piece in (b"da", b"ta: a", b"\n"):
        reader.feed(piece)
        assert reader.pending, piece
    assert reader.feed(b"\n") == [(NO_NAME, b"a")]
    assert not reader.pending
    reader.feed(b"event: x\n")
    assert reader.pending


ENDS = {
    "nothing": (b"data: a\n\n", [], False),
    "blank line missing": (b"data: a\n", [(NO_NAME, b"a")], False),
    "blank line missing, cr": (b"data: a\r", [(NO_NAME, b"a")], False),
    "whole object": (b'data: {"a": [1]}', [(NO_NAME, b'{"a": [1]}')], False),
    "done": (b"data: [DONE]", [(NO_NAME, b"[DONE]")], False),
    "done without space": (b"data:[DONE]", [(NO_NAME, b"[DONE]")], False),
    "named": (b'event: x\ndata: {"a": 1}', [(b"x", b'{"a": 1}')], False),
    "object over lines": (b'data: {"a":\ndata: 1}', [(NO_NAME, b'{"a":\n1}')], False),
    "cut object": (b'data: {"a": [1]', [], True),
    "cut number": (b"data: 12", [], True),
    "cut done": (b"data: [DON", [], True),
    "cut field": (b"dat", [], True),
    "cut second line": (b'data: {"a": 1}\ndata: {', [], True),
    "name only": (b"event: x\n", [], False),
    "comment": (b": bye", [], False),
    "line and comment": (b"data: a\n: bye", [(NO_NAME, b"a")], False),
    "cut mark": (b"\xef\xbb", [], True),
    "bad utf-8": (b'data: {"\xff": 1}', [], True),
    "deep": (b'data: {"a":' + b"[" * 100_000, [], True),
}


@pytest.mark.parametrize("case", ENDS)
def test_close(case: str) -> None:
    """At the end of the body a complete last event is delivered, a cut one is pending."""
    data, events, cut = ENDS[case]
    for pieces in ([data], [data[: len(data) // 2], data[len(data) // 2 :]]):
        reader = SseReader()
        seen = [event for piece in pieces for event in reader.feed(piece)]
        assert seen == ([(NO_NAME, b"a")] if case == "nothing" else [])
        assert reader.close() == events
        assert reader.pending is cut


def test_closed_reader_takes_no_more() -> None:
    """Feeding after `close` is refused, so that nothing follows the end unseen."""
    reader = SseReader()
    reader.close()
    with pytest.raises(SseError):
        reader.feed(b"data: a\n\n")


@pytest.mark.parametrize("step", [1, 3, 16, 1000])
@pytest.mark.parametrize(
    "data",
    [
        b"data: " + b"x" * 59 + b"\n\n",
        b"data: " + b"x" * 30 + b"\ndata: " + b"y" * 29 + b"\n\n",
        b": " + b"x" * 63 + b"\n",
        b"x" * 65,
        b"event: " + b"x" * 30 + b"\ndata: " + b"y" * 30 + b"\n\n",
    ],
)
def test_limit(data: bytes, step: int) -> None:
    """An event or line over the limit is refused at every split, and the reader stays refused."""
    reader = SseReader(max_event_bytes=64)
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    with pytest.raises(SseError, match="longer than 64 bytes"):
        deque(map(reader.feed, pieces), maxlen=0)
    with pytest.raises(SseError):
        reader.feed(b"data: a\n\n")


def test_an_empty_name_is_forgotten_with_its_event() -> None:
    """A line `event:` counts for its own event only, though it holds nothing that is kept."""
    reader = SseReader(max_event_bytes=16)
    assert reader.feed(b"event:\n") == []
    assert reader.feed(b"data: {}\n\n") == [(NO_NAME, b"{}")]
    assert reader.feed(b"data: 890123456\n\n") == [(NO_NAME, b"890123456")]


@pytest.mark.parametrize("step", [1, 3, 16, 1000])
def test_limit_is_for_one_event(step: int) -> None:
    """Events of exactly the limit pass, any number of them, and comments between lines do not add up."""
    event = b"data: " + b"x" * 58 + b"\n\n"
    comments = b"data: a\n" + b": 12345678\n" * 50 + b"\n"
    data = event * 20 + comments
    reader = SseReader(max_event_bytes=64)
    seen = [found for at in range(0, len(data), step) for found in reader.feed(data[at : at + step])]
    assert seen == [(NO_NAME, b"x" * 58)] * 20 + [(NO_NAME, b"a")]


def test_encode_event_is_one_line() -> None:
    """An event is written as one data line with LF, whatever line ends its payload had; names come first."""
    assert encode_event(b'{"a": 1}') == b'data: {"a": 1}\n\n'
    assert encode_event(b'{"a":\r\n1,\n\r"b":\r2}') == b'data: {"a": 1, "b": 2}\n\n'
    assert encode_event(b"{}", b"x.done") == b"event: x.done\ndata: {}\n\n"
    assert encode_event(b"{}", b"x\ndata: y") == b"event: x data: y\ndata: {}\n\n"


def test_encode_comment_stays_a_comment() -> None:
    """A comment cannot be broken out of, and readers skip it."""
    assert encode_comment("hello") == b": hello\n\n"
    assert read(encode_comment("a\ndata: b\r\rdata: c")) == []
