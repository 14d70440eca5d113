"""The outgoing half of the data plane: HTTP/1.1 to targets over pooled connections.

In here: the pool and its per-endpoint rooms (`pool`), one call's life (`call`), one connection's state machine
(`connection`), making a connection (`connect`: names, happy eyeballs, proxy tunnel, TLS), and the small parts of that:
`dns`, `proxy_settings`, `tls`, `failures`.

Never: what is asked and of whom (no routing, no retries between targets, no dialects, no decompression); a task, timer
or clock read on a warm connection (deadlines are armed and checked by `Pool.sweep`); a host, address, path, header or
upstream text in a failure's words; two callers' bytes on one connection at a time.

Start with `connection.py`, whose head states the rules, then `pool.py`.
"""

from potluck.upstream.dns import Resolver
from potluck.upstream.pool import EndpointStats, Pool, PoolStats
from potluck.upstream.proxy_settings import ProxySettings

__all__ = ["EndpointStats", "Pool", "PoolStats", "ProxySettings", "Resolver"]
