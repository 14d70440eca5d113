"""Outgoing proxies: CONNECT tunnels for TLS, absolute-form requests for plain HTTP, and what a proxy may do wrong."""

import asyncio
import contextlib
import ssl

import pytest
import trustme
from upstream_rig import HELLO, Peer, Server, both_loops, deaf_port, echo, rig, target_at, until, unused_port

from potluck.model.resources import Timeouts
from potluck.upstream import ProxySettings


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def settings(port: int, user: str = "") -> ProxySettings:
    """Both proxies at a loopback port."""
    url = f"http://{user}127.0.0.1:{port}"
    return ProxySettings.from_environ({"https_proxy": url, "http_proxy": url})


class Tunnel:
    """The script of a CONNECT proxy that joins every tunnel to one loopback port."""

    def __init__(self, to_port: int) -> None:
        self.heads: list[bytes] = []
        self._to_port = to_port

    async def __call__(self, peer: Peer) -> None:
        self.heads.append(await peer.head())
        reader, writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        await peer.send(b"HTTP/1.1 200 Connection established\r\nvia: proxy\r\n\r\n")
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(peer._reader, writer))
                both.create_task(_copy(reader, peer._writer))
        finally:
            writer.transport.abort()


async def _copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65536):
            to.write(data)
            await to.drain()
    to.close()


@both_loops
async def test_tls_goes_through_a_tunnel(authority: trustme.CA) -> None:
    """The proxy is asked for the target's authority with our credentials; TLS is with the target, by its name."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("provider.test").configure_cert(serving)
    async with rig() as behind:
        server = await behind.server(echo, serving)
        tunnel = Tunnel(server.port)
        proxy = await behind.server(tunnel)
        async with rig(tls_context=context, proxies=settings(proxy.port, "me:pa55%3Aw%40rd@")) as it:
            target = target_at(443, host="provider.test", tls=True)
            for body in (b"hi", b"x" * 300_000):
                sink = await it.done(target, body)
                assert (sink.ended, sink.body) == ("end", body)
        (head,) = tunnel.heads
        assert head == (
            b"CONNECT provider.test:443 HTTP/1.1\r\nhost: provider.test:443\r\n"
            b"proxy-authorization: Basic bWU6cGE1NTp3QHJk\r\n\r\n"
        )
        assert len(server.peers) == 1
        assert b"proxy-authorization" not in server.peers[0].requests[0][0]


@both_loops
async def test_plain_http_is_sent_in_absolute_form() -> None:
    """The proxy gets the whole address in the request line, its credentials, and our head otherwise untouched."""
    async with rig() as behind:
        proxy = await behind.server(echo)
        async with rig(proxies=settings(proxy.port, "me:secret@")) as it:
            sink = await it.done(target_at(8080, host="provider.test"), b"hi")
            assert sink.body == b"hi"
        assert proxy.peers[0].requests[0][0] == (
            b"POST http://provider.test:8080/v1/chat/completions HTTP/1.1\r\n"
            b"proxy-authorization: Basic bWU6c2VjcmV0\r\n"
            b"host: provider.test\r\nauthorization: Bearer sk-secret\r\ncontent-length: 2\r\n\r\n"
        )


@both_loops
async def test_the_loopback_is_never_proxied() -> None:
    """A target on this machine is reached directly although a proxy is set."""
    async with rig(proxies=settings(unused_port())) as it:
        server = await it.server(echo)
        for host in ("127.0.0.1", "localhost"):
            sink = await it.done(target_at(server.port, host=host), b"hi")
            assert sink.body == b"hi"


REFUSALS = {
    "407": (b"HTTP/1.1 407 Auth\r\nproxy-authenticate: Basic\r\n\r\n", "user name and password"),
    "403": (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 6\r\n\r\nno way", "status 403"),
    "502": (b"HTTP/1.0 502 Bad\r\n\r\n", "status 502"),
    "not-http": (b"hello there\r\n\r\n", "no proper answer"),
    "bad-status": (b"HTTP/1.1 2x0 OK\r\n\r\n", "no proper answer"),
    "endless": (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 10_000, "no proper answer"),
    "speaks-for-the-target": (b"HTTP/1.1 200 OK\r\n\r\n" + HELLO, "cannot have sent"),
    "closes": (b"", "no proper answer"),
}


@pytest.mark.parametrize("answer", REFUSALS.values(), ids=list(REFUSALS))
@both_loops
async def test_a_proxy_that_refuses(answer: tuple[bytes, str]) -> None:
    """Each is target_down in phase connect, told as the proxy's doing, without its text or our credentials."""
    raw, words = answer

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(raw)
        if raw:
            await peer.closed_by_us()

    async with rig() as behind:
        proxy = await behind.server(script)
        async with rig(proxies=settings(proxy.port, "me:secret@")) as it:
            sink = await it.done(target_at(443, host="provider.test", tls=True))
            assert sink.failure is not None
            assert (sink.failure.error_class, sink.failure.phase) == ("target_down", "connect")
            assert sink.failure.detail.startswith("outgoing proxy: ")
            assert words in sink.failure.detail
            for secret in ("secret", "provider", "127.0.0.1", "no way"):
                assert secret not in sink.failure.detail


@both_loops
async def test_a_proxy_that_is_not_there() -> None:
    """A refused connection to the proxy is told as such; a deaf proxy is late."""
    async with rig(proxies=settings(unused_port())) as it:
        sink = await it.done(target_at(443, host="provider.test", tls=True))
        assert sink.failure is not None
        assert sink.failure.detail == "outgoing proxy: connection refused"
    with deaf_port() as port:
        async with rig(proxies=settings(port)) as it:
            timeouts = Timeouts(connect_s=0.15)
            sink = await it.done(target_at(443, host="provider.test", tls=True, timeouts=timeouts))
            assert sink.failure is not None
            assert (sink.failure.error_class, sink.failure.timeout) == ("target_slow", True)


@both_loops
async def test_cancel_in_the_middle_of_a_tunnel() -> None:
    """The proxy sees the close, and the slot is free."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.closed_by_us()

    async with rig() as behind:
        proxy: Server = await behind.server(script)
        async with rig(proxies=settings(proxy.port)) as it:
            target = target_at(443, host="provider.test", tls=True)
            sink, call = it.call(target)
            await until(lambda: proxy.peers)
            call.cancel("client gone")
            sink.cancelled = True
            await until(proxy.peers[0].gone.is_set)
            await until(lambda: it.pool.stats().endpoints[target.endpoint.key].connecting == 0)
