"""The table of error codes, walked, and its encoding as official clients read it."""

import json

import pytest

from potluck.wire.errors import ERRORS, RequestError, encode_error, encode_stream_error

CONTRACT = {
    400: {"invalid_json", "invalid_request"},
    401: {"invalid_api_key"},
    402: {"budget_exceeded", "insufficient_credits"},
    403: {"model_not_allowed", "policy_denied"},
    404: {"model_not_found", "unknown_url"},
    408: {"request_timeout"},
    413: {"request_too_large"},
    429: {"rate_limit_exceeded", "concurrency_limit_exceeded", "upstream_rate_limited"},
    502: {"upstream_error", "upstream_truncated"},
    503: {"no_target_available"},
    504: {"upstream_timeout"},
}


def test_the_contract_is_in_the_table() -> None:
    """Every code that callers are promised has its promised status."""
    for status, codes in CONTRACT.items():
        assert codes <= {code for code, kind in ERRORS.items() if kind.status == status}


@pytest.mark.parametrize("code", ERRORS)
def test_walk_the_table(code: str) -> None:
    """Every code is a client or server error with a type, an explanation and an envelope that carries it."""
    kind = ERRORS[code]
    assert 400 <= kind.status < 600
    assert kind.type
    assert kind.when
    assert json.loads(encode_error(code, "it failed", "req_1", "model")) == {
        "error": {"message": "it failed (request req_1)", "type": kind.type, "param": "model", "code": code}
    }
    error = RequestError(code, "it failed")
    assert (error.code, error.status, error.message, error.param) == (code, kind.status, "it failed", None)


def test_status_override() -> None:
    """A code may go out with a nearer status: 431 for a head that is too large."""
    error = RequestError("request_too_large", "the head is too large", status=431, retry_after_s=2.5)
    assert (error.status, error.retry_after_s, str(error)) == (431, 2.5, "the head is too large")


def test_unknown_code_is_a_fault_of_ours() -> None:
    """A code that the table lacks is refused where it is raised and where it is encoded."""
    with pytest.raises(KeyError):
        RequestError("no_such_code", "x")
    with pytest.raises(KeyError):
        encode_error("no_such_code", "x", "req_1")


def test_stream_error_is_one_event() -> None:
    """In a stream the envelope is one data line, whatever the message holds."""
    event = encode_stream_error("upstream_truncated", 'cut\n\r"x" é\u2028', "req_1")
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 2
    assert b"\r" not in event
    assert json.loads(event[6:])["error"]["message"] == 'cut\n\r"x" é\u2028 (request req_1)'


def test_no_request_id_no_suffix() -> None:
    """Errors before a request has an id say nothing of one."""
    assert json.loads(encode_error("invalid_request", "bad head", ""))["error"]["message"] == "bad head"
