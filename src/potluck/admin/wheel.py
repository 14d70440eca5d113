"""The agent's wheel, made from the very files that this program runs from.

Rules
- It is the whole package: what the agent needs of it is decided by what it is installed with, `node-requirements.txt`.
- The same files make the same bytes, wherever and whenever: fixed times and rights, sorted names, nothing compressed.
- Nothing of the machine goes in: no path, no compiled file, no home directory.
"""

import base64
import hashlib
import importlib.metadata
import io
import re
import zipfile
from pathlib import Path

import potluck

PROJECT = "potluck"
OLDEST = (1980, 1, 1, 0, 0, 0)
"""the first moment that a zip file can name"""
WHEEL = "Wheel-Version: 1.0\nGenerator: potluck\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class WheelError(Exception):
    """There is nothing that a wheel could be made of. Safe to print."""


def wheel_name(version: str = potluck.__version__) -> str:
    """`potluck-0.1.0-py3-none-any.whl`"""
    return f"{PROJECT}-{version}-py3-none-any.whl"


def build_wheel(package: Path | None = None, version: str = potluck.__version__) -> bytes:
    """The wheel. `package`: the folder of the package; its own by default. Raises WheelError, OSError."""
    folder = package or Path(potluck.__file__).parent
    files = {f"{PROJECT}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in _sources(folder)}
    about = f"{PROJECT}-{version}.dist-info"
    files |= {f"{about}/{name}": text.encode() for name, text in _metadata(version).items()}
    files[f"{about}/RECORD"] = _record(files, f"{about}/RECORD")
    packed = io.BytesIO()
    # stored: what deflate makes of the same bytes differs between versions of zlib
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in files:
            entry = zipfile.ZipInfo(name, OLDEST)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, files[name])
    return packed.getvalue()


def _sources(folder: Path) -> list[Path]:
    found = [
        path
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    ]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _metadata(version: str) -> dict[str, str]:
    """The `.dist-info` files: those that the project was installed with, under the version of the running code."""
    try:
        project = importlib.metadata.distribution(PROJECT)
    except importlib.metadata.PackageNotFoundError:
        project = None
    told = project and project.read_text("METADATA")
    entries = project and project.read_text("entry_points.txt")
    if not project or not told or not entries:
        raise WheelError("potluck runs from a folder that is not installed: install it (pip install, or make install)")
    found = {"METADATA": re.sub(r"(?m)^Version: .*$", f"Version: {version}", told, count=1), "WHEEL": WHEEL}
    found["entry_points.txt"] = entries
    if licence := project.read_text("licenses/LICENSE"):
        found["licenses/LICENSE"] = licence
    return found


def _record(files: dict[str, bytes], itself: str) -> bytes:
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}\n")
    return "".join([*lines, f"{itself},,\n"]).encode()
