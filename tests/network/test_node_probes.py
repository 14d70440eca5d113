"""Probes over real processes, threads and sockets: what hangs is left behind, what is not signed is not heard."""

import asyncio
import sys
import threading
import time
from pathlib import Path

import pytest

from potluck.node.facts import Reading
from potluck.node.home import Home
from potluck.node.presence.linux import terminal_idle_s
from potluck.node.presence.reports import (
    SECRET_FILE,
    STALE_S,
    Report,
    Reports,
    heard,
    opened,
    read_secret,
    report_for_ever,
    sealed,
    secret_of,
)
from potluck.node.presence.x11 import PROGRAM, X11Idle
from potluck.node.programs import MAX_OUTPUT_BYTES, output_of
from potluck.node.sampling import Sampler

SECRET = bytes(range(32))


def python(code: str) -> tuple[str, ...]:
    """A program that runs `code`."""
    return (sys.executable, "-I", "-S", "-c", code)


def test_a_program_answers() -> None:
    """Its output, when it ended well."""
    assert output_of(python("print('idle')"), 20) == b"idle\n"
    assert output_of(python("print('idle'); raise SystemExit(1)"), 20) is None
    assert output_of(("potluck-has-no-such-program",), 20) is None


def test_a_program_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    """A hanging child holds the pipe open, and is killed too."""
    alive = tmp_path / "alive"
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(alive)!r}).touch()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', {child!r}])"
    began_s = time.monotonic()
    assert output_of(python(code), 0.3) is None
    assert time.monotonic() - began_s < 2.5
    assert not alive.exists()


def test_a_program_that_never_stops_talking_is_killed() -> None:
    """Output is bounded."""
    code = f"import sys\nwhile True: sys.stdout.write('x' * {MAX_OUTPUT_BYTES})"
    assert output_of(python(code), 20) is None


def test_a_question_that_hangs_has_no_answer() -> None:
    """The last answer counts for its time, and then none does; stopping waits for nothing."""
    now_s, release, answered, hanging = [0.0], threading.Event(), threading.Event(), threading.Event()

    def question() -> str:
        if answered.is_set():
            hanging.set()
            release.wait(20)
        answered.set()
        return "here"

    sampler = Sampler(question, 0.01, 5.0, lambda: now_s[0])
    assert sampler.latest() is None
    sampler.start()
    assert hanging.wait(20)
    assert sampler.latest() == "here"
    now_s[0] = 5.1
    assert sampler.latest() is None
    sampler.stop()
    release.set()


def test_a_question_that_fails_is_asked_again() -> None:
    """A failure is no answer and no end; its kind is kept for the doctor."""
    failed, answered, fail = threading.Event(), threading.Event(), [True]

    def question() -> int:
        if fail[0]:
            fail[0] = False
            raise PermissionError("no")
        if not failed.wait(20):
            raise AssertionError("nobody looked")
        answered.set()
        return 1

    sampler = Sampler(question, 0.01, 60.0)
    sampler.start()
    deadline_s = time.monotonic() + 20
    while sampler.failure != "PermissionError" and time.monotonic() < deadline_s:
        time.sleep(0.005)
    assert sampler.failure == "PermissionError"
    failed.set()
    assert answered.wait(20)
    sampler.stop()


def test_the_x11_program_is_asked_again_and_again() -> None:
    """One program, many answers; what it does not know is None."""
    answers = ["0", "1500 full", "-", "9 much"]
    x11 = X11Idle(python(f"import sys\nfor each, _ in zip({answers}, sys.stdin): print(each, flush=True)"), 20)
    assert x11.read() == Reading(True, 0.0, source="X11")
    assert x11.read() == Reading(False, 1.5, full_screen=True, source="X11")
    assert x11.read() is None
    assert x11.read() == Reading(True, 0.009, source="X11")
    x11.close()


def test_an_x11_program_that_hangs_or_dies_is_started_anew(tmp_path: Path) -> None:
    """As with a display whose server is gone."""
    starts = tmp_path / "starts"
    count = f"import pathlib, sys, time; p = pathlib.Path({str(starts)!r}); p.open('a').write('x'); "
    hangs = X11Idle(python(count + "time.sleep(60)"), 0.5)
    assert hangs.read() is None
    dies = X11Idle(python(count + "sys.exit(1)"), 20)
    assert [dies.read(), dies.read()] == [None, None]
    assert len(starts.read_text()) >= 2
    hangs.close()
    dies.close()


def test_the_real_x11_program_without_a_display_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends, and nothing is known."""
    monkeypatch.setenv("DISPLAY", ":4711")
    x11 = X11Idle(PROGRAM, 20)
    assert x11.read() is None
    x11.close()


def test_terminals_are_dated_by_what_is_typed() -> None:
    """A device's access time tells; what is no terminal is left out."""
    assert all(idle_s >= 0 for idle_s in terminal_idle_s(["null"]))
    assert len(terminal_idle_s(["null", "no-such-terminal"])) == len(terminal_idle_s()) + 1


def test_a_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    """The same at the second start; a damaged file is named."""
    home = Home(tmp_path)
    secret = secret_of(home)
    assert secret_of(home) == secret == read_secret(tmp_path / SECRET_FILE)
    assert (tmp_path / SECRET_FILE).stat().st_mode & 0o777 == 0o600
    (tmp_path / SECRET_FILE).write_text("beef\n")
    with pytest.raises(ValueError, match="damaged"):
        secret_of(home)


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"x" * 31,
        b"x" * 4000,
        sealed(b"y" * 32, Report("a", 1, 1.0)),
        sealed(SECRET, Report("a", 1, 1.0))[:-1],
        bytes([0]) + sealed(SECRET, Report("a", 1, 1.0))[1:],
        sealed(SECRET, Report("a", 1, -1.0)),
        sealed(SECRET, Report("a" * 2000, 1, 1.0)),
    ],
)
def test_what_is_not_signed_is_no_report(datagram: bytes) -> None:
    """Short, long, cut, changed, signed by somebody else, impossible."""
    assert opened(SECRET, datagram) is None


def test_a_report_is_neither_repeated_nor_old() -> None:
    """The same one twice, an earlier one, and one of another time do not count; a good one counts for 30 s."""
    now = [100.0]
    reports = Reports(SECRET, lambda: now[0], lambda: int(now[0] * 1e9))

    def tell(sent_s: float, idle_s: float, session: str = "a") -> list[float | None]:
        reports.datagram_received(sealed(SECRET, Report(session, int(sent_s * 1e9), idle_s)), None)
        return [each.idle_s for each in reports.readings()]

    assert tell(100.0, 5.0) == [5.0]
    assert tell(99.0, 9000.0) == [5.0]
    assert tell(100.0, 9000.0) == [5.0]
    assert tell(101.0, 0.0) == [0.0]
    assert tell(400.0, 9000.0) == [0.0]
    assert tell(100.0, 7.0, "b") == [0.0, 7.0]
    now[0] += STALE_S + 0.1
    assert reports.readings() == []
    assert tell(101.5, 9000.0) == []
    assert tell(now[0], 3.0) == [3.0]


def test_a_helper_that_knows_nothing_is_somebody() -> None:
    """Its session is there, and cannot be seen."""
    reports = Reports(SECRET, lambda: 1.0, lambda: 1)
    reports.datagram_received(sealed(SECRET, Report("a", 1)), None)
    assert heard(Reading(False, 900.0), reports.readings()).active is True


def test_a_helper_knows_better_than_a_hint_and_never_less_than_a_terminal() -> None:
    """A guess of the service gives way; input that the service saw itself counts."""
    helper = [Reading(False, 900.0)]
    assert heard(Reading(True), helper).idle_s == 900.0
    assert heard(Reading(True), []).active is True
    assert heard(Reading(False, 4.0), helper).idle_s == 4.0
    assert heard(Reading(), helper).idle_s == 900.0


async def test_a_helper_reports_to_the_agent() -> None:
    """Over a real socket, from another thread, until it is told to stop."""
    reports, heard_one = Reports(SECRET), threading.Event()
    transport = await reports.listen(0)
    port = transport.get_extra_info("sockname")[1]

    class Desk:
        def read(self) -> Reading:
            return Reading(False, 42.0, locked=True)

    async def wait() -> None:
        while not reports.readings():
            await asyncio.sleep(0.005)
        heard_one.set()

    helping = asyncio.to_thread(report_for_ever, Desk(), SECRET, port, lambda seconds: heard_one.wait(0.01))
    async with asyncio.timeout(20):
        await asyncio.gather(wait(), helping)
    [reading] = reports.readings()
    assert (reading.active, reading.idle_s, reading.locked) == (False, 42.0, True)
    transport.close()
    await asyncio.sleep(0)
