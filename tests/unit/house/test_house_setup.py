"""`make` on a machine that lacks something: one line that names it."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from house_tree import ROOT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="make-venv is a shell script")


def _fake_python(folder: Path, answers: str) -> None:
    """Programs named like every candidate that answer as told; the shell's own tools are linked beside them."""
    for name in ("python3", "python3.14", "python3.13", "python3.12", "python3.11"):
        program = folder / name
        program.write_text(f"#!/bin/sh\n{answers}\n")
        program.chmod(0o755)
    for tool in ("sh", "rm", "mkdir"):
        found = shutil.which(tool)
        assert found
        (folder / tool).symlink_to(found)


def _make_venv(tmp_path: Path, answers: str) -> subprocess.CompletedProcess[str]:
    folder = tmp_path / "bin"
    folder.mkdir()
    _fake_python(folder, answers)
    return subprocess.run(
        [str(ROOT / "scripts" / "make-venv"), str(tmp_path / "venv")],
        env={"PATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_an_old_python_is_named_in_one_line(tmp_path: Path) -> None:
    """With only an older Python, one line says which version is needed, and nothing is left behind."""
    done = _make_venv(tmp_path, "exit 1")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Python 3.11" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_missing_venv_module_names_the_package(tmp_path: Path) -> None:
    """Where Python's venv module was split off, one line names the package that brings it."""
    done = _make_venv(tmp_path, 'case "$2" in *ensurepip*) exit 1 ;; esac')
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "python3-venv" in done.stderr


def test_a_half_made_environment_does_not_stay(tmp_path: Path) -> None:
    """When making it fails half-way, the next `make` starts afresh instead of trusting what is there."""
    done = _make_venv(tmp_path, 'case "$1" in -m) mkdir -p "$3/bin"; : > "$3/bin/python"; exit 1 ;; esac')
    assert done.returncode == 1
    assert not (tmp_path / "venv").exists()


def test_the_script_and_the_project_ask_for_the_same_python() -> None:
    """The version that make-venv looks for is the project's `requires-python`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    major, minor = project["project"]["requires-python"].removeprefix(">=").split(".")
    assert f"({major}, {minor})" in (ROOT / "scripts" / "make-venv").read_text(encoding="utf-8")
