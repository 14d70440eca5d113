"""The strategies: which of several places to try next. (Being written; the signatures stand.)"""

from collections.abc import Callable, Sequence

import msgspec

from potluck.model.resources import Strategy
from potluck.policy.standing import Option

Random = Callable[[], float]
"""uniform in [0, 1)"""
Pick = Callable[[Sequence[Option], "Wish", Random], int]


class Wish:
    """What of a request a choice may depend on. One object serves many requests in turn; nothing keeps it."""

    __slots__ = ("now", "output_tokens", "size_class", "stream", "subject")

    def __init__(
        self,
        stream: bool = False,
        size_class: int = 0,
        output_tokens: float = 250,
        subject: str = "",
        now: float = 0.0,
    ) -> None:
        self.stream = stream
        self.size_class = size_class
        """`policy.latency.size_class` of its body"""
        self.output_tokens = output_tokens
        """expected"""
        self.subject = subject
        """`weighted` always puts the same one in the same place; empty: it draws"""
        self.now = now
        """monotonic seconds; peaks fade by it. 0: as they were measured"""


class Score(msgspec.Struct, frozen=True):
    """The number that ranked an option, for people."""

    value: float
    unit: str
    text: str


PICK: dict[Strategy, Pick] = {}


def order(strategy: Strategy, options: Sequence[Option], wish: Wish, random: Random) -> list[int]:
    """All indices in the order in which they would be tried if each failed in turn."""
    raise NotImplementedError


def score(strategy: Strategy, options: Sequence[Option], index: int, wish: Wish) -> Score:
    """The number that ranks `options[index]` among `options`."""
    raise NotImplementedError


def stays(strategy: Strategy, options: Sequence[Option], sticky: int, wish: Wish, tolerance: float) -> tuple[bool, str]:
    """Whether a request stays with `options[sticky]`, whose prompt cache is warm, and what that costs, in words."""
    raise NotImplementedError
