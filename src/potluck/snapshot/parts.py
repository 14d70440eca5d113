"""What providers and nodes have in common for a compiler: named places that offer models, and how one becomes targets.

Rule: what differs between the two (accounts and addresses here, engines and owners' prices there) stays in `providers`
and `nodes`; nothing outside them asks which of the two a part is.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Protocol

import msgspec

from potluck.model.ids import base36
from potluck.model.price import Price
from potluck.model.resources import Capability, Target
from potluck.model.snapshot import CompiledTarget

PLAIN: tuple[Capability, ...] = ("chat", "completions", "embeddings")
"""what a model does when nobody says"""
OFFERS_PER_STEP = 64
"""how many offers are worked out between two yields"""


class Offer(msgspec.Struct, frozen=True):
    """An upstream model that a part has: by the catalogue, a provider's own list, or a node's word."""

    target_id: str
    capabilities: tuple[Capability, ...]
    price: Price | None
    """the dated table's"""
    context_tokens: int | None


class Part(Protocol):
    """A provider or an approved node, compiled as far as its targets share it."""

    @property
    def name(self) -> str:
        """before the first `/` of its targets' names"""

    @property
    def created_at_ms(self) -> int: ...

    @property
    def own(self) -> bool:
        """own infrastructure"""

    @property
    def tier(self) -> str | None:
        """Where its undeclared models stand among others of the same name: parts of one tier are interchangeable, and
        tiers are tried by age. None: they are called by pins and declared targets only."""

    @property
    def offers(self) -> Mapping[str, Offer]:
        """by upstream model"""

    def offer(self, upstream_model: str) -> Offer | None:
        """What is known of a model there, offered or not."""

    def places(
        self,
        upstream_model: str,
        public_name: str,
        overrides: Mapping[str, Price],
        declared: Target | None = None,
        barred: str = "",
    ) -> list[CompiledTarget]:
        """The targets of one of its models, offered or not: one per credential, priced.

        `declared`: as somebody declared it; `overrides`: operator prices; `barred`: why it must not be called.
        """


def target_id_of(part_id: str, upstream_model: str) -> str:
    """The id of a target that nobody declared: the same for the same place, over restarts and replicas."""
    digest = blake2b(f"{part_id}/{upstream_model}".encode(), digest_size=13).digest()
    return f"tgt_{base36(int.from_bytes(digest, 'big'), 21)[:21]}"


def share_of(declared: Target | None, slots: int) -> tuple[int, int, int]:
    """Weight, tier and slots of a target: as it was declared, else 1, 0 and `slots`."""
    if declared is None:
        return 1, 0, slots
    tier = declared.position if declared.priority is None else declared.priority
    return declared.weight, tier, slots if declared.slots is None else declared.slots
