"""What an upstream's text loses before a caller reads it, and what it keeps."""

import time

import pytest

from potluck.providers.scrub import MAX_MESSAGE_CHARS, scrub

PRIVATE = [
    "sk-abcdef0123456789",
    "sk-proj-AbC_123-xyz",
    "sk-abc*****wxyz",
    "gsk_abcdef123456",
    "AIzaSyA-1234567890abcdef",
    "plk-abcdefghijkl",
    "Bearer abc.def.ghi",
    "org-AbCdEf123456",
    "proj_9Xy8Zw7Vu6",
    "user-1a2b3c4d5e",
    "req_011CQabc123",
    "https://platform.openai.com/account/api-keys",
    "http://10.0.0.7:8000/v1",
    "10.0.0.7",
    "10.0.0.7:8000",
    "[::1]:8080",
    "fe80::1:2:3",
    "2001:db8:0:0:0:0:0:1",
    "ops@example.org",
    "api.example.com",
    "lab-1.internal:8000/v1",
    "localhost:8080",
    "/home/me/models/x.gguf",
    "inference.mycorp.tech",
    "GPU.Lab.Example.DE",
    "llm.svc.cluster.local.",
    "gateway.prod.k8s",
    "gpu-7.rack.mycorp",
    "gpu-7.rack.mycorp:8000",
    "vllm:8000",
    "my_vllm-backend:80",
    "node1.hpc:8080/v1/chat",
    "model.svc",
    "xn--bcher-kva.xn--p1ai",
    "0123456789abcdef0123456789abcdef",
    "123e4567-e89b-12d3-a456-426614174000",
]


@pytest.mark.parametrize("private", PRIVATE)
def test_private_is_hidden(private: str) -> None:
    """Keys, addresses, account ids and paths are replaced, wherever they stand in a sentence."""
    for text in (f"{private}", f"it said '{private}'.", f"({private}) was refused", f"x={private}, y=2"):
        assert private not in scrub(text), scrub(text)


@pytest.mark.parametrize(
    "text",
    [
        "'temperature' must be between 0 and 2, but is 2.5",
        "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens.",
        "Invalid schema for response_format 'x': In context=('properties', 'a'), 'type' is required.",
        "messages.0.content: user-supplied value is org-wide disallowed; see std::vector",
        "Unsupported value: 'gpt-4o-mini-2024-07-18' does not support tools and/or images",
        "at 12:30:45 the key 'n' was 3 (≤ 2 wanted)",
        "at 2026-11-24T12:30:45 tools.0.function.parameters was 3:2, e.g. i.e. 1.5 of gpt-4.1-mini or llama3.1:70b",
        "body.response_format.json_schema: Input should be an object",
        "messages[3].tool_calls: see chat.completions.create",
    ],
)
def test_plain_words_stay(text: str) -> None:
    """Messages that help the caller stay as they are."""
    assert scrub(text) == text


def test_known_secrets_and_length() -> None:
    """A secret that is handed in is hidden whatever it looks like; the text is bounded and on one line."""
    assert scrub("the word is tulip\nreally", ("tulip", "")) == "the word is […] really"
    assert len(scrub("long " * 1000)) == MAX_MESSAGE_CHARS


@pytest.mark.parametrize("piece", ["a", "a.", "a-", "1.", "a:", ":", "/a", "a@", "A1", "http", "sk-", "[", "bearer "])
def test_no_text_takes_long(piece: str) -> None:
    """Text made to slow the patterns down is done within a tenth of a second."""
    start = time.process_time()
    scrub(piece * 100_000)
    assert time.process_time() - start < 0.1


def test_secrets_are_hidden_however_they_stand() -> None:
    """In any case, one inside another, glued to words, and over the edge of what is read."""
    assert scrub("at GPU-box/gpu-BOX2 end", ("gpu-box", "gpu-box2")) == "at […]/[…] end"
    assert scrub("xhunter2y", ("hunter2",)) == "x[…]y"
    secret = "s3cret-" * 6 + "!"
    for lead in range(1900, 2010):
        text = scrub("\n" * lead + secret + " more", ("x", secret))
        assert "s3cret" not in text, lead


@pytest.mark.parametrize("piece", ["a.", "a:1", "a-1.", "x.de", "hunter2", "h"])
def test_no_text_with_secrets_takes_long(piece: str) -> None:
    """Many matches of many secrets are done within a tenth of a second, too."""
    start = time.process_time()
    scrub(piece * 100_000, ("hunter2", "h", "x.de", *(f"secret-{n}" for n in range(20))))
    assert time.process_time() - start < 0.1
