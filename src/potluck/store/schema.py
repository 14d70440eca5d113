"""Which revision a database is at, and how to bring it to this program's: without importing Alembic.

A new database is made from `migrations/<which>/schema.sql` in one transaction; an older one is upgraded by a child
process; a newer one is refused.
"""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Literal

from potluck.store.errors import StoreError

Which = Literal["main", "usage"]

MIGRATIONS = Path(__file__).parent / "migrations"
UPGRADE_TIMEOUT_S = 3600.0


def head_revision(which: Which) -> str:
    """The newest revision this program knows (`0003`): the highest number among the migration files."""
    revisions = [path.name[:4] for path in (MIGRATIONS / which / "versions").glob("[0-9][0-9][0-9][0-9]_*.py")]
    return max(revisions, default="")


def revision_of(connection: sqlite3.Connection) -> str:
    """The revision a database is at; empty text for a new one."""
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return ""
        raise
    return str(row[0]) if row else ""


def ensure_schema(path: Path, which: Which) -> str:
    """Make the database at `path` fit this program; returns `created`, `upgraded` or `current`.

    Raises StoreError when the database is newer than the program, not ours, or when the upgrade failed (the database is
    then as it was: every migration is one transaction).
    """
    head = head_revision(which)
    with closing(sqlite3.connect(path, timeout=10.0, isolation_level=None)) as connection:
        try:
            found = revision_of(connection)
            if not found and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise StoreError(f"{path} is not a Potluck database: move it away, or choose another home directory")
            if not found and _create(connection, which):
                return "created"
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{path} cannot be read as a database ({error}): restore a backup") from error
    if found > head:
        raise StoreError(
            f"{path} has schema {found}, newer than this program's {head}: install the newer Potluck again, "
            "or restore a backup that was made before the upgrade"
        )
    if found == head:
        return "current"
    upgrade(path, which)
    return "upgraded" if found else "created"


def upgrade(path: Path, which: Which) -> None:
    """Run the migrations in a child process. Raises StoreError with the last line it said when it fails."""
    command = [sys.executable, "-m", "potluck.store.migrate", "upgrade", "--db", str(path), "--which", which]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=UPGRADE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise StoreError(f"the upgrade of {path} took more than {UPGRADE_TIMEOUT_S:.0f} s and was stopped") from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise StoreError(f"the upgrade of {path} failed and changed nothing: {said}")


def _create(connection: sqlite3.Connection, which: Which) -> bool:
    script = MIGRATIONS / which / "schema.sql"
    if not script.exists():
        return False
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(f"BEGIN IMMEDIATE;\n{script.read_text()}\nCOMMIT;")
    return True
