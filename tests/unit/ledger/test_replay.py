"""What dead processes left open becomes `lost`, once."""

import fcntl
import os
from pathlib import Path

import msgspec
import pytest
from spool_lines import attempt, intent, line, lines_of, plan, record

from potluck.ledger import replay as replay_module
from potluck.ledger.files import list_files
from potluck.ledger.replay import replay
from potluck.model.usage import RefusalCount, TokenUsage, UsageRecord


def lay(directory: Path, name: str, *parts: bytes) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_bytes(b"".join(parts))
    return path


def settled(directory: Path) -> dict[str, UsageRecord]:
    """All records in the spool, by id. Fails when one stands twice."""
    found: dict[str, UsageRecord] = {}
    for file in list_files(directory):
        for each in lines_of(file.path):
            if each["t"] == "s":
                assert each["r"]["id"] not in found
                found[each["r"]["id"]] = msgspec.convert(each["r"], UsageRecord)
    return found


def test_an_open_call_is_lost_at_what_was_reserved(tmp_path: Path) -> None:
    """A call in flight at the death of its process is settled at its reservation, marked as estimated."""
    lay(tmp_path, "0a-000001.jsonl", line(intent("1", user="u", tags=("x",), stream=True, price_version="catalog:1")))
    summary = replay(tmp_path)
    assert (summary.files, summary.lines, summary.lost, summary.corrupt, summary.errors) == (1, 1, 1, 0, [])
    lost = settled(tmp_path)["req_1"]
    assert lost == UsageRecord(
        id="req_1",
        at_ms=lost.at_ms,
        organisation_id="org_1",
        project_id="prj_1",
        key_id="key_1",
        endpoint="chat",
        model="small",
        outcome="lost",
        status=0,
        stream=True,
        user="u",
        tags=("x",),
        target_id="tgt_1",
        target="provider-1/small",
        provider_id="prv_1",
        usage=TokenUsage(10, 100, estimated=True),
        cost_nanousd=1000,
        error_code="lost",
        attempts=(
            attempt(
                error_class="lost",
                error="the gateway died while the call was in flight",
                usage=TokenUsage(10, 100, estimated=True),
                cost_nanousd=1000,
                price_version="catalog:1",
            ),
        ),
    )
    assert [file.closed for file in list_files(tmp_path)] == [True]


def test_settled_calls_stay_as_they_are(tmp_path: Path) -> None:
    """A call with a settlement is not touched, wherever in the process's files the two lines stand."""
    lay(tmp_path, "0a-000001.jsonl", line(intent("1")), line(intent("2")), line(record("1")))
    lay(tmp_path, "0a-000002.jsonl", line(intent("2")), line(intent("3")), line(record("2")), line(record("3")))
    assert replay(tmp_path).lost == 0
    assert {each.outcome for each in settled(tmp_path).values()} == {"ok"}


def test_attempts_that_nobody_ended_are_all_charged(tmp_path: Path) -> None:
    """Of a request with several intents, those that no later intent reports as ended count as in flight."""
    lay(tmp_path, "0a-000001.jsonl", line(intent("1", n=1)), line(intent("1", n=2, kind="hedge")))
    assert replay(tmp_path).lost == 1
    lost = settled(tmp_path)["req_1"]
    assert [(each.n, each.kind) for each in lost.attempts] == [(1, "first"), (2, "hedge")]
    assert lost.cost_nanousd == 1000 + 2000
    assert lost.target == "provider-2/small"


def test_attempts_that_had_ended_are_taken_as_they_ended(tmp_path: Path) -> None:
    """An attempt that a later intent reports as failed keeps its error and its own cost."""
    ended = attempt(n=1, error_class="target_down", status=503)
    lay(tmp_path, "0a-000001.jsonl", line(intent("1", n=1)), line(intent("1", n=2, failed=(ended,))))
    replay(tmp_path)
    lost = settled(tmp_path)["req_1"]
    assert lost.attempts[0] == ended
    assert lost.attempts[1].error_class == "lost"
    assert lost.cost_nanousd == 2000


def test_twice_is_once(tmp_path: Path) -> None:
    """A second replay finds nothing left to do."""
    lay(tmp_path, "0a-000001.jsonl", line(intent("1")))
    assert replay(tmp_path).lost == 1
    again = replay(tmp_path)
    assert (again.lost, again.files) == (0, 0)
    assert len(settled(tmp_path)) == 1


@pytest.mark.parametrize("step", ["close_file", "sync_directory", "_append"])
def test_killed_at_a_step_it_is_done_again(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended before or between any two of its steps, the next replay completes it, and each call is lost once."""

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    lay(tmp_path, "0a-000001.jsonl", line(intent("1")))
    lay(tmp_path, "0a-000002.jsonl", line(intent("1")), line(intent("2")), b'{"t":"s","r":{"id"')
    with monkeypatch.context() as patch:
        patch.setattr(replay_module, step, die)
        with pytest.raises(Killed):
            replay(tmp_path)
    replay(tmp_path)
    assert {name: each.outcome for name, each in settled(tmp_path).items()} == {"req_1": "lost", "req_2": "lost"}
    assert [file.closed for file in list_files(tmp_path)] == [True, True]


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    """What follows the last newline never counted: the settlement that it would have been is lost instead."""
    whole = line(record("1"))
    lay(tmp_path, "0a-000001.jsonl", line(intent("1")), whole[:-1])
    assert replay(tmp_path).lost == 1
    assert settled(tmp_path)["req_1"].outcome == "lost"


def test_unreadable_lines_are_counted_and_passed_over(tmp_path: Path) -> None:
    """Zeros and half lines from a power loss cost nothing but themselves; blank lines are nothing."""
    torn = line(record("2"))[:50] + b"\n"
    lay(
        tmp_path,
        "0a-000001.jsonl",
        line(intent("1")),
        b"\0" * 100 + b"\n",
        torn,
        b"   \n\n",
        b"[]\n",
        line(record("1")),
    )
    summary = replay(tmp_path)
    assert (summary.corrupt, summary.lost) == (3, 0)


def test_refusal_counts_are_no_calls(tmp_path: Path) -> None:
    """Counts of refused calls pass the replay untouched."""
    lay(tmp_path, "0a-000001.jsonl", line(RefusalCount("invalid_api_key", "a", 1, 5)))
    summary = replay(tmp_path)
    assert (summary.lost, summary.corrupt, summary.lines) == (0, 0, 1)


def test_plans_are_no_calls(tmp_path: Path) -> None:
    """Routing decisions pass the replay untouched, and stand before the calls that it settles."""
    path = lay(tmp_path, "0a-000001.jsonl", line(plan("1")), line(intent("1")))
    summary = replay(tmp_path)
    assert (summary.lost, summary.corrupt, summary.lines) == (1, 0, 2)
    done = path.with_name("0a-000001.done.jsonl")
    assert [each["t"] for each in lines_of(done)] == ["p", "i", "s"]


def test_the_living_are_left_alone(tmp_path: Path) -> None:
    """A file whose owner lives is not read, not written, not closed; others are."""
    alive = lay(tmp_path, "0a-000001.jsonl", line(intent("1")))
    lay(tmp_path, "0b-000001.jsonl", line(intent("2")))
    with alive.open("rb") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert replay(tmp_path).lost == 1
    assert alive.read_bytes() == line(intent("1"))
    assert list(settled(tmp_path)) == ["req_2"]
    assert replay(tmp_path).lost == 1


def test_empty_files_go(tmp_path: Path) -> None:
    """A process that died before its first line leaves nothing."""
    lay(tmp_path, "0a-000001.jsonl")
    replay(tmp_path)
    assert list_files(tmp_path) == []


def test_closed_and_foreign_files_are_not_touched(tmp_path: Path) -> None:
    """Only open spool files are read."""
    lay(tmp_path, "0a-000001.done.jsonl", line(intent("1")))
    lay(tmp_path, "notes.txt", b"hello")
    assert replay(tmp_path).files == 0
    assert replay(tmp_path / "absent").files == 0


def test_a_full_disk_is_said_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the lost lines cannot be written the file stays open, nothing half is left, and the next start does it."""
    path = lay(tmp_path, "0a-000001.jsonl", line(intent("1")))
    real = os.write

    def fill(fd: int, data: bytes) -> int:
        """The first twenty bytes fit."""
        if path.stat().st_size > size:
            raise OSError(28, "No space left on device")
        return real(fd, data[:20])

    size = path.stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr(replay_module.os, "write", fill)
        summary = replay(tmp_path)
    assert (summary.lost, len(summary.errors)) == (0, 1)
    assert "No space left" in summary.errors[0]
    assert path.read_bytes() == line(intent("1"))
    assert replay(tmp_path).lost == 1


def test_without_a_reservation_input_is_estimated_and_the_cost_unknown(tmp_path: Path) -> None:
    """A lost call that nothing was reserved for is not free: its input is estimated by size, its cost is not said."""
    nothing = {"reserved_nanousd": 0, "reserved_input_tokens": 0, "reserved_output_tokens": 0, "request_bytes": 401}
    lay(tmp_path, "0a-000001.jsonl", line(intent("1", **nothing)))
    replay(tmp_path)
    lost = settled(tmp_path)["req_1"]
    assert (lost.usage, lost.cost_nanousd) == (TokenUsage(101, 0, estimated=True), None)
    assert (lost.attempts[0].usage, lost.attempts[0].cost_nanousd) == (lost.usage, None)


def test_known_costs_add_up_beside_unknown_ones(tmp_path: Path) -> None:
    """What an ended attempt or a reservation says of the cost is kept where another attempt's is unknown."""
    ended = attempt(n=1, error_class="target_down", cost_nanousd=5, usage=TokenUsage(3, 4))
    nothing = {"reserved_nanousd": 0, "reserved_input_tokens": 0, "reserved_output_tokens": 0, "request_bytes": 8}
    lay(tmp_path, "0a-000001.jsonl", line(intent("1", n=2, failed=(ended,), **nothing)))
    replay(tmp_path)
    lost = settled(tmp_path)["req_1"]
    assert (lost.usage, lost.cost_nanousd) == (TokenUsage(5, 4, estimated=True), 5)
