"""Making one connection: name → address race (RFC 8305) → proxy tunnel → TLS → protocol.

Everything here runs in the one task that a call waiting for a new connection owns. The caller's deadline is kept from
outside, by cancelling that task; whatever is raised, cancelled included, no socket is left behind.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from potluck.model.snapshot import Endpoint
from potluck.upstream.dns import Address, Resolver
from potluck.upstream.failures import ConnectError, connect_failure
from potluck.upstream.proxy_settings import Proxy, ProxySettings
from potluck.upstream.tls import default_context

STAGGER_S = 0.25
"""RFC 8305 §5: how long an attempt runs alone before the next address is tried beside it"""
MAX_ADDRESSES = 16
MAX_TUNNEL_HEAD_BYTES = 16 * 1024

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Connector:
    """Opens connections for every endpoint: one resolver, one TLS context, one set of proxies."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        resolver: Resolver | None = None,
        tls_context: ssl.SSLContext | None = None,
        proxies: ProxySettings | None = None,
    ) -> None:
        self._loop = loop
        self._resolver = resolver or Resolver(loop)
        self._tls_context = tls_context
        self._trust_lock = asyncio.Lock()
        self._proxies = proxies or ProxySettings()

    def proxy_for(self, endpoint: Endpoint) -> Proxy | None:
        return self._proxies.proxy_for(endpoint.host, endpoint.port, tls=endpoint.tls)

    async def connect(self, endpoint: Endpoint, protocol: Callable[[], P]) -> P:
        """A connection ready for the first request byte. Raises `ConnectError`."""
        try:
            return await self._connect(endpoint, protocol)
        except (ConnectError, OSError) as error:
            raise connect_failure(error) from None

    def close(self) -> None:
        self._resolver.close()

    async def _connect(self, endpoint: Endpoint, protocol: Callable[[], P]) -> P:
        proxy = self.proxy_for(endpoint)
        if proxy is None:
            sock = await self._dial(endpoint.host, endpoint.port)
        else:
            try:
                sock = await self._dial(proxy.host, proxy.port)
            except OSError as error:
                raise ConnectError(f"outgoing proxy: {connect_failure(error).detail}") from None
        # from here on the socket is ours to close until the transport has it; closing it twice does no harm, because a
        # transport that fails detaches it
        try:
            if proxy is not None and endpoint.tls:
                await _open_tunnel(self._loop, sock, endpoint, proxy)
            if not endpoint.tls:
                return (await self._loop.create_connection(protocol, sock=sock))[1]
            context = self._tls_context or await self._load_trust()
            name = endpoint.host.strip("[]").rstrip(".")
            return (await self._loop.create_connection(protocol, sock=sock, ssl=context, server_hostname=name))[1]
        except BaseException:
            sock.close()
            raise

    async def _load_trust(self) -> ssl.SSLContext:
        async with self._trust_lock:
            if self._tls_context is None:
                self._tls_context = await asyncio.to_thread(default_context)
        return self._tls_context

    async def _dial(self, host: str, port: int) -> socket.socket:
        addresses = await self._resolver.resolve(host, port)
        try:
            return await connect_any(self._loop, addresses)
        except OSError:
            self._resolver.doubt(host)
            raise


def interleave(addresses: list[Address]) -> list[Address]:
    """RFC 8305 §4: keep the resolver's order within a family, alternate the families, the first one's first."""
    if not addresses:
        return []
    first = deque(a for a in addresses if a.family == addresses[0].family)
    other = deque(a for a in addresses if a.family != addresses[0].family)
    order = []
    while first or other:
        if first:
            order.append(first.popleft())
        if other:
            order.append(other.popleft())
    return order[:MAX_ADDRESSES]


async def connect_any(
    loop: asyncio.AbstractEventLoop, addresses: list[Address], *, stagger_s: float = STAGGER_S
) -> socket.socket:
    """The first socket that connects; the next address starts when one fails or `stagger_s` has passed.

    Raises the first attempt's `OSError` when all fail.
    """
    if len(addresses) == 1:
        return await _connect_one(loop, addresses[0])
    untried = deque(interleave(addresses))
    running: set[asyncio.Task[socket.socket]] = set()
    errors: list[OSError] = []
    winner: socket.socket | None = None
    try:
        while winner is None and (untried or running):
            if untried:
                running.add(loop.create_task(_connect_one(loop, untried.popleft())))
            done, _ = await asyncio.wait(
                running, timeout=stagger_s if untried else None, return_when=asyncio.FIRST_COMPLETED
            )
            for attempt in done:
                running.discard(attempt)
                try:
                    sock = attempt.result()
                except OSError as error:
                    errors.append(error)
                    continue
                if winner is None:
                    winner = sock
                else:
                    sock.close()
    except BaseException:
        if winner is not None:
            winner.close()
        raise
    finally:
        for attempt in running:
            attempt.cancel()
            attempt.add_done_callback(_close_late)
    if winner is None:
        raise errors[0]
    return winner


def _close_late(attempt: "asyncio.Task[socket.socket]") -> None:
    """A race's loser may have connected before its cancellation reached it."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _connect_one(loop: asyncio.AbstractEventLoop, address: Address) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, address.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


async def _open_tunnel(loop: asyncio.AbstractEventLoop, sock: socket.socket, endpoint: Endpoint, proxy: Proxy) -> None:
    """CONNECT through the proxy. Past its blank line nothing can come: the peer speaks after our first TLS record."""
    authority = authority_of(endpoint)
    request = b"CONNECT %b HTTP/1.1\r\nhost: %b\r\n" % (authority, authority)
    if proxy.authorization is not None:
        request += b"proxy-authorization: %b\r\n" % proxy.authorization
    try:
        await loop.sock_sendall(sock, request + b"\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            received = await loop.sock_recv(sock, 4096)
            head += received
            if not received or len(head) > MAX_TUNNEL_HEAD_BYTES:
                raise ConnectError("outgoing proxy: no proper answer to CONNECT")
    except OSError as error:
        raise ConnectError(f"outgoing proxy: {connect_failure(error).detail}") from None
    version, _, rest = head.partition(b" ")
    status = rest[:3]
    if not version.startswith(b"HTTP/1.") or not status.isdigit():
        raise ConnectError("outgoing proxy: no proper answer to CONNECT")
    if status == b"407":
        raise ConnectError("outgoing proxy: it asks for a user name and password, or refuses the given ones")
    if not status.startswith(b"2"):
        raise ConnectError(f"outgoing proxy: it refused the tunnel with status {status.decode()}")
    if not head.endswith(b"\r\n\r\n"):
        raise ConnectError("outgoing proxy: it sent bytes that the target cannot have sent")


def authority_of(endpoint: Endpoint) -> bytes:
    """`host:port`, an IPv6 literal in brackets."""
    host = endpoint.host.strip("[]")
    return (f"[{host}]:{endpoint.port}" if ":" in host else f"{host}:{endpoint.port}").encode()
