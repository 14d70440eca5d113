"""Words of a peer that people read: what they may hold."""

import msgspec
import pytest

from potluck.wire import link_messages as m


def load(reason: str) -> m.Load:
    return msgspec.json.decode(msgspec.json.encode({"state": "paused", "reason": reason}), type=m.Load)


@pytest.mark.parametrize(
    "character", [0x00, 0x0A, 0x1B, 0x7F, 0x9B, 0x61C, 0x200E, 0x2028, 0x202A, 0x202E, 0x2066, 0x2069]
)
def test_nothing_turns_what_stands_beside_it(character: int) -> None:
    """No control character, and none that turns the direction of writing, comes through."""
    with pytest.raises(msgspec.ValidationError):
        load(f"the owner is {chr(character)} back")


def test_people_may_write_as_they_do() -> None:
    """Any script, joined letters and signs of more than one code point."""
    for words in ("die Besitzerin ist zurück", "המחשב בשימוש", "می\u200cخواهم", "👩\u200d💻 is back", ""):
        assert load(words).reason == words


def test_a_name_is_what_everybody_can_type() -> None:
    """Names of models are visible ASCII: nothing looks like another one."""
    for name in ("m\u202eodel", "mоdel", "m odel", ""):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"engine": "e", "name": name}, m.ModelOffer)
