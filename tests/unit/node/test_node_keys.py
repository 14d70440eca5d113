"""Who this machine is survives full disks, lost answers, Ctrl-C between two files, and two commands at once."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from potluck.cli.node_home import read_settings
from potluck.model.secret import Secret
from potluck.node import keys
from potluck.node.enrolment import EnrolmentError
from potluck.node.home import ENROLMENT_LOCK, NEXT_KEY, Enrolled, Home, HomeError, KeyFile
from potluck.node.identity import Identity, fresh_key, to_text

TOKEN, OTHER = Secret("plj-" + "0" * 46), Secret("plj-" + "1" * 46)


class Gatekeeper:
    """A gateway that knows nodes by their keys; `before` and `after` are called around its taking one up."""

    origin = "https://g.example"

    def __init__(self) -> None:
        self.nodes: dict[bytes, str] = {}
        self.calls: list[bytes] = []
        self.before: Any = lambda: None
        self.after: Any = lambda: None

    def enroll(self, token: Secret, identity: Identity, name: str) -> tuple[Enrolled, str, str]:
        self._take(identity)
        node = self.nodes[identity.public]
        return Enrolled(self.origin, self.origin, "key", node, name), f"nky_{node}", "approved"

    def rotate(self, enrolled: Enrolled, key: str, old: Identity, new: Identity) -> str:
        self._take(new)
        return f"nky_{self.nodes[new.public]}"

    def _take(self, identity: Identity) -> None:
        self.before()
        self.calls.append(identity.public)
        self.nodes.setdefault(identity.public, f"node_{len(self.nodes) + 1}")
        self.after()


@pytest.fixture
def gatekeeper(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = Gatekeeper()
    monkeypatch.setattr(keys, "Gateway", lambda *_, **__: found)
    return found


def full_disk(fd: int) -> None:
    raise OSError(28, "No space left on device")


def joined(path: Path) -> Home:
    home = Home(path)
    home.write("node.json", Enrolled("https://g.example", "https://g.example", "key", "node_0", "lab-1"))
    home.write("key", KeyFile("nky_0", to_text(fresh_key()), "node_0"))
    return home


def fits(home: Home) -> bool:
    enrolled = home.enrolled()
    return enrolled is not None and home.key().id == f"nky_{enrolled.node}"


def test_nothing_is_sent_that_there_is_no_room_to_keep(
    tmp_path: Path, gatekeeper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk neither joining nor a new key comes to the gateway, and nothing is left lying around."""
    home = joined(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(HomeError, match="No space left"):
        keys.rotate(home)
    with pytest.raises(HomeError, match="No space left"):
        keys.join(home, gatekeeper, TOKEN, "lab-1", force=True)
    assert gatekeeper.calls == []
    (tmp_path / ENROLMENT_LOCK).unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("change", ["join", "rotate"])
def test_a_disk_that_fills_up_meanwhile_loses_no_key(tmp_path: Path, gatekeeper: Any, change: str) -> None:
    """The gateway has the key and the machine could not write that down: the next try takes the same one."""
    home = joined(tmp_path) if change == "rotate" else Home(tmp_path)

    def again() -> None:
        if change == "rotate":
            keys.rotate(home)
        else:
            keys.join(home, gatekeeper, TOKEN, "lab-1")

    with pytest.MonkeyPatch.context() as patch:
        gatekeeper.after = lambda: patch.setattr(os, "fsync", full_disk)
        with pytest.raises(HomeError, match="mend that"):
            again()
    gatekeeper.after = lambda: None
    if change == "rotate":
        assert keys.is_pending(home)
        assert home.key().id == "nky_0"
    again()
    assert len(set(gatekeeper.calls)) == 1
    assert home.key().id == "nky_node_1"
    assert not keys.is_pending(home)
    assert not (tmp_path / NEXT_KEY).exists()


def test_ctrl_c_after_the_answer_joins_as_the_same_node(tmp_path: Path, gatekeeper: Any) -> None:
    """The token may be spent: the retry shows the key that spent it. Another token gets another key."""
    home = Home(tmp_path)

    def interrupt() -> None:
        raise KeyboardInterrupt

    gatekeeper.after = interrupt
    with pytest.raises(KeyboardInterrupt):
        keys.join(home, gatekeeper, TOKEN, "lab-1")
    assert home.enrolled() is None
    gatekeeper.after = lambda: None
    enrolled, _ = keys.join(home, gatekeeper, TOKEN, "lab-1")
    assert (enrolled.node, len(gatekeeper.nodes)) == ("node_1", 1)
    other, _ = keys.join(home, gatekeeper, OTHER, "lab-1", force=True)
    assert (other.node, len(gatekeeper.nodes)) == ("node_2", 2)


@pytest.mark.parametrize("survived", [1, 2, 3, 4])
def test_key_and_enrolment_fit_after_a_crash_at_each_write(
    tmp_path: Path, gatekeeper: Any, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    """Joining anew ends after so many of its files: the machine is wholly the old node, or wholly the new one."""
    home = Home(tmp_path)
    keys.join(home, gatekeeper, TOKEN, "lab-1")
    write, done = home.write_bytes, [0]

    def crash(name: str, content: bytes) -> None:
        if done[0] == survived:
            raise KeyboardInterrupt
        done[0] += 1
        write(name, content)

    monkeypatch.setattr(home, "write_bytes", crash)
    with pytest.raises(KeyboardInterrupt):
        keys.join(home, gatekeeper, OTHER, "lab-1", force=True)
    assert fits(Home(tmp_path))


def test_a_refused_key_is_not_tried_for_ever(tmp_path: Path, gatekeeper: Any) -> None:
    """The gateway says that the key was revoked: the next try makes another."""
    home = Home(tmp_path)

    def refuse() -> None:
        raise EnrolmentError("refused (HTTP 409)", status=409)

    gatekeeper.before = refuse
    with pytest.raises(EnrolmentError):
        keys.join(home, gatekeeper, TOKEN, "lab-1")
    assert not (tmp_path / NEXT_KEY).exists()


def test_two_joins_at_once_are_one(tmp_path: Path, gatekeeper: Any) -> None:
    """The second says that another is at it, and sends nothing."""
    home, inside, go_on = Home(tmp_path), threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert go_on.wait(10)

    gatekeeper.before = wait
    first = threading.Thread(target=keys.join, args=(home, gatekeeper, TOKEN, "lab-1"))
    first.start()
    assert inside.wait(10)
    try:
        with pytest.raises(HomeError, match="another command"):
            keys.join(Home(tmp_path), gatekeeper, TOKEN, "lab-1")
    finally:
        go_on.set()
        first.join()
    assert len(gatekeeper.calls) == 1
    assert fits(home)


def test_settings_from_many_processes_are_all_kept(tmp_path: Path) -> None:
    """Each reads, changes and writes: none undoes another's."""
    names = [f"m{number}" for number in range(6)]
    command = [sys.executable, "-m", "potluck", "node", "price"]
    options = ["--home", str(tmp_path), "--input", "1", "--output", "2"]
    running = [subprocess.Popen([*command, name, *options], stdout=subprocess.DEVNULL) for name in names]
    assert [each.wait(60) for each in running] == [0] * len(names)
    assert sorted(read_settings(Home(tmp_path)).prices) == names


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    """Old drafts go, fresh ones are somebody's work, and other files stay."""
    old, fresh, other = (tmp_path / name for name in (".key.123", ".node.json.124", "notes.txt"))
    for path in (old, fresh, other):
        path.write_bytes(b"x")
    for path in (old, other):
        os.utime(path, (1, 1))
    Home(tmp_path).sweep()
    assert [path.exists() for path in (old, fresh, other)] == [False, True, True]
