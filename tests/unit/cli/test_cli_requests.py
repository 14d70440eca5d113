"""`request show` as people see it: bars, attempts, and what the routing decision was."""

from typing import Any

import pytest

from potluck.cli.commands import requests
from potluck.cli.commands.requests import ANSWERING, CONNECTING, WAITING, timeline
from potluck.cli.output import Output


def attempt(n: int, times: tuple[float | None, ...], **changes: Any) -> dict[str, Any]:
    made = {
        "n": n,
        "kind": "first" if n == 1 else "next",
        "target": f"provider-{n}/small",
        "credential": "main",
        "credential_id": "crd_1",
        "error_class": "none",
        "error": "",
        "blame": None,
        "status": 200,
        "phase": "",
        "usage": {"input_tokens": 1200, "output_tokens": 30},
        "cost_usd": 0.000021,
    }
    return made | dict(zip(("start_ms", "connected_ms", "first_byte_ms", "end_ms"), times, strict=True)) | changes


REFUSED = attempt(
    1, (0.0, None, None, 100.0), error_class="target_down", error="connection refused", blame="provider", status=0,
    phase="connect", usage=None, cost_usd=None, credential=None,
)  # fmt: skip
FOUND = {"read_us": 500, "total_us": 400_000, "attempts": [REFUSED, attempt(2, (100.0, 200.0, 300.0, 400.0))]}
PLAN = {
    "model": "small",
    "route": "frugal",
    "strategy": "cheapest",
    "targets": [
        {"target": "openai/gpt-4o-mini", "credential": "main", "group": 0, "model": "small", "in": True,
         "state": "closed", "score": 2100.0, "unit": "nano-USD", "why": "0.0000021 USD expected"},
        {"target": "lab/qwen", "in": False, "why": "data class private stays on own infrastructure"},
    ],
}  # fmt: skip


def bar_of(line: str) -> str:
    """The drawn part of an attempt's line, its blanks as dots."""
    return line[len("1 provider-1/small  ") :].rsplit("  ", 1)[0].replace(" ", ".")


def test_bars_stand_where_the_time_went() -> None:
    """Each phase of an attempt takes its share of the width, in its place."""
    read, first, second, legend = timeline(FOUND, 70)
    assert bar_of(first) == CONNECTING * 10 + "." * 30
    assert bar_of(second) == "." * 10 + CONNECTING * 10 + WAITING * 10 + ANSWERING * 10
    assert read.startswith("body read           ▒ ")
    assert first.endswith("100.0 ms")
    assert second.endswith("300.0 ms")
    assert "connecting" in legend


@pytest.mark.parametrize(
    ("times", "phase", "drawn"),
    [
        ((0.0, None, 50.0, 100.0), "", WAITING + ANSWERING),
        ((0.0, None, None, 100.0), "first_byte", WAITING),
        ((0.0, 50.0, None, 100.0), "first_byte", CONNECTING + WAITING),
        ((100.0, 100.0, 100.0, 100.0), "", WAITING),
        ((99.9, 99.95, 99.99, 100.0), "", ANSWERING),
    ],
)
def test_phases_that_were_not_reached_are_not_drawn(times: Any, phase: str, drawn: str) -> None:
    """An idle connection has no connecting, a silent target no answering; what is too short to draw has one cell."""
    line = timeline({"read_us": 0, "total_us": 100_000, "attempts": [attempt(1, times, phase=phase)]}, 72)[1]
    assert "".join(dict.fromkeys(bar_of(line).replace(".", ""))) == drawn


@pytest.mark.parametrize(
    "found",
    [
        FOUND | {"attempts": []},
        FOUND | {"attempts": [attempt(1, (None, None, None, None))]},
        {"read_us": 0, "total_us": 0, "attempts": [attempt(1, (0.0, 0.0, 0.0, 0.0))]},
    ],
)
def test_without_times_there_is_nothing_to_draw(found: Any) -> None:
    """Requests that reached no target, or died with the gateway, have no bars."""
    assert timeline(found, 100) == []


def test_a_narrow_terminal_gets_numbers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bars would say nothing the columns of times are shown instead."""
    monkeypatch.setenv("COLUMNS", "45")
    requests._show_attempts(Output(json=False, terminal=True, colours=False), FOUND)
    said = capsys.readouterr().out
    assert ANSWERING not in said
    assert "END " in said


def test_pipes_get_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal each attempt is one line: how it ended, whose fault, when it got how far, and why."""
    requests._show_attempts(Output(json=False, terminal=False, colours=False), FOUND)
    said = capsys.readouterr().out
    rows = [" ".join(row.split()) for row in said.splitlines()]
    assert rows[2:] == [
        "1 provider-1/small target_down - provider first crd_1 0.0 ms - - 100.0 ms - - connection refused",
        "2 provider-2/small well 200 - next main 100.0 ms 200.0 ms 300.0 ms 400.0 ms 1,200 → 30 0.000021 -",
    ]


def test_the_loser_of_a_hedge_did_not_fail(capsys: pytest.CaptureFixture[str]) -> None:
    """A call that was given up for another one's sake is neither an answer nor anybody's fault."""
    loser = attempt(1, (0.0, 1.0, None, 9.0), error="another target answered first", status=0)
    requests._show_attempts(Output(json=False, terminal=False, colours=False), FOUND | {"attempts": [loser]})
    row = " ".join(capsys.readouterr().out.splitlines()[-1].split())
    assert row.startswith("1 provider-1/small cancelled - - first")
    assert row.endswith("another target answered first")


def test_bars_replace_numbers_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With bars above it the table leaves the times out."""
    monkeypatch.setenv("COLUMNS", "120")
    requests._show_attempts(Output(json=False, terminal=True, colours=False), FOUND)
    said = capsys.readouterr().out
    assert ANSWERING * 5 in said
    assert "FIRST BYTE" not in said
    assert "connection refused" in said


def test_the_plan_says_who_was_in_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    """Each target in or out, with the number that ranked it and its reason; what is missing is a dash."""
    requests._show_plan(Output(json=False, terminal=False, colours=False), PLAN)
    said = [" ".join(row.split()) for row in capsys.readouterr().out.splitlines()]
    assert said == [
        "",
        "plan: route frugal, strategy cheapest",
        "PLAN TARGET KEY STATE SCORE WHY",
        "in openai/gpt-4o-mini main closed 2,100 nano-USD 0.0000021 USD expected",
        "out lab/qwen - - - data class private stays on own infrastructure",
    ]


def test_members_that_are_not_known_do_no_harm(capsys: pytest.CaptureFixture[str]) -> None:
    """A plan of a newer gateway, with more members, other types and a second model, is shown as far as it goes."""
    targets = [
        {**PLAN["targets"][0], "score": "high", "weights": {"a": [1]}},  # type: ignore[dict-item]
        {"target": "x/big", "in": True, "model": "large", "score": 3, "why": ["a", "b"]},
        {},
    ]
    requests._show_plan(Output(json=False, terminal=False, colours=False), {"targets": targets, "new": {"x": 1}})
    said = [" ".join(row.split()) for row in capsys.readouterr().out.splitlines()]
    assert said[2:] == [
        "in openai/gpt-4o-mini main small closed high nano-USD 0.0000021 USD expected",
        "in x/big - large - 3 a, b",
        "out - - - - - -",
    ]
    requests._show_plan(Output(json=False, terminal=False, colours=False), {})
    assert "no target was considered" in capsys.readouterr().out
