"""`serve --config FILE`: a `potluck.toml` made so before the first request, all or nothing."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from potluck.config.errors import ConfigError
from potluck.config.reading import read, read_text
from potluck.identity.vault import Vault
from potluck.store import Store


class AppliedFile(msgspec.Struct, frozen=True):
    """`lines`: for the person who starts the gateway, secrets of new keys among them.

    `providers`: names of those that are new or have another address or key, to be asked for their models.
    """

    lines: list[str]
    providers: list[str]


def apply_file(store: Store, vault: Vault, path: Path, env: Mapping[str, str]) -> AppliedFile:
    """Apply the file.

    Raises ConfigError with all that is wrong when it cannot be read or applied; nothing is changed then, and nothing
    should start.
    """
    draft = read(read_text(path), env, source=path.name)
    # SQLAlchemy comes with these: a gateway that is started without a file answers its first request before it
    from potluck.admin.apply import apply, check, file_actor, warnings
    from potluck.admin.errors import OperationError
    from potluck.admin.operations.work import Actor, Work, perform

    actor, document = file_actor(Actor("serve", "serve --config", organisation_of(store))), draft.document
    if document is None:
        raise ConfigError(store.write_now(perform(vault, actor, lambda work: check(work, draft)))[0])

    def make_so(work: Work) -> AppliedFile:
        found = [msgspec.structs.replace(each, message=f"warning: {each.message}") for each in warnings(work, draft)]
        applied = apply(work, document)
        lines = [f"{path.name}: {change.action} {change.kind} {change.name}" for change in applied.changes]
        if applied.adopted:
            adopted = ", ".join(f"{each.kind} {each.name}" for each in applied.adopted)
            lines.append(f"{path.name}: looks after what is as it says: {adopted}")
        for made in applied.secrets:
            lines += ["", f"API key {made.name}, shown this once:", made.secret or ""]
        touched = {change.name.partition("/")[0] for change in applied.changes if change.kind in ASKED_AFTER}
        providers = [entry.name for entry in document.providers if entry.name in touched]
        return AppliedFile([*map(str, found), *lines], providers)

    try:
        return store.write_now(perform(vault, actor, make_so))[0]
    except OperationError as error:
        problems, _ = store.write_now(perform(vault, actor, lambda work: check(work, draft)))
        raise ConfigError(problems or f"{path.name}: {error.where}: {error.detail}") from None


def organisation_of(store: Store) -> str:
    """The id of the home's organisation."""
    query = "SELECT id FROM organisations ORDER BY created_at_ms"
    return store.read_rows_now(lambda connection: str(connection.execute(query).fetchone()[0]))


ASKED_AFTER = ("provider", "credential")
"""kinds whose change may change which models a provider has"""
