"""The pieces that are served under `/install…`, and how they hold together.

Rules
- A script names the SHA-256 of the wheel and of the requirement lists that it was served beside: whoever trusts the
  script's bytes trusts exactly these.
- What is put into a script is checked by its shape, so that nothing in it can end a quoted string.
- The wheel is made once per process, by the first who asks, and stands in HOME/wheels; one that was changed there since
  is made again. It is read and hashed again only where its size or time of change is another than at the last look.
"""

import hashlib
import re
import threading
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

import potluck
from potluck.admin.wheel import WheelError, build_wheel, wheel_name

LISTS = ("node-requirements.txt", "node-local-requirements.txt")
"""of the agent; of the engine that `--local-model` adds"""
FOLDER = "wheels"
Script = Literal["install.sh", "install.ps1"]
_ORIGIN = re.compile(r"https?://[A-Za-z0-9._\[\]:-]+")


class InstallerError(Exception):
    """Nothing can be served. Safe to print."""


class Piece(msgspec.Struct, frozen=True):
    """A file to serve. `sha256`: in hexadecimal."""

    name: str
    content: bytes
    sha256: str


class Kit:
    """What this gateway serves. Every method blocks (disk, and a while for the first wheel); any thread may call."""

    def __init__(self, home: Path, version: str = potluck.__version__) -> None:
        """`home`: the gateway's; its folder `wheels` is made on the first call."""
        self.version = version
        self._path = home / FOLDER / wheel_name(version)
        self._making = threading.Lock()
        self._wheel: Piece | None = None
        self._seen: tuple[int, ...] = ()
        """of its file, when it was known to hold those bytes"""

    @property
    def wheel_path(self) -> Path:
        return self._path

    def wheel(self) -> Piece:
        """The agent's wheel. Raises InstallerError."""
        with self._making:
            try:
                if self._wheel is not None and self._stands(self._wheel):
                    return self._wheel
                made = _piece(self._path.name, build_wheel(version=self.version))
                self._path.parent.mkdir(mode=0o755, exist_ok=True)
                draft = self._path.with_suffix(".part")
                draft.write_bytes(made.content)
                draft.replace(self._path)
                self._seen = _look(self._path)
            except (WheelError, OSError) as error:
                raise InstallerError(f"the agent's wheel cannot be made: {error}") from error
            self._wheel = made
            return made

    def _stands(self, wheel: Piece) -> bool:
        """Whether the file is still this wheel's."""
        try:
            look = _look(self._path)
            if look == self._seen:
                return True
            same = _piece(wheel.name, self._path.read_bytes()) == wheel
        except FileNotFoundError:
            return False
        if same:
            self._seen = look
        return same

    def requirements(self, name: str = LISTS[0]) -> Piece:
        """One of the two hashed requirement lists, `LISTS`."""
        return _piece(name, _read(name))

    def script(self, name: Script, origin: str) -> Piece:
        """An installer for a gateway at `origin` (`https://potluck.example.org`). Raises InstallerError."""
        if not _ORIGIN.fullmatch(origin):
            raise InstallerError(f"{origin!r} is no address that an installer could be told")
        told = {
            "@ORIGIN@": origin,
            "@VERSION@": self.version,
            "@WHEEL@": self._path.name,
            "@WHEEL_SHA256@": self.wheel().sha256,
            "@REQUIREMENTS_SHA256@": self.requirements(LISTS[0]).sha256,
            "@LOCAL_REQUIREMENTS_SHA256@": self.requirements(LISTS[1]).sha256,
        }
        text = _read(name).decode()
        for place, value in told.items():
            text = text.replace(place, value)
        return _piece(name, text.encode())


def _piece(name: str, content: bytes) -> Piece:
    return Piece(name, content, hashlib.sha256(content).hexdigest())


def _read(name: str) -> bytes:
    return resources.files("potluck.admin.installers").joinpath(name).read_bytes()


def _look(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino
