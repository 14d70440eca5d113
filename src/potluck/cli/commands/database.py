"""`potluck db upgrade|backup|restore`: the store's files in the home directory."""

import click

from potluck.cli.failure import Failure
from potluck.cli.home_option import home_option, resolve_home
from potluck.cli.session import Group, current


@click.group(cls=Group)
def db() -> None:
    """The store: the databases in the home directory."""


@db.command()
@home_option
def upgrade(home: str | None) -> None:
    """Bring the databases to this program's schema. The gateway must be stopped; its start does the same."""
    from potluck.store import StoreError
    from potluck.store.home import MAIN_DB, USAGE_DB, HomeLock, prepare_home
    from potluck.store.schema import Which, ensure_schema, head_revision

    session, place = current(), resolve_home(home)
    pairs: tuple[tuple[str, Which], ...] = ((MAIN_DB, "main"), (USAGE_DB, "usage"))
    done = []
    try:
        prepare_home(place)
        lock = HomeLock(place)
        try:
            for name, which in pairs:
                path = place / name
                path.touch(mode=0o600)
                done.append({"database": name, "result": ensure_schema(path, which), "schema": head_revision(which)})
        finally:
            lock.release()
    except StoreError as error:
        raise Failure(str(error)) from None
    if session.json:
        session.output.data(done)
    else:
        session.output.table([("DATABASE", "database"), ("RESULT", "result"), ("SCHEMA", "schema")], done, empty="")
