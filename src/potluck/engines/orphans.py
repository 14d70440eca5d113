"""Children that outlived whoever started them: found by process id *and* start time, so that no stranger is killed.

Gateways and agents of one home may run side by side. Each child has a file of its own that names its owner, and only a
child whose owner is gone is ended.
"""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import msgspec


class ChildMark(msgspec.Struct, frozen=True):
    """A running child and the process that started it, as written to disk. Start times are compared, never read."""

    pid: int
    started: str
    owner: int
    owner_started: str


def start_time(pid: int) -> str:
    """When the process started, as a text that no other process with this id will ever have; empty: no such process."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except (OSError, ValueError):
            return ""
        return "" if fields[0] == b"Z" else f"{boot}:{fields[19].decode()}"
    shown = subprocess.run(
        ["/bin/ps", "-o", "lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        timeout=5,
    )
    return shown.stdout.strip()


def mark(folder: Path, pid: int, owner: int) -> Path:
    """Write down a child that `owner` just started; the file, which goes when the child does."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / f"local-model.{pid}.json"
    draft = folder / f".local-model.{pid}"  # another's sweep never sees half of it
    draft.write_bytes(msgspec.json.encode(ChildMark(pid, start_time(pid), owner, start_time(owner))))
    return draft.replace(file)


def sweep(folder: Path) -> int:
    """End the children whose owners are gone, and forget those that are gone themselves; how many were ended."""
    ended = 0
    for file in folder.glob("local-model.*.json"):
        try:
            child = msgspec.json.decode(file.read_bytes(), type=ChildMark)
        except (OSError, msgspec.MsgspecError):
            child = None
        is_there = child is not None and child.started and start_time(child.pid) == child.started
        if child is not None and is_there and child.owner_started == start_time(child.owner) != "":
            continue
        file.unlink(missing_ok=True)
        if child is not None and is_there:
            with contextlib.suppress(OSError):
                os.kill(child.pid, signal.SIGKILL)
                ended += 1
    return ended
