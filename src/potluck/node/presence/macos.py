"""Presence on macOS: time since the last input, the locked screen, a sleeping display.

Rules of this file
- Two clocks tell of input, and screen sharing resets only one of them: the smaller counts.
- The system's function is called through a library that is passed in, `ioreg` through `run`: a test passes its own.
- `ioreg` needs no session, so a daemon sees input too.
"""

import ctypes
import ctypes.util
import plistlib
import re
from typing import Any, Self
from xml.parsers.expat import ExpatError

from potluck.node.facts import Reading
from potluck.node.programs import Run, output_of

ASK_S = 2.0
COMBINED_SESSION, ANY_INPUT = 0, 0xFFFF_FFFF
"""`kCGEventSourceStateCombinedSessionState`, `kCGAnyInputEventType`"""
_HID = ("ioreg", "-c", "IOHIDSystem", "-d", "4")
_ROOT = ("ioreg", "-n", "Root", "-d", "1", "-a")
_IDLE = re.compile(rb'"HIDIdleTime" = (\d{1,20})')


class MacPresence:
    """Of the console."""

    def __init__(self, graphics: Any, run: Run = output_of) -> None:
        """`graphics`: CoreGraphics; None where it cannot be loaded."""
        self._graphics = graphics
        self._run = run

    @classmethod
    def here(cls) -> Self:
        """This machine's. macOS only."""
        path = ctypes.util.find_library("CoreGraphics")
        if path is None:
            return cls(None)
        graphics = ctypes.CDLL(path)
        graphics.CGEventSourceSecondsSinceLastEventType.argtypes = [ctypes.c_int32, ctypes.c_uint32]
        graphics.CGEventSourceSecondsSinceLastEventType.restype = ctypes.c_double
        graphics.CGMainDisplayID.restype = ctypes.c_uint32
        graphics.CGDisplayIsAsleep.argtypes = [ctypes.c_uint32]
        return cls(graphics)

    def read(self) -> Reading:
        found = _IDLE.search(self._run(_HID, ASK_S) or b"")
        idles_s = [int(found[1]) / 1e9] if found else []
        asleep = False
        if self._graphics is not None:
            seconds = float(self._graphics.CGEventSourceSecondsSinceLastEventType(COMBINED_SESSION, ANY_INPUT))
            idles_s += [seconds] if seconds >= 0 else []
            asleep = bool(self._graphics.CGDisplayIsAsleep(self._graphics.CGMainDisplayID()))
        locked = self._locked()
        if not idles_s:
            return Reading(active=False if locked or asleep else None, locked=locked, source="macOS")
        return Reading(min(idles_s) < 1.0, min(idles_s), locked, source="macOS")

    def _locked(self) -> bool | None:
        try:
            root = plistlib.loads(self._run(_ROOT, ASK_S) or b"")
        except (plistlib.InvalidFileException, ExpatError, ValueError):
            return None
        locked = root.get("IOConsoleLocked") if isinstance(root, dict) else None
        return locked if isinstance(locked, bool) else None
