"""A routing decision as data for people: each target in or out, with its reason and the number that ranked it.

The same form stands in `potluck route explain`, in the records (`GET /v1/requests/{id}`) and in the console.

A recorded plan stands for all requests that it fits, and is written down once: it has nothing in it that passes within
a minute (calls in flight, waits, counts of failures), and its numbers are coarse.
"""

from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from potluck.model.usage import PlanLine
from potluck.policy.fleet_selection import scores
from potluck.policy.selection import Score, Wish, lasting_score, rounded
from potluck.proxy.registry import READY, STATES

if TYPE_CHECKING:
    from potluck.proxy.candidates import Candidates, Group, LaneOption


class PlannedTarget(msgspec.Struct, frozen=True, omit_defaults=True):
    """One target by one credential."""

    target: str
    is_in: bool = msgspec.field(name="in")
    why: str
    """the number that ranked it in words, or why it is out"""
    model: str = ""
    credential: str = ""
    group: int = 0
    """places of a lower group are tried before those of a higher one"""
    of: str = ""
    """what the group is: `model`, `fallback gpt-4o-mini`"""
    state: str = ""
    """`closed`, `half_open`, `open` (tried after all others), `parked`, `dead`, `away` (not tried)"""
    reason: str = ""
    """why the state is not `closed`"""
    score: float | None = None
    """lower is better, but for weights; none in a record where it is another one for each request"""
    unit: str = ""


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was considered for a request, in the order in which groups are tried."""

    model: str
    route: str
    strategy: str
    targets: list[PlannedTarget]


def plan_of(candidates: "Candidates", wish: Wish, now: float, *, recorded: bool = False) -> Plan:
    """The decision as it stands now; `recorded`: as records refer to it."""
    found: list[PlannedTarget] = []
    for number, group in enumerate(candidates.groups):
        options = group.options
        if recorded:
            ranks = [lasting_score(group.strategy, options, index, wish) for index in range(len(options))]
        else:
            ranks = scores(group.strategy, options, wish)
        for place, ranked in zip(options, ranks, strict=True):
            found += [_planned(group, number, ranked, option, now, recorded=recorded) for option in place.lanes]
    found += [PlannedTarget(name, False, reason) for name, reason in _left_out(candidates)]
    return Plan(
        candidates.model,
        candidates.route.name,
        candidates.groups[0].strategy if candidates.groups else candidates.route.strategy,
        found,
    )


def plan_line(candidates: "Candidates", now: float) -> PlanLine:
    """The decision as records refer to it, for an ordinary stream."""
    wish = Wish(stream=True, output_tokens=candidates.output_tokens, now=now)
    text = msgspec.json.encode(plan_of(candidates, wish, now, recorded=True))
    return PlanLine(blake2b(text, digest_size=8).hexdigest(), msgspec.Raw(text))


def _planned(
    group: "Group", number: int, ranked: Score, option: "LaneOption", now: float, *, recorded: bool
) -> PlannedTarget:
    state = option.lane.state(now)
    return PlannedTarget(
        option.target.name,
        True,
        ranked.text,
        option.model,
        option.target.credential,
        number,
        group.why,
        STATES[state],
        option.lane.reason(now, lasting=recorded) if state != READY else "",
        None if ranked.value is None else rounded(ranked.value, 6),
        ranked.unit,
    )


def _left_out(candidates: "Candidates") -> "dict[tuple[str, str], None]":
    return dict.fromkeys((name, reason) for _, name, reason in candidates.left_out)
