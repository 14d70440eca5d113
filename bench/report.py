"""Judgement and print: medians beside budgets, as a table, as JSON, as `docs/performance.md`."""

import os
import platform
import statistics
import tomllib
from dataclasses import dataclass
from pathlib import Path

from bench.rows import ROWS, Results, Row

BUDGETS = Path(__file__).with_name("budgets.toml")
LIMIT = "nginx"
SUBJECT = "potluck"


@dataclass(frozen=True)
class Line:
    """One row, judged. `ratio` is to nginx; `budget` is in the ratio or in the row's unit, as `by_ratio` says."""

    row: Row
    values: dict[str, float]
    ratio: float | None
    budget: float | None
    by_ratio: bool
    verdict: str
    """`ok`, `near` (over, but inside the margin), `over`, or empty where there is nothing to judge"""


def judge(results: Results, servers: list[str]) -> list[Line]:
    """Medians of each row against its stored budget."""
    stored = tomllib.loads(BUDGETS.read_text())
    margin = float(stored["margin"])
    lines = []
    for row in ROWS:
        values = {name: statistics.median(found) for name in servers if (found := results.of(row.key, name))}
        if not values:
            continue
        pairs = list(zip(results.of(row.key, SUBJECT), results.of(row.key, LIMIT), strict=False))
        ratio = statistics.median(a / b for a, b in pairs) if pairs and row.unit == "µs" else None
        rule = stored["rows"].get(row.key, {})
        by_ratio = "ratio" in rule
        budget = rule.get("ratio", rule.get("limit"))
        measured = ratio if by_ratio else values.get(SUBJECT)
        verdict = ""
        if budget is not None and measured is not None:
            verdict = "ok" if measured <= budget else "near" if measured <= budget * (1 + margin) else "over"
        lines.append(Line(row, values, ratio, budget, by_ratio, verdict))
    return lines


def machine() -> str:
    """The machine by its size only."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory_gib:.0f} GiB of memory, {platform.system()}, "
        f"{platform.python_implementation()} {platform.python_version()}"
    )


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _budget(line: Line) -> str:
    if line.budget is None:
        return ""
    return f"≤ {line.budget:g} ×" if line.by_ratio else f"≤ {line.budget:g} {line.row.unit}"


def table(lines: list[Line], servers: list[str]) -> list[list[str]]:
    """Header and rows as text cells."""
    cells = [["", "unit", *servers, "ratio", "budget", ""]]
    for line in lines:
        figures = [_figure(line.values.get(name)) for name in servers]
        cells.append([line.row.title, line.row.unit, *figures, _figure(line.ratio), _budget(line), line.verdict])
    return cells


def as_text(cells: list[list[str]]) -> str:
    """The table for a terminal."""
    widths = [max(len(row[n]) for row in cells) for n in range(len(cells[0]))]
    out = []
    for row in cells:
        padded = [row[0].ljust(widths[0])] + [
            cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
        ]
        out.append("  ".join(padded).rstrip())
    return "\n".join(out)


def as_markdown(cells: list[list[str]]) -> str:
    """The table for the document."""
    head, *rest = cells
    out = ["| " + " | ".join(head) + " |", "| --- | --- |" + " --: |" * (len(head) - 2)]
    out += ["| " + " | ".join(row) + " |" for row in rest]
    return "\n".join(out)


def as_json(lines: list[Line], results: Results, rounds: int) -> dict[str, object]:
    """Everything, samples included."""
    return {
        "machine": machine(),
        "rounds": rounds,
        "rows": {
            line.row.key: {
                "unit": line.row.unit,
                "values": line.values,
                "ratio": line.ratio,
                "budget": line.budget,
                "budget_is_ratio": line.by_ratio,
                "verdict": line.verdict,
                "samples": results.as_dict()[line.row.key],
            }
            for line in lines
        },
    }


_BEGIN, _END = "<!-- bench: begin -->", "<!-- bench: end -->"


def write_document(path: Path, lines: list[Line], servers: list[str], rounds: int) -> None:
    """Replace the generated part of `docs/performance.md`, between its two marks."""
    text = path.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    body = f"\nMachine: {machine()}; median of {rounds} interleaved rounds.\n\n{as_markdown(table(lines, servers))}\n\n"
    path.write_text(before + _BEGIN + body + _END + after)
