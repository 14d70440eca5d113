"""What an engine serves: its models, which weights each stands for, what it can do. One dialogue per kind.

An engine that has some models run elsewhere (Ollama's cloud, llama-swap's peers, LocalAI's cloud proxy) lists them
beside its own. They are set apart: offering them as this machine's would break the promise that a node's answers are
made on that node. LM Studio's LM Link does the same, and says so nowhere in what it lists.
"""

from collections.abc import Callable
from urllib.parse import quote

import msgspec

from potluck.engines.fingerprints import Identity
from potluck.engines.questions import Dialogue, Json, Question, Reply, member, name, objects, positive, text, words
from potluck.engines.weights import (
    digest_in,
    format_of,
    only_by_name,
    parameters_in,
    quantisation_in,
    repository_in,
)
from potluck.model.engine import Confidence, Engine, EngineCapability, EngineKind, EngineModel


class Inventory(msgspec.Struct, frozen=True):
    """`models`, `elsewhere` and `unusable` as in `Engine`."""

    models: tuple[EngineModel, ...]
    elsewhere: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()


def take_inventory(identity: Identity, before: Engine | None = None) -> Dialogue[Inventory]:
    """What it serves. `before`: the same engine as it was found last; what cannot have changed is not asked again.

    Raises UnansweredError.
    """
    if identity.kind == "ollama":
        found = yield from _ollama({model.name: model for model in before.models} if before else {})
    elif identity.kind == "llama.cpp":
        found = yield from _llama_cpp(identity)
    elif identity.kind == "localai":
        found = yield from _localai(identity)
    elif identity.kind == "koboldcpp":
        found = yield from _koboldcpp(identity)
    else:
        found = _KNOWN_ALREADY.get(identity.kind, _listed_only)(identity)
    elsewhere = tuple(sorted(set(found.elsewhere)))
    # a name twice is one model; one that is run here and elsewhere may be run elsewhere
    own = {model.name: model for model in found.models if model.name not in elsewhere}
    return Inventory(tuple(_judged(own[each]) for each in sorted(own)), elsewhere, _unusable(identity.listed))


class UnansweredError(Exception):
    """The engine stopped answering: half an inventory is none."""


def _ask(path: str, body: bytes = b"") -> Dialogue[Reply]:
    """Raises UnansweredError."""
    reply = yield Question(path, body)
    if not reply.status:
        raise UnansweredError
    return reply


def _unusable(listed: Reply) -> tuple[str, ...]:
    told = {card["id"] for card in objects(listed.json, "data") if isinstance(card.get("id"), str)}
    return tuple(sorted(each.encode("ascii", "backslashreplace")[:60].decode() for each in told if not _is_name(each)))


def _is_name(told: str) -> bool:
    return bool(name({"id": told}, "id"))


def _judged(model: EngineModel) -> EngineModel:
    """With the confidence that its facts deserve, and the capabilities that its name suggests when none are told."""
    confidence: Confidence = "guessed"
    if model.digest:
        confidence = "digest"
    elif model.repository or (model.parameters and model.quantisation):
        confidence = "named"
    capabilities = tuple(sorted(set(model.capabilities) or _assumed(model.name)))
    return msgspec.structs.replace(model, confidence=confidence, capabilities=capabilities)


def _cards(reply: Reply, *path: str) -> list[Json]:
    """Those that have a usable name."""
    return [card for card in objects(reply.json, *(path or ("data",))) if name(card, "id")]


def _listed_only(identity: Identity) -> Inventory:
    """A plain list: names, and what some servers add to them."""
    return Inventory(tuple(_plain(card) for card in _cards(identity.listed)))


def _plain(card: Json, resident: bool | None = None, root: str = "") -> EngineModel:
    """A model of which the list tells all there is. `root`: what it is served from, where that is known better."""
    served = name(card, "id")
    repository, revision = repository_in(root or text(card, "root"))
    return EngineModel(
        served,
        repository=repository,
        revision=revision,
        quantisation=quantisation_in(repository or served),
        served_context=positive(card, "max_model_len") or positive(card, "context_length"),
        resident=resident,
    )


def _assumed(served: str) -> set[EngineCapability]:
    only = only_by_name(served)
    if only == "rerank":
        return {"rerank"}
    return {"embeddings"} if only else {"chat", "completions"}


def _ollama(known: dict[str, EngineModel]) -> Dialogue[Inventory]:
    tags = yield from _ask("/api/tags")
    resident = {name(each, "name"): each for each in objects((yield from _ask("/api/ps")).json, "models")}
    models, elsewhere = [], []
    for tag in objects(tags.json, "models"):
        served = name(tag, "name")
        if not served:
            continue
        if tag.get("remote_host") or tag.get("remote_model"):
            elsewhere.append(served)
            continue
        digest = f"sha256:{text(tag, 'digest').removeprefix('sha256:')}" if text(tag, "digest") else ""
        model = known.get(served)
        if model is None or not digest or model.digest != digest:
            show = (yield from _ask("/api/show", msgspec.json.encode({"model": served}))).json
            if show is None:
                digest = ""  # so that it is asked again
            if member(show, "remote_host") or member(show, "remote_model"):
                elsewhere.append(served)
                continue
            model = _ollama_model(served, digest, tag, show)
        context = positive(resident.get(served), "context_length") or model.served_context
        models.append(msgspec.structs.replace(model, resident=served in resident, served_context=context))
    return Inventory(tuple(models), tuple(elsewhere))


def _ollama_model(served: str, digest: str, tag: Json, show: object) -> EngineModel:
    said = words(show, "capabilities") or words(tag, "capabilities")
    info = member(show, "model_info")
    family = text(info, "general.architecture") or text(tag, "details", "family")
    # a Modelfile's own context, in lines of `name   value`
    lines = member(show, "parameters")
    settings = (
        dict(line.split(None, 1) for line in lines.splitlines() if " " in line.strip())
        if isinstance(lines, str)
        else {}
    )
    asked_context = settings.get("num_ctx", "").strip()
    return EngineModel(
        served,
        tuple({each for word in said for each in _OLLAMA_WORDS.get(word, ())}),
        digest=digest,
        family=family,
        parameters=positive(info, "general.parameter_count") or parameters_in(text(tag, "details", "parameter_size")),
        quantisation=text(tag, "details", "quantization_level").upper(),
        format=text(tag, "details", "format"),
        size_bytes=positive(tag, "size"),
        trained_context=positive(info, f"{family}.context_length"),
        served_context=int(asked_context) if asked_context.isdigit() and len(asked_context) < 9 else None,
    )


_OLLAMA_WORDS: dict[str, tuple[EngineCapability, ...]] = {
    "completion": ("chat", "completions"),
    "embedding": ("embeddings",),
    "tools": ("tools",),
    "vision": ("vision",),
    "audio": ("audio",),
    "thinking": ("reasoning",),
}


def _lm_studio(identity: Identity) -> Inventory:
    new = [_lm_studio_model(card) for card in objects(identity.own.json, "models") if name(card, "key")]
    old = [_lm_studio_v0(card) for card in _cards(identity.own)]
    return Inventory(tuple(new or old))


def _lm_studio_model(card: Json) -> EngineModel:
    served, loaded = name(card, "key"), [*objects(card, "loaded_instances")]
    capabilities: set[EngineCapability] = {"embeddings"} if card.get("type") == "embedding" else {"chat", "completions"}
    for word, capability in _LM_STUDIO_WORDS.items():
        if member(card, "capabilities", word):
            capabilities.add(capability)
    contexts = [positive(each, "config", "context_length") for each in loaded]
    return EngineModel(
        served,
        tuple(capabilities),
        repository=_owned(text(card, "publisher"), served),
        family=text(card, "architecture"),
        parameters=parameters_in(text(card, "params_string")),
        quantisation=text(card, "quantization", "name").upper(),
        format=text(card, "format"),
        size_bytes=positive(card, "size_bytes"),
        trained_context=positive(card, "max_context_length"),
        served_context=min((each for each in contexts if each), default=None),
        resident=bool(loaded),
    )


_LM_STUDIO_WORDS: dict[str, EngineCapability] = {
    "vision": "vision",
    "trained_for_tool_use": "tools",
    "reasoning": "reasoning",
}


def _lm_studio_v0(card: Json) -> EngineModel:
    served, kind = name(card, "id"), text(card, "type")
    capabilities: set[EngineCapability] = {"embeddings"} if kind == "embeddings" else {"chat", "completions"}
    if kind == "vlm":
        capabilities.add("vision")
    if "tool_use" in words(card, "capabilities"):
        capabilities.add("tools")
    return EngineModel(
        served,
        tuple(capabilities),
        repository=_owned(text(card, "publisher"), served),
        family=text(card, "arch"),
        quantisation=text(card, "quantization").upper(),
        format=text(card, "compatibility_type"),
        trained_context=positive(card, "max_context_length"),
        served_context=positive(card, "loaded_context_length"),
        resident=text(card, "state") == "loaded",
    )


def _owned(publisher: str, served: str) -> str:
    return repository_in(served)[0] or repository_in(f"{publisher}/{served}")[0]


def _llama_cpp(identity: Identity) -> Dialogue[Inventory]:
    models = []
    for card in _cards(identity.listed):
        status, props = text(card, "status", "value"), identity.own.json
        if status:  # a router: its own /props tells of no model
            path = router_path("/props", name(card, "id"))
            props = (yield from _ask(path)).json if status in ("loaded", "sleeping") else None
        models.append(_llama_model(card, props, status))
    return Inventory(tuple(models))


def router_path(path: str, served: str) -> str:
    """A question about one model of a llama.cpp router, which by default would load it to answer."""
    return f"{path}?model={quote(served, safe='')}&autoload=false"


def _llama_model(card: Json, props: object, status: str) -> EngineModel:
    served = name(card, "id")
    path = text(props, "model_path") or text(card, "path")
    modalities = words(card, "architecture", "input_modalities") | words(card, "architecture", "output_modalities")
    modalities |= {word for word in ("vision", "audio") if member(props, "modalities", word)}
    capabilities = set(_assumed(served))
    if "chat" in capabilities:
        capabilities |= {"vision"} if modalities & {"vision", "image"} else set()
        capabilities |= {"audio"} if "audio" in modalities else set()
        capabilities |= {"tools"} if member(props, "chat_template_caps", "supports_tools") else set()
    repository, revision = repository_in(path) if path else repository_in(served.partition(":")[0])
    return EngineModel(
        served,
        tuple(capabilities),
        digest=digest_in(path),
        repository=repository,
        revision=revision,
        parameters=positive(card, "meta", "n_params"),
        quantisation=quantisation_in(path) or quantisation_in(served),
        format=format_of(path) or "gguf",
        size_bytes=positive(card, "meta", "size"),
        trained_context=positive(card, "meta", "n_ctx_train"),
        served_context=positive(props, "default_generation_settings", "n_ctx"),
        resident=status == "loaded" if status else not member(props, "is_sleeping"),
    )


def _sglang(identity: Identity) -> Inventory:
    told = identity.own.json
    capabilities: set[EngineCapability] = (
        {"chat", "completions"} if member(told, "is_generation") is not False else {"embeddings"}
    )
    capabilities |= {"vision"} if member(told, "has_image_understanding") else set()
    capabilities |= {"audio"} if member(told, "has_audio_understanding") else set()
    models = [
        _plain(card, True, "" if card.get("parent") else text(told, "model_path")) for card in _cards(identity.listed)
    ]
    return Inventory(tuple(msgspec.structs.replace(each, capabilities=tuple(capabilities)) for each in models))


def _vllm(identity: Identity) -> Inventory:
    return Inventory(tuple(_plain(card, True) for card in _cards(identity.listed)))


def _localai(identity: Identity) -> Dialogue[Inventory]:
    loaded = {name(each, "id") for each in objects(identity.own.json, "loaded_models")}
    told = {name(each, "id"): each for each in objects((yield from _ask("/api/models/capabilities")).json, "data")}
    models, elsewhere = [], []
    for card in _cards(identity.listed):
        served = name(card, "id")
        said = words(told.get(served), "capabilities")
        capabilities: set[EngineCapability] = {_LOCALAI_WORDS[word] for word in said if word in _LOCALAI_WORDS}
        if text(told.get(served), "backend") == "cloud-proxy":
            elsewhere.append(served)
        elif capabilities or not said:  # what only paints or speaks has no place among language models
            models.append(
                EngineModel(
                    served, tuple(capabilities), quantisation=quantisation_in(served), resident=served in loaded
                )
            )
    return Inventory(tuple(models), tuple(elsewhere))


_LOCALAI_WORDS: dict[str, EngineCapability] = {
    "flag_chat": "chat",
    "flag_completion": "completions",
    "flag_embeddings": "embeddings",
    "flag_rerank": "rerank",
    "flag_vision": "vision",
}


def _llama_swap(identity: Identity) -> Inventory:
    running = {name(each, "model") for each in objects(identity.own.json, "running") if each.get("state") == "ready"}
    cards = _cards(identity.listed)
    peers = [name(card, "id") for card in cards if member(card, "meta", "llamaswap", "peerID")]
    own = [card for card in cards if name(card, "id") not in peers]
    return Inventory(tuple(_plain(card, name(card, "id") in running) for card in own), tuple(peers))


def _koboldcpp(identity: Identity) -> Dialogue[Inventory]:
    context = positive((yield from _ask("/api/extra/true_max_context_length")).json, "value")
    capabilities: set[EngineCapability] = {"chat", "completions"}
    for word in ("vision", "audio", "embeddings"):
        if member(identity.own.json, word) is True:
            capabilities.add(word)
    return Inventory(
        tuple(
            EngineModel(
                name(card, "id"),
                tuple(capabilities),
                quantisation=quantisation_in(name(card, "id")),
                format="gguf",
                served_context=context,
                resident=True,
            )
            for card in _cards(identity.listed)
            if name(card, "id") != "koboldcpp/inactive"  # it runs without a model
        )
    )


_KNOWN_ALREADY: dict[EngineKind, Callable[[Identity], Inventory]] = {
    "lm-studio": _lm_studio,
    "sglang": _sglang,
    "vllm": _vllm,
    "llama-swap": _llama_swap,
}
"""those that told everything while they were identified"""
