"""Known departures of targets from OpenAI's dialect, by host. A quirk is a name; what it changes is written here.

- `one_choice_usage`: with several choices, usage counts one of them (llama.cpp, whose answers are also known by their
  `timings`). In streams each choice reports its own count, and they are added up, exactly; in whole answers the others
  are estimated by their size, and marked.
- `no_stream_usage`: `stream_options` is refused or unknown. It is neither added nor forwarded; usage is read from
  wherever the target puts it.
- `responses_ok`: speaks `/v1/responses` completely, so that it may be passed through.
"""

import msgspec

from potluck.model.resources import Capability
from potluck.providers.base_url import BaseUrl, parse_base_url

QUIRKS = ("one_choice_usage", "no_stream_usage", "responses_ok")


class _Host(msgspec.Struct, frozen=True):
    quirks: frozenset[str]
    reason: str


_HOSTS = {
    "api.openai.com": _Host(frozenset(("responses_ok",)), "the dialect's own"),
    "api.mistral.ai": _Host(frozenset(("no_stream_usage",)), "refuses unknown members; usage comes in the last chunk"),
}

LLAMA_CPP = frozenset(("one_choice_usage",))
"""for every llama.cpp server, the built-in model's among them"""


def quirks_of(base_url: str | BaseUrl, *, llama_cpp: bool = False) -> frozenset[str]:
    """The quirks of the target there. `llama_cpp`: it is known to be a llama.cpp server. Raises as `parse_base_url`."""
    url = parse_base_url(base_url) if isinstance(base_url, str) else base_url
    host = _HOSTS.get(url.host)
    quirks = host.quirks if host is not None else frozenset[str]()
    return quirks | LLAMA_CPP if llama_cpp else quirks


def served(capabilities: tuple[Capability, ...], quirks: frozenset[str]) -> tuple[Capability, ...]:
    """The declared capabilities that may be routed: responses only where they are complete."""
    if "responses_ok" in quirks:
        return capabilities if "responses" in capabilities else (*capabilities, "responses")
    return tuple(capability for capability in capabilities if capability != "responses")
