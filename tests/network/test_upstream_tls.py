"""TLS towards upstreams: verified always, its failures told apart, its connections pooled like others."""

import asyncio
import datetime as dt
import ssl

import pytest
import trustme
from upstream_rig import CHUNKED, HELLO, Peer, both_loops, echo, rig, target_at, until

from potluck.model.resources import Timeouts


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client context that trusts the test's authority."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    authority.configure_trust(context)
    return context


def serving(authority: trustme.CA, *names: str, **options: object) -> ssl.SSLContext:
    """A server context with a certificate for `names`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2", "http/1.1"])
    authority.issue_cert(*names, **options).configure_cert(context)  # type: ignore[arg-type]
    return context


@both_loops
async def test_a_call_over_tls(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    """Request and answer pass, small and large; the connection is kept; HTTP/1.1 is what ALPN agrees on."""
    async with rig(tls_context=trusting) as it:
        protocols = []

        async def script(peer: Peer) -> None:
            protocols.append(peer._writer.get_extra_info("ssl_object").selected_alpn_protocol())
            await echo(peer)

        server = await it.server(script, serving(authority, "localhost"))
        target = target_at(server.port, host="localhost", tls=True)
        for body in (b"hi", b"x" * 300_000, b""):
            sink = await it.done(target, body)
            assert (sink.ended, sink.body) == ("end", body)
        assert len(server.peers) == 1
        assert protocols == ["http/1.1"]


@both_loops
async def test_an_address_in_the_certificate(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    """An endpoint given as an address is verified against the certificate's addresses."""
    async with rig(tls_context=trusting) as it:
        server = await it.server(echo, serving(authority, "127.0.0.1"))
        sink = await it.done(target_at(server.port, tls=True), b"hi")
        assert sink.body == b"hi"


BAD_CERTIFICATES = {
    "other-host": "TLS certificate is not valid for this host",
    "expired": "TLS certificate has expired",
    "untrusted": "TLS certificate",
}


@pytest.mark.parametrize("kind", list(BAD_CERTIFICATES))
@both_loops
async def test_a_bad_certificate_fails_the_call(kind: str, authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    """Each kind is target_down in phase connect with words of its own, tried once, and no request byte is sent."""
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    certificates = {
        "other-host": lambda: serving(authority, "other.test"),
        "expired": lambda: serving(authority, "localhost", not_after=past),
        "untrusted": lambda: serving(trustme.CA(), "localhost"),
    }
    async with rig(tls_context=trusting) as it:
        server = await it.server(echo, certificates[kind]())
        sink = await it.done(target_at(server.port, host="localhost", tls=True))
        assert sink.failure is not None
        assert (sink.failure.error_class, sink.failure.phase) == ("target_down", "connect")
        assert sink.failure.detail.startswith(BAD_CERTIFICATES[kind])
        assert "localhost" not in sink.failure.detail
        assert not any(peer.requests for peer in server.peers)
        assert it.pool.stats().connects == 1


@both_loops
async def test_the_systems_trust_is_the_default(authority: trustme.CA, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Without a context of ours, a private authority is refused, and `SSL_CERT_FILE` makes it trusted."""
    bundle = tmp_path / "roots.pem"
    authority.cert_pem.write_to_path(str(bundle))
    async with rig() as it:
        server = await it.server(echo, serving(authority, "localhost"))
        sink = await it.done(target_at(server.port, host="localhost", tls=True))
        assert sink.failure is not None
        assert sink.failure.detail.startswith("TLS certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    async with rig() as it:
        server = await it.server(echo, serving(authority, "localhost"))
        sink = await it.done(target_at(server.port, host="localhost", tls=True), b"hi")
        assert sink.body == b"hi"


@both_loops
async def test_a_plain_server_where_tls_was_expected(trusting: ssl.SSLContext) -> None:
    """What does not speak TLS fails the handshake in words."""
    async with rig(tls_context=trusting) as it:

        async def script(peer: Peer) -> None:
            await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await peer.closed_by_us()

        server = await it.server(script)
        sink = await it.done(target_at(server.port, host="localhost", tls=True))
        assert sink.failure is not None
        assert (sink.failure.error_class, sink.failure.detail) == ("target_down", "TLS handshake failed")


@pytest.mark.parametrize("end", ["cancel", "deadline", "close", "reset"])
@both_loops
async def test_a_handshake_that_never_ends(end: str, trusting: ssl.SSLContext) -> None:
    """A server silent in the handshake: cancel, the connect deadline, EOF and RST each end it without a trace."""
    async with rig(tls_context=trusting) as it:
        act = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer._reader.readexactly(5)
            await act.wait()
            if end == "close":
                peer.close()
            elif end == "reset":
                peer.reset()
            else:
                await peer.closed_by_us()

        server = await it.server(script)
        timeouts = Timeouts(connect_s=0.2 if end == "deadline" else 20)
        target = target_at(server.port, host="localhost", tls=True, timeouts=timeouts)
        sink, call = it.call(target)
        await until(lambda: server.peers)
        act.set()
        if end == "cancel":
            call.cancel("client gone")
            sink.cancelled = True
        else:
            await sink.over()
            assert sink.failure is not None
            assert sink.failure.phase == "connect"
            assert sink.failure.error_class == ("target_slow" if end == "deadline" else "target_down")
        await until(server.peers[0].gone.is_set)
        await until(lambda: it.pool.stats().endpoints[target.endpoint.key].connecting == 0)


@both_loops
async def test_cancel_over_tls_is_seen_at_once(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    """No shutdown handshake is waited for."""
    async with rig(tls_context=trusting) as it:

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED + b"2\r\nhi\r\n")
            await peer.closed_by_us()

        server = await it.server(script, serving(authority, "localhost"))
        sink, call = it.call(target_at(server.port, host="localhost", tls=True))
        await until(lambda: sink.chunks)
        call.cancel("client gone")
        sink.cancelled = True
        await until(server.peers[0].gone.is_set, timeout_s=1)


@both_loops
async def test_a_dead_kept_alive_connection_over_tls(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    """Replaced once, as without TLS."""
    async with rig(tls_context=trusting) as it:

        async def script(peer: Peer) -> None:
            if peer.number:
                await echo(peer)
            await peer.request()
            await peer.send(HELLO)
            await peer.request()
            peer.reset()

        server = await it.server(script, serving(authority, "localhost"))
        target = target_at(server.port, host="localhost", tls=True)
        await it.done(target)
        sink = await it.done(target, b"again")
        assert (sink.body, sink.reused) == (b"again", [True, False])


@pytest.fixture(autouse=True)
def _no_roots_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own SSL_CERT_FILE is no part of these tests."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)


@both_loops
async def test_pause_over_tls(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    """Back-pressure reaches through TLS: a paused call holds the upstream back, and all bytes come after resume."""
    async with rig(tls_context=trusting) as it:
        size = 32 * 1024 * 1024
        sent = 0

        async def script(peer: Peer) -> None:
            nonlocal sent
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            while sent < size:
                await peer.send(b"z" * 65536)
                sent += 65536
            await peer.closed_by_us()

        server = await it.server(script, serving(authority, "localhost"))
        sink, call = it.call(target_at(server.port, host="localhost", tls=True))
        sink.on_data = lambda _: call.pause()
        await until(lambda: sink.chunks)
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.05)
        assert sent < size / 2
        sink.on_data = lambda _: None
        call.resume()
        await sink.over(30)
        assert len(sink.body) == size
