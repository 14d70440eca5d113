"""Secrets out of log lines: by shape, and by value for those that have none."""

import re

from potluck.model.secret import Secret

STARS = "********"

_SHAPES = re.compile(
    r"""(?P<kind>\b(?:pl[akj]-|sk-(?:ant-|proj-|or-)?|gsk_|xai-|hf_|r8_|AIza)) [A-Za-z0-9_\-]{6,}
      | (?P<scheme>\b(?:bearer|basic)\s+) [A-Za-z0-9._~+/=\-]{6,}
      | (?P<url>://[^\s/:@]*:) [^\s/@]+ (?=@)""",
    re.VERBOSE | re.IGNORECASE,
)


class Masker:
    """Replaces what looks like a key, and every value given to `protect`, by stars."""

    def __init__(self) -> None:
        self._values: list[str] = []

    def protect(self, secret: Secret) -> None:
        """From now on this very text does not get through (values shorter than 8 characters would mask plain words)."""
        text = secret.reveal()
        if len(text) >= 8 and text not in self._values:
            self._values.append(text)
            self._values.sort(key=len, reverse=True)

    def mask(self, line: str) -> str:
        for value in self._values:
            if value in line:
                line = line.replace(value, STARS)
        return _SHAPES.sub(_starred, line)


def _starred(match: re.Match[str]) -> str:
    return f"{match['kind'] or match['scheme'] or match['url']}{STARS}"
