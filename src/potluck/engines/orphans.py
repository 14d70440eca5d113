"""Children that outlived their gateway: found by process id *and* start time, so that no stranger is ever killed."""

import os
import signal
import subprocess
from pathlib import Path

import msgspec


class ChildMark(msgspec.Struct, frozen=True):
    """A running child, as written to disk. `started` is only ever compared, never read."""

    pid: int
    started: str


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


def mark(file: Path, pid: int) -> None:
    """Write down a child that was just started."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.encode(ChildMark(pid, start_time(pid))))


def sweep(file: Path) -> bool:
    """Kill the child that an earlier process wrote down, if it still lives. True: there was one."""
    try:
        child = msgspec.json.decode(file.read_bytes(), type=ChildMark)
    except (OSError, msgspec.MsgspecError):
        child = None
    file.unlink(missing_ok=True)
    if child is None or not child.started or start_time(child.pid) != child.started:
        return False
    try:
        os.kill(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
