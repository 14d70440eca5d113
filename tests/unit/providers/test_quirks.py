"""The table of quirks."""

import pytest

from potluck.providers import quirks
from potluck.providers.base_url import parse_base_url
from potluck.providers.quirks import QUIRKS, assistant_prefix_of, quirks_of, served


def test_quirks_by_host() -> None:
    """A known host has its quirks, any other has none."""
    assert "responses_ok" in quirks_of("https://api.openai.com/v1")
    assert quirks_of(parse_base_url("https://api.mistral.ai/v1")) == {"no_stream_usage", "echoes_prefix"}
    assert quirks_of("https://api.openai.com.evil.example/v1") == frozenset()
    assert quirks_of("http://10.0.0.7:8080/v1") == frozenset()


def test_every_quirk_is_documented() -> None:
    """Each name that the table uses is known and explained at its top."""
    names = {name for host in quirks._HOSTS.values() for name in host.quirks}
    assert names <= set(QUIRKS)
    assert quirks.__doc__ is not None
    for name in QUIRKS:
        assert f"`{name}`" in quirks.__doc__


@pytest.mark.parametrize(
    ("base_url", "prefix"),
    [
        ("https://api.mistral.ai/v1", "prefix_flag"),
        ("https://api.deepseek.com/beta", "prefix_flag"),
        ("https://api.deepseek.com/beta/v1", "prefix_flag"),
        ("https://api.deepseek.com/betatest", "none"),
        ("https://api.deepseek.com/v1", "none"),
        ("https://api.openai.com/v1", "none"),
        ("http://10.0.0.7:8080/v1", "none"),
    ],
)
def test_how_a_host_goes_on_from_a_text(base_url: str, prefix: str) -> None:
    """Known hosts have their way, at the address that has it; of others nothing is assumed."""
    assert assistant_prefix_of(base_url) == prefix


def test_responses_only_where_complete() -> None:
    """Responses are served by targets that speak them completely, declared or not, and by no other."""
    assert served(("chat", "responses"), frozenset()) == ("chat",)
    assert served(("chat",), frozenset(("responses_ok",))) == ("chat", "responses")
    assert served(("chat", "responses"), frozenset(("responses_ok",))) == ("chat", "responses")


def test_a_bad_url_is_refused() -> None:
    """The quirks of what is no URL are not guessed."""
    with pytest.raises(ValueError, match="URL"):
        quirks_of("openai")
