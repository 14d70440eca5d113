"""The home directory: who may use it at one time, and files in it that hold secrets.

`HOME/gateway.lock` is held (flock) by the one process that serves from this home, and by `restore`.
"""

import fcntl
import os
from pathlib import Path

from potluck.store.errors import StoreError

MAIN_DB = "potluck.db"
USAGE_DB = "usage.db"
LOCK_FILE = "gateway.lock"


class HomeLock:
    """The exclusive use of a home directory, until `release` or the end of the process."""

    def __init__(self, home: Path) -> None:
        """Take the lock. Raises StoreError when another process holds it."""
        path = home / LOCK_FILE
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise StoreError(
                f"{home} is in use by a running gateway (process {holder}): stop it first, or choose another home"
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let go. The file stays: removing it would let two processes lock two different files."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def holder_of(home: Path) -> int | None:
    """The process that holds the home's lock, if one does."""
    try:
        fd = os.open(home / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        said = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        return int(said) if said.isdecimal() else None
    finally:
        os.close(fd)
    return None


def prepare_home(home: Path) -> None:
    """Make the directory, readable by its owner alone. Raises StoreError when it cannot be made or written."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the home directory {home} cannot be made: {error.strerror}") from error
    if not os.access(home, os.W_OK | os.X_OK):
        raise StoreError(f"the home directory {home} is not writable: mend its rights, or choose another with --home")


def write_secret_file(path: Path, text: str) -> None:
    """Write a file of mode 0600 whole or not at all: another process never sees half of it, a crash leaves none."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and new files in `folder` survive a power loss."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
