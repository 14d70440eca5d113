"""Under which address the gateway believes to be reached: what nodes sign, so that nobody relays them to another one.

Rules
- The Host that somebody dialled is believed only where this gateway may be meant by it: the public URL's host, one of
  its own names, loopback, or the address that the connection itself came in on.
- Under the public URL's host it is the public URL, whatever the Host says of a port: a proxy in front may drop it, and
  may end TLS.
- An origin is `scheme://host`, with the port where it is not the scheme's own, in lower case.
"""

import ipaddress
import re
from collections.abc import Set
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")


class OriginError(ValueError):
    """The gateway is not meant (HTTP 421). Safe to print."""


def claimed_origin(
    host: str, *, tls: bool, public_url: str | None, own_names: Set[str], socket_address: str = ""
) -> str:
    """The origin of a request with that Host field: `https://potluck.example.org`, `http://127.0.0.1:7171`.

    `own_names`: lower case. `socket_address`: the local end of the connection. Raises OriginError.
    """
    found = _HOST.fullmatch(host.strip(" \t").lower())
    port = int(found["port"] or 0) if found else 0
    if not found or port > 65_535:
        raise OriginError("the request names no host: send a Host field")
    name = found["name"].strip("[]")
    if public_url is not None and name == (urlsplit(public_url).hostname or ""):
        return origin_of(public_url)
    if name not in own_names and not _is_loopback(name) and not _same_address(name, socket_address):
        raise OriginError(
            f"this gateway does not know itself as {name!r}: start it with --public-url, and dial that address"
        )
    return _origin("https" if tls else "http", name, port)


def origin_of(url: str) -> str:
    """The origin of an http(s) URL; what stands after the host is left out. Raises OriginError."""
    try:
        parts = urlsplit(url)
        scheme, name, port = parts.scheme.lower(), (parts.hostname or "").lower(), parts.port or 0
    except ValueError:
        scheme = name = ""
        port = 0
    bracketed = f"[{name}]" if ":" in name else name
    if scheme not in DEFAULT_PORTS or not _HOST.fullmatch(bracketed):
        raise OriginError(f"{url!r} is no address of a gateway: write https://potluck.example.org")
    return _origin(scheme, name, port)


def _origin(scheme: str, name: str, port: int) -> str:
    bracketed = f"[{name}]" if ":" in name else name
    return f"{scheme}://{bracketed}" + (f":{port}" if port not in (0, DEFAULT_PORTS[scheme]) else "")


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    address = _address(name)
    return address is not None and address.is_loopback


def _same_address(name: str, socket_address: str) -> bool:
    address = _address(name)
    return address is not None and address == _address(socket_address.partition("%")[0])


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    # a socket that takes both families names its IPv4 end so
    return getattr(found, "ipv4_mapped", None) or found
