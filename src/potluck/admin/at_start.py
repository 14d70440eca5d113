"""`serve --config FILE`: the file is applied before the gateway listens, as `config apply` would."""

from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa

from potluck.admin import apply as applying
from potluck.admin.errors import OperationError
from potluck.admin.first_start import FirstStartError
from potluck.admin.operations.work import Actor, perform
from potluck.config.reading import load
from potluck.identity.vault import Vault
from potluck.store import Store
from potluck.store import tables as t

ORGANISATION = "default"


def apply_file(store: Store, vault: Vault, path: Path, env: Mapping[str, str]) -> list[str]:
    """Make the store as the file says; returns a line for each change and each secret that this made.

    Call it after `first_start` and before `SnapshotStore.load`. Raises ConfigError when the file is not valid,
    FirstStartError when it cannot be applied; nothing is changed then.
    """
    document = load(path, env)
    named = sa.select(t.organisations.c.id).where(t.organisations.c.name == ORGANISATION)
    organisation_id = store.read_now(lambda connection: str(connection.execute(named).scalar()))
    actor = Actor("start", f"start with {path.name}", organisation_id, origin="file")
    try:
        done, _ = store.write_now(perform(vault, actor, lambda work: applying.apply(work, document)))
    except OperationError as error:
        raise FirstStartError(f"{path} cannot be applied: {error.where}: {error.detail}") from error
    lines = [f"{path.name}: {change.action} {change.kind} {change.name}" for change in done.changes]
    return lines + [f"API key {made.name}, shown this once: {made.secret}" for made in done.secrets]
