"""Who speaks through a proxy: what a trusted one added counts, what the stranger wrote before it does not."""

import ipaddress

import pytest

from potluck.wire.address import speaker_prefix

PROXIES = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "prefix"),
    [
        ("10.0.0.1", ["203.0.113.7"], "203.0.113.0/24"),
        ("::ffff:10.0.0.1", ["203.0.113.7"], "203.0.113.0/24"),
        ("::1", ["2001:db8::7"], "2001:db8::/64"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.7"], "203.0.113.0/24"),
        ("10.0.0.1", ["198.51.100.1", "203.0.113.7, 10.9.9.9"], "203.0.113.0/24"),
        ("198.51.100.1", ["203.0.113.7"], "198.51.100.0/24"),
        ("10.0.0.1", [], "10.0.0.0/24"),
        ("10.0.0.1", ["unknown"], "10.0.0.0/24"),
        ("10.0.0.1", ["203.0.113.7, '); --"], "10.0.0.0/24"),
    ],
)
def test_the_last_untrusted_address_speaks(peer: str, forwarded: list[str], prefix: str) -> None:
    """Read from the end, as far as proxies are trusted."""
    assert speaker_prefix((peer, 80), forwarded, PROXIES) == prefix


def test_nobody_is_trusted_unless_told() -> None:
    """Without trusted proxies the field is not read; a socket without an address is local."""
    assert speaker_prefix(("127.0.0.1", 80), ["203.0.113.7"], []) == "127.0.0.0/24"
    assert speaker_prefix("", ["203.0.113.7"], PROXIES) == "local"
