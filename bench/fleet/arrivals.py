"""The requests of a scenario: drawn from its seed alone, so that every policy meets the same ones.

Prompts are runs of blocks of `BLOCK_TOKENS`; those of one family begin with the same blocks.
"""

import math
from collections.abc import Iterator
from random import Random

import msgspec

from bench.fleet.scenario import Scenario, Spread, Traffic
from bench.fleet.sight import Prompt

BLOCK_TOKENS = 256
LEAST_RATE = 0.2
"""diurnal: the night's rate, as a share of the mean"""


class Request(msgspec.Struct, frozen=True, eq=False):
    """One request, with what only machines and the oracle know."""

    at_s: float
    prompt: Prompt
    output_tokens: int
    """that the answer will have"""


def arrivals(scenario: Scenario) -> list[Request]:
    """All requests, in order of arrival."""
    random = Random(f"{scenario.name} {scenario.seed} arrivals")
    traffic = scenario.traffic
    models = sorted(scenario.models)
    shares = [scenario.models[name].share for name in models]
    median, sigma = traffic.output_tokens
    mean_output = round(median * math.exp(sigma * sigma / 2))
    found = []
    for number, at_s in enumerate(sorted(_times(traffic, random))):
        own_tokens = _draw(traffic.prompt_tokens, random)
        which = random.choices(range(len(models)), shares)[0]
        family = _family(traffic, random)
        shared_tokens = traffic.family_tokens if family else 0
        tokens = own_tokens + shared_tokens
        shared = shared_tokens // BLOCK_TOKENS
        blocks = tuple(
            # of numbers, since the hash of a text is another one in each process; and -1 has the hash of -2
            hash((which, family, n)) if n < shared else hash((which, -2 - number, n))
            for n in range(tokens // BLOCK_TOKENS)
        )
        prompt = Prompt(number, models[which], tokens, blocks, mean_output)
        found.append(Request(at_s, prompt, _draw(traffic.output_tokens, random)))
    return found


def _times(traffic: Traffic, random: Random) -> Iterator[float]:
    at_s = 0.0
    if traffic.shape == "bursty":
        while (at_s := at_s + random.expovariate(traffic.per_s / traffic.burst)) < traffic.duration_s:
            for _ in range(traffic.burst):
                yield at_s + random.random() * traffic.burst_s
        return
    highest = traffic.per_s * (2 - LEAST_RATE) if traffic.shape == "diurnal" else traffic.per_s
    while (at_s := at_s + random.expovariate(highest)) < traffic.duration_s:
        if random.random() * highest < _rate(traffic, at_s):
            yield at_s


def _rate(traffic: Traffic, at_s: float) -> float:
    """Requests per second at that moment; diurnal traffic begins in the night."""
    if traffic.shape != "diurnal":
        return traffic.per_s
    return traffic.per_s * (1 - (1 - LEAST_RATE) * math.cos(2 * math.pi * at_s / traffic.day_s))


def _draw(spread: Spread, random: Random) -> int:
    median, sigma = spread
    return max(1, round(random.lognormvariate(math.log(median), sigma)))


def _family(traffic: Traffic, random: Random) -> int:
    """1 and up; 0: none."""
    if not traffic.families or random.random() >= traffic.family_share:
        return 0
    if random.random() < traffic.hottest_share:
        return 1
    return 1 + random.randrange(traffic.families)
