"""The bench's own arithmetic: what passes, what fails, and that its fixed bytes are what it says they are."""

import json
from pathlib import Path

import pytest

from bench import processes, report, upstream
from bench.requests import chat_body, chat_request
from bench.rows import ROWS, Results


def _line(key: str, results: Results) -> report.Line:
    return next(line for line in report.judge(results, ["potluck", "nginx"]) if line.row.key == key)


def _pairs(key: str, potluck: list[float], nginx: list[float]) -> Results:
    results = Results()
    for ours, limit in zip(potluck, nginx, strict=True):
        results.add(key, "potluck", ours)
        results.add(key, "nginx", limit)
    return results


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """A round in which the machine was slow for both servers does not move the ratio."""
    line = _line("plain_1k", _pairs("plain_1k", [20.0, 200.0, 22.0], [10.0, 100.0, 10.0]))
    assert line.ratio == 2.0
    assert line.values == {"potluck": 22.0, "nginx": 10.0}


@pytest.mark.parametrize(("potluck_us", "verdict"), [(22.0, "ok"), (24.0, "near"), (24.3, "over")])
def test_a_ratio_is_judged_with_the_margin(potluck_us: float, verdict: str) -> None:
    """2.2 × is the budget of the plain row: up to it is ok, 10 % above is near, more is over."""
    assert _line("plain_1k", _pairs("plain_1k", [potluck_us], [10.0])).verdict == verdict


def test_an_absolute_budget_is_judged_by_our_own_figure() -> None:
    """Memory has a limit in MB, whatever nginx takes."""
    assert _line("rss_idle", _pairs("rss_idle", [89.0], [10.0])).verdict == "ok"
    assert _line("rss_idle", _pairs("rss_idle", [120.0], [10.0])).verdict == "over"


def test_every_budget_names_a_row() -> None:
    """A budget for a row that is not measured would never fail."""
    import tomllib

    stored = tomllib.loads(report.BUDGETS.read_text())
    assert set(stored["rows"]) <= {row.key for row in ROWS}
    assert 0 < stored["margin"] <= 0.1


def test_the_document_keeps_its_words_and_gets_the_table(tmp_path: Path) -> None:
    """Only what stands between the marks is replaced, and writing twice changes nothing."""
    page = tmp_path / "performance.md"
    page.write_text("before\n<!-- bench: begin -->old<!-- bench: end -->\nafter\n")
    lines = report.judge(_pairs("plain_1k", [20.0], [10.0]), ["potluck", "nginx"])
    report.write_document(page, lines, ["potluck", "nginx"], 1)
    once = page.read_text()
    report.write_document(page, lines, ["potluck", "nginx"], 1)
    assert page.read_text() == once
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert "old" not in once
    assert "| 20.0 | 10.0 | 2.00 | ≤ 2.2 × | ok |" in once


def test_the_fixed_answers_have_the_stated_sizes() -> None:
    """A completion is 500 bytes of JSON, an event 211 bytes."""
    assert len(upstream.completion()) == upstream.COMPLETION_BYTES
    assert json.loads(upstream.completion())["usage"]["total_tokens"] == 212
    size, _, event = upstream.CONTENT_EVENT.partition(b"\r\n")
    assert int(size, 16) == len(event) - 2 == upstream.CHUNK_BYTES
    assert json.loads(event.strip().removeprefix(b"data: "))["choices"][0]["delta"]["content"]


def test_a_request_says_how_the_upstream_is_to_stream() -> None:
    """The upstream finds number and pace of the chunks in the bytes that we send."""
    request = chat_request("k", model="m", prompt_bytes=1000, chunks=7, pace_ms=20)
    head, _, body = request.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    assert len(json.loads(body)["messages"][1]["content"]) == 1000
    assert json.loads(body)["metadata"] == {"chunks": "7", "pace_ms": "20"}
    assert "stream" not in json.loads(chat_body(model="m", prompt_bytes=10))


def test_cpu_and_memory_of_this_process_are_read() -> None:
    """The figures from /proc grow with what the process does."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc on this system")
    import os

    before = processes.cpu_s([os.getpid()])
    while processes.cpu_s([os.getpid()]) - before < 0.02:
        sum(range(10_000))
    assert processes.rss_bytes([os.getpid()]) > 5_000_000
    assert processes.tree(os.getpid())[0] == os.getpid()
