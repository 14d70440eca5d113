"""Somebody's engine as a child process that can be killed: one model, `story`, told at a steady pace.

Run as `python engine_process.py PORT`; `EngineProcess` does.
"""

import asyncio
import contextlib
import ctypes
import signal
import sys
from pathlib import Path

from potluck.conformance.faults.good import ok
from potluck.conformance.provider import FakeProvider

CHUNKS = 20
GAP_MS = 10


class EngineProcess:
    """It can be started again on its port after its death."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__)), str(self.port), stdout=asyncio.subprocess.PIPE
        )
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            assert await self.process.stdout.readline()

    async def end(self) -> None:
        process = self.process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGKILL)
        if process is not None:
            await process.wait()


async def _serve(port: int) -> None:
    fake = FakeProvider(port=port)
    fake.listed = ["story"]
    fake.script["story"] = lambda call: (call.options.update(gap_ms=str(GAP_MS), chunks=str(CHUNKS)), ok(call))[1]
    async with fake:
        sys.stdout.write("it listens\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it ends with the test
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(int(sys.argv[1])))
