"""Keeps `x11_idle.py` running and asks it; one that does not answer in time is killed."""

import contextlib
import os
import selectors
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from potluck.node.facts import Reading
from potluck.node.presence.sources import measured

PROGRAM = (sys.executable, "-I", "-S", str(Path(__file__).with_name("x11_idle.py")))
ANSWER_S = 1.0


class X11Idle:
    """The display of `$DISPLAY`: how long it had no input, and whether one window has all of it."""

    def __init__(self, program: Sequence[str] = PROGRAM, answer_s: float = ANSWER_S) -> None:
        self._command = program
        self._answer_s = answer_s
        self._program: subprocess.Popen[bytes] | None = None

    def read(self) -> Reading | None:
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
        idle_ms, _, full = answer.decode("ascii", "replace").strip().partition(" ")
        return measured(int(idle_ms) / 1000, "X11", full_screen=full == "full") if idle_ms.isdecimal() else None

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
