"""AMD GPUs on Linux, out of sysfs and of the engines' own `/proc/PID/fdinfo`.

Rules of this file
- Only files are read, and only the engines' processes are looked into. One of another user cannot be: then what it uses
  is not known, and a GPU that is in use has no `others`.
- A process says how long it used the GPU in all; shares come from two readings.
"""

import time
from collections.abc import Callable, Collection
from pathlib import Path

from potluck.node.facts import Gpu

AMD = "0x1002"
_CLASS = "class/drm"


class AmdGpus:
    """Reads all AMD GPUs."""

    def __init__(
        self, sys: Path = Path("/sys"), proc: Path = Path("/proc"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._proc = proc
        self._clock = clock
        cards = sorted(each for each in (sys / _CLASS).glob("card*") if each.name[4:].isdecimal())
        self._cards = [each / "device" for each in cards if _word(each / "device" / "vendor") == AMD]
        self._used_ns: dict[tuple[str, int], tuple[int, float]] = {}

    def read(self, engine_pids: Collection[int]) -> tuple[Gpu, ...]:
        """Every GPU, now."""
        clients = {pid: _clients(self._proc / str(pid) / "fdinfo") for pid in engine_pids} if self._cards else {}
        return tuple(self._gpu(card, clients) for card in self._cards)

    def _gpu(self, card: Path, clients: dict[int, dict[str, tuple[int, int]] | None]) -> Gpu:
        address = card.resolve().name
        percent = _number(card / "gpu_busy_percent")
        busy = None if percent is None else min(percent, 100) / 100
        total, used = _number(card / "mem_info_vram_total"), _number(card / "mem_info_vram_used")
        ours_bytes, ours_share = 0, 0.0
        for pid, on in clients.items():
            if on is None:
                return Gpu(address, "AMD", busy, None if busy else busy, total, used)
            memory, used_ns = on.get(address, (0, 0))
            ours_bytes += memory
            ours_share += self._share(address, pid, used_ns)
        return Gpu(
            address,
            "AMD",
            busy,
            None if busy is None else max(busy - ours_share, 0.0),
            total,
            used,
            None if used is None else max(used - ours_bytes, 0),
        )

    def _share(self, address: str, pid: int, used_ns: int) -> float:
        """Of the time since the last reading."""
        now_s = self._clock()
        before_ns, before_s = self._used_ns.get((address, pid), (used_ns, now_s))
        self._used_ns[address, pid] = used_ns, now_s
        passed_s = now_s - before_s
        return min(max(used_ns - before_ns, 0) / 1e9 / passed_s, 1.0) if passed_s > 0 else 0.0


def _clients(folder: Path) -> dict[str, tuple[int, int]] | None:
    """PCI address → bytes of VRAM and nanoseconds of use; None: it may not be looked into."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    try:
        for each in folder.iterdir():
            fields = dict(line.split(":", 1) for line in each.read_text("ascii", "replace").splitlines() if ":" in line)
            address = fields.get("drm-pdev", "").strip()
            if not address:
                continue
            memory = _first(fields.get("drm-memory-vram", "")) * 1024
            spent = [_first(value) for key, value in fields.items() if key.startswith("drm-engine-")]
            # several descriptors share a client, and each tells the whole
            found[address, fields.get("drm-client-id", "").strip()] = memory, sum(spent)
    except PermissionError:
        return None
    except OSError:
        return {}  # it ended meanwhile
    summed: dict[str, tuple[int, int]] = {}
    for (address, _), (memory, spent_ns) in found.items():
        before = summed.get(address, (0, 0))
        summed[address] = before[0] + memory, before[1] + spent_ns
    return summed


def _first(value: str) -> int:
    word = value.split()[0] if value.split() else ""
    return int(word) if word.isdecimal() else 0


def _word(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    word = _word(path)
    return int(word) if word.isdecimal() else None
