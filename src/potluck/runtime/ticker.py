"""One timer for all deadlines: sweeps the data plane and the pools ten times a second."""

import asyncio
import time
from collections.abc import Callable

INTERVAL_S = 0.1


class Ticker:
    """Calls each sweep with the monotonic time until stopped; a sweep that raises does not stop the others."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sweeps: list[Callable[[float], None]]) -> None:
        self._loop = loop
        self._sweeps = sweeps
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._handle = self._loop.call_later(INTERVAL_S, self._tick)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _tick(self) -> None:
        self._handle = self._loop.call_later(INTERVAL_S, self._tick)
        now = time.monotonic()
        for sweep in self._sweeps:
            try:
                sweep(now)
            except Exception as error:  # one part's fault must not stop the others' deadlines
                self._loop.call_exception_handler({"message": "a sweep failed", "exception": error})
