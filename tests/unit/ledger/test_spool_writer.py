"""The spool's writer on a real loop and a real directory."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from spool_lines import attempt, intent, line, lines_of, plan, record

from potluck.ledger import spool as spool_module
from potluck.ledger.files import list_files, try_lock
from potluck.ledger.spool import Spool
from potluck.model.usage import TokenUsage

TICK_S = 0.01


class Answers:
    """Collects what `then` was called with; `wait(n)` until there are n."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []
        self._event = asyncio.Event()

    def then(self, name: str) -> Callable[[bool], None]:
        def call(ok: bool) -> None:
            self.seen.append((name, ok))
            self._event.set()

        return call

    async def wait(self, count: int) -> None:
        while len(self.seen) < count:
            self._event.clear()
            await self._event.wait()


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    made = Spool(tmp_path / "spool", asyncio.get_running_loop(), sync_s=TICK_S)
    yield made
    made.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


def files(spool: Spool, tmp_path: Path) -> list[str]:
    return ["done" if file.closed else "live" for file in list_files(tmp_path / "spool")]


class Disk:
    """`os.write` with a fault: after `room` more bytes it writes what fits, then fails with `code`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.room = 1 << 40
        self.code = errno.ENOSPC
        self._write = os.write
        monkeypatch.setattr(spool_module.os, "write", self)

    def __call__(self, fd: int, data: bytes) -> int:
        self.calls += 1
        if not self.room:
            raise OSError(self.code, os.strerror(self.code))
        written = self._write(fd, data[: self.room])
        self.room -= written
        return written


async def test_one_write_per_loop_turn(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many lines a loop turn brings, they go to the file with one write, and all are told in order."""
    disk, answers = Disk(monkeypatch), Answers()
    for n in range(50):
        spool.intend(intent(str(n)), answers.then(f"i{n}"))
        spool.settle(record(str(n)), answers.then(f"s{n}"))
    assert answers.seen == [], "told before the write"
    await answers.wait(100)
    assert disk.calls == 1
    assert answers.seen == [(f"{kind}{n}", True) for n in range(50) for kind in "is"]
    assert spool.open_calls == 0


async def test_lines_are_there_when_then_runs(spool: Spool, tmp_path: Path) -> None:
    """At the moment a caller is told, another process can read the line."""
    found: list[dict[str, Any]] = []
    done = asyncio.Event()

    def look(ok: bool) -> None:
        found.extend(lines_of(list_files(tmp_path / "spool")[0].path))
        done.set()

    spool.settle(record("1"), look)
    await done.wait()
    assert [each["r"]["id"] for each in found] == ["req_1"]


async def test_a_callback_may_write_again(spool: Spool) -> None:
    """A line handed in from a callback is written in the next turn."""
    answers = Answers()
    spool.intend(intent("1"), lambda ok: spool.settle(record("1"), answers.then("s")))
    await answers.wait(1)
    assert answers.seen == [("s", True)]


async def test_a_failing_callback_is_alone(spool: Spool) -> None:
    """A callback that raises is reported to the loop and takes no other caller's answer with it."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    answers = Answers()

    def fail(ok: bool) -> None:
        raise RuntimeError("broken")

    spool.settle(record("1"), fail)
    spool.settle(record("2"), answers.then("2"))
    await answers.wait(1)
    assert [str(each["exception"]) for each in reports] == ["broken"]


async def test_short_writes_are_completed(spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes only a part is continued until all lines are in the file."""
    real = os.write
    monkeypatch.setattr(spool_module.os, "write", lambda fd, data: real(fd, data[:7]))
    answers = Answers()
    spool.settle(record("1"), answers.then("1"))
    spool.settle(record("2"), answers.then("2"))
    await answers.wait(2)
    assert answers.seen == [("1", True), ("2", True)]
    assert [each["r"]["id"] for each in lines_of(list_files(tmp_path / "spool")[0].path)] == ["req_1", "req_2"]


async def test_full_disk_splits_at_the_last_whole_line(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk fills within a group, whole lines count, the torn one is cut off, and its callers hear False."""
    disk, answers = Disk(monkeypatch), Answers()
    disk.room = 900
    for n in range(4):
        spool.settle(record(str(n)), answers.then(str(n)))
    await answers.wait(4)
    whole = lines_of(list_files(tmp_path / "spool")[0].path)
    assert [ok for _, ok in answers.seen] == [n < len(whole) for n in range(4)]
    assert 0 < len(whole) < 4
    assert not spool.writable


async def test_what_waits_is_written_when_there_is_space_again(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Settlements that a full disk refused are kept and written to a new file, once, as soon as it takes writes."""
    disk, answers = Disk(monkeypatch), Answers()
    spool.intend(intent("open"), answers.then("open"))
    await answers.wait(1)
    disk.room = 0
    for n in range(3):
        spool.settle(record(str(n)), answers.then(str(n)))
    spool.refuse("invalid_api_key", "a", 60_000, "")
    await answers.wait(4)
    assert not spool.writable
    disk.room = 1 << 40
    await until(lambda: spool.writable)
    spool.close()
    ids = [
        each["r"]["id"] for file in list_files(tmp_path / "spool") for each in lines_of(file.path) if each["t"] == "s"
    ]
    assert sorted(ids) == ["req_0", "req_1", "req_2"]
    assert "free space" in caplog.text
    assert "can be written again" in caplog.text


async def test_a_refused_intent_is_forgotten(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An intent that could not be written is not carried over: the call was not made."""
    disk, answers = Disk(monkeypatch), Answers()
    spool.intend(intent("1"), answers.then("1"))
    await answers.wait(1)
    disk.room = 0
    spool.intend(intent("1", n=2), answers.then("2"))
    spool.intend(intent("9"), answers.then("9"))
    await answers.wait(3)
    assert answers.seen == [("1", True), ("2", False), ("9", False)]
    assert spool.open_calls == 1


async def test_memory_for_what_waits_is_bounded(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the disk away for long, what does not fit in the stated memory is dropped and counted."""
    monkeypatch.setattr(spool_module, "KEPT_BYTES", 2000)
    disk, answers = Disk(monkeypatch), Answers()
    disk.room = 0
    for n in range(20):
        spool.settle(record(str(n)), answers.then(str(n)))
    await answers.wait(20)
    assert 0 < spool.dropped < 20


async def test_a_full_file_makes_way_for_a_new_one(tmp_path: Path) -> None:
    """A file past its size is closed and the next one begins with the intents that are still open."""
    spool = Spool(tmp_path / "spool", asyncio.get_running_loop(), sync_s=TICK_S, file_bytes=1)
    answers = Answers()
    spool.intend(intent("open", n=1), answers.then("1"))
    spool.intend(intent("open", n=2), answers.then("2"))
    spool.settle(record("other"), answers.then("3"))
    await answers.wait(3)
    await until(lambda: files(spool, tmp_path)[:1] == ["done"])
    first, *_, last = list_files(tmp_path / "spool")
    assert [each["t"] for each in lines_of(first.path)] == ["i", "i", "s"]
    assert [(each["id"], each["n"]) for each in lines_of(last.path)] == [("req_open", 1), ("req_open", 2)]
    spool.settle(record("open"), answers.then("4"))
    spool.close()
    assert answers.seen[-1] == ("4", True)
    assert "live" not in files(spool, tmp_path)


async def test_an_old_file_makes_way_too(tmp_path: Path) -> None:
    """A file past its age is closed if anything is in it, so that a quiet gateway leaves nothing behind."""
    spool = Spool(tmp_path / "spool", asyncio.get_running_loop(), sync_s=TICK_S, file_age_s=0.05)
    answers = Answers()
    spool.settle(record("1"), answers.then("1"))
    await until(lambda: files(spool, tmp_path) == ["done", "live"])
    spool.close()
    assert files(spool, tmp_path) == ["done"]


async def test_close_leaves_open_calls_to_the_next_start(tmp_path: Path) -> None:
    """A spool closed with a call in flight leaves its file as a dead process would, and lets go of its lock."""
    spool = Spool(tmp_path / "spool", asyncio.get_running_loop())
    answers = Answers()
    spool.intend(intent("1"), answers.then("1"))
    spool.close()
    assert answers.seen == [("1", True)], "close writes what waits"
    (file,) = list_files(tmp_path / "spool")
    assert not file.closed
    fd = os.open(file.path, os.O_RDONLY)
    assert try_lock(fd)
    os.close(fd)


async def test_close_is_final_and_harmless_twice(tmp_path: Path) -> None:
    """An unused spool leaves nothing; after close nothing raises and every answer is False."""
    spool = Spool(tmp_path / "spool", asyncio.get_running_loop())
    spool.close()
    spool.close()
    answers = Answers()
    spool.intend(intent("1"), answers.then("i"))
    spool.settle(record("1"), answers.then("s"))
    await answers.wait(2)
    assert sorted(answers.seen) == [("i", False), ("s", False)]
    assert list_files(tmp_path / "spool") == []


async def test_the_file_has_one_owner(spool: Spool, tmp_path: Path) -> None:
    """While the process lives, nobody else gets its file's lock."""
    (file,) = list_files(tmp_path / "spool")
    fd = os.open(file.path, os.O_RDONLY)
    assert not try_lock(fd)
    os.close(fd)


async def test_above_its_bound_it_takes_no_new_calls(tmp_path: Path) -> None:
    """With too much on disk new intents are refused, running calls are still settled, and space opens it again."""
    ballast = tmp_path / "spool" / "0other-000001.done.jsonl"
    ballast.parent.mkdir()
    ballast.write_bytes(b" " * 5000)
    spool = Spool(tmp_path / "spool", asyncio.get_running_loop(), sync_s=TICK_S, max_bytes=4000)
    answers = Answers()
    await until(lambda: not spool.writable)
    spool.intend(intent("1"), answers.then("i"))
    spool.settle(record("2"), answers.then("s"))
    await answers.wait(2)
    assert sorted(answers.seen) == [("i", False), ("s", True)]
    ballast.unlink()
    await until(lambda: spool.writable)
    spool.close()


async def test_refusals_are_written_every_few_ticks(spool: Spool, tmp_path: Path) -> None:
    """Refused calls reach the file by themselves, as counts."""
    for n in range(5):
        spool.refuse("invalid_api_key", "10.0.0.0/24", 60_000 + n, "no such key")
    (file,) = list_files(tmp_path / "spool")
    await until(lambda: file.path.stat().st_size > 0)
    (found,) = lines_of(file.path)
    assert (found["t"], found["reason"], found["count"], found["minute"]) == ("r", "invalid_api_key", 5, 1)


async def test_a_plan_stands_before_its_records_once(spool: Spool, tmp_path: Path) -> None:
    """A plan is written with the lines of its turn, ahead of the record that refers to it, and not again."""
    answers = Answers()
    for n in range(3):
        spool.plan(plan("a"))
        spool.settle(record(str(n), plan="plan_a"), answers.then(str(n)))
    spool.plan(plan("b"))
    await answers.wait(3)
    found = lines_of(list_files(tmp_path / "spool")[0].path)
    assert [each["t"] for each in found] == ["p", "s", "s", "s", "p"]
    assert found[0] == {"t": "p", "id": "plan_a", "plan": {"strategy": "cheapest"}}


async def test_the_memory_of_plans_is_bounded(spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When more plans than the stated number came in between, a plan is written again."""
    monkeypatch.setattr(spool_module, "MAX_PLANS", 2)
    answers = Answers()
    for name in ("a", "b", "a", "c", "a", "c"):
        spool.plan(plan(name))
    spool.settle(record("1"), answers.then("1"))
    await answers.wait(1)
    found = lines_of(list_files(tmp_path / "spool")[0].path)
    assert [each["id"] for each in found if each["t"] == "p"] == ["plan_a", "plan_b", "plan_c", "plan_a"]


async def test_a_plan_in_use_is_written_again_in_time(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is told again and again of a plan that requests go on referring to, so that it does not go stale."""
    monkeypatch.setattr(spool_module, "PLANS_S", 0.0)

    def written() -> int:
        spool.plan(plan("a"))
        return len(lines_of(list_files(tmp_path / "spool")[0].path))

    await until(lambda: written() >= 2)


async def test_plans_wait_for_nothing(spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the disk away plans neither fill the memory nor count as dropped records; afterwards they come again."""
    monkeypatch.setattr(spool_module, "KEPT_BYTES", 10)
    disk, answers = Disk(monkeypatch), Answers()
    disk.room = 0
    spool.plan(plan("a"))
    spool.settle(record("1"), answers.then("1"))
    await answers.wait(1)
    spool.plan(plan("b"))
    assert spool.dropped == 1
    disk.room = 1 << 40
    await until(lambda: spool.writable)
    for name in ("a", "b"):
        spool.plan(plan(name))
    spool.settle(record("2"), answers.then("2"))
    await answers.wait(2)
    found = [each for file in list_files(tmp_path / "spool") for each in lines_of(file.path)]
    names = [each.get("id") for each in found]
    assert names[-1] is None, "the record comes last"
    assert sorted(names[:-1]) == ["plan_a", "plan_b"]


async def test_a_plan_is_kept_with_the_record_that_refers_to_it(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is first decided while nothing can be written is written with what waits for the disk, and before it."""
    disk, answers = Disk(monkeypatch), Answers()
    disk.room = 0
    spool.settle(record("1"), answers.then("1"))
    await answers.wait(1)
    assert not spool.writable
    spool.plan(plan("late"))
    spool.settle(record("2", plan="plan_late"), answers.then("2"))
    await answers.wait(2)
    disk.room = 1 << 40
    await until(lambda: spool.writable)
    found = [each for file in list_files(tmp_path / "spool") for each in lines_of(file.path)]
    kinds = [each["t"] for each in found]
    assert kinds == ["s", "p", "s"]
    assert spool.dropped == 0


async def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """A spool that cannot exist is said at start, not at the first request."""
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(OSError, match="spool"):
        Spool(tmp_path / "spool", asyncio.get_running_loop())


async def test_a_record_that_cannot_be_encoded_is_written_all_the_same(spool: Spool, tmp_path: Path) -> None:
    """Text that is no UTF-8 and numbers beyond 64 bits are made safe: the call is settled and its caller told."""
    answers = Answers()
    spool.intend(intent("1"), answers.then("i"))
    bad = "a\ud800"
    failed = attempt(error=bad, status=503)
    spool.settle(
        record(
            "1", finish_reason=bad, error_code=bad, user=bad, tags=(bad,), model=bad, attempts=(failed,),
            usage=TokenUsage(1 << 70, 2),
        ),
        answers.then("s"),
    )  # fmt: skip
    await answers.wait(2)
    assert answers.seen == [("i", True), ("s", True)]
    assert spool.open_calls == 0
    found = lines_of(list_files(tmp_path / "spool")[0].path)[-1]["r"]
    assert [found[name] for name in ("finish_reason", "error_code", "user", "tags", "model")] == [
        "a?", "a?", "a?", ["a?"], "a?"
    ]  # fmt: skip
    assert (found["attempts"][0]["error"], found["attempts"][0]["status"]) == ("a?", 503)
    assert found["usage"] == {"input_tokens": 1 << 53, "output_tokens": 2}


async def test_a_record_that_nothing_can_encode_is_left_to_the_next_start(spool: Spool) -> None:
    """A record with a foreign object in it is given up and counted; its call stays open, its caller hears False."""
    answers = Answers()
    spool.intend(intent("1"), answers.then("i"))
    spool.settle(record("1", route=object()), answers.then("s"))
    await answers.wait(2)
    assert sorted(answers.seen) == [("i", True), ("s", False)]
    assert (spool.open_calls, spool.dropped) == (1, 1)


async def test_a_torn_write_cuts_nothing_that_was_acknowledged(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a torn line that could not be cut off, the next torn write is cut where it began in the file."""
    disk, answers = Disk(monkeypatch), Answers()
    real = os.ftruncate

    def refuse(fd: int, size: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(spool, "_due", False)
    spool._timer.cancel()  # type: ignore[union-attr] — no new file in between
    with monkeypatch.context() as patch:
        patch.setattr(spool_module.os, "ftruncate", refuse)
        disk.room = 100
        spool.settle(record("torn"), answers.then("torn"))
        await answers.wait(1)
    disk.room = 1 << 40
    spool.settle(record("1"), answers.then("1"))
    await answers.wait(2)
    disk.room = 50
    spool.settle(record("2"), answers.then("2"))
    await answers.wait(3)
    assert answers.seen == [("torn", False), ("1", True), ("2", False)]
    assert spool_module.os.ftruncate is real
    first, second = list_files(tmp_path / "spool")[0].path.read_bytes().splitlines(keepends=True)
    assert len(first) == 101
    assert second == line(record("1"))
