"""Keeps `x11_idle.py` running and asks it; one that does not answer in time is killed."""

import contextlib
import os
import selectors
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROGRAM = (sys.executable, "-I", "-S", str(Path(__file__).with_name("x11_idle.py")))
ANSWER_S = 1.0


class X11Idle:
    """How long the display of `$DISPLAY` had no input."""

    def __init__(self, program: Sequence[str] = PROGRAM, answer_s: float = ANSWER_S) -> None:
        self._command = program
        self._answer_s = answer_s
        self._program: subprocess.Popen[bytes] | None = None

    def idle_s(self) -> float | None:
        """None: it does not answer, or does not know. Blocks for at most `answer_s`."""
        try:
            if self._program is None:
                self._program = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            answer = self._ask(self._program)
        except OSError:
            answer = b""
        if not answer.endswith(b"\n"):
            self.close()
            return None
        return int(answer) / 1000 if answer.strip().isdigit() else None

    def _ask(self, program: "subprocess.Popen[bytes]") -> bytes:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(b"?\n")
        program.stdin.flush()
        with selectors.DefaultSelector() as ready:
            ready.register(program.stdout, selectors.EVENT_READ)
            return os.read(program.stdout.fileno(), 64) if ready.select(self._answer_s) else b""

    def close(self) -> None:
        """End the program."""
        program, self._program = self._program, None
        if program is not None:
            program.kill()
            program.wait()
            for pipe in (program.stdin, program.stdout):
                with contextlib.suppress(OSError):  # what it was never told
                    if pipe is not None:
                        pipe.close()
