"""Entries of `GET /v1/models`: OpenAI's shape plus a `potluck` member."""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Raw

from potluck.model.price import NANOUSD_PER_USD, Price, nanousd_to_usd_text
from potluck.model.resources import Capability


class _Potluck(msgspec.Struct, omit_defaults=True):
    targets: Sequence[str]
    capabilities: Sequence[Capability]
    context_tokens: int | None = None
    price: dict[str, Raw] | None = None


class _Card(msgspec.Struct):
    id: str
    object: str
    created: int
    owned_by: str
    potluck: _Potluck


def encode_model_card(
    name: str,
    created_s: int,
    owned_by: str,
    targets: Sequence[str] = (),
    capabilities: Sequence[Capability] = (),
    context_tokens: int | None = None,
    price: Price | None = None,
) -> bytes:
    """One entry. `targets`: names as in `x-potluck-target`; `price`: the cheapest or first target's, None if unknown.

    Prices are shown in USD per million tokens, exactly.
    """
    shown = None if price is None else _usd_per_million(price)
    card = _Card(name, "model", created_s, owned_by, _Potluck(targets, capabilities, context_tokens, shown))
    return msgspec.json.encode(card)


def encode_model_list(cards: Iterable[bytes]) -> bytes:
    """The whole answer of `GET /v1/models` from entries made by `encode_model_card`."""
    return b'{"object":"list","data":[' + b",".join(cards) + b"]}"


def _usd_per_million(price: Price) -> dict[str, Raw]:
    rates = {
        "input": price.input,
        "output": price.output,
        "cached_input": price.cached_input,
        "cache_write": price.cache_write,
        "reasoning": price.reasoning,
        "per_request": price.per_request or None,
    }
    return {name: Raw(_number(rate)) for name, rate in rates.items() if rate is not None}


def _number(nanousd: int) -> bytes:
    if nanousd % NANOUSD_PER_USD == 0:
        return b"%d" % (nanousd // NANOUSD_PER_USD)
    return nanousd_to_usd_text(nanousd).encode()
