"""Real processes killed with signal 9, real full disks: no record of a delivered answer is lost, none counts twice."""

import asyncio
import os
import random
import resource
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from potluck.ledger.files import list_files
from potluck.ledger.importer_process import ImporterProcess
from potluck.ledger.replay import replay
from potluck.store.schema import ensure_schema

pytestmark = pytest.mark.timeout(60)

# A gateway's ledger without the gateway: calls begin and end without pause, a few stay open for a while. What a caller
# has been told stands in lines on standard output: `i ID` (a call began), `s ID` (an answer was delivered whole).
GATEWAY = """
import asyncio, os, sys, uvloop
from pathlib import Path
from potluck.ledger.importer_process import ImporterProcess
from potluck.ledger.replay import replay
from potluck.ledger.spool import Spool
from potluck.model.ids import RequestIds
from potluck.model.usage import Intent, PlanLine, TokenUsage, UsageRecord
import msgspec

home, pace_s, file_bytes = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])

def fields(request_id):
    return dict(id=request_id, at_ms=1_790_000_000_000, organisation_id="org_1", project_id="prj_1", key_id="key_1",
                endpoint="chat", model="small", target_id="tgt_1", target="openai/small", provider_id="prv_1")

async def call(spool, request_id, hold):
    loop = asyncio.get_running_loop()
    begun = loop.create_future()
    spool.intend(Intent(n=1, reserved_nanousd=1000, **fields(request_id)), begun.set_result)
    if not await begun:
        return
    os.write(1, b"i %s\\n" % request_id.encode())
    await asyncio.sleep(hold * 0.05 if hold else 0)
    ended = loop.create_future()
    plan = f"plan_{hold}"
    spool.plan(PlanLine(plan, msgspec.Raw(b'{"strategy":"priority"}')))
    spool.settle(UsageRecord(outcome="ok", status=200, usage=TokenUsage(7, 3), cost_nanousd=10, plan=plan,
                             **fields(request_id)), ended.set_result)
    if await ended:
        os.write(1, b"s %s\\n" % request_id.encode())

async def caller(spool, ids, n):
    while True:
        await call(spool, ids.next(), n % 4)
        await asyncio.sleep(pace_s)

async def main():
    summary = replay(home / "spool")
    spool = Spool(home / "spool", asyncio.get_running_loop(), file_bytes=file_bytes, sync_s=0.02)
    importer = ImporterProcess(home)
    await importer.start()
    os.write(1, b"up %d %d\\n" % (importer.pid, summary.lost))
    ids = RequestIds()
    await asyncio.gather(*(caller(spool, ids, n) for n in range(32)))

uvloop.run(main())
"""


class Told:
    """What gateways told their callers, over all their lives."""

    def __init__(self) -> None:
        self.begun: set[str] = set()
        self.delivered: set[str] = set()
        self.lost = 0

    def take(self, output: bytes) -> int:
        """Read a life's lines; returns its importer's pid."""
        pid = 0
        for line in output.split(b"\n")[:-1]:
            kind, name, *rest = line.decode().split()
            if kind == "up":
                pid, self.lost = int(name), self.lost + int(rest[0])
            else:
                (self.begun if kind == "i" else self.delivered).add(name)
        return pid


@pytest.fixture
def home(tmp_path: Path) -> Path:
    ensure_schema(tmp_path / "usage.db", "usage")
    return tmp_path


def ask(home: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(home / "usage.db", timeout=5)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def gone(pid: int) -> bool:
    """Dead; a zombie that waits for a new parent counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def wait_until(condition: object, seconds: float, what: str) -> None:
    assert callable(condition)
    deadline_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


class Life:
    """A gateway that runs until the block ends, killed with signal 9 then; what it said is taken into `told`."""

    def __init__(self, home: Path, told: Told, *, pace_s: float = 0.001, file_bytes: int = 60_000) -> None:
        self.importer_pid = 0
        self._told = told
        self._output = bytearray()
        command = [sys.executable, "-c", GATEWAY, str(home), str(pace_s), str(file_bytes)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._fd = self._process.stdout.fileno()

    def __enter__(self) -> "Life":
        self.until_delivery()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        while self._read(5):
            pass
        self._process.communicate()
        self.importer_pid = self._told.take(bytes(self._output))

    def _read(self, seconds: float) -> int:
        """Read what it said within so many seconds; how many bytes that was."""
        if not select.select([self._fd], [], [], max(0.0, seconds))[0]:
            return 0
        data = os.read(self._fd, 1 << 16)
        self._output += data
        return len(data)

    def run(self, seconds: float) -> None:
        deadline_s = time.monotonic() + seconds
        while (left_s := deadline_s - time.monotonic()) > 0:
            self._read(left_s)

    def until_delivery(self) -> str:
        """The id of the next answer that it delivers."""
        start = len(self._output)
        deadline_s = time.monotonic() + 20
        while b"\n" not in self._output[self._output.find(b"\ns ", start) + 1 :] or b"\ns " not in self._output[start:]:
            self._read(0.5)
            assert time.monotonic() < deadline_s, "nothing is delivered"
        return self._output[self._output.index(b"\ns ", start) :].split(b"\n")[1].split()[1].decode()

    def until_silent(self) -> None:
        """Until nothing has been delivered for a while."""
        deadline_s = time.monotonic() + 20
        while self._read(0.3):
            assert time.monotonic() < deadline_s, "it goes on and on"


def live(home: Path, seconds: float, told: Told, *, pace_s: float = 0.001, file_bytes: int = 60_000) -> int:
    """A gateway's life of so many seconds under load; returns its importer's pid."""
    with Life(home, told, pace_s=pace_s, file_bytes=file_bytes) as life:
        life.run(seconds)
    return life.importer_pid


async def import_all(home: Path) -> None:
    """What the next gateway does: replay, then an importer until the spool is empty."""
    importer = ImporterProcess(home)
    await importer.start()
    try:
        await until_empty(home)
    finally:
        await importer.stop()


async def until_empty(home: Path) -> None:
    async with asyncio.timeout(20):
        while list_files(home / "spool"):
            await asyncio.sleep(0.05)


def check(home: Path, told: Told) -> dict[str, str]:
    found = {str(row[0]): str(row[1]) for row in ask(home, "SELECT id, outcome FROM requests")}
    assert {name for name in told.delivered if found.get(name) != "ok"} == set(), "a delivered answer has no record"
    assert {name for name in told.begun if name not in found} == set(), "a call in flight was forgotten"
    missing = ask(home, "SELECT id FROM requests WHERE plan <> '' AND plan NOT IN (SELECT id FROM plans)")
    assert missing == [], "a record's plan was forgotten"
    ((requests, lost),) = ask(home, "SELECT sum(requests), sum(lost) FROM usage_hours")
    assert requests == len(found), "the hourly sums count something twice"
    assert lost == sum(outcome == "lost" for outcome in found.values()) == told.lost
    return found


async def kills(home: Path, count: int) -> None:
    told, chance = Told(), random.Random(count)
    for _ in range(count):
        pid = live(home, chance.uniform(0.02, 0.25), told)
        wait_until(lambda pid=pid: gone(pid), 2, "the importer outlived its gateway by two seconds")
    told.lost += replay(home / "spool").lost
    await import_all(home)
    found = check(home, told)
    assert len(found) > 20 * count
    assert told.lost > 0, "nothing was in flight at any kill: the test proves nothing"


async def test_kills_lose_no_record(home: Path) -> None:
    """Gateways killed under load one after the other leave each delivered answer recorded once, the rest as lost."""
    await kills(home, 6)


@pytest.mark.long
async def test_twenty_kills_lose_no_record(home: Path) -> None:
    """The same with twenty kills."""
    await kills(home, 20)


async def test_the_importer_is_restarted_and_stopped(home: Path) -> None:
    """A killed importer is replaced; a stopped one imports what is there and is gone."""
    importer = ImporterProcess(home)
    await importer.start()
    first = importer.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(5):
        while importer.pid in (None, first):
            await asyncio.sleep(0.02)
    second = importer.pid
    assert second is not None
    await importer.stop()
    assert gone(first)
    assert gone(second)
    assert importer.pid is None


async def test_stop_during_a_pause(home: Path) -> None:
    """A supervisor that waits to start the child again stops at once."""
    importer = ImporterProcess(home)
    await importer.start()
    assert importer.pid is not None
    os.kill(importer.pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        while importer.pid is not None:
            await asyncio.sleep(0.005)
    async with asyncio.timeout(1):
        await importer.stop()


async def test_two_importers_count_once(home: Path) -> None:
    """A second importer on the same home waits for the first one's end and then takes over."""
    told = Told()
    first, second = ImporterProcess(home), ImporterProcess(home)
    await first.start()
    await second.start()
    live(home, 0.3, told)
    told.lost += replay(home / "spool").lost
    await first.stop()
    await until_empty(home)
    await second.stop()
    check(home, told)


async def test_reports_are_a_second_behind(home: Path) -> None:
    """While a gateway works, what it delivered is in the database within a second."""
    with Life(home, Told(), pace_s=0.02, file_bytes=1_000_000) as life:
        wait_until(lambda: ask(home, "SELECT count(*) FROM requests") != [(0,)], 5, "the importer does not come up")
        for _ in range(4):
            life.run(0)
            name = life.until_delivery()
            query = f"SELECT outcome FROM requests WHERE id = '{name}'"
            wait_until(lambda query=query: ask(home, query) == [("ok",)], 1.0, "more than a second behind")


async def test_a_locked_database_delays_only(home: Path) -> None:
    """With the database held by another process for longer than the importer waits, records arrive once it is free."""
    told = Told()
    holder = sqlite3.connect(home / "usage.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    live(home, 0.2, told)
    told.lost += replay(home / "spool").lost
    importer = ImporterProcess(home)
    await importer.start()
    await asyncio.sleep(1.5)  # longer than the importer's own wait for the lock
    assert importer.pid is not None
    assert ask(home, "SELECT count(*) FROM requests") == [(0,)]
    holder.execute("ROLLBACK")
    holder.close()
    await until_empty(home)
    await importer.stop()
    check(home, told)


async def test_a_limit_on_file_size_costs_no_record(home: Path) -> None:
    """A file that may not grow is a failed write and then a new file; what callers were told still holds."""
    told = Told()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # the children inherit it; the database needs more than the spool's files get
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    try:
        live(home, 1.0, told, pace_s=0, file_bytes=100_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    told.lost += replay(home / "spool").lost
    assert len(told.delivered) > 1000
    await import_all(home)
    check(home, told)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A spool directory with 4 MiB of space."""
    path = tmp_path / "spool"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)]
    if os.geteuid() or sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root on Linux")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


async def test_a_full_disk_costs_no_record(home: Path, small_disk: Path) -> None:
    """With no space left callers are told so; with space again the spool goes on; what was promised is kept."""
    told = Told()
    ballast = small_disk / "ballast"
    ballast.write_bytes(b" " * 4_000_000)
    with Life(home, told, pace_s=0.02, file_bytes=50_000_000) as life:
        life.until_silent()
        ballast.unlink()
        life.until_delivery()
        life.run(0.3)
    told.lost += replay(home / "spool").lost
    await import_all(home)
    check(home, told)
