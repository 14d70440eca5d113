"""A question that may hang, asked again and again in a thread of its own; only fresh answers count.

Rules of this file
- A question that hangs or fails has no answer: `latest` is None as soon as the last one is too old.
- Nothing waits for a question that hangs. The thread is a daemon: it holds up neither `stop` nor the process's end.
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Sampler(Generic[T]):
    """Asks `question` every `every_s`; an answer counts for `stale_s`."""

    def __init__(
        self,
        question: Callable[[], T],
        every_s: float,
        stale_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._question = question
        self._every_s = every_s
        self._stale_s = stale_s
        self._clock = clock
        self._answer: tuple[T, float] | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.failure = ""
        """of the last question, when it failed: the kind of error"""

    def start(self) -> None:
        """Ask from now on."""
        self._thread = threading.Thread(target=self._run, daemon=True, name="potluck-sampler")
        self._thread.start()

    def stop(self) -> None:
        """Ask no more. A question that is being asked is not waited for."""
        self._stopped.set()

    def latest(self) -> T | None:
        """The last answer, while it counts."""
        answer = self._answer
        return answer[0] if answer and self._clock() - answer[1] <= self._stale_s else None

    def _run(self) -> None:
        while not self._stopped.is_set():
            asked_at_s = self._clock()
            try:
                self._answer = self._question(), asked_at_s
                self.failure = ""
            except Exception as error:  # a probe meets any system there is
                self.failure = type(error).__name__
            self._stopped.wait(max(self._every_s - (self._clock() - asked_at_s), self._every_s / 10))
