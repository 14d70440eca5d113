"""A `potluck.toml` made so: all or nothing, and the same document again changes nothing.

It adds and changes what the file says. It removes only what an earlier apply had made; what it had merely taken over is
let go, back to who made it. What a file says nothing about stays.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from potluck.admin.errors import OperationError, conflict
from potluck.admin.operations import keys, models, projects, providers, routes
from potluck.admin.operations.names import Mention, PublicNames, broken
from potluck.admin.operations.work import Actor, Row, Work
from potluck.admin.references import References
from potluck.config.document import (
    IDENTITY,
    CredentialEntry,
    Document,
    KeyEntry,
    ModelEntry,
    ModelPriceEntry,
    ProjectEntry,
    ProviderEntry,
)
from potluck.config.errors import Problem
from potluck.config.reading import Draft, Place
from potluck.config.routing import RouteEntry
from potluck.identity.vault import VaultError
from potluck.store import tables as t

Kind = Literal["project", "provider", "credential", "model", "price", "key", "route"]


class ChangeLine(msgspec.Struct, frozen=True):
    """One thing that applying does or would do."""

    action: Literal["add", "change", "remove", "release"]
    """`release`: the file no longer names it; it stays, and can be changed by hand again"""
    kind: Kind
    name: str


class Adopted(msgspec.Struct, frozen=True):
    """One thing that a file takes over unchanged."""

    kind: Kind
    name: str


class KeySecret(msgspec.Struct, frozen=True):
    """The secret of a key that this apply made: shown once."""

    name: str
    secret: str | None


class Applied(msgspec.Struct, frozen=True):
    """What an apply did, or would do."""

    changes: list[ChangeLine]
    adopted: list[Adopted] = []
    """what was made by hand and is as the file says: from then on the file's, and read-only by hand"""
    secrets: list[KeySecret] = []
    warnings: list[dict[str, str | int]] = []
    """what is perhaps not meant: `message`, `where`, `line`"""

    def without_secret(self) -> "Applied":
        return msgspec.structs.replace(self, secrets=[KeySecret(each.name, None) for each in self.secrets])


def file_actor(actor: Actor) -> Actor:
    """Who applies a file: the same person, making a file's objects."""
    return msgspec.structs.replace(actor, origin="file")


def apply(work: Work, document: Document) -> Applied:
    """Make the document so. The work's actor must be a `file_actor`. Raises OperationError; then nothing is changed."""
    assert work.actor.origin == "file"
    return _Apply(work).run(document)


def diff(work: Work, document: Document) -> Applied:
    """What `apply` would do: done and undone inside a savepoint."""
    savepoint = work.connection.begin_nested()
    try:
        done = _Apply(work).run(document)
    finally:
        savepoint.rollback()
        work.change, work.audited = type(work.change)(), 0
    return Applied(done.changes, done.adopted)


def warnings(work: Work, draft: Draft) -> list[Problem]:
    """What a text names and what may come later."""
    return draft.located(References(work, draft).warnings())


def check(work: Work, draft: Draft) -> list[Problem]:
    """All that keeps a text from being applied to this store, each with its line; empty when it can be.

    References are looked up in the text and in the store; the rest is found by doing it, inside a savepoint. The
    work's actor must be a `file_actor`. Changes nothing.
    """
    assert work.actor.origin == "file"
    faults = References(work, draft).faults()
    savepoint = work.connection.begin_nested()
    try:
        faults = _Rehearsal(work, draft, faults).faults
    finally:
        savepoint.rollback()
        work.change, work.audited = type(work.change)(), 0
    return draft.problems(*faults)


class _Apply:
    def __init__(self, work: Work) -> None:
        self.work = work
        self.changes: list[ChangeLine] = []
        self.adopted: list[Adopted] = []
        self.secrets: list[KeySecret] = []

    def run(self, document: Document) -> Applied:
        led = PublicNames(self.work).leading()
        for project in document.projects:
            self.note("project", project.name, self.find(t.projects, project.name), self.project, project)
        for provider in document.providers:
            self.note("provider", provider.name, self.find(t.providers, provider.name), self.provider, provider)
            owner = self.find(t.providers, provider.name)
            if owner is None:
                continue  # only where faults are collected
            for credential in provider.credentials:
                name = f"{provider.name}/{credential.name}"
                self.note(
                    "credential", name, self.find_credential(owner, credential.name), self.credential, owner, credential
                )
        for model in document.models:
            self.note("model", model.name, self.find(t.models, model.name), self.model, model)
        for price in document.prices:
            row = self.find(t.prices, price.model, column=t.prices.c.model)
            self.note("price", price.model, row, self.price, price)
        for key in document.keys:
            live = t.api_keys.c.revoked_at_ms.is_(None)
            self.note("key", key.name, self.find(t.api_keys, key.name, live), self.key, key)
        for position, route in zip(self.positions(document.routes), document.routes, strict=True):
            self.note("route", route.name, self.find(t.routes, route.name), self.route, position, route)
        led |= PublicNames(self.work).leading()
        self.remove(document)
        self.check_names(led)
        return Applied(self.changes, self.adopted, self.secrets)

    def positions(self, routes: tuple[RouteEntry, ...]) -> list[int]:
        """Where each stands: as it is when they stand in the file's order already, else counted from 0."""
        rows = [row for route in routes if (row := self.find(t.routes, route.name)) is not None]
        places = [(row["position"], row["created_at_ms"], row["id"]) for row in rows]
        if len(rows) == len(routes) and places == sorted(places):
            return [row["position"] for row in rows]
        return list(range(len(routes)))

    def find(
        self, table: sa.Table, name: str, *also: sa.ColumnElement[bool], column: sa.Column[str] | None = None
    ) -> Row | None:
        mine = table.c.organisation_id == self.work.organisation_id
        named = (table.c.name if column is None else column) == name
        return self.work.row(sa.select(table).where(mine, named, *also))

    def find_credential(self, owner: Row, name: str) -> Row | None:
        here = t.credentials.c.provider_id == owner["id"]
        return self.work.row(sa.select(t.credentials).where(here, t.credentials.c.name == name))

    def note(
        self,
        kind: Kind,
        name: str,
        row: Row | None,
        deed: Callable[..., None],
        *arguments: Any,
        action: Literal["add", "change", "remove"] | None = None,
    ) -> None:
        """Do it, and note whether that added, changed or took over something. An error says which object it is of."""
        before, edited = self.work.audited, self.work.edited
        try:
            deed(row, *arguments)
        except OperationError as error:
            error.where = f"{kind} {name}" + (f": {error.where}" if error.where else "")
            raise
        if self.work.audited == before:
            return
        if self.work.edited == edited:
            self.adopted.append(Adopted(kind, name))
        else:
            self.changes.append(ChangeLine(action or ("add" if row is None else "change"), kind, name))

    def project(self, row: Row | None, entry: ProjectEntry) -> None:
        if row is None:
            projects.create_project(self.work, entry.name, data_class=entry.data_class)
        else:
            projects.update_project(self.work, row["id"], data_class=entry.data_class)

    def provider(self, row: Row | None, entry: ProviderEntry) -> None:
        members: dict[str, Any] = {
            "base_url": entry.base_url,
            "dialect": entry.dialect,
            "own": entry.own,
            "on_hangup": entry.on_hangup,
            "timeouts": entry.timeouts.to_timeouts(),
            "max_connections": entry.max_connections,
            "assistant_prefix": entry.assistant_prefix,
            "probe": entry.probe,
        }
        if row is None:
            providers.create_provider(self.work, entry.name, **members)
        else:
            providers.update_provider(self.work, row["id"], **members)

    def credential(self, row: Row | None, owner: Row, entry: CredentialEntry) -> None:
        if row is None:
            providers.create_credential(self.work, owner["id"], entry.name, entry.key, weight=entry.weight)
            return
        try:
            same = self.work.vault.unseal(row["sealed"], row["id"]) == entry.key
        except VaultError:
            same = False  # sealed by a master key that is lost: the file mends it
        if not same:
            providers.rotate_credential(self.work, row["id"], entry.key)
        providers.update_credential(self.work, row["id"], weight=entry.weight)

    def model(self, row: Row | None, entry: ModelEntry) -> None:
        if row is None:
            models.create_model(self.work, entry.name, entry.targets, placement=entry.placement, aliases=entry.aliases)
        else:
            models.update_model(
                self.work, row["id"], placement=entry.placement, aliases=entry.aliases, targets=entry.targets
            )

    def price(self, row: Row | None, entry: ModelPriceEntry) -> None:  # noqa: ARG002 — the form of a deed
        models.set_price(self.work, entry.model, entry.price)

    def key(self, row: Row | None, entry: KeyEntry) -> None:
        members: dict[str, Any] = {
            "project": entry.project,
            "models": entry.models,
            "tags": entry.tags,
            "expires_at_ms": entry.expires_at_ms,
            "own_device_priority": entry.own_device_priority,
            "data_class": entry.data_class,
        }
        if row is None:
            made = keys.create_key(self.work, entry.name, secret=entry.key, **members)
            if entry.key is None:
                self.secrets.append(KeySecret(entry.name, made.secret))
            return
        keys.update_key(self.work, row["id"], **members)
        if entry.key is not None and not keys.same_secret(self.work, row, entry.key):
            keys.rotate_key(self.work, row["id"], secret=entry.key)

    def route(self, row: Row | None, position: int, entry: RouteEntry) -> None:
        if row is None:
            routes.create_route(self.work, entry, position=position)
        else:
            routes.update_route(self.work, row["id"], entry, position=position)

    def check_names(self, led: set[Mention]) -> None:
        """Raises 409 for a name with two holders, or a fallback that led somewhere before."""
        for each in broken(self.work, led):
            error = conflict(each.detail, each.code)
            error.where = f"{each.kind} {each.name}"
            raise error

    def remove(self, document: Document) -> None:
        """What earlier applies made or took over, and this document does not name: users before what they use."""
        live = t.api_keys.c.revoked_at_ms.is_(None)
        self.drop("route", t.routes, {entry.name for entry in document.routes}, routes.delete_route)
        self.drop("key", t.api_keys, {entry.name for entry in document.keys}, keys.revoke_key, live)
        self.drop("price", t.prices, {entry.model for entry in document.prices}, models.delete_price)
        self.drop("model", t.models, {entry.name for entry in document.models}, models.delete_model)
        for provider in document.providers:
            owner = self.find(t.providers, provider.name)
            if owner is None:
                continue
            named = {entry.name for entry in provider.credentials}
            here = t.credentials.c.provider_id == owner["id"]
            self.drop("credential", t.credentials, named, providers.delete_credential, here, prefix=f"{provider.name}/")
        self.drop("provider", t.providers, {entry.name for entry in document.providers}, providers.delete_provider)
        self.drop("project", t.projects, {entry.name for entry in document.projects}, projects.delete_project)

    def drop(
        self,
        kind: Kind,
        table: sa.Table,
        named: set[str],
        delete: Callable[[Work, str], object],
        *also: sa.ColumnElement[bool],
        prefix: str = "",
    ) -> None:
        kept = (table.c.organisation_id == self.work.organisation_id, table.c.origin == "file", *also)
        for row in self.work.rows(sa.select(table).where(*kept)):
            own_name = row["model" if table is t.prices else "name"]
            if own_name in named:
                continue
            name = f"{prefix}{own_name}"
            if row["maker"] == "file" and not self.keeps_history(table, row):
                self.note(kind, name, row, partial(_delete, self.work, delete), action="remove")
            else:
                self.release(table, row)
                self.work.audit(f"{kind}.release", row["id"], own_name)
                self.changes.append(ChangeLine("release", kind, name))

    def keeps_history(self, table: sa.Table, row: Row) -> bool:
        """A project stays while keys, be they revoked, refer to it: usage is reported by them."""
        keys_here = sa.select(t.api_keys.c.id).where(t.api_keys.c.project_id == row["id"]).limit(1)
        return table is t.projects and self.work.row(keys_here) is not None

    def release(self, table: sa.Table, row: Row) -> None:
        """Back to who made it, with what hangs on it."""
        maker, connection = "api" if row["maker"] == "file" else row["maker"], self.work.connection
        connection.execute(sa.update(table).where(table.c.id == row["id"]).values(origin=maker))
        hanging = {
            "models": ((t.targets, t.targets.c.model_id), (t.node_targets, t.node_targets.c.model_id)),
            "providers": ((t.credentials, t.credentials.c.provider_id),),
        }
        for child, owner in hanging.get(table.name, ()):
            connection.execute(
                sa.update(child).where(owner == row["id"], child.c.origin == "file").values(origin=maker)
            )


class _Rehearsal(_Apply):
    """Does what is sound in a text and collects what is refused, instead of stopping there."""

    def __init__(self, work: Work, draft: Draft, faults: list[tuple[Place, str]]) -> None:
        super().__init__(work)
        self.draft = draft
        self.faults = faults
        missed = [str(draft.values[at]) for at, _ in faults]
        self.missed = {*missed, *(each.partition("/")[0] for each in missed)}
        self.places = {id(entry): at for at, entry in draft.entries.items()}
        self.whole = draft.document is not None
        sections: dict[str, list[Any]] = {section: [] for section in IDENTITY}
        for at, entry in draft.entries.items():
            if len(at) == 2:
                sections[str(at[0])].append(entry)
        self.run(Document(**{section: tuple(entries) for section, entries in sections.items()}))

    def note(
        self,
        kind: Kind,
        name: str,
        row: Row | None,
        deed: Callable[..., None],
        *arguments: Any,
        action: Literal["add", "change", "remove"] | None = None,
    ) -> None:
        savepoint = self.work.connection.begin_nested()
        try:
            super().note(kind, name, row, deed, *arguments, action=action)
        except OperationError as error:
            savepoint.rollback()
            if error.code == "not_found" and kind in ("model", "key", "route"):
                return  # `References` say it, with its place; or what it refers to is at fault itself
            if error.code == "in_use" and name in self.missed:
                return  # said where it is still referred to
            at = self.places.get(id(arguments[-1]), ()) if arguments else ()
            member = error.where.removeprefix(f"{kind} {name}").removeprefix(": ").replace("_at_ms", "_at")
            place = (*at, *member.split(".")) if at and member else at
            if member and any(known[: len(place)] == place for known, _ in self.faults):
                return  # said at the very name
            self.faults.append((place, error.detail if at else f"{kind} {name}: {error.detail}"))
        else:
            savepoint.commit()

    def remove(self, document: Document) -> None:
        if self.whole:  # else: what a faulty object would keep is not known
            super().remove(document)

    def check_names(self, led: set[Mention]) -> None:
        if not self.whole:
            return
        for each in broken(self.work, led):
            if each.about not in self.missed:
                at = self.at(each.kind, each.name)
                self.faults.append((at, each.detail if at else f"{each.kind} {each.name}: {each.detail}"))

    def at(self, kind: str, name: str) -> Place:
        """Where the text names an object; an empty place when it does not."""
        return next((at for at, named in self.draft.names(f"{kind}s").items() if named == name), ())


def _delete(work: Work, delete: Callable[[Work, str], object], row: Row) -> None:
    delete(work, row["id"])
