"""Entries of `GET /v1/models`: OpenAI's members and ours under `potluck`, as JSON bytes.

Rule: no address and no credential is in them, and what is here needs neither rows nor a store.
"""

from collections.abc import Iterable
from functools import lru_cache

import msgspec

from potluck.model.price import Price, nanousd_to_usd_text
from potluck.model.resources import Capability, Route
from potluck.model.snapshot import CompiledModel, CompiledTarget


class CardPrice(msgspec.Struct, frozen=True, omit_defaults=True):
    """USD per million tokens, as exact decimal text."""

    input: str
    output: str
    cached_input: str | None = None
    per_request: str | None = None


class CardTarget(msgspec.Struct, frozen=True):
    """One place, as callers of `GET /v1/models` see it: no address, no credential."""

    target: str
    own: bool
    price: CardPrice | None
    routable: bool
    reason: str | None


class CardExtras(msgspec.Struct, frozen=True):
    targets: list[CardTarget]
    context_tokens: int | None
    capabilities: list[Capability]
    alias_of: str | msgspec.UnsetType = msgspec.UNSET
    route: bool | msgspec.UnsetType = msgspec.UNSET
    """true: the name of a rule, which chooses among the targets of its models"""


class Card(msgspec.Struct, frozen=True):
    """An entry of `GET /v1/models`: OpenAI's members and ours under `potluck`."""

    id: str
    object: str
    created: int
    owned_by: str
    potluck: CardExtras


_CARDS = msgspec.json.Decoder(Card)
_ENCODER = msgspec.json.Encoder()


def model_card(name: str, created_at_ms: int, targets: Iterable[CompiledTarget], context_tokens: int | None) -> bytes:
    """The card of a model. Several credentials of one place are one line of it."""
    targets = tuple(targets)
    lines: dict[str, CardTarget] = {}
    for target in targets:
        why = target.unroutable_told or None
        line = CardTarget(target.name, target.own, _card_price(target.price), not target.unroutable, why)
        if target.name not in lines or line.routable:
            lines[target.name] = line
    capabilities: dict[Capability, None] = {}
    for target in targets:
        capabilities.update(dict.fromkeys(target.heads))
    extras = CardExtras(list(lines.values()), context_tokens, list(capabilities))
    owner = targets[0].provider if targets else "potluck"
    return _ENCODER.encode(Card(name, "model", created_at_ms // 1000, owner, extras))


def card_of_some(model: CompiledModel, targets: Iterable[CompiledTarget]) -> bytes:
    """The model's card as if it had no targets but these."""
    meant = _CARDS.decode(model.card)
    card = model_card(model.name, meant.created * 1000, targets, meant.potluck.context_tokens)
    return alias_card(model.alias_of, model.name, card) if model.alias_of else card


def alias_card(model: str, alias: str, card: bytes) -> bytes:
    """A model's card under another name, which says whose it is."""
    meant = _CARDS.decode(card)
    extras = msgspec.structs.replace(meant.potluck, alias_of=model)
    return _ENCODER.encode(msgspec.structs.replace(meant, id=alias, potluck=extras))


def renamed_card(card: bytes, old: str, new: str) -> bytes:
    """A card under another name, cheaply."""
    return card.replace(*_renaming(old, new), 1)


def route_card(route: Route, models: Iterable[CompiledModel]) -> bytes:
    """The card of a rule that can be called as a model: what the models that it names have, each target once."""
    cards = [_CARDS.decode(model.card).potluck for model in models]
    targets = {line.target: line for card in reversed(cards) for line in card.targets}
    order = dict.fromkeys(line.target for card in cards for line in card.targets)
    extras = CardExtras(
        [targets[name] for name in order],
        min((card.context_tokens for card in cards if card.context_tokens is not None), default=None),
        list(dict.fromkeys(each for card in cards for each in card.capabilities)),
        route=True,
    )
    return _ENCODER.encode(Card(route.name, "model", route.created_at_ms // 1000, "potluck", extras))


@lru_cache(maxsize=1_000)
def _card_price(price: Price | None) -> CardPrice | None:
    if price is None:
        return None
    return CardPrice(
        nanousd_to_usd_text(price.input),
        nanousd_to_usd_text(price.output),
        None if price.cached_input is None else nanousd_to_usd_text(price.cached_input),
        nanousd_to_usd_text(price.per_request) if price.per_request else None,
    )


def _renaming(old: str, new: str) -> tuple[bytes, bytes]:
    return b'"id":' + _ENCODER.encode(old), b'"id":' + _ENCODER.encode(new)
