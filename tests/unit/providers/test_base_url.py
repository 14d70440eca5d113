"""What a provider's base URL may be."""

import pytest

from potluck.providers.base_url import BaseUrl, parse_base_url


@pytest.mark.parametrize(
    ("text", "parts", "authority"),
    [
        ("https://api.openai.com/v1", BaseUrl(True, "api.openai.com", 443, "/v1"), "api.openai.com"),
        ("http://10.0.0.7:8000/v1/", BaseUrl(False, "10.0.0.7", 8000, "/v1"), "10.0.0.7:8000"),
        ("HTTPS://API.Example.COM:443", BaseUrl(True, "api.example.com", 443, ""), "api.example.com"),
        ("http://localhost:80/", BaseUrl(False, "localhost", 80, ""), "localhost"),
        ("https://[::1]:8443/a/b", BaseUrl(True, "::1", 8443, "/a/b"), "[::1]:8443"),
        ("https://host:80/v1", BaseUrl(True, "host", 80, "/v1"), "host:80"),
        ("https://api.groq.com/openai/v1", BaseUrl(True, "api.groq.com", 443, "/openai/v1"), "api.groq.com"),
        ("https://lab_1.internal./v1", BaseUrl(True, "lab_1.internal", 443, "/v1"), "lab_1.internal"),
    ],
)
def test_parts(text: str, parts: BaseUrl, authority: str) -> None:
    """A base URL falls into parts; the authority names the port only where it is not the scheme's."""
    assert parse_base_url(text) == parts
    assert parts.authority == authority
    assert parse_base_url(parts.origin + parts.path) == parts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "api.openai.com/v1",
        "ftp://host/v1",
        "https://",
        "https:///v1",
        "https://user:secret@host/v1",
        "https://host/v1?key=secret",
        "https://host/v1?",
        "https://host/v1#x",
        "https://host:port/v1",
        "https://host:99999/v1",
        "https://ho st/v1",
        "https://host/v1\r\nx: y",
        "https://höst/v1",
        "https://host/a/../v1",
        "https://host//v1",
        "https://host\\v1",
        "https://[::1/v1",
        "https://[::g]/v1",
        "https://[v1.a:b]/v1",
        "https://[fe80::1%25eth0]/v1",
        "https://a..b/v1",
        "https://" + "a" * 64 + "/v1",
        "file:///etc/passwd",
    ],
)
def test_refused(text: str) -> None:
    """What cannot be called, or would smuggle something into a head, is refused; secrets are not repeated."""
    with pytest.raises(ValueError, match="URL") as caught:
        parse_base_url(text)
    assert "secret" not in str(caught.value)
