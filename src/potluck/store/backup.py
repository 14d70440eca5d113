"""Both databases in one file, and back.

A backup is a tar archive: `manifest.json`, `potluck.db`, `usage.db`, mode 0600. It is taken while the gateway runs
(SQLite's online backup: each database as it is at one moment). It holds no master key: without the home's `master-key`
(or POTLUCK_MASTER_KEY) the provider credentials in it cannot be read, and its API keys and tokens are not recognised.
"""

import contextlib
import hashlib
import io
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec

from potluck.store.database import connect
from potluck.store.errors import StoreError
from potluck.store.home import MAIN_DB, USAGE_DB, HomeLock, prepare_home, sync_folder
from potluck.store.schema import Which, ensure_schema, head_revision, revision_of

FORMAT = 1
MANIFEST = "manifest.json"
PAGES_PER_STEP = 512
_DATABASES: dict[str, Which] = {MAIN_DB: "main", USAGE_DB: "usage"}

Progress = Callable[[int, int], None]
"""called with (bytes done, bytes in all), as often as something moves"""


class Member(msgspec.Struct, frozen=True):
    """One database in a backup."""

    name: str
    revision: str
    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What a backup holds. `master_key_check` names the master key that opens its secrets, without telling it."""

    format: int
    made_at_ms: int
    master_key_check: str
    members: tuple[Member, ...]


def backup(home: Path, target: Path, progress: Progress | None = None) -> Manifest:
    """Write a backup of the home to `target`, whole or not at all. A running gateway is not disturbed.

    Raises StoreError when there is nothing to back up, or `target` exists or cannot be written.
    """
    if not (home / MAIN_DB).exists():
        raise StoreError(f"there is no store in {home}: start the gateway there once, or name another home")
    if target.exists():
        raise StoreError(f"{target} exists: choose another name, or remove it")
    sources = [home / name for name in _DATABASES if (home / name).exists()]
    total = sum(path.stat().st_size for path in sources)
    try:
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=target.absolute().parent) as folder:
            done = 0
            members = []
            for path in sources:
                copy = Path(folder) / path.name
                _copy(path, copy, lambda part, before=done: progress and progress(before + part, total))  # type: ignore[misc]
                done += path.stat().st_size
                members.append(_describe(copy))
            with closing(connect(Path(folder) / MAIN_DB, read_only=True)) as connection:
                check = connection.execute("SELECT value FROM facts WHERE name = 'master_key_check'").fetchone()
            manifest = Manifest(FORMAT, int(time.time() * 1000), check[0] if check else "", tuple(members))
            draft = Path(folder) / "backup.tar"
            _pack(draft, manifest, Path(folder))
            draft.replace(target)
        sync_folder(target.absolute().parent)
    except OSError as error:
        raise StoreError(f"the backup cannot be written to {target}: {error.strerror or error}") from error
    if progress:
        progress(total, total)
    return manifest


def read_manifest(source: Path) -> Manifest:
    """What a backup says of itself. Raises StoreError when it is no backup of ours."""
    try:
        with tarfile.open(source) as archive:
            found = archive.extractfile(MANIFEST)
            manifest = msgspec.json.decode(found.read() if found else b"", type=Manifest)
    except OSError as error:
        raise StoreError(f"{source} cannot be read: {error.strerror or error}") from error
    except (tarfile.TarError, KeyError, msgspec.MsgspecError) as error:
        raise StoreError(f"{source} is not a backup made by `potluck db backup`") from error
    if manifest.format != FORMAT:
        raise StoreError(f"{source} has backup format {manifest.format}; this program reads {FORMAT}")
    return manifest


def restore(home: Path, source: Path, progress: Progress | None = None) -> Path | None:
    """Put a backup in the place of the home's databases; returns the folder where the old ones now are, if any.

    Everything is unpacked and checked before anything is moved. Raises StoreError when a gateway runs on the home, the
    backup is damaged, or it is newer than the program.
    """
    manifest = read_manifest(source)
    for member in manifest.members:
        if member.name not in _DATABASES:
            raise StoreError(f"{source} holds {member.name!r}, which is no database of Potluck's")
        head = head_revision(_DATABASES[member.name])
        if member.revision > head:
            raise StoreError(
                f"{member.name} in {source} has schema {member.revision}, newer than this program's {head}: "
                "install the newer Potluck, then restore"
            )
    prepare_home(home)
    lock = HomeLock(home)
    try:
        with tempfile.TemporaryDirectory(prefix=".restore-", dir=home) as folder:
            _unpack(source, manifest, Path(folder), progress)
            aside = _keep_aside(home)
            for member in manifest.members:
                (Path(folder) / member.name).replace(home / member.name)
            sync_folder(home)
        for name, which in _DATABASES.items():
            if head_revision(which):
                ensure_schema(home / name, which)
        return aside
    except OSError as error:
        raise StoreError(f"the backup cannot be restored into {home}: {error.strerror or error}") from error
    finally:
        lock.release()


def _copy(source: Path, target: Path, progress: Callable[[int], object]) -> None:
    with closing(connect(source, read_only=True)) as reader:
        page_bytes = reader.execute("PRAGMA page_size").fetchone()[0]
        target.touch(mode=0o600)
        with closing(sqlite3.connect(target)) as writer:
            reader.backup(
                writer,
                pages=PAGES_PER_STEP,
                progress=lambda _, left, total: progress((total - left) * page_bytes) and None,
            )
            # one file, without a journal beside it
            writer.execute("PRAGMA journal_mode = DELETE")


def _describe(path: Path) -> Member:
    with closing(sqlite3.connect(path)) as connection:
        revision = revision_of(connection)
    return Member(path.name, revision, path.stat().st_size, _digest(path))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pack(target: Path, manifest: Manifest, folder: Path) -> None:
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            text = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
            head = tarfile.TarInfo(MANIFEST)
            head.size, head.mode, head.mtime = len(text), 0o600, manifest.made_at_ms // 1000
            archive.addfile(head, io.BytesIO(text))
            for member in manifest.members:
                entry = tarfile.TarInfo(member.name)
                entry.size, entry.mode, entry.mtime = member.size_bytes, 0o600, manifest.made_at_ms // 1000
                with (folder / member.name).open("rb") as content:
                    archive.addfile(entry, content)
        file.flush()
        os.fsync(file.fileno())


def _unpack(source: Path, manifest: Manifest, folder: Path, progress: Progress | None) -> None:
    total, done = sum(member.size_bytes for member in manifest.members), 0
    with tarfile.open(source) as archive:
        for member in manifest.members:
            path = folder / member.name
            path.touch(mode=0o600)
            content = archive.extractfile(member.name) if member.name in archive.getnames() else None
            if content is not None:
                with path.open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
                    os.fsync(file.fileno())
            if _digest(path) != member.sha256:
                raise StoreError(f"{source} is damaged: {member.name} is not what was backed up; take another backup")
            with closing(sqlite3.connect(path)) as connection:
                if connection.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                    raise StoreError(f"{source} is damaged: {member.name} does not pass SQLite's check")
            done += member.size_bytes
            if progress:
                progress(done, total)


def _keep_aside(home: Path) -> Path | None:
    """Second names for the databases in a folder of their own, so that a mistaken restore can be undone.

    They keep their first names too until the new ones replace them: a crash leaves a home with a database.
    """
    present = [home / name for name in _DATABASES if (home / name).exists()]
    if not present:
        return None
    aside = home / f"before-restore-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    while aside.exists():
        aside = aside.with_name(aside.name + "-")
    aside.mkdir(mode=0o700)
    for path in present:
        with contextlib.suppress(sqlite3.DatabaseError), closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")  # folds the write-ahead log in and removes it
        os.link(path, aside / path.name)
        for suffix in ("-wal", "-shm"):
            journal = path.with_name(path.name + suffix)
            if journal.exists():  # a damaged database could not fold it in; it must not meet the new one
                journal.replace(aside / journal.name)
    return aside
