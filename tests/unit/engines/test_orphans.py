"""Children that outlived their gateway are ended; nobody else is."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from potluck.engines import orphans


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing until it is killed."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_the_child_that_was_written_down_is_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """Process id and start time match: it is the one."""
    file = tmp_path / "run" / "child.json"
    orphans.mark(file, sleeper.pid)
    assert orphans.sweep(file)
    assert sleeper.wait(5) == -9
    assert not file.exists()


def test_a_process_that_took_over_the_id_is_left_alone(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """The same id with another start time is a stranger."""
    file = tmp_path / "child.json"
    file.write_bytes(msgspec.json.encode(orphans.ChildMark(sleeper.pid, "an earlier time")))
    assert not orphans.sweep(file)
    assert sleeper.poll() is None


def test_a_child_that_is_gone_is_not_looked_for_twice(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """Gone, even if nobody collected it yet: there is nothing to end."""
    file = tmp_path / "child.json"
    orphans.mark(file, sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    assert not orphans.sweep(file)
    assert not file.exists()


@pytest.mark.parametrize("content", [b"", b"{", b'{"pid":"x"}', b'{"pid":1,"started":""}'])
def test_a_damaged_note_ends_nobody(tmp_path: Path, content: bytes) -> None:
    """What cannot be read is thrown away."""
    file = tmp_path / "child.json"
    file.write_bytes(content)
    assert not orphans.sweep(file)
    assert not file.exists()


def test_without_a_note_there_is_nothing_to_do(tmp_path: Path) -> None:
    """The usual start."""
    assert not orphans.sweep(tmp_path / "child.json")
