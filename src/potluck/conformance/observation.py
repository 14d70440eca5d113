"""What one case showed: the caller's answer with the time of every piece, and the calls that the two providers saw.

Pure and tolerant: an answer is read by the rules of HTTP and SSE, not by the form that Potluck gives its own, so that
any gateway can be measured. What is wrong with it is the business of `judging`.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

Ended = Literal["whole", "cut", "late", "malformed", "hung up"]
"""`whole`: by its framing; `cut`: the connection ended before; `late`: still not over at the case's deadline;
`malformed`: not HTTP as the standard has it; `hung up`: by the caller himself, as the case wanted"""
Json = dict[str, Any]

_LINE = re.compile(rb"\r\n|\n|\r")


class Piece(msgspec.Struct, frozen=True):
    """Bytes of a body and when they came, in seconds after the request was sent."""

    at_s: float
    data: bytes


class Event(msgspec.Struct, frozen=True):
    """One event of a stream: its joined data lines, and when its last byte came."""

    at_s: float
    data: bytes

    @property
    def json(self) -> Json:
        """The data decoded; empty when it is no JSON object."""
        try:
            value = json.loads(self.data)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller got. `status` is 0 when no head came."""

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    pieces: tuple[Piece, ...] = ()
    ended: Ended = "whole"
    took_s: float = 0.0

    def header(self, name: str) -> str:
        """The first header of this (lower-case) name; empty without it."""
        return next((value for key, value in self.headers if key == name), "")

    @property
    def body(self) -> bytes:
        return b"".join(piece.data for piece in self.pieces)

    @property
    def is_stream(self) -> bool:
        return self.header("content-type").startswith("text/event-stream")

    @property
    def json(self) -> Json:
        """The whole body decoded; empty when it is no JSON object."""
        return Event(self.took_s, self.body).json

    @property
    def events(self) -> list[Event]:
        """Data events by the rules of SSE, comments and other fields left out."""
        return [Event(at_s, data) for at_s, data, comment in _blocks(self.pieces) if not comment]

    @property
    def comments_s(self) -> list[float]:
        """When each comment came."""
        return [at_s for at_s, _, comment in _blocks(self.pieces) if comment]

    @property
    def messages(self) -> list[Json]:
        """What carries content: the events of a stream, or the body alone."""
        return [event.json for event in self.events] if self.is_stream else [self.json]

    @property
    def dones(self) -> int:
        """How often `[DONE]` was said."""
        return sum(event.data == b"[DONE]" for event in self.events)

    @property
    def after_done(self) -> int:
        """Events behind the first `[DONE]`, another `[DONE]` included."""
        data = [event.data for event in self.events]
        return len(data) - 1 - data.index(b"[DONE]") if b"[DONE]" in data else 0

    @property
    def text(self) -> str:
        """Everything that the first choice said."""
        return "".join(map(_said, self.messages))

    @property
    def finish(self) -> str:
        """The last finish reason; empty without one."""
        reasons = [str(_choice(message).get("finish_reason") or "") for message in self.messages]
        return next(filter(None, reversed(reasons)), "")

    @property
    def words_s(self) -> list[float]:
        """When each event with text came."""
        return [event.at_s for event in self.events if _said(event.json)]

    @property
    def usages(self) -> list[Json]:
        """Every count of tokens shown, in order."""
        return [usage for message in self.messages if isinstance(usage := message.get("usage"), dict) and usage]

    @property
    def error(self) -> Json | None:
        """The error object of the body, or of the last event."""
        last = self.messages[-1:] if self.is_stream else [self.json]
        found = last[0].get("error") if last else None
        return found if isinstance(found, dict) else {"message": str(found)} if found else None


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One case as both sides saw it."""

    answer: Answer
    stream: bool = False
    """a stream was asked for"""
    calls: tuple[str, ...] = ()
    """which provider was called, in order: `first`, `second`"""
    altered: bool = False
    """a provider got other messages than the caller sent"""
    let_go_s: float | None = None
    """from the caller's hang-up to the end of the upstream's connection; None: it was not let go, or nobody hung up"""

    @property
    def answered_by(self) -> str:
        """The provider called last; `no provider` when none was."""
        return self.calls[-1] if self.calls else "no provider"

    @property
    def evidence(self) -> str:
        """The facts in one line, the same for a case that passed and one that failed."""
        answer = self.answer
        facts = [f"{answer.status or 'no status'} in {answer.took_s * 1000:.0f} ms"]
        if answer.ended != "whole":
            facts.append({"late": "not over by then", "malformed": "malformed HTTP"}.get(answer.ended, answer.ended))
        if answer.error is not None:
            facts.append(f"error {answer.error.get('code') or answer.error.get('type') or 'without a code'}")
        elif answer.text:
            facts.append(f"last call to {self.answered_by}")
        facts.append(f"{len(self.calls)} upstream call{'' if len(self.calls) == 1 else 's'}")
        if answer.is_stream:
            facts.append(f"{answer.dones} [DONE]")
        if self.let_go_s is not None:
            facts.append(f"upstream let go after {self.let_go_s * 1000:.0f} ms")
        if wait := answer.header("retry-after"):
            facts.append(f"retry-after {wait}")
        return ", ".join(facts)


def _choice(message: Json) -> Json:
    choices = message.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}


def _said(message: Json) -> str:
    choice = _choice(message)
    said = choice.get("delta") or choice.get("message")
    content = said.get("content") if isinstance(said, dict) else None
    return content if isinstance(content, str) else ""


def _blocks(pieces: tuple[Piece, ...]) -> Iterator[tuple[float, bytes, bool]]:
    """(time of its last byte, data, whether it is a comment) of each event and each comment line of a stream.

    A last event without its blank line is not dispatched, as the standard has it.
    """
    data: list[bytes] = []
    for at_s, line in _lines(pieces):
        if line.startswith(b":"):
            yield at_s, line, True
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            yield at_s, b"\n".join(data), False
            data = []


def _lines(pieces: tuple[Piece, ...]) -> Iterator[tuple[float, bytes]]:
    """Whole lines and when each came; a CR at the end of a piece waits for what follows it."""
    held = b""
    for piece in pieces:
        held += piece.data
        end = len(held) - held.endswith(b"\r")
        *whole, rest = _LINE.split(held[:end])
        held = rest + held[end:]
        yield from ((piece.at_s, line) for line in whole)
    if held.endswith(b"\r"):
        yield pieces[-1].at_s, held[:-1]
