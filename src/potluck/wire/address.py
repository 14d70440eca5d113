"""An address as its network: what strangers are counted by, since one of them has many addresses there.

Rule: /24 of IPv4, mapped into IPv6 or not; /64 of IPv6, however it is written.
"""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@lru_cache(maxsize=1_000)
def prefix_of(address: str) -> str:
    """`192.0.2.0/24`, `2001:db8::/64`; what is no address is its own prefix."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    found = getattr(found, "ipv4_mapped", None) or found
    return str(ipaddress.ip_network((found, 64 if found.version == 6 else 24), strict=False))


def peer_prefix(peername: object) -> str:
    """The same of what a socket says of its other end; `local`: that has no address."""
    return prefix_of(str(peername[0])) if isinstance(peername, tuple) else "local"


def speaker_prefix(peername: object, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """The same of who speaks through trusted proxies. `forwarded`: the X-Forwarded-For fields, in their order.

    Each proxy adds the address that it saw: read from the end, as far as those who added are trusted.
    """
    addresses = [each.strip(" \t") for each in ",".join(forwarded).split(",")]
    address = str(peername[0]) if isinstance(peername, tuple) else ""
    while addresses and _within(address, trusted) and _is_address(addresses[-1]):
        address = addresses.pop()
    return prefix_of(address) if address else "local"


def spoken_tls(tls: bool, peername: object, protos: Sequence[str], trusted: Sequence[Network]) -> bool:
    """Whether who speaks through a trusted proxy uses TLS. `protos`: the X-Forwarded-Proto fields; `tls`: the socket's.

    The last field counts, and only if it is one known word: just so the control plane's server reads it.
    """
    address = str(peername[0]) if isinstance(peername, tuple) else ""
    said = protos[-1].strip() if protos and _within(address, trusted) else ""
    return said in ("https", "wss") if said in ("http", "https", "ws", "wss") else tls


def _within(address: str, networks: Sequence[Network]) -> bool:
    if not networks or not _is_address(address):
        return False
    found = ipaddress.ip_address(address.partition("%")[0])
    found = getattr(found, "ipv4_mapped", None) or found
    return any(found in network for network in networks)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True
