"""NVIDIA's management library by ctypes: load and memory of each GPU, by process.

Rules of this file
- The library is the driver's own, and is passed in: a test passes its own. Where it is missing there is no such GPU.
- A call that this driver or card does not know gives None, and the rest goes on.
- What is measured by process is split into the engines' and all others'. Where it cannot be split, as Windows hides
  memory by process, a GPU on which an engine runs has no `others`.
"""

import ctypes
import sys
from collections.abc import Collection
from typing import Any

from potluck.node.facts import Gpu

MAX_PROCESSES = 256
NOT_FOUND = 6
_UNKNOWN_BYTES = (1 << 64) - 1
_TOO_HOT = 0x20 | 0x40
"""software and hardware thermal slowdown"""


class Utilization(ctypes.Structure):
    """`nvmlUtilization_t`, percent."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class MemoryInfo(ctypes.Structure):
    """`nvmlMemory_t`, bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class ProcessInfo(ctypes.Structure):
    """`nvmlProcessInfo_t`."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class ProcessSample(ctypes.Structure):
    """`nvmlProcessUtilizationSample_t`."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("time_us", ctypes.c_ulonglong),
        ("sm", ctypes.c_uint),
        ("memory", ctypes.c_uint),
        ("encoder", ctypes.c_uint),
        ("decoder", ctypes.c_uint),
    )


def load_library() -> Any | None:
    """The driver's library; None where there is none."""
    try:
        return ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None


class Nvml:
    """Reads all NVIDIA GPUs."""

    def __init__(self, library: Any) -> None:
        """Raises OSError when the driver is not loaded."""
        self._library = library
        if library.nvmlInit_v2() != 0:
            raise OSError("the NVIDIA driver does not answer")
        count = ctypes.c_uint(0)
        library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        self._devices = [each for each in map(self._device, range(count.value)) if each is not None]
        self._sampled_us: dict[int, int] = {}

    def read(self, engine_pids: Collection[int]) -> tuple[Gpu, ...]:
        """Every GPU, now. May block."""
        return tuple(self._gpu(at, device, engine_pids) for at, device in enumerate(self._devices))

    def _device(self, index: int) -> ctypes.c_void_p | None:
        device = ctypes.c_void_p()
        found = self._library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device))
        return device if found == 0 else None

    def _gpu(self, at: int, device: ctypes.c_void_p, engine_pids: Collection[int]) -> Gpu:
        library, load, memory = self._library, Utilization(), MemoryInfo()
        busy = load.gpu / 100 if library.nvmlDeviceGetUtilizationRates(device, ctypes.byref(load)) == 0 else None
        has_memory = library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) == 0
        reasons = ctypes.c_ulonglong(0)
        told = library.nvmlDeviceGetCurrentClocksThrottleReasons(device, ctypes.byref(reasons)) == 0
        processes = self._processes(device)
        ours = [used for pid, used in processes.items() if pid in engine_pids]
        used_others = None
        if has_memory and None not in ours:
            used_others = max(memory.used - sum(each or 0 for each in ours), 0)
        busy_others = self._busy_others(at, device, engine_pids)
        if busy_others is None and not ours:
            busy_others = busy
        return Gpu(
            id=self._text(library.nvmlDeviceGetUUID, device) or f"nvidia-{at}",
            name=self._text(library.nvmlDeviceGetName, device),
            busy=busy,
            busy_others=busy_others,
            total_bytes=memory.total if has_memory else None,
            used_bytes=memory.used if has_memory else None,
            used_others_bytes=used_others,
            too_hot=told and bool(reasons.value & _TOO_HOT),
        )

    def _processes(self, device: ctypes.c_void_p) -> dict[int, int | None]:
        """Memory by process; None: this system does not say how much."""
        found: dict[int, int | None] = {}
        for ask in (
            self._library.nvmlDeviceGetGraphicsRunningProcesses_v3,
            self._library.nvmlDeviceGetComputeRunningProcesses_v3,
        ):
            entries, count = (ProcessInfo * MAX_PROCESSES)(), ctypes.c_uint(MAX_PROCESSES)
            if ask(device, ctypes.byref(count), entries) == 0:
                for each in entries[: count.value]:
                    found[each.pid] = None if each.used == _UNKNOWN_BYTES else each.used
        return found

    def _busy_others(self, at: int, device: ctypes.c_void_p, engine_pids: Collection[int]) -> float | None:
        samples, count = (ProcessSample * MAX_PROCESSES)(), ctypes.c_uint(MAX_PROCESSES)
        since = ctypes.c_ulonglong(self._sampled_us.get(at, 0))
        status = self._library.nvmlDeviceGetProcessUtilization(device, samples, ctypes.byref(count), since)
        if status == NOT_FOUND:
            return 0.0  # nobody used it since
        if status != 0:
            return None
        latest: dict[int, tuple[int, int]] = {}
        for each in samples[: count.value]:
            latest[each.pid] = max(latest.get(each.pid, (0, 0)), (each.time_us, min(each.sm, 100)))
        self._sampled_us[at] = max((time_us for time_us, _ in latest.values()), default=self._sampled_us.get(at, 0))
        return min(sum(sm for pid, (_, sm) in latest.items() if pid not in engine_pids), 100) / 100

    def _text(self, ask: Any, device: ctypes.c_void_p) -> str:
        text = ctypes.create_string_buffer(96)
        return text.value.decode("ascii", "replace") if ask(device, text, ctypes.c_uint(96)) == 0 else ""
