"""The streams of a resumed answer: a tap that keeps what it forwards, and one that joins the next stream to it."""

import msgspec

from potluck.model.price import Price
from potluck.model.usage import TokenUsage
from potluck.wire.dialects.resume import Continuation
from potluck.wire.dialects.stream import StreamTap


class Earlier(msgspec.Struct, frozen=True):
    """What the attempts before used, added up; `cost_nanousd` is None when one of them has no price."""

    usage: TokenUsage
    cost_nanousd: int | None


class ResumableTap(StreamTap):
    """A `StreamTap` of a request that may be resumed (one choice of chat or completions)."""

    @property
    def text(self) -> str:
        """What the caller has of the answer, over all attempts."""
        raise NotImplementedError

    @property
    def tokens(self) -> int:
        """Tokens of `text`, at least: the usage so far, or the chunks that brought it."""
        raise NotImplementedError

    @property
    def stuck(self) -> str:
        """Why no other target could go on from here, in words; empty if one could."""
        raise NotImplementedError

    def after(self, continuation: Continuation, earlier: Earlier, price: Price | None) -> "ResumableTap":
        """The tap for the stream that goes on from here."""
        raise NotImplementedError

    def ending(self) -> bytes:
        """A last chunk with the finish reason `length`, for an answer whose limit was reached when it was cut."""
        raise NotImplementedError
