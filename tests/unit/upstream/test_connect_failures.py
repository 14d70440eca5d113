"""The words for what goes wrong on the way to an upstream."""

import errno
import os
import socket
import ssl

import pytest

from potluck.upstream.failures import ConnectError, connect_failure, lost_detail

ERRORS = [
    (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('10.1.2.3', 80)"), "connection refused"),
    (ConnectionResetError(errno.ECONNRESET, "x"), "connection reset"),
    (OSError(errno.EHOSTUNREACH, "x"), "host unreachable"),
    (OSError(errno.ENETUNREACH, "x"), "network unreachable"),
    (OSError(errno.EMFILE, "x"), "this process has too many open files"),
    (OSError("no number at all: 10.1.2.3"), "connection failed"),
    (socket.gaierror(socket.EAI_NONAME, "secret.test"), "host name does not resolve"),
    (socket.gaierror(socket.EAI_AGAIN, "secret.test"), "name lookup failed"),
    (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] secret"), "TLS handshake failed"),
    (ValueError("secret"), "connection failed"),
]


@pytest.mark.parametrize(("error", "detail"), ERRORS, ids=[detail for _, detail in ERRORS])
def test_every_error_is_down_in_our_words(error: Exception, detail: str) -> None:
    """The class is target_down and the words are exactly ours."""
    failure = connect_failure(error)
    assert (failure.error_class, failure.timeout, failure.detail) == ("target_down", False, detail)


def test_the_kernels_timeout_is_slow() -> None:
    """ETIMEDOUT of a connect attempt is a timeout like ours."""
    failure = connect_failure(TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))
    assert (failure.error_class, failure.timeout) == ("target_slow", True)


def test_what_is_translated_already_stays() -> None:
    """A ConnectError passes through."""
    error = ConnectError("outgoing proxy: connection refused")
    assert connect_failure(error) is error


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (None, "connection closed"),
        (ConnectionResetError(errno.ECONNRESET, "10.0.0.1"), "connection reset"),
        (BrokenPipeError(errno.EPIPE, "x"), "connection closed"),
        (TimeoutError(errno.ETIMEDOUT, "x"), "connection timed out"),
        (ssl.SSLError(1, "secret"), "TLS error on the connection"),
        (OSError(errno.EIO, "10.0.0.1"), "connection lost"),
        (RuntimeError("secret"), "connection lost"),
    ],
)
def test_how_a_connection_ended(error: Exception | None, detail: str) -> None:
    """Errors of an established connection have their own words."""
    assert lost_detail(error) == detail
