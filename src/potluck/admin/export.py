"""The stored configuration as a `Document`, for `config export`: everything the file format has, and no secret."""

import datetime as dt

import msgspec
import sqlalchemy as sa

from potluck.admin.operations.models import DEFAULT_CAPABILITIES
from potluck.admin.operations.target_rows import place_of_target, targets_of
from potluck.admin.operations.views import probe_entry, route_entry
from potluck.admin.operations.work import Row, Work
from potluck.config.document import (
    CredentialEntry,
    Document,
    KeyEntry,
    ModelEntry,
    ModelPriceEntry,
    PriceEntry,
    ProjectEntry,
    ProviderEntry,
    TargetEntry,
    TimeoutsEntry,
)
from potluck.model.price import Price
from potluck.model.resources import Capability, Timeouts
from potluck.model.secret import Secret
from potluck.store import tables as t

PLACEHOLDER = Secret("written as an environment variable")
"""stands where a document holds a secret; the writer puts `${VARIABLE}` in its place"""


def export(work: Work) -> Document:
    """All of the organisation's objects but the built-in provider, models without a target, and revoked keys."""
    names = {row["id"]: row["name"] for table in (t.providers, t.projects) for row in _all(work, table)}
    return Document(
        providers=tuple(_provider(work, row) for row in _all(work, t.providers) if not row["builtin"]),
        # one without a target serves nothing, and the format has no form for it
        models=tuple(model for row in _all(work, t.models) if (model := _model(work, row, names)).targets),
        prices=tuple(ModelPriceEntry.of(row["model"], _price(row["price"])) for row in _all(work, t.prices)),
        projects=tuple(ProjectEntry(name=row["name"], data_class=row["data_class"]) for row in _all(work, t.projects)),
        keys=tuple(_key(row, names) for row in _all(work, t.api_keys) if row["revoked_at_ms"] is None),
        # in the order in which they are tried
        routes=tuple(map(route_entry, sorted(_all(work, t.routes), key=lambda row: int(row["position"])))),
    )


def _all(work: Work, table: sa.Table) -> list[Row]:
    mine = table.c.organisation_id == work.organisation_id
    return work.rows(sa.select(table).where(mine).order_by(table.c.created_at_ms, table.c.id))


def _provider(work: Work, row: Row) -> ProviderEntry:
    here = t.credentials.c.provider_id == row["id"]
    credentials = work.rows(
        sa.select(t.credentials).where(here).order_by(t.credentials.c.created_at_ms, t.credentials.c.id)
    )
    return ProviderEntry(
        name=row["name"],
        base_url=row["base_url"],
        dialect=row["dialect"],
        own=row["own"],
        on_hangup=row["on_hangup"],
        max_connections=row["max_connections"],
        timeouts=TimeoutsEntry.from_timeouts(msgspec.json.decode(row["timeouts"], type=Timeouts)),
        assistant_prefix=row["assistant_prefix"],
        probe=probe_entry(row),
        credentials=tuple(
            CredentialEntry(name=each["name"], key=PLACEHOLDER, weight=each["weight"]) for each in credentials
        ),
    )


def _model(work: Work, row: Row, names: dict[str, str]) -> ModelEntry:
    return ModelEntry(
        name=row["name"],
        targets=tuple(_target(each, place_of_target(each, names)) for each in targets_of(work, row)),
        placement=row["placement"],
        aliases=msgspec.json.decode(row["aliases"], type=tuple[str, ...]),
    )


def _target(row: Row, provider: str) -> TargetEntry:
    capabilities = msgspec.json.decode(row["capabilities"], type=tuple[Capability, ...])
    return TargetEntry(
        target=f"{provider}/{row['upstream_model']}",
        price=None if row["price"] is None else _price(row["price"]),
        capabilities=None if capabilities in (DEFAULT_CAPABILITIES, ()) else capabilities,
        context_tokens=row["context_tokens"],
        weight=row["weight"],
        priority=row["priority"],
        slots=row["slots"],
    )


def _price(text: str) -> PriceEntry:
    return PriceEntry.from_price(msgspec.json.decode(text, type=Price))


def _key(row: Row, names: dict[str, str]) -> KeyEntry:
    expires = row["expires_at_ms"]
    return KeyEntry(
        name=row["name"],
        project=names[row["project_id"]],
        models=msgspec.json.decode(row["models"], type=tuple[str, ...]),
        tags=msgspec.json.decode(row["tags"], type=tuple[str, ...]),
        own_device_priority=row["own_devices"],
        data_class=row["data_class"],
        expires_at=None if expires is None else dt.datetime.fromtimestamp(expires / 1000, dt.UTC),
    )
