"""Progress of long work."""

import sys
import time
from typing import Any

from potluck.cli.output import has_rich
from potluck.cli.session import Session

PLAIN_EVERY_S = 3.0


class Bar:
    """Progress on stderr: a bar on a terminal, else a line every few seconds; nothing for what is done at once."""

    def __init__(self, session: Session) -> None:
        self._quiet = session.json
        self._terminal = sys.stderr.isatty() and not session.given.get("no_color") and has_rich()
        self._step = ""
        self._said_at = time.monotonic()
        self._rich: Any = None
        self._task: Any = None

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._rich is not None:
            self._rich.stop()

    def tick(self, step: str, done_bytes: int, total_bytes: int) -> None:
        """`step` in words; may be called as often as one likes."""
        if self._quiet:
            return
        if self._terminal:
            self._draw(step, done_bytes, total_bytes)
        elif time.monotonic() - self._said_at >= PLAIN_EVERY_S:
            self._said_at = time.monotonic()
            sys.stderr.write(f"{step}: {done_bytes / 1e6:.0f} of {total_bytes / 1e6:.0f} MB\n")
            sys.stderr.flush()
        self._step = step

    def _draw(self, step: str, done_bytes: int, total_bytes: int) -> None:
        if self._rich is None:
            if done_bytes >= total_bytes:
                return
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            self._rich = Progress(*columns, console=Console(stderr=True), transient=True)
            self._rich.start()
            self._task = self._rich.add_task(step, total=total_bytes)
        elif step != self._step:
            self._rich.reset(self._task, description=step, total=total_bytes)
        self._rich.update(self._task, completed=done_bytes)
