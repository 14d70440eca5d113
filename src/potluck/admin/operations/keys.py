"""API keys: make, change, rotate with an overlap, revoke. A key's id and name stay when its secret changes."""

from typing import Any

import msgspec
import sqlalchemy as sa

from potluck.admin.errors import invalid
from potluck.admin.operations.names import PublicNames, names_kept
from potluck.admin.operations.projects import DEFAULT_PROJECT
from potluck.admin.operations.views import KeyView, MadeKey, key_view, made_key
from potluck.admin.operations.work import Row, Work
from potluck.identity.keys import has_shape, hint, new_secret
from potluck.model.ids import new_id
from potluck.model.node import OwnDevices
from potluck.model.resources import DataClass
from potluck.model.secret import Secret
from potluck.store import tables as t

MAX_OVERLAP_S = 30 * 86_400


def create_key(
    work: Work,
    name: str,
    *,
    project: str = DEFAULT_PROJECT,
    models: tuple[str, ...] = (),
    tags: tuple[str, ...] = (),
    expires_at_ms: int | None = None,
    own_device_priority: OwnDevices = "off",
    data_class: DataClass | None = None,
    secret: Secret | None = None,
) -> MadeKey:
    """Make a key; `secret` takes one that has the shape as given. Raises 400, 404 (project), 409 (name taken)."""
    owner = work.find(t.projects, "project", project)
    if expires_at_ms is not None and expires_at_ms <= work.now_ms:
        raise invalid("expires_at_ms", "the key would have expired already: give a time to come")
    text = _given(secret) if secret else new_secret("plk")
    row = work.insert(
        t.api_keys,
        f"there is a key {name!r} already: choose another name, or revoke that one first",
        id=new_id("key"),
        project_id=owner["id"],
        name=name,
        hash=work.vault.hash(text.encode()),
        hint=hint(text),
        models=_json(models),
        tags=_json(tags),
        expires_at_ms=expires_at_ms,
        own_devices=own_device_priority,
        data_class=data_class,
    )
    work.touch(keys=[row["id"]])
    work.audit("key.create", row["id"], name, project=owner["name"], models=models, expires_at_ms=expires_at_ms)
    warnings: list[str] = []
    if models and work.actor.origin != "file":  # a file is looked at as a whole
        names = PublicNames(work)
        warnings = [wrong for each in models if (wrong := names.unused(each))]
    return made_key(row, owner["name"], work.now_ms, text, warnings)


def update_key(
    work: Work,
    ref: str,
    *,
    name: str | None = None,
    project: str | None = None,
    models: tuple[str, ...] | None = None,
    tags: tuple[str, ...] | None = None,
    expires_at_ms: int | msgspec.UnsetType | None = msgspec.UNSET,
    own_device_priority: OwnDevices | None = None,
    data_class: DataClass | msgspec.UnsetType | None = msgspec.UNSET,
) -> KeyView:
    """Change what is given. Raises 404, 409."""
    row = find_live(work, ref)
    owner = work.find(t.projects, "project", row["project_id"] if project is None else project)
    values: dict[str, Any] = {"project_id": owner["id"]}
    if name is not None:
        values["name"] = name
    if models is not None:
        values["models"] = _json(models)
    if tags is not None:
        values["tags"] = _json(tags)
    if own_device_priority is not None:
        values["own_devices"] = own_device_priority
    if data_class is not msgspec.UNSET:
        values["data_class"] = data_class
    if expires_at_ms is not msgspec.UNSET:
        values["expires_at_ms"] = expires_at_ms
    with names_kept(work):
        changed = work.update(t.api_keys, row, f"there is a key {name!r} already: choose another name", **values)
    if changed is not row:
        work.touch(keys=[row["id"]])
        work.audit("key.update", row["id"], changed["name"], members=_differing(row, changed))
    return key_view(changed, owner["name"], work.now_ms)


def rotate_key(work: Work, ref: str, *, overlap_s: int = 0, secret: Secret | None = None) -> MadeKey:
    """Give the key a new secret; the old one is good for `overlap_s` more seconds. Raises 400, 404, 409."""
    row = find_live(work, ref)
    if not 0 <= overlap_s <= MAX_OVERLAP_S:
        raise invalid("overlap_s", f"an overlap is at most {MAX_OVERLAP_S} seconds (30 days)")
    text = _given(secret) if secret else new_secret("plk")
    changed = work.update(
        t.api_keys,
        row,
        "another key has this secret: give each key its own",
        hash=work.vault.hash(text.encode()),
        hint=hint(text),
        previous_hash=row["hash"] if overlap_s else None,
        previous_until_ms=work.now_ms + overlap_s * 1000 if overlap_s else None,
    )
    work.touch(keys=[row["id"]])
    work.audit("key.rotate", row["id"], row["name"], overlap_s=overlap_s)
    return made_key(changed, project_name(work, changed), work.now_ms, text)


def revoke_key(work: Work, ref: str) -> KeyView:
    """End a key, its overlapping secret too; again is no error. Its name is free afterwards. Raises 404, 409."""
    row = work.row(
        sa.select(t.api_keys).where(
            t.api_keys.c.organisation_id == work.organisation_id,
            t.api_keys.c.id == ref,
            t.api_keys.c.revoked_at_ms.is_not(None),
        )
    )
    if row is not None:
        return key_view(row, project_name(work, row), work.now_ms)
    row = find_live(work, ref)
    changed = work.update(t.api_keys, row, revoked_at_ms=work.now_ms, previous_hash=None, previous_until_ms=None)
    work.touch(keys=[row["id"]])
    work.audit("key.revoke", row["id"], row["name"])
    return key_view(changed, project_name(work, changed), work.now_ms)


def show_key(work: Work, ref: str) -> KeyView:
    """One key: by id also when it is revoked, by name only while it is not."""
    row = work.row(
        sa.select(t.api_keys).where(t.api_keys.c.organisation_id == work.organisation_id, t.api_keys.c.id == ref)
    )
    row = row or work.find(t.api_keys, "key", ref, t.api_keys.c.revoked_at_ms.is_(None))
    return key_view(row, project_name(work, row), work.now_ms)


def find_live(work: Work, ref: str) -> Row:
    """A key that is not revoked and that the actor may change. Raises 404, 409."""
    row = work.find(t.api_keys, "key", ref, t.api_keys.c.revoked_at_ms.is_(None))
    work.check_writable("key", row)
    return row


def project_name(work: Work, row: Row) -> str:
    return str(
        work.connection.execute(sa.select(t.projects.c.name).where(t.projects.c.id == row["project_id"])).scalar()
    )


def same_secret(work: Work, row: Row, secret: Secret) -> bool:
    """Whether this is the key's secret now."""
    return bool(row["hash"] == work.vault.hash(secret.reveal().encode()))


def _given(secret: Secret) -> str:
    text = secret.reveal()
    if not has_shape(text, "plk"):
        raise invalid("key", "this is not the shape of an API key: plk- and 46 letters and digits")
    return text


def _json(texts: tuple[str, ...]) -> str:
    return msgspec.json.encode(texts).decode()


def _differing(old: Row, new: Row) -> list[str]:
    kept = ("updated_at_ms", "hash", "previous_hash")
    return [str(name) for name in new if old[name] != new[name] and name not in kept]
