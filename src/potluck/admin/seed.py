"""The first transaction of a home: everything that a gateway needs to answer, at once or not at all."""

from collections.abc import Mapping

import sqlalchemy as sa

from potluck.admin.errors import OperationError
from potluck.admin.first_start import KNOWN_PROVIDERS, LOCAL_PROVIDER
from potluck.admin.operations.keys import create_key
from potluck.admin.operations.projects import DEFAULT_PROJECT, create_project
from potluck.admin.operations.providers import create_credential, create_provider
from potluck.admin.operations.tokens import create_token
from potluck.admin.operations.work import Actor, Work, bump_version, set_fact
from potluck.identity.vault import Vault
from potluck.model.ids import new_id
from potluck.model.resources import Timeouts
from potluck.model.secret import Secret
from potluck.store import Store
from potluck.store import tables as t

ORGANISATION = "default"
FIRST_KEY = "first"


def seed(
    store: Store, vault: Vault, env: Mapping[str, str], *, admin_token: Secret, api_key: Secret, home_id: str
) -> list[str]:
    """Fill an empty store; returns a line for each thing that came from the environment."""

    def fill(connection: sa.Connection) -> list[str]:
        organisation_id = new_id("org")
        actor = Actor("first_start", "first start", organisation_id, origin="first_start")
        work = Work(connection, vault, actor)
        connection.execute(
            sa.insert(t.organisations).values(id=organisation_id, name=ORGANISATION, created_at_ms=work.now_ms)
        )
        create_project(work, DEFAULT_PROJECT)
        create_token(work, "first", "admin", secret=admin_token)
        create_key(work, FIRST_KEY, secret=api_key)
        create_provider(
            work, LOCAL_PROVIDER, "http://127.0.0.1:1/v1", own=True, builtin=True, timeouts=Timeouts(first_byte_s=120.0)
        )
        lines = _providers_from(work, env)
        # the last write: a store that has it is complete
        set_fact(connection, "home_id", home_id, exists=False)
        set_fact(connection, "master_key_check", vault.check, exists=False)
        bump_version(connection)
        return lines

    return store.write_now(fill)


def _providers_from(work: Work, env: Mapping[str, str]) -> list[str]:
    lines = []
    for variable, name, base_url in KNOWN_PROVIDERS:
        key = env.get(variable, "").strip()
        if not key:
            continue
        savepoint = work.connection.begin_nested()
        try:
            create_provider(work, name, base_url)
            create_credential(work, name, "main", Secret(key))
        except OperationError as error:
            savepoint.rollback()
            lines.append(f"{variable} was left out: {error.detail}")
        else:
            savepoint.commit()
            lines.append(f"provider {name} added from {variable} ({base_url})")
    return lines
