"""What a good answer teaches of its target and its project, for the requests to come.

Rule: nothing here decides anything about the request that is over.
"""

import time
from typing import TYPE_CHECKING

from potluck.model.usage import TokenUsage
from potluck.policy.latency import size_class

if TYPE_CHECKING:
    from potluck.proxy.attempt import Attempt
    from potluck.proxy.exchange import Exchange

SAMPLED_MS = 8
"""one moment in so many is measured where speed decides nothing"""
clock = time.monotonic
clock_ns = time.monotonic_ns


def learn(exchange: "Exchange", attempt: "Attempt", usage: TokenUsage) -> None:
    """The attempt ended well, and used so much."""
    candidates, option = exchange.candidates, attempt.option
    lane = option.lane
    lane.breaker.good += 1
    candidates.mix.observe(usage)
    if lane.troubled:
        exchange.plane.registry.succeeded(lane, clock(), attempt.start_us / 1e6, probe=option.probe)
    # where no choice is made by speed, one in some is measured, for those who look
    if candidates.measures or not exchange.at_ms % SAMPLED_MS:
        _measure(exchange, attempt, usage)
    if candidates.affinity is not None:
        exchange.plane.router.answered(candidates, option, exchange.envelope, exchange.key, clock())


def _measure(exchange: "Exchange", attempt: "Attempt", usage: TokenUsage) -> None:
    """How fast the target was."""
    latency, body_bytes = attempt.option.standing.latency, len(exchange.body)
    now_us = clock_ns() // 1000
    if exchange.envelope.stream:
        first_us, tokens = attempt.first_content_us, usage.output_tokens
        per_token_ms = (now_us - first_us) / (tokens - 1) / 1000 if tokens > 1 and not attempt.slowed else 0.0
        first_ms = (first_us - attempt.start_us) / 1000
        latency.observe_stream(size_class(body_bytes), first_ms, per_token_ms, now_us / 1e6)
    else:
        latency.observe_plain(size_class(body_bytes), (now_us - attempt.start_us) / 1000, now_us / 1e6)
