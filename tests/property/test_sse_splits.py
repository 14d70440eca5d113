"""The event reader against a plain reference, at random splits of random streams."""

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from potluck.wire.sse import SseError, SseReader, encode_event

LINE = st.one_of(
    st.sampled_from(
        [
            b"data: a",
            b"data: b",
            b"data:",
            b"data",
            b'data: {"x": 1}',
            b"data: [DONE]",
            b"event: n",
            b"event",
            b": c",
            b":",
            b"id: 1",
            b"retry: 1",
            b"dat",
            b"",
        ]
    ),
    st.binary(max_size=12).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b"")),
)
END = st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"\n\n", b"\r\n\r\n"])
LINES = st.lists(st.tuples(LINE, END), max_size=30).map(lambda pairs: b"".join([line + end for line, end in pairs]))
STREAM = st.one_of(LINES, st.tuples(LINES, LINE).map(b"".join), st.binary(max_size=200))
CUTS = st.lists(st.integers(0, 400), max_size=12)


def reference(data: bytes) -> list[tuple[bytes, bytes]]:
    """WHATWG's steps, written down one by one, over the whole stream; empty data gives no event."""
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events, name, lines = [], b"", []
    for line in data.split(b"\n")[:-1]:
        if not line:
            if b"\n".join(lines):
                events.append((name, b"\n".join(lines)))
            name, lines = b"", []
            continue
        field, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if field == b"data":
            lines.append(value)
        elif field == b"event":
            name = value
    return events


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@given(data=STREAM, cuts=CUTS)
def test_any_split_gives_the_reference_events(data: bytes, cuts: list[int]) -> None:
    """However the bytes are split, the events are those of the plain reading of the whole stream."""
    reader = SseReader()
    assert [event for piece in split(data, cuts) for event in reader.feed(piece)] == reference(data)


@given(data=STREAM, cuts=CUTS)
def test_close_does_not_depend_on_the_split(data: bytes, cuts: list[int]) -> None:
    """What the unterminated rest amounts to is the same for every split, and so is whether it was cut."""
    whole, pieces = SseReader(), SseReader()
    whole.feed(data)
    for piece in split(data, cuts):
        pieces.feed(piece)
    assert pieces.pending == whole.pending
    assert pieces.close() == whole.close()
    assert pieces.pending == whole.pending


@given(data=STREAM, cuts=CUTS, limit=st.integers(1, 40))
def test_the_limit_does_not_depend_on_the_split(data: bytes, cuts: list[int], limit: int) -> None:
    """A stream passes the limit at every split or at none, and then gives the same events."""
    outcomes = []
    for pieces in ([data], split(data, cuts), [data[at : at + 1] for at in range(len(data))]):
        reader = SseReader(limit)
        try:
            outcomes.append([event for piece in pieces for event in reader.feed(piece)])
        except SseError:
            outcomes.append(None)
    assert outcomes[0] == outcomes[1] == outcomes[2]


@given(payloads=st.lists(st.binary(min_size=1, max_size=40), max_size=8), cuts=CUTS)
def test_what_is_written_is_read(payloads: list[bytes], cuts: list[int]) -> None:
    """Encoded events come back as they were, but for line ends inside, which have become spaces."""
    data = b"".join([encode_event(payload) for payload in payloads])
    reader = SseReader()
    read = [payload for piece in split(data, cuts) for _, payload in reader.feed(piece)]
    assert read == [re.sub(rb"[\r\n]+", b" ", payload) for payload in payloads]
    assert not reader.pending
