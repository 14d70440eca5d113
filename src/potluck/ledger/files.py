"""The spool's files: names, owners, ends.

`<boot>-<seq>.jsonl` is being written, under an exclusive `flock` of its owner, or its owner died before it was closed.
`<boot>-<seq>.done.jsonl` is closed: every call open in it has been carried over to a later file or settled, so once
imported it may go. A line counts from its newline on; what follows the last newline was torn and is dropped.
"""

import fcntl
import os
import secrets
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from potluck.model.ids import base36

LIVE = ".jsonl"
CLOSED = ".done.jsonl"

UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""what decoding a damaged line can raise"""


class SpoolFile(NamedTuple):
    """A file of the spool. `boot` and `seq` order the files of one process; `stem` names it open or closed."""

    boot: str
    seq: int
    closed: bool
    path: Path

    @property
    def stem(self) -> str:
        return f"{self.boot}-{self.seq:06d}"


def new_boot() -> str:
    """A name for a process's files: sortable by start, unique over processes."""
    return f"{base36(int(time.time() * 1000), 9)}{base36(secrets.randbits(30), 6)}"


def live_path(directory: Path, boot: str, seq: int) -> Path:
    return directory / f"{boot}-{seq:06d}{LIVE}"


def list_files(directory: Path) -> list[SpoolFile]:
    """The spool's files, processes in order of start, each one's files in order. Empty when there is no directory."""
    found = []
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries]
    except FileNotFoundError:
        return []
    for name in names:
        closed = name.endswith(CLOSED)
        boot, dash, seq = name.removesuffix(CLOSED if closed else LIVE).partition("-")
        if dash and name.endswith(LIVE) and seq.isdecimal():
            found.append(SpoolFile(boot, int(seq), closed, directory / name))
    found.sort()
    return found


def is_gone(directory: Path, stem: str) -> bool:
    """Whether a file is there under neither name. A listing taken while it is renamed may show neither; this does not
    err: a file goes from open to closed only, and the names are asked for in this order."""
    for suffix in (LIVE, CLOSED):
        try:
            (directory / f"{stem}{suffix}").stat()
        except FileNotFoundError:
            continue
        return False
    return True


def try_lock(fd: int) -> bool:
    """Take the owner's lock on an open file; False when a living process holds it. Closing the file gives it up."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def close_file(path: Path) -> Path:
    """Mark a file as closed. A rename: it needs no space on a full disk, and is never half done."""
    done = path.with_name(path.name.removesuffix(LIVE) + CLOSED)
    path.rename(done)
    return done


def sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
