"""Backup and restore: both databases, whole, checked before anything is touched."""

import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from potluck import store as stores
from potluck.store import StoreError
from potluck.store.backup import backup, read_manifest, restore
from potluck.store.tables import facts


def put(home: Path, name: str, value: str) -> None:
    store = stores.open(home)
    store.write_now(lambda connection: connection.execute(facts.insert().values(name=name, value=value)))
    store.close()


def read(home: Path) -> dict[str, str]:
    with closing(sqlite3.connect(home / "potluck.db")) as connection:
        return dict(connection.execute("SELECT name, value FROM facts").fetchall())


def test_a_backup_taken_under_a_running_gateway_restores_what_there_was(tmp_path: Path) -> None:
    """What was stored before the backup comes back, what came after is gone but kept aside, files are private."""
    home, file = tmp_path / "home", tmp_path / "b.tar"
    put(home, "before", "1")
    running = stores.open(home)
    seen: list[tuple[int, int]] = []
    manifest = backup(home, file, lambda done, total: seen.append((done, total)))
    running.close()
    assert {member.name for member in manifest.members} == {"potluck.db", "usage.db"}
    assert seen[-1][0] == seen[-1][1] > 0
    assert file.stat().st_mode & 0o777 == 0o600
    put(home, "after", "1")
    aside = restore(home, file)
    assert read(home) == {"before": "1"}
    assert aside is not None
    with closing(sqlite3.connect(aside / "potluck.db")) as connection:
        assert connection.execute("SELECT count(*) FROM facts").fetchone() == (2,)
    stores.open(home).close()


def test_restore_refuses_a_running_gateway(tmp_path: Path) -> None:
    """While a gateway holds the home nothing is restored, and the message names its process."""
    home, file = tmp_path / "home", tmp_path / "b.tar"
    put(home, "a", "1")
    backup(home, file)
    running = stores.open(home)
    with pytest.raises(StoreError, match="in use by a running gateway"):
        restore(home, file)
    running.close()


def test_restore_makes_a_new_home(tmp_path: Path) -> None:
    """A backup can be restored where there was nothing; nothing is kept aside then."""
    put(tmp_path / "old", "a", "1")
    backup(tmp_path / "old", tmp_path / "b.tar")
    assert restore(tmp_path / "new", tmp_path / "b.tar") is None
    assert read(tmp_path / "new") == {"a": "1"}


def test_a_damaged_backup_changes_nothing(tmp_path: Path) -> None:
    """One changed byte in a database, or no archive at all, is noticed before the home is touched."""
    home, file = tmp_path / "home", tmp_path / "b.tar"
    put(home, "a", "1")
    backup(home, file)
    raw = bytearray(file.read_bytes())
    with tarfile.open(file) as archive:
        place = archive.getmember("potluck.db").offset_data + 5000
    raw[place] ^= 0xFF
    file.write_bytes(bytes(raw))
    with pytest.raises(StoreError, match="damaged"):
        restore(home, file)
    (tmp_path / "text").write_text("not a backup")
    with pytest.raises(StoreError, match="not a backup"):
        read_manifest(tmp_path / "text")
    with pytest.raises(StoreError, match="cannot be read"):
        read_manifest(tmp_path / "missing")
    assert read(home) == {"a": "1"}
    assert not list(home.glob("before-restore-*"))
    assert not list(home.glob(".restore-*"))


def test_a_backup_newer_than_the_program_is_refused(tmp_path: Path) -> None:
    """A schema that this program does not know is refused with both revisions."""
    home, file = tmp_path / "home", tmp_path / "b.tar"
    put(home, "a", "1")
    with closing(sqlite3.connect(home / "potluck.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9000'")
        connection.commit()
    backup(home, file)
    with pytest.raises(StoreError, match=r"9000.*newer than this program"):
        restore(tmp_path / "other", file)


def test_a_backup_overwrites_nothing(tmp_path: Path) -> None:
    """An existing file stays, and a home without a store is said to be one."""
    put(tmp_path / "home", "a", "1")
    (tmp_path / "b.tar").write_text("precious")
    with pytest.raises(StoreError, match="exists"):
        backup(tmp_path / "home", tmp_path / "b.tar")
    assert (tmp_path / "b.tar").read_text() == "precious"
    with pytest.raises(StoreError, match="no store"):
        backup(tmp_path / "empty", tmp_path / "c.tar")
