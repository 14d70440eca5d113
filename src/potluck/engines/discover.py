"""What else serves models on this machine: well-known loopback ports, asked who they are.

An engine is known by its answers, never by its port alone (llama.cpp and LocalAI share one). Only `GET` is sent, only
to loopback, and nothing that loads, unloads or generates.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

PORTS = (11434, 1234, 8000, 8080, 30000, 5001, 9292)
"""Ollama, LM Studio, vLLM, llama.cpp and LocalAI, SGLang, KoboldCpp, llama-swap: their defaults"""
_MAX_ANSWER_BYTES = 4 << 20

Json = dict[str, Any]
Get = Callable[[str], Awaitable[tuple[int, dict[str, str], Json]]]
"""path → (status, header fields by lower-case name, JSON object or {})"""


class FoundEngine(msgspec.Struct, frozen=True):
    """An engine that answers. `kind`: `ollama`, `lm-studio`, `vllm`, `llama.cpp`, `sglang`, `localai`, `koboldcpp`,
    `llama-swap`, or `openai-compatible` for one that only lists models. `base_url` is what `provider add` takes."""

    kind: str
    base_url: str
    version: str
    models: tuple[str, ...]
    """as its `/v1/models` names them; models that the engine itself runs elsewhere are left out"""


async def discover(ports: Sequence[int] = PORTS, timeout_s: float = 1.0) -> list[FoundEngine]:
    """The engines behind `ports` of 127.0.0.1, in that order. All are asked at once; ≤ `timeout_s` in all for each.

    Raises nothing: a port that is closed, slow or speaks something else is not an engine.
    """
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=timeout_s)
    # trust_env stays off: a proxy has no business on loopback
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def ask(port: int) -> FoundEngine | None:
            async def get(path: str) -> tuple[int, dict[str, str], Json]:
                url = f"http://127.0.0.1:{port}{path}"
                async with session.get(url, allow_redirects=False) as response:
                    body = await response.content.read(_MAX_ANSWER_BYTES)
                    fields = {name.lower(): value for name, value in response.headers.items()}
                    return response.status, fields, _object(body)

            try:
                async with asyncio.timeout(timeout_s):
                    return await _identify(port, get)
            except (OSError, TimeoutError, ValueError, aiohttp.ClientError):
                return None

        found = await asyncio.gather(*(ask(port) for port in ports))
    return [engine for engine in found if engine is not None]


async def _identify(port: int, get: Get) -> FoundEngine | None:
    status, fields, listed = await get("/v1/models")
    data = listed.get("data")
    if status in (401, 403):
        # it speaks the dialect but wants a key, which we do not have
        kind = "llama.cpp" if "llama.cpp" in fields.get("server", "") else "openai-compatible"
        return FoundEngine(kind, f"http://127.0.0.1:{port}/v1", "", ()) if "error" in listed else None
    if status != 200 or not isinstance(data, list):
        return None
    cards = [card for card in data if isinstance(card, dict) and isinstance(card.get("id"), str)]
    owners = {str(card.get("owned_by", "")).lower() for card in cards}
    kind, version, elsewhere = "openai-compatible", "", set[str]()
    if "llama.cpp" in fields.get("server", "") or "llamacpp" in owners:
        kind = "llama.cpp"
    elif "vllm" in owners:
        kind, version = "vllm", await _text(get, "/version", "version")
    elif "sglang" in owners:
        kind = "sglang"
    elif version := await _text(get, "/api/version", "version"):
        kind = "ollama"
        _, _, tags = await get("/api/tags")
        # these run in Ollama's cloud: they are not this machine's
        elsewhere = {str(tag.get("name")) for tag in tags.get("models") or () if tag.get("remote_host")}
    elif await _text(get, "/api/extra/version", "result") == "KoboldCpp":
        kind, version = "koboldcpp", await _text(get, "/api/extra/version", "version")
    elif "data" in (await get("/api/v0/models"))[2]:
        kind = "lm-studio"
    elif "running" in (await get("/running"))[2]:
        kind = "llama-swap"
    elif "backends" in (await get("/system"))[2]:
        kind = "localai"
    models = tuple(card["id"] for card in cards if card["id"] not in elsewhere)
    return FoundEngine(kind, f"http://127.0.0.1:{port}/v1", version, models)


async def _text(get: Get, path: str, member: str) -> str:
    status, _, answer = await get(path)
    value = answer.get(member)
    return value if status == 200 and isinstance(value, str) else ""


def _object(body: bytes) -> Json:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}
