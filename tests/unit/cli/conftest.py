"""Running command lines in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from potluck.cli.app import run


class Ran(NamedTuple):
    """How a command line ended and what it said."""

    status: int
    out: str
    err: str


Potluck = Callable[..., Ran]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home directory."""
    place = tmp_path / "home"
    place.mkdir(mode=0o700)
    return place


@pytest.fixture
def potluck(capsys: pytest.CaptureFixture[str], home: Path) -> Potluck:
    """`potluck("key", "list", VARIABLE="…")` → exit status, stdout, stderr. Nothing of the real environment is seen."""

    def call(*arguments: str, **env: str) -> Ran:
        status = run(arguments, {"POTLUCK_HOME": str(home), "HOME": str(home)} | env)
        said = capsys.readouterr()
        return Ran(status, said.out, said.err)

    return call
