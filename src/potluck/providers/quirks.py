"""Known departures of targets from OpenAI's dialect, by host. A quirk is a name; what it changes is written here.

- `no_stream_usage`: `stream_options` is refused or unknown. It is neither added nor forwarded; usage is read from
  wherever the target puts it.
- `responses_ok`: speaks `/v1/responses` completely, so that it may be passed through.
- `echoes_prefix`: an answer that goes on from an assistant's text begins with that text.

How a target goes on from such a text (`AssistantPrefix`) is known of hosts too; where the provider does not say it,
`assistant_prefix_of` does.

What shows in the answers themselves is no quirk: llama.cpp's usage, which counts one choice of several, is recognised
by its `timings` (`wire.dialects.answer.counts_one_choice`).
"""

import msgspec

from potluck.model.resources import AssistantPrefix, Capability
from potluck.providers.base_url import BaseUrl, parse_base_url

QUIRKS = ("no_stream_usage", "responses_ok", "echoes_prefix")


class _Host(msgspec.Struct, frozen=True):
    quirks: frozenset[str]
    reason: str
    assistant_prefix: AssistantPrefix = "none"
    prefix_path: str = ""
    """base URLs below this path only"""


_HOSTS = {
    "api.openai.com": _Host(frozenset(("responses_ok",)), "the dialect's own"),
    "api.mistral.ai": _Host(
        frozenset(("no_stream_usage", "echoes_prefix")),
        "refuses unknown members, an assistant's last message without `prefix` too; usage comes in the last chunk",
        "prefix_flag",
    ),
    "api.deepseek.com": _Host(frozenset(), "`prefix` is a feature of its beta address alone", "prefix_flag", "/beta"),
}


def quirks_of(base_url: str | BaseUrl) -> frozenset[str]:
    """The quirks of the target there. Raises as `parse_base_url`."""
    url = parse_base_url(base_url) if isinstance(base_url, str) else base_url
    host = _HOSTS.get(url.host)
    return host.quirks if host is not None else frozenset()


def assistant_prefix_of(base_url: str | BaseUrl) -> AssistantPrefix:
    """How the target there goes on from an assistant's text; `none`: not known. Raises as `parse_base_url`."""
    url = parse_base_url(base_url) if isinstance(base_url, str) else base_url
    host = _HOSTS.get(url.host)
    return host.assistant_prefix if host is not None and f"{url.path}/".startswith(f"{host.prefix_path}/") else "none"


def served(capabilities: tuple[Capability, ...], quirks: frozenset[str]) -> tuple[Capability, ...]:
    """The declared capabilities that may be routed: responses only where they are complete."""
    if "responses_ok" in quirks:
        return capabilities if "responses" in capabilities else (*capabilities, "responses")
    return tuple(capability for capability in capabilities if capability != "responses")
