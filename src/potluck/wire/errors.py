"""The one table of error codes: what each means in HTTP and in the dialects' envelopes, and their encoding.

A code is the contract (`docs/reference` lists this table); status and type follow from it. Messages say what, why and
how to mend it, and end with the request id.
"""

from collections.abc import Callable
from typing import Any, Literal

import msgspec

ErrorDialect = Literal["openai"]


class ErrorKind(msgspec.Struct, frozen=True):
    """What a code stands for: its HTTP status, the `type` of OpenAI's envelope, and when it is used."""

    status: int
    type: str
    when: str


ERRORS: dict[str, ErrorKind] = {
    "invalid_json": ErrorKind(400, "invalid_request_error", "the body is not readable as JSON"),
    "invalid_request": ErrorKind(400, "invalid_request_error", "a member, a header or the framing is wrong"),
    "invalid_api_key": ErrorKind(401, "authentication_error", "the key is missing, unknown, expired or revoked"),
    "budget_exceeded": ErrorKind(402, "insufficient_quota", "a cap would be passed"),
    "insufficient_credits": ErrorKind(402, "insufficient_quota", "the balance does not cover the request"),
    "model_not_allowed": ErrorKind(403, "permission_error", "the key may not use this model"),
    "policy_denied": ErrorKind(403, "permission_error", "a policy forbids the request: ours, or all targets' own"),
    "model_not_found": ErrorKind(404, "invalid_request_error", "no model, alias, route or pin has this name"),
    "unknown_url": ErrorKind(404, "invalid_request_error", "there is no such endpoint"),
    "method_not_allowed": ErrorKind(405, "invalid_request_error", "the endpoint does not take this method"),
    "request_timeout": ErrorKind(408, "invalid_request_error", "the caller was too slow to send"),
    "request_too_large": ErrorKind(413, "invalid_request_error", "the body (413) or the head (431) is too large"),
    "rate_limit_exceeded": ErrorKind(429, "rate_limit_error", "a limit of requests or tokens is reached"),
    "concurrency_limit_exceeded": ErrorKind(429, "rate_limit_error", "too many requests are running at once"),
    "upstream_rate_limited": ErrorKind(429, "rate_limit_error", "every allowed target refused for rate"),
    "internal_error": ErrorKind(500, "server_error", "a fault of the gateway itself"),
    "upstream_error": ErrorKind(502, "upstream_error", "every allowed target failed"),
    "upstream_truncated": ErrorKind(502, "upstream_error", "the answer was cut before its end"),
    "no_target_available": ErrorKind(503, "service_unavailable_error", "no target is up or allowed"),
    "overloaded": ErrorKind(503, "service_unavailable_error", "the gateway holds as many requests as it may"),
    "accounting_unavailable": ErrorKind(503, "service_unavailable_error", "usage cannot be recorded"),
    "upstream_timeout": ErrorKind(504, "upstream_error", "the target took too long"),
}
"""code → kind, by status"""

_encode = msgspec.json.encode


class RequestError(Exception):
    """A request that gets an error answer: `code` is of `ERRORS`, `status` overrides the code's own (431 for 413)."""

    def __init__(
        self,
        code: str,
        message: str,
        param: str | None = None,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.status = ERRORS[code].status if status is None else status
        self.retry_after_s = retry_after_s


def _openai(code: str, message: str, param: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": ERRORS[code].type, "param": param, "code": code}}


_ENVELOPES: dict[ErrorDialect, Callable[[str, str, str | None], dict[str, Any]]] = {"openai": _openai}


def encode_error(
    code: str, message: str, request_id: str, param: str | None = None, dialect: ErrorDialect = "openai"
) -> bytes:
    """The body of an error answer in the caller's dialect. Raises `KeyError` for a code that the table lacks."""
    text = f"{message} (request {request_id})" if request_id else message
    return _encode(_ENVELOPES[dialect](code, text, param))


def encode_stream_error(
    code: str, message: str, request_id: str, param: str | None = None, dialect: ErrorDialect = "openai"
) -> bytes:
    """The event that ends a stream already begun: `data: {"error": {…}}` and a blank line. No `[DONE]` follows."""
    return b"data: " + encode_error(code, message, request_id, param, dialect) + b"\n\n"
