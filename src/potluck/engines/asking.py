"""Questions over HTTP/1.1: one connection each, a bounded answer, a time limit, nothing followed, nothing shared.

A client of its own, of the standard library alone, and not `upstream.Pool`: the agent carries no parser of compiled
code, and a question needs no pool, no streaming, no retry and no sweep. What is read is metadata of at most 4 MiB,
every few seconds; a question to a real llama.cpp server on loopback measured 0.3 ms, 0.25 ms of it CPU time here.
"""

import asyncio
import ipaddress
from typing import Self
from urllib.parse import urlsplit

import msgspec

from potluck.engines.questions import Dialogue, Question, Reply, T
from potluck.model.secret import Secret

ASK_TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 4 << 20
MAX_ANSWER_HEAD_BYTES = 32 << 10


class NotHereError(ValueError):
    """The address is not one that may be asked. The message says why, and what would help."""


class Place(msgspec.Struct, frozen=True):
    """Where an engine is asked."""

    host: str
    port: int
    prefix: str = ""
    """before every path: empty, or `/llm` for an engine that is served at `/llm/v1`"""
    tls: bool = False
    key: Secret | None = None

    @classmethod
    def parse(cls, url: str, key: Secret | None = None, *, elsewhere: bool = False) -> Self:
        """`url` as people write it: with or without `http://` and `/v1`. Raises NotHereError for one that is not an
        HTTP address, or, unless `elsewhere`, not on this machine."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError as error:
            raise NotHereError(f"{url!r} is not an address: {error}") from None
        host = parts.hostname or ""
        readable = host and host.isascii() and (parts.path + host).isprintable() and " " not in parts.path + host
        if parts.scheme not in ("http", "https") or not readable:
            raise NotHereError(f"{url!r} is not an address like http://127.0.0.1:8080")
        if parts.username is not None or parts.query or parts.fragment:
            raise NotHereError("an engine's address has no user, query or fragment; a key is given apart from it")
        if not elsewhere and not is_loopback(host):
            raise NotHereError(f"{host} is not this machine: engines are asked on loopback only, unless told otherwise")
        if key and not (key.reveal().isascii() and key.reveal().isprintable()):
            raise NotHereError("the engine's key has characters that cannot be sent in a header")
        prefix = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
        return cls(host, port or (443 if parts.scheme == "https" else 80), prefix, parts.scheme == "https", key)

    @property
    def base_url(self) -> str:
        """Ends in `/v1`."""
        return f"http{'s' if self.tls else ''}://{self._authority}{self.prefix}/v1"

    @property
    def _authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def request(self, question: Question) -> bytes:
        """The bytes of a question."""
        lines = [
            f"{'POST' if question.body else 'GET'} {self.prefix}{question.path} HTTP/1.1",
            f"host: {self._authority}",
            "user-agent: potluck",
            "accept: application/json, text/plain",
            "connection: close",
        ]
        if self.key:
            lines.append(f"authorization: Bearer {self.key.reveal()}")
        if question.body:
            lines += ["content-type: application/json", f"content-length: {len(question.body)}"]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + question.body


def is_loopback(host: str) -> bool:
    """`localhost`, or an address of loopback. Names are not looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


async def converse(place: Place, dialogue: Dialogue[T], timeout_s: float = ASK_TIMEOUT_S) -> T:
    """Play a dialogue against an engine, `timeout_s` for each question. Raises what the dialogue raises."""
    try:
        question = next(dialogue)
        while True:
            question = dialogue.send(await ask(place, question, timeout_s))
    except StopIteration as end:
        found: T = end.value
        return found


async def ask(place: Place, question: Question, timeout_s: float = ASK_TIMEOUT_S) -> Reply:
    """Ask once. No answer, half an answer and one that is not HTTP are all a `Reply` of status 0. Raises nothing."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(
                place.host, place.port, ssl=place.tls or None, limit=MAX_ANSWER_HEAD_BYTES
            )
            try:
                writer.write(place.request(question))
                return await _read(reader)
            finally:
                writer.transport.abort()
    except ConnectionRefusedError:
        return Reply(refused=True)
    except (OSError, TimeoutError, ValueError, EOFError, asyncio.LimitOverrunError):
        return Reply()


async def _read(reader: asyncio.StreamReader) -> Reply:
    """Raises what the reader does, and ValueError for what is not HTTP or too large."""
    status = 100
    while 100 <= status < 200:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        version, code, *_ = head[0].split(" ", 2)
        if version not in ("HTTP/1.1", "HTTP/1.0") or not (len(code) == 3 and code.isascii() and code.isdigit()):
            raise ValueError("not HTTP")
        status = int(code)
    fields = {}
    for line in head[1:-2]:
        field, _, value = line.partition(":")
        fields[field.strip().lower()] = value.strip()
    return Reply(status, fields, await _read_body(reader, status, fields))


async def _read_body(reader: asyncio.StreamReader, status: int, fields: dict[str, str]) -> bytes:
    if status in (204, 304):
        return b""
    if "transfer-encoding" in fields:
        if fields["transfer-encoding"].lower() != "chunked":
            raise ValueError("an unknown transfer coding")
        body = bytearray()
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            _check_size(size)
            _check_size(len(body) + size)
            body += (await reader.readexactly(size + 2))[:-2]
        return bytes(body)
    if "content-length" in fields:
        size = int(fields["content-length"])
        _check_size(size)
        return await reader.readexactly(size)
    body = bytearray()
    while block := await reader.read(64 << 10):
        body += block
        _check_size(len(body))
    return bytes(body)


def _check_size(size: int) -> None:
    if not 0 <= size <= MAX_ANSWER_BYTES:
        raise ValueError("too large")
