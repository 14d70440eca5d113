"""What the snapshot is made of, read through the driver in one read transaction. Runs in a reader thread."""

import sqlite3
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from potluck.model.node import NODE_PREFIX, Node, NodePrice, Offer, OwnDevices
from potluck.model.price import Price
from potluck.model.resources import (
    Affinity,
    Capability,
    Credential,
    DataClass,
    Hedge,
    Model,
    Probe,
    Provider,
    Route,
    RouteConstraints,
    RouteMatch,
    RouteTimeouts,
    Target,
    Timeouts,
)
from potluck.snapshot.changes import Change

KEYS_PER_QUERY = 500
PAUSE_ROWS = 256
"""rows are fetched in such groups, with the interpreter let go between two, so that the loop is never held for long"""

RawRow = tuple[Any, ...]

_STRINGS = msgspec.json.Decoder(tuple[str, ...])
_CAPABILITIES = msgspec.json.Decoder(tuple[Capability, ...])
_PRICE = msgspec.json.Decoder(Price)
_TIMEOUTS = msgspec.json.Decoder(Timeouts)
_PROBE = msgspec.json.Decoder(Probe)
_MATCH = msgspec.json.Decoder(RouteMatch)
_CONSTRAINTS = msgspec.json.Decoder(RouteConstraints)
_ROUTE_TIMEOUTS = msgspec.json.Decoder(RouteTimeouts)
_HEDGE = msgspec.json.Decoder(Hedge)
_AFFINITY = msgspec.json.Decoder(Affinity)
_OFFER = msgspec.json.Decoder(Offer)
_NODE_PRICE = msgspec.json.Decoder(NodePrice)
_NODE_PRICES = msgspec.json.Decoder(dict[str, NodePrice])


class KeyRow(msgspec.Struct, frozen=True):
    """A live API key with its project."""

    id: str
    name: str
    organisation_id: str
    project_id: str
    project: str
    data_class: DataClass
    hash: bytes
    previous_hash: bytes | None
    previous_until_ms: int | None
    models: tuple[str, ...]
    tags: tuple[str, ...]
    expires_at_ms: int | None
    created_at_ms: int
    own_devices: OwnDevices
    own_class: DataClass | None
    """None: its project's holds"""


class PlaceRows(msgspec.Struct, frozen=True):
    """What targets are compiled from: providers, models, prices."""

    providers: dict[str, Provider]
    credentials: dict[str, list[Credential]]
    """by provider, enabled ones only; an empty list where all of a provider's are disabled"""
    own_lists: dict[str, list[str]]
    """by provider: upstream models that its `GET /models` named"""
    models: list[Model]
    targets: dict[str, list[Target]]
    """by model, in order; one on nodes has `node:` and a name or pattern in the place of a provider's id"""
    prices: dict[str, Price]
    """operator prices by the name they were given for"""
    nodes: dict[str, RawRow]
    """by id, for `node_of`; the pending ones too, without the revoked"""


class Rows(msgspec.Struct, frozen=True):
    """One consistent reading of the store."""

    version: int
    keys: list[RawRow]
    """for `key_of`, on the loop: there may be very many"""
    places: PlaceRows | None
    """None: not asked for, as they were"""
    rules: tuple[Route, ...] | None
    """in the order in which they are tried; None: as they were"""


def read_version(connection: sqlite3.Connection) -> int:
    """The number that every configuration write raises by one."""
    row = connection.execute("SELECT value FROM facts WHERE name = 'snapshot_version'").fetchone()
    return int(row[0]) if row else 0


def read(connection: sqlite3.Connection, change: Change) -> Rows:
    """Read the version, and of the rest what the change touched."""
    return Rows(
        read_version(connection),
        read_keys(connection, None if change.everything else change.keys),
        read_places(connection) if change.places else None,
        read_rules(connection) if change.rules or change.everything else None,
    )


def read_keys(connection: sqlite3.Connection, ids: Iterable[str] | None) -> list[RawRow]:
    """Live keys with their projects, not decoded yet. `ids` None: all."""
    query = (
        "SELECT k.id, k.name, k.organisation_id, k.project_id, p.name, p.data_class, k.hash, k.previous_hash,"
        " k.previous_until_ms, k.models, k.tags, k.expires_at_ms, k.created_at_ms, k.own_devices, k.data_class"
        " FROM api_keys k JOIN projects p ON p.id = k.project_id WHERE k.revoked_at_ms IS NULL"
    )
    if ids is None:
        return list(_fetch(connection.execute(query)))
    wanted = sorted(ids)
    found: list[RawRow] = []
    for start in range(0, len(wanted), KEYS_PER_QUERY):
        part = wanted[start : start + KEYS_PER_QUERY]
        marks = ",".join("?" * len(part))
        found += _fetch(connection.execute(f"{query} AND k.id IN ({marks})", part))
    return found


def read_rules(connection: sqlite3.Connection) -> tuple[Route, ...]:
    """The routes, in order of position, then age."""
    return tuple(
        Route(
            id=row[0],
            organisation_id=row[1],
            name=row[2],
            created_at_ms=row[3],
            position=row[4],
            match=_MATCH.decode(row[5]),
            strategy=row[6],
            split_by=row[7],
            constraints=_CONSTRAINTS.decode(row[8]),
            fallback=_STRINGS.decode(row[9]),
            timeouts=_ROUTE_TIMEOUTS.decode(row[10]),
            hedge=None if row[11] is None else _HEDGE.decode(row[11]),
            affinity=None if row[12] is None else _AFFINITY.decode(row[12]),
            origin=row[13],
        )
        for row in connection.execute(
            'SELECT id, organisation_id, name, created_at_ms, position, "match", strategy, split_by, constraints,'
            " fallback, timeouts, hedge, affinity, origin FROM routes ORDER BY position, created_at_ms, id"
        )
    )


def read_places(connection: sqlite3.Connection) -> PlaceRows:
    providers = {
        row[0]: Provider(
            id=row[0],
            organisation_id=row[1],
            name=row[2],
            dialect=row[3],
            base_url=row[4],
            created_at_ms=row[5],
            own=bool(row[6]),
            on_hangup=row[7],
            timeouts=_TIMEOUTS.decode(row[8]),
            max_connections=row[9],
            builtin=bool(row[10]),
            assistant_prefix=row[11],
            probe=None if row[12] is None else _PROBE.decode(row[12]),
        )
        for row in connection.execute(
            "SELECT id, organisation_id, name, dialect, base_url, created_at_ms, own, on_hangup, timeouts,"
            " max_connections, builtin, assistant_prefix, probe FROM providers ORDER BY created_at_ms, id"
        )
    }
    credentials: dict[str, list[Credential]] = {}
    for row in connection.execute(
        "SELECT id, organisation_id, provider_id, name, sealed, hint, created_at_ms, weight, disabled"
        " FROM credentials ORDER BY weight DESC, created_at_ms, id"
    ):
        pool = credentials.setdefault(row[2], [])
        if not row[8]:
            pool.append(Credential(*row[:8]))
    own_lists: dict[str, list[str]] = {}
    for row in _fetch(connection.execute("SELECT provider_id, name FROM provider_models ORDER BY provider_id, name")):
        own_lists.setdefault(row[0], []).append(row[1])
    models = [
        Model(row[0], row[1], row[2], row[3], row[4], _STRINGS.decode(row[5]))
        for row in connection.execute(
            "SELECT id, organisation_id, name, created_at_ms, placement, aliases FROM models ORDER BY created_at_ms, id"
        )
    ]
    targets: dict[str, list[Target]] = {}
    for row in _fetch(
        connection.execute(
            "SELECT id, organisation_id, model_id, provider_id, upstream_model, created_at_ms, position, price,"
            " capabilities, context_tokens, weight, priority, slots FROM targets"
            " ORDER BY model_id, position, created_at_ms, id"
        )
    ):
        targets.setdefault(row[2], []).append(
            Target(
                id=row[0],
                organisation_id=row[1],
                model_id=row[2],
                provider_id=row[3],
                upstream_model=row[4],
                created_at_ms=row[5],
                position=row[6],
                price=None if row[7] is None else _PRICE.decode(row[7]),
                capabilities=_CAPABILITIES.decode(row[8]),
                context_tokens=row[9],
                weight=row[10],
                priority=row[11],
                slots=row[12],
            )
        )
    for row in _fetch(
        connection.execute(
            "SELECT id, organisation_id, model_id, node, upstream_model, created_at_ms, position, weight, priority"
            " FROM node_targets ORDER BY model_id, position, created_at_ms, id"
        )
    ):
        targets.setdefault(row[2], []).append(
            Target(
                id=row[0],
                organisation_id=row[1],
                model_id=row[2],
                provider_id=NODE_PREFIX + row[3],
                upstream_model=row[4],
                created_at_ms=row[5],
                position=row[6],
                weight=row[7],
                priority=row[8],
            )
        )
    for each in targets.values():
        each.sort(key=lambda target: (target.position, target.created_at_ms, target.id))
    prices = {row[0]: _PRICE.decode(row[1]) for row in connection.execute("SELECT model, price FROM prices")}
    nodes = {
        row[0]: row
        for row in _fetch(
            connection.execute(
                "SELECT id, organisation_id, name, state, created_at_ms, key_id, public_key, previous_key_id,"
                " previous_public_key, previous_until_ms, owner, community, ephemeral, tags, max_models, max_price,"
                " drained, offer, prices, agent, last_seen_at_ms FROM nodes WHERE revoked_at_ms IS NULL"
                " ORDER BY created_at_ms, id"
            )
        )
    }
    return PlaceRows(providers, credentials, own_lists, models, targets, prices, nodes)


def key_of(row: RawRow) -> KeyRow:
    """A row of `read_keys`, decoded."""
    fields = list(row)
    fields[9], fields[10] = _STRINGS.decode(row[9]), _STRINGS.decode(row[10])
    return KeyRow(*fields)


def node_of(row: RawRow, now_ms: int) -> tuple[Node, int | None]:
    """A row of `PlaceRows.nodes`, decoded, and until when (unix milliseconds) its key before the present one counts.

    None: there is none that counts.
    """
    keys, until_ms = [(row[5], row[6])], row[9]
    if until_ms is None or until_ms <= now_ms or row[7] is None:
        until_ms = None
    else:
        keys.append((row[7], row[8]))
    node = Node(
        id=row[0],
        organisation_id=row[1],
        name=row[2],
        state=row[3],
        created_at_ms=row[4],
        keys=tuple(keys),
        owner=row[10],
        community=bool(row[11]),
        ephemeral=bool(row[12]),
        tags=_STRINGS.decode(row[13]),
        max_models=row[14],
        max_price=None if row[15] is None else _NODE_PRICE.decode(row[15]),
        drained=bool(row[16]),
        offer=_OFFER.decode(row[17]),
        prices=_NODE_PRICES.decode(row[18]),
        agent=row[19],
        last_seen_at_ms=row[20],
    )
    return node, until_ms


def _fetch(cursor: sqlite3.Cursor) -> Iterable[RawRow]:
    while rows := cursor.fetchmany(PAUSE_ROWS):
        yield from rows
        time.sleep(0)
