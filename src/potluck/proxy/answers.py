"""Response heads for callers, as bytes: precomputed status lines, nothing formatted twice."""

from http import HTTPStatus
from math import inf

from potluck.wire.errors import RequestError

STATUS_LINES = {status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}

RETRIABLE = frozenset({402, 429, 503})
"""statuses that always say when to come again"""
CLOSE = b"connection: close\r\n"
KEEP_ALIVE_10 = b"connection: keep-alive\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def connection_field(minor: int, *, keep_alive: bool) -> bytes:
    """The Connection field that tells the caller what will happen: empty where HTTP's default says it already."""
    if not keep_alive:
        return CLOSE
    return b"" if minor else KEEP_ALIVE_10


def retry_after(error: RequestError) -> bytes:
    """When to come again: Retry-After, whole seconds, rounded up; a second where nothing better is known.

    Where time mends nothing (`inf`), the official SDKs' word for not coming again: they repeat any other 503.
    """
    seconds = error.retry_after_s
    if seconds is None:
        if error.status not in RETRIABLE:
            return b""
        seconds = 1.0
    if seconds == inf:
        return b"x-should-retry: false\r\n"
    return b"retry-after: %d\r\n" % max(1, -int(-seconds // 1))


def json_answer(status: int, body: bytes, *, date: bytes, request_id: str, fields: bytes, connection: bytes) -> bytes:
    """A whole JSON answer. `fields`: further header lines, each with its CRLF."""
    return b"%scontent-type: application/json\r\ncontent-length: %d\r\ndate: %s\r\nx-request-id: %s\r\n%s%s\r\n%s" % (
        STATUS_LINES[status],
        len(body),
        date,
        request_id.encode(),
        fields,
        connection,
        body,
    )


def stream_head(*, date: bytes, request_id: str, fields: bytes, connection: bytes, chunked: bool) -> bytes:
    """The head of an SSE answer. Intermediaries are told not to buffer it."""
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
        b"x-accel-buffering: no\r\ndate: %s\r\nx-request-id: %s\r\n%s%s%s\r\n"
        % (date, request_id.encode(), fields, b"transfer-encoding: chunked\r\n" if chunked else b"", connection)
    )


def chunk(data: bytes) -> bytes:
    """One chunk of the chunked coding."""
    return b"%x\r\n%s\r\n" % (len(data), data)
