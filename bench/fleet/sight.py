"""What a gateway is told, and what every policy has to answer.

A policy sees prompts, reports that are as old as heartbeats are, refusals, failures and answers; never a machine.
"""

from typing import Protocol

import msgspec


class Prompt(msgspec.Struct, frozen=True, eq=False):
    """What a gateway knows of a request when it chooses."""

    number: int
    """in order of arrival, from 0"""
    model: str
    tokens: int
    blocks: tuple[int, ...]
    """the whole blocks, named: equal names mean equal beginnings"""
    expected_output_tokens: int
    """the traffic's mean, known from the past"""


class Report(msgspec.Struct, frozen=True):
    """What a machine says of one of its models, with its heartbeat or when the model comes or goes."""

    box: str
    model: str
    resident: bool
    loading_eta_s: float | None
    """None: it is not being loaded"""
    running: int
    """calls of this model, as all others here"""
    waiting: int
    prefill_tps: float | None
    """as claimed; None: it does not say"""
    decode_tps: float | None
    load_s: float | None
    slots: int
    """of the machine, for all its models"""
    context_tokens: int
    """of a slot"""
    rtt_ms: float


class Call(Protocol):
    """One call at one machine, from the moment it is sent. Each is told once how it ended."""

    def first_token(self, now: float) -> None: ...

    def end(self, output_tokens: int, now: float) -> None:
        """The answer is whole."""

    def refused(self, now: float) -> None:
        """By the machine: busy, or its owner is there. It did nothing wrong."""

    def failed(self, now: float, slow: bool) -> None:
        """The engine failed; or (`slow`) no first token came in time and the call was given up."""


class Scheduler(Protocol):
    """A policy. Times are seconds since the world began."""

    def joined(self, box: str, models: tuple[str, ...], now: float) -> None:
        """A machine is there: it connected for the first time, or again after a lost link."""

    def away(self, box: str, reason: str, now: float) -> None:
        """It takes no work, and says why; empty: it takes some again."""

    def report(self, report: Report, now: float) -> None: ...

    def pick(self, prompt: Prompt, tried: list[str], now: float) -> str | None:
        """The machine to call next, after those in `tried`; None: the request is given up."""

    def begin(self, box: str, prompt: Prompt, now: float) -> Call:
        """The call is sent."""
