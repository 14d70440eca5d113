"""Which outgoing proxy a connection goes through, from the environment, read once.

`HTTPS_PROXY` serves TLS endpoints (CONNECT tunnel), `HTTP_PROXY` the plain ones (absolute-form requests); the
lower-case name wins over the upper-case one. `NO_PROXY` as in curl: names match themselves and every name under them
(a leading dot makes no difference), addresses match exactly or by CIDR, an entry may carry a port, `*` matches
everything. The loopback is never proxied.
"""

import base64
import ipaddress
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

_IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Proxy:
    """An HTTP proxy. `authorization` is the value of `Proxy-Authorization`: secret, never shown."""

    __slots__ = ("authorization", "host", "port")

    def __init__(self, host: str, port: int, authorization: bytes | None = None) -> None:
        self.host = host
        self.port = port
        self.authorization = authorization

    def __repr__(self) -> str:
        return f"Proxy({self.host}:{self.port}{', with credentials' if self.authorization else ''})"


class ProxySettings:
    """The environment's proxies and exceptions."""

    def __init__(self, *, http: Proxy | None = None, https: Proxy | None = None, no_proxy: str = "") -> None:
        self.http = http
        self.https = https
        self._exceptions = [_Exception(entry) for entry in no_proxy.replace(",", " ").split()]

    @classmethod
    def from_environ(cls, env: Mapping[str, str]) -> "ProxySettings":
        """Read `http_proxy`, `https_proxy`, `no_proxy` and their upper-case forms.

        Raises `ValueError` naming the variable (never its value) when it is not an
        `http://[user:password@]host[:port]`.
        """
        return cls(
            http=_parse("HTTP_PROXY", _read(env, "http_proxy")),
            https=_parse("HTTPS_PROXY", _read(env, "https_proxy")),
            no_proxy=_read(env, "no_proxy"),
        )

    def proxy_for(self, host: str, port: int, *, tls: bool) -> Proxy | None:
        """The proxy for this endpoint, None: connect directly."""
        proxy = self.https if tls else self.http
        if proxy is None:
            return None
        host = host.strip("[]").rstrip(".").lower()
        ip = _ip(host)
        if host == "localhost" or host.endswith(".localhost") or (ip is not None and _is_local(ip)):
            return None
        return None if any(entry.matches(host, ip, port) for entry in self._exceptions) else proxy


class _Exception:
    """One entry of NO_PROXY."""

    __slots__ = ("_everything", "_name", "_network", "_port")

    def __init__(self, entry: str) -> None:
        self._everything = entry == "*"
        self._port: int | None = None
        self._network = _network(entry)
        if self._network is None:
            host, _, port = entry.rpartition(":")
            if host and port.isdigit():
                entry, self._port = host, int(port)
                self._network = _network(entry)
        self._name = entry.strip("[]").strip(".").lower()

    def matches(self, host: str, ip: ipaddress.IPv4Address | ipaddress.IPv6Address | None, port: int) -> bool:
        if self._port is not None and self._port != port:
            return False
        if self._everything or self._name == "*":
            return True
        if self._network is not None:
            return ip is not None and ip in self._network
        return bool(self._name) and ip is None and (host == self._name or host.endswith("." + self._name))


def _read(env: Mapping[str, str], name: str) -> str:
    return (env.get(name) or env.get(name.upper()) or "").strip()


def _parse(variable: str, value: str) -> Proxy | None:
    if not value:
        return None
    try:
        url = urlsplit(value if "://" in value else f"http://{value}")
        host, port = url.hostname, url.port
    except ValueError:
        host, port, url = None, None, urlsplit("")
    if url.scheme.lower() != "http" or not host:
        raise ValueError(
            f"{variable} does not name an HTTP proxy: write it as http://[user:password@]host[:port],"
            " or unset it to connect directly"
        )
    authorization = None
    if url.username is not None:
        pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
        authorization = b"Basic " + base64.b64encode(pair.encode())
    return Proxy(host, port or 80, authorization)


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_local(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(ip, "ipv4_mapped", None)
    return ip.is_loopback or (mapped is not None and mapped.is_loopback)


def _network(entry: str) -> _IpNetwork | None:
    address, slash, prefix = entry.partition("/")
    try:
        return ipaddress.ip_network(address.strip("[]") + slash + prefix, strict=False)
    except ValueError:
        return None
