"""From the spool to the database: everything, once."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from spool_lines import AT_MS, attempt, intent, line, make_home, plan, record

from potluck.ledger import importer as importer_module
from potluck.ledger.importer import Importer
from potluck.ledger.rows import MAX_NUMBER
from potluck.model.usage import Answered, AttemptRecord, RefusalCount, Settlement, TokenUsage


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path)


_opened: list[Importer] = []


@pytest.fixture(autouse=True)
def _close_importers() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().reset()


def importer(home: Path) -> Importer:
    _opened.append(Importer(home / "spool", home / "usage.db"))
    return _opened[-1]


def ask(home: Path, query: str) -> list[Any]:
    connection = sqlite3.connect(home / "usage.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def totals(home: Path) -> tuple[int, int, int]:
    """Rows, requests by the hourly sums, and requests by the sums per user."""
    return ask(
        home,
        "SELECT (SELECT count(*) FROM requests), (SELECT coalesce(sum(requests), 0) FROM usage_hours), "
        "(SELECT coalesce(sum(requests), 0) FROM usage_user_hours)",
    )[0]


def test_a_record_becomes_a_row_and_sums(home: Path) -> None:
    """Every field of a record is in its row, and the hour of its acceptance has its sums."""
    made = record("1", user="u", tags=("a", "b"), stream=True, route="frugal")
    (home / "spool/0a-000001.jsonl").write_bytes(line(intent("1")) + line(made))
    work = importer(home)
    assert work.poll() is True
    assert work.imported == 1
    connection = sqlite3.connect(home / "usage.db")
    connection.row_factory = sqlite3.Row
    row = dict(connection.execute("SELECT * FROM requests").fetchone())
    sums = dict(connection.execute("SELECT * FROM usage_hours").fetchone())
    connection.close()
    assert (row["id"], row["end_user"], row["tags"], row["stream"], row["route"]) == (
        "req_1",
        "u",
        '["a","b"]',
        1,
        "frugal",
    )
    assert msgspec.json.decode(row["attempts"]) == [msgspec.to_builtins(each) for each in made.attempts]
    assert (sums["hour"], sums["model"], sums["requests"], sums["errors"]) == (AT_MS // 3_600_000, "small", 1, 0)
    assert (sums["input_tokens"], sums["cached_input_tokens"], sums["cost_nanousd"]) == (20, 4, 700)
    assert totals(home) == (1, 1, 1)


def test_the_attempt_that_answered_is_written_out(home: Path) -> None:
    """What the record says once stands in the row's attempts in full, after those that failed."""
    answered = Answered(2, "crd_1", 5, 10, 100, 900, price_version="catalog:1")
    failed = attempt(1, error_class="target_down", status=503)
    (home / "spool/0a-000001.jsonl").write_bytes(
        line(record("1", attempts=(failed,), answered=answered)) + line(record("2", attempts=(), answered=answered))
    )
    importer(home).poll()
    last = attempt(
        2,
        target_id="tgt_1",
        target="provider-1/small",
        provider_id="prv_1",
        credential_id="crd_1",
        status=200,
        start_us=5,
        connected_us=10,
        first_byte_us=100,
        end_us=900,
        usage=TokenUsage(input_tokens=20, output_tokens=5, cached_input_tokens=4),
        cost_nanousd=700,
        price_version="catalog:1",
    )
    rows = ask(home, "SELECT attempts FROM requests ORDER BY id")
    assert [msgspec.json.decode(row[0], type=list[AttemptRecord]) for row in rows] == [[failed, last], [last]]
    assert b'"status":200' in rows[1][0].encode()


def test_the_answer_of_a_resumed_stream_keeps_its_own_share(home: Path) -> None:
    """The row has the sum over the attempts, its last attempt what it took part in itself, and why it was made."""
    cut = attempt(1, error_class="target_down", phase="stream", usage=TokenUsage(20, 3), cost_nanousd=300)
    answered = Answered(2, None, 5, 10, 100, 900, cost_nanousd=400, kind="resume", usage=TokenUsage(23, 2))
    made = record("1", attempts=(cut,), answered=answered, usage=TokenUsage(43, 5), cost_nanousd=700)
    (home / "spool/0a-000001.jsonl").write_bytes(line(made))
    importer(home).poll()
    ((stored, tokens, cost),) = ask(home, "SELECT attempts, input_tokens, cost_nanousd FROM requests")
    first, last = msgspec.json.decode(stored, type=list[AttemptRecord])
    assert first == cut
    assert (last.kind, last.usage, last.cost_nanousd) == ("resume", TokenUsage(23, 2), 400)
    assert (tokens, cost) == (43, 700)


def test_a_cost_that_rests_on_an_estimate_is_marked(home: Path) -> None:
    """Where a call beside the one that answered was counted from lengths, the request is estimated in part."""
    loser = attempt(2, kind="hedge", usage=TokenUsage(20, 1, estimated=True), cost_nanousd=90)
    said = attempt(2, error='"estimated":true')
    answered = Answered(1, None, 5, 10, 100, 900, cost_nanousd=700)
    (home / "spool/0a-000001.jsonl").write_bytes(
        line(record("1", attempts=(loser,), answered=answered, cost_nanousd=790))
        + line(record("2", attempts=(said,), answered=answered))
        + line(record("3", attempts=(), answered=answered))
    )
    importer(home).poll()
    assert ask(home, "SELECT estimated FROM requests ORDER BY id") == [(1,), (0,), (0,)]
    assert ask(home, "SELECT requests, estimated, cost_nanousd FROM usage_hours") == [(3, 1, 2190)]


def test_a_plan_is_kept_once(home: Path) -> None:
    """However often a plan is written it has one row, which says when that was last; records refer to it."""
    path = home / "spool/0a-000001.jsonl"
    path.write_bytes(line(plan("a", n=1)) + line(record("1", plan="plan_a")) + line(plan("a", n=1)) + line(plan("b")))
    work = importer(home)
    work.poll()
    assert ask(home, "SELECT id, plan FROM plans ORDER BY id") == [
        ("plan_a", '{"strategy":"cheapest","n":1}'),
        ("plan_b", '{"strategy":"cheapest"}'),
    ]
    assert ask(home, "SELECT plan FROM requests") == [("plan_a",)]
    connection = sqlite3.connect(home / "usage.db")
    with connection:
        connection.execute("UPDATE plans SET at_ms = 1")
    connection.close()
    with path.open("ab") as file:
        file.write(line(plan("a", n=1)))
    work.poll()
    assert ask(home, "SELECT id FROM plans WHERE at_ms > 1") == [("plan_a",)]


def test_plans_that_nothing_refers_to_any_more_go(home: Path) -> None:
    """A plan that no gateway has written for a month goes when a closed file does; a younger one stays."""
    connection = sqlite3.connect(home / "usage.db")
    now_ms = int(time.time() * 1000)
    day_ms = 86_400_000
    with connection:
        connection.executemany(
            "INSERT INTO plans VALUES (?, '{}', ?)", [("old", now_ms - 31 * day_ms), ("young", now_ms - 29 * day_ms)]
        )
    connection.close()
    (home / "spool/0a-000001.done.jsonl").write_bytes(line(record("1")))
    importer(home).poll()
    assert ask(home, "SELECT id FROM plans") == [("young",)]


def test_outcomes_are_summed_by_kind(home: Path) -> None:
    """Errors, hang-ups, lost and unpriced calls and estimates are counted apart."""
    (home / "spool/0a-000001.jsonl").write_bytes(
        line(record("1"))
        + line(record("2", outcome="upstream_error"))
        + line(record("3", outcome="client_closed", usage=TokenUsage(1, 1, estimated=True)))
        + line(record("4", outcome="lost", cost_nanousd=None))
        + line(record("5", outcome="no_target", usage=None, first_content_us=-1))
    )
    importer(home).poll()
    columns = "requests, errors, client_closed, lost, estimated, unpriced, cost_nanousd, first_contents"
    assert ask(home, f"SELECT {columns} FROM usage_hours") == [(5, 3, 1, 1, 1, 1, 2800, 4)]


def test_twice_is_once(home: Path) -> None:
    """The same lines again, in the same file, another file or another importer, change nothing."""
    data = line(record("1", user="u")) + line(record("2", user="u"))
    (home / "spool/0a-000001.jsonl").write_bytes(data + data)
    (home / "spool/0b-000001.jsonl").write_bytes(data)
    first, second = importer(home), importer(home)
    first.poll()
    second.poll()
    first.poll()
    assert totals(home) == (2, 2, 2)


def test_the_first_settlement_wins(home: Path) -> None:
    """A later settlement of the same request, as a replay may write, leaves row and sums as they are."""
    (home / "spool/0a-000001.jsonl").write_bytes(line(record("1")) + line(record("1", outcome="lost", cost_nanousd=9)))
    importer(home).poll()
    assert ask(home, "SELECT outcome, cost_nanousd FROM requests") == [("ok", 700)]
    assert ask(home, "SELECT lost, cost_nanousd FROM usage_hours") == [(0, 700)]


def test_it_follows_a_growing_file(home: Path) -> None:
    """Lines are taken as they come; a line without its newline waits for the rest."""
    path = home / "spool/0a-000001.jsonl"
    whole = line(record("2"))
    path.write_bytes(line(record("1")) + whole[:100])
    work = importer(home)
    assert work.poll() is True
    assert work.poll() is False
    assert totals(home)[0] == 1
    with path.open("ab") as file:
        file.write(whole[100:])
    assert work.poll() is True
    assert totals(home)[0] == 2


def test_an_importer_that_dies_leaves_its_place(home: Path) -> None:
    """A new importer goes on where the last transaction ended."""
    path = home / "spool/0a-000001.jsonl"
    path.write_bytes(line(record("1")))
    importer(home).poll()
    with path.open("ab") as file:
        file.write(line(record("2")))
    work = importer(home)
    work.poll()
    assert work.imported == 1
    assert totals(home)[0] == 2


def test_batches_are_cut_at_lines(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file much larger than a batch, and a line larger than a batch, are imported whole."""
    monkeypatch.setattr(importer_module, "CHUNK_BYTES", 300)
    data = b"".join(line(record(str(n), user="u")) for n in range(20))
    (home / "spool/0a-000001.jsonl").write_bytes(data + line(record("long", error_code="x" * 5000)))
    importer(home).poll()
    assert totals(home) == (21, 21, 20)


def test_closed_files_go_when_they_are_imported(home: Path) -> None:
    """A closed file is deleted once all of it is in the database on the disk; an open one stays, torn ends too."""
    closed, opened = home / "spool/0a-000001.done.jsonl", home / "spool/0a-000002.jsonl"
    closed.write_bytes(line(record("1")) + b'{"t":"s"')
    opened.write_bytes(line(record("2")))
    work = importer(home)
    work.poll()
    assert not closed.exists()
    assert opened.exists()
    assert ask(home, "SELECT stem FROM spool_files") == [("0a-000002",)]
    opened.rename(home / "spool/0a-000002.done.jsonl")
    work.poll()
    assert list((home / "spool").iterdir()) == []
    assert ask(home, "SELECT * FROM spool_files") == []
    assert totals(home)[0] == 2


def test_a_reader_delays_deletion_only(home: Path) -> None:
    """While a long report holds on to an older state, records are imported but no file is deleted."""
    first = home / "spool/0a-000001.jsonl"
    first.write_bytes(line(record("1")))
    work = importer(home)
    work.poll()
    reader = sqlite3.connect(home / "usage.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM requests").fetchone()
    with first.open("ab") as file:
        file.write(line(record("2")))
    first.rename(home / "spool/0a-000001.done.jsonl")
    work.poll()
    assert totals(home)[0] == 2
    assert (home / "spool/0a-000001.done.jsonl").exists()
    reader.close()
    work.poll()
    assert list((home / "spool").iterdir()) == []


def test_unreadable_lines_are_passed_over_and_said(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nonsense in a file costs itself alone, and the log says how much of it there was."""
    (home / "spool/0a-000001.jsonl").write_bytes(b"\0\0\n{}\n   \n\n" + line(record("1")))
    importer(home).poll()
    assert totals(home)[0] == 1
    assert "2 unreadable lines" in caplog.text


def test_absurd_numbers_are_cut(home: Path) -> None:
    """A count that no database column holds is cut, and does not block what comes after it."""
    absurd = msgspec.json.encode(Settlement(record("1"))).replace(b'"input_tokens":20', b'"input_tokens":' + b"9" * 40)
    (home / "spool/0a-000001.jsonl").write_bytes(absurd + b"\n" + line(record("2")))
    importer(home).poll()
    assert ask(home, "SELECT id, input_tokens FROM requests ORDER BY id") == [("req_1", MAX_NUMBER), ("req_2", 20)]
    assert ask(home, "SELECT input_tokens FROM usage_hours") == [(MAX_NUMBER + 20,)]


def test_refusals_add_up(home: Path) -> None:
    """Counts of one minute, reason and caller add up over lines and files; the first one's words stay."""
    (home / "spool/0a-000001.jsonl").write_bytes(
        line(RefusalCount("invalid_api_key", "a", 7, 3, 420_001, "no such key"))
        + line(RefusalCount("invalid_api_key", "a", 7, 2))
        + line(RefusalCount("invalid_api_key", "b", 7, 1, 420_009, "expired"))
    )
    work = importer(home)
    work.poll()
    importer(home).poll()
    assert ask(home, "SELECT who, requests, first_at_ms, detail FROM refusals ORDER BY who") == [
        ("a", 5, 420_001, "no such key"),
        ("b", 1, 420_009, "expired"),
    ]


def test_a_locked_database_loses_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process holds the database the poll fails and can be repeated; then all is there."""
    monkeypatch.setattr(importer_module, "LOCK_WAIT_S", 0.05)
    (home / "spool/0a-000001.done.jsonl").write_bytes(line(record("1")))
    other = sqlite3.connect(home / "usage.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    work = importer(home)
    for _ in range(3):
        with pytest.raises(sqlite3.OperationalError):
            work.poll()
        work.reset()
    other.execute("ROLLBACK")
    other.close()
    assert work.poll() is True
    assert totals(home) == (1, 1, 0)


def test_a_failed_batch_leaves_no_half(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the last statement of a batch fails, rows, sums and place in the file are as before it."""
    lines = line(record("1", user="u")) + line(RefusalCount("invalid_api_key", "a", 7, 3))
    (home / "spool/0a-000001.jsonl").write_bytes(lines)
    with monkeypatch.context() as patch:
        patch.setattr(importer_module, "UPSERT_REFUSALS", "INSERT INTO nowhere VALUES (1)")
        work = importer(home)
        with pytest.raises(sqlite3.OperationalError):
            work.poll()
        assert totals(home) == (0, 0, 0)
        assert work.imported == 0
    work.poll()
    assert totals(home) == (1, 1, 1)


def test_a_database_that_is_away_comes_back(home: Path) -> None:
    """With the database file gone nothing is made in its place; when it is back, the records go there."""
    (home / "spool/0a-000001.jsonl").write_bytes(line(record("1")))
    (home / "usage.db").rename(home / "away.db")
    work = importer(home)
    with pytest.raises(OSError, match=r"usage\.db"):
        work.poll()
    assert not (home / "usage.db").exists()
    (home / "away.db").rename(home / "usage.db")
    work.reset()
    work.poll()
    assert totals(home)[0] == 1


def test_a_database_replaced_while_open_is_noticed(tmp_path: Path, home: Path) -> None:
    """After a restore put another file in its place, records go into that one."""
    work = importer(home)
    (home / "spool/0a-000001.jsonl").write_bytes(line(record("1")))
    work.poll()
    other = tmp_path / "other"
    other.mkdir()
    make_home(other)
    for suffix in ("", "-wal", "-shm"):
        (home / f"usage.db{suffix}").unlink(missing_ok=True)
    (other / "usage.db").rename(home / "usage.db")
    work.poll()
    assert totals(home)[0] == 1, "the file in the spool is imported into the new database"


@pytest.mark.parametrize("closed", [False, True])
def test_a_file_that_a_listing_misses_is_not_counted_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    """A listing taken during a rename may show neither name: the place in the file is kept, also over a new start."""
    path = home / "spool/0a-000001.jsonl"
    path.write_bytes(line(RefusalCount("invalid_api_key", "a", 7, 3)) + line(record("1")))
    importer(home).poll()
    with monkeypatch.context() as patch:
        patch.setattr(importer_module, "list_files", lambda directory: [])
        work = importer(home)
        work.poll()
    if closed:
        path.rename(home / "spool/0a-000001.done.jsonl")
    work.poll()
    importer(home).poll()
    assert ask(home, "SELECT requests FROM refusals") == [(3,)]
    assert totals(home) == (1, 1, 0)


def test_a_spool_that_is_away_is_not_forgotten(home: Path) -> None:
    """While the spool's directory is not there, places in its files are kept."""
    (home / "spool/0a-000001.jsonl").write_bytes(line(RefusalCount("invalid_api_key", "a", 7, 3)))
    importer(home).poll()
    (home / "spool").rename(home / "away")
    work = importer(home)
    work.poll()
    (home / "away").rename(home / "spool")
    importer(home).poll()
    assert ask(home, "SELECT requests FROM refusals") == [(3,)]


def test_places_in_files_that_are_gone_go(home: Path) -> None:
    """What was deleted by another hand leaves no place behind."""
    path = home / "spool/0a-000001.jsonl"
    path.write_bytes(line(record("1")))
    importer(home).poll()
    path.unlink()
    importer(home).poll()
    assert ask(home, "SELECT * FROM spool_files") == []
