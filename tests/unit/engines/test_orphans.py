"""Children that outlived whoever started them are ended; nobody else is."""

import os
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


def gone() -> int:
    """The id of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_the_child_of_an_owner_that_is_gone_is_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """Process id and start time match, and nobody looks after it."""
    file = orphans.mark(tmp_path / "run", sleeper.pid, gone())
    assert orphans.sweep(tmp_path / "run") == 1
    assert sleeper.wait(5) == -9
    assert not file.exists()


def test_the_child_of_an_owner_that_lives_is_left_alone(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """A gateway and an agent of one home: each has a file, and a third that starts ends neither's child."""
    file = orphans.mark(tmp_path, sleeper.pid, os.getpid())
    other = orphans.mark(tmp_path, os.getpid(), os.getpid())
    assert orphans.sweep(tmp_path) == 0
    assert sleeper.poll() is None
    assert file.exists()
    assert other.exists()


def test_an_owner_whose_id_was_taken_over_is_gone(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """The owner's id with another start time is somebody else."""
    file = orphans.mark(tmp_path, sleeper.pid, os.getpid())
    mark = msgspec.json.decode(file.read_bytes(), type=orphans.ChildMark)
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(mark, owner_started="an earlier time")))
    assert orphans.sweep(tmp_path) == 1
    assert sleeper.wait(5) == -9


def test_a_process_that_took_over_the_id_is_left_alone(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """The same id with another start time is a stranger."""
    file = tmp_path / "local-model.1.json"
    file.write_bytes(msgspec.json.encode(orphans.ChildMark(sleeper.pid, "an earlier time", gone(), "once")))
    assert orphans.sweep(tmp_path) == 0
    assert sleeper.poll() is None
    assert not file.exists()


def test_a_child_that_is_gone_is_not_looked_for_twice(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """Gone, even if nobody collected it yet: there is nothing to end."""
    file = orphans.mark(tmp_path, sleeper.pid, os.getpid())
    sleeper.kill()
    sleeper.wait()
    assert orphans.sweep(tmp_path) == 0
    assert not file.exists()


@pytest.mark.parametrize("content", [b"", b"{", b'{"pid":"x"}', b'{"pid":1,"started":"","owner":1,"owner_started":""}'])
def test_a_damaged_note_ends_nobody(tmp_path: Path, content: bytes) -> None:
    """What cannot be read is thrown away."""
    file = tmp_path / "local-model.1.json"
    file.write_bytes(content)
    assert orphans.sweep(tmp_path) == 0
    assert not file.exists()


def test_without_a_note_there_is_nothing_to_do(tmp_path: Path) -> None:
    """The usual start."""
    assert orphans.sweep(tmp_path / "run") == 0
