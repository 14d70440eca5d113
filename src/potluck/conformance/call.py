"""One call as the fake provider sees it, and the pen with which a fault writes its answer.

Rules: every byte goes out through `send`, so a fault says exactly what is on the wire; when the peer goes away the
running fault is ended with `PeerGoneError`, which the server swallows; a fault that returns leaves the connection open
for the next request unless it called `fin` or `reset`.
"""

import json
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from potluck.conformance.connection import SeenConnection

Header = tuple[bytes, bytes]


class PeerGoneError(Exception):
    """The other side closed or reset the connection while a fault was being played."""


class SeenRequest:
    """A request byte for byte. `head` ends with its blank line; `body` has any transfer coding taken off."""

    def __init__(self, connection: "SeenConnection", n: int, head: bytes) -> None:
        self.connection = connection
        self.n = n
        """1 for the first request on its connection"""
        self.head = head
        self.body = b""
        self.complete = False
        """the whole body arrived"""
        self.at_s = time.monotonic()
        line, _, fields = head.partition(b"\r\n")
        method, _, rest = line.partition(b" ")
        self.method = method.decode("latin-1")
        self.target = rest.rpartition(b" ")[0].decode("latin-1")
        pairs = (field.partition(b":") for field in fields.split(b"\r\n") if field)
        self.headers: list[Header] = [(name.lower(), value.strip(b" \t")) for name, _, value in pairs]

    def header(self, name: str) -> bytes | None:
        """The only value of a header, None without it. Raises ValueError when it stands there twice."""
        values = [value for key, value in self.headers if key == name.lower().encode()]
        if len(values) > 1:
            raise ValueError(f"{name} stands {len(values)} times in the request")
        return values[0] if values else None

    @property
    def json(self) -> Any:
        """The body decoded."""
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<{self.method} {self.target} #{self.n} on {self.connection!r}, {len(self.body)} bytes>"


class Call:
    """What a fault gets: the request, the options in the model's name, and ways to write, wait and cut."""

    def __init__(self, request: SeenRequest, model: str, options: dict[str, str]) -> None:
        self.request = request
        self.connection = request.connection
        self.model = model
        """the whole model name that was asked for, options included"""
        self.options = options
        try:
            asked = request.json if request.body else {}
        except ValueError:
            asked = {}
        self.asked: dict[str, Any] = asked if isinstance(asked, dict) else {}
        self.stream = self.asked.get("stream") is True
        options_asked = self.asked.get("stream_options")
        self.wants_usage = isinstance(options_asked, dict) and options_asked.get("include_usage") is True

    def number(self, name: str, default: float) -> float:
        """An option of the model's name as a number: `ok;chunks=40` → `number("chunks", 5)` = 40."""
        return float(self.options.get(name, default))

    async def send(self, data: bytes) -> None:
        """Write and wait until the transport has room. Raises PeerGoneError."""
        await self.connection.send(data)

    async def head(self, status: int = 200, *headers: Header, reason: str = "OK") -> None:
        """A response head with exactly these headers, in this order, spelled as given."""
        lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        await self.send(b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason.encode(), lines))

    async def answer(
        self, body: bytes, *headers: Header, status: int = 200, reason: str = "OK", kind: bytes = b"application/json"
    ) -> None:
        """A whole, well-framed response in one write."""
        lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        head = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n" % (status, reason.encode(), kind)
        await self.send(b"%b%bcontent-length: %d\r\n\r\n%b" % (head, lines, len(body), body))

    async def sse(self, *headers: Header) -> None:
        """The head of a chunked event stream."""
        await self.head(
            200, (b"content-type", b"text/event-stream; charset=utf-8"), (b"transfer-encoding", b"chunked"), *headers
        )

    async def chunk(self, data: bytes) -> None:
        """One chunk of the chunked coding, in one write."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def chunks(self, parts: Iterable[bytes]) -> None:
        """Each part as a chunk and a write of its own."""
        for part in parts:
            await self.chunk(part)

    async def end(self) -> None:
        """The last chunk."""
        await self.send(b"0\r\n\r\n")

    async def pause(self, seconds: float) -> None:
        """Let time pass. Raises PeerGoneError as soon as the peer goes away."""
        await self.connection.wait_gone(seconds)

    async def settle(self) -> None:
        """Let what was sent reach the peer's process before the next act (a reset may overtake data otherwise)."""
        await self.pause(0.03)

    async def silence(self) -> None:
        """Say nothing until the peer goes away, for at most ten minutes."""
        await self.pause(600)

    def fin(self) -> None:
        """Close in order: what was written arrives, then FIN."""
        self.connection.fin()

    def reset(self) -> None:
        """Close with RST, dropping what is still in the send buffer."""
        self.connection.reset()
