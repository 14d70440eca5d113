"""What names and paths of weights give away: quantisation, repository, digest, number of parameters. Pure text."""

import re
from urllib.parse import unquote

_QUANTISATION = re.compile(
    r"(?:^|[-._:/@ ])"
    r"((?:UD[-_])?(?:IQ|TQ|Q)[1-8]_[A-Z0-9]+(?:_[A-Z0-9]+)*|BF16|FP?16|F32|FP8|AWQ|GPTQ|NVFP4|MXFP4|INT[48]|W[48]A(?:8|16)|[2-8]-?BIT)"
    r"(?=$|[-._:/ ])",
    re.IGNORECASE,
)
_DIGEST = re.compile(r"(?:^|[/\\])(?:sha256[-:]|blobs[/\\])([0-9a-f]{64})\Z")
_HUB = re.compile(r"(?:^|[/\\])models--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\]([0-9a-f]{7,64})(?:[/\\]|\Z)")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_COUNT = re.compile(r"(\d+(?:\.\d+)?) ?([KMBT])", re.IGNORECASE)
_SIZES = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_NOT_FOR_TEXT = re.compile(
    r"(?:^|[-._:/])(?:embed|embedding|embeddings|embedder|bge|gte|e5|minilm)(?:$|[-._:/\d])", re.IGNORECASE
)
_RERANKS = re.compile(r"rerank", re.IGNORECASE)


def quantisation_in(text: str) -> str:
    """`Q4_K_M` of `Meta-Llama-3-8B.Q4_K_M.gguf`; the last one named; empty: none. In upper case."""
    found = _QUANTISATION.findall(text)
    return found[-1].upper().replace("-", "_") if found else ""


def digest_in(path: str) -> str:
    """`sha256:…` of a path into a store that names its files by their hash (Ollama, Hugging Face); else empty."""
    found = _DIGEST.search(path)
    return f"sha256:{found[1]}" if found else ""


def repository_in(path: str) -> tuple[str, str]:
    """(`owner/name`, revision) of a path into Hugging Face's cache, or of a bare `owner/name`; else empty texts."""
    found = _HUB.search(path)
    if found:
        return f"{unquote(found[1])}/{unquote(found[2])}", found[3]
    is_file = path.endswith(".gguf") or path.startswith((".", "~"))
    return (path, "") if _REPOSITORY.fullmatch(path) and not is_file else ("", "")


def parameters_in(text: str) -> int | None:
    """7_600_000_000 of `7.6B`."""
    found = _COUNT.fullmatch(text.strip())
    return round(float(found[1]) * _SIZES[found[2].upper()]) if found else None


def format_of(path: str) -> str:
    """By the file's ending: `gguf`, or empty."""
    return "gguf" if path.lower().endswith(".gguf") else ""


def only_by_name(name: str) -> str:
    """`rerank` or `embeddings` for a model whose name says that it does not write text, else empty."""
    if _RERANKS.search(name):
        return "rerank"
    return "embeddings" if _NOT_FOR_TEXT.search(name) else ""
