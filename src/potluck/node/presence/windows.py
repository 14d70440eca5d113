"""Presence on Windows: time since the last input, what has the whole screen, the locked screen.

Rules of this file
- The system's functions are called through three libraries that are passed in: a test passes its own.
- A service lives in session 0 and sees nobody's input. It knows only whether anybody is logged in; a helper in the
  person's session tells it more (`reports`).
- The tick counter has 32 bits and begins anew after 49.7 days: differences are taken modulo that.
"""

import ctypes
import os
from collections.abc import Callable
from typing import Any, Self

import psutil  # type: ignore[import-untyped]

from potluck.node.facts import Reading

ABSENT, BUSY, FULL_SCREEN, PRESENTATION = 1, 2, 3, 4
"""of QUERY_USER_NOTIFICATION_STATE: a screen saver or lock, a full-screen window, Direct3D, presentation mode"""
_DESKTOP_SWITCHDESKTOP = 0x0100


class LastInput(ctypes.Structure):
    """`LASTINPUTINFO`."""

    _fields_ = (("size", ctypes.c_uint32), ("tick_ms", ctypes.c_uint32))


class WindowsPresence:
    """Of the session that this process runs in."""

    def __init__(self, user32: Any, kernel32: Any, shell32: Any, people: Callable[[], int]) -> None:
        """`people`: how many are logged in."""
        self._user32 = user32
        self._kernel32 = kernel32
        self._shell32 = shell32
        self._people = people

    @classmethod
    def here(cls) -> Self:
        """This machine's. Windows only."""
        libraries = ctypes.windll  # type: ignore[attr-defined]
        libraries.user32.OpenInputDesktop.restype = ctypes.c_void_p
        libraries.user32.CloseDesktop.argtypes = [ctypes.c_void_p]
        libraries.user32.SwitchDesktop.argtypes = [ctypes.c_void_p]
        libraries.kernel32.GetTickCount.restype = ctypes.c_uint32
        return cls(libraries.user32, libraries.kernel32, libraries.shell32, lambda: len(psutil.users()))

    def read(self) -> Reading:
        if self._session() == 0:
            return Reading() if self._people() else Reading(active=False, source="nobody is logged in")
        locked = self._locked()
        state = ctypes.c_int(0)
        asked = self._shell32.SHQueryUserNotificationState(ctypes.byref(state))
        has_screen = asked == 0 and state.value in (FULL_SCREEN, PRESENTATION)
        last = LastInput(ctypes.sizeof(LastInput), 0)
        if not self._user32.GetLastInputInfo(ctypes.byref(last)):
            return Reading(active=False if locked else None, locked=locked, full_screen=has_screen, source="Windows")
        idle_s = ((self._kernel32.GetTickCount() - last.tick_ms) & 0xFFFF_FFFF) / 1000
        return Reading(idle_s < 1.0, idle_s, locked, has_screen, "Windows")

    def _session(self) -> int:
        """0 is the services'; also when it cannot be told."""
        session = ctypes.c_uint32(0)
        known = self._kernel32.ProcessIdToSessionId(os.getpid(), ctypes.byref(session))
        return session.value if known else 0

    def _locked(self) -> bool:
        """The desktop that has the input is not one that this session may switch to."""
        desktop = self._user32.OpenInputDesktop(0, False, _DESKTOP_SWITCHDESKTOP)
        if not desktop:
            return True
        switched = bool(self._user32.SwitchDesktop(desktop))
        self._user32.CloseDesktop(desktop)
        return not switched
