"""Limits and times of the data plane, with their defaults."""

import msgspec

KIB = 1024
MIB = 1024 * 1024


class PlaneLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that queues is bounded, everything that waits has a deadline."""

    max_body_bytes: int = 32 * MIB
    """one request body; beyond it 413"""
    buffered_bodies_bytes: int = 512 * MIB
    """all request bodies at once, process-wide; beyond it 503 `overloaded`"""
    max_answer_bytes: int = 64 * MIB
    """one whole (not streamed) answer"""
    max_inflated_bytes: int = 8 * MIB
    """of one read of a compressed answer; we ask for identity, so this is rare"""
    max_event_bytes: int = 8 * MIB
    """one event of a stream"""
    max_error_bytes: int = 64 * KIB
    """of an upstream's error body; the rest is not read"""
    held_bytes: int = 256 * KIB
    """of a stream before its first content; beyond it the stream is committed"""
    pipelined_bytes: int = 64 * KIB
    """read ahead while an exchange is in flight; beyond it reading stops"""
    head_s: float = 15.0
    """first byte of a head to its last (nginx 60, Node 60, Apache 20-40)"""
    keep_alive_s: float = 75.0
    """idle between requests (nginx 75)"""
    body_idle_s: float = 30.0
    """between two reads of a body"""
    body_total_s: float = 600.0
    """a whole body: 32 MiB at 55 KB/s"""
    linger_s: float = 2.0
    """a refused body is drained at most this long before the close"""
    caller_stall_s: float = 60.0
    """a caller that takes nothing off a full stream for this long is gone"""
    keepalive_comment_s: float = 15.0
    """silence after which a stream gets an SSE comment"""
    drain_hangup_s: float = 30.0
    """`on_hangup = "drain"`: how long an upstream is read on after the caller left"""
