"""The form of a stream, whatever the upstream's was."""

import pytest

from potluck.proxy.relay import Relay
from potluck.wire.dialects.stream import StreamTap

SAID = b'{"choices":[{"index":0,"delta":{"content":"a"}}]}'
SPREAD = b'data: {"choices":[\ndata: {"index":0,"delta":{"content":"a"}}]}\n\n'


def relay() -> Relay:
    return Relay(StreamTap("chat", False), "chat", 1 << 20)


@pytest.mark.parametrize("count", [1, 2])
def test_one_data_line_per_event(count: int) -> None:
    """An object spread over data lines is sent on one, alone in its read or with others."""
    line = b'data: {"choices":[ {"index":0,"delta":{"content":"a"}}]}\n\n'
    assert relay().feed(SPREAD * count) == line * count


@pytest.mark.parametrize("count", [1, 2])
def test_an_event_named_error_is_an_error(count: int) -> None:
    """The name of an event is read, alone in its read or with others."""
    stream = relay()
    assert stream.feed(b'event: error\ndata: {"message":"no"}\n\n' * count) == b""
    assert stream.tap.error == {"message": "no"}


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_nothing_follows_the_end(end: bytes) -> None:
    """`[DONE]` is not passed on, however often it comes, and nothing that comes after it is."""
    stream = relay()
    data = b"data: " + SAID + end + b"data: [DONE]" + end
    assert stream.feed(data) == b"data: " + SAID + b"\n\n"
    assert stream.done
    assert stream.feed(b"data: [DONE]" + end) == b""
    assert stream.feed(b"data: " + SAID + end) == b""
