"""Which origins a gateway claims: its public URL's, its own names', loopback's, the connection's; no other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.config.origins import OriginError, claimed_origin, origin_of

NAMES = frozenset({"lab", "potluck.internal"})


@pytest.mark.parametrize(
    ("host", "tls", "public_url", "origin"),
    [
        ("potluck.example.org", False, "https://potluck.example.org", "https://potluck.example.org"),
        ("Potluck.Example.org:8443", True, "https://potluck.example.org", "https://potluck.example.org"),
        ("potluck.example.org", False, "https://potluck.example.org:8443/", "https://potluck.example.org:8443"),
        ("lab:7171", False, "https://potluck.example.org", "http://lab:7171"),
        ("LAB", True, None, "https://lab"),
        ("lab:443", True, None, "https://lab"),
        ("lab:443", False, None, "http://lab:443"),
        ("localhost:7171", False, None, "http://localhost:7171"),
        ("127.0.0.9", False, None, "http://127.0.0.9"),
        ("[::1]:7171", True, None, "https://[::1]:7171"),
        ("192.0.2.5:7171", False, None, "http://192.0.2.5:7171"),
    ],
)
def test_a_host_that_is_meant_gives_its_origin(host: str, tls: bool, public_url: str | None, origin: str) -> None:
    """Lower case, the scheme's own port left out; under the public URL's host it is the public URL."""
    said = claimed_origin(host, tls=tls, public_url=public_url, own_names=NAMES, socket_address="192.0.2.5")
    assert said == origin


def test_the_connections_own_address_is_believed_in_any_form() -> None:
    """IPv6 is compared as a number, and an IPv4 address may come in on a socket for both."""
    for host, socket_address in (
        ("[2001:DB8::5]:7171", "2001:db8:0::5%eth0"),
        ("192.0.2.5:7171", "::ffff:192.0.2.5"),
    ):
        said = claimed_origin(host, tls=False, public_url=None, own_names=NAMES, socket_address=socket_address)
        assert said == f"http://{host.lower()}"


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "192.0.2.6",
        "[2001:db8::6]",
        "lab.evil.example",
        "127.0.0.1.evil.example",
        "lab@evil.example",
        "lab/x",
        "lab:x",
        "lab:99999",
        "lab:7171:1",
        "lab\n",
        "läb",
        "[lab]",
        "[::1",
        "::1",
        "0.0.0.0",
    ],
)
def test_another_host_is_refused(host: str) -> None:
    """Foreign names and addresses, and what is no host at all."""
    with pytest.raises(OriginError):
        claimed_origin(host, tls=True, public_url="https://potluck.example.org", own_names=NAMES, socket_address="")


@given(st.text(max_size=60), st.booleans())
def test_whatever_is_claimed_is_an_origin(host: str, tls: bool) -> None:
    """Any text gives an origin that is its own origin, or an OriginError."""
    try:
        said = claimed_origin(host, tls=tls, public_url="http://h:1", own_names=NAMES, socket_address="192.0.2.5")
    except OriginError:
        return
    assert origin_of(said) == said


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("HTTPS://Potluck.Example.org/x?y#z", "https://potluck.example.org"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("http://[::1]:7171/", "http://[::1]:7171"),
        ("https://h:443", "https://h"),
    ],
)
def test_the_origin_of_an_address(url: str, origin: str) -> None:
    """Scheme and host in lower case, the port where it is not the scheme's own."""
    assert origin_of(url) == origin


@pytest.mark.parametrize("url", ["", "potluck", "ftp://h", "http://", "http://h:99999", "http://[::1", "http://h h/"])
def test_no_address_has_no_origin(url: str) -> None:
    """What a gateway cannot have."""
    with pytest.raises(OriginError):
        origin_of(url)
