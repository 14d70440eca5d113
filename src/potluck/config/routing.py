"""What `potluck.toml` may say about routing: `[[routes]]`, and the active probes of a provider.

Rule: an entry and what is stored (`model.resources`) turn into each other without loss; the admin API takes and shows
the same members. Their order in the file is the order in which routes are tried.
"""

from typing import Annotated, ClassVar, Literal

import msgspec

from potluck.config.forms import ModelName, Name, Seconds, Usd
from potluck.model.price import usd_per_million_to_nanousd
from potluck.model.resources import (
    Affinity,
    DataClass,
    Hedge,
    Probe,
    RouteConstraints,
    RouteMatch,
    RouteTimeouts,
    Strategy,
)

KINDS = ("own", "provider", "node", "community")
"""kinds of targets, beside names in `only` and `ignore`"""
RESERVED_ROUTES = {
    "default": "what applies where no route does",
    "explain": "a path of the admin API",
}
"""names that no route can have, and what they mean instead"""

Patterns = Annotated[
    tuple[ModelName, ...], msgspec.Meta(min_length=1, max_length=1000, description="names, or patterns with *")
]
Fallback = Annotated[tuple[ModelName, ...], msgspec.Meta(max_length=100)]
HEDGE_AFTER = "1 to 600000 milliseconds"
HedgeAfter = Literal["p95"] | Annotated[int, msgspec.Meta(ge=0, le=600_000, description=HEDGE_AFTER)]
"""0 is refused with a sentence of its own (`RouteEntry.check`)"""
ProbeSeconds = Annotated[float, msgspec.Meta(ge=10, le=86_400, description="from 10 to 86400 seconds")]
Share = Annotated[float, msgspec.Meta(gt=0, le=1, description="more than 0 and at most 1")]
Tolerance = Annotated[float, msgspec.Meta(ge=1, le=1_000, description="from 1 to 1000 times the best score")]


class ProbeEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Active health checks of a provider: `GET /models`, and with `model` a short completion on a daily budget."""

    every_s: ProbeSeconds = Probe().every_s
    model: ModelName | None = None
    """upstream model for the completion"""
    budget_usd_per_day: Usd = 0.0

    def check(self) -> dict[str, str]:
        """What is wrong beyond types, by member."""
        if self.model is not None and not self.budget_usd_per_day:
            return {
                "budget_usd_per_day": "a probe that asks a model costs money: say how much a day may cost, such as 0.10"
            }
        return {}

    def to_probe(self) -> Probe:
        return Probe(self.every_s, self.model or "", self.budget_usd_per_day)

    @classmethod
    def from_probe(cls, probe: Probe) -> "ProbeEntry":
        return cls(every_s=probe.every_s, model=probe.model or None, budget_usd_per_day=probe.budget_usd_per_day)


class MatchEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which requests a route takes: names, or patterns with `*`. All three have to match."""

    models: Patterns = ("*",)
    projects: Patterns = ("*",)
    keys: Patterns = ("*",)

    def to_match(self) -> RouteMatch:
        return RouteMatch(self.models, self.projects, self.keys)

    @classmethod
    def from_match(cls, match: RouteMatch) -> "MatchEntry":
        return cls(models=match.models, projects=match.projects, keys=match.keys)


class MaxPriceEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """USD per million tokens."""

    input: Usd | None = None
    output: Usd | None = None


class ConstraintsEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hard filters, as a request's own controls of the same names. What is not said does not filter."""

    only: Patterns | None = None
    """names or kinds of providers"""
    ignore: Patterns | None = None
    max_price: MaxPriceEntry | None = None
    data_class: DataClass | None = None

    def to_constraints(self) -> RouteConstraints:
        """The same with prices in nano-USD per million tokens."""

        def nanousd(usd: float | None) -> int | None:
            return None if usd is None else usd_per_million_to_nanousd(usd)

        dearest = self.max_price or MaxPriceEntry()
        return RouteConstraints(
            self.only, self.ignore, nanousd(dearest.input), nanousd(dearest.output), self.data_class
        )

    @classmethod
    def from_constraints(cls, stored: RouteConstraints) -> "ConstraintsEntry":
        def usd(nanousd: int | None) -> float | None:
            return None if nanousd is None else nanousd / 1_000_000_000

        dearest = MaxPriceEntry(input=usd(stored.max_price_input), output=usd(stored.max_price_output))
        return cls(
            only=stored.only,
            ignore=stored.ignore,
            max_price=None if dearest == MaxPriceEntry() else dearest,
            data_class=stored.data_class,
        )


class RouteTimeoutsEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds; what is not said is the provider's own. `total_s` bounds the whole request, over all attempts."""

    connect_s: Seconds | None = None
    first_token_s: Seconds | None = None
    idle_s: Seconds | None = None
    total_s: Seconds | None = None

    def to_timeouts(self) -> RouteTimeouts:
        return RouteTimeouts(self.connect_s, self.first_token_s, self.idle_s, self.total_s)

    @classmethod
    def from_timeouts(cls, timeouts: RouteTimeouts) -> "RouteTimeoutsEntry":
        return cls(**msgspec.structs.asdict(timeouts))


class HedgeEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask a second target when the first is late."""

    after: HedgeAfter
    """`p95`: later than 95 % of its own first tokens; or milliseconds"""
    max_extra: Share = Hedge().max_extra
    """at most this share of extra calls"""

    def to_hedge(self) -> Hedge:
        return Hedge(0 if self.after == "p95" else self.after, self.max_extra)

    @classmethod
    def from_hedge(cls, hedge: Hedge) -> "HedgeEntry":
        return cls(after=hedge.after_ms or "p95", max_extra=hedge.max_extra)


class AffinityEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Send prompts with the same beginning to the same target, for its prompt cache."""

    window_s: Seconds = Affinity().window_s
    """after the last use"""
    tolerance: Tolerance = Affinity().tolerance
    """the target is kept while its score is at most this many times the best one's"""

    def to_affinity(self) -> Affinity:
        return Affinity(self.window_s, self.tolerance)

    @classmethod
    def from_affinity(cls, affinity: Affinity) -> "AffinityEntry":
        return cls(window_s=affinity.window_s, tolerance=affinity.tolerance)


class RouteEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A routing rule. The first that matches is the request's."""

    NOT_YET: ClassVar[dict[str, str]] = {"cache": "cache policies"}

    name: Name
    match: MatchEntry = MatchEntry()
    strategy: Strategy = "priority"
    split: Literal["key", "user"] | None = None
    """`weighted` draws alike for the same key or end user"""
    constraints: ConstraintsEntry = ConstraintsEntry()
    fallback: Fallback = ()
    """models, aliases, `provider/model`, or patterns with `*`, in order"""
    timeouts: RouteTimeoutsEntry = RouteTimeoutsEntry()
    hedge: HedgeEntry | None = None
    affinity: AffinityEntry | bool = False

    def check(self) -> dict[str, str]:
        """What is wrong beyond types, by member."""
        wrong = {}
        if self.name in RESERVED_ROUTES:
            wrong["name"] = f"{self.name!r} is {RESERVED_ROUTES[self.name]}: choose another name for the route"
        if self.split is not None and self.strategy != "weighted":
            wrong["split"] = f'goes with strategy = "weighted" only, not with "{self.strategy}"'
        if self.hedge is not None and self.hedge.after == 0:
            wrong["hedge.after"] = f'is 0: write "p95" or {HEDGE_AFTER}, or leave hedge out for no second call'
        return wrong

    def to_affinity(self) -> Affinity | None:
        """None: no affinity. `true` is the default one."""
        if isinstance(self.affinity, bool):
            return Affinity() if self.affinity else None
        return self.affinity.to_affinity()
