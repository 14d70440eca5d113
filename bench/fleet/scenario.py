"""What a scenario file says: the traffic, the machines as they are and as they claim to be, and what has to come out.

Every number of the physics comes from the file. A member that the file misspells is refused.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

FOLDER = Path(__file__).with_name("scenarios")

Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Spread = tuple[Annotated[int, Meta(ge=1)], Annotated[float, Meta(ge=0)]]
"""median, and the standard deviation of the logarithm"""


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Refuses members that it does not know."""


class Traffic(Strict, frozen=True):
    """Requests per second, and what they are like."""

    per_s: Positive
    duration_s: Positive
    shape: Literal["poisson", "bursty", "diurnal"] = "poisson"
    burst: int = 1
    """bursty: so many at once, within `burst_s`"""
    burst_s: Positive = 1.0
    day_s: Positive = 86_400.0
    """diurnal: the rate swings once in this time between a fifth of `per_s` and nine fifths"""
    prompt_tokens: Spread = (800, 0.8)
    """of what a request has for itself"""
    output_tokens: Spread = (200, 0.6)
    families: int = 0
    """groups of requests whose prompts begin with the same `family_tokens`; 0: no two are alike"""
    family_share: Share = 1.0
    """of the requests that belong to one"""
    family_tokens: int = 1500
    hottest_share: Share = 0.0
    """of those: how many are the first family's; the others are spread evenly"""
    patience_s: Positive = 60.0
    """without a first token an attempt is given up after this: it is slow, and the next machine is tried"""


class Model(Strict, frozen=True):
    """A model as traffic asks for it. Speeds belong to machines."""

    share: Positive = 1.0
    work: Positive = 1.0
    """prefill, decoding and loading take so many times what the machine's figures say"""


class Claims(Strict, frozen=True):
    """What a machine says of itself: the truth times a factor; 0: it says nothing."""

    prefill: float = 1.0
    decode: float = 1.0
    load: float = 1.0


class Machines(Strict, frozen=True):
    """A kind of machine, `count` of them."""

    name: str
    prefill_tps: Positive
    decode_tps: Positive
    """of one stream alone"""
    count: int = 1
    k: Annotated[float, Meta(ge=0)] = 0.27
    """of b streams each is decoded at decode_tps / (1 + k·(b - 1))"""
    slots: Annotated[int, Meta(ge=1)] = 4
    queue: int = 16
    """calls beyond the slots that are held, at the engine or in front of it; more are refused as busy"""
    load_s: float = 10.0
    """to load a model of work 1 into memory"""
    rtt_ms: Positive = 30.0
    models: tuple[str, ...] = ("m",)
    resident: tuple[str, ...] = ("m",)
    """what is in memory at the start"""
    holds: Annotated[int, Meta(ge=1)] = 1
    """models that fit in memory at a time"""
    context_tokens: int = 8_192
    """of a slot; all slots together keep so many tokens of prompts that they have read"""
    claims: Claims = Claims()
    joins_s: float = 0.0
    """when it first connects"""
    throttled_from_s: float | None = None
    """from then on it is `throttled_to` times as fast, and says what it said before"""
    throttled_to: Positive = 0.3
    owner_away_s: float | None = None
    """mean time between its owner's visits; None: nobody sits there"""
    owner_here_s: Positive = 600.0
    broken: bool = False
    """its engine fails every call at once, while the machine says that it is ready"""
    reconnects_s: float | None = None
    """it drops its link and is back after a second, so often"""


class Wanted(Strict, frozen=True):
    """What a good policy reaches; what is absent is shown and not judged."""

    rejected_servable: int | None = 0
    serving_share: Share | None = 1.0
    ttft_p95_ratio: float | None = 1.3
    cold_loads_per_1000: float | None = None
    failed_per_1000: float | None = None


class Scenario(Strict, frozen=True):
    """One file."""

    title: str
    field: str
    """what happened in the field, and where that is told"""
    traffic: Traffic
    machines: tuple[Machines, ...]
    naive: dict[str, tuple[str, ...]]
    """policy → which of `wanted` it has to miss, or the scenario does not show what it is for"""
    wanted: Wanted = Wanted()
    models: dict[str, Model] = msgspec.field(default_factory=lambda: {"m": Model()})
    seed: int = 1
    name: str = ""


def names() -> list[str]:
    """All scenarios, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> Scenario:
    """The scenario of that name. Raises FileNotFoundError, msgspec.ValidationError."""
    stored = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    return msgspec.convert(stored | {"name": name}, Scenario)
