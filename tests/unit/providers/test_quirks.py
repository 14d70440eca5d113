"""The table of quirks."""

import pytest

from potluck.providers import quirks
from potluck.providers.base_url import parse_base_url
from potluck.providers.quirks import QUIRKS, quirks_of, served


def test_quirks_by_host() -> None:
    """A known host has its quirks, any other has none."""
    assert "responses_ok" in quirks_of("https://api.openai.com/v1")
    assert quirks_of(parse_base_url("https://api.mistral.ai/v1")) == {"no_stream_usage"}
    assert quirks_of("https://api.openai.com.evil.example/v1") == frozenset()
    assert quirks_of("http://10.0.0.7:8080/v1") == frozenset()


def test_every_quirk_is_documented() -> None:
    """Each name that the table uses is known and explained at its top."""
    names = {name for host in quirks._HOSTS.values() for name in host.quirks}
    assert names <= set(QUIRKS)
    assert quirks.__doc__ is not None
    for name in QUIRKS:
        assert f"`{name}`" in quirks.__doc__


def test_responses_only_where_complete() -> None:
    """Responses are served by targets that speak them completely, declared or not, and by no other."""
    assert served(("chat", "responses"), frozenset()) == ("chat",)
    assert served(("chat",), frozenset(("responses_ok",))) == ("chat", "responses")
    assert served(("chat", "responses"), frozenset(("responses_ok",))) == ("chat", "responses")


def test_a_bad_url_is_refused() -> None:
    """The quirks of what is no URL are not guessed."""
    with pytest.raises(ValueError, match="URL"):
        quirks_of("openai")
