"""What names and paths of weights give away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.engines.weights import digest_in, only_by_name, parameters_in, quantisation_in, repository_in

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "quantisation"),
    [
        ("Meta-Llama-3-8B.Q4_K_M.gguf", "Q4_K_M"),
        ("/models/qwen-IQ2_XXS.gguf", "IQ2_XXS"),
        ("ggml-org/gemma-3-4b-it-GGUF:Q8_0", "Q8_0"),
        ("Kimi-K2-UD-IQ1_S-00001-of-00006.gguf", "UD_IQ1_S"),
        ("acme/model-AWQ", "AWQ"),
        ("nvidia/Llama-3-FP8", "FP8"),
        ("model-w4a16", "W4A16"),
        ("mlx-community/x-4bit", "4BIT"),
        ("x.f16.gguf", "F16"),
        ("Q4-is-my-favourite", ""),
        ("Qwen3-8B", ""),
        ("", ""),
    ],
)
def test_the_quantisation_is_read_from_a_name(text: str, quantisation: str) -> None:
    """As the usual spellings have it; a Q in a model's own name is none."""
    assert quantisation_in(text) == quantisation


@pytest.mark.parametrize(
    ("path", "digest"),
    [
        (f"/srv/ollama/models/blobs/sha256-{HEX}", f"sha256:{HEX}"),
        (f"/c/hub/models--a--b/blobs/{HEX}", f"sha256:{HEX}"),
        (f"C:\\models\\blobs\\sha256-{HEX}", f"sha256:{HEX}"),
        (f"/tmp/{HEX}", ""),
        ("/models/x.gguf", ""),
    ],
)
def test_a_store_that_names_files_by_hash_gives_the_digest(path: str, digest: str) -> None:
    """Only where the place says that the name is a hash."""
    assert digest_in(path) == digest


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/c/hub/models--acme--tiny-GGUF/snapshots/0123abc/tiny.Q4_0.gguf", ("acme/tiny-GGUF", "0123abc")),
        ("Qwen/Qwen2.5-7B-Instruct", ("Qwen/Qwen2.5-7B-Instruct", "")),
        ("models/tiny.gguf", ("", "")),
        ("/data/models/tiny", ("", "")),
        ("./x/y", ("", "")),
        ("tiny", ("", "")),
        ("a/b/c", ("", "")),
    ],
)
def test_a_repository_is_told_from_a_file(path: str, found: tuple[str, str]) -> None:
    """A path is not a repository because it has a slash in it."""
    assert repository_in(path) == found


@pytest.mark.parametrize(
    ("text", "count"), [("7.6B", 7_600_000_000), ("270M", 270_000_000), ("1T", 10**12), ("big", None), ("", None)]
)
def test_sizes_are_numbers(text: str, count: int | None) -> None:
    """As people write them."""
    assert parameters_in(text) == count


@pytest.mark.parametrize(
    ("name", "only"),
    [
        ("nomic-embed-text:latest", "embeddings"),
        ("text-embedding-3-small", "embeddings"),
        ("intfloat/e5-large", "embeddings"),
        ("bge-reranker-v2-m3", "rerank"),
        ("gemma3:4b", ""),
        ("embedded-coder", ""),
        ("large5-chat", ""),
    ],
)
def test_some_names_say_that_a_model_does_not_chat(name: str, only: str) -> None:
    """As whole words, not as parts of others."""
    assert only_by_name(name) == only


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    """No text breaks a reader."""
    assert quantisation_in(text) == quantisation_in(text).upper()
    assert repository_in(text)[0].count("/") <= 1
    digest_in(text)
    only_by_name(text)
    parameters_in(text)
