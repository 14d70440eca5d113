"""`serve --config FILE`: a `potluck.toml` made so before the first request, all or nothing."""

from collections.abc import Mapping
from pathlib import Path

from potluck.config.errors import ConfigError, Problem
from potluck.config.reading import load
from potluck.identity.vault import Vault
from potluck.store import Store


def apply_file(store: Store, vault: Vault, path: Path, env: Mapping[str, str]) -> list[str]:
    """Apply the file; returns lines for the person who starts the gateway, secrets of new keys among them.

    Raises ConfigError when the file cannot be read or applied; nothing is changed then, and nothing should start.
    """
    document = load(path, env)
    # SQLAlchemy comes with these: a gateway that is started without a file answers its first request before it
    from potluck.admin.apply import apply, file_actor
    from potluck.admin.errors import OperationError
    from potluck.admin.operations.work import Actor, perform

    organisation_id = store.read_rows_now(
        lambda connection: str(connection.execute("SELECT id FROM organisations ORDER BY created_at_ms").fetchone()[0])
    )
    actor = file_actor(Actor("serve", "serve --config", organisation_id))
    try:
        applied, _ = store.write_now(perform(vault, actor, lambda work: apply(work, document)))
    except OperationError as error:
        raise ConfigError(Problem(error.detail, where=error.where, source=path.name)) from None
    lines = [f"{path.name}: {change.action} {change.kind} {change.name}" for change in applied.changes]
    for made in applied.secrets:
        lines += ["", f"API key {made.name}, shown this once:", made.secret or ""]
    return lines
