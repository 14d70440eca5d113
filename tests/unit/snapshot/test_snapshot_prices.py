"""Which price counts."""

from potluck.model.price import Price
from potluck.snapshot.prices import FREE, choose_price, missing_price

LISTED = Price(input=1, output=1, version="catalog:x", source="catalog")
WRITTEN = Price(input=2, output=2, version="operator:1", source="operator")


def priced(number: int) -> Price:
    return Price(input=number, output=number, version="operator:2", source="operator")


def test_the_nearest_written_price_counts() -> None:
    """Target, then provider/model, then public name, then upstream name, then the table; own infrastructure is free."""
    operator = {"p/m": priced(3), "public": priced(4), "m": priced(5)}

    def choose(written: Price | None, names: list[str], *, own: bool = False) -> Price | None:
        known = {name: operator[name] for name in names}
        return choose_price(written, known, "p", "m", "public", own=own, listed=LISTED)

    assert choose(WRITTEN, ["p/m", "public", "m"]) == WRITTEN
    assert choose(None, ["p/m", "public", "m"]) == priced(3)
    assert choose(None, ["public", "m"]) == priced(4)
    assert choose(None, ["m"]) == priced(5)
    assert choose(None, []) == LISTED
    assert choose(None, [], own=True) == FREE
    assert choose(None, ["m"], own=True) == priced(5)


def test_no_price_is_not_zero() -> None:
    """A paid target that nobody priced has none, and the reason names the command; a written 0 is a price."""
    assert choose_price(None, {}, "p", "m", "m", own=False, listed=None) is None
    zero = Price(input=0, output=0, version="operator:1", source="operator")
    assert choose_price(None, {"m": zero}, "p", "m", "m", own=False, listed=LISTED) == zero
    assert "potluck model price p/m --input" in missing_price("p", "m")
