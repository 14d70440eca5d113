"""Every OpenAI-compatible target: OpenAI, vLLM, llama.cpp, Groq, Mistral, OpenRouter, DeepSeek and the rest."""

import json
import re
from collections.abc import Iterable
from typing import Any

from potluck import __version__
from potluck.model.resources import Capability
from potluck.model.secret import Secret
from potluck.model.snapshot import RequestHead
from potluck.model.usage import ErrorClass
from potluck.providers.base_url import BaseUrl, parse_base_url
from potluck.providers.scrub import scrub

PATHS: dict[Capability, str] = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "responses": "/responses",
}
MODELS_PATH = "/models"
MAX_ERROR_BYTES = 64 << 10
"""an error body is read no further"""

_KEY_DEAD = frozenset((401, 402, 403))
_MAY_MEAN_REQUEST = frozenset((402, 403))
"""said of a key, but by some of a request: too many tokens for the credit that is left, a prompt that is flagged"""
_OF_REQUEST = re.compile(
    r"\bflagged\b|moderation|content[ _-]?(?:policy|filter|violation)|violates (?:our )?usage (?:guidelines|policies)"
    r"|safety[ _](?:check|filter|system)|max_(?:completion_|output_|new_)?tokens|can only afford|tokens limit exceeded",
    re.IGNORECASE,
)
_OF_KEY = re.compile(
    r"\b(?:account|organi[sz]ation|workspace|project|team|key)\b[^.]{0,40}"
    r"\b(?:flagged|banned|blocked|deactivated|disabled|suspended|terminated)\b|\bafford 0\b",
    re.IGNORECASE,
)
"""what may stand beside words of `_OF_REQUEST` and yet ends the key"""
_CALLER_FAULT = frozenset((400, 413, 422))
_TARGET_SLOW = frozenset((504, 524))


def build_heads(
    base_url: str | BaseUrl, secret: Secret | str | None, capabilities: Iterable[Capability]
) -> dict[Capability, RequestHead]:
    """One request head per capability, ending with `content-length: `.

    Raises `ValueError` for a base URL or key that cannot be written into a head; the key is not repeated.
    """
    url = parse_base_url(base_url) if isinstance(base_url, str) else base_url
    fields = _fields(url, secret)
    heads: dict[Capability, RequestHead] = {}
    for capability in capabilities:
        path = url.path + PATHS[capability]
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "content-length: "]
        heads[capability] = RequestHead("POST", path, fields, "\r\n".join(lines).encode("ascii"))
    return heads


def models_request(base_url: str | BaseUrl, secret: Secret | str | None) -> tuple[str, dict[str, str]]:
    """URL and fields of `GET …/models`, by which a provider's models are found and its key is tried.

    Raises `ValueError` as `build_heads` does.
    """
    url = parse_base_url(base_url) if isinstance(base_url, str) else base_url
    fields = {name: value for name, value in _fields(url, secret) if name not in ("host", "content-type")}
    return url.origin + url.path + MODELS_PATH, fields


def classify_status(status: int) -> ErrorClass:
    """Whose fault an upstream's HTTP status is (architecture §5.2). 2xx is none.

    A 404 is the target's: it was we who mapped the model to it. So is every other status outside the dialect.
    """
    if 200 <= status < 300:
        return "none"
    if status in _KEY_DEAD:
        return "key_dead"
    if status == 429:
        return "key_limited"
    if status in _CALLER_FAULT:
        return "caller_fault"
    if status in _TARGET_SLOW:
        return "target_slow"
    return "target_down"


def classify_refusal(status: int, body: bytes) -> ErrorClass:
    """`classify_status` where the answer's words are known: a 402 or 403 that speaks of the request is `policy`.

    That says nothing of the key or the target for any other request, and another target may well take this one. A
    refusal for the place that we call from stays the key's: it holds for every request.
    """
    if status in _MAY_MEAN_REQUEST and _means_request(_decode(body)):
        return "policy"
    return classify_status(status)


def _means_request(value: dict[str, Any]) -> bool:
    error = value.get("error")
    named = error if isinstance(error, dict) else value
    said = " ".join(str(each)[:1000] for each in (_message(value), named.get("code"), named.get("type")))
    return _OF_REQUEST.search(said) is not None and _OF_KEY.search(said) is None


def classify_error(error: dict[str, Any]) -> ErrorClass:
    """The class of an error object inside a 200, by its numeric code or status, else by what it is called.

    Its text counts only where it says that a key's end is none (`classify_refusal`).
    """
    for name in ("code", "status", "status_code"):
        code = error.get(name)
        if isinstance(code, str) and code.isdecimal() and len(code) == 3:
            code = int(code)
        if type(code) is int and 400 <= code <= 599:
            return "policy" if code in _MAY_MEAN_REQUEST and _means_request(error) else classify_status(code)
    said = " ".join(str(error.get(name, ""))[:100] for name in ("code", "type", "status")).lower()
    if "content_policy" in said or "content_filter" in said or "moderation" in said:
        return "policy"
    if "rate_limit" in said or "quota" in said or "resource_exhausted" in said:
        return "key_limited"
    if "authentication" in said or "permission" in said or "api_key" in said or "billing" in said:
        return "key_dead"
    if "invalid_request" in said or "invalid_argument" in said or "context_length" in said:
        return "caller_fault"
    return "target_slow" if "timeout" in said else "target_down"


def read_error(status: int, body: bytes, secrets: tuple[str, ...] = ()) -> str:
    """An upstream's own words on a caller's fault, bounded and scrubbed; ours where it has none.

    Reads OpenAI's envelope (also with numeric codes), `{"error": "…"}`, `{"message": …}`, FastAPI's `detail`.
    """
    message = _message(_decode(body))
    text = scrub(message, secrets) if message else ""
    return text or f"the target refused the request (HTTP {status}) without saying why"


def _decode(body: bytes) -> dict[str, Any]:
    """An error body's object; an empty one where it has none."""
    try:
        value = json.loads(body[:MAX_ERROR_BYTES])
    except (ValueError, RecursionError):
        return {}
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, dict) else {}


def _message(value: dict[str, Any]) -> str:
    error = value.get("error")
    if isinstance(error, dict):
        value = error
    elif isinstance(error, str) and error:
        return error
    for name in ("message", "detail", "msg"):
        said = value.get(name)
        if isinstance(said, str) and said:
            return said
        if isinstance(said, dict) and isinstance(said.get("message"), str):
            return str(said["message"])
        if isinstance(said, list):
            return "; ".join(_validation(item) for item in said[:5] if isinstance(item, dict))
    return ""


def _validation(item: dict[str, Any]) -> str:
    """One entry of FastAPI's `detail`: `{"loc": ["body", "temperature"], "msg": "…"}`."""
    where = item.get("loc")
    place = ".".join(str(part) for part in where[:8]) if isinstance(where, list) else ""
    said = str(item.get("msg", ""))
    return f"{place}: {said}" if place else said


def _fields(url: BaseUrl, secret: Secret | str | None) -> tuple[tuple[str, str], ...]:
    fields = [("host", url.authority)]
    text = secret.reveal() if isinstance(secret, Secret) else secret
    if text:
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError(
                "a provider key must be printable ASCII without spaces or line ends: check how it was pasted"
            )
        fields.append(("authorization", f"Bearer {text}"))
    fields += [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("accept-encoding", "identity"),
        ("user-agent", f"potluck/{__version__}"),
    ]
    return tuple(fields)
