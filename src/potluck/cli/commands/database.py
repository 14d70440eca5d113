"""`potluck db upgrade|backup|restore`: the store's files in the home directory."""

from pathlib import Path

import click

from potluck.cli.failure import Failure
from potluck.cli.home_option import home_option, resolve_home
from potluck.cli.output import when
from potluck.cli.progress import Bar
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


@db.command()
@click.argument("file", type=click.Path())
@home_option
def backup(file: str, home: str | None) -> None:
    """Write both databases to one file. The gateway may run.

    The master key is not in it: keep a copy of HOME/master-key apart; without it nobody reads the provider
    credentials in the backup, and its API keys do not work.
    """
    from potluck.store import StoreError
    from potluck.store.backup import backup as take

    session, place = current(), resolve_home(home)
    try:
        with Bar(session) as bar:
            manifest = take(place, Path(file), lambda done, total: bar.tick("copying", done, total))
    except StoreError as error:
        raise Failure(str(error)) from None
    members = [
        {"database": each.name, "schema": each.revision, "size_bytes": each.size_bytes} for each in manifest.members
    ]
    if session.json:
        session.output.data({"file": file, "made_at_ms": manifest.made_at_ms, "databases": members})
        return
    size = sum(each.size_bytes for each in manifest.members)
    session.output.line(f"{file}: {len(members)} databases, {size / 1e6:.1f} MB")
    session.output.line(
        f"not in it: the master key ({place / 'master-key'}), without which its provider keys cannot be read"
    )


@db.command()
@click.argument("file", type=click.Path())
@home_option
def restore(file: str, home: str | None) -> None:
    """Put a backup in the place of the databases, whole or not at all.

    The gateway must be stopped. What was there before is kept in a folder beside it.
    """
    from potluck.store import StoreError
    from potluck.store.backup import read_manifest
    from potluck.store.backup import restore as put_back

    session, place = current(), resolve_home(home)
    try:
        manifest = read_manifest(Path(file))
        with Bar(session) as bar:
            aside = put_back(place, Path(file), lambda done, total: bar.tick("restoring", done, total))
    except StoreError as error:
        raise Failure(str(error)) from None
    if session.json:
        session.output.data({"home": str(place), "made_at_ms": manifest.made_at_ms, "kept": aside and str(aside)})
        return
    session.output.line(f"{place} is as it was on {when(manifest.made_at_ms)}")
    if aside:
        session.output.line(f"what was there before is in {aside}")
