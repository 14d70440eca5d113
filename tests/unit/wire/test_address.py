"""Addresses as networks."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.wire.address import peer_prefix, prefix_of


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        ("192.0.2.1", "192.0.2.0/24"),
        ("::ffff:192.0.2.1", "192.0.2.0/24"),
        ("2001:db8:1:2:3::1%eth0", "2001:db8:1:2::/64"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::2:3:4:5", "2001:db8::/64"),
        ("::1", "::/64"),
        ("testclient", "testclient"),
    ],
)
def test_an_address_is_its_network(address: str, prefix: str) -> None:
    """However it is written."""
    assert prefix_of(address) == prefix
    assert peer_prefix((address, 80, 0, 0)) == prefix


def test_a_socket_without_addresses_is_local() -> None:
    """As of a socket in the file system."""
    assert peer_prefix(None) == peer_prefix("") == "local"


@given(network=st.integers(0, 2**64 - 1), ends=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)))
def test_all_addresses_of_a_network_count_together(network: int, ends: tuple[int, int]) -> None:
    """Zeros are left out of the text of an address wherever most of them are."""
    one, other = (ipaddress.IPv6Address(network << 64 | end) for end in ends)
    if one.ipv4_mapped is None and other.ipv4_mapped is None:
        assert prefix_of(str(one)) == prefix_of(str(other))
