"""What went wrong on the way to an upstream, in our words: never a host, an address or the peer's text."""

import errno
import socket
import ssl

from potluck.model.usage import ErrorClass

_BY_ERRNO = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.ECONNABORTED: "connection aborted",
    errno.EPIPE: "connection closed",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENETUNREACH: "network unreachable",
    errno.EHOSTDOWN: "host down",
    errno.EADDRNOTAVAIL: "no local address or port free for the connection",
    errno.EMFILE: "this process has too many open files",
    errno.ENFILE: "this machine has too many open files",
}

_BY_VERIFY_CODE = {
    10: "TLS certificate has expired",
    9: "TLS certificate is not valid yet",
    18: "TLS certificate is self-signed and not trusted",
    19: "TLS certificate chain ends in an untrusted root",
    20: "TLS certificate's issuer is not trusted",
    21: "TLS certificate's issuer is not trusted",
    62: "TLS certificate is not valid for this host",
    64: "TLS certificate is not valid for this address",
}


class ConnectError(Exception):
    """No connection came about. `detail` is safe to show to a caller."""

    def __init__(self, detail: str, *, error_class: ErrorClass = "target_down", timeout: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.error_class: ErrorClass = error_class
        self.timeout = timeout


def connect_failure(error: BaseException) -> ConnectError:
    """Translate what a connect attempt raised."""
    if isinstance(error, ConnectError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectError(_BY_VERIFY_CODE.get(error.verify_code, "TLS certificate is not trusted"))
    if isinstance(error, ssl.SSLError):
        return ConnectError("TLS handshake failed")
    if isinstance(error, socket.gaierror):
        temporary = error.errno in (socket.EAI_AGAIN, socket.EAI_MEMORY)
        return ConnectError("name lookup failed" if temporary else "host name does not resolve")
    if isinstance(error, TimeoutError):
        return ConnectError("connect timed out", error_class="target_slow", timeout=True)
    if isinstance(error, OSError):
        return ConnectError(_BY_ERRNO.get(error.errno or 0, "connection failed"))
    return ConnectError("connection failed")


def lost_detail(error: BaseException | None) -> str:
    """How an established connection ended, for a call that was running on it."""
    if error is None:
        return "connection closed"
    if isinstance(error, ssl.SSLError):
        return "TLS error on the connection"
    if isinstance(error, TimeoutError):
        return "connection timed out"
    return _BY_ERRNO.get(getattr(error, "errno", None) or 0, "connection lost")
