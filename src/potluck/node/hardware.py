"""What the machine is busy with apart from the shared engines, its power and its heat.

Rules of this file
- Others' work is all work less the engines' and the agent's own, over the last minute, so that a spike is none.
- `read` may block: it is called in a thread of its own. What a system does not tell is None.
- An engine whose processes cannot be found, while the node has calls, makes others' work unknown: a node must not take
  itself for its owner.
"""

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Protocol

import psutil  # type: ignore[import-untyped]

from potluck.node.amdgpu import AmdGpus
from potluck.node.engine_pids import EnginePids
from potluck.node.facts import Gpu, Hardware, Thermal
from potluck.node.nvml import Nvml, load_library

MEAN_S = 60.0
RECENT_S = 10.0
SERIOUS_BELOW_CRITICAL_C = 5.0
_MORE = ("nice", "irq", "softirq")
"""Unix counts them apart; a guest's time is in its host's, and Windows' interrupts are in the system's"""


class Gpus(Protocol):
    """GPUs of one maker."""

    def read(self, engine_pids: Collection[int]) -> tuple[Gpu, ...]:
        """All, now."""


class Counts:
    """Cumulative processor seconds of the whole machine and of some processes."""

    def __init__(self, busy_s: float, ours_s: dict[int, float]) -> None:
        self.busy_s = busy_s
        self.ours_s = ours_s


class Work:
    """Shares out of cumulative counts: others' over the last minute, the engines' over the last seconds."""

    def __init__(self, processors: int) -> None:
        self._processors = processors
        self._last: Counts | None = None
        self._steps: deque[tuple[float, float, float]] = deque()
        """when a step ended, and the seconds of others and of engines in it"""
        self._began_s = 0.0

    def add(self, counts: Counts, agent_pid: int, now_s: float) -> tuple[float | None, float | None]:
        """Others' share of all processors, and how many processors the engines use; None before the second reading."""
        last, self._last = self._last, counts
        if last is None:
            self._began_s = now_s
            return None, None
        spent = {pid: max(used_s - last.ours_s.get(pid, used_s), 0.0) for pid, used_s in counts.ours_s.items()}
        engines_s = sum(used_s for pid, used_s in spent.items() if pid != agent_pid)
        others_s = max(counts.busy_s - last.busy_s - sum(spent.values()), 0.0)
        self._steps.append((now_s, others_s, engines_s))
        while len(self._steps) > 1 and now_s - self._steps[0][0] > MEAN_S:
            self._began_s = self._steps.popleft()[0]
        passed_s = now_s - self._began_s
        recent = [step for step in self._steps if now_s - step[0] < RECENT_S]
        before = [step[0] for step in self._steps if now_s - step[0] >= RECENT_S]
        recent_s = now_s - (before[-1] if before else self._began_s)
        if passed_s <= 0 or recent_s <= 0:
            return None, None
        others = sum(step[1] for step in self._steps) / passed_s / self._processors
        return min(others, 1.0), sum(step[2] for step in recent) / recent_s


class HardwareProbe:
    """Reads this machine. Set from outside: `ports`, of the engines here, and `calling`, whether the node has calls."""

    def __init__(
        self,
        pids: EnginePids | None = None,
        makers: Collection[Gpus] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ports: frozenset[int] = frozenset()
        self.calling = False
        self._pids = pids or EnginePids(clock)
        self._makers = gpus_here() if makers is None else makers
        self._clock = clock
        self._work = Work(psutil.cpu_count() or 1)
        self._was_hidden_s = float("-inf")

    def read(self) -> Hardware:
        """Now. May raise what the system raises."""
        pids, now_s, agent = self._pids.of(self.ports, fresh=self.calling), self._clock(), os.getpid()
        others, engines = self._work.add(Counts(_busy_s(), _used_s({*pids, agent})), agent, now_s)
        gpus = tuple(gpu for maker in self._makers for gpu in maker.read(pids))
        if self.ports and not pids and self.calling:
            self._was_hidden_s = now_s
        if now_s - self._was_hidden_s < MEAN_S:
            others = None
            gpus = tuple(_without_others(gpu) for gpu in gpus)
        battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
        return Hardware(
            cpu_others=others,
            cpu_engines=engines if pids else None,
            free_bytes=psutil.virtual_memory().available,
            on_battery=None if battery is None or battery.power_plugged is None else not battery.power_plugged,
            thermal=thermal_here(),
            gpus=gpus,
        )


def gpus_here() -> list[Gpus]:
    """The makers whose GPUs can be read on this machine."""
    makers: list[Gpus] = []
    library = load_library()
    if library is not None:
        with contextlib.suppress(OSError, AttributeError):  # a driver that is installed and not loaded, or too old
            makers.append(Nvml(library))
    if sys.platform == "linux":
        makers.append(AmdGpus())
    return makers


def thermal_here() -> Thermal | None:
    """How hot the machine is, by its own judgement; None where it tells nobody."""
    if sys.platform == "darwin":
        return _mac_thermal()
    sensors = getattr(psutil, "sensors_temperatures", None)
    return thermal_of([each for chip in sensors().values() for each in chip]) if sensors else None


def thermal_of(sensors: Collection[Any]) -> Thermal | None:
    """Of psutil's readings (`current`, `high`, `critical`, in °C): the worst of those that have a critical mark."""
    order: tuple[Thermal, ...] = ("nominal", "fair", "serious", "critical")
    worst = -1
    for each in sensors:
        if not each.critical or each.critical < 60 or not 0 < each.current < 200:
            continue  # no mark, or one that is no temperature
        if each.current >= each.critical:
            level = 3
        elif each.current >= each.critical - SERIOUS_BELOW_CRITICAL_C:
            level = 2
        else:
            level = int(bool(each.high) and each.current >= each.high)
        worst = max(worst, level)
    return order[worst] if worst >= 0 else None


def _mac_thermal() -> Thermal | None:
    """`NSProcessInfo.thermalState`."""
    import ctypes
    import ctypes.util

    try:
        ctypes.CDLL("/System/Library/Frameworks/Foundation.framework/Foundation")
        objc = ctypes.CDLL(ctypes.util.find_library("objc"))
    except OSError:
        return None
    objc.objc_getClass.restype = objc.sel_registerName.restype = ctypes.c_void_p
    send = ctypes.cast(objc.objc_msgSend, ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p))
    info = send(objc.objc_getClass(b"NSProcessInfo"), objc.sel_registerName(b"processInfo"))
    ask = ctypes.cast(objc.objc_msgSend, ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p))
    state = ask(info, objc.sel_registerName(b"thermalState"))
    order: tuple[Thermal, ...] = ("nominal", "fair", "serious", "critical")
    return order[state] if 0 <= state <= 3 else None


def _without_others(gpu: Gpu) -> Gpu:
    return Gpu(gpu.id, gpu.name, gpu.busy, None, gpu.total_bytes, gpu.used_bytes, None, gpu.too_hot)


def _busy_s() -> float:
    """Of all processors since the start: what this machine's programs and interrupts took, each counted once."""
    times = psutil.cpu_times()
    more = sum(getattr(times, each, 0.0) for each in _MORE)
    return float(times.user + times.system + more)


def _used_s(pids: Collection[int]) -> dict[int, float]:
    found = {}
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except (psutil.Error, OSError):
            continue
        found[pid] = times.user + times.system
    return found
