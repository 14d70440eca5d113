"""The opened store: transactions, readers, the lock, schemas older and newer than the program."""

import asyncio
import errno
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from potluck import store as stores
from potluck.store import StoreError
from potluck.store.errors import disk_fault
from potluck.store.home import write_secret_file
from potluck.store.tables import facts


@pytest.fixture
def store(tmp_path: Path) -> stores.Store:
    made = stores.open(tmp_path / "home")
    yield made
    made.close()


def add(name: str) -> object:
    return lambda connection: connection.execute(facts.insert().values(name=name, value="1"))


async def test_a_write_that_raises_leaves_nothing(store: stores.Store) -> None:
    """What a failing piece of work wrote before it raised is rolled back."""

    def work(connection: sa.Connection) -> None:
        connection.execute(facts.insert().values(name="half", value="1"))
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        await store.write(work)
    assert await store.read(lambda connection: connection.execute(sa.select(facts)).all()) == []


async def test_writes_run_one_after_another_beside_readers(store: stores.Store) -> None:
    """Fifty concurrent increments are fifty, while readers see only committed states."""
    await store.write(lambda connection: connection.execute(facts.insert().values(name="n", value="0")))

    def increment(connection: sa.Connection) -> None:
        value = int(connection.execute(sa.select(facts.c.value)).scalar())
        connection.execute(facts.update().values(value=str(value + 1)))

    def look(connection: sa.Connection) -> int:
        return int(connection.execute(sa.select(facts.c.value)).scalar())

    seen = await asyncio.gather(*(each for _ in range(50) for each in (store.write(increment), store.read(look))))
    assert await store.read(look) == 50
    assert all(0 <= value <= 50 for value in seen if value is not None)


def test_settings_of_the_connections(store: stores.Store) -> None:
    """Write-ahead log, foreign keys on, normal synchronous; readers cannot write."""

    def look(connection: sa.Connection) -> tuple[object, ...]:
        names = ("journal_mode", "foreign_keys", "synchronous")
        return tuple(connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names)

    assert store.write_now(look) == ("wal", 1, 1)
    with pytest.raises(sa.exc.OperationalError, match="readonly"):
        store.read_now(add("x"))


def test_a_second_gateway_on_the_home_is_refused(store: stores.Store) -> None:
    """The lock names the process that holds it; readers beside it may open without."""
    with pytest.raises(StoreError, match="in use by a running gateway"):
        stores.open(store.home)
    stores.open(store.home, lock=False).close()


def test_a_killed_gateway_leaves_no_lock(tmp_path: Path) -> None:
    """The lock ends with its process, whatever ended it."""
    code = (
        "import sys, pathlib, potluck.store as s\n"
        "store = s.open(pathlib.Path(sys.argv[1]))\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "home")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"open\n"
    with pytest.raises(StoreError, match=str(child.pid)):
        stores.open(tmp_path / "home")
    child.kill()
    child.communicate()
    stores.open(tmp_path / "home").close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A database of a later program is left alone, with the two revisions named."""
    stores.open(tmp_path / "home").close()
    with closing(sqlite3.connect(tmp_path / "home" / "potluck.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9000'")
        connection.commit()
    with pytest.raises(StoreError, match=r"9000.*newer than this program's 0"):
        stores.open(tmp_path / "home")


def test_a_file_that_is_no_database_of_ours_is_refused(tmp_path: Path) -> None:
    """Neither somebody else's database nor a text file is written to."""
    home = tmp_path / "home"
    home.mkdir()
    with closing(sqlite3.connect(home / "potluck.db")) as connection:
        connection.execute("CREATE TABLE theirs (a)")
        connection.commit()
    with pytest.raises(StoreError, match="not a Potluck database"):
        stores.open(home)
    (home / "potluck.db").write_text("hello " * 1000)
    with pytest.raises(StoreError, match="cannot be read as a database"):
        stores.open(home)


def test_a_home_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    """A file in the place of the home directory is an error that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        stores.open(tmp_path / "file" / "home")


def test_the_serving_process_imports_neither_alembic_nor_sqlalchemy_to_open() -> None:
    """Opening an existing or a new home needs `sqlite3` alone."""
    code = (
        "import sys, tempfile, pathlib, potluck.store as s\n"
        "s.open(pathlib.Path(tempfile.mkdtemp()) / 'home').close()\n"
        "print(*sorted({'alembic', 'sqlalchemy', 'rich', 'litestar'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_files_are_private(store: stores.Store) -> None:
    """The home is its owner's alone, and so is everything in it."""
    assert store.home.stat().st_mode & 0o777 == 0o700
    write_secret_file(store.home / "secret", "x")
    for path in store.home.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


async def test_a_broken_store_says_why(store: stores.Store) -> None:
    """`problem` is empty while the store can be read, and says why when it cannot."""
    assert await asyncio.to_thread(store.problem) == ""
    store.main_path.rename(store.home / "elsewhere")
    assert "cannot be read" in await asyncio.to_thread(store.problem)


def test_a_disk_fault_is_told_from_others() -> None:
    """Full, failing, under SQLAlchemy's error, as a cause: said; other errors are not the disk's."""

    def driver(code: int) -> sqlite3.OperationalError:
        error = sqlite3.OperationalError("canary")
        error.sqlite_errorcode = code
        return error

    full = "the disk is full: free space in the home directory"
    found = disk_fault(sa.exc.OperationalError("INSERT", {}, driver(sqlite3.SQLITE_FULL)))
    assert found == (full, "canary")
    wrapped = RuntimeError("x")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    found = disk_fault(wrapped)
    assert found == (full, "No space left on device")
    found = disk_fault(driver(sqlite3.SQLITE_IOERR_WRITE))
    assert found is not None
    assert "look after the disk" in found.said
    for other in (driver(sqlite3.SQLITE_BUSY), sqlite3.OperationalError("x"), OSError(errno.EACCES, ""), None):
        assert disk_fault(other) is None
