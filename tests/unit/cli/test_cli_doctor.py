"""`doctor`'s checks of this machine, each seen good and bad."""

import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from potluck.cli.checkup import machine, network
from potluck.cli.checkup.verdict import Verdict
from potluck.store.schema import ensure_schema

Potluck = Callable[..., Any]


def made(home: Path) -> Path:
    """A home with both databases and a spool, as a first start leaves it."""
    for name, which in (("potluck.db", "main"), ("usage.db", "usage")):
        (home / name).touch(mode=0o600)
        ensure_schema(home / name, which)  # type: ignore[arg-type]
    (home / "spool").mkdir(mode=0o700)
    return home


def test_a_sound_home_is_ok(home: Path) -> None:
    """A home as the gateway makes it passes every check, and checking leaves nothing behind."""
    before = sorted(each.name for each in made(home).rglob("*"))
    verdicts = [machine.home_rights(home), machine.disk(home), machine.spool(home), machine.clock(home)]
    verdicts += machine.databases(home)
    assert [each.state for each in verdicts if each.check != "disk"] == ["ok"] * 5, verdicts
    after = sorted(each.name for each in home.rglob("*") if not each.name.endswith(("-wal", "-shm")))
    assert after == before


def test_rights_that_are_too_wide_are_found(home: Path) -> None:
    """A home or a secret file open to others fails, with the chmod that mends it."""
    home.chmod(0o755)
    assert (machine.home_rights(home).state, machine.home_rights(home).mend) == ("fail", f"chmod 700 '{home}'")
    home.chmod(0o700)
    (home / "master-key").touch()
    (home / "master-key").chmod(0o644)
    verdict = machine.home_rights(home)
    assert (verdict.state, verdict.mend) == ("fail", f"chmod 600 '{home / 'master-key'}'")


def test_a_home_that_is_not_there_or_no_directory(tmp_path: Path) -> None:
    """A home to come is skipped; a file in its place fails."""
    assert machine.home_rights(tmp_path / "none").state == "skip"
    (tmp_path / "file").touch()
    assert "is not a directory" in machine.home_rights(tmp_path / "file").found


def test_damaged_and_foreign_databases_are_found(home: Path) -> None:
    """Noise in a database, an older schema and a newer one are told apart."""
    made(home)
    for database in (home / "potluck.db", home / "usage.db"):
        connection = sqlite3.connect(database)
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.close()
    (home / "potluck.db").write_bytes(b"noise" * 1000)
    connection = sqlite3.connect(home / "usage.db")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    main, usage = machine.databases(home)
    assert main.state == "fail"
    assert "potluck db restore" in main.mend
    assert (usage.state, "newer than this program" in usage.found) == ("fail", True)
    connection.execute("UPDATE alembic_version SET version_num = '0000'")
    connection.commit()
    connection.close()
    _, usage = machine.databases(home)
    assert (usage.state, usage.mend) == ("warn", "potluck db upgrade, or restart")


def test_a_full_disk_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little room warns, next to none fails."""
    for free, state in ((1 << 40, "ok"), (1 << 30, "warn"), (1 << 20, "fail")):
        monkeypatch.setattr("shutil.disk_usage", lambda _place, free=free: type("Usage", (), {"free": free})())
        assert machine.disk(home / "sub" / "folder").state == state


def test_a_spool_that_cannot_be_written_fails(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that would be refused are found before the first call."""
    made(home)

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    verdict = machine.spool(home)
    assert (verdict.state, "No space left" in verdict.found) == ("fail", True)
    assert list((home / "spool").iterdir()) == []


def test_a_clock_that_went_back_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files from the future, and a year before this program, fail."""
    (home / "potluck.db").touch()
    os.utime(home / "potluck.db", (time.time() + 3600,) * 2)
    assert "it went back" in machine.clock(home).found
    monkeypatch.setattr("time.time", lambda: 86_400.0)
    assert "in the past" in machine.clock(home).found


@pytest.mark.parametrize(("shift_s", "state"), [(0, None), (-20, None), (-600, "warn"), (600, "warn")])
def test_the_clock_is_compared_with_a_server(shift_s: float, state: str | None) -> None:
    """More than half a minute beside a provider's clock warns; no date or nonsense says nothing."""
    from email.utils import formatdate

    verdict = machine.clock_against(formatdate(time.time() + shift_s, usegmt=True))
    assert (verdict and verdict.state) == state
    assert machine.clock_against(None) is None
    assert machine.clock_against("yesterday") is None


def test_a_port_in_use_by_another_is_found(tmp_path: Path) -> None:
    """A port that something else listens on fails; a free one, or a gateway's, is well."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert machine.port(url, tmp_path, answered=False).state == "fail"
        assert machine.port(url, tmp_path, answered=True).state == "ok"
    assert machine.port(url, tmp_path, answered=False).state == "ok"
    assert machine.port("http://example.org", tmp_path, answered=False).state == "skip"


def test_providers_are_reached_without_a_gateway(home: Path) -> None:
    """With no gateway running the stored addresses are tried directly, and a dead one is named."""
    made(home)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        verdict, date = network._reach("dead", address)
    assert isinstance(verdict, Verdict)
    assert (verdict.state, date) == ("fail", None)
    assert [each.state for each in network.providers(None, home)] == ["skip"]


def test_doctor_prints_a_line_per_check_and_json(potluck: Potluck, home: Path) -> None:
    """The command's status says whether something is broken; --json holds the same verdicts."""
    made(home)
    url = "http://127.0.0.1:9"
    ran = potluck("doctor", "--url", url)
    assert ran.status == 0, ran.out
    assert "ok    home directory" in ran.out
    assert "\x1b" not in ran.out
    home.chmod(0o750)
    ran = potluck("doctor", "--json", "--url", url)
    assert ran.status == 1
    verdicts = {each["check"]: each for each in json.loads(ran.out)}
    assert verdicts["home directory"]["mend"] == f"chmod 700 '{home}'"
    assert {each["state"] for each in verdicts.values()} <= {"ok", "warn", "fail", "skip"}
