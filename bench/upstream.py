"""A fixed model provider in one process: `python -m bench.upstream --port N`.

Lists its models to a GET, and answers every POST that is complete by its content-length. A body with `"stream":true`
gets server-sent events of 211 bytes, one write each; how many and how far apart stands in the request's `metadata`. Any
other body gets one fixed 500-byte chat completion. It also answers the usage chunk when the request asks for it.
"""

import argparse
import asyncio
import re
import signal
from typing import cast

import uvloop

from bench.processes import raise_file_limit

CHUNK_BYTES = 211
COMPLETION_BYTES = 500

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream": ?true')
_USAGE = re.compile(rb'"include_usage": ?true')
_CHUNKS = re.compile(rb'"chunks": ?"(\d+)"')
_PACE = re.compile(rb'"pace_ms": ?"(\d+)"')

_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_USAGE_JSON = b'"usage":{"prompt_tokens":12,"completion_tokens":200,"total_tokens":212}'


def _event(payload: bytes) -> bytes:
    event = b"data: " + payload + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def _chunk(*, content: bytes, finish: bytes) -> bytes:
    return (
        b'{"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1767225600,"model":"bench","choices":'
        b'[{"index":0,"delta":{"content":"' + content + b'"},"finish_reason":' + finish + b"}]}"
    )


def _padded_chunk() -> bytes:
    bare = len(b"data: ") + len(_chunk(content=b"", finish=b"null")) + 2
    return _chunk(content=b" tok".ljust(CHUNK_BYTES - bare, b"e"), finish=b"null")


CONTENT_EVENT = _event(_padded_chunk())
FINISH_EVENT = _event(_chunk(content=b"", finish=b'"stop"'))
USAGE_EVENT = _event(
    b'{"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1767225600,"model":"bench","choices":[],'
    + _USAGE_JSON
    + b"}"
)
END = _event(b"[DONE]") + b"0\r\n\r\n"


def completion() -> bytes:
    """The fixed answer's body, exactly `COMPLETION_BYTES` long."""
    before = (
        b'{"id":"chatcmpl-bench","object":"chat.completion","created":1767225600,"model":"bench","choices":'
        b'[{"index":0,"message":{"role":"assistant","content":"'
    )
    after = b'"},"finish_reason":"stop"}],' + _USAGE_JSON + b"}"
    return before + b"word ".ljust(COMPLETION_BYTES - len(before) - len(after), b"s") + after


_PLAIN = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % COMPLETION_BYTES
) + completion()


_LISTED = b'{"object":"list","data":[{"id":"bench-stream","object":"model"},{"id":"bench-plain","object":"model"}]}'
_MODELS = (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_LISTED)) + _LISTED
_NOTHING = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


class Provider(asyncio.Protocol):
    """One connection from a gateway: one request at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = 0
        self._body_from = 0
        self._timer: asyncio.Handle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._needed:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(buffer, 0, end)
            self._body_from = end + 4
            self._needed = self._body_from + (int(length[1]) if length else 0)
        if len(buffer) < self._needed:
            return
        if buffer[:4] == b"GET ":
            self._transport.write(_MODELS if buffer[:15] == b"GET /v1/models " else _NOTHING)
            buffer.clear()
            self._needed = 0
            return
        body = bytes(buffer[self._body_from : self._needed])
        del buffer[: self._needed]
        self._needed = 0
        if _STREAM.search(body) is None:
            self._transport.write(_PLAIN)
            return
        chunks, pace = _CHUNKS.search(body), _PACE.search(body)
        tail = FINISH_EVENT + (USAGE_EVENT if _USAGE.search(body) else b"") + END
        self._transport.write(_STREAM_HEAD)
        self._write_chunk(int(chunks[1]) if chunks else 200, int(pace[1]) / 1000 if pace else 0.0, tail)

    def _write_chunk(self, left: int, pace_s: float, tail: bytes) -> None:
        if left == 0:
            self._transport.write(tail)
            self._timer = None
            return
        self._transport.write(CONTENT_EVENT)
        loop = asyncio.get_running_loop()
        if pace_s:
            self._timer = loop.call_later(pace_s, self._write_chunk, left - 1, pace_s, tail)
        else:
            self._timer = loop.call_soon(self._write_chunk, left - 1, pace_s, tail)


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, done.set)
    server = await loop.create_server(Provider, "127.0.0.1", port, backlog=2048)
    await done.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    raise_file_limit()
    uvloop.run(_serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
