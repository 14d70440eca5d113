"""Asking another program, with a time limit.

Rules of this file
- What does not answer in time is killed with all that it started, and has answered nothing.
- Output beyond `MAX_OUTPUT_BYTES` is not read, errors are not shown: an answer is there or it is not.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

MAX_OUTPUT_BYTES = 1 << 20

Run = Callable[[Sequence[str], float], bytes | None]
"""`output_of`, or a test's stand-in"""


def output_of(command: Sequence[str], timeout_s: float) -> bytes | None:
    """What `command` wrote, when it ended well within `timeout_s`; else None. Blocks; raises nothing."""
    try:
        program = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=sys.platform != "win32",
        )
    except OSError:
        return None
    late = threading.Event()

    def stop() -> None:
        late.set()
        _kill(program)

    timer = threading.Timer(timeout_s, stop)
    timer.daemon = True
    timer.start()
    try:
        with program:
            assert program.stdout is not None
            output = program.stdout.read(MAX_OUTPUT_BYTES + 1)
            if len(output) > MAX_OUTPUT_BYTES:
                _kill(program)
                return None
    finally:
        timer.cancel()
    return output if program.returncode == 0 and not late.is_set() else None


def _kill(program: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            program.kill()
        else:
            os.killpg(program.pid, signal.SIGKILL)
