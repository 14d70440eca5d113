"""Intents and records as the exchange makes them, for the tests of the ledger."""

from pathlib import Path
from typing import Any

import msgspec

from potluck.model.usage import AttemptRecord, Intent, PlanLine, RefusalCount, Settlement, TokenUsage, UsageRecord
from potluck.store.schema import ensure_schema

AT_MS = 1_790_000_000_000


def intent(name: str, n: int = 1, **changes: Any) -> Intent:
    fields: dict[str, Any] = {
        "id": f"req_{name}",
        "n": n,
        "at_ms": AT_MS,
        "organisation_id": "org_1",
        "project_id": "prj_1",
        "key_id": "key_1",
        "endpoint": "chat",
        "model": "small",
        "target_id": f"tgt_{n}",
        "target": f"provider-{n}/small",
        "provider_id": f"prv_{n}",
        "reserved_nanousd": 1000 * n,
        "reserved_input_tokens": 10 * n,
        "reserved_output_tokens": 100 * n,
    }
    return Intent(**(fields | changes))


def attempt(n: int = 1, **changes: Any) -> AttemptRecord:
    fields: dict[str, Any] = {
        "n": n,
        "target_id": f"tgt_{n}",
        "target": f"provider-{n}/small",
        "provider_id": f"prv_{n}",
    }
    return AttemptRecord(**(fields | changes))


def record(name: str, **changes: Any) -> UsageRecord:
    fields: dict[str, Any] = {
        "id": f"req_{name}",
        "at_ms": AT_MS,
        "organisation_id": "org_1",
        "project_id": "prj_1",
        "key_id": "key_1",
        "endpoint": "chat",
        "model": "small",
        "outcome": "ok",
        "status": 200,
        "target_id": "tgt_1",
        "target": "provider-1/small",
        "provider_id": "prv_1",
        "usage": TokenUsage(input_tokens=20, output_tokens=5, cached_input_tokens=4),
        "cost_nanousd": 700,
        "finish_reason": "stop",
        "attempts": (attempt(status=200),),
        "total_us": 5000,
        "first_content_us": 2000,
    }
    return UsageRecord(**(fields | changes))


def plan(name: str, **members: Any) -> PlanLine:
    return PlanLine(f"plan_{name}", msgspec.Raw(msgspec.json.encode({"strategy": "cheapest", **members})))


def line(what: Intent | UsageRecord | RefusalCount | PlanLine) -> bytes:
    return msgspec.json.encode(Settlement(what) if isinstance(what, UsageRecord) else what) + b"\n"


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a spool file as JSON values; blank ones left out. Fails when the last one is torn."""
    data = path.read_bytes()
    assert data.endswith(b"\n") or not data
    return [msgspec.json.decode(each) for each in data.splitlines() if each.strip()]


def make_home(tmp_path: Path) -> Path:
    """A home directory with an empty usage.db and an empty spool."""
    (tmp_path / "spool").mkdir()
    ensure_schema(tmp_path / "usage.db", "usage")
    return tmp_path
