"""Reading the environment's proxies."""

import pytest

from potluck.upstream.proxy_settings import ProxySettings


def through(env: dict[str, str], host: str, port: int = 443, *, tls: bool = True) -> bool:
    return ProxySettings.from_environ(env).proxy_for(host, port, tls=tls) is not None


def test_each_scheme_has_its_own_proxy() -> None:
    """HTTPS_PROXY serves TLS endpoints, HTTP_PROXY plain ones, neither stands in for the other."""
    settings = ProxySettings.from_environ({"HTTPS_PROXY": "http://a:1", "HTTP_PROXY": "http://b:2"})
    tls, plain = settings.proxy_for("x.test", 443, tls=True), settings.proxy_for("x.test", 80, tls=False)
    assert tls is not None
    assert plain is not None
    assert (tls.host, tls.port, plain.host, plain.port) == ("a", 1, "b", 2)
    assert not through({"HTTP_PROXY": "http://b:2"}, "x.test")
    assert not through({"HTTPS_PROXY": "http://b:2"}, "x.test", tls=False)
    assert not through({}, "x.test")
    assert not through({"HTTPS_PROXY": "  "}, "x.test")


def test_lower_case_wins() -> None:
    """Where both forms are set the lower-case one counts."""
    proxy = ProxySettings.from_environ({"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:2"}).https
    assert proxy is not None
    assert proxy.host == "b"
    env = {"HTTPS_PROXY": "http://a:1", "NO_PROXY": "*", "no_proxy": "other.test"}
    assert through(env, "x.test")


@pytest.mark.parametrize(
    ("value", "host", "port", "authorization"),
    [
        ("http://proxy.test:3128", "proxy.test", 3128, None),
        ("proxy.test:3128", "proxy.test", 3128, None),
        ("http://proxy.test", "proxy.test", 80, None),
        ("http://[2001:db8::1]:3128/", "2001:db8::1", 3128, None),
        ("http://user:pass@proxy.test:3128", "proxy.test", 3128, b"Basic dXNlcjpwYXNz"),
        ("http://us%40er:p%3Ass@proxy.test", "proxy.test", 80, b"Basic dXNAZXI6cDpzcw=="),
        ("http://user@proxy.test", "proxy.test", 80, b"Basic dXNlcjo="),
    ],
)
def test_forms_of_a_proxy_address(value: str, host: str, port: int, authorization: bytes | None) -> None:
    """With and without scheme, port and credentials, percent-decoded."""
    proxy = ProxySettings.from_environ({"https_proxy": value}).https
    assert proxy is not None
    assert (proxy.host, proxy.port, proxy.authorization) == (host, port, authorization)


@pytest.mark.parametrize(
    "value", ["socks5://p:1080", "https://p:443", "http://", "http://p:port", "http://u:secret@p:x", "://"]
)
def test_what_is_no_http_proxy_is_refused(value: str) -> None:
    """The error names the variable and the remedy, never the value with its password."""
    with pytest.raises(ValueError, match="HTTPS_PROXY does not name an HTTP proxy: write it as") as caught:
        ProxySettings.from_environ({"https_proxy": value})
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_proxys_repr_keeps_its_secret() -> None:
    """Credentials are mentioned, not shown."""
    proxy = ProxySettings.from_environ({"https_proxy": "http://user:pass@p:1"}).https
    assert repr(proxy) == "Proxy(p:1, with credentials)"


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "api.localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "::ffff:127.0.0.1"]
)
def test_the_loopback_is_never_proxied(host: str) -> None:
    """In whatever form it is written."""
    assert not through({"https_proxy": "http://p:1"}, host)


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "direct"),
    [
        ("example.test", "example.test", 443, True),
        ("example.test", "EXAMPLE.test.", 443, True),
        ("example.test", "api.example.test", 443, True),
        (".example.test", "api.example.test", 443, True),
        (".example.test", "example.test", 443, True),
        ("example.test", "notexample.test", 443, False),
        ("example.test", "example.test.evil", 443, False),
        ("a.test, b.test ,c.test", "b.test", 443, True),
        ("a.test b.test", "b.test", 443, True),
        ("*", "anything.test", 443, True),
        ("*", "10.0.0.1", 443, True),
        ("example.test:8443", "example.test", 8443, True),
        ("example.test:8443", "example.test", 443, False),
        ("10.0.0.7", "10.0.0.7", 443, True),
        ("10.0.0.7", "10.0.0.70", 443, False),
        ("10.0.0.0/8", "10.200.3.4", 443, True),
        ("10.0.0.0/8", "11.0.0.1", 443, False),
        ("10.0.0.0/8", "ten.test", 443, False),
        ("10.0.0.0/8:8000", "10.1.1.1", 8000, True),
        ("10.0.0.0/8:8000", "10.1.1.1", 8001, False),
        ("192.168.1.5/16", "192.168.9.9", 443, True),
        ("2001:db8::/32", "2001:db8::5", 443, True),
        ("2001:db8::/32", "[2001:db8::5]", 443, True),
        ("[2001:db8::5]:8000", "2001:db8::5", 8000, True),
        ("[2001:db8::5]:8000", "2001:db8::5", 443, False),
        ("0.7", "10.0.0.7", 443, False),
        (",,", "example.test", 443, False),
    ],
)
def test_no_proxy(no_proxy: str, host: str, port: int, direct: bool) -> None:
    """Names cover what is under them, at label borders; addresses match exactly or by network; ports narrow."""
    assert through({"https_proxy": "http://p:1", "no_proxy": no_proxy}, host, port) is not direct
