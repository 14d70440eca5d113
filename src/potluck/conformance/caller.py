"""A raw caller: sends any bytes, reads answers by strict framing, keeps every byte, and can hang up at any moment.

Used by tests and checks that must not be helped by an HTTP library's tolerance. Every wait has a deadline.
"""

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, Self

Headers = list[tuple[bytes, bytes]]


class CutError(Exception):
    """The connection ended inside a message. `got`: what had come; `reset`: by RST and not FIN."""

    def __init__(self, got: bytes, *, reset: bool) -> None:
        super().__init__(f"cut after {len(got)} bytes {'by a reset' if reset else 'by a close'}: {got[-200:]!r}")
        self.got = got
        self.reset = reset


class Response:
    """One answer. `raw`: every byte of it; `body`: the chunked coding taken off; `chunks`: as they were cut."""

    def __init__(self, raw_head: bytes) -> None:
        self.raw = bytearray(raw_head)
        line, _, fields = raw_head.partition(b"\r\n")
        self.version, self.status = line[:8], int(line[9:12])
        pairs = (field.partition(b": ") for field in fields.split(b"\r\n") if field)
        self.headers: Headers = [(name.lower(), value) for name, _, value in pairs]
        self.body = b""
        self.chunks: list[bytes] = []

    def header(self, name: str) -> str | None:
        """The only value of a header, None without it. Raises ValueError when it stands there twice."""
        values = [value for key, value in self.headers if key == name.encode()]
        if len(values) > 1:
            raise ValueError(f"{name} stands {len(values)} times in the answer")
        return values[0].decode("latin-1") if values else None

    @property
    def json(self) -> Any:
        """The body decoded."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """`error.code` of an error envelope, checked for its four members."""
        error = self.json["error"]
        if set(error) != {"message", "type", "param", "code"}:
            raise ValueError(f"not an error envelope: {error}")
        return str(error["code"])

    @property
    def events(self) -> list[bytes]:
        """The payloads of an event stream in the canonical form, comments left out. Raises ValueError if it is not."""
        blocks = self.body.split(b"\n\n")
        if blocks.pop() != b"":
            raise ValueError(f"the stream does not end with a blank line: {self.body[-100:]!r}")
        payloads = []
        for block in blocks:
            if block.startswith(b": ") and b"\n" not in block:
                continue
            if not block.startswith(b"data: ") or b"\n" in block or b"\r" in block:
                raise ValueError(f"not one data line: {block[:200]!r}")
            payloads.append(block[6:])
        return payloads


def encode_request(
    method: str = "POST",
    path: str = "/v1/chat/completions",
    body: bytes | Mapping[str, Any] | None = None,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """A well-formed HTTP/1.1 request; a mapping as body is sent as JSON."""
    data = json.dumps(body, ensure_ascii=False).encode() if isinstance(body, Mapping) else body
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    if data is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (data or b"")


class Caller:
    """One connection: `async with Caller(host, port) as caller`."""

    def __init__(self, host: str, port: int, *, timeout_s: float = 10.0, receive_buffer_bytes: int = 0) -> None:
        self.host, self.port, self.timeout_s = host, port, timeout_s
        self._receive_buffer_bytes = receive_buffer_bytes
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        connection = socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._receive_buffer_bytes:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer_bytes)
        try:
            await asyncio.get_running_loop().sock_connect(connection, (self.host, self.port))
        except BaseException:
            connection.close()
            raise
        self._reader, self._writer = await asyncio.open_connection(
            sock=connection, limit=self._receive_buffer_bytes or 1 << 20
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._writer.transport.get_write_buffer_size():
            self._writer.transport.abort()  # nobody takes it
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    # sending

    async def send(self, data: bytes) -> None:
        """Write and wait until the transport has room. Raises OSError when the gateway has closed."""
        self._writer.write(data)
        async with asyncio.timeout(self.timeout_s):
            await self._writer.drain()

    async def ask(self, *args: Any, **kwargs: Any) -> Response:
        """Send one request (arguments of `encode_request`) and read its answer."""
        await self.send(encode_request(*args, **kwargs))
        return await self.read()

    def finish_sending(self) -> None:
        """Half-close: FIN, still reading."""
        self._writer.write_eof()

    def hang_up(self) -> float:
        """Close now, in order; returns the monotonic time. What was received is thrown away."""
        self._writer.transport.abort()
        return time.monotonic()

    def reset(self) -> float:
        """Close with RST; returns the monotonic time."""
        linger = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()
        return time.monotonic()

    def stall(self) -> None:
        """Take nothing any more: the kernel's buffers fill, then the gateway's."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    # receiving

    async def read_head(self) -> Response:
        """The next answer's head. Raises CutError, TimeoutError."""
        return Response(await self._until(b"\r\n\r\n"))

    async def read_chunk(self, response: Response) -> bytes:
        """The next chunk of a chunked answer, added to it; empty for the last one. Raises CutError, TimeoutError."""
        line = await self._until(b"\r\n")
        size = int(line, 16)
        rest = await self._exactly(size + 2)
        if rest[-2:] != b"\r\n":
            raise ValueError(f"chunk of {size} bytes does not end with CRLF: {rest[-20:]!r}")
        response.raw += line + rest
        response.body += rest[:-2]
        if size:
            response.chunks.append(rest[:-2])
        return rest[:-2]

    async def read(self, *, head_only: bool = False) -> Response:
        """A whole answer by its framing: 1xx kept apart is the caller's business. Raises CutError, TimeoutError."""
        response = await self.read_head()
        if head_only or response.status < 200 or response.status in (204, 304):
            return response
        return await self.read_rest(response)

    async def read_rest(self, response: Response) -> Response:
        """The body of an answer whose head has been read."""
        if response.header("transfer-encoding") == "chunked":
            while await self.read_chunk(response):
                pass
        else:
            length = response.header("content-length")
            response.body = await self._exactly(int(length)) if length is not None else await self.read_to_end()
            response.raw += response.body
        return response

    async def read_to_end(self) -> bytes:
        """Everything until the gateway closes. Raises CutError when it resets, TimeoutError when it stays open."""
        got = bytearray()
        try:
            async with asyncio.timeout(self.timeout_s):
                while data := await self._reader.read(1 << 16):
                    got += data
        except ConnectionResetError:
            raise CutError(bytes(got), reset=True) from None
        return bytes(got)

    async def closed(self) -> bool:
        """Wait until the gateway closes without a further byte. Raises AssertionError for bytes, TimeoutError."""
        try:
            rest = await self.read_to_end()
        except CutError as cut:
            rest = cut.got
        if rest:
            raise AssertionError(f"bytes after the answer: {rest[:200]!r}")
        return True

    async def _until(self, mark: bytes) -> bytes:
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._reader.readuntil(mark)
        except asyncio.IncompleteReadError as error:
            raise CutError(error.partial, reset=False) from None
        except ConnectionResetError:
            raise CutError(b"", reset=True) from None

    async def _exactly(self, size: int) -> bytes:
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            raise CutError(error.partial, reset=False) from None
        except ConnectionResetError:
            raise CutError(b"", reset=True) from None
