"""What the gateway sees of a node right now, for the admin API. Nothing of it is stored, all of it may be missing.

Rule: plain values. `runtime.fleet` fills them in, `rest.nodes` shows them; neither knows the other.
"""

from collections.abc import Callable

import msgspec


class LinkReading(msgspec.Struct, frozen=True, kw_only=True):
    """One connection of the node."""

    since_ms: int | None = None
    rtt_ms: float | None = None
    streams: int | None = None
    """calls that run over it"""
    sent_bytes: int | None = None
    received_bytes: int | None = None


class ModelReading(msgspec.Struct, frozen=True, kw_only=True):
    """How one model there is. Speeds in tokens per second, as the gateway estimates them."""

    engine: str
    name: str
    resident: bool | None = None
    running: int | None = None
    waiting: int | None = None
    prefill_tps: float | None = None
    decode_tps: float | None = None
    load_s: float | None = None
    state: str | None = None
    """of its breaker"""


class NodeReading(msgspec.Struct, frozen=True, kw_only=True):
    """A node as it stands now. Counts are since the gateway's start, times unix milliseconds."""

    stands: str | None = None
    """why no call goes there: `paused by its owner: in use`; empty: calls go there; null: nothing was told"""
    connected: bool = False
    since_ms: int | None = None
    """it has been connected, or not, since then"""
    links: list[LinkReading] = []
    presence: str | None = None
    """of its owner, as the node says: `active`, `idle`, `unknown`"""
    slots: int | None = None
    running: int | None = None
    waiting: int | None = None
    """in the gateway's own queue for it"""
    models: list[ModelReading] = []
    no_work: dict[str, int] = {}
    """how often it came to stand so that no call goes there, by reason"""
    refusals: dict[str, int] = {}
    """by code"""
    reconnects: int | None = None
    last_probe_at_ms: int | None = None
    last_probe: str | None = None
    """how it ended, in words"""
    last_report: str | None = None
    """the last thing out of the ordinary: a clone, a violation, a line of its log"""


ReadNode = Callable[[str], NodeReading | None]
"""the reading of the node with that id; None: it was never seen since the start. Called on the loop, must not block"""
