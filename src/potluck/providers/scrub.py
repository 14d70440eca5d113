"""What an upstream's error text must lose before a caller may read it.

Keys, addresses, host names, organisation and account ids, mail addresses, file paths: an upstream repeats them in its
messages, and none is the caller's business.
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
    # dotted names that end like a host's: a country, a common domain, a cluster's own. Not paths to a request's members
    re.compile(
        r"(?<![\w.-])(?!(?:body|query|path|header|input|messages?|tools?)\.)(?:(?!\d+\.)(?:[^\W_]|-){1,63}\.){1,6}"
        r"(?:[a-z]{2}|xn--[a-z0-9-]{2,59}|edu|gov|mil|biz|app|xyz|tech|site|online|website|network|systems|digital"
        r"|solutions|services|hosting|private|intranet|localdomain|home|svc|cluster|k8s|consul|test|example|invalid|arpa)"
        r"(?::\d+)?(?:/[^\s\"']*)?(?!\w)",
        re.IGNORECASE,
    ),
    # three labels or more, one of them numbered: gpu-7.rack.mycorp
    re.compile(
        r"(?<![\w.-])(?!(?:body|query|path|header|input|messages?|tools?)\.)(?=[a-z0-9.-]{0,250}[a-z]-?\d)"
        r"(?:(?!\d+\.)[a-z0-9-]{1,63}\.){2,6}[a-z]{2,24}(?::\d+)?(?:/[^\s\"']*)?(?![\w-])",
        re.IGNORECASE,
    ),
    # a name with a port
    re.compile(r"(?<![\w.-])(?=[\d_.-]{0,250}[^\W\d_])[\w.-]{1,253}:\d{2,5}(?!\w|:\d)(?:/[^\s\"']*)?"),
    re.compile(r"(?<![\w/])/(?:[\w.@-]+/){2,}[\w.@-]*"),
    re.compile(r"\b(?=[A-Za-z_+/=-]{0,200}\d)[A-Za-z0-9_+/=-]{32,}"),
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_BLANKS = re.compile("\0+")
_LOWER = str.maketrans({chr(letter): chr(letter + 32) for letter in range(ord("A"), ord("Z") + 1)})
_READ_CHARS = MAX_MESSAGE_CHARS * 4


def scrub(text: str, secrets: tuple[str, ...] = ()) -> str:
    """`text` on one line, at most `MAX_MESSAGE_CHARS` long; whatever looks private is replaced, `secrets` for sure.

    A secret is found in upper and lower case alike, and within words.
    """
    hidden = sorted(filter(None, secrets), key=len, reverse=True)
    # far enough that a secret which begins within what is read is seen whole
    text = text[: _READ_CHARS + len(hidden[0])] if hidden else text[:_READ_CHARS]
    if hidden:
        text = _blank(text.replace("\0", " "), hidden)[:_READ_CHARS]
        text = _BLANKS.sub(_HIDDEN, text)
    text = _CONTROL.sub(" ", text)
    for pattern in _PATTERNS:
        text = pattern.sub(_HIDDEN, text)
    text = text.strip()
    return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 1] + "…"


def _blank(text: str, secrets: list[str]) -> str:
    """`text` with each secret overwritten by NULs, so that its length stays. The longest secret comes first."""
    for secret in secrets:
        needle, folded = secret.translate(_LOWER), text.translate(_LOWER)
        parts = []
        start, found = 0, folded.find(needle)
        while found >= 0:
            parts += [text[start:found], "\0" * len(needle)]
            start = found + len(needle)
            found = folded.find(needle, start)
        if start:
            text = "".join(parts) + text[start:]
    return text
