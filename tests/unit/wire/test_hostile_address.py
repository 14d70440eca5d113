"""Who speaks through a proxy: what a trusted one added counts, what the stranger wrote before it does not."""

import asyncio
import ipaddress

import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from potluck.wire.address import speaker_prefix, spoken_tls

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


async def read_by_the_control_plane(peer: str, protos: list[str], tls: bool) -> bool:
    """What enrolment takes the scheme to be, by the server's own reading of the field."""
    seen: list[str] = []

    async def app(scope, _receive, _send) -> None:
        seen.append(scope["scheme"])

    headers = [(b"x-forwarded-proto", each.encode()) for each in protos]
    scope = {"type": "http", "scheme": "https" if tls else "http", "client": (peer, 80), "headers": headers}
    await ProxyHeadersMiddleware(app, trusted_hosts=[str(each) for each in PROXIES])(scope, None, None)  # type: ignore[arg-type]
    return seen[0] in ("https", "wss")


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    ("peer", "protos", "said"),
    [
        ("10.0.0.1", ["https"], True),
        ("10.0.0.1", ["http"], False),
        ("10.0.0.1", ["wss"], True),
        ("10.0.0.1", ["http", "https"], True),
        ("10.0.0.1", ["https", "http"], False),
        ("10.0.0.1", [" https "], True),
        ("10.0.0.1", ["https, http"], None),
        ("10.0.0.1", ["gopher"], None),
        ("10.0.0.1", [], None),
        ("198.51.100.1", ["https"], None),
        ("198.51.100.1", ["http"], None),
    ],
)
def test_the_scheme_is_read_as_the_control_plane_reads_it(
    peer: str, protos: list[str], said: bool | None, tls: bool
) -> None:
    """A node enrols by one of both and proves itself by the other: to both it is the same gateway."""
    expected = tls if said is None else said
    assert spoken_tls(tls, (peer, 80), protos, PROXIES) is expected
    assert asyncio.run(read_by_the_control_plane(peer, protos, tls)) is expected
