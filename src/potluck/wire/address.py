"""An address as its network: what strangers are counted by, since one of them has many addresses there.

Rule: /24 of IPv4, mapped into IPv6 or not; /64 of IPv6, however it is written.
"""

import ipaddress
from functools import lru_cache


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
