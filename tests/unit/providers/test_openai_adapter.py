"""OpenAI-compatible targets: request heads, statuses, error texts."""

import json
from typing import Any

import pytest

from potluck import __version__
from potluck.model.secret import Secret
from potluck.providers.openai import (
    MAX_ERROR_BYTES,
    build_heads,
    classify_error,
    classify_refusal,
    classify_status,
    models_request,
    read_error,
)

KEY = "sk-test-0123456789abcdef"


def test_heads_to_the_byte() -> None:
    """A head is complete but for the length of the body, with fields in a fixed order and the key as bearer."""
    heads = build_heads("https://api.example.com/v1", Secret(KEY), ("chat", "embeddings"))
    assert set(heads) == {"chat", "embeddings"}
    assert heads["chat"].wire == (
        b"POST /v1/chat/completions HTTP/1.1\r\n"
        b"host: api.example.com\r\n"
        b"authorization: Bearer sk-test-0123456789abcdef\r\n"
        b"content-type: application/json\r\n"
        b"accept: application/json, text/event-stream\r\n"
        b"accept-encoding: identity\r\n"
        b"user-agent: potluck/" + __version__.encode() + b"\r\n"
        b"content-length: "
    )
    assert (heads["embeddings"].method, heads["embeddings"].path) == ("POST", "/v1/embeddings")
    assert dict(heads["chat"].headers)["authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(heads)


def test_heads_without_a_key() -> None:
    """Own machines often need no key: then there is no authorization field."""
    for secret in (None, "", Secret("")):
        head = build_heads("http://10.0.0.7:8000/v1/", secret, ("completions",))["completions"]
        assert b"authorization" not in head.wire
        assert head.wire.startswith(b"POST /v1/completions HTTP/1.1\r\nhost: 10.0.0.7:8000\r\n")


@pytest.mark.parametrize("secret", ["sk\r\nx-evil: 1", "sk\n", "sk abc", "sk\x00", "schlüssel", "\u2028", "sk\x7f"])
def test_keys_cannot_break_out_of_the_head(secret: str) -> None:
    """A key with line ends, spaces or other letters is refused, without being repeated."""
    for attempt in (
        lambda: build_heads("https://h/v1", secret, ("chat",)),
        lambda: models_request("https://h", secret),
    ):
        with pytest.raises(ValueError, match="printable ASCII") as caught:
            attempt()
        assert secret not in str(caught.value)


def test_models_request() -> None:
    """The models of a provider are asked for beside its other endpoints, with the same key."""
    url, fields = models_request("https://api.example.com/v1/", Secret(KEY))
    assert url == "https://api.example.com/v1/models"
    assert fields["authorization"] == f"Bearer {KEY}"
    assert "host" not in fields


@pytest.mark.parametrize(
    ("statuses", "error_class"),
    [
        ((200, 201), "none"),
        ((401, 402, 403), "key_dead"),
        ((429,), "key_limited"),
        ((400, 413, 422), "caller_fault"),
        ((504, 524), "target_slow"),
        ((301, 304, 404, 405, 408, 409, 410, 418, 451, 500, 502, 503, 520, 529), "target_down"),
    ],
)
def test_statuses(statuses: tuple[int, ...], error_class: str) -> None:
    """Each status has one class; what the dialect does not know is the target's fault."""
    assert {classify_status(status) for status in statuses} == {error_class}


AFFORD = (
    "This request requires more credits, or fewer max_tokens. You requested up to 32000 tokens, but can only afford"
)
FLAGGED = "Your chosen model requires moderation and your input was flagged. No credits were charged."


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, {"error": {"code": 403, "message": FLAGGED, "metadata": {"reasons": ["violence"]}}}),
        (402, {"error": {"code": 402, "message": f"{AFFORD} 27342. To increase, upgrade to a paid account"}}),
        (402, {"error": {"code": 402, "message": "Prompt tokens limit exceeded: 230799 > 91442."}}),
        (
            403,
            {"code": "no permission", "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_X"},
        ),
        (403, {"error": {"message": "Input token count + max_tokens parameter must be less than the context length"}}),
        (403, {"error": {"message": "Forbidden", "code": "content_policy_violation"}}),
        (403, {"error": {"message": "Forbidden", "type": "content_filter"}}),
        (403, [{"error": {"message": "Blocked by the safety filter"}}]),
        (403, {"detail": "flagged by moderation"}),
    ],
)
def test_what_is_said_of_the_request_is_not_held_against_the_key(status: int, body: Any) -> None:
    """A flagged prompt, or more tokens than the credit pays for: other requests are served all the same."""
    assert classify_refusal(status, json.dumps(body).encode()) == "policy"
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        assert classify_error(body["error"] | {"status": status}) == "policy"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (402, "Insufficient credits. Add more using https://h.example/credits"),
        (402, "Insufficient Balance"),
        (402, f"{AFFORD} 0. To increase, create a key with a higher monthly limit"),
        (403, "You do not have access to the model gpt-x"),
        (403, "Country, region, or territory not supported"),
        (403, "Key limit exceeded (monthly limit)"),
        (403, "Your account was flagged for violations of our content policy"),
        (403, "This organization has been disabled: its inputs violated our content policy"),
        (403, ""),
        (401, FLAGGED),
    ],
)
def test_what_is_said_of_the_key_ends_it(status: int, message: str) -> None:
    """No credit, no access, an account that is closed, and whatever gives no reason."""
    assert classify_refusal(status, json.dumps({"error": {"message": message}}).encode()) == "key_dead"
    assert classify_error({"code": status, "message": message}) == "key_dead"


@pytest.mark.parametrize("body", [b"", b"<html>moderation</html>", b"null", b'{"error":{"message":', b"[" * 10**5])
def test_a_refusal_without_readable_words_has_its_status_class(body: bytes) -> None:
    """What cannot be read excuses nothing; other statuses are not looked into."""
    assert classify_refusal(403, body) == "key_dead"
    assert classify_refusal(204, body) == "none"
    assert classify_refusal(429, b'{"error":{"message":"flagged by moderation"}}') == "key_limited"


@pytest.mark.parametrize(
    ("error", "error_class"),
    [
        ({"code": "content_policy_violation", "type": "invalid_request_error"}, "policy"),
        ({"code": 429}, "key_limited"),
        ({"code": "429"}, "key_limited"),
        ({"code": 400, "type": "invalid_request_error"}, "caller_fault"),
        ({"code": 502, "message": "x"}, "target_down"),
        ({"code": True}, "target_down"),
        ({"status": 503}, "target_down"),
        ({"code": "rate_limit_exceeded"}, "key_limited"),
        ({"type": "insufficient_quota"}, "key_limited"),
        ({"status": "RESOURCE_EXHAUSTED"}, "key_limited"),
        ({"code": "invalid_api_key"}, "key_dead"),
        ({"type": "authentication_error"}, "key_dead"),
        ({"type": "invalid_request_error"}, "caller_fault"),
        ({"code": "context_length_exceeded"}, "caller_fault"),
        ({"type": "timeout"}, "target_slow"),
        ({"type": "server_error", "code": None}, "target_down"),
        ({"message": "rate_limit"}, "target_down"),
        ({}, "target_down"),
    ],
)
def test_error_objects(error: dict[str, Any], error_class: str) -> None:
    """An error object inside a 200 is classed by its number, else by its name, never by its text."""
    assert classify_error(error) == error_class


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"error": {"message": "'n' is too large", "type": "x", "param": "n", "code": None}}, "'n' is too large"),
        (
            {"error": {"code": 400, "message": "Expected 'messages' to be an array", "type": "invalid_request_error"}},
            "Expected 'messages' to be an array",
        ),
        ({"error": "no such template"}, "no such template"),
        ({"object": "error", "message": "too long", "code": 40001}, "too long"),
        ([{"error": {"message": "bad field"}}], "bad field"),
        ({"detail": "Bad thing"}, "Bad thing"),
        (
            {"detail": [{"loc": ["body", "temperature"], "msg": "Input should be less than 2", "input": 9}, 5]},
            "body.temperature: Input should be less than 2",
        ),
        ({"message": {"message": "nested"}}, "nested"),
        ({"error": {"message": "a\r\nb\x00c\u2028d"}}, "a b c d"),
    ],
)
def test_read_error(body: Any, text: str) -> None:
    """The upstream's own words come out of every envelope, on one line."""
    assert read_error(400, json.dumps(body).encode()) == text


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"{}", b"[]", b"null", b"{", b"\xff", b'{"error":null}', b'{"error":{"message":5}}', b"[" * 10**5],
)
def test_read_error_without_words(body: bytes) -> None:
    """Where the upstream has no words, ours name the status."""
    assert read_error(422, body) == "the target refused the request (HTTP 422) without saying why"


def test_read_error_hides_what_is_private() -> None:
    """A known secret never passes, even one that looks like no key; long texts are cut."""
    body = json.dumps({"error": {"message": f"key {KEY} and hunter2 at https://h.example/x " + "word " * 500}}).encode()
    text = read_error(400, body, ("hunter2",))
    assert KEY not in text
    assert "hunter2" not in text
    assert "h.example" not in text
    assert len(text) <= 500
    assert read_error(400, b'{"error":{"message":"' + b"a " * MAX_ERROR_BYTES + b'"}}').startswith("the target refused")
