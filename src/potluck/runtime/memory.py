"""How the C library and the collector keep memory: for a process that moves short-lived buffers of 10 KB to 1 MB.

glibc gives freed memory at the top of its heap back to the kernel above 128 KB and maps larger blocks anew each time,
so that each prompt of 100 KB pays page faults for every copy. Keeping a few megabytes costs nothing and saves a fifth
of the CPU of such a request (120 → 101 µs).
"""

import contextlib
import ctypes
import gc
import sys

MIB = 1 << 20
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3

GC_THRESHOLDS = (20_000, 20, 50)
"""a request leaves no cycles: the default of 700 looks at every request in flight ten times a millisecond"""


def keep_buffers() -> None:
    """Set glibc's thresholds; elsewhere nothing happens."""
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 16 * MIB)
        mallopt(_M_TRIM_THRESHOLD, 16 * MIB)
        mallopt(_M_TOP_PAD, MIB)


def collect_rarely() -> None:
    """Let the cycle collector run for the few cycles that control-plane work leaves."""
    gc.set_threshold(*GC_THRESHOLDS)


def settle() -> None:
    """Everything that lives as long as the process is there: look at it once, and never again."""
    gc.collect()
    gc.freeze()
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # what the start needed and nobody needs again
