"""Which processes are the shared engines', so that their work is not taken for somebody else's.

Rules of this file
- Whoever listens on an engine's port is the engine, with parents of an engine's name and all descendants: Ollama and
  llama.cpp's router have a process for each model, LM Studio one for each task.
- An unprivileged agent does not see whose port it is when the engine runs as another user. Then processes with an
  engine's known name count.
- Looking for listeners costs some milliseconds for each hundred processes: it is done once a minute, and when the ports
  change. While the node has calls, when engines start processes, descendants are looked up at each reading.
"""

import time
from collections.abc import Callable, Iterable

import psutil  # type: ignore[import-untyped]

LOOK_EVERY_S = 60.0
NAMES = frozenset(
    {
        *("ollama", "ollama_llama_server", "llama-server", "llama-swap", "lm studio", "lm-studio", "lms", "vllm"),
        *("local-ai", "localai", "koboldcpp", "sglang"),
    }
)


class EnginePids:
    """The engines' processes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._listeners: set[int] = set()
        self._found: frozenset[int] = frozenset()
        self._ports: frozenset[int] = frozenset()
        self._look_at_s = float("-inf")

    def of(self, ports: frozenset[int], *, fresh: bool = False) -> frozenset[int]:
        """Those of the engines on `ports` of this machine. `fresh`: they may just have started more. May block."""
        now_s = self._clock()
        if ports != self._ports or now_s >= self._look_at_s:
            self._ports, self._look_at_s = ports, now_s + LOOK_EVERY_S
            self._listeners = _listeners(ports) if ports else set()
        elif not fresh:
            return self._found
        self._found = _with_descendants(self._listeners or _named()) if ports else frozenset()
        return self._found


def _listeners(ports: frozenset[int]) -> set[int]:
    try:
        sockets = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return set()  # macOS shows them to root only
    listening = (each for each in sockets if each.status == psutil.CONN_LISTEN and each.laddr.port in ports)
    return {_eldest(each.pid) for each in listening if each.pid}


def _eldest(pid: int) -> int:
    """The first of a line of processes with engines' names."""
    try:
        process = psutil.Process(pid)
        while (parent := process.parent()) is not None and _is_engine(parent.name()):
            process = parent
    except (psutil.Error, OSError):
        return pid
    return int(process.pid)


def _named() -> set[int]:
    return {process.pid for process in psutil.process_iter(["name"]) if _is_engine(process.info["name"] or "")}


def _is_engine(name: str) -> bool:
    return name.lower().removesuffix(".exe") in NAMES


def _with_descendants(pids: Iterable[int]) -> frozenset[int]:
    found: set[int] = set(pids)
    for pid in tuple(found):
        try:
            found |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
        except (psutil.Error, OSError):
            continue
    return frozenset(found)
