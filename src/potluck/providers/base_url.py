"""What a provider's base URL may be, and its parts."""

import ipaddress
from urllib.parse import urlsplit

import msgspec


class BaseUrl(msgspec.Struct, frozen=True):
    """`https://api.openai.com/v1` in parts. `path` has no trailing slash; `host` is lower-case, IPv6 unbracketed."""

    tls: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """As the `Host` field says it: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}"


def parse_base_url(text: str) -> BaseUrl:
    """Raises `ValueError`, saying what is wrong and how to mend it, without repeating credentials in the URL."""
    if not text.isascii() or not text.isprintable() or any(mark in text for mark in ' \\"<>^`{|}'):
        raise ValueError("a base URL must be printable ASCII without spaces, like https://api.example.com/v1")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("the base URL cannot be read: write it like https://api.example.com/v1") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("a base URL must begin with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("a base URL must not contain a user or password: add the key as a credential")
    if "?" in text or "#" in text:
        raise ValueError("a base URL must not have a query or fragment")
    host = (parts.hostname or "").rstrip(".")
    if not _is_host(host):
        raise ValueError("the base URL names no valid host: write it like https://api.example.com/v1")
    tls = parts.scheme == "https"
    path = parts.path.rstrip("/")
    if any(segment in (".", "..") for segment in path.split("/")) or "//" in path:
        raise ValueError("the path of a base URL must not have empty or dotted segments")
    return BaseUrl(tls, host, port if port is not None else (443 if tls else 80), path)


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            return False
        return "%" not in host
    labels = host.split(".")
    return len(host) <= 253 and all(
        0 < len(label) <= 63 and all(char.isalnum() or char in "-_" for char in label) for label in labels
    )
