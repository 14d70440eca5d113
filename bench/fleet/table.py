"""The figures as a table: for a terminal, as JSON, for `docs/performance.md`."""

from pathlib import Path

from bench.fleet.scenario import Scenario
from bench.fleet.trial import ORACLE, OURS, Verdict
from bench.report import as_markdown

BEGIN, END = "<!-- fleet: begin -->", "<!-- fleet: end -->"
HEAD = [
    "scenario",
    "policy",
    "rejected, servable",
    "machines that serve",
    "Gini",
    "first token p50",
    "p95",
    "p95 to oracle",
    "cold loads / 1,000",
    "failed / 1,000",
    "",
]
WORDS = {
    "rejected_servable": "rejects",
    "serving_share": "starves",
    "ttft_p95_ratio": "slow",
    "cold_loads_per_1000": "loads",
    "failed_per_1000": "fails",
}
"""what a policy that misses it does"""

Trials = list[tuple[Scenario, list[Verdict]]]


def table(trials: Trials) -> list[list[str]]:
    """Head and rows as text cells: of each scenario the oracle, ours and the naive policies."""
    cells = [HEAD]
    for scenario, verdicts in trials:
        title = scenario.title
        for verdict in verdicts:
            found = verdict.figures
            row = [
                title,
                found.policy,
                f"{found.rejected_servable} of {found.requests}",
                f"{found.serving_share:.0%}".replace("%", " %"),
                f"{found.gini:.2f}",
                f"{found.ttft_p50_s:.2f} s",
                f"{found.ttft_p95_s:.2f} s",
                f"{found.ttft_p95_ratio:.2f} ×",
                f"{found.cold_loads_per_1000:.1f}",
                f"{found.failed_per_1000:.1f}",
                _words(verdict),
            ]
            cells.append(row)
            title = ""
    return cells


def as_json(trials: Trials) -> dict[str, object]:
    """Everything, by scenario and policy."""
    return {
        scenario.name: {
            verdict.figures.policy: {
                name: getattr(verdict.figures, name) for name in verdict.figures.__struct_fields__ if name != "policy"
            }
            | {"misses": verdict.misses, "has_to_miss": verdict.has_to_miss, "good": verdict.good}
            for verdict in verdicts
        }
        for scenario, verdicts in trials
    }


def write_document(path: Path, trials: Trials) -> None:
    """Replace the generated part of the document, between its two marks."""
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{as_markdown(table(trials))}\n\n{END}{after}", encoding="utf-8")


def _words(verdict: Verdict) -> str:
    found = ", ".join(WORDS[name] for name in verdict.misses)
    if verdict.figures.policy == ORACLE:
        return ""
    if verdict.figures.policy == OURS:
        return found or "ok"
    if verdict.good:
        return found
    return f"should fail: {', '.join(WORDS[name] for name in verdict.has_to_miss if name not in verdict.misses)}"
