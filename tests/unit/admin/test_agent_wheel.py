"""The agent's wheel: the same bytes each time, whole, and installable."""

import base64
import hashlib
import importlib.metadata
import io
import os
import zipfile
from pathlib import Path

import pytest

import potluck
from potluck.admin.wheel import WheelError, build_wheel, wheel_name


def _copy_of_package(folder: Path) -> Path:
    """A package of three files, with things beside them that must stay out."""
    package = folder / "potluck"
    (package / "room" / "__pycache__").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "room" / "data.json").write_text("{}")
    (package / "room" / "__init__.py").write_text("x = 1\n")
    (package / "room" / "__pycache__" / "x.pyc").write_bytes(b"compiled")
    (package / "room" / ".swap").write_text("an editor's")
    return package


def test_two_builds_have_the_same_bytes(tmp_path: Path) -> None:
    """The same files make the same wheel: in another folder, at another time, with other rights."""
    first = _copy_of_package(tmp_path / "a")
    second = _copy_of_package(tmp_path / "b")
    for path in second.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    assert build_wheel(first) == build_wheel(second)
    (second / "room" / "data.json").write_text("[]")
    assert build_wheel(first) != build_wheel(second)


def test_nothing_but_the_package_is_in_it(tmp_path: Path) -> None:
    """Compiled files and an editor's drafts stay out."""
    with zipfile.ZipFile(io.BytesIO(build_wheel(_copy_of_package(tmp_path), "7.8.9"))) as archive:
        names = [name for name in archive.namelist() if not name.startswith("potluck-7.8.9.dist-info/")]
        assert names == ["potluck/__init__.py", "potluck/room/__init__.py", "potluck/room/data.json"]
        assert "\nVersion: 7.8.9\n" in archive.read("potluck-7.8.9.dist-info/METADATA").decode()


def test_the_record_names_every_file_with_its_hash() -> None:
    """RECORD has each file once, with its SHA-256 and size, and itself without."""
    with zipfile.ZipFile(io.BytesIO(build_wheel())) as archive:
        record = f"potluck-{potluck.__version__}.dist-info/RECORD"
        rows = [line.rsplit(",", 2) for line in archive.read(record).decode().splitlines()]
        assert [row[0] for row in rows] == archive.namelist()
        assert rows[-1] == [record, "", ""]
        for name, told, size in rows[:-1]:
            content = archive.read(name)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert (told, size) == (f"sha256={digest}", str(len(content)))


def test_it_can_be_imported_from_the_file(tmp_path: Path) -> None:
    """The wheel holds the program as it runs, with its data files and the entry point of its command."""
    path = tmp_path / wheel_name()
    path.write_bytes(build_wheel())
    (found,) = importlib.metadata.distributions(path=[str(path)])
    assert (found.metadata["Name"], found.version) == ("potluck", potluck.__version__)
    assert [(each.name, each.value) for each in found.entry_points] == [("potluck", "potluck.cli:main")]
    with zipfile.ZipFile(path) as archive:
        held = {name.removeprefix("potluck/") for name in archive.namelist()}
        source = Path(potluck.__file__).parent
        assert {"py.typed", "node/__init__.py", "admin/installers/install.sh"} <= held
        listed = archive.read("potluck/admin/installers/node-requirements.txt")
    assert listed == (source.parents[1] / "requirements" / "node.txt").read_bytes()


def test_a_tree_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the project's metadata there is no wheel, and the error says what to do."""

    def missing(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(WheelError, match="install it"):
        build_wheel()
