"""Runs Potluck in this process, its profiler switched on and off by SIGUSR1: `-m bench.profiled HOW OUT ARGS…`.

`calls` is cProfile: exact counts, each call dearer than it is. `lines` samples the stack as often as the tick allows:
true proportions, with time spent in C credited to the Python line that called it, or to the first line after it.
"""

import cProfile
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

SAMPLE_S = 0.001


class Calls:
    """cProfile, switched by signal."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._profile = cProfile.Profile()
        self._running = False

    def switch(self, _signal: int, _frame: FrameType | None) -> None:
        if self._running:
            self._profile.disable()
            self._profile.dump_stats(self._out)
        else:
            self._profile.enable()
        self._running = not self._running


class Lines:
    """Samples of the main thread's stack."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._running = False
        self._samples = 0
        self._lines: Counter[str] = Counter()
        self._functions: Counter[str] = Counter()
        signal.signal(signal.SIGPROF, self._sample)

    def _sample(self, _signal: int, frame: FrameType | None) -> None:
        self._samples += 1
        seen = set()
        innermost = True
        while frame is not None:
            code = frame.f_code
            if innermost:
                self._lines[f"{_short(code.co_filename)}:{frame.f_lineno} {code.co_name}"] += 1
                innermost = False
            seen.add(f"{_short(code.co_filename)}:{code.co_firstlineno} {code.co_name}")
            frame = frame.f_back
        self._functions.update(seen)

    def switch(self, _signal: int, _frame: FrameType | None) -> None:
        if self._running:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self._out.write_text(self._report())
        else:
            signal.setitimer(signal.ITIMER_PROF, SAMPLE_S, SAMPLE_S)
        self._running = not self._running

    def _report(self) -> str:
        total = max(1, self._samples)
        parts = [f"{self._samples} samples"]
        for title, counter in (("here (line)", self._lines), ("here or below (function)", self._functions)):
            parts.append(f"\n  share  {title}")
            parts += [f"{count / total:7.1%}  {where}" for where, count in counter.most_common(400)]
        return "\n".join(parts)


def _short(filename: str) -> str:
    for mark in ("/src/", "/site-packages/", "/lib/"):
        if mark in filename:
            return filename.rpartition(mark)[2]
    return filename


def main() -> None:
    how, out, arguments = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    profiler = Calls(out) if how == "calls" else Lines(out)
    signal.signal(signal.SIGUSR1, profiler.switch)
    sys.argv = ["potluck", *arguments]
    from potluck.cli import main as potluck_main

    potluck_main()


if __name__ == "__main__":
    main()
