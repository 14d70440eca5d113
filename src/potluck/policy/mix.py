"""What one project's requests are like, and what one of them is expected to cost somewhere.

List prices do not tell what is cheapest: that depends on how much a project reads and writes, and on how much of what
it reads is cached.
"""

from math import inf

from potluck.model.price import Price, cost_nanousd
from potluck.model.usage import TokenUsage

HALF_LIFE_S = 24 * 3600.0
MIN_REQUESTS = 20
MIN_TOKENS = 20_000
DEFAULT_REQUEST = TokenUsage(1_000, 250)
"""until a project has sent `MIN_REQUESTS` and `MIN_TOKENS`: four tokens read for one written, none cached"""


class TokenMix:
    """Sums of a project's token counts, in which what is `HALF_LIFE_S` old counts half. One event loop's."""

    __slots__ = ("cached_input_tokens", "input_tokens", "output_tokens", "requests", "ticked_s")

    def __init__(self, now: float) -> None:
        """`now`: monotonic seconds."""
        self.requests = 0.0
        self.input_tokens = 0.0
        self.cached_input_tokens = 0.0
        self.output_tokens = 0.0
        self.ticked_s = now

    def observe(self, usage: TokenUsage) -> None:
        """Count one answered request."""
        self.requests += 1
        self.input_tokens += usage.input_tokens
        self.cached_input_tokens += usage.cached_input_tokens
        self.output_tokens += usage.output_tokens

    def tick(self, now: float) -> None:
        """Let the sums age up to `now` (monotonic seconds). Called every minute or so; how often changes nothing."""
        left = 0.5 ** (max(0.0, now - self.ticked_s) / HALF_LIFE_S)
        self.requests *= left
        self.input_tokens *= left
        self.cached_input_tokens *= left
        self.output_tokens *= left
        self.ticked_s = now

    def mean_request(self) -> TokenUsage:
        """The project's mean request in whole tokens; `DEFAULT_REQUEST` while too little is known."""
        requests = self.requests
        if requests < MIN_REQUESTS or self.input_tokens + self.output_tokens < MIN_TOKENS:
            return DEFAULT_REQUEST
        return TokenUsage(
            round(self.input_tokens / requests),
            round(self.output_tokens / requests),
            round(self.cached_input_tokens / requests),
        )

    def expected_cost_nanousd(self, price: Price | None) -> float:
        """What the mean request costs at `price`, its tiers and its charge per request included; None: `inf`."""
        return inf if price is None else float(cost_nanousd(self.mean_request(), price))
