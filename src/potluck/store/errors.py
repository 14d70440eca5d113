"""The store's own error, safe to print; and how a disk that takes no more is told from a fault of the program."""

import errno
import sqlite3
from typing import NamedTuple


class StoreError(Exception):
    """The store cannot be used as asked. The text is complete for a person; it never holds a secret."""


class DiskFault(NamedTuple):
    """`said`: what to do, for a person. `cause`: the driver's words."""

    said: str
    cause: str


def disk_fault(error: BaseException | None) -> DiskFault | None:
    """What it is about the disk, when that made `error`: also under SQLAlchemy's errors, or as a cause."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, sqlite3.Error):
            code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
            if code == sqlite3.SQLITE_FULL:
                return DiskFault("the disk is full: free space in the home directory", str(error))
            if code == sqlite3.SQLITE_IOERR:
                return DiskFault(
                    "the disk is full or does not work: free space in the home directory, or look after the disk",
                    str(error),
                )
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskFault("the disk is full: free space in the home directory", error.strerror or "no space")
        error = getattr(error, "orig", None) or error.__cause__ or error.__context__
    return None
