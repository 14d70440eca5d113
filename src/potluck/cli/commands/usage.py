"""`potluck usage`: what was used, by one dimension."""

import csv
import sys
from typing import Any

import click

from potluck.cli.output import count
from potluck.cli.session import Command, current
from potluck.cli.times import moment_ms

DIMENSIONS = ("model", "route", "target", "provider", "node", "project", "key", "user", "day", "prompt")
COLUMNS = [
    ("REQUESTS", "requests"),
    ("ERRORS", "errors"),
    ("INPUT", "input_tokens"),
    ("CACHED", "cached_input_tokens"),
    ("OUTPUT", "output_tokens"),
    ("COST $", "cost_usd"),
    ("FIRST TOKEN", "mean_first_content_ms"),
    ("WHOLE", "mean_ms"),
]


@click.command(cls=Command)
@click.option("--by", type=click.Choice(DIMENSIONS), default="model", help="The dimension. Default: model.")
@click.option("--since", metavar="WHEN", default="7d", help="From when: 24h, 7d, 2030-01-31. Default: 7d.")
@click.option("--until", metavar="WHEN", help="Up to when. Default: now.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
def usage(by: str, since: str, until: str | None, as_csv: bool) -> None:
    """Report requests, tokens, cost and latency, the costliest first; at most one second behind."""
    session = current()
    since_ms = moment_ms(since, ahead=False)
    until_ms = moment_ms(until, ahead=False) if until else None
    report = session.gateway.get("/usage", by=by, since_ms=since_ms, until_ms=until_ms)
    if session.json:
        session.output.data(report)
        return
    rows: list[dict[str, Any]] = report["data"]
    if as_csv:
        members = [by, *(member for member in report["total"])]
        writer = csv.DictWriter(sys.stdout, members, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(_guarded(row) for row in rows)
        return
    shown = [_shown(row, by) for row in rows]
    if len(rows) > 1:
        shown.append(_shown(report["total"] | {by: "total"}, by))
    columns = [(by.upper(), by), *COLUMNS]
    session.output.table(
        columns,
        shown,
        empty=f"nothing was used since {since}",
        right=tuple(member for _, member in COLUMNS),
        optional=("cached_input_tokens", "mean_ms", "errors"),
    )


def _shown(row: dict[str, Any], by: str) -> dict[str, Any]:
    shown: dict[str, Any] = {by: row[by] or "-", "cost_usd": f"{row['cost_usd']:.6f}"}
    for member in ("requests", "errors", "input_tokens", "cached_input_tokens", "output_tokens"):
        shown[member] = count(row.get(member))
    for member in ("mean_first_content_ms", "mean_ms"):
        shown[member] = None if row.get(member) is None else f"{row[member]:,.1f} ms"
    return shown


def _guarded(row: dict[str, Any]) -> dict[str, Any]:
    """Plain decimals, and a quote before a text that a spreadsheet would run as a formula: callers choose those."""
    cells: dict[str, Any] = {}
    for member, value in row.items():
        if isinstance(value, float):
            cells[member] = f"{value:.9f}".rstrip("0").rstrip(".")
        elif isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
            cells[member] = f"'{value}"
        else:
            cells[member] = value
    return cells
