"""Spool files with damaged bytes: what is readable counts, the rest costs itself alone, nothing stops the work."""

import sqlite3
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.ledger.importer import Importer
from potluck.ledger.replay import replay
from potluck.ledger.reports import list_requests, request_detail
from potluck.model.usage import AttemptRecord, Intent, PlanLine, RefusalCount, Settlement, TokenUsage, UsageRecord
from potluck.store.schema import ensure_schema

FIELDS: dict[str, Any] = {
    "at_ms": 1_790_000_000_000,
    "organisation_id": "org_1",
    "project_id": "prj_1",
    "key_id": "key_1",
    "endpoint": "chat",
    "model": "modèle 🍲 \x00",
    "target_id": "tgt_1",
    "target": "openai/small",
    "provider_id": "prv_1",
    "user": "ann",
    "tags": ("é", "b"),
}


def lines() -> list[bytes]:
    made: list[bytes] = []
    for n in range(3):
        attempts = (AttemptRecord(1, "tgt_1", "openai/small", "prv_1", error="ü", usage=TokenUsage(1, 2)),)
        made.append(msgspec.json.encode(PlanLine(f"plan_{n}", msgspec.Raw('{"why":"ü","score":2.5}'.encode()))))
        made.append(msgspec.json.encode(Intent(id=f"req_{n}", n=1, **FIELDS)))
        done = UsageRecord(
            id=f"req_{n}",
            outcome="ok",
            status=200,
            usage=TokenUsage(7, 3),
            attempts=attempts,
            plan=f"plan_{n}",
            **FIELDS,
        )
        made.append(msgspec.json.encode(Settlement(done)))
        made.append(msgspec.json.encode(RefusalCount("invalid_api_key", "ä", n, 1, 5, "ö")))
    made.append(msgspec.json.encode(Intent(id="req_open", n=1, **FIELDS)))
    return made


@lru_cache(maxsize=1)
def empty_database() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "usage.db"
        ensure_schema(path, "usage")
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return path.read_bytes()


WHOLE = b"\n".join(lines()) + b"\n"
DAMAGE = st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=3)), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(DAMAGE)
def test_damaged_bytes_stop_nothing(damage: list[tuple[int, bytes]]) -> None:
    """Whatever bytes stand in a spool file, replay and importer come to its end, sums agree with rows, all is shown."""
    data = bytearray(WHOLE)
    for place, patch in damage:
        data[place : place + len(patch)] = patch
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        (home / "usage.db").write_bytes(empty_database())
        (home / "spool").mkdir()
        (home / "spool/0a-000001.jsonl").write_bytes(data)
        (home / "spool/0b-000001.done.jsonl").write_bytes(WHOLE)
        assert replay(home / "spool").errors == []
        work = Importer(home / "spool", home / "usage.db")
        work.poll()
        work.close()
        assert list((home / "spool").iterdir()) == []
        with sqlite3.connect(home / "usage.db") as connection:
            ((rows, sums),) = connection.execute(
                "SELECT (SELECT count(*) FROM requests), (SELECT sum(requests) FROM usage_hours)"
            ).fetchall()
        connection.close()
        assert rows == sums >= 3, "the undamaged file is there whole"
        for record in list_requests(home / "usage.db")["data"]:
            assert request_detail(home / "usage.db", record["id"]) is not None
