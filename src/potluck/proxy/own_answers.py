"""`/v1` endpoints that need no upstream: models, the calling key, the caller's own request records."""

import time
from typing import TYPE_CHECKING
from urllib.parse import unquote

import msgspec

from potluck.model.snapshot import CompiledKey
from potluck.proxy import names
from potluck.proxy.answers import retry_after
from potluck.wire.dialects.openai_models import encode_model_list
from potluck.wire.errors import RequestError, encode_error
from potluck.wire.http1 import Head

if TYPE_CHECKING:
    from potluck.proxy.listener import Connection

unix_s = time.time

MODELS, MODEL, KEY, REQUEST = b"/v1/models", b"/v1/models/", b"/v1/key", b"/v1/requests/"


def serves(path: bytes) -> bool:
    """Whether `path` is one of these endpoints."""
    return path in (MODELS, KEY) or (path.startswith((MODEL, REQUEST)) and path not in (MODEL, REQUEST))


def answer(connection: "Connection", head: Head, key: CompiledKey) -> None:
    """Answer a request for which `serves` is true; the connection is told when it is finished."""
    plane = connection.plane
    path = head.path
    request_id = plane.ids.next()
    snapshot = plane.snapshots.current
    if path == MODELS:
        cards = [model.card for model in snapshot.models.values() if names.allowed(key, model.name, model.alias_of)]
        connection.answer(200, encode_model_list(cards), request_id)
    elif path == KEY:
        connection.answer(200, _key_card(key), request_id)
    elif path.startswith(MODEL):
        name = unquote(path[len(MODEL) :].decode("latin-1"))
        model = names.model_of(snapshot, name)
        if model is None:
            refuse(connection, names.not_found(snapshot, key, name), request_id, key.id)
        elif not names.allowed(key, name, model.alias_of):
            refuse(connection, names.not_allowed(name), request_id, key.id)
        else:
            connection.answer(200, model.card, request_id)
    else:
        _answer_record(connection, path[len(REQUEST) :].decode("latin-1"), key, request_id)


def refuse(connection: "Connection", error: RequestError, request_id: str, key_id: str) -> None:
    """Send a refusal in the dialect's envelope; count it."""
    plane = connection.plane
    plane.meter.refused(error.code)
    plane.recorder.refuse(error.code, key_id, int(unix_s() * 1000), error.message)
    body = encode_error(error.code, error.message, request_id, param=error.param)
    connection.answer(error.status, body, request_id, retry_after(error))


def _key_card(key: CompiledKey) -> bytes:
    return msgspec.json.encode(
        {
            "object": "key",
            "id": key.id,
            "name": key.name,
            "organisation": key.organisation_id,
            "project": key.project,
            "models": sorted(key.models) if key.models is not None else None,
            "data_class": key.data_class,
            "tags": key.tags,
            "created": key.created_at_ms // 1000,
            "expires": None if key.expires_at_s == float("inf") else int(key.expires_at_s),
            "limits": [],
            "budgets": [],
        }
    )


def _answer_record(connection: "Connection", wanted: str, key: CompiledKey, request_id: str) -> None:
    plane = connection.plane
    missing = RequestError(
        "unknown_url", f"there is no request {wanted[:80]!r} of this key; records appear within a second"
    )
    if plane.lookup is None:
        refuse(connection, missing, request_id, key.id)
        return

    def found(record: bytes | None) -> None:
        if record is None:
            refuse(connection, missing, request_id, key.id)
        else:
            connection.answer(200, record, request_id)

    plane.lookup(wanted, key.id, found)
