"""A scenario from beginning to end: the oracle, ours and each naive policy over the same arrivals, and the verdicts."""

from collections.abc import Callable
from random import Random

import msgspec

from bench.fleet.arrivals import arrivals
from bench.fleet.naive import NAIVE, Naive
from bench.fleet.oracle import Oracle
from bench.fleet.results import Figures, figures, misses
from bench.fleet.scenario import Scenario
from bench.fleet.scheduler import Potluck
from bench.fleet.world import World

OURS = "potluck"
ORACLE = "oracle"
DEADLINE_S = 600.0
"""of a request"""

Progress = Callable[[str, float], None]
"""is told a policy's name and the share of its requests that have ended"""


class Verdict(msgspec.Struct, frozen=True):
    """One policy in one scenario."""

    figures: Figures
    misses: tuple[str, ...]
    """of what the scenario wants"""
    has_to_miss: tuple[str, ...]
    good: bool
    """ours misses nothing; a naive policy misses at least what it has to; of the oracle nothing is asked"""


def trial(scenario: Scenario, progress: Progress | None = None, policies: set[str] | None = None) -> list[Verdict]:
    """The verdicts on the oracle, on ours, and on the naive policies that the file names.

    `policies`: only these of them; the oracle always is.
    """
    requests = arrivals(scenario)

    def told(policy: str) -> Callable[[float], None] | None:
        return (lambda share: progress(policy, share)) if progress else None

    world = World(scenario, requests)
    best = world.run(Oracle(world.boxes, requests), told(ORACLE))
    verdicts = [_verdict(scenario, figures(ORACLE, scenario, best, best))]
    for policy in (OURS, *scenario.naive):
        if policies and policy not in policies:
            continue
        scheduler = Potluck(Random(scenario.seed).random, DEADLINE_S) if policy == OURS else Naive(NAIVE[policy])
        found = World(scenario, requests).run(scheduler, told(policy))
        verdicts.append(_verdict(scenario, figures(policy, scenario, found, best)))
    return verdicts


def _verdict(scenario: Scenario, found: Figures) -> Verdict:
    missed = misses(scenario, found)
    has_to = scenario.naive.get(found.policy, ())
    good = found.policy == ORACLE or (set(has_to) <= set(missed) if has_to else not missed)
    return Verdict(found, tuple(missed), has_to, good)
