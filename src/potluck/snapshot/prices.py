"""Which price a target has: the nearest that a person wrote, then 0 for own infrastructure, then the dated table."""

from collections.abc import Mapping

from potluck.model.price import Price

FREE = Price(input=0, output=0, version="own", source="own")
"""own infrastructure and the built-in model, until somebody writes a price"""


def choose_price(
    written: Price | None,
    operator: Mapping[str, Price],
    provider: str,
    upstream_model: str,
    public_name: str,
    *,
    own: bool,
    listed: Price | None,
) -> Price | None:
    """The price of one target, or None: a paid target without a price is not routable. A written 0 is a price.

    `written`: on the target itself. `operator`: by the name they were set for, of which the nearest counts:
    `provider/upstream-model`, the public name, the upstream model's. `listed`: the bundled table's, which is the price
    of somebody else's service and so never counts for own infrastructure.
    """
    if written is not None:
        return written
    for name in (f"{provider}/{upstream_model}", public_name, upstream_model):
        if name in operator:
            return operator[name]
    return FREE if own else listed


def missing_price(provider: str, upstream_model: str) -> str:
    """Why a target without a price is not called, with the command that mends it."""
    return f"no price: potluck model price {provider}/{upstream_model} --input USD --output USD (per million tokens)"
