"""Tells how long an X11 display had no input: a program of its own, of the standard library alone.

For each line on stdin one line on stdout: milliseconds, or `-` when that cannot be known; then ` full` while the active
window has the whole screen. Xlib ends the process when the server goes away, and may wait for a server that hangs for
ever; so it is kept out of the agent, which kills it.
"""

import ctypes
import sys
from typing import Any

XA_ATOM, XA_WINDOW = 4, 33


class Info(ctypes.Structure):
    """`XScreenSaverInfo`."""

    _fields_ = (
        ("window", ctypes.c_ulong),
        ("state", ctypes.c_int),
        ("kind", ctypes.c_int),
        ("til_or_since", ctypes.c_ulong),
        ("idle", ctypes.c_ulong),
        ("event_mask", ctypes.c_ulong),
    )


class Display:
    """The display of `$DISPLAY`. Raises OSError where there is none that can tell."""

    def __init__(self) -> None:
        self._x11: Any = ctypes.CDLL("libX11.so.6")
        self._xss: Any = ctypes.CDLL("libXss.so.1")
        pointer, number, window = ctypes.c_void_p, ctypes.c_long, ctypes.c_ulong
        self._x11.XOpenDisplay.argtypes, self._x11.XOpenDisplay.restype = [ctypes.c_char_p], pointer
        self._x11.XDefaultRootWindow.argtypes, self._x11.XDefaultRootWindow.restype = [pointer], window
        self._x11.XInternAtom.argtypes = [pointer, ctypes.c_char_p, ctypes.c_int]
        self._x11.XInternAtom.restype = window
        self._x11.XFree.argtypes = [pointer]
        self._x11.XGetWindowProperty.argtypes = [
            *(pointer, window, window, number, number, ctypes.c_int, window),
            *(pointer, pointer, pointer, pointer, pointer),
        ]
        self._xss.XScreenSaverQueryInfo.argtypes = [pointer, window, pointer]
        handler = ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer)
        self._ignore = handler(lambda _display, _error: 0)  # a window that went away meanwhile
        self._x11.XSetErrorHandler(self._ignore)
        self._display = self._x11.XOpenDisplay(None)
        if not self._display:
            raise OSError("no display")
        self._root = self._x11.XDefaultRootWindow(self._display)
        self._active, self._state, self._full = (
            self._x11.XInternAtom(self._display, name, 0)
            for name in (b"_NET_ACTIVE_WINDOW", b"_NET_WM_STATE", b"_NET_WM_STATE_FULLSCREEN")
        )

    def idle_ms(self) -> int | None:
        """Since the last input."""
        info = Info()
        known = self._xss.XScreenSaverQueryInfo(self._display, self._root, ctypes.byref(info))
        return int(info.idle) if known else None

    def is_full_screen(self) -> bool:
        """The active window says that it has the whole screen."""
        active = self._property(self._root, self._active, XA_WINDOW)
        return bool(active and active[0]) and self._full in self._property(active[0], self._state, XA_ATOM)

    def _property(self, window: int, name: int, kind: int) -> list[int]:
        """Its first words; none where the window has no such property."""
        found, form, count, more = ctypes.c_ulong(), ctypes.c_int(), ctypes.c_ulong(), ctypes.c_ulong()
        words = ctypes.POINTER(ctypes.c_ulong)()
        out = [ctypes.byref(each) for each in (found, form, count, more, words)]
        failed = self._x11.XGetWindowProperty(self._display, window, name, 0, 32, 0, kind, *out)
        if failed or not words:
            return []
        values = words[: count.value] if form.value == 32 else []
        self._x11.XFree(words)
        return list(values)


def main() -> int:
    """Answer until stdin ends; 1 when there is no display that can tell."""
    try:
        display = Display()
    except OSError:
        return 1
    for _ in sys.stdin:
        idle_ms = display.idle_ms()
        full = " full" if display.is_full_screen() else ""
        sys.stdout.write(f"{'-' if idle_ms is None else idle_ms}{full}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
