"""The streaming copy: upstream body bytes in, the caller's normalised events out. Knows the form, not the sockets.

The form, whatever the upstream's was (`interfaces.md` §4): one `data: ` line per event, LF, identity, nothing after
`[DONE]`. A `[DONE]` is never passed on by itself: the exchange writes the one that ends a complete answer.
"""

from potluck.model.resources import Capability
from potluck.wire.dialects.answer import MalformedAnswer
from potluck.wire.dialects.stream import StreamTap
from potluck.wire.sse import SseError, SseReader, encode_event

DONE = b"[DONE]"


class Relay:
    """One stream of one attempt. `feed` returns what to forward; the flags say where the stream stands."""

    __slots__ = ("_named", "_passes", "_read", "_reader", "done", "fault", "held", "ordinary", "tap")

    def __init__(self, tap: StreamTap, capability: Capability, max_event_bytes: int) -> None:
        self._reader = SseReader(max_event_bytes)
        self.tap = tap
        self._read = tap.read
        self._passes = tap.passes
        self._named = capability == "responses"
        self.ordinary = False
        """the last read was content and nothing else, in the very form"""
        self.done = False
        """the upstream said that it has said everything"""
        self.fault = ""
        """why the stream cannot be read on; what came before it was returned"""
        self.held = b""
        """what waits for the first content"""

    def feed(self, data: bytes) -> bytes:
        """Forwardable bytes of one upstream read. After a `fault` nothing more may be fed."""
        reader = self._reader
        try:
            events = reader.feed(data)
        except SseError as error:
            self.ordinary, self.fault = False, str(error)
            return b""
        self.ordinary = reader.verbatim is not None and not self.done and self._passes(events)
        if self.ordinary:
            return reader.verbatim or b""  # the common case: the upstream writes the form itself
        return self._forward(events)

    def close(self) -> bytes:
        """The upstream's body ended: what an unterminated last event amounts to."""
        try:
            return self._forward(self._reader.close())
        except SseError as error:
            self.fault = str(error)
            return b""

    def _forward(self, events: list[tuple[bytes, bytes]]) -> bytes:
        out = []
        for name, payload in events:
            if self.done:
                break
            if payload == DONE:
                self.done = True
                break
            try:
                forward = self._read(payload, name)
            except MalformedAnswer as error:
                self.fault = str(error)
                break
            if forward is not None:
                out.append(encode_event(forward, name if self._named else b""))
            if self.tap.error is not None:
                break
            if self._named and self.tap.finished:
                self.done = True
        return b"".join(out)
