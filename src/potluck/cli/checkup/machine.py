"""Checks of this machine: they read files and try a port, and work while no gateway runs."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import socket
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from potluck.cli.checkup.verdict import Verdict, fail, ok, skip, warn

SECRET_FILES = ("master-key", "admin-token", "first-api-key", "potluck.db", "usage.db")
LOW_DISK_BYTES = 2 << 30
FULL_DISK_BYTES = 200 << 20
FEW_OPEN_FILES = 4096
EARLIEST_S = 1_767_225_600
"""2026-01-01: no machine that runs this program has an earlier date"""


def program() -> Verdict:
    """Version, Python, event loop."""
    from potluck import __version__

    said = f"potluck {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    try:
        uvloop = importlib.metadata.version("uvloop")
    except importlib.metadata.PackageNotFoundError:
        return warn("program", f"{said}, without uvloop", "pip install uvloop: the gateway is half as fast without")
    return ok("program", f"{said}, uvloop {uvloop}")


def home_rights(home: Path) -> Verdict:
    """The home directory is this user's alone, and so is what is secret in it."""
    name = "home directory"
    try:
        found = home.stat()
    except FileNotFoundError:
        return skip(name, f"{home} does not exist yet; `potluck serve` makes it")
    except OSError as error:
        return fail(
            name, f"{home} cannot be read: {error.strerror}", "mend its rights, or choose another: POTLUCK_HOME"
        )
    if not stat.S_ISDIR(found.st_mode):
        return fail(name, f"{home} is not a directory", "move it away, or choose another: POTLUCK_HOME")
    if found.st_uid != os.geteuid():
        return fail(name, f"{home} belongs to another user", "run as that user, or choose another: POTLUCK_HOME")
    if not os.access(home, os.W_OK | os.X_OK):
        return fail(name, f"{home} is not writable", f"chmod 700 '{home}'")
    if found.st_mode & 0o077:
        return fail(name, f"{home} is open to other users ({found.st_mode & 0o777:o})", f"chmod 700 '{home}'")
    open_files = []
    for each in SECRET_FILES:
        with contextlib.suppress(FileNotFoundError):
            if (home / each).stat().st_mode & 0o077:
                open_files.append(each)
    if open_files:
        paths = " ".join(f"'{home / each}'" for each in open_files)
        return fail(name, f"open to other users: {', '.join(open_files)}", f"chmod 600 {paths}")
    return ok(name, f"{home}, this user's alone")


def disk(home: Path) -> Verdict:
    """Room for records. When the disk is full, calls that must be accounted for are refused."""
    place = next((each for each in (home, *home.parents) if each.exists()), Path("/"))
    free = shutil.disk_usage(place).free
    said = f"{free / 1e9:.1f} GB free"
    if free < FULL_DISK_BYTES:
        return fail("disk", said, f"free space on the file system of {place}: records cannot be written much longer")
    if free < LOW_DISK_BYTES:
        return warn("disk", said, f"free space on the file system of {place}")
    return ok("disk", said)


def spool(home: Path) -> Verdict:
    """Usage records can be written."""
    place = home / "spool"
    if not place.is_dir():
        return skip("spool", "not there yet; the first start makes it")
    probe = place / f".doctor-{os.getpid()}"
    try:
        with probe.open("xb") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return fail(
            "spool", f"{place} cannot be written: {error.strerror}", f"mend the rights of '{place}', or free space"
        )
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    waiting = sum(each.stat().st_size for each in _files(place))
    return ok("spool", f"writable, {waiting / 1e6:.1f} MB on their way to the database")


def databases(home: Path) -> Iterator[Verdict]:
    """Both databases: readable, sound, of this program's schema."""
    from potluck.store.schema import Which, head_revision, revision_of

    pairs: tuple[tuple[str, Which], ...] = (("potluck.db", "main"), ("usage.db", "usage"))
    for file, which in pairs:
        path = home / file
        if not path.exists():
            yield skip(file, "not there yet; the first start makes it")
            continue
        try:
            with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5.0)) as connection:
                revision = revision_of(connection)
                connection.set_progress_handler(_deadline(8.0), 100_000)
                trouble = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
        except sqlite3.OperationalError as error:
            if "interrupted" in str(error):
                yield ok(file, f"schema {revision}; too large to be checked whole here")
            else:
                yield fail(
                    file, f"cannot be read: {error}", "stop the gateway and restore a backup: potluck db restore FILE"
                )
            continue
        except sqlite3.DatabaseError as error:
            yield fail(file, f"is damaged: {error}", "stop the gateway and restore a backup: potluck db restore FILE")
            continue
        head = head_revision(which)
        if trouble != ["ok"]:
            yield fail(
                file, f"is damaged: {trouble[0]}", "stop the gateway and restore a backup: potluck db restore FILE"
            )
        elif revision < head:
            yield warn(file, f"schema {revision or 'none'}, this program's is {head}", "potluck db upgrade, or restart")
        elif revision > head:
            yield fail(
                file, f"schema {revision} is newer than this program's {head}", "install the newer Potluck again"
            )
        else:
            yield ok(file, f"sound, schema {revision}, {path.stat().st_size / 1e6:.1f} MB")


def clock(home: Path) -> Verdict:
    """The clock is not plainly wrong: records, expiry and TLS hang on it."""
    now_s = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    mend = "set the clock (timedatectl set-ntp true)"
    if now_s < EARLIEST_S:
        return fail("clock", f"{shown} is in the past", mend)
    newest = max((each.stat().st_mtime for each in _files(home)), default=0.0)
    if newest > now_s + 60:
        return fail(
            "clock", f"{shown}, but files of this gateway are {newest - now_s:.0f} s younger: it went back", mend
        )
    return ok("clock", shown)


def clock_against(date_header: str | None) -> Verdict | None:
    """The clock beside a server's `Date`; None when there is nothing to compare."""
    from email.utils import parsedate_to_datetime

    if not date_header:
        return None
    try:
        theirs_s = parsedate_to_datetime(date_header).timestamp()
    except ValueError:
        return None
    skew_s = time.time() - theirs_s
    if abs(skew_s) > 30:
        direction = "ahead of" if skew_s > 0 else "behind"
        return warn(
            "clock", f"{abs(skew_s):.0f} s {direction} a provider's", "set the clock (timedatectl set-ntp true)"
        )
    return None


def open_files() -> Verdict:
    """Each stream takes two file descriptors."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < FEW_OPEN_FILES:
        return warn("open files", f"at most {hard}", "raise the limit (ulimit -Hn, or LimitNOFILE= of the service)")
    return ok("open files", "no limit" if hard == resource.RLIM_INFINITY else f"up to {hard}")


def port(url: str, home: Path, *, answered: bool) -> Verdict:
    """The port is the gateway's, or free."""
    from potluck.store.home import holder_of

    parts = urlsplit(url)
    number = parts.port or (443 if parts.scheme == "https" else 80)
    if answered:
        return ok("port", f"a gateway answers at {url}")
    if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return skip("port", f"{url} is on another machine")
    with socket.socket(socket.AF_INET6 if ":" in parts.hostname else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((parts.hostname, number))
        except OSError as error:
            if process := holder_of(home):
                said = f"{number} is in use, and the gateway of this home (process {process}) does not answer there"
                return fail("port", said, "look at its log; name its address with --url if it serves at another port")
            mend = "stop what uses it, or choose another: --port, POTLUCK_PORT"
            return fail("port", f"{number} cannot be had: {(error.strerror or '').lower()}", mend)
    return ok("port", f"{number} is free")


def _files(place: Path) -> list[Path]:
    try:
        return [each for each in place.iterdir() if each.is_file()]
    except OSError:
        return []


def _deadline(seconds: float) -> Callable[[], int]:
    end = time.monotonic() + seconds
    return lambda: int(time.monotonic() > end)
