"""The migration runner, a process of its own: `python -m potluck.store.migrate COMMAND --db PATH --which main|usage`.

    upgrade  --db PATH --which W [--to REVISION]    bring a database to a revision (default: the newest)
    downgrade --db PATH --which W --to REVISION     and back (`base` empties it)
    schema --which W                                write migrations/W/schema.sql from the migrations
    new --which W --message M                        write the next migration from the difference to the tables

Only this module imports Alembic. A failed migration leaves the database as it was.
"""

import argparse
import importlib
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from potluck.store.schema import MIGRATIONS, Which, head_revision

_METADATA = {"main": ("potluck.store.tables", "metadata"), "usage": ("potluck.store.usage_tables", "metadata")}


def metadata_of(which: Which) -> sa.MetaData:
    """The tables of a database as the program sees them."""
    module, name = _METADATA[which]
    return cast("sa.MetaData", getattr(importlib.import_module(module), name))


def run(action: str, db: Path, which: Which, to: str = "head", message: str = "") -> None:
    """Run one Alembic command on the database at `db`. Raises whatever the migration raised."""
    engine = sa.create_engine(f"sqlite:///{db}", poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        # batch migrations drop and rename tables: references are checked once, at the end
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        # the driver's own transactions would end at each DDL statement: ours spans the whole migration
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            config = _config(which, connection)
            if action == "upgrade":
                command.upgrade(config, to)
            elif action == "downgrade":
                command.downgrade(config, to)
            else:
                command.revision(config, message, autogenerate=True, rev_id=f"{int(head_revision(which) or 0) + 1:04d}")
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
            if broken:
                raise RuntimeError(f"the migration leaves {len(broken)} broken references in {broken[0][0]}")
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")
    engine.dispose()


def schema_sql(which: Which) -> str:
    """The statements that make a new database of the newest revision, in a fixed order."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "schema.db"
        run("upgrade", path, which)
        connection = sqlite3.connect(path)
        rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid").fetchall()
        connection.close()
    statements = [f"{row[0]};\n" for row in rows]
    statements.append(f"INSERT INTO alembic_version (version_num) VALUES ('{head_revision(which)}');\n")  # noqa: S608 — our own file names
    return "-- Made by `python -m potluck.store.migrate schema`; never edited by hand.\n\n" + "\n".join(statements)


def _config(which: Which, connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(MIGRATIONS / which / "versions"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    config.attributes["connection"] = connection
    config.attributes["metadata"] = metadata_of(which)
    return config


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m potluck.store.migrate")
    parser.add_argument("action", choices=["upgrade", "downgrade", "schema", "new"])
    parser.add_argument("--message", default="")
    parser.add_argument("--db", type=Path)
    parser.add_argument("--which", choices=["main", "usage"], required=True)
    parser.add_argument("--to", default="")
    options = parser.parse_args(arguments)
    if options.action == "schema":
        (MIGRATIONS / options.which / "schema.sql").write_text(schema_sql(options.which))
        return 0
    if options.action == "new":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "new.db"
            run("upgrade", path, options.which)
            run("new", path, options.which, message=options.message)
        return 0
    if options.db is None or (options.action == "downgrade" and not options.to):
        parser.error("--db is needed, and --to for a downgrade")
    try:
        run(options.action, options.db, options.which, options.to or "head")
    except Exception as error:  # the parent shows the last line
        print(f"{type(error).__name__}: {error}".replace("\n", " "), file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
