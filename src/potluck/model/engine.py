"""What serves models on a machine: an engine, its models, how busy it is. Facts as the engine tells them, no opinions.

None, or an empty text, is "it does not say", never zero.
"""

from typing import Literal

import msgspec

EngineKind = Literal[
    "ollama",
    "lm-studio",
    "vllm",
    "llama.cpp",
    "sglang",
    "localai",
    "llama-swap",
    "koboldcpp",
    "openai-compatible",
]
"""`openai-compatible`: it lists models, and no engine's own answers were recognised"""
EngineState = Literal["ready", "loading", "locked"]
"""`loading`: it answers, and has no model yet. `locked`: it wants a key that it was not given."""
EngineCapability = Literal["chat", "completions", "embeddings", "rerank", "tools", "vision", "audio", "reasoning"]
Confidence = Literal["digest", "named", "guessed"]
"""How sure it is which weights a name stands for. `digest`: a hash of them. `named`: a repository, or size and
quantisation as the engine read them from the file. `guessed`: the served name is all there is."""


class EngineModel(msgspec.Struct, frozen=True):
    """A model as its engine serves it."""

    name: str
    """what a request calls it"""
    capabilities: tuple[EngineCapability, ...] = ()
    """sorted; `chat` and `completions` are assumed of a model whose engine says nothing, unless its name forbids it"""
    confidence: Confidence = "guessed"
    digest: str = ""
    """`sha256:` and 64 hexadecimal digits: of the file, or of Ollama's manifest"""
    repository: str = ""
    """on Hugging Face, `owner/name`"""
    revision: str = ""
    family: str = ""
    parameters: int | None = None
    """how many weights it has"""
    quantisation: str = ""
    """in upper case: `Q4_K_M`, `FP8`, `4BIT`"""
    format: str = ""
    """`gguf`, `mlx`, `safetensors`"""
    size_bytes: int | None = None
    trained_context: int | None = None
    """tokens"""
    served_context: int | None = None
    """tokens that one request can have, prompt and answer together, as it is served now"""
    resident: bool | None = None
    """it is in memory; a call to one that is not waits for it to be loaded"""


class EngineLoad(msgspec.Struct, frozen=True):
    """How busy an engine is, all callers taken together."""

    running: int | None = None
    queued: int | None = None
    slots: int | None = None
    """requests that it works on at once; more of them queue"""
    cache_used: float | None = None
    """of its key-value cache, 0 to 1"""
    idle_s: float | None = None
    """since it last had work, for engines that know"""
    resident: tuple[str, ...] | None = None
    """names of the models in memory, sorted"""
    vram_bytes: int | None = None
    """what those take on the GPU"""


class Engine(msgspec.Struct, frozen=True):
    """An engine that answers. Its address stays on the machine: it is never sent to a gateway."""

    kind: EngineKind
    base_url: str
    """ends in `/v1`: what `provider add` takes"""
    state: EngineState = "ready"
    version: str = ""
    models: tuple[EngineModel, ...] = ()
    """sorted by name; those that the engine itself has run elsewhere are left out"""
    elsewhere: tuple[str, ...] = ()
    """the names of those"""
    unusable: tuple[str, ...] = ()
    """names that no request can carry, as ASCII: their models are left out too"""
