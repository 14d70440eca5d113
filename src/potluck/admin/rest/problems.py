"""Errors as RFC 9457 problem details: what, why, how to mend it, and the request's id. Never internals."""

import logging
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.status_codes import HTTP_500_INTERNAL_SERVER_ERROR

from potluck.admin.errors import OperationError
from potluck.admin.operations.work import Replayed
from potluck.admin.rest import bodies, node_bodies
from potluck.config.errors import ConfigError
from potluck.config.forms import in_words, missing_member
from potluck.ledger.reports import ReportError
from potluck.snapshot import SnapshotError
from potluck.store.errors import disk_fault

MEDIA_TYPE = "application/problem+json"
log = logging.getLogger("potluck.admin")

Anything = Request[Any, Any, Any]

_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    421: "Misdirected Request",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
    507: "Insufficient Storage",
}
_CODES = {
    400: "invalid_request",
    401: "invalid_token",
    403: "not_permitted",
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    415: "unsupported_media_type",
    429: "too_many_tries",
}


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An RFC 9457 problem. `code` is for programs, `detail` for people, `where` names the member at fault."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str
    where: str = ""
    problems: list[dict[str, Any]] = []
    """all that is wrong with a configuration text: `message`, `where`, `line`"""


def described(*statuses: int) -> dict[int, ResponseSpec]:
    """The problems that a route can answer, for its OpenAPI entry."""
    return {
        status: ResponseSpec(Problem, description=_TITLES[status], media_type=MEDIA_TYPE, generate_examples=False)
        for status in (400, 401, 403, 404, *statuses)
    }


def answer(
    request: Anything, status: int, code: str, detail: str, *, headers: dict[str, str] | None = None, **more: Any
) -> Response[Problem]:
    title = _TITLES.get(status, "Error")
    problem = Problem("about:blank", title, status, code, detail, request_id_of(request), **more)
    return Response(problem, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def request_id_of(request: Anything) -> str:
    return str(request.scope["state"].get("request_id", ""))


def on_operation_error(request: Anything, error: OperationError) -> Response[Problem]:
    return answer(request, error.status, error.code, error.detail, where=error.where, **error.more)


def on_replayed(_: Anything, replayed: Replayed) -> Response[bytes]:
    return Response(
        replayed.answer,
        status_code=replayed.status,
        media_type="application/json",
        headers={"idempotency-replayed": "true"},
    )


def on_config_error(request: Anything, error: ConfigError) -> Response[Problem]:
    problems = [each.as_member() for each in error.problems]
    return answer(request, 400, "invalid_configuration", str(error), problems=problems)


def on_report_error(request: Anything, error: ReportError) -> Response[Problem]:
    return answer(request, 400, "invalid_request", str(error))


def on_snapshot_error(request: Anything, error: SnapshotError) -> Response[Problem]:
    detail = f"it is stored, but not in force: {error}; the gateway goes on with the configuration before it"
    return answer(request, 500, "not_in_force", detail)


def on_http_error(request: Anything, error: HTTPException) -> Response[Problem]:
    """Litestar's own refusals: no such route, wrong method, a body that does not fit."""
    status, where = error.status_code, ""
    detail = {404: "there is nothing here: see /api/docs", 405: "this path takes another method: see /api/docs"}.get(
        status, str(error.detail)
    )
    if isinstance(error, ValidationException) and isinstance(error.extra, list) and error.extra:
        first = error.extra[0]
        where, message = str(first.get("key", "")), str(first.get("message", ""))
        where = "" if where == "data" else where  # the whole body
        if not where and message == "'data'":
            message = "the request has no body"
        said = in_words(message, *bodies.PATTERNS, *node_bodies.PATTERNS)
        detail = f"{where}: {said}" if where else said
        if not where and (message == "the request has no body" or message.startswith("Expected ")):
            detail = f"{said}: a JSON object is needed"
        if member := missing_member(message):
            where = f"{where}.{member}" if where else member
    elif status == 400:
        # Litestar's text begins with the request's method and path
        detail = str(error.__cause__) if isinstance(error.__cause__, msgspec.MsgspecError) else detail
    if status >= 500:
        return on_unforeseen(request, error)
    code = _CODES.get(status, "invalid_request")
    return answer(request, status, code, detail, headers=error.headers, where=where)


def on_unforeseen(request: Anything, error: Exception) -> Response[Problem]:
    """A fault of ours: the log has it, the caller gets the id to find it by. A full disk is not ours."""
    request_id = request_id_of(request)
    if fault := disk_fault(error):
        log.error("request %s failed: %s (%s)", request_id, fault.said, fault.cause)
        return answer(request, 507, "disk_full", fault.said)
    log.error("request %s failed", request_id, exc_info=error)
    return answer(
        request,
        HTTP_500_INTERNAL_SERVER_ERROR,
        "internal_error",
        f"the gateway failed; its log says why, by the request id {request_id}",
    )


HANDLERS: dict[Any, Any] = {
    OperationError: on_operation_error,
    Replayed: on_replayed,
    ConfigError: on_config_error,
    ReportError: on_report_error,
    SnapshotError: on_snapshot_error,
    HTTPException: on_http_error,
    Exception: on_unforeseen,
}
