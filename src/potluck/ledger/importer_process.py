"""The importer's supervisor: starts the child, starts it again with a growing pause when it dies, ends it at `stop`.

The child ends by itself within two seconds of this process's death, whatever killed it: it watches its standard input,
whose other end only this process holds, and on Linux asks the kernel for its parent's end.
"""

import asyncio
import logging
import sys
from contextlib import suppress
from pathlib import Path

PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0, 15.0)
STEADY_S = 30.0
"""a child that lived this long starts the row of pauses anew"""
STOP_S = 2.0

log = logging.getLogger(__name__)


class ImporterProcess:
    """`await start()` once, `await stop()` once. `pid` is None while there is no child."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._child: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None and self._child.returncode is None else None

    async def start(self) -> None:
        """Start the child. Raises OSError when it cannot be started at all; later failures are retried."""
        await self._spawn()
        self._task = asyncio.create_task(self._supervise())  # noqa: TID251 — kept in this attribute

    async def stop(self) -> None:
        """Let the child import what is there (a second at most) and end; kill it when it does not."""
        self._stopping.set()
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()
        if self._task is None:
            return
        done, _ = await asyncio.wait([self._task], timeout=STOP_S)
        if not done:
            if self.pid is not None and self._child is not None:
                with suppress(ProcessLookupError):
                    self._child.kill()
                await self._child.wait()
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _spawn(self) -> None:
        self._child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "potluck.ledger.importer",
            "--home",
            str(self._home),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        deaths = 0
        while self._child is not None:
            born_s = loop.time()
            status = await self._child.wait()
            if self._stopping.is_set():
                break
            deaths = 0 if loop.time() - born_s > STEADY_S else deaths
            pause_s = PAUSES_S[min(deaths, len(PAUSES_S) - 1)]
            deaths += 1
            log.error("the usage importer ended with status %d, it starts again in %.1f s", status, pause_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
                break
            try:
                await self._spawn()
            except OSError as error:
                log.error("the usage importer cannot be started: %s", error)
