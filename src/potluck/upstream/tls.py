"""TLS towards upstreams: the system's trust store, verification always on, HTTP/1.1 only."""

import ssl


def default_context() -> ssl.SSLContext:
    """A verifying client context (TLS 1.2 or newer). `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the system's roots.

    Reading the roots takes some 20 ms: call it off the loop. Raises `OSError` when a named file cannot be read.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
