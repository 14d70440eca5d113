"""One bad name in an engine's list hides nothing but its own model."""

import pytest
from engine_dialogue import inventory_of

GOOD = b'{"id":"good","owned_by":"me"}'


@pytest.mark.parametrize(
    ("bad", "shown"),
    [
        (b'"\\ud800"', "\\ud800"),
        (b'"\xff"', "\\ufffd"),
        (b'"two words"', "two words"),
        ('"b\xfccher"'.encode(), "b\\xfccher"),
        (b'"' + b"n" * 300 + b'"', "n" * 60),
    ],
)
def test_the_others_are_offered_and_it_is_told(bad: bytes, shown: str) -> None:
    """Half a surrogate pair, bytes that are no UTF-8, spaces, letters that no name may have, too many of them."""
    found = inventory_of({"/v1/models": b'{"data":[{"id":' + bad + b"}," + GOOD + b"]}"})
    assert [each.name for each in found.models] == ["good"]
    assert found.unusable == (shown,)


def test_good_names_are_not_told() -> None:
    """The usual list."""
    assert inventory_of({"/v1/models": b'{"data":[' + GOOD + b"]}"}).unusable == ()
