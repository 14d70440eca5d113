"""A spool cut or killed anywhere: what was settled stays, its plan too, nothing counts twice, the rest is `lost`."""

import asyncio
import contextlib
import os
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.ledger import importer as importer_module
from potluck.ledger import replay as replay_module
from potluck.ledger import spool as spool_module
from potluck.ledger.files import list_files
from potluck.ledger.importer import Importer
from potluck.ledger.replay import replay
from potluck.ledger.spool import Spool
from potluck.model.usage import Intent, PlanLine, TokenUsage, UsageRecord
from potluck.store.schema import ensure_schema

OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["plan", "intend", "intend", "settle", "settle", "turn", "rotate"]), st.integers(0, 5)),
    max_size=40,
)
_TEMPLATE: list[bytes] = []


class Killed(BaseException):
    """The process ends here."""


def new_home(directory: str) -> Path:
    """A home with an empty usage.db, copied from one that was made once."""
    home = Path(directory)
    if not _TEMPLATE:
        ensure_schema(home / "usage.db", "usage")
        with sqlite3.connect(home / "usage.db") as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        _TEMPLATE.append((home / "usage.db").read_bytes())
    (home / "usage.db").write_bytes(_TEMPLATE[0])
    (home / "spool").mkdir()
    return home


def fields(request_id: str) -> dict[str, Any]:
    return {
        "id": request_id,
        "at_ms": 1_790_000_000_000,
        "organisation_id": "org_1",
        "project_id": "prj_1",
        "key_id": "key_1",
        "endpoint": "chat",
        "model": "small",
        "target_id": "tgt_1",
        "target": "openai/small",
        "provider_id": "prv_1",
    }


class Gateway:
    """Plays operations on a real spool, and remembers what callers were told."""

    def __init__(self) -> None:
        self.intended: set[str] = set()
        self.settled: set[str] = set()
        self._attempts: Counter[str] = Counter()
        self._epoch = 0

    async def play(self, home: Path, operations: list[tuple[str, int]]) -> None:
        """Ends like a killed process: the file is dropped without a word."""
        self._epoch += 1
        loop = asyncio.get_running_loop()
        spool = MortalSpool(home / "spool", loop, sync_s=3600, file_bytes=1)
        over: set[str] = set()
        plans: set[str] = set()
        try:
            for operation, n in operations:
                request_id = f"req_{self._epoch}_{n}"
                if operation == "turn":
                    await asyncio.sleep(0)
                elif operation == "plan":
                    plans.add(f"plan_{n % 3}")
                    spool.plan(PlanLine(f"plan_{n % 3}", msgspec.Raw(b"{}")))
                elif operation == "rotate":
                    spool._tick()
                    if spool._syncing is not None:
                        await spool._syncing
                elif request_id in over:
                    continue
                elif operation == "intend":
                    self._attempts[request_id] += 1
                    spool.intend(
                        Intent(n=self._attempts[request_id], reserved_nanousd=1000, **fields(request_id)),
                        lambda ok, request_id=request_id: self.intended.add(request_id) if ok else None,
                    )
                elif self._attempts[request_id]:
                    over.add(request_id)
                    spool.settle(
                        UsageRecord(
                            outcome="ok",
                            status=200,
                            usage=TokenUsage(7, 3),
                            cost_nanousd=10,
                            plan=f"plan_{n % 3}" if f"plan_{n % 3}" in plans else "",
                            **fields(request_id),
                        ),
                        lambda ok, request_id=request_id: self.settled.add(request_id) if ok else None,
                    )
            await asyncio.sleep(0)
        finally:
            spool.die()


class MortalSpool(Spool):
    """A spool that can end as the kernel ends a killed process's: its files closed, nothing else done."""

    _files: list[tuple[int, int]]
    _dead = False

    def _flush(self) -> None:
        if not self._dead:  # the loop runs what is scheduled to its end; a killed process does not
            super()._flush()

    def _create(self) -> tuple[int, Path]:
        fd, path = super()._create()
        self._files = [*getattr(self, "_files", []), (fd, os.fstat(fd).st_ino)]
        return fd, path

    def die(self) -> None:
        assert self._timer is not None
        self._dead = True
        self._timer.cancel()
        self._thread.shutdown(wait=True)
        for fd, inode in self._files:
            with contextlib.suppress(OSError):
                if os.fstat(fd).st_ino == inode:
                    os.close(fd)


def poll(home: Path) -> None:
    work = Importer(home / "spool", home / "usage.db")
    try:
        work.poll()
    finally:
        work.reset()


def outcomes(home: Path) -> dict[str, str]:
    """What the database holds, after checking that rows and hourly sums agree and no plan is missing."""
    with sqlite3.connect(home / "usage.db") as connection:
        rows = connection.execute("SELECT id, outcome, cost_nanousd FROM requests").fetchall()
        sums = connection.execute(
            "SELECT coalesce(sum(requests), 0), coalesce(sum(lost), 0), coalesce(sum(cost_nanousd), 0) FROM usage_hours"
        ).fetchone()
        orphans = connection.execute(
            "SELECT id FROM requests WHERE plan <> '' AND plan NOT IN (SELECT id FROM plans)"
        ).fetchall()
    connection.close()
    assert orphans == [], "a record's plan stands before it in the spool"
    assert sums == (len(rows), sum(row[1] == "lost" for row in rows), sum(row[2] for row in rows))
    return {row[0]: row[1] for row in rows}


def check(home: Path, gateway: Gateway) -> None:
    """What was settled is ok, what was only intended is lost, and doing all of it again changes nothing."""
    replay(home / "spool")
    poll(home)
    found = outcomes(home)
    assert {name for name in gateway.settled if found.get(name) != "ok"} == set()
    assert {name for name in gateway.intended - gateway.settled if name not in found} == set()
    assert list_files(home / "spool") == [], "every file is closed, imported and gone"
    assert replay(home / "spool").lost == 0
    poll(home)
    assert outcomes(home) == found


@settings(max_examples=60, deadline=None)
@given(st.lists(OPERATIONS, min_size=1, max_size=3), st.booleans())
def test_killed_between_any_two_operations(lives: list[list[tuple[str, int]]], import_between: bool) -> None:
    """Gateways that live, rotate and are killed one after the other leave every call with exactly one outcome."""
    with tempfile.TemporaryDirectory() as directory:
        home, gateway = new_home(directory), Gateway()
        for operations in lives:
            asyncio.run(gateway.play(home, operations))
            if import_between:
                poll(home)
            replay(home / "spool")
        check(home, gateway)


@settings(max_examples=60, deadline=None)
@given(OPERATIONS, st.floats(0, 1))
def test_cut_at_any_byte(operations: list[tuple[str, int]], where: float) -> None:
    """A last file that ends at any byte gives each call whose lines are whole its outcome, and no call two."""
    with tempfile.TemporaryDirectory() as directory:
        home, gateway = new_home(directory), Gateway()
        asyncio.run(gateway.play(home, [each for each in operations if each[0] != "rotate"]))
        (file,) = list_files(home / "spool")
        data = file.path.read_bytes()
        data = data[: round(where * len(data))]
        file.path.write_bytes(data)
        lines = [msgspec.json.decode(each) for each in data.split(b"\n")[:-1]]
        gateway.settled = {each["r"]["id"] for each in lines if each["t"] == "s"}
        gateway.intended = {each["id"] for each in lines if each["t"] == "i"}
        check(home, gateway)
        assert outcomes(home).keys() == gateway.settled | gateway.intended


@settings(max_examples=150, deadline=None)
@given(OPERATIONS, st.integers(0, 60))
def test_killed_at_any_step_of_replay_and_import(operations: list[tuple[str, int]], step: int) -> None:
    """A replay and an importer killed before any write, rename or deletion of theirs are simply done again."""
    with tempfile.TemporaryDirectory() as directory:
        home, gateway = new_home(directory), Gateway()
        asyncio.run(gateway.play(home, operations))
        with Killer(step):
            replay(home / "spool")
            poll(home)
        check(home, gateway)


@settings(max_examples=150, deadline=None)
@given(OPERATIONS, st.integers(0, 60))
def test_killed_at_any_step_of_the_writer(operations: list[tuple[str, int]], step: int) -> None:
    """A gateway killed before any write, rename or sync of its own keeps what it told its callers."""
    with tempfile.TemporaryDirectory() as directory:
        home, gateway = new_home(directory), Gateway()
        with Killer(step):
            asyncio.run(gateway.play(home, operations))
        check(home, gateway)


class Killer:
    """Raises Killed instead of the n-th step that changes something outside the process; catches it at the end."""

    def __init__(self, step: int) -> None:
        self._left = step
        self._saved: list[tuple[Any, str, Any]] = []

    def _arm(self, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def maybe(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise Killed
            return real(*args, **kwargs)

        self._saved.append((owner, name, real))
        setattr(owner, name, maybe)

    def __enter__(self) -> None:
        for name in ("write", "ftruncate", "fdatasync", "unlink"):
            self._arm(os, name)
        for module in (replay_module, spool_module):
            self._arm(module, "close_file")
            self._arm(module, "sync_directory")
        self._arm(importer_module.Importer, "_insert")
        self._arm(importer_module.Importer, "_delete")
        self._arm(importer_module, "request_row")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        while self._saved:
            owner, name, real = self._saved.pop()
            setattr(owner, name, real)
        return kind is not None and issubclass(kind, Killed)
