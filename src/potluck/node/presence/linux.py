"""Presence on Linux: logind, Wayland, GNOME, X11, terminals.

Rules of this file
- No D-Bus library: systemd's own `loginctl` and `busctl` are asked, each with a time limit. What is not installed, and
  what has no session here, says nothing and is asked ever more seldom.
- logind's `IdleHint=no` is weak: some desktops never set it. It counts as somebody being there only where the desktop
  itself does not tell how long there was no input.
- A terminal's access time moves with what is typed there, not with what is shown. Event devices are not read.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Self

import psutil  # type: ignore[import-untyped]

from potluck.node.facts import Reading
from potluck.node.presence.sources import Paced, measured, together
from potluck.node.presence.wayland import WaylandIdle
from potluck.node.presence.x11 import X11Idle
from potluck.node.programs import Run, output_of

ASK_S = 1.0
LOGIND_EVERY_S = 8.0
GNOME_EVERY_S = 1.0
"""these two start a program each time: 3.5 ms"""
CHEAP_EVERY_S = 0.4
_LIST = ("loginctl", "list-sessions", "--no-legend")
_FIELDS = ("Id", "Class", "Type", "State", "IdleHint", "IdleSinceHintMonotonic", "LockedHint", "TTY")
_SHOW = ("loginctl", "show-session", *(f"--property={each}" for each in _FIELDS))
_GNOME = (
    *("busctl", "--user", "call", "org.gnome.Mutter.IdleMonitor", "/org/gnome/Mutter/IdleMonitor/Core"),
    *("org.gnome.Mutter.IdleMonitor", "GetIdletime"),
)


class LinuxPresence:
    """All sources of a Linux machine together."""

    def __init__(
        self,
        run: Run = output_of,
        env: Mapping[str, str] | None = None,
        x11: Callable[[], Reading | None] | None = None,
        wayland_idle_s: Callable[[], float | None] | None = None,
        terminals: Callable[[Iterable[str]], list[float]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`env` decides which desktop is asked. `terminals`: given those that logind knows, how many seconds ago
        something was typed on each that somebody is logged in on."""
        self._run = run
        self._env = env if env is not None else os.environ
        self._ask_display = x11 or X11Idle().read
        self._wayland_idle_s = wayland_idle_s or WaylandIdle(self._env, clock).idle_s
        self._terminals = terminals or terminal_idle_s
        self._clock = clock
        self._ttys: list[str] = []
        self._logind = Paced(self._ask_logind, LOGIND_EVERY_S, clock)
        self._gnome = Paced(self._ask_gnome, GNOME_EVERY_S, clock)
        self._wayland = Paced(self._ask_wayland, CHEAP_EVERY_S, clock)
        self._x11 = Paced(self._ask_x11, CHEAP_EVERY_S, clock)

    @classmethod
    def here(cls) -> Self:
        """This machine's."""
        return cls()

    def read(self) -> Reading:
        desktop = self._wayland.read() if self._env.get("WAYLAND_DISPLAY") else []
        if not desktop and self._has_session_bus():
            desktop = self._gnome.read()
        if not desktop and self._env.get("DISPLAY"):
            desktop = self._x11.read()
        sessions = self._logind.read()
        if desktop and len(sessions) == 1:
            # the one session there is: the desktop itself knows better than the hint about it
            sessions = [each for each in sessions if not each.active]
        return together(
            [*desktop, *sessions, *(measured(idle_s, "a terminal") for idle_s in self._terminals(self._ttys))]
        )

    def _has_session_bus(self) -> bool:
        runtime = self._env.get("XDG_RUNTIME_DIR")
        return bool(self._env.get("DBUS_SESSION_BUS_ADDRESS")) or (
            runtime is not None and Path(runtime, "bus").exists()
        )

    def _ask_wayland(self) -> list[Reading] | None:
        idle_s = self._wayland_idle_s()
        return None if idle_s is None else [measured(idle_s, "Wayland")]

    def _ask_gnome(self) -> list[Reading] | None:
        kind, _, value = (self._run(_GNOME, ASK_S) or b"").decode("ascii", "replace").strip().partition(" ")
        return [measured(int(value) / 1000, "GNOME")] if kind == "t" and value.isdecimal() else None

    def _ask_x11(self) -> list[Reading] | None:
        reading = self._ask_display()
        return None if reading is None else [reading]

    def _ask_logind(self) -> list[Reading] | None:
        """One reading for each graphical session; one of nobody when nobody is logged in at all."""
        listed = self._run(_LIST, ASK_S)
        if listed is None:
            return None
        ids = [line.split()[0] for line in listed.decode("utf-8", "replace").splitlines() if line.split()]
        told = self._run((*_SHOW, *ids), ASK_S) if ids else b""
        if told is None:
            return None
        sessions = [
            dict(line.partition("=")[::2] for line in block.splitlines() if "=" in line)
            for block in told.decode("utf-8", "replace").split("\n\n")
        ]
        people = [each for each in sessions if each.get("Class", "").startswith("user")]
        people = [each for each in people if each.get("State") != "closing"]
        self._ttys = [each["TTY"] for each in people if each.get("Type") == "tty" and each.get("TTY")]
        if not people:
            return [Reading(active=False, source="nobody is logged in")]
        return [self._session(each) for each in people if each.get("Type") in ("x11", "wayland", "mir")]

    def _session(self, session: dict[str, str]) -> Reading:
        if session.get("LockedHint", "TTY") == "yes":
            return Reading(active=False, locked=True, source="the screen is locked")
        if session.get("IdleHint") == "yes":
            since = session.get("IdleSinceHintMonotonic", "")
            idle_s = max(self._clock() - int(since) / 1e6, 0.0) if since.isdecimal() and int(since) else None
            return Reading(active=False, idle_s=idle_s, locked=False, source="logind")
        return Reading(active=True, locked=False, source="logind")


def terminal_idle_s(known: Iterable[str] = ()) -> list[float]:
    """Seconds since something was typed on the terminals `known` and those in the list of logins."""
    found = []
    for terminal in {*known, *(user.terminal for user in psutil.users() if user.terminal)}:
        try:
            typed_at_s = Path("/dev", terminal).stat().st_atime
        except OSError:
            continue  # a display, which is no terminal; or it was closed
        found.append(max(time.time() - typed_at_s, 0.0))
    return found
