"""The opened store: one writer thread, readers apart.

Writes are functions that get a SQLAlchemy connection inside one `BEGIN IMMEDIATE` transaction; they run one after
another in a thread of their own, and what they raise rolls everything back. Reads get a connection of a small pool, in
other threads, and see the last committed state (WAL). `driver` hands out a plain `sqlite3` connection for the snapshot,
which reads many rows and needs no statements built. SQLAlchemy is imported on the first `write` or `read`.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from potluck.store.home import MAIN_DB, USAGE_DB, HomeLock, prepare_home
from potluck.store.schema import ensure_schema, head_revision

if TYPE_CHECKING:
    import sqlalchemy as sa

T = TypeVar("T")

BUSY_TIMEOUT_MS = 10_000
READERS = 2


class Store:
    """`potluck.db` opened for serving, and the place of `usage.db`. Made by `open_store`; thread-safe."""

    def __init__(self, home: Path, lock: HomeLock | None) -> None:
        self.home = home
        self.main_path = home / MAIN_DB
        self.usage_path = home / USAGE_DB
        self._lock = lock
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._engines: tuple[sa.Engine, sa.Engine] | None = None
        self._engines_made = threading.Lock()

    async def write(self, work: Callable[["sa.Connection"], T]) -> T:
        """Run `work` in one transaction. It is committed when it returns and rolled back when it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._write, work)

    async def read(self, work: Callable[["sa.Connection"], T]) -> T:
        """Run `work` on a reader connection, in one read transaction."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    async def read_rows(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on a plain driver connection, in a reader thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read_rows, work)

    def write_now(self, work: Callable[["sa.Connection"], T]) -> T:
        """`write` for callers without a loop: first start, commands, tests."""
        return self._writer.submit(self._write, work).result()

    def read_now(self, work: Callable[["sa.Connection"], T]) -> T:
        """`read` for callers without a loop."""
        return self._read(work)

    def read_rows_now(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`read_rows` for callers without a loop."""
        return self._read_rows(work)

    def close(self) -> None:
        """Finish the writes that are under way, close every connection, let go of the home. Idempotent."""
        self._writer.shutdown(wait=True)
        self._readers.shutdown(wait=True)
        if self._engines is not None:
            for engine in self._engines:
                engine.dispose()
            self._engines = None
        if self._lock is not None:
            self._lock.release()

    def problem(self) -> str:
        """Why the store cannot be used just now, for `/readyz`; empty when it can. Blocks: call it in a thread."""
        try:
            self._read_rows(lambda connection: connection.execute("SELECT value FROM facts LIMIT 1").fetchone())
        except sqlite3.Error as error:
            return f"the store cannot be read: {error}"
        return ""

    def _write(self, work: Callable[["sa.Connection"], T]) -> T:
        with self._both()[0].begin() as connection:
            return work(connection)

    def _read(self, work: Callable[["sa.Connection"], T]) -> T:
        with self._both()[1].begin() as connection:
            return work(connection)

    def _read_rows(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = connect(self.main_path, read_only=True)
        try:
            connection.execute("BEGIN")
            return work(connection)
        finally:
            connection.close()

    def _both(self) -> tuple["sa.Engine", "sa.Engine"]:
        with self._engines_made:
            if self._engines is None:
                self._engines = _make_engines(self.main_path)
            return self._engines


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A driver connection with our settings; transactions are ours to begin."""
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
    connection = sqlite3.connect(
        uri, uri=True, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA foreign_keys = ON")
    if not read_only:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def open_store(home: Path, *, lock: bool = True) -> Store:
    """Open the store of a home directory, making or upgrading its databases.

    `lock=False` is for readers beside a running gateway. Raises StoreError when another gateway runs on this home,
    a database is newer than the program, or one cannot be read.
    """
    prepare_home(home)
    held = HomeLock(home) if lock else None
    try:
        for name, which in ((MAIN_DB, "main"), (USAGE_DB, "usage")):
            if head_revision(which):  # type: ignore[arg-type]
                path = home / name
                if not path.exists():
                    path.touch(mode=0o600)
                ensure_schema(path, which)  # type: ignore[arg-type]
    except BaseException:
        if held is not None:
            held.release()
        raise
    return Store(home, held)


def _make_engines(path: Path) -> tuple["sa.Engine", "sa.Engine"]:
    import sqlalchemy as sa  # here: 18 MB that an idle data plane does without

    def make(begin: str, size: int, *, read_only: bool) -> sa.Engine:
        engine = sa.create_engine(
            "sqlite://",
            creator=lambda: connect(path, read_only=read_only),
            poolclass=sa.QueuePool,
            pool_size=size,
            max_overflow=size,
        )

        def on_begin(connection: Any) -> None:
            connection.exec_driver_sql(begin)

        # the driver never begins by itself (isolation_level None), so that a write holds its lock from the start
        sa.event.listen(engine, "begin", on_begin)
        return engine

    return make("BEGIN IMMEDIATE", 1, read_only=False), make("BEGIN", READERS, read_only=True)
