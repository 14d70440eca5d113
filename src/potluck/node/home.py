"""The node's home directory: who this machine is at which gateway, its key, and what has to survive a restart.

Rules of this file
- The directory is its owner's alone (0700), and so is each file (0600). A file is replaced whole or not at all.
- What root writes is the directory owner's: `sudo potluck node set` must not lock out the agent, which is another user.
  That user may be up to something: root follows no link there, and gives away only what it made itself.
- `node.json` and `key` are written by joining, `key` by `rotate-key` too; `state.json` by the running agent, and by a
  command only while none runs; `agent.json` says where that listens.
- A key that a gateway may have taken up is on the disk before it is told: `key.next`. Which key fits to `node.json` is
  told by the node that each names, so that a crash between the two files loses nothing.
- Whoever reads a file to write it anew holds its lock meanwhile (`alone`).
- What stands in a file is checked when it is read: one that cannot be read is named, with what to do about it.
"""

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from potluck.model.node import NodePrice
from potluck.node.rules import KeptExits

HOME_VARIABLE = "POTLUCK_NODE_HOME"
SYSTEM_HOME = Path("/var/lib/potluck-node")
NEXT_KEY: Final = "key.next"
SETTINGS_LOCK: Final = "settings.lock"
ENROLMENT_LOCK: Final = "enrolment.lock"
OLD_DRAFT_S: Final = 60.0  # a draft lives for milliseconds: this one's writer was killed
TRIAL_BYTES: Final = 8192  # more than `key` and `node.json` together
_DRAFT: Final = re.compile(r"\..+\.\d+")

T = TypeVar("T", bound=msgspec.Struct)


class HomeError(Exception):
    """A file of the home directory cannot be read or written. The message says which, why, and what to do."""


class Enrolled(msgspec.Struct, frozen=True, omit_defaults=True):
    """`node.json`: what enrolment gave."""

    url: str
    """of the gateway, as it was typed, without a slash at its end"""
    origin: str
    gateway_key: str
    """Ed25519, base64url: the pinned identity of the gateway"""
    node: str
    name: str
    organisation: str = ""
    owner: str = ""
    community: bool = False
    max_price: NodePrice | None = None
    max_models: int | None = None
    insecure: bool = False
    """the owner said that plain http to another machine is what is wanted"""
    ca_file: str = ""
    """roots that are trusted instead of the system's"""


class KeyFile(msgspec.Struct, frozen=True):
    """`key`: the private key and the id that the gateway knows it by, changed together."""

    id: str
    """empty in `key.next`, until a gateway has said it"""
    private: str
    """Ed25519, 32 bytes, base64url"""
    node: str = ""
    """whose key it is; empty: whatever `node.json` says"""
    purpose: str = ""
    """in `key.next`: what it was made for, so that another try takes the same"""

    def __repr__(self) -> str:
        return f"KeyFile({self.id})"


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """`state.json`: the owner's word, which a restart does not undo, and past exits. Times are unix seconds."""

    serve: bool | None = None
    """False: paused. True: resumed. None: nothing was said"""
    drain: bool = False
    """a pause that let what ran come to its end"""
    until_s: float | None = None
    """when a pause ends by itself"""
    resumed: bool = False
    """a pause with an end came after `resume`, which holds again when it is over"""
    exits: KeptExits = KeptExits()

    def pause(self, until_s: float | None, *, drain: bool = False) -> "Kept":
        """The owner's word after this one."""
        return Kept(False, drain, until_s, until_s is not None and (self.serve is True or self.resumed), self.exits)

    def over(self) -> "Kept":
        """Once the pause has ended by itself."""
        return Kept(True if self.resumed else None, exits=self.exits)


class Running(msgspec.Struct, frozen=True):
    """`agent.json`: where the agent that runs listens on loopback, and the secret that lets one command it."""

    port: int
    token: str
    pid: int

    def __repr__(self) -> str:
        return f"Running(port={self.port}, pid={self.pid})"


def node_home(option: str | os.PathLike[str] | None, env: Mapping[str, str]) -> Path:
    """Where the node's files are: option, variable, else the platform's place for this user or for root."""
    chosen = option or env.get(HOME_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        return Path(env.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "potluck-node"
    if sys.platform != "darwin" and os.geteuid() == 0:
        return SYSTEM_HOME
    if env.get("XDG_DATA_HOME"):
        return Path(env["XDG_DATA_HOME"]) / "potluck-node"
    user = Path(env["HOME"]) if env.get("HOME") else Path.home()
    if sys.platform == "darwin":
        return user / "Library" / "Application Support" / "potluck-node"
    return user / ".local" / "share" / "potluck-node"


class Home:
    """The directory's files. Its methods raise HomeError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self) -> None:
        """Make the directory."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.name == "posix" and self.path.stat().st_mode & 0o077:
                self.path.chmod(0o700)
        except OSError as error:
            raise HomeError(f"the node's home {self.path} cannot be made: {error.strerror}") from None

    def enrolled(self) -> Enrolled | None:
        """Who this machine is; None: it has not joined."""
        return self.read("node.json", Enrolled)

    def kept(self) -> Kept:
        """What the owner said last."""
        return self.read("state.json", Kept) or Kept()

    def running(self) -> Running | None:
        """Where the agent listens, or listened before it was killed."""
        return self.read("agent.json", Running)

    def key(self) -> KeyFile:
        """This machine's key."""
        found, node = self.read("key", KeyFile), self._node()
        if node and (found is None or found.node not in ("", node)):
            coming = self.read(NEXT_KEY, KeyFile)  # joining ended between two files
            found = coming if coming is not None and coming.id and coming.node == node else found
        if found is None:
            raise HomeError(f"the node's key {self.path / 'key'} is not there: join again: potluck node join URL")
        return found

    def coming_key(self, purpose: str) -> KeyFile | None:
        """The key that was made for that, which a gateway may or may not have taken up."""
        found = self.read(NEXT_KEY, KeyFile)
        return found if found is not None and found.purpose == purpose else None

    def _node(self) -> str:
        enrolled = self.enrolled()
        return enrolled.node if enrolled is not None else ""

    def read(self, name: str, kind: type[T]) -> T | None:
        """A JSON file; None where there is none."""
        path = self.path / name
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HomeError(f"{path} cannot be read: {error.strerror}") from None
        except (msgspec.MsgspecError, ValueError) as error:
            raise HomeError(f"{path} is damaged ({error}): mend it, or remove it") from None

    def write(self, name: str, value: msgspec.Struct) -> None:
        """A JSON file, for people too."""
        self.write_bytes(name, msgspec.json.format(msgspec.json.encode(value)) + b"\n")

    def write_bytes(self, name: str, content: bytes) -> None:
        """Replace a file: another process never sees half of it, and a crash leaves none."""
        path = self.path / name
        draft = path.with_name(f".{name}.{os.getpid()}")
        try:
            draft.unlink(missing_ok=True)  # of a process that had this number and was killed
            try:
                with os.fdopen(self.create(draft.name), "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(path)
            except BaseException:  # a full disk, Ctrl-C
                draft.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise HomeError(f"{path} cannot be written: {error.strerror}") from None

    def create(self, name: str) -> int:
        """A new file, open for writing, that is the directory owner's. Raises OSError, also where there is one."""
        fd = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if sys.platform != "win32" and os.geteuid() == 0:
            whose = self.path.stat()
            os.fchown(fd, whose.st_uid, whose.st_gid)
        return fd

    @contextlib.contextmanager
    def alone(self, name: str, busy: str = "") -> Iterator[None]:
        """Hold the lock of that name. Raises HomeError saying `busy` when another process does; empty: waits for it."""
        try:
            try:
                fd = self.create(name)
            except FileExistsError:
                fd = os.open(self.path / name, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        except OSError as error:
            raise HomeError(f"{self.path / name} cannot be opened: {error.strerror}") from None
        try:
            try:
                if sys.platform == "win32":
                    import msvcrt

                    msvcrt.locking(fd, msvcrt.LK_NBLCK if busy else msvcrt.LK_LOCK, 1)
                else:
                    import fcntl

                    fcntl.flock(fd, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            except OSError as error:
                raise HomeError(busy or f"{self.path / name} cannot be locked: {error.strerror}") from None
            yield
        finally:
            os.close(fd)

    def try_out(self) -> None:
        """Whether there is room for an enrolment; nothing of it stays."""
        self.write_bytes(".trial", bytes(TRIAL_BYTES))
        self.remove(".trial")

    def sweep(self) -> None:
        """Remove what writers that were killed have left."""
        with contextlib.suppress(OSError):
            for path in self.path.iterdir():
                if _DRAFT.fullmatch(path.name) and time.time() - path.lstat().st_mtime > OLD_DRAFT_S:
                    path.unlink(missing_ok=True)

    def changed_at(self, name: str) -> int:
        """When a file was written last, in ns; 0 where there is none."""
        try:
            return (self.path / name).stat().st_mtime_ns
        except OSError:
            return 0

    def remove(self, *names: str) -> None:
        """Those that are there."""
        for name in names:
            with contextlib.suppress(OSError):
                (self.path / name).unlink()
