"""`/v1` endpoints that need no upstream: models, the calling key, the caller's own request records."""

import time
from typing import TYPE_CHECKING
from urllib.parse import unquote

import msgspec

from potluck.model.snapshot import CompiledKey, Snapshot
from potluck.proxy import names
from potluck.proxy.answers import retry_after
from potluck.snapshot.cards import route_card
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
        connection.answer(200, encode_model_list(cards_for(snapshot, key)), request_id)
    elif path == KEY:
        connection.answer(200, _key_card(key), request_id)
    elif path.startswith(MODEL):
        name = unquote(path[len(MODEL) :].decode("latin-1"))
        try:
            card = card_for(snapshot, key, name)
        except RequestError as error:
            refuse(connection, error, request_id, key.id)
        else:
            connection.answer(200, card, request_id)
    else:
        _answer_record(connection, path[len(REQUEST) :].decode("latin-1"), key, request_id)


def cards_for(snapshot: Snapshot, key: CompiledKey) -> list[bytes]:
    """Entries of `GET /v1/models`: models in listing order, then the rules that can be called as one."""
    models, routes = names.known_to(snapshot, key)
    return [
        *(model.card for model in models),
        *(route_card(route, names.models_for(snapshot, route, key)) for route in routes),
    ]


def card_for(snapshot: Snapshot, key: CompiledKey, name: str) -> bytes:
    """The entry of one name, by the meaning that a call of it has. Raises RequestError 403 or 404."""
    named = names.resolve(snapshot, name, key.organisation_id)
    if named is None or named.prefer is not None:
        raise names.not_found(snapshot, key, name)
    if named.route is not None:
        models = names.models_for(snapshot, named.route, key)
        if not models:
            raise names.not_allowed(name)
        return route_card(named.route, models)
    (model,) = named.models
    if not names.allowed(key, name, model.alias_of):
        raise names.not_allowed(name)
    return model.card


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
