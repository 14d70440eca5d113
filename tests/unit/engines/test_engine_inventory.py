"""Which models an engine serves, how sure it is which weights they are, and whose they are."""

from typing import Any

import pytest
from engine_dialogue import Pages, inventory_of, listing, page, play
from hypothesis import given
from hypothesis import strategies as st

from potluck.engines.fingerprints import Identity
from potluck.engines.inventory import UnansweredError, take_inventory
from potluck.engines.questions import Question, Reply
from potluck.model.engine import Engine, EngineKind

HEX = "0123456789abcdef" * 4


def ollama(*tags: dict[str, Any], show: Any = None, resident: tuple[dict[str, Any], ...] = ()) -> Pages:
    return {
        "/v1/models": listing("library"),
        "/": b"Ollama is running",
        "/api/tags": {"models": list(tags)},
        "/api/ps": {"models": list(resident)},
        "/api/show": show if show is not None else Reply(404, {}, b"{}"),
    }


SHOW = {
    "capabilities": ["completion", "tools", "vision", "thinking", "insert"],
    "model_info": {"general.architecture": "llama", "general.parameter_count": 8e9, "llama.context_length": 131072},
    "parameters": 'stop   "<x>"\nnum_ctx                        16384\ntemperature 0.7',
}


def test_ollama_names_its_weights_by_digest() -> None:
    """Digest, sizes, both contexts and capabilities are read from where it keeps each."""
    tag = {"name": "m:8b", "digest": HEX, "size": 5, "details": {"quantization_level": "Q4_K_M", "format": "gguf"}}
    (model,) = inventory_of(ollama(tag, show=SHOW)).models
    assert (model.digest, model.confidence) == (f"sha256:{HEX}", "digest")
    assert model.capabilities == ("chat", "completions", "reasoning", "tools", "vision")
    assert (model.parameters, model.quantisation, model.format, model.size_bytes) == (8 * 10**9, "Q4_K_M", "gguf", 5)
    assert (model.trained_context, model.served_context, model.resident) == (131072, 16384, False)


def test_the_context_of_a_loaded_model_is_the_one_it_was_loaded_with() -> None:
    """What runs counts more than what its file asks for."""
    tag = {"name": "m:8b", "digest": HEX}
    (model,) = inventory_of(ollama(tag, show=SHOW, resident=({"name": "m:8b", "context_length": 4096},))).models
    assert (model.served_context, model.resident) == (4096, True)


@pytest.mark.parametrize("where", ["tag", "show"])
@pytest.mark.parametrize("sign", ["remote_host", "remote_model"])
def test_models_of_ollamas_cloud_are_set_apart(where: str, sign: str) -> None:
    """They are not this machine's, wherever Ollama says so; the detail of one that the list tells of is not asked."""
    tag = {"name": "huge:cloud", "digest": HEX}
    asked: list[Question] = []
    found = inventory_of(
        ollama(tag | ({sign: "x"} if where == "tag" else {}), show=SHOW | ({sign: "x"} if where == "show" else {})),
        asked=asked,
    )
    assert (found.models, found.elsewhere) == ((), ("huge:cloud",))
    assert [each.path for each in asked] == ["/api/tags", "/api/ps", *(["/api/show"] if where == "show" else [])]


def test_a_model_that_was_seen_before_is_not_asked_about_again() -> None:
    """The same digest has the same facts; another one is another model."""
    tag = {"name": "m:8b", "digest": HEX}
    first = inventory_of(ollama(tag, show=SHOW))
    before = Engine("ollama", "http://x/v1", models=first.models)
    asked: list[Question] = []
    again = inventory_of(ollama(tag, show=SHOW, resident=({"name": "m:8b"},)), before, asked)
    assert "/api/show" not in [each.path for each in asked]
    assert again.models[0].capabilities == first.models[0].capabilities
    assert again.models[0].resident is True
    inventory_of(ollama(tag | {"digest": "f" * 64}, show=SHOW), before, asked)
    assert [each.path for each in asked].count("/api/show") == 1


def test_a_detail_that_failed_is_asked_again() -> None:
    """One refused answer does not fix a guess for good."""
    tag = {"name": "m:8b", "digest": HEX}
    first = inventory_of(ollama(tag, show=Reply(500)))
    assert first.models[0].confidence == "guessed"
    again = inventory_of(ollama(tag, show=SHOW), Engine("ollama", "http://x/v1", models=first.models))
    assert again.models[0].confidence == "digest"


@pytest.mark.parametrize("silent", ["/api/tags", "/api/ps", "/api/show"])
def test_half_an_inventory_is_none(silent: str) -> None:
    """An engine that falls silent in the middle is not announced with what was heard so far."""
    with pytest.raises(UnansweredError):
        inventory_of(ollama({"name": "m:8b", "digest": HEX}, show=SHOW) | {silent: Reply()})


def test_models_of_a_swaps_peers_are_set_apart() -> None:
    """llama-swap lists what other machines serve beside its own; a name of both may be run there."""
    own = listing("llama-swap", "a", "b")["data"]
    peers = listing("llama-swap", "b", "c", meta={"llamaswap": {"peerID": "box"}})["data"]
    found = inventory_of(
        {
            "/v1/models": {"data": own + peers},
            "/running": {"running": [{"model": "a", "state": "ready"}, {"model": "x", "state": "starting"}]},
        }
    )
    assert ([each.name for each in found.models], found.elsewhere) == (["a"], ("b", "c"))
    assert found.models[0].resident is True


def test_a_router_of_llama_cpp_is_asked_about_loaded_models_only() -> None:
    """And told not to load anything for the answer."""
    cards = listing("llamacpp", "a/b:Q8_0", status={"value": "loaded"})["data"]
    cards += listing("llamacpp", "c", status={"value": "unloaded"})["data"]
    asked: list[Question] = []
    props = {"total_slots": 2, "default_generation_settings": {"n_ctx": 2048}, "modalities": {"vision": True}}
    found = inventory_of(
        {
            "/v1/models": page({"data": cards}, server="llama.cpp"),
            "/props": {"role": "router"},
            "/props?model=a%2Fb%3AQ8_0&autoload=false": props,
        },
        asked=asked,
    )
    assert [each.path for each in asked] == ["/props?model=a%2Fb%3AQ8_0&autoload=false"]
    first, second = found.models
    assert (first.repository, first.quantisation, first.served_context) == ("a/b", "Q8_0", 2048)
    assert ("vision" in first.capabilities, first.resident, second.resident) == (True, True, False)


def test_a_model_without_any_word_about_itself_is_a_guess() -> None:
    """A plain list says names; what cannot chat is told by its name alone."""
    found = inventory_of({"/v1/models": listing("x", "gpt-x", "nomic-embed-text", "bge-m3", "my-reranker-v2")})
    assert {each.name: each.capabilities for each in found.models} == {
        "bge-m3": ("embeddings",),
        "gpt-x": ("chat", "completions"),
        "my-reranker-v2": ("rerank",),
        "nomic-embed-text": ("embeddings",),
    }
    assert {each.confidence for each in found.models} == {"guessed"}


@pytest.mark.parametrize("bad", ["", "two words", "new\nline", "ünicode", "x" * 300, None, 7, ["x"], "\x00"])
def test_names_that_no_request_could_name_are_left_out(bad: Any) -> None:
    """A name is printable ASCII without spaces, of at most 256 characters."""
    found = inventory_of({"/v1/models": {"data": [{"id": bad}, {"id": "good"}, {"id": "good"}, "text", None]}})
    assert [each.name for each in found.models] == ["good"]


def test_an_adapter_is_not_its_base_model() -> None:
    """SGLang's LoRA cards do not get the repository of the model below."""
    cards = listing("sglang", "base")["data"] + listing("sglang", "lora", parent="base", root="/l")["data"]
    found = inventory_of({"/v1/models": {"data": cards}, "/model_info": {"model_path": "acme/base-FP8"}})
    assert [(each.name, each.repository, each.confidence) for each in found.models] == [
        ("base", "acme/base-FP8", "named"),
        ("lora", "", "guessed"),
    ]


MEMBERS = """
data models id name key digest details capabilities model_info parameters remote_host
loaded_instances config meta llamaswap status value quantization model_path modalities
default_generation_settings n_ctx backend type
"""
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just("m1")
names = st.sampled_from(MEMBERS.split())
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=6), max_leaves=20
)
KINDS: list[EngineKind] = ["ollama", "lm-studio", "vllm", "llama.cpp", "sglang", "localai", "llama-swap", "koboldcpp"]


@given(st.sampled_from(KINDS), anything, anything, anything)
def test_no_answer_breaks_the_inventory(kind: EngineKind, listed: Any, own: Any, other: Any) -> None:
    """Whatever the pages are made of, what comes out is well-formed."""
    pages = dict.fromkeys(("/api/tags", "/api/ps", "/api/show", "/api/models/capabilities"), other)
    identity = Identity(kind, page({"data": [listed, {"id": "m1"}]}), page(own))
    found = play(take_inventory(identity), pages)
    assert [each.name for each in found.models] == sorted({each.name for each in found.models})
    assert not {each.name for each in found.models} & set(found.elsewhere)
    for model in found.models:
        assert model.name.isascii()
        assert model.name.isprintable()
        assert model.capabilities == tuple(sorted(set(model.capabilities))) != ()
        assert all(
            number is None or number > 0 for number in (model.parameters, model.size_bytes, model.served_context)
        )
