"""One call of a case: sends the request on a connection of its own and keeps every piece of the answer with its time.

Whatever the gateway does is an `Answer`, never an exception: a connection that is refused, a head that is no HTTP, an
answer that does not end before the deadline.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Self
from urllib.parse import urlsplit

import msgspec

from potluck.conformance.answers import Json
from potluck.conformance.caller import Caller, CutError, Response
from potluck.conformance.observation import Answer, Ended, Piece


class Gateway(msgspec.Struct, frozen=True):
    """Where the gateway is: `path` ends with `/v1`. `key` may be empty."""

    host: str
    port: int
    path: str
    tls: bool = False
    key: str = ""

    @classmethod
    def at(cls, url: str, key: str = "") -> Self:
        """From `http(s)://host[:port][/path][/v1]`. Raises ValueError when it is none."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not a URL: write http://host:port")
        path = parts.path.rstrip("/")
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        return cls(parts.hostname, port, path if path.endswith("/v1") else f"{path}/v1", tls, key)

    def request(self, method: str, path: str, body: Json | None = None) -> bytes:
        """The bytes of a request."""
        data = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {self.path}{path} HTTP/1.1", f"Host: {self.host}:{self.port}", "Accept: */*"]
        if self.key:
            lines.append(f"Authorization: Bearer {self.key}")
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


class Line(Caller):
    """A raw caller's connection to a gateway, with TLS where its URL says so."""

    def __init__(self, gateway: Gateway, timeout_s: float) -> None:
        super().__init__(gateway.host, gateway.port, timeout_s=timeout_s)
        self._tls = ssl.create_default_context() if gateway.tls else None

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(
            self.host, self.port, ssl=self._tls, limit=1 << 20, server_hostname=self.host if self._tls else None
        )
        return self


Moment = Callable[[Line], Awaitable[None]]
"""what the caller does at some moment of the call; it may hang up"""


class HungUpError(Exception):
    """The caller hung up: raised by a `Moment` to end the call."""


async def nothing(_: Line) -> None:
    """The moment of a caller who just waits for his answer."""


async def ask(
    gateway: Gateway,
    body: Json,
    deadline_s: float,
    *,
    when_sent: Moment = nothing,
    when_talking: Moment = nothing,
) -> Answer:
    """One chat completion. `when_sent` comes after the request, `when_talking` after each piece of the body.

    Raises OSError when the gateway cannot be reached.
    """
    pieces: list[Piece] = []
    head: Response | None = None
    ended: Ended = "whole"
    async with Line(gateway, deadline_s) as line:
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(deadline_s):
                await line.send(gateway.request("POST", "/chat/completions", body))
                await when_sent(line)
                while head is None or head.status < 200:
                    head = await line.read_head()
                while data := await _more(line, head):
                    pieces.append(Piece(time.monotonic() - started_s, data))
                    await when_talking(line)
        except (CutError, OSError) as error:
            ended = "late" if isinstance(error, TimeoutError) else "cut"
        except ValueError:
            ended = "malformed"
        except HungUpError:
            ended = "hung up"
        took_s = time.monotonic() - started_s
    return Answer(
        status=head.status if head else 0,
        headers=tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers)
        if head
        else (),
        pieces=tuple(pieces),
        ended=ended,
        took_s=took_s,
    )


async def _more(line: Line, response: Response) -> bytes:
    """The next piece of a body; empty at its end. A body that is not chunked is one piece."""
    if response.header("transfer-encoding") == "chunked":
        return await line.read_chunk(response)
    return b"" if response.body else (await line.read_rest(response)).body
