"""One piece of work on the store: its transaction, who does it, what it touched."""

import time
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from potluck.admin.errors import OperationError, conflict, kept_by_file, not_found
from potluck.identity.vault import Vault
from potluck.model.resources import Origin
from potluck.snapshot import Change
from potluck.store import tables as t

T = TypeVar("T")
Operation = Callable[["Work"], T]
Row = sa.RowMapping

IDEMPOTENCY_KEPT_MS = 24 * 3600 * 1000


class Actor(msgspec.Struct, frozen=True):
    """Who acts, and for which organisation. `origin` marks what they make."""

    id: str
    name: str
    organisation_id: str
    role: str = "admin"
    origin: Origin = "api"


class Idempotency(msgspec.Struct, frozen=True):
    """An `Idempotency-Key` and the digest of the request that it came with."""

    token_id: str
    key: str
    request_digest: bytes
    status: int


class Replayed(Exception):  # noqa: N818 — an outcome, not an error
    """The same request was answered before: this is that answer, without what was shown once."""

    def __init__(self, status: int, answer: bytes) -> None:
        super().__init__("replayed")
        self.status = status
        self.answer = answer


class Work:
    """What an operation works on. Valid inside its transaction only."""

    def __init__(self, connection: sa.Connection, vault: Vault, actor: Actor) -> None:
        self.connection = connection
        self.vault = vault
        self.actor = actor
        self.now_ms = int(time.time() * 1000)
        self.change = Change()
        self.audited = 0
        self.edited = 0
        """rows made, removed, or changed in more than in who looks after them"""

    @property
    def organisation_id(self) -> str:
        return self.actor.organisation_id

    def rows(self, statement: sa.Select[Any]) -> list[Row]:
        return list(self.connection.execute(statement).mappings())

    def row(self, statement: sa.Select[Any]) -> Row | None:
        return self.connection.execute(statement).mappings().first()

    def find(self, table: sa.Table, kind: str, ref: str, *also: sa.ColumnElement[bool]) -> Row:
        """The organisation's own object by id or name. Raises 404."""
        for column in (table.c.id, table.c.name) if "name" in table.c else (table.c.id,):
            mine = table.c.organisation_id == self.organisation_id
            if row := self.row(sa.select(table).where(mine, column == ref, *also)):
                return row
        raise not_found(kind, ref)

    def insert(self, table: sa.Table, taken: str, **values: Any) -> Row:
        """A new row with its book-keeping columns. Raises 409 with the text `taken` when its name is."""
        origin = self.actor.origin
        values |= {"created_at_ms": self.now_ms, "updated_at_ms": self.now_ms, "origin": origin, "maker": origin}
        values["organisation_id"] = self.organisation_id
        try:
            self.connection.execute(sa.insert(table).values(**values))
        except sa.exc.IntegrityError:
            raise conflict(taken, "already_exists") from None
        row = self.row(sa.select(table).where(table.c.id == values["id"]))
        assert row is not None
        self.edited += 1
        return row

    def update(self, table: sa.Table, row: Row, taken: str = "", **values: Any) -> Row:
        """Change a row; no write when nothing differs (but a file takes over what it names)."""
        values = {name: value for name, value in values.items() if row[name] != value}
        edited = bool(values)
        if self.actor.origin == "file" and row["origin"] != "file":
            values["origin"] = "file"
        if not values:
            return row
        values["updated_at_ms"] = self.now_ms
        try:
            self.connection.execute(sa.update(table).where(table.c.id == row["id"]).values(**values))
        except sa.exc.IntegrityError:
            raise conflict(taken, "already_exists") from None
        changed = self.row(sa.select(table).where(table.c.id == row["id"]))
        assert changed is not None
        self.edited += edited
        return changed

    def delete(self, table: sa.Table, row: Row, in_use: str = "") -> None:
        """Remove a row. Raises 409 with the text `in_use` when others refer to it."""
        try:
            self.connection.execute(sa.delete(table).where(table.c.id == row["id"]))
        except sa.exc.IntegrityError:
            raise conflict(in_use, "in_use") from None
        self.edited += 1

    def check_writable(self, kind: str, row: Row) -> None:
        """Raises 409 when a file looks after the object and the actor is not it."""
        if row["origin"] == "file" and self.actor.origin != "file":
            raise kept_by_file(kind, next(row[member] for member in ("name", "model", "id") if member in row))

    def touch(
        self,
        *,
        keys: Iterable[str] = (),
        providers: Iterable[str] = (),
        models: bool = False,
        prices: bool = False,
        rules: bool = False,
        nodes: Iterable[str] = (),
    ) -> None:
        """Note what the snapshot has to compile again; `rules`: routes."""
        self.change |= Change(
            keys=frozenset(keys),
            providers=frozenset(providers),
            models=models,
            prices=prices,
            rules=rules,
            nodes=frozenset(nodes),
        )

    def audit(self, action: str, object_id: str, name: str, /, **detail: Any) -> None:
        """Append to the audit log. `detail` must hold no secret. Each entry's hash covers the one before it."""
        last = self.row(sa.select(t.audit.c.seq, t.audit.c.hash).order_by(t.audit.c.seq.desc()).limit(1))
        seq, prev_hash = (last["seq"] + 1, last["hash"]) if last else (1, b"")
        entry = {
            "seq": seq,
            "organisation_id": self.organisation_id,
            "at_ms": self.now_ms,
            "actor": self.actor.id,
            "action": action,
            "object_id": object_id,
            "name": name,
            "detail": msgspec.json.encode(detail, order="sorted").decode(),
        }
        self.connection.execute(
            sa.insert(t.audit).values(**entry, prev_hash=prev_hash, hash=audit_hash(prev_hash, entry))
        )
        self.audited += 1


def audit_hash(prev_hash: bytes, entry: dict[str, Any]) -> bytes:
    """The hash of an audit entry: over the hash before it and every member, in a fixed form."""
    text = msgspec.json.encode({name: entry[name] for name in sorted(entry) if name not in ("hash", "prev_hash")})
    return blake2b(prev_hash + text, digest_size=32).digest()


def perform(
    vault: Vault, actor: Actor, operation: Operation[T], idempotency: Idempotency | None = None
) -> Callable[[sa.Connection], tuple[T, Change]]:
    """An operation as the store's writer runs it. The transaction's change carries the version it made."""

    def run(connection: sa.Connection) -> tuple[T, Change]:
        work = Work(connection, vault, actor)
        if idempotency is not None:
            _replay(work, idempotency)
        result = operation(work)
        version = bump_version(connection) if work.audited else 0
        if idempotency is not None:
            _remember(work, idempotency, result)
        return result, msgspec.structs.replace(work.change, version=version)

    return run


def bump_version(connection: sa.Connection) -> int:
    """Raise the snapshot version by one; returns it."""
    facts = t.facts
    current = connection.execute(sa.select(facts.c.value).where(facts.c.name == "snapshot_version")).scalar()
    version = int(current or 0) + 1
    set_fact(connection, "snapshot_version", str(version), exists=current is not None)
    return version


def set_fact(connection: sa.Connection, name: str, value: str, *, exists: bool) -> None:
    """Write one of the store's facts about itself."""
    if exists:
        connection.execute(sa.update(t.facts).where(t.facts.c.name == name).values(value=value))
    else:
        connection.execute(sa.insert(t.facts).values(name=name, value=value))


def _replay(work: Work, idempotency: Idempotency) -> None:
    table = t.idempotency_keys
    row = work.row(sa.select(table).where(table.c.token_id == idempotency.token_id, table.c.key == idempotency.key))
    if row is None or row["created_at_ms"] < work.now_ms - IDEMPOTENCY_KEPT_MS:
        return
    if row["request_digest"] != idempotency.request_digest:
        raise OperationError(
            422, "idempotency_key_reused", "this Idempotency-Key came with another request before: use a fresh one"
        )
    raise Replayed(row["status"], row["answer"].encode())


def _remember(work: Work, idempotency: Idempotency, result: Any) -> None:
    table = t.idempotency_keys
    work.connection.execute(sa.delete(table).where(table.c.created_at_ms < work.now_ms - IDEMPOTENCY_KEPT_MS))
    shown_once = getattr(result, "without_secret", None)
    work.connection.execute(
        sa.insert(table).values(
            token_id=idempotency.token_id,
            key=idempotency.key,
            request_digest=idempotency.request_digest,
            status=idempotency.status,
            answer=msgspec.json.encode(shown_once() if shown_once else result).decode(),
            created_at_ms=work.now_ms,
        )
    )
