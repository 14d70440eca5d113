"""Tells how long an X11 display had no input: a program of its own, of the standard library alone.

For each line on stdin one line on stdout: milliseconds, or `-` when that cannot be known. Xlib ends the process when
the server goes away, and may wait for a server that hangs for ever; so it is kept out of the agent, which kills it.
"""

import ctypes
import sys


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


def main() -> int:
    """Answer until stdin ends; 1 when there is no display that can tell."""
    try:
        x11, xss = ctypes.CDLL("libX11.so.6"), ctypes.CDLL("libXss.so.1")
    except OSError:
        return 1
    x11.XOpenDisplay.argtypes, x11.XOpenDisplay.restype = [ctypes.c_char_p], ctypes.c_void_p
    x11.XDefaultRootWindow.argtypes, x11.XDefaultRootWindow.restype = [ctypes.c_void_p], ctypes.c_ulong
    xss.XScreenSaverQueryInfo.argtypes = [ctypes.c_void_p, ctypes.c_ulong, ctypes.POINTER(Info)]
    display = x11.XOpenDisplay(None)
    if not display:
        return 1
    root, info = x11.XDefaultRootWindow(display), Info()
    for _ in sys.stdin:
        known = xss.XScreenSaverQueryInfo(display, root, ctypes.byref(info))
        sys.stdout.write(f"{info.idle if known else '-'}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
