"""What a request would cost on a machine: one number in milliseconds, and the terms that it is the sum of.

ttft   = rtt + load + queue + prompt          total = ttft + output
prompt = uncached tokens / prefill speed      output = expected tokens / decode speed at that many streams
queue  = the longer of the wait for a slot and the tokens ahead / prefill speed
"""

import msgspec

OVERDUE_SHARE = 0.25
"""what should be over by now takes this share of its time so far longer"""


class Ask(msgspec.Struct, frozen=True):
    """What a request asks of a machine. Made once per request."""

    prompt_tokens: int
    output_tokens: float
    """expected"""
    blocks: tuple[int, ...] = ()
    """`prefix_blocks.blocks_of` its prompt"""


class Expected(msgspec.Struct, frozen=True):
    """What an `Ask` would cost on a machine now: milliseconds, term by term."""

    rtt_ms: float
    load_ms: float
    queue_ms: float
    prompt_ms: float
    output_ms: float
    ttft_ms: float
    total_ms: float
    hit: float
    """share of the prompt that is cached there, 0 to 1"""
    loads: bool
    """it would make the machine load the model; false while it loads already"""
    free: bool
    """a slot is"""
    aside: bool
    """it counts as full: what is known of its load is too old, it answers nothing, or it has just refused"""
    guessed: bool
    """a speed in it is the class's, not the machine's"""

    @property
    def parts(self) -> dict[str, float]:
        """The terms that are not nothing, by name; they add up to `total_ms`."""
        terms = {
            "rtt": self.rtt_ms,
            "load": self.load_ms,
            "queue": self.queue_ms,
            "prompt": self.prompt_ms,
            "output": self.output_ms,
        }
        return {name: ms for name, ms in terms.items() if ms}

    @property
    def text(self) -> str:
        """`1238 ms: 2 rtt + 36 prompt (80 % cached) + 1200 output`."""
        words = {"prompt": f" ({100 * self.hit:.0f} % cached)" if self.hit else ""}
        terms = " + ".join(f"{ms:.0f} {name}{words.get(name, '')}" for name, ms in self.parts.items())
        return f"{self.total_ms:.0f} ms: {terms or 'nothing'}{', guessed from its class' if self.guessed else ''}"


def remaining_ms(since: float, until: float, now: float) -> float:
    """Of something begun at `since` and due at `until`; what is overdue takes a share of its time so far longer."""
    return 1000 * max(until - now, OVERDUE_SHARE * (now - since) if now > until else 0.0)
