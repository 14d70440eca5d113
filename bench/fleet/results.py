"""What came out of a run, in the numbers that routing changes are judged by, and whether a scenario wants them so."""

from collections import Counter
from statistics import quantiles

import msgspec

from bench.fleet.scenario import Scenario
from bench.fleet.world import Outcomes

MISSED_TTFT_S = 600.0
"""counts for a request that has no first token and could have had one: else who rejects the slow ones looks quick"""


class Figures(msgspec.Struct):
    """One policy's. Times in seconds; shares from 0 to 1."""

    policy: str
    requests: int
    answered: int
    rejected_servable: int
    """given up, though the oracle, meeting the same arrivals, had a machine for it"""
    serving_share: float
    """of the machines that could serve (their engine works): that answered at least one request"""
    gini: float
    """of the answers among them: 0 where all have equally many, near 1 where one has them all"""
    ttft_p50_s: float
    ttft_p95_s: float
    ttft_p50_ratio: float
    """to the oracle's"""
    ttft_p95_ratio: float
    total_p95_ratio: float
    """of whole answers"""
    cold_loads_per_1000: float
    failed_per_1000: float
    """calls to broken engines and calls given up as too slow, per 1,000 requests"""


def figures(policy: str, scenario: Scenario, found: Outcomes, oracle: Outcomes) -> Figures:
    """One run's figures, beside the oracle's run of the same arrivals."""
    pairs = list(zip(found.requests, oracle.requests, strict=True))
    servable = [(one, best) for one, best in pairs if best.total_s is not None]
    ttfts = [MISSED_TTFT_S if one.ttft_s is None else one.ttft_s for one, _ in servable]
    totals = [MISSED_TTFT_S if one.total_s is None else one.total_s for one, _ in servable]
    best_ttfts = [best.ttft_s or 0.0 for _, best in servable]
    best_totals = [best.total_s or 0.0 for _, best in servable]
    eligible = sum(kind.count for kind in scenario.machines if not kind.broken)
    served = Counter(one.box for one, _ in pairs if one.box)
    counts = [0] * (eligible - len(served)) + sorted(served.values())
    thousands = len(pairs) / 1000
    return Figures(
        policy,
        len(pairs),
        sum(one.total_s is not None for one, _ in pairs),
        sum(one.total_s is None for one, _ in servable),
        len(served) / eligible,
        gini(counts),
        _percentile(ttfts, 50),
        _percentile(ttfts, 95),
        _percentile(ttfts, 50) / _percentile(best_ttfts, 50),
        _percentile(ttfts, 95) / _percentile(best_ttfts, 95),
        _percentile(totals, 95) / _percentile(best_totals, 95),
        found.cold_loads / thousands,
        sum(one.failed + one.slow for one, _ in pairs) / thousands,
    )


def misses(scenario: Scenario, found: Figures) -> list[str]:
    """The members of `Wanted` that the run does not reach."""
    wanted = scenario.wanted
    missed = []
    for name in wanted.__struct_fields__:
        limit = getattr(wanted, name)
        if limit is None:
            continue
        value = getattr(found, name)
        if value < limit if name == "serving_share" else value > limit:
            missed.append(name)
    return missed


def gini(counts: list[int]) -> float:
    """Of sorted counts; 0 where there are none."""
    total = sum(counts)
    if not total:
        return 0.0
    weighted = sum((n + 1) * count for n, count in enumerate(counts))
    return 2 * weighted / (len(counts) * total) - (len(counts) + 1) / len(counts)


def _percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1]
