"""The importer, a process of its own: `python -m potluck.ledger.importer --home DIR`. From HOME/spool to HOME/usage.db.

It tails every file of the spool. A batch is one transaction: requests not yet there, their hourly sums, plans, and the
place in the file up to which this holds. So whatever is killed, locked or full, nothing is lost, nothing counts twice:
lines stay in their file until the transaction is done, and a request id that is already there changes nothing.
One importer works at a time (a lock); a second one waits for it to go. A closed file that is imported to its end is
deleted once the database has been brought to the disk.

It ends when its standard input does (the gateway holds the other end) or when the gateway's process dies.
"""

import argparse
import ctypes
import logging
import os
import select
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from potluck.ledger.files import SpoolFile, is_gone, list_files, try_lock
from potluck.ledger.rows import (
    HOUR_KEY,
    UPSERT_PLANS,
    UPSERT_REFUSALS,
    USER_HOUR_KEY,
    Rollup,
    insert_requests,
    read_lines,
    request_row,
    upsert_sums,
)

CHUNK_BYTES = 2 << 20
BUSY_S = 0.25
"""between polls while records come in"""
IDLE_S = 0.5
RETRY_S = (0.5, 1.0, 2.0, 5.0)
"""between attempts while the database is locked or away"""
LOCK_WAIT_S = 1.0
LAST_S = 1.0
NICENESS = 10
PLANS_KEPT_S = 30 * 86_400.0
"""after the last time that a gateway wrote it, at most an hour before the last request that refers to it"""

log = logging.getLogger(__name__)

_INSERT_REQUESTS = insert_requests()
_UPSERT_HOURS = upsert_sums("usage_hours", HOUR_KEY)
_UPSERT_USER_HOURS = upsert_sums("usage_user_hours", USER_HOUR_KEY)


class Importer:
    """Moves what the spool holds into the database, as far as it can, each time `poll` is called."""

    def __init__(self, spool: Path, database: Path) -> None:
        self.imported = 0
        """requests inserted"""
        self._spool = spool
        self._database = database
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._offsets: dict[str, int] = {}

    def poll(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Import what is there and delete what is done with. True when there was something to import.

        `stop` is asked between batches. Raises sqlite3.Error when the database does not play along and OSError when a
        file does not: nothing is lost, `reset` and call it again later.
        """
        connection = self._open()
        found = False
        done: list[SpoolFile] = []
        for file in list_files(self._spool):
            try:
                fd = os.open(file.path, os.O_RDONLY)
            except FileNotFoundError:
                continue  # renamed or deleted since it was listed
            try:
                while not stop() and self._import_chunk(connection, file, fd):
                    found = True
                if file.closed and not _whole_lines(fd, self._offsets.get(file.stem, 0)):
                    done.append(file)
            finally:
                os.close(fd)
        if done:
            self._delete(connection, done)
        return found

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def reset(self) -> None:
        """After an error: open the database anew at the next poll."""
        try:
            self.close()
        except sqlite3.Error:
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        status = self._database.stat()
        if self._connection is not None and status.st_ino == self._inode:
            return self._connection
        self.reset()
        connection = sqlite3.connect(
            f"file:{self._database}?mode=rw", uri=True, timeout=LOCK_WAIT_S, isolation_level=None
        )
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -4000")
        self._offsets = dict(connection.execute("SELECT stem, offset_bytes FROM spool_files"))
        gone = [stem for stem in self._offsets if self._spool.is_dir() and is_gone(self._spool, stem)]
        connection.executemany("DELETE FROM spool_files WHERE stem = ?", [(stem,) for stem in gone])
        self._connection, self._inode = connection, status.st_ino
        return connection

    def _import_chunk(self, connection: sqlite3.Connection, file: SpoolFile, fd: int) -> bool:
        """Import up to CHUNK_BYTES of whole lines. True when there may be more."""
        offset = self._offsets.get(file.stem, 0)
        chunk = _whole_lines(fd, offset)
        if not chunk:
            return False
        cursor = connection.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        try:
            row = cursor.execute("SELECT offset_bytes FROM spool_files WHERE stem = ?", (file.stem,)).fetchone()
            held = row[0] if row else 0
            new = 0
            if held == offset:
                new = self._insert(cursor, file, chunk)
                held += len(chunk)
                cursor.execute(
                    "INSERT INTO spool_files (stem, offset_bytes) VALUES (?, ?) "
                    "ON CONFLICT (stem) DO UPDATE SET offset_bytes = excluded.offset_bytes",
                    (file.stem, held),
                )
            cursor.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise
        self._offsets[file.stem] = held
        self.imported += new
        return True

    def _insert(self, cursor: sqlite3.Cursor, file: SpoolFile, chunk: bytes) -> int:
        lines = read_lines(chunk)
        rollup = Rollup()
        new = 0
        for record in lines.records:
            if cursor.execute(_INSERT_REQUESTS, request_row(record)).rowcount > 0:
                rollup.add(record)
                new += 1
        cursor.executemany(_UPSERT_HOURS, rollup.hour_rows())
        cursor.executemany(_UPSERT_USER_HOURS, rollup.user_hour_rows())
        cursor.executemany(
            UPSERT_REFUSALS,
            [
                (line.minute, line.reason, line.who, line.count, line.first_at_ms, line.detail)
                for line in lines.refusals
            ],
        )
        if lines.plans:
            at_ms = int(time.time() * 1000)
            cursor.executemany(UPSERT_PLANS, [(name, plan, at_ms) for name, plan in lines.plans.items()])
        if lines.corrupt:
            log.error("%d unreadable lines of the spool file %s were passed over", lines.corrupt, file.path.name)
        return new

    def _delete(self, connection: sqlite3.Connection, files: list[SpoolFile]) -> None:
        busy, pages, synced = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if busy or synced < pages:
            return  # a reader holds on to an older state: what we wrote is not on the disk yet; next time
        for file in files:
            file.path.unlink(missing_ok=True)
            self._offsets.pop(file.stem, None)
        connection.executemany("DELETE FROM spool_files WHERE stem = ?", [(file.stem,) for file in files])
        connection.execute("DELETE FROM plans WHERE at_ms < ?", (int((time.time() - PLANS_KEPT_S) * 1000),))


def _whole_lines(fd: int, offset: int) -> bytes:
    """Bytes from `offset` to the last newline within CHUNK_BYTES (within the first line, when that is longer)."""
    size = CHUNK_BYTES
    while True:
        chunk = os.pread(fd, size, offset)
        end = chunk.rfind(b"\n") + 1
        if end or len(chunk) < size:
            return chunk[:end]
        size *= 2


def run(home: Path) -> None:
    """Import until standard input ends, then what is still there, for a second at most."""
    importer = Importer(home / "spool", home / "usage.db")
    lock = os.open(home / "importer.lock", os.O_WRONLY | os.O_CREAT, 0o600)
    while not try_lock(lock):
        if _parent_gone(BUSY_S):
            return
    failures = 0
    wait_s = 0.0
    while not _parent_gone(wait_s):
        try:
            wait_s = BUSY_S if importer.poll(lambda: _parent_gone(0)) else IDLE_S
        except (sqlite3.Error, OSError) as error:
            if not failures:
                log.error("usage records wait in the spool: %s", error)
            wait_s = RETRY_S[min(failures, len(RETRY_S) - 1)]
            failures += 1
            importer.reset()
            continue
        if failures:
            log.warning("the usage database takes records again")
            failures = 0
    deadline_s = time.monotonic() + LAST_S
    with suppress(sqlite3.Error, OSError):
        importer.poll(lambda: time.monotonic() > deadline_s)
    importer.close()


def _parent_gone(wait_s: float) -> bool:
    ready, _, _ = select.select([0], [], [], wait_s)
    return bool(ready) and not os.read(0, 4096)


def _die_with_parent() -> None:
    """On Linux the kernel ends this process when the gateway's ends. Elsewhere the end of standard input does."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m potluck.ledger.importer")
    parser.add_argument("--home", type=Path, required=True)
    home: Path = parser.parse_args(arguments).home
    logging.basicConfig(format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the gateway's terminal: the gateway says when to end
    os.nice(NICENESS)
    run(home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
