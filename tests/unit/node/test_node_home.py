"""The node's files: whose they are, that they are whole, and what a damaged one says."""

import asyncio
import os
from pathlib import Path

import pytest

from potluck.node.facts import Facts, Reading
from potluck.node.home import SYSTEM_HOME, Enrolled, Home, HomeError, Kept, KeyFile, node_home
from potluck.node.presence.reports import SECRET_FILE, secret_of
from potluck.node.process import LOCK_FILE
from potluck.node.rules import KeptExits
from potluck.node.settings import NodeSettings
from potluck.node.standing import Standing

ENROLLED = Enrolled("https://g.example", "https://g.example", "key", "node_1", "lab-1")


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    """The directory is 0700, also one that was there with wider rights, and each file is 0600."""
    place = tmp_path / "node"
    place.mkdir(mode=0o755)
    home = Home(place)
    home.prepare()
    home.write("node.json", ENROLLED)
    home.write("key", KeyFile("nky_1", "secret"))
    assert place.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o600}
    assert home.enrolled() == ENROLLED
    assert home.key().id == "nky_1"
    assert "secret" not in repr(home.key())


def test_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    """A machine that has not joined has no enrolment, no agent and no pause; only its key is missed."""
    home = Home(tmp_path)
    assert (home.enrolled(), home.running(), home.kept()) == (None, None, Kept())
    with pytest.raises(HomeError, match="potluck node join"):
        home.key()


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a file is never in the place of a whole one, and no draft stays."""
    home = Home(tmp_path)
    home.write_bytes("settings.json", b"before")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HomeError, match="No space left"):
        home.write_bytes("settings.json", b"after")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("settings.json", b"before")]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root writes for others")
def test_what_root_writes_is_whose_the_directory_is(tmp_path: Path) -> None:
    """`sudo potluck node set` on a service of another user: it can still read its files, the lock and the secret."""
    home = Home(tmp_path)
    os.chown(tmp_path, 4711, 4712)
    home.write("settings.json", NodeSettings())
    home.write("state.json", Kept(False))
    secret_of(home)
    with home.alone(LOCK_FILE):
        pass
    made = {path.name: path.stat() for path in tmp_path.iterdir()}
    assert made.keys() == {"settings.json", "state.json", SECRET_FILE, LOCK_FILE}
    assert {(each.st_uid, each.st_gid, each.st_mode & 0o777) for each in made.values()} == {(4711, 4712, 0o600)}


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_no_link_in_the_directory_is_followed(tmp_path: Path) -> None:
    """Whoever the directory belongs to gets no other file written, or given to them, by root."""
    place, other = tmp_path / "node", tmp_path / "shadow"
    place.mkdir()
    other.write_bytes(b"theirs")
    home = Home(place)
    for name in (f".settings.json.{os.getpid()}", "settings.json", LOCK_FILE):
        (place / name).symlink_to(other)
    home.write("settings.json", NodeSettings())
    with pytest.raises(HomeError, match=LOCK_FILE), home.alone(LOCK_FILE):
        pass
    assert other.read_bytes() == b"theirs"
    assert not (place / "settings.json").is_symlink()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"serve": 3}', b"\xff"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    """One line with the file's path, never a guess at what it meant."""
    home = Home(tmp_path)
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(HomeError, match=r"state\.json is damaged") as refused:
        home.kept()
    assert "\n" not in str(refused.value)


def test_where_the_home_is(tmp_path: Path) -> None:
    """Option, variable, then the platform's place: root's is the system's."""
    assert node_home(str(tmp_path), {"POTLUCK_NODE_HOME": "/x"}) == tmp_path
    assert node_home(None, {"POTLUCK_NODE_HOME": str(tmp_path)}) == tmp_path
    expected = SYSTEM_HOME if os.geteuid() == 0 else Path("/data/potluck-node")
    assert node_home(None, {"XDG_DATA_HOME": "/data", "HOME": "/home/ann"}) == expected


def test_the_owners_word_is_kept_before_it_is_heeded(tmp_path: Path) -> None:
    """A pause is in the file when the decision says so; a pause whose time is over is none after a restart."""

    async def run() -> None:
        home, loop = Home(tmp_path), asyncio.get_running_loop()
        complaints: list[str] = []
        standing = Standing(loop, home, complaints.append)
        standing.decide(NodeSettings(), Facts())
        assert standing.decision.serve
        standing.say(Kept(False))
        assert home.kept().serve is False
        standing.decide(NodeSettings(), Facts())
        assert (standing.decision.serve, standing.decision.hard) == (False, True)
        assert standing.reset_by is not None
        assert standing.unload_by is not None
        again = Standing(loop, home, complaints.append)
        again.decide(NodeSettings(), Facts())
        assert not again.decision.serve
        home.write("state.json", Kept(False, until_s=1.0))
        later = Standing(loop, home, complaints.append)
        later.decide(NodeSettings(), Facts())
        assert later.decision.serve
        assert complaints == []

    asyncio.run(run())


def test_a_drain_lets_run_and_a_pause_after_it_does_not(tmp_path: Path) -> None:
    """Drain gives what runs two minutes; a pause during it ends them."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        standing = Standing(loop, Home(tmp_path), lambda what: None)
        standing.decide(NodeSettings(), Facts())
        standing.say(Kept(False, True))
        standing.decide(NodeSettings(), Facts())
        assert standing.drains
        assert standing.reset_by is not None
        assert standing.reset_by > loop.time() + 60
        standing.say(Kept(False))
        standing.decide(NodeSettings(), Facts())
        assert standing.reset_by is not None
        assert standing.reset_by <= loop.time()

    asyncio.run(run())


@pytest.mark.parametrize("drain", [False, True])
def test_resume_holds_again_after_a_pause_with_an_end(tmp_path: Path, drain: bool) -> None:
    """In mode `manual`, over a restart and a longer pause too; a pause without an end takes it back."""
    settings = NodeSettings(mode=("manual",))

    async def serves(home: Home) -> bool:
        standing = Standing(asyncio.get_running_loop(), home, lambda what: None)
        standing.decide(settings, Facts())
        return standing.decision.serve

    async def run() -> None:
        home = Home(tmp_path)
        home.write("state.json", Kept(True).pause(4e9, drain=drain))
        assert not await serves(home)
        home.write("state.json", home.kept().pause(1.0, drain=drain))
        assert await serves(home)
        assert home.kept().serve
        for word in (Kept(), Kept(True).pause(None, drain=drain)):
            home.write("state.json", word.pause(1.0, drain=drain))
            assert not await serves(home)

    asyncio.run(run())


def test_resume_while_somebody_is_there_keeps_the_grace(tmp_path: Path) -> None:
    """What runs has no longer than the grace, whatever the owner said meanwhile."""

    async def run() -> None:
        loop, settings = asyncio.get_running_loop(), NodeSettings(mode=("idle",))
        standing = Standing(loop, Home(tmp_path), lambda what: None)
        for _ in range(2):
            standing.decide(settings, Facts(presence=Reading(True, 0.0)))
            assert standing.reset_by is not None
            assert standing.reset_by <= loop.time() + settings.grace_s
            standing.say(Kept(True))

    asyncio.run(run())


def test_resume_forgives_past_exits(tmp_path: Path) -> None:
    """A rest that was kept over a restart is over when the owner says so."""

    async def run() -> None:
        home = Home(tmp_path)
        home.write("state.json", Kept(exits=KeptExits((1.0,), 4e9)))
        standing = Standing(asyncio.get_running_loop(), home, lambda what: None)
        standing.decide(NodeSettings(), Facts())
        assert not standing.decision.serve
        standing.say(Kept(True))
        standing.decide(NodeSettings(), Facts())
        assert standing.decision.serve

    asyncio.run(run())
