"""The card for people and for programs, and the progress of a run. Rich is imported for a terminal only."""

import json
import sys
import time
from typing import Any

import msgspec

from potluck.conformance.score import Card

PLAIN_EVERY_S = 5.0


def as_json(card: Card) -> str:
    """`{"gateway", "passed", "total", "sections": [{"name", "passed", "total"}], "lines": [...]}`."""
    sections = [
        {"name": name, "passed": sum(line.ok for line in lines), "total": len(lines)}
        for name, lines in card.sections.items()
    ]
    head = {"gateway": card.gateway, "passed": card.passed, "total": card.total, "sections": sections}
    return json.dumps({**head, "lines": msgspec.to_builtins(card.lines)}, indent=2, ensure_ascii=False) + "\n"


def as_text(card: Card) -> str:
    """A line per case, headings with sub-scores, the total last."""
    width = max((len(line.name) for line in card.lines), default=0)
    text = []
    for name, lines in card.sections.items():
        text += ["", f"{name}: {sum(line.ok for line in lines)} of {len(lines)}"]
        text += [
            f"{'PASS' if line.ok else 'FAIL'}  {line.name:{width}}  {line.does} -> {line.must}: {line.evidence}"
            for line in lines
        ]
    return "\n".join([*text, "", f"{card.passed} of {card.total}", ""]).lstrip("\n")


def on_terminal(card: Card) -> None:
    """The same as a table per section."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    width = max((len(line.name) for line in card.lines), default=0)
    for name, lines in card.sections.items():
        title = Text(f"{name}: {sum(line.ok for line in lines)} of {len(lines)}", style="bold")
        table = Table(
            box=None, show_header=False, expand=True, pad_edge=False, title=title, title_justify="left", title_style=""
        )
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, min_width=width)
        table.add_column(ratio=1)
        table.add_column(ratio=1)
        for line in lines:
            mark = Text("PASS", style="green") if line.ok else Text("FAIL", style="bold red")
            table.add_row(mark, *map(Text, (line.name, f"{line.does} → {line.must}", line.evidence)))
        console.print(table)
        console.print()
    console.print(Text(f"{card.passed} of {card.total}", style="bold red" if card.failed else "bold green"))


class Progress:
    """How far a run is, on stderr: a bar on a terminal, else a line every few seconds; nothing when `quiet`."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._said_at = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tick(self, done: int, total: int) -> None:
        """`done` of `total` cases are over."""
        if self._quiet:
            return
        if sys.stderr.isatty():
            if self._bar is None:
                from rich.console import Console
                from rich.progress import Progress as RichProgress

                self._bar = RichProgress(console=Console(stderr=True), transient=True)
                self._bar.start()
                self._task = self._bar.add_task("cases", total=total)
            self._bar.update(self._task, completed=done)
        elif time.monotonic() - self._said_at >= PLAIN_EVERY_S:
            self._said_at = time.monotonic()
            sys.stderr.write(f"{done} of {total} cases\n")
            sys.stderr.flush()
