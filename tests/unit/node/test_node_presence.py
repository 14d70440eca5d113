"""Presence on each system, by faked system calls; and what several sources say together."""

import ctypes
import plistlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.node.facts import Reading
from potluck.node.presence import Unseen, presence_here
from potluck.node.presence.linux import LinuxPresence
from potluck.node.presence.macos import MacPresence
from potluck.node.presence.sources import Paced, measured, together
from potluck.node.presence.windows import WindowsPresence

NOW_S = 10_000.0


class Programs:
    """Answers by the first words of a command; counts what was asked."""

    def __init__(self, **answers: str | None) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, command: Sequence[str], timeout_s: float) -> bytes | None:
        name = "show" if "show-session" in command else command[0]
        self.asked.append(name)
        answer = self.answers.get(name)
        return None if answer is None else answer.encode()


def session(**fields: str) -> str:
    """A session as `loginctl show-session` prints it."""
    known = {"Id": "2", "Class": "user", "Type": "wayland", "State": "active", "IdleHint": "no", "LockedHint": "no"}
    return "".join(f"{key}={value}\n" for key, value in {**known, **fields}.items())


def linux(
    run: Programs,
    env: dict[str, str] | None = None,
    x11_s: float | None = None,
    terminals: Sequence[float] = (),
    wayland_s: float | None = None,
) -> LinuxPresence:
    """A Linux machine."""
    return LinuxPresence(
        run,
        env or {},
        lambda: None if x11_s is None else measured(x11_s, "X11"),
        lambda: wayland_s,
        lambda known: list(terminals),
        lambda: NOW_S,
    )


GNOME = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/1000/bus"}


def test_linux_nobody_logged_in_is_nobody_there() -> None:
    """An empty list of sessions, or only the login screen's."""
    assert linux(Programs(loginctl="")).read() == Reading(active=False, source="nobody is logged in")
    greeter = Programs(loginctl="c1 120 gdm seat0\n", show=session(Class="greeter"))
    assert linux(greeter).read().active is False


def test_linux_without_any_source_is_not_known() -> None:
    """No logind, no desktop, no terminal: None, not nobody."""
    assert linux(Programs()).read() == Reading()
    assert linux(Programs(loginctl="2 1000 ada seat0\n", show=None)).read() == Reading()


def test_linux_logind_tells_of_idle_and_locked_sessions() -> None:
    """`IdleHint` with its time, `LockedHint`, and somebody there without either."""
    listed = {"loginctl": "2 1000 ada seat0 tty2\n"}
    idle = session(IdleHint="yes", IdleSinceHintMonotonic="9400000000")
    assert linux(Programs(**listed, show=idle)).read() == Reading(False, 600.0, False, source="logind")
    locked = linux(Programs(**listed, show=session(LockedHint="yes"))).read()
    assert (locked.active, locked.idle_s, locked.locked) == (False, None, True)
    assert linux(Programs(**listed, show=session())).read() == Reading(True, None, False, source="logind")


def test_linux_the_desktop_knows_better_than_the_hint() -> None:
    """With GNOME's or X11's idle time a hint that never changes is not believed, while there is one session only."""
    one = Programs(loginctl="2\n", show=session(), busctl="t 400500\n")
    assert linux(one, GNOME).read() == Reading(False, 400.5, source="GNOME")
    two = Programs(loginctl="2\n3\n", show=session() + "\n" + session(Id="3"), busctl="t 400500\n")
    assert linux(two, GNOME).read().active is True
    x11 = Programs(loginctl="2\n", show=session(Type="x11"))
    assert linux(x11, {"DISPLAY": ":0"}, x11_s=0.2).read() == Reading(True, 0.2, source="X11")
    assert linux(x11, {"DISPLAY": ":0"}, x11_s=900.0).read().idle_s == 900.0


def test_linux_the_compositor_is_asked_first() -> None:
    """What Wayland tells saves the question over D-Bus; a compositor that does not tell leaves it to the others."""
    run = Programs(loginctl="2\n", show=session(), busctl="t 400500\n")
    env = {**GNOME, "WAYLAND_DISPLAY": "wayland-0"}
    assert linux(run, env, wayland_s=70.0).read() == Reading(False, 70.0, source="Wayland")
    assert "busctl" not in run.asked
    assert linux(run, env).read().source == "GNOME"


def test_linux_terminals_count() -> None:
    """Somebody who types over SSH is there, whatever the desktop says."""
    run = Programs(loginctl="2\n", show=session(IdleHint="yes", IdleSinceHintMonotonic="1"))
    assert linux(run, terminals=[7000.0, 3.0]).read() == Reading(False, 3.0, False, source="a terminal")


def test_linux_terminals_that_logind_knows_are_looked_at() -> None:
    """Where no list of logins is kept any more, logind's names are used."""
    seen: list[str] = []

    def terminals(known: Any) -> list[float]:
        seen.extend(known)
        return [50.0]

    run = Programs(loginctl="4\n", show=session(Id="4", Type="tty", TTY="pts/3"))
    assert LinuxPresence(run, {}, lambda: None, lambda: None, terminals, lambda: NOW_S).read().idle_s == 50.0
    assert seen == ["pts/3"]


@pytest.mark.parametrize("answer", ["", "s hello", "t -5", "t 12x", "t"])
def test_linux_nonsense_of_the_desktop_is_no_answer(answer: str) -> None:
    """What is no number of milliseconds says nothing."""
    assert linux(Programs(busctl=answer), GNOME).read() == Reading()


def test_sources_are_asked_seldom_when_they_do_not_answer() -> None:
    """Once each second while it answers, ever more seldom while it does not."""
    clock, answers, asked = SimpleNamespace(now_s=0.0), [Reading(True)], []

    def ask() -> list[Reading] | None:
        asked.append(clock.now_s)
        return answers or None

    paced = Paced(ask, 1.0, lambda: clock.now_s)
    for clock.now_s in (0.0, 0.5, 1.0, 2.0):
        assert paced.read() == [Reading(True)]
    assert asked == [0.0, 1.0, 2.0]
    answers.clear()
    for clock.now_s in range(3, 200):
        assert paced.read() == []
    assert len(asked) < 12


readings = st.builds(Reading, st.none() | st.booleans(), st.none() | st.floats(0, 1e6), st.none() | st.booleans())


@given(st.lists(readings, max_size=6))
def test_whoever_saw_somebody_last_is_right(some: list[Reading]) -> None:
    """Together they are never more sure that nobody is there than the one who saw somebody last."""
    whole = together(some)
    known = [each for each in some if each.active is not None or each.idle_s is not None]
    if not known:
        assert whole == Reading()
    elif any(each.active and each.idle_s is None for each in known):
        assert (whole.active, whole.idle_s) == (True, None)
    elif timed := [each.idle_s for each in known if each.idle_s is not None]:
        assert whole.idle_s == min(timed)
    else:
        assert whole.active is False


class FakeWindows:
    """The functions of three libraries, as ctypes calls them."""

    def __init__(self, **state: Any) -> None:
        self.state = {"session": 1, "tick": 10_000, "last": 4_000, "screen": 5, "locked": False, "people": 1, **state}
        self.closed = 0

    def presence(self) -> WindowsPresence:
        user32 = SimpleNamespace(
            GetLastInputInfo=self._last_input,
            OpenInputDesktop=lambda flags, inherit, access: None if self.state["locked"] == "secure" else 7,
            SwitchDesktop=lambda desktop: not self.state["locked"],
            CloseDesktop=self._close,
        )
        kernel32 = SimpleNamespace(ProcessIdToSessionId=self._session, GetTickCount=lambda: self.state["tick"])
        shell32 = SimpleNamespace(SHQueryUserNotificationState=self._screen)
        return WindowsPresence(user32, kernel32, shell32, lambda: self.state["people"])

    def _last_input(self, reference: Any) -> int:
        info = reference._obj
        assert info.size == ctypes.sizeof(info) == 8
        info.tick_ms = self.state["last"] or 0
        return int(self.state["last"] is not None)

    def _session(self, pid: int, reference: Any) -> int:
        reference._obj.value = self.state["session"]
        return 1

    def _screen(self, reference: Any) -> int:
        reference._obj.value = self.state["screen"]
        return 0

    def _close(self, desktop: int) -> None:
        self.closed += 1


def test_windows_tells_how_long_there_was_no_input() -> None:
    """The difference of two tick counts, also over the counter's new beginning; every desktop handle is closed."""
    fake = FakeWindows()
    assert fake.presence().read() == Reading(False, 6.0, False, source="Windows")
    assert fake.closed == 1
    assert FakeWindows(tick=500, last=2**32 - 500).presence().read().idle_s == 1.0


@pytest.mark.parametrize(("screen", "full"), [(1, False), (2, False), (3, True), (4, True), (5, False)])
def test_windows_sees_games_and_presentations(screen: int, full: bool) -> None:
    """Direct3D in full screen and presentation mode have the whole screen; a busy window has not."""
    assert FakeWindows(screen=screen).presence().read().full_screen is full


@pytest.mark.parametrize("locked", [True, "secure"])
def test_windows_sees_the_locked_screen(locked: object) -> None:
    """The input's desktop is not this session's, or may not even be opened."""
    assert FakeWindows(locked=locked).presence().read().locked is True
    unsaid = FakeWindows(locked=locked, last=None).presence().read()
    assert (unsaid.active, unsaid.idle_s) == (False, None)
    assert FakeWindows(last=None).presence().read().active is None


def test_a_windows_service_knows_only_whether_anybody_is_logged_in() -> None:
    """Session 0 has no desktop: somebody logged in is not known to be away."""
    assert FakeWindows(session=0).presence().read() == Reading()
    assert FakeWindows(session=0, people=0).presence().read().active is False


def mac(seconds: float | None, hid_ns: int | None, *, locked: bool | None = False, asleep: bool = False) -> MacPresence:
    """A Mac."""
    graphics = SimpleNamespace(
        CGEventSourceSecondsSinceLastEventType=lambda state, kind: seconds,
        CGMainDisplayID=lambda: 1,
        CGDisplayIsAsleep=lambda display: int(asleep),
    )

    def run(command: Sequence[str], timeout_s: float) -> bytes | None:
        if "IOHIDSystem" in command:
            return None if hid_ns is None else f'    | |   "HIDIdleTime" = {hid_ns}\n'.encode()
        return None if locked is None else plistlib.dumps({"IOConsoleLocked": locked, "IOConsoleUsers": []})

    return MacPresence(graphics if seconds is not None else None, run)


def test_macos_takes_the_smaller_of_two_clocks() -> None:
    """Screen sharing resets only one of them."""
    assert mac(500.0, 12 * 10**9).read() == Reading(False, 12.0, False, source="macOS")
    assert mac(0.5, 500 * 10**9).read() == Reading(True, 0.5, False, source="macOS")
    assert mac(None, 500 * 10**9).read().idle_s == 500.0


def test_macos_sees_the_locked_screen_and_a_sleeping_display() -> None:
    """Either is nobody, where no clock tells; nothing at all is not known."""
    assert mac(9.0, None, locked=True).read().locked is True
    assert mac(None, None, locked=True).read().active is False
    assert mac(-1.0, None, locked=None, asleep=True).read().active is False
    assert mac(None, None, locked=None).read() == Reading(source="macOS")


def test_a_system_that_is_not_known_is_not_guessed() -> None:
    """Elsewhere nobody knows; on Linux the Linux probes are used."""
    assert Unseen("plan9").read().active is None
    assert isinstance(presence_here("linux"), LinuxPresence)
    assert isinstance(presence_here("plan9"), Unseen)
