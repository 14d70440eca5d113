"""Forms of members, at their edges."""

from typing import Annotated

import msgspec
import pytest

from potluck.admin.rest import bodies
from potluck.config.forms import ModelName, Name


@pytest.mark.parametrize("form", [Name, ModelName])
def test_a_name_ends_where_it_ends(form: type) -> None:
    """A line feed after a name is refused, like one in it."""
    assert msgspec.convert("lab-1", form) == "lab-1"
    for text in ("lab-1\n", "lab\n1", "\n", ""):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(text, form)


@pytest.mark.parametrize("meta", bodies.PATTERNS)
def test_what_the_api_takes_ends_where_it_ends(meta: msgspec.Meta) -> None:
    """The same for tags and cursors."""
    decoder = msgspec.json.Decoder(Annotated[str, meta])
    assert decoder.decode(b'"abc"') == "abc"
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(b'"abc\\n"')
