"""What an upstream's error text must lose before a caller may read it.

Keys, addresses, organisation and account ids, mail addresses, file paths: an upstream repeats them in its messages,
and none is the caller's business.
"""

import re

MAX_MESSAGE_CHARS = 500

_HIDDEN = "[…]"
_PATTERNS = (
    re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s\"'<>)\]]+", re.IGNORECASE),
    re.compile(r"\b(?:bearer|basic) +[^\s\"',;]+", re.IGNORECASE),
    re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"),
    # key and account ids: sk-…, org-…; a digit or capital tells them from words like `org-wide`
    re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf|nvapi|plk|pla|plj)[-_][\w*.…-]{6,}", re.IGNORECASE),
    re.compile(r"\b(?:org|proj|acct|user|key|req|resp|team)[-_](?=[\w-]*[\dA-Z])[\w-]{6,}"),
    re.compile(r"\bAIza[\w-]{10,}"),
    re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b"),
    re.compile(r"\[[0-9a-f:]{3,}\](?::\d+)?", re.IGNORECASE),
    re.compile(r"(?<![\w:])(?:(?:[0-9a-f]{1,4}:){3,7}|[0-9a-f:]{0,35}::)[0-9a-f:.]{0,40}", re.IGNORECASE),
    re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE),
    re.compile(
        r"(?<![\w.-])(?:localhost|[\w-]{1,63}(?:\.[\w-]{1,63}){0,5}\.(?:com|net|org|io|ai|dev|cloud|local|internal|lan|corp))"
        r"(?::\d+)?(?:/[^\s\"']*)?(?!\w)",
        re.IGNORECASE,
    ),
    re.compile(r"(?<![\w/])/(?:[\w.@-]+/){2,}[\w.@-]*"),
    re.compile(r"\b(?=[A-Za-z_+/=-]*\d)[A-Za-z0-9_+/=-]{32,}"),
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def scrub(text: str, secrets: tuple[str, ...] = ()) -> str:
    """`text` on one line, at most `MAX_MESSAGE_CHARS` long; whatever looks private is replaced, `secrets` for sure."""
    text = _CONTROL.sub(" ", text[: MAX_MESSAGE_CHARS * 4])
    for secret in secrets:
        if secret:
            text = text.replace(secret, _HIDDEN)
    for pattern in _PATTERNS:
        text = pattern.sub(_HIDDEN, text)
    text = text.strip()
    return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 1] + "…"
