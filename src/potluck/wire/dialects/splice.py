"""The streams of a resumed answer: a tap that keeps the text it forwards, and joins the next stream to it.

Rules:
1. Only text can go on elsewhere. A delta with anything else (tool call, refusal, audio, logprobs, what is unknown)
   makes the stream `stuck`. Reasoning before the text does not, and is not sent on; reasoning after text does.
2. Of the next stream nothing is forwarded until it says something of its own: no second role (the SDK for Python would
   make `assistantassistant` of it), no echo, no second reasoning. An end, its usage and tool calls are something.
3. An echo is the whole text that was sent, exactly, at the start. While the stream's text could still become one it is
   held; where it turns out to be none, nothing of it is lost.
4. White space at the seam: of what the next stream begins with, the most that the text so far already ends with is
   dropped.
"""

import msgspec
from msgspec import Raw

from potluck.model.price import Price, cost_nanousd
from potluck.model.resources import Capability
from potluck.model.usage import TokenUsage
from potluck.wire.dialects.answer import DECODE_ERRORS, NOTHING, UNSAID, add_cost, members_of, with_usage
from potluck.wire.dialects.resume import Continuation, joined_usage
from potluck.wire.dialects.stream import StreamTap

REASONING = ("reasoning_content", "reasoning", "reasoning_details", "reasoning_text")
"""members of a delta in which targets put it"""
CHARS_A_TOKEN = 8
"""for targets that put several tokens into a chunk; most text has 4 to 5, so that no answer is cut short by it"""

_NULL = Raw(b"null")
_LENGTH = {
    "chat": Raw(b'[{"index":0,"delta":{},"finish_reason":"length"}]'),
    "completions": Raw(b'[{"index":0,"text":"","finish_reason":"length"}]'),
}


class _Said(msgspec.Struct, gc=False):
    index: int = 0
    delta: dict[str, Raw] | None = None
    text: str | None = None
    logprobs: Raw = _NULL


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Said] | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_choices = msgspec.json.Decoder(list[dict[str, Raw]]).decode
_decode_text = msgspec.json.Decoder(str | None).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.encode


class Earlier(msgspec.Struct, frozen=True):
    """What the attempts before used, added up; `cost_nanousd` is None when one of them has no price."""

    usage: TokenUsage
    cost_nanousd: int | None


class Seam:
    """The start of the next stream's text, without what the caller already has. `open` until there is something new."""

    __slots__ = ("_at", "_echo", "_spaces", "_tail", "open")

    def __init__(self, echo: str, tail: str) -> None:
        self._echo = echo
        self._tail = tail
        self._at = 0
        """so much of the echo has come"""
        self._spaces = ""
        """white space that is held until it is clear how much of it comes"""
        self.open = True

    def feed(self, text: str) -> str:
        """What is new in `text`, and in what was held."""
        if not text:
            return ""
        if self._echo:
            wanted = self._echo[self._at : self._at + len(text)]
            if not text.startswith(wanted):
                text = self._echo[: self._at] + text
                self._echo = ""
            elif self._at + len(wanted) < len(self._echo):
                self._at += len(wanted)
                return ""
            else:
                text = text[len(wanted) :]
                self._echo = ""
        if self._tail:
            text, self._spaces = self._spaces + text, ""
            if len(text) < len(self._tail) and not text.strip():
                self._spaces = text
                return ""
            text = self._without_tail(text)
        if text:
            self.open = False
        return text

    def close(self) -> str:
        """What was held, when no more text comes."""
        self.open = False
        text = self._spaces if not self._echo else self._echo[: self._at]
        self._echo = ""
        return self._without_tail(text)

    def _without_tail(self, text: str) -> str:
        tail, self._tail = self._tail, ""
        spaces = len(text) - len(text.lstrip())
        for size in range(min(spaces, len(tail)), 0, -1):
            if tail.endswith(text[:size]):
                return text[size:]
        return text


class ResumableTap(StreamTap):
    """A `StreamTap` of a request that may be resumed: one choice of chat or completions."""

    __slots__ = ("_capability", "_earlier", "_earlier_tokens", "_last", "_pieces", "_said", "_seam", "_stuck")

    def __init__(self, capability: Capability, wants_usage: bool, price: Price | None = None) -> None:
        super().__init__(capability, wants_usage, 1, price)
        self._capability = capability
        self._pieces: list[str] = []
        """of all attempts"""
        self._said = 0
        """pieces that this attempt brought"""
        self._last = b"{}"
        """the last chunk with text"""
        self._stuck = ""
        self._seam: Seam | None = None
        self._earlier: Earlier | None = None
        self._earlier_tokens = 0

    def after(self, continuation: Continuation, earlier: Earlier, price: Price | None) -> "ResumableTap":
        """The tap for the stream that goes on from here. `price`: of the target that it comes from."""
        tap = ResumableTap(self._capability, self._wants_usage, price)
        tap._pieces = [self.text]
        tap._last = self._last
        tap._seam = Seam(continuation.echo, continuation.tail)
        tap._earlier, tap._earlier_tokens = earlier, self.tokens
        return tap

    @property
    def text(self) -> str:
        """What the caller has of the answer, over all attempts."""
        return "".join(self._pieces)

    @property
    def tokens(self) -> int:
        """Tokens of `text` without white space at its end, at least.

        Those of the usage so far, else one for each chunk, or for eight characters. The white space is written again.
        """
        own = self._pieces[len(self._pieces) - self._said :]
        spaces = 0
        while spaces < len(own) and own[-1 - spaces].isspace():
            spaces += 1
        if self.usage is not None:
            return self._earlier_tokens + max(self.usage.output_tokens - spaces, 0)
        chars = sum([len(piece) for piece in own])
        return self._earlier_tokens + max(self._said - spaces, chars // CHARS_A_TOKEN)

    @property
    def own_tokens(self) -> int:
        """Of them, those that this attempt brought."""
        return self.tokens - self._earlier_tokens

    @property
    def stuck(self) -> str:
        """Why no other target could go on from here, in words; empty if one could."""
        if self.finished:
            return "the answer had ended"
        return self._stuck or ("" if self._pieces else "no text had come")

    @property
    def empty(self) -> bool:
        """A continuation may say no more than that the answer had ended."""
        return super().empty and (self._earlier is None or not self.finish_reason)

    def ending(self, usage: TokenUsage, cost: int | None) -> list[bytes]:
        """The last chunks of an answer whose limit was reached when it was cut: finish reason `length`, then `usage`.

        `cost`: nano-USD of all attempts, None when unknown. The usage chunk is left out for who did not ask for it.
        """
        members = members_of(self._last)
        members.pop("usage", None)
        chunks = [_encode({**members, "choices": _LENGTH[self._capability]})]
        if self._wants_usage:
            chunk = with_usage(_encode({**members, "choices": [], "usage": {}}), usage)
            chunks.append(chunk if cost is None else add_cost(chunk, cost))
        return chunks

    def passes(self, events: list[tuple[bytes, bytes]]) -> bool:
        """As `StreamTap.passes`; the text is kept."""
        if self._seam is not None or not super().passes(events):
            return False
        for _, payload in events:
            self._keep(payload)
        return True

    def read(self, payload: bytes, name: bytes = b"") -> bytes | None:
        """As `StreamTap.read`; the text of what is forwarded is kept."""
        forward = super().read(payload, name)
        if forward is not None and self._seam is not None:
            forward = self._join(forward, self._seam)
        if forward is not None:
            self._keep(forward)
        return forward

    def _keep(self, payload: bytes) -> None:
        try:
            choices = _decode_chunk(payload).choices
            for choice in choices or ():
                piece = choice.text or ""
                for name, raw in (choice.delta or {}).items():
                    if name == "content":
                        piece = _decode_text(raw) or ""
                    elif name not in UNSAID and bytes(raw) not in NOTHING:
                        self._hear(name)
                if choice.index or bytes(choice.logprobs) not in NOTHING:
                    self._stuck = "it has logprobs or several choices"
                if piece:
                    self._pieces.append(piece)
                    self._said += 1
                    self._last = payload
        except DECODE_ERRORS:
            self._stuck = "a chunk is of another form"

    def _hear(self, name: str) -> None:
        """Something that is not text."""
        if name in ("tool_calls", "function_call"):
            self._stuck = "a tool call was under way"
        elif name not in REASONING:
            self._stuck = "it has more than text"
        elif self._pieces:
            self._stuck = "reasoning came after text"

    def _join(self, payload: bytes, seam: Seam) -> bytes | None:
        """What is new in a chunk at the start of the next stream; None when there is nothing."""
        members = members_of(payload)
        try:
            choices = _decode_choices(members.get("choices", b"[]"))
            if not choices:
                return payload
            choice, place = choices[0], "text"
            said = choice
            if self._capability == "chat":
                said, place = _decode_members(choice.get("delta", b"{}")), "content"
                for name in ("role", *REASONING):
                    said.pop(name, None)
            text = _decode_text(said.get(place, b"null")) or ""
        except DECODE_ERRORS:
            self._seam = None
            return payload
        ends = bytes(choice.get("finish_reason", b"null")) not in NOTHING or any(
            name not in (*UNSAID, place) and bytes(raw) not in NOTHING
            for name, raw in (said.items() if said is not choice else ())
        )
        new = seam.feed(text)
        if ends:
            new += seam.close()
        elif not new:
            return None
        self._seam = None
        if new or text:
            said[place] = Raw(_encode(new))
        if said is not choice:
            choice["delta"] = Raw(_encode(said))
        members["choices"] = Raw(_encode(choices))
        return _encode(members)

    def missing_usage(self, usage: TokenUsage) -> bytes | None:
        """As `StreamTap.missing_usage`, of the whole answer."""
        earlier = self._earlier
        if earlier is None:
            return super().missing_usage(usage)
        if not self._wants_usage or self._shown or not self._ending:
            return None
        cost = None
        if self._price is not None and earlier.cost_nanousd is not None:
            cost = earlier.cost_nanousd + cost_nanousd(usage, self._price)
        return self._usage_chunk(joined_usage(earlier.usage, usage), cost)

    def _take_usage(self, usage: TokenUsage | None, payload: bytes, has_choices: bool) -> bytes | None:
        if self._earlier is None or usage is None or not self._wants_usage:
            return super()._take_usage(usage, payload, has_choices)
        self.usage = usage
        payload = _with_whole_usage(payload, joined_usage(self._earlier.usage, usage))
        if self._price is None or self._earlier.cost_nanousd is None:
            return payload
        return add_cost(payload, self._earlier.cost_nanousd + cost_nanousd(usage, self._price))


def _with_whole_usage(payload: bytes, whole: TokenUsage) -> bytes:
    members = members_of(with_usage(payload, whole))
    counts = members_of(members["usage"])
    for name, parts in (
        ("prompt_tokens_details", {"cached_tokens": whole.cached_input_tokens}),
        ("completion_tokens_details", {"reasoning_tokens": whole.reasoning_tokens}),
    ):
        if name in counts:
            counts[name] = Raw(_encode(parts))
    members["usage"] = Raw(_encode(counts))
    return _encode(members)
