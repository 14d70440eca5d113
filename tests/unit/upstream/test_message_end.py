"""Whether a read ended exactly with the message: line ends after it are passed over by the parser in silence."""

import pytest

from potluck.model.resources import Timeouts
from potluck.model.snapshot import Endpoint
from potluck.upstream.connection import ends_with_message
from potluck.upstream.proxy_settings import Proxy
from potluck.upstream.room import Forward

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "last", "chunked", "exact"),
    [
        (HEAD + b"hello", b"hello", False, True),
        (HEAD + b"hello\n", b"hello\n", False, True),
        (HEAD + b"hello\n", b"hello", False, False),
        (HEAD + b"hello\r\n\r\n", b"hello", False, False),
        (HEAD + b"hello\n\n", b"hello\n", False, False),
        (HEAD + b"\n", b"\n", False, False),  # cannot be told apart from an excess line end
        (HEAD, b"", False, True),
        (HEAD + b"\r\n", b"", False, False),
        (HEAD + b"\n", b"", False, False),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello", True, True),
        (b"5\r\nhello\r\n0\r\n\r\n\r\n", b"hello", True, False),
        (b"0\r\n\r\n", b"", True, True),
        (b"0\r\nx-sum: 1\r\n\r\n", b"", True, True),
        (b"0\r\n\r\n\n", b"", True, False),
        (b"\r\n", b"", True, False),  # too short to tell
    ],
)
def test_ends_with_message(data: bytes, last: bytes, chunked: bool, exact: bool) -> None:
    """True only where the read's last byte is the message's last byte for certain."""
    assert ends_with_message(data, last, chunked=chunked) is exact


@pytest.mark.parametrize(
    ("host", "authority"), [("api.test", b"api.test:8000"), ("::1", b"[::1]:8000"), ("[::1]", b"[::1]:8000")]
)
def test_a_head_for_a_forwarding_proxy(host: str, authority: bytes) -> None:
    """Absolute form with the endpoint's authority; credentials as the first field, where there are any."""
    endpoint = Endpoint("key", host, 8000, False, Timeouts())
    wire = b"POST /v1/x HTTP/1.1\r\nhost: api.test\r\ncontent-length: "
    rest = b"host: api.test\r\ncontent-length: "
    line = b"POST http://%b/v1/x HTTP/1.1\r\n" % authority
    assert Forward(endpoint, Proxy("p", 1)).rewrite(wire) == line + rest
    assert Forward(endpoint, Proxy("p", 1, b"Basic eDp5")).rewrite(wire) == (
        line + b"proxy-authorization: Basic eDp5\r\n" + rest
    )
