"""Which engine answers: told by what it says, never by its port (llama.cpp, LocalAI and llama-swap share one).

Engines imitate each other: KoboldCpp, LocalAI and llama.cpp answer as Ollama does, LM Studio answers 200 to whatever is
asked. So each is known by something that only it says, and Ollama, the most imitated, is looked for last.

An unknown server gets one question; one that lists models, at most nine more. All only read. Never asked, though some
would tell much: SGLang's `/health_generate` (it generates), llama-swap's `/upstream/…` and a llama.cpp router's
`/props?model=…` without `autoload=false` (they load), Ollama's `/api/generate` with an empty prompt (it loads).
"""

from collections.abc import Callable

import msgspec

from potluck.engines.questions import Dialogue, Question, Reply, member, objects, text
from potluck.model.engine import EngineKind, EngineState

PORTS = (11434, 1234, 8000, 8080, 30000, 5001, 9292)
"""defaults of Ollama, LM Studio, vLLM, llama.cpp and LocalAI, SGLang, KoboldCpp, llama-swap"""


class Identity(msgspec.Struct, frozen=True):
    """Who answers. `listed` is the reply to `/v1/models`, `own` the one that told the engine: both are read again."""

    kind: EngineKind
    listed: Reply
    own: Reply
    state: EngineState = "ready"
    version: str = ""


class Absent(msgspec.Struct, frozen=True):
    """There is no engine. `reason`: a few words for people. `refused`: nobody listens at all, it did not just hang."""

    reason: str
    refused: bool = False


_NO_LIST = Absent("what answers there lists no models")


def identify() -> Dialogue[Identity | Absent]:
    """Find out who answers."""
    listed = yield Question("/v1/models")
    if not listed.status:
        return Absent("nobody listens there", refused=True) if listed.refused else Absent("it does not answer in time")
    is_llama = "llama.cpp" in listed.headers.get("server", "")
    if not listed.ok:
        if listed.error is None:
            return _NO_LIST
        if listed.status in (401, 403):
            return Identity("llama.cpp" if is_llama else "openai-compatible", listed, listed, "locked")
        if listed.status == 503 and is_llama:
            return Identity("llama.cpp", listed, listed, "loading")
        return _NO_LIST
    if not isinstance(member(listed.json, "data"), list):
        return _NO_LIST
    if is_llama:
        own = yield Question("/props")
        return Identity("llama.cpp", listed, own, version=text(own.json, "build_info"))
    owners = {text(card, "owned_by").lower() for card in objects(listed.json, "data")}
    # its own word for itself goes first; the order of the rest is that of the table
    for check in sorted(_CHECKS, key=lambda check: check.owner not in owners):
        if check.owner_needed and check.owner not in owners:
            continue
        for path in check.paths:
            reply = yield Question(path)
            version = check.version(reply) if reply.ok else None
            if version is not None:
                if check.version_path:
                    version = text((yield Question(check.version_path)).json, "version")
                return Identity(check.kind, listed, reply, version=version)
            if not reply.status:
                return Absent("it stopped answering while it was asked who it is")
    return Identity("openai-compatible", listed, listed)


class _Check(msgspec.Struct, frozen=True):
    kind: EngineKind
    owner: str
    """what it writes as `owned_by` in its list"""
    paths: tuple[str, ...]
    """asked in order until one proves it"""
    version: Callable[[Reply], str | None]
    """None: it is not this engine"""
    owner_needed: bool = False
    """the paths alone prove nothing"""
    version_path: str = ""
    """where it tells its version, when not in the proof"""


def _llama_cpp(reply: Reply) -> str | None:
    has_build = isinstance(member(reply.json, "build_info"), str)
    return text(reply.json, "build_info") if has_build or "total_slots" in _object(reply) else None


def _koboldcpp(reply: Reply) -> str | None:
    return text(reply.json, "version") if text(reply.json, "result") == "KoboldCpp" else None


def _localai(reply: Reply) -> str | None:
    return "" if "backends" in _object(reply) and "loaded_models" in _object(reply) else None


def _lm_studio(reply: Reply) -> str | None:
    is_new = isinstance(member(reply.json, "models"), list)
    return "" if is_new or any("compatibility_type" in card for card in objects(reply.json, "data")) else None


def _llama_swap(reply: Reply) -> str | None:
    return "" if isinstance(member(reply.json, "running"), list) else None


def _sglang(reply: Reply) -> str | None:
    return "" if isinstance(member(reply.json, "model_path"), str) else None


def _vllm(reply: Reply) -> str | None:
    return text(reply.json, "version") or None


def _ollama(reply: Reply) -> str | None:
    return "" if reply.body.strip() == b"Ollama is running" else None


def _object(reply: Reply) -> dict[str, object]:
    return reply.json if isinstance(reply.json, dict) else {}


_CHECKS = (
    _Check("llama.cpp", "llamacpp", ("/props",), _llama_cpp),
    _Check("koboldcpp", "koboldcpp", ("/api/extra/version",), _koboldcpp),
    _Check("vllm", "vllm", ("/version",), _vllm, owner_needed=True),
    _Check(
        "sglang", "sglang", ("/model_info", "/get_model_info"), _sglang, owner_needed=True, version_path="/server_info"
    ),
    _Check("llama-swap", "llama-swap", ("/running",), _llama_swap, version_path="/api/version"),
    _Check("localai", "localai", ("/system",), _localai, version_path="/version"),
    _Check("lm-studio", "organization_owner", ("/api/v1/models", "/api/v0/models"), _lm_studio),
    _Check("ollama", "library", ("/",), _ollama, version_path="/api/version"),
)
