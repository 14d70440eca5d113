"""The spool's writer: implements `ports.Recorder` on the loop, one `os.write` per loop turn for all lines of that turn.

States what happens when the disk does not play along:
- A write that fails answers `then(False)`; `writable` is False until a new file takes writes again (tried each second).
  Settlements and refusal counts that could not be written are kept in memory (8 MiB) and written then.
- Above `max_bytes` on disk (the importer is away) new intents are refused; calls already running are still settled.
- Plans are kept as settlements are, since records that are kept refer to them. What finds no room comes again, within
  a minute of requests, and is not counted as dropped.
- Power loss may cost what the last second wrote (`fdatasync` in a thread); death by any signal costs nothing.

Calls still open when a file is full are carried over: their intents are written again at the start of the next file,
so an imported file may go and a replay needs nothing but what is in the directory.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from potluck.ledger.files import close_file, list_files, live_path, new_boot, sync_directory, try_lock
from potluck.ledger.refusals import Refusals
from potluck.ledger.rows import MAX_NUMBER
from potluck.model.usage import Intent, PlanLine, Settlement, UsageRecord

Then = Callable[[bool], None]

FILE_BYTES = 16 << 20
FILE_AGE_S = 300.0
MAX_BYTES = 1 << 30
KEPT_BYTES = 8 << 20
SYNC_S = 1.0
MAX_PLANS = 1000
PLANS_S = 3600.0
"""a plan is written once within this, as long as no more than MAX_PLANS others are"""
REFUSALS_EVERY = 3
SIZE_EVERY = 5
"""ticks of SYNC_S"""

_INTENT = b'{"t":"i"'
_PLAN = b'{"t":"p"'
_PROBE = b" " * 4095
"""a blank line that fills a block: readers skip it, and it proves that there is space again"""

log = logging.getLogger(__name__)


class Spool:
    """One per process. `writable`: intents can be recorded now. All methods are for the loop's thread; none raises."""

    def __init__(
        self,
        directory: Path,
        loop: asyncio.AbstractEventLoop,
        *,
        file_bytes: int = FILE_BYTES,
        file_age_s: float = FILE_AGE_S,
        max_bytes: int = MAX_BYTES,
        sync_s: float = SYNC_S,
    ) -> None:
        """Make the directory and the first file. Raises OSError when that is impossible."""
        self.writable = True
        self.dropped = 0
        """settlements given up because neither disk nor memory would take them"""
        self._directory = directory
        self._loop = loop
        self._file_bytes = file_bytes
        self._file_age_s = file_age_s
        self._max_bytes = max_bytes
        self._sync_s = sync_s
        self._encode = msgspec.json.Encoder().encode
        self._lines: list[bytes] = []
        self._thens: list[Then] = []
        self._open: dict[str, bytes] = {}
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._refusals = Refusals()
        self._plans: set[str] = set()
        self._plans_since_s = loop.time()
        self._over = False
        self._torn = False
        self._dirty = False
        self._failed = False
        self._due = False
        self._ticks = 0
        self._retired: list[tuple[int, Path]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool-sync")
        self._syncing: asyncio.Future[None] | None = None
        self._boot = new_boot()
        self._seq = 0
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._fd, self._path = self._create()
        self._size = 0
        self._carried = 0
        self._born_s = loop.time()
        self._timer: asyncio.TimerHandle | None = loop.call_later(sync_s, self._tick)

    @property
    def open_calls(self) -> int:
        """Requests with an intent and no settlement yet."""
        return len(self._open)

    # ── the hot path ──────────────────────────────────────────────────────────────────────────────────────────────

    def intend(self, intent: Intent, then: Then) -> None:
        """Record what a provider may bill from now on. `then(False)`: it could not be recorded."""
        self.intend_line(intent.id, self._encode(intent), then)

    def intend_line(self, request_id: str, line: bytes, then: Then) -> None:
        """`intend` for a line that is encoded already."""
        if self._over:
            self._loop.call_soon(then, False)
            return
        calls = self._open
        calls[request_id] = line if request_id not in calls else b"%b\n%b" % (calls[request_id], line)
        if not self._lines:
            self._loop.call_soon(self._flush)
        self._lines.append(line)
        self._thens.append(then)

    def settle(self, record: UsageRecord, then: Then) -> None:
        """Record the end of a request. After `then(False)` the line waits in memory for the disk to recover.

        A record that cannot be encoded is written with its text and numbers made safe. One that cannot even then is
        dropped, with `then(False)`: its call stays open, for the next start to settle.
        """
        try:
            line = self._encode(Settlement(record))
        except Exception as error:  # nothing a record holds may keep its request from ending
            made = _safe_line(record)
            if made is None:
                log.error("the usage record of %s cannot be written (%s)", record.id, type(error).__name__)
                self.dropped += 1
                self._loop.call_soon(then, False)
                return
            line = made
        self._open.pop(record.id, None)
        if not self._lines:
            self._loop.call_soon(self._flush)
        self._lines.append(line)
        self._thens.append(then)

    def plan(self, line: PlanLine) -> None:
        """Write a routing decision, unless it was written lately. `line.plan` is compact JSON: one line."""
        plans = self._plans
        if line.id in plans:
            return
        if len(plans) >= MAX_PLANS:
            plans.clear()
        plans.add(line.id)
        if not self._lines:
            self._loop.call_soon(self._flush)
        self._lines.append(self._encode(line))
        self._thens.append(_nobody_waits)

    def refuse(self, reason: str, who: str, at_ms: int, detail: str) -> None:
        """Count a refused call; written every few seconds. `reason`: one of a closed set; `who`: key id or prefix."""
        self._refusals.add(reason, who, at_ms, detail)

    def _flush(self) -> None:
        lines, thens = self._lines, self._thens
        self._lines, self._thens = [], []
        done = self._write(lines) if lines else 0
        if done < len(thens):
            self._keep(lines[done : len(thens)])
        if self._due:  # here everything handed in so far is in the file, and nothing new has come in yet
            self._rotate()
        ok = True
        for place, then in enumerate(thens):
            if place == done:
                ok = False
            try:
                then(ok)
            except Exception as error:  # one request's failure must not cost its neighbours their answers
                self._loop.call_exception_handler({"message": "a spool callback failed", "exception": error})

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _write(self, lines: list[bytes]) -> int:
        """Append whole lines with one write; returns how many are in the file. `lines` gets an empty one at its end."""
        lines.append(b"")
        data = b"\n".join(lines)
        if self._torn:
            data = b"\n" + data
        written = 0
        error: OSError | None = None
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:] if written else data)
        except OSError as caught:
            error = caught
        self._dirty = True
        if error is None:
            self._size += written
            self._torn = False
            return len(lines) - 1
        whole = data.rfind(b"\n", 0, written) + 1
        done = data.count(b"\n", 0, whole) - (self._torn and whole > 0)
        try:
            # the file's own size: torn lines that could not be cut off are in it, but not in ours
            base = os.lseek(self._fd, 0, os.SEEK_END) - written
            self._size = base + whole
            os.ftruncate(self._fd, self._size)
            self._torn = self._torn and not whole
        except OSError:
            self._torn = written > whole or (self._torn and not whole)
        self._fail(error)
        return done

    def _fail(self, error: OSError) -> None:
        if self._fd >= 0 and not self._failed:
            log.error("the usage spool cannot be written (%s): free space in %s", error.strerror, self._directory)
        self._failed = True
        self.writable = False

    def _keep(self, lines: list[bytes]) -> None:
        for line in lines:
            if line.startswith(_INTENT):
                request_id = msgspec.json.decode(line, type=Intent).id
                earlier = self._open.pop(request_id, b"").removesuffix(line).removesuffix(b"\n")
                if earlier:
                    self._open[request_id] = earlier
            elif self._kept_bytes + len(line) <= KEPT_BYTES:
                self._kept.append(line)
                self._kept_bytes += len(line)
            elif line.startswith(_PLAN):
                self._plans.clear()
            else:
                self.dropped += 1

    def _create(self) -> tuple[int, Path]:
        while True:
            self._seq += 1
            path = live_path(self._directory, self._boot, self._seq)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            if try_lock(fd) and os.fstat(fd).st_nlink:
                return fd, path
            os.close(fd)  # another process's replay found the empty file before it was locked

    def _rotate(self) -> None:
        """Go on in a new file, which begins with what is still open and what waits; stay in the old one if it fails."""
        self._due = False
        lines = [*self._open.values(), *self._kept]
        if self._failed and not lines:
            lines = [_PROBE]
        try:
            fd, path = self._create()
        except OSError as error:
            self._fail(error)
            return
        data = b"".join(line + b"\n" for line in lines)
        written = 0
        try:
            while written < len(data):
                written += os.write(fd, data[written:])
        except OSError as error:
            path.unlink(missing_ok=True)
            os.close(fd)
            self._fail(error)
            return
        self._retired.append((self._fd, self._path))
        self._fd, self._path, self._born_s = fd, path, self._loop.time()
        self._size = self._carried = written
        self._kept, self._kept_bytes = [], 0
        self._torn = False
        self._dirty = True
        if self._failed:
            log.warning("the usage spool can be written again")
        self._failed = False
        self.writable = not self._over

    # ── once a second ─────────────────────────────────────────────────────────────────────────────────────────────

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._sync_s, self._tick)
        self._ticks += 1
        if self._ticks % REFUSALS_EVERY == 0:
            self._write_refusals()
        if self._ticks % SIZE_EVERY == 0:
            self._measure()
        now_s = self._loop.time()
        if now_s - self._plans_since_s >= PLANS_S:
            self._plans.clear()
            self._plans_since_s = now_s
        age_s = now_s - self._born_s
        news = self._size - self._carried
        self._due = self._failed or news >= self._file_bytes or (news > 0 and age_s >= self._file_age_s)
        self._flush()
        if self._dirty and self._syncing is None:
            self._dirty = False
            self._syncing = self._loop.run_in_executor(self._thread, self._sync, self._fd, list(self._retired))
            self._syncing.add_done_callback(self._synced)

    def _write_refusals(self) -> None:
        lines = [self._encode(count) for count in self._refusals.take()]
        if lines:
            total = len(lines)
            done = self._write(lines)
            self._keep(lines[done:total])

    def _measure(self) -> None:
        total = 0
        for file in list_files(self._directory):
            try:
                total += file.path.stat().st_size
            except FileNotFoundError:
                continue
        if (total > self._max_bytes) != self._over:
            self._over = total > self._max_bytes
            self.writable = not (self._over or self._failed)
            log.error(
                "the usage spool holds %d bytes, its bound is %d: is the importer running?", total, self._max_bytes
            )

    def _sync(self, fd: int, retired: list[tuple[int, Path]]) -> None:
        """In the thread: to the disk, then close the files that nothing needs open, in order."""
        for old, _ in retired:
            os.fdatasync(old)
        os.fdatasync(fd)
        if not retired:
            return
        sync_directory(self._directory)
        for old, path in retired:
            close_file(path)
            os.close(old)
            self._retired.remove((old, path))

    def _synced(self, future: asyncio.Future[None]) -> None:
        self._syncing = None
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._dirty = True
            log.error("the usage spool cannot be brought to the disk: %s", error)

    def close(self) -> None:
        """Write what waits, sync, and give the file up. Calls still open are left for the next start to settle."""
        if self._fd < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._write_refusals()
        self._due = self._failed
        self._flush()
        self._thread.shutdown(wait=True)
        self._over = True
        self.writable = False
        fd, self._fd = self._fd, -1
        try:
            self._sync(fd, list(self._retired))
            if not self._size:
                self._path.unlink()
            elif not self._open and not self._kept:
                close_file(self._path)
        except OSError as error:
            log.error("the usage spool was left open: %s", error)  # the next start replays it
        finally:
            os.close(fd)


def _nobody_waits(ok: bool) -> None:
    """The `then` of a plan."""


def _safe_line(record: UsageRecord) -> bytes | None:
    """A record's line with half surrogate pairs replaced and numbers cut to what JSON readers hold, if that helps."""
    try:
        return msgspec.json.encode(_safe(msgspec.to_builtins(Settlement(record))))
    except Exception:
        return None


def _safe(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {name: _safe(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_safe(member) for member in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-MAX_NUMBER, min(value, MAX_NUMBER))
    return value
