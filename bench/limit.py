"""The Python floor: a proxy that does nothing but move bytes, `python -m bench.limit PORT PLAIN_PORT STREAM_PORT`.

llhttp on both sides, callbacks only, no keys, no limits, no records. What Potluck costs above it is what its work
costs; what it costs above nginx is the language. Not hardened: it trusts both sides, and serves nothing but the bench.
"""

import asyncio
import sys
from typing import cast

import httptools
import uvloop

_HOP_BY_HOP = {b"connection", b"transfer-encoding", b"keep-alive", b"te", b"upgrade", b"authorization", b"host"}


class Outgoing(asyncio.Protocol):
    """A pooled connection to the upstream."""

    def __init__(self, pool: list["Outgoing"]) -> None:
        self._pool = pool
        self.caller: Incoming | None = None
        self.transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._head: list[bytes] = []
        self._chunked = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._pool:
            self._pool.remove(self)
        if self.caller is not None:
            self.caller.transport.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        lowered = name.lower()
        if lowered == b"content-length":
            self._chunked = False
        if lowered not in _HOP_BY_HOP:
            self._head.append(lowered + b": " + value + b"\r\n")

    def on_headers_complete(self) -> None:
        assert self.caller is not None
        if self._chunked:
            self._head.append(b"transfer-encoding: chunked\r\n")
        self._head.append(b"\r\n")
        self._pending = b"HTTP/1.1 %d OK\r\n" % self._parser.get_status_code() + b"".join(self._head)
        if self._chunked:
            self.caller.transport.write(self._pending)
            self._pending = b""

    def on_body(self, body: bytes) -> None:
        assert self.caller is not None
        if self._chunked:
            self.caller.transport.write(b"%x\r\n%s\r\n" % (len(body), body))
        else:
            self.caller.transport.write(self._pending + body)
            self._pending = b""

    def on_message_complete(self) -> None:
        caller = self.caller
        assert caller is not None
        if self._chunked:
            caller.transport.write(b"0\r\n\r\n")
        self.caller = None
        self._head, self._chunked = [], True
        self._pool.append(self)


class Incoming(asyncio.Protocol):
    """A caller's connection: one request at a time."""

    def __init__(self, pools: dict[bool, list[Outgoing]], ports: dict[bool, int]) -> None:
        self._pools, self._ports = pools, ports
        self._parser = httptools.HttpRequestParser(self)
        self._head: list[bytes] = []
        self._body: list[bytes] = []
        self._opening: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._head = [b"POST " + url + b" HTTP/1.1\r\nhost: upstream\r\nauthorization: Bearer upstream-secret\r\n"]

    def on_header(self, name: bytes, value: bytes) -> None:
        lowered = name.lower()
        if lowered not in _HOP_BY_HOP:
            self._head.append(lowered + b": " + value + b"\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        request = b"".join([*self._head, b"\r\n", *self._body])
        self._body = []
        stream = b'"stream":true' in request
        pool = self._pools[stream]
        if pool:
            self._send(pool.pop(), request)
        else:
            self._opening = asyncio.get_running_loop().create_task(self._open(stream, request))

    async def _open(self, stream: bool, request: bytes) -> None:
        _, upstream = await asyncio.get_running_loop().create_connection(
            lambda: Outgoing(self._pools[stream]), "127.0.0.1", self._ports[stream]
        )
        self._send(upstream, request)

    def _send(self, upstream: Outgoing, request: bytes) -> None:
        upstream.caller = self
        upstream.transport.write(request)


async def _serve(port: int, plain_port: int, stream_port: int) -> None:
    pools: dict[bool, list[Outgoing]] = {False: [], True: []}
    ports = {False: plain_port, True: stream_port}
    server = await asyncio.get_running_loop().create_server(
        lambda: Incoming(pools, ports), "127.0.0.1", port, backlog=2048
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(*(int(word) for word in sys.argv[1:4])))
