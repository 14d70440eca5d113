"""What a choice between places is made from: a place's live state, and what one pool of them knows about it.

State of the place itself (calls in flight, speed) is one object, shared by every pool that contains it; what differs
from pool to pool (weight, tier, price to this project) is the pool's own.
"""

from potluck.policy.latency import Latency
from potluck.policy.machines import Machine

MIN_EXPOSURE = 0.9
"""the most that a machine may be preferred by"""


class Standing:
    """The live state of one place. One event loop's, no locks."""

    __slots__ = ("in_flight", "latency", "machine")

    def __init__(self) -> None:
        self.in_flight = 0
        """calls sent and not ended: raised before the first byte goes out, so that a burst does not herd"""
        self.latency = Latency()
        self.machine: Machine | None = None
        """it is a model on a node: then this tells what a request would take there"""


class Option:
    """One place as a pool offers it. `name` is unlike every other's in the pool: a deterministic split goes by it."""

    __slots__ = ("cost", "exposure", "name", "own", "priority", "slots", "standing", "weight")

    def __init__(
        self,
        standing: Standing,
        name: str,
        *,
        weight: int = 1,
        priority: int = 0,
        own: bool = False,
        slots: int = 1024,
        cost: float = float("inf"),
        exposure: float = 1.0,
    ) -> None:
        self.standing = standing
        self.name = name
        self.weight = weight
        """1 or more"""
        self.priority = priority
        """its tier, the lowest first"""
        self.own = own
        """own infrastructure"""
        self.slots = slots
        """concurrent calls that it serves well, 1 or more"""
        self.cost = cost
        """expected nano-USD of one request (`policy.mix`), kept up to date by the pool; `inf`: no price is known"""
        self.exposure = exposure
        """of a machine, `MIN_EXPOSURE` to 1: its time counts times this, among those that pass everything else"""
