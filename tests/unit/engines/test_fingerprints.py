"""Telling engines from what they say; their imitators; what is no engine."""

from typing import Any

import pytest
from engine_dialogue import Pages, identity_of, listing, page, play
from hypothesis import given
from hypothesis import strategies as st

from potluck.engines.fingerprints import Absent, identify
from potluck.engines.questions import Question, Reply
from potluck.model.engine import EngineKind

OLLAMA: Pages = {"/": b"Ollama is running", "/api/version": {"version": "0.9.1"}, "/api/tags": {"models": []}}
KOBOLD: Pages = {"/api/extra/version": {"result": "KoboldCpp", "version": "1.110"}}
LOCALAI: Pages = {"/system": {"backends": [], "loaded_models": []}, "/version": {"version": "v4"}}
SWAP: Pages = {"/running": {"running": []}, "/api/version": {"version": "210"}}
STUDIO: Pages = {"/api/v1/models": {"models": []}}
LLAMA: Pages = {"/props": {"total_slots": 1, "build_info": "b7000-abc"}}


@pytest.mark.parametrize(
    ("owner", "pages", "kind", "version"),
    [
        ("library", OLLAMA, "ollama", "0.9.1"),
        ("somebody-else", OLLAMA, "ollama", "0.9.1"),
        ("organization_owner", STUDIO, "lm-studio", ""),
        ("", {"/api/v0/models": {"data": [{"id": "m1", "compatibility_type": "mlx"}]}}, "lm-studio", ""),
        ("vllm", {"/version": {"version": "0.12.0"}}, "vllm", "0.12.0"),
        ("someone", {"/version": {"version": "0.12.0"}}, "openai-compatible", ""),
        ("sglang", {"/model_info": {"model_path": "a/b"}, "/server_info": {"version": "0.5"}}, "sglang", "0.5"),
        ("sglang", {"/get_model_info": {"model_path": "a/b"}}, "sglang", ""),
        ("llamacpp", LLAMA, "llama.cpp", "b7000-abc"),
        ("", LOCALAI, "localai", "v4"),
        ("llama-swap", SWAP, "llama-swap", "210"),
        ("koboldcpp", KOBOLD, "koboldcpp", "1.110"),
        ("someone", {}, "openai-compatible", ""),
        ("vllm", {}, "openai-compatible", ""),
    ],
)
def test_an_engine_is_known_by_its_own_answers(owner: str, pages: Pages, kind: EngineKind, version: str) -> None:
    """By a page that only it has, whatever it writes as owner of its models."""
    found = identity_of({"/v1/models": listing(owner), **pages})
    assert (found.kind, found.version, found.state) == (kind, version, "ready")


@pytest.mark.parametrize(
    ("pages", "kind"), [(KOBOLD, "koboldcpp"), (LOCALAI, "localai"), (LLAMA, "llama.cpp"), (SWAP, "llama-swap")]
)
@pytest.mark.parametrize("owner", ["", "library"])
def test_who_imitates_ollama_is_not_taken_for_it(pages: Pages, kind: EngineKind, owner: str) -> None:
    """Some answer all of Ollama's questions as it does, and have one answer more."""
    pages = {"/v1/models": listing(owner), **OLLAMA, **pages}
    if owner:
        del pages["/"]  # whoever signs as Ollama and greets as Ollama cannot be told from it, and need not be
    assert identity_of(pages).kind == kind


def test_a_server_that_answers_everything_alike_is_no_engine_in_particular() -> None:
    """LM Studio says 200 to what it does not know: only members that mean something count."""
    shrug = {"error": "Unexpected endpoint or method. Returning 200 anyway"}
    pages = dict.fromkeys(("/props", "/running", "/system", "/version", "/", "/api/extra/version"), shrug)
    assert identity_of({"/v1/models": listing("organization_owner"), **pages}).kind == "openai-compatible"
    assert identity_of({"/v1/models": listing(""), **pages, **STUDIO}).kind == "lm-studio"


def test_llama_cpp_is_known_by_its_header_when_it_hides_its_properties() -> None:
    """A server that keeps `/props` to itself still signs its answers."""
    found = identity_of({"/v1/models": page(listing("me"), server="llama.cpp"), "/props": Reply(401)})
    assert (found.kind, found.version) == ("llama.cpp", "")


@pytest.mark.parametrize("status", [401, 403])
def test_an_engine_that_wants_a_key_is_locked(status: int) -> None:
    """It is there, though it does not say what it serves."""
    locked = Reply(status, {}, b'{"error": {"message": "key"}}')
    assert identity_of({"/v1/models": locked}).state == "locked"
    signed = Reply(status, {"server": "llama.cpp"}, locked.body)
    assert identity_of({"/v1/models": signed}).kind == "llama.cpp"


def test_llama_cpp_that_still_loads_is_there() -> None:
    """It answers 503 until its model is in memory; a 503 of a stranger is nothing."""
    body = b'{"error": {"code": 503, "message": "Loading model"}}'
    assert identity_of({"/v1/models": Reply(503, {"server": "llama.cpp"}, body)}).state == "loading"
    assert isinstance(play(identify(), {"/v1/models": Reply(503, {}, body)}), Absent)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"data": "x"}', b"\xff", b"[" * 10_000, b""])
def test_what_lists_no_models_is_no_engine(body: bytes) -> None:
    """A web server on a well-known port gets one question and is left alone."""
    asked: list[Question] = []
    assert isinstance(play(identify(), {"/v1/models": page(body)}, asked), Absent)
    assert len(asked) == 1


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_status_other_than_success_is_no_list(status: int) -> None:
    """Nor is a redirect followed."""
    assert isinstance(play(identify(), {"/v1/models": Reply(status, {"location": "/v1/m"}, b"{}")}), Absent)


def test_a_closed_port_and_a_silent_one_are_told_apart() -> None:
    """Nobody there is certain; no answer may only be slow."""
    gone = play(identify(), {"/v1/models": Reply(refused=True)})
    slow = play(identify(), {"/v1/models": Reply()})
    assert isinstance(gone, Absent)
    assert isinstance(slow, Absent)
    assert (gone.refused, slow.refused) == (True, False)


def test_one_that_falls_silent_is_not_asked_on() -> None:
    """The first question without an answer is the last."""
    asked: list[Question] = []
    assert isinstance(play(identify(), {"/v1/models": listing("llamacpp"), "/props": Reply()}, asked), Absent)
    assert [each.path for each in asked] == ["/v1/models", "/props"]


def test_an_unknown_engine_is_asked_little_and_never_told_to_do_anything() -> None:
    """At most ten questions, all of them GET."""
    asked: list[Question] = []
    play(identify(), {"/v1/models": listing("sglang")}, asked)
    assert len(asked) <= 10
    assert not any(each.body for each in asked)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["data", "models", "running", "version", "result", "id", "owned_by", "backends", "model_path"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(["/v1/models", "/", "/props", "/version", "/running"]), json_values), json_values
)
def test_no_answer_breaks_the_search(pages: Pages, cards: Any) -> None:
    """Whatever an answer is made of, there is a verdict."""
    play(identify(), {"/v1/models": {"data": cards}, **pages})
