"""Reports agree with the records, at any edge."""

import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from spool_lines import AT_MS, attempt, line, make_home, plan, record

from potluck.ledger.importer import Importer
from potluck.ledger.reports import ReportError, list_requests, refusals, request_detail, usage_report
from potluck.model.usage import Answered, RefusalCount, TokenUsage, UsageRecord

HOUR_MS = 3_600_000
OUTCOMES = ("ok", "ok", "ok", "client_closed", "upstream_error", "lost")


def some_records() -> list[UsageRecord]:
    chance = random.Random(7)
    records = []
    for n in range(300):
        node = chance.random() < 0.3
        records.append(
            record(
                f"{n:03d}",
                at_ms=AT_MS + chance.randrange(5 * HOUR_MS),
                organisation_id=chance.choice(["org_1", "org_2"]),
                project_id=chance.choice(["prj_1", "prj_2"]),
                key_id=chance.choice(["key_1", "key_2", "key_3"]),
                model=chance.choice(["small", "large"]),
                route=chance.choice(["", "frugal"]),
                user=chance.choice(["", "ann", "bob"]),
                target=chance.choice(["node:lab-1/a:3b", "node:lab-2/a:3b"]) if node else "openai/gpt-4o-mini",
                outcome=chance.choice(OUTCOMES),
                usage=TokenUsage(chance.randrange(1000), chance.randrange(1000), estimated=chance.random() < 0.1),
                cost_nanousd=chance.choice([None, 0, chance.randrange(10**9)]),
                first_content_us=chance.choice([-1, 1000]),
                total_us=chance.randrange(10**6),
            )
        )
    return records


RECORDS = some_records()


def test_absurd_costs_fail_no_report(tmp_path: Path) -> None:
    """More than the database can add up, in one hour, over batches and over hours: every report still comes."""
    home = make_home(tmp_path)
    work = Importer(home / "spool", home / "usage.db")
    most = 2**53
    for batch in range(3):
        made = [
            record(f"{batch}-{n:04d}", at_ms=AT_MS + n % 3 * HOUR_MS, user="ann", cost_nanousd=most)
            for n in range(1_500)
        ]
        (home / f"spool/0a-00000{batch + 1}.jsonl").write_bytes(b"".join(line(each) for each in made))
        work.poll()
    work.close()
    for by in ("model", "user", "day"):
        for since_ms in (0, AT_MS + 1):  # from the hourly sums, and from the requests that the edge cuts
            report = usage_report(home / "usage.db", by, since_ms=since_ms)
            assert report["total"]["cost_nanousd"] > most
            assert report["total"]["requests"] >= 2_999
    assert usage_report(home / "usage.db", "model")["total"]["requests"] == 4_500


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = make_home(tmp_path_factory.mktemp("home"))
    lines = [line(each) for each in RECORDS] + [
        line(RefusalCount("invalid_api_key", "a", 7, 3, 420_001, "no such key"))
    ]
    (home / "spool/0a-000001.jsonl").write_bytes(b"".join(lines))
    work = Importer(home / "spool", home / "usage.db")
    work.poll()
    yield home / "usage.db"
    work.close()


def by_hand(records: list[UsageRecord], key: Any) -> dict[str, dict[str, int]]:
    groups: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for each in records:
        usage = each.usage or TokenUsage()
        group = groups[key(each)]
        group["requests"] += 1
        group["errors"] += each.outcome not in ("ok", "client_closed")
        group["client_closed"] += each.outcome == "client_closed"
        group["lost"] += each.outcome == "lost"
        group["estimated"] += usage.estimated
        group["unpriced"] += each.cost_nanousd is None
        group["input_tokens"] += usage.input_tokens
        group["output_tokens"] += usage.output_tokens
        group["cost_nanousd"] += each.cost_nanousd or 0
    return groups


def figures(rows: list[dict[str, Any]], by: str) -> dict[str, dict[str, Any]]:
    return {row[by]: row for row in rows}


KEYS: dict[str, Any] = {
    "model": lambda each: each.model,
    "route": lambda each: each.route,
    "target": lambda each: each.target,
    "provider": lambda each: each.provider_id,
    "project": lambda each: each.project_id,
    "key": lambda each: each.key_id,
}


@pytest.mark.parametrize("by", KEYS)
@pytest.mark.parametrize(
    ("since_ms", "until_ms"),
    [
        (0, None),
        (AT_MS + 1, None),
        (AT_MS + HOUR_MS // 3, AT_MS + 4 * HOUR_MS + 17),
        (AT_MS - AT_MS % HOUR_MS, AT_MS - AT_MS % HOUR_MS + 3 * HOUR_MS),
        (AT_MS + 100_000, AT_MS + 200_000),
        (AT_MS + 100_000, AT_MS + HOUR_MS),
        (0, AT_MS),
    ],
)
def test_reports_agree_with_the_records(database: Path, by: str, since_ms: int, until_ms: int | None) -> None:
    """By every dimension, with edges on the hour, within one hour or across several, sums are those of the records."""
    chosen = [each for each in RECORDS if since_ms <= each.at_ms < (until_ms or 1 << 60)]
    report = usage_report(database, by, since_ms, until_ms)
    found = figures(report["data"], by)
    wanted = by_hand(chosen, KEYS[by])
    assert found.keys() == wanted.keys()
    for name, sums in wanted.items():
        assert {key: found[name][key] for key in sums} == sums
    total = by_hand(chosen, lambda _: "all")["all"]
    assert {key: report["total"][key] for key in total} == total


def test_users_nodes_days(database: Path) -> None:
    """Calls without a user are left out; a node's name stands between colon and slash of its targets; days are UTC."""
    users = figures(usage_report(database, "user", AT_MS + 5)["data"], "user")
    assert {name: row["requests"] for name, row in users.items()} == {
        name: sum(each.user == name for each in RECORDS if each.at_ms >= AT_MS + 5) for name in ("ann", "bob")
    }
    nodes = figures(usage_report(database, "node")["data"], "node")
    assert {name: row["requests"] for name, row in nodes.items()} == {
        name: sum(each.target.startswith(f"node:{name}/") for each in RECORDS) for name in ("lab-1", "lab-2")
    }
    days = usage_report(database, "day")["data"]
    assert [row["day"] for row in days] == ["2026-09-21"]
    assert sum(row["requests"] for row in days) == 300


def test_the_form_of_a_report(database: Path) -> None:
    """Rows carry the dimension's name, counts, money in both units and mean times; the costliest comes first."""
    report = usage_report(database, "model", limit=1)
    (row,) = report["data"]
    assert set(row) == {
        "model",
        "requests",
        "errors",
        "client_closed",
        "lost",
        "estimated",
        "unpriced",
        "input_tokens",
        "output_tokens",
        "cached_input_tokens",
        "cache_write_tokens",
        "reasoning_tokens",
        "cost_nanousd",
        "cost_usd",
        "mean_ms",
        "mean_first_content_ms",
    }
    assert report["total"]["requests"] == 300, "the total is over all rows, not those shown"
    assert row["cost_usd"] == pytest.approx(row["cost_nanousd"] / 1e9)
    both = usage_report(database, "model")["data"]
    assert [each["cost_nanousd"] for each in both] == sorted((each["cost_nanousd"] for each in both), reverse=True)
    assert row["mean_first_content_ms"] == 1.0


def test_an_empty_report(database: Path) -> None:
    """Without requests there are no rows and the total is zero."""
    report = usage_report(database, "model", since_ms=AT_MS + 100 * HOUR_MS)
    assert report["data"] == []
    assert (report["total"]["requests"], report["total"]["cost_usd"], report["total"]["mean_ms"]) == (0, 0.0, None)


def test_scopes(database: Path) -> None:
    """A report within an organisation and a key counts nothing of another."""
    scope = {"organisation_id": "org_2", "key_id": "key_3"}
    report = usage_report(database, "model", AT_MS + 7, scope=scope)
    wanted = [
        each
        for each in RECORDS
        if each.organisation_id == "org_2" and each.key_id == "key_3" and each.at_ms >= AT_MS + 7
    ]
    assert report["total"]["requests"] == len(wanted) > 0


@pytest.mark.parametrize(
    ("by", "says"), [("prompt", "fingerprints"), ("colour", "choose one of model, route"), ("", "model")]
)
def test_unknown_dimensions(database: Path, by: str, says: str) -> None:
    """What cannot be reported is refused with a sentence that says why or what can."""
    with pytest.raises(ReportError, match=says):
        usage_report(database, by)


def test_unknown_scope(database: Path) -> None:
    """A scope is one of three ids: nothing else reaches the query."""
    with pytest.raises(ReportError, match="organisation_id"):
        usage_report(database, "model", scope={"1=1; --": "x"})


def test_request_detail(database: Path) -> None:
    """One request is shown whole, with its attempts, and only within the scope it belongs to."""
    wanted = RECORDS[5]
    found = request_detail(database, wanted.id)
    assert found is not None
    assert found["id"] == wanted.id
    assert [(each["n"], each["target"], each["status"]) for each in found["attempts"]] == [(1, attempt().target, 200)]
    assert found["plan"] is None
    assert found["cost_nanousd"] == wanted.cost_nanousd
    assert found["user"] == wanted.user
    assert request_detail(database, wanted.id, {"key_id": wanted.key_id}) == found
    assert request_detail(database, wanted.id, {"key_id": "key_other"}) is None
    assert request_detail(database, wanted.id, {"organisation_id": "org_other"}) is None
    assert request_detail(database, "req_unknown") is None


EVENTFUL = record(
    "eventful",
    attempts=(
        attempt(2, kind="hedge", target="node:lab/a", error_class="target_slow", phase="first_byte", start_us=900_000),
        attempt(
            3, kind="next", error_class="client_closed", usage=TokenUsage(3, 1, estimated=True), cost_nanousd=2_500_000
        ),
    ),
    answered=Answered(1, "crd_1", 1500, 2000, 950_000, 1_200_000, "catalog:1", 700),
    cost_nanousd=2_500_700,
    plan="plan_a",
)


@pytest.fixture
def eventful(tmp_path: Path) -> Path:
    """A database with requests that had a plan, one of which is lost, and one whose line was damaged."""
    home = make_home(tmp_path)
    broken = line(record("broken")).replace(b'"status":200}]', b'"status":"x"}]')
    (home / "spool/0a-000001.jsonl").write_bytes(
        line(plan("a", targets=[{"target": "x/y", "in": True, "credential": "main"}]))
        + line(EVENTFUL)
        + line(record("gone", plan="plan_gone", outcome="shutdown"))
        + broken
    )
    work = Importer(home / "spool", home / "usage.db")
    work.poll()
    work.close()
    return home / "usage.db"


def test_attempts_are_one_list(eventful: Path) -> None:
    """Attempts come in the order of their beginning, the one that answered among them, each with whose fault it was."""
    found = request_detail(eventful, EVENTFUL.id)
    assert found is not None
    answer, hedge, last = found["attempts"]
    assert answer == {
        "n": 1,
        "kind": "first",
        "target": "provider-1/small",
        "target_id": "tgt_1",
        "provider_id": "prv_1",
        "credential_id": "crd_1",
        "error_class": "none",
        "error": "",
        "blame": None,
        "status": 200,
        "phase": "",
        "start_ms": 1.5,
        "connected_ms": 2.0,
        "first_byte_ms": 950.0,
        "end_ms": 1200.0,
        "usage": {
            "input_tokens": 20,
            "output_tokens": 5,
            "cached_input_tokens": 4,
            "cache_write_tokens": 0,
            "reasoning_tokens": 0,
            "audio_input_tokens": 0,
            "audio_output_tokens": 0,
            "estimated": False,
        },
        "cost_nanousd": 700,
        "cost_usd": 7e-07,
        "price_version": "catalog:1",
    }
    assert (hedge["kind"], hedge["blame"], hedge["phase"]) == ("hedge", "node", "first_byte")
    assert (hedge["start_ms"], hedge["connected_ms"], hedge["cost_usd"]) == (900.0, None, None)
    assert (last["kind"], last["blame"], last["cost_usd"]) == ("next", "caller", 0.0025)
    assert (found["cost_nanousd"], found["estimated"]) == (2_500_700, True)


def test_a_plan_is_shown_with_its_request_alone(eventful: Path) -> None:
    """One request shows its plan, a list does not; a plan that is not kept any more is none."""
    found = request_detail(eventful, EVENTFUL.id)
    assert found is not None
    assert found["plan"] == {
        "strategy": "cheapest",
        "targets": [{"target": "x/y", "in": True, "credential": "main"}],
    }
    listed = {each["id"]: each for each in list_requests(eventful)["data"]}
    assert "plan" not in listed[EVENTFUL.id]
    assert listed[EVENTFUL.id]["attempts"] == found["attempts"]
    gone = request_detail(eventful, "req_gone")
    assert gone is not None
    assert gone["plan"] is None


def test_a_caller_is_not_told_how_upstream_keys_are_called(eventful: Path) -> None:
    """The plan of a key's own request names targets, states and reasons, and no credential."""
    found = request_detail(eventful, EVENTFUL.id, {"key_id": EVENTFUL.key_id})
    assert found is not None
    assert found["plan"]["targets"] == [{"target": "x/y", "in": True}]


def test_an_end_of_the_gateway_is_its_own_fault(eventful: Path) -> None:
    """An attempt that a shutdown cut off failed for nobody else's sake."""
    gone = request_detail(eventful, "req_gone")
    assert gone is not None
    assert [each["blame"] for each in gone["attempts"]] == ["gateway"]


def test_a_damaged_record_spoils_no_list(eventful: Path) -> None:
    """Attempts that cannot be read are left out; the record and its neighbours are shown."""
    listed = {each["id"]: each["attempts"] for each in list_requests(eventful)["data"]}
    assert listed["req_broken"] == []
    assert len(listed[EVENTFUL.id]) == 3


@pytest.mark.parametrize("filters", [{}, {"key_id": "key_2"}, {"outcome": "lost", "organisation_id": "org_1"}])
def test_pages_show_every_record_once(database: Path, filters: dict[str, str]) -> None:
    """Page after page, newest first, every record that fits the filters appears exactly once."""
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = list_requests(database, filters, cursor, limit=7)
        seen += [each["id"] for each in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        assert len(page["data"]) == 7
    fitting = [each for each in RECORDS if all(getattr(each, name) == value for name, value in filters.items())]
    assert seen == [each.id for each in sorted(fitting, key=lambda each: (each.at_ms, each.id), reverse=True)]


def test_pages_within_a_time(database: Path) -> None:
    """A list can be cut to a span of time."""
    page = list_requests(database, None, None, 1000, AT_MS + HOUR_MS, AT_MS + 2 * HOUR_MS)
    assert {each["id"] for each in page["data"]} == {
        each.id for each in RECORDS if AT_MS + HOUR_MS <= each.at_ms < AT_MS + 2 * HOUR_MS
    }


@pytest.mark.parametrize("cursor", ["", "x", "!!!", "MTIz", "w6k", "é"])
def test_a_cursor_that_is_not_ours(database: Path, cursor: str) -> None:
    """A made-up cursor is refused with a sentence, not an exception of the decoder."""
    with pytest.raises(ReportError, match="cursor"):
        list_requests(database, cursor=cursor)


def test_unknown_filters(database: Path) -> None:
    """Records are filtered by known columns only."""
    with pytest.raises(ReportError, match="cannot be filtered"):
        list_requests(database, {"id = '' OR 1": "1"})


def test_refusals(database: Path) -> None:
    """Refused calls are listed per minute, reason and caller."""
    assert refusals(database) == [
        {
            "minute_ms": 420_000,
            "reason": "invalid_api_key",
            "who": "a",
            "requests": 3,
            "first_at_ms": 420_001,
            "detail": "no such key",
        }
    ]
    assert refusals(database, since_ms=10**12) == []
