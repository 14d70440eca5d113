"""Child processes of the bench: start them pinned, read what they cost from /proc, end exactly those."""

import ctypes
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, ClassVar

GATEWAY_CORE = 0
LOAD_CORE = 1

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


class BenchError(Exception):
    """The bench cannot run or its figures would be wrong; the message says why and what to do."""


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def raise_file_limit() -> None:
    """Soft open-file limit up to the hard one; children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def spawn(
    command: list[str],
    *,
    core: int | None,
    log: Path | None = None,
    env: dict[str, str] | None = None,
    stdout: int | IO[bytes] | None = None,
    stdin: int | None = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start `command` on one core (None: anywhere). The kernel ends it (SIGTERM) if the bench dies."""
    cores = {core} if core is not None else set(range(os.cpu_count() or 1))

    def prepare() -> None:
        os.sched_setaffinity(0, cores)
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    with open(log or os.devnull, "ab") as sink:
        return subprocess.Popen(
            command,
            env=env,
            stdin=stdin,
            stdout=sink if stdout is None else stdout,
            stderr=sink,
            preexec_fn=prepare,  # noqa: PLW1509  the bench has one thread
        )


def stop(process: subprocess.Popen[bytes], grace_s: float = 5.0) -> None:
    """SIGTERM, then SIGKILL; children it leaves behind are killed too."""
    family = tree(process.pid)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pid in family[1:]:
        with _ignore_gone():
            os.kill(pid, signal.SIGKILL)


@contextmanager
def _ignore_gone() -> Iterator[None]:
    try:
        yield
    except ProcessLookupError:
        return


def tree(root: int) -> list[int]:
    """`root` and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields is not None:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def command_line(pid: int) -> str:
    """Arguments of a process, joined by spaces; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def cpu_s(pids: list[int]) -> float:
    """User + system seconds of these processes, children that they have reaped included."""
    ticks = 0
    for pid in pids:
        fields = _stat(pid)
        if fields is not None:
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS_PER_S


def rss_bytes(pids: list[int]) -> int:
    """Resident bytes, summed; pages that processes share are counted once per process."""
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
        except OSError:
            continue
    return total


def pss_bytes(pids: list[int]) -> int:
    """Resident bytes with shared pages divided among those that share them, so that the sum counts each page once."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) * 1024
    return total


def core_busy_s(core: int) -> float:
    """Seconds that a core has spent on anything at all since boot."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            fields = [int(field) for field in line.split()[1:]]
            # user, nice, system, irq, softirq, steal: idle and waiting left out
            return sum(fields[n] for n in (0, 1, 2, 5, 6, 7)) / _TICKS_PER_S
    raise BenchError(f"/proc/stat knows no core {core}")


class Quiet:
    """How much of the gateway's core others took while it was measured: a figure from a busy machine says little."""

    worst: ClassVar[float] = 0.0

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._at = time.perf_counter()
        self._own_s = cpu_s(pids)
        self._busy_s = core_busy_s(GATEWAY_CORE)

    def check(self) -> None:
        """Remember the share of others since the start of this window."""
        wall_s = time.perf_counter() - self._at
        others_s = core_busy_s(GATEWAY_CORE) - self._busy_s - (cpu_s(self._pids) - self._own_s)
        Quiet.worst = max(Quiet.worst, others_s / wall_s)


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on (the name before it may hold spaces)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def wait_quiet(pids: list[int], limit_s: float = 20.0) -> None:
    """Until these processes use less than 3 % of a core for 0.3 s: a backlog must not run into the next measurement."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        before = cpu_s(pids)
        time.sleep(0.3)
        if cpu_s(pids) - before <= 0.01:
            return
    raise BenchError(f"processes {pids} were still busy {limit_s:.0f} s after the load had ended")


def wait_port(port: int, process: subprocess.Popen[bytes], limit_s: float = 15.0) -> None:
    """Until something listens on the port."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            if process.poll() is not None:
                raise BenchError(
                    f"{process.args!r} ended with status {process.returncode} before it listened"
                ) from None
            if time.monotonic() > deadline:
                raise BenchError(f"{process.args!r} did not listen on port {port} within {limit_s:.0f} s") from None
            time.sleep(0.01)
        else:
            return
