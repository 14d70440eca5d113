"""Migrations, forward and back, and what they must agree with."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from potluck.store import StoreError
from potluck.store.migrate import main, metadata_of, schema_sql
from potluck.store.schema import MIGRATIONS, Which, ensure_schema, head_revision, revision_of, upgrade

BOTH = pytest.mark.parametrize("which", ["main", "usage"])


def tables_of(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return dict(rows)


@BOTH
def test_up_down_and_up_again(tmp_path: Path, which: Which) -> None:
    """Every migration can be taken back: at `base` nothing is left, and the way up gives the same schema again."""
    path = tmp_path / "x.db"
    upgrade(path, which)
    first = tables_of(path)
    assert main(["downgrade", "--db", str(path), "--which", which, "--to", "base"]) == 0
    assert set(tables_of(path)) <= {"alembic_version"}
    upgrade(path, which)
    assert tables_of(path) == first


@BOTH
def test_each_step_can_be_taken_back(tmp_path: Path, which: Which) -> None:
    """One step back and one forward again, for each migration, ends at the newest revision."""
    path = tmp_path / "x.db"
    newest = int(head_revision(which))
    for number in range(1, newest + 1):
        assert main(["upgrade", "--db", str(path), "--which", which, "--to", f"{number:04d}"]) == 0
        before = tables_of(path)
        assert main(["downgrade", "--db", str(path), "--which", which, "--to", "-1"]) == 0
        assert main(["upgrade", "--db", str(path), "--which", which, "--to", f"{number:04d}"]) == 0
        assert tables_of(path) == before
    assert ensure_schema(path, which) == "current"


@BOTH
def test_migrations_give_the_tables_that_the_program_uses(tmp_path: Path, which: Which) -> None:
    """Nothing differs between the migrated database and the table definitions."""
    path = tmp_path / "x.db"
    upgrade(path, which)
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata_of(which)) == []
    engine.dispose()


@BOTH
def test_the_schema_of_new_databases_is_that_of_migrated_ones(which: Which) -> None:
    """`schema.sql`, from which new databases are made, is what the migrations give: refresh it after adding one."""
    assert (MIGRATIONS / which / "schema.sql").read_text() == schema_sql(which)


@BOTH
def test_new_old_and_current(tmp_path: Path, which: Which) -> None:
    """A new database is made, a current one is left, and one at base is brought up by the child."""
    path = tmp_path / "x.db"
    assert ensure_schema(path, which) == "created"
    assert ensure_schema(path, which) == "current"
    with closing(sqlite3.connect(path)) as connection:
        assert revision_of(connection) == head_revision(which)


def test_a_failed_upgrade_changes_nothing_and_says_why(tmp_path: Path) -> None:
    """When a table of the same name stands in the way, the database is as it was, and the reason is one line."""
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE targets (mine)")
        connection.commit()
    before = tables_of(path)
    with pytest.raises(StoreError, match=r"changed nothing: .*targets") as caught:
        upgrade(path, "main")
    assert "\n" not in str(caught.value)
    assert tables_of(path) == before


def test_routing_comes_and_goes_without_loss(tmp_path: Path) -> None:
    """Models and targets of before routing keep their rows on the way up, with defaults, and on the way down."""
    path = tmp_path / "x.db"
    assert main(["upgrade", "--db", str(path), "--which", "main", "--to", "0001"]) == 0
    made = "created_at_ms, updated_at_ms) VALUES"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "INSERT INTO organisations VALUES ('org_1', 'default', 1);"
            f"INSERT INTO providers (id, organisation_id, name, dialect, base_url, {made}"
            " ('prv_1', 'org_1', 'lab', 'openai', 'http://lab/v1', 1, 1);"
            f"INSERT INTO models (id, organisation_id, name, {made} ('mdl_1', 'org_1', 'small', 1, 1);"
            f"INSERT INTO targets (id, organisation_id, model_id, provider_id, upstream_model, capabilities, {made}"
            " ('tgt_1', 'org_1', 'mdl_1', 'prv_1', 'm', '[]', 1, 1);"
        )
    upgrade(path, "main")
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT p.assistant_prefix, p.probe, m.aliases, t.weight, t.priority, t.slots FROM targets t"
            " JOIN models m ON m.id = t.model_id JOIN providers p ON p.id = t.provider_id"
        ).fetchall()
    assert found == [(None, None, "[]", 1, None, None)]
    assert main(["downgrade", "--db", str(path), "--which", "main", "--to", "0001"]) == 0
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT id, upstream_model FROM targets").fetchall() == [("tgt_1", "m")]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
