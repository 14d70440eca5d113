"""Printing: JSON for programs, aligned plain text for pipes, coloured tables for terminals."""

import datetime as dt
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Column = tuple[str, str]
"""heading, member"""

_STATES = {"ok": "32", "warn": "33", "fail": "31", "skip": "2"}


class Output:
    """Where a command's results go. Rich is imported for tables on a terminal only."""

    def __init__(self, *, json: bool, colours: bool) -> None:
        self.json = json
        self.colours = colours

    def data(self, value: Any) -> None:
        """`value` as indented JSON."""
        sys.stdout.write(f"{json.dumps(value, indent=2, ensure_ascii=False)}\n")

    def line(self, text: str = "") -> None:
        sys.stdout.write(f"{text}\n")

    def say(self, text: str) -> None:
        """For people only: nothing with --json."""
        if not self.json:
            self.line(text)

    def table(self, columns: Sequence[Column], rows: Sequence[Row], *, empty: str, right: Sequence[str] = ()) -> None:
        """Rows for people; `empty` is said when there are none. `right`: members that align right."""
        if not rows:
            self.line(empty)
            return
        cells = [[plain(row.get(member)) for _, member in columns] for row in rows]
        if self.colours:
            self._rich(columns, cells, right)
            return
        widths = [max(len(heading), *(len(line[i]) for line in cells)) for i, (heading, _) in enumerate(columns)]
        for line in [[heading for heading, _ in columns], *cells]:
            texts = [
                text.rjust(width) if columns[i][1] in right else text.ljust(width)
                for i, (text, width) in enumerate(zip(line, widths, strict=True))
            ]
            self.line("  ".join(texts).rstrip())

    def _rich(self, columns: Sequence[Column], cells: list[list[str]], right: Sequence[str]) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for heading, member in columns:
            table.add_column(heading, justify="right" if member in right else "left", overflow="fold")
        for line in cells:
            table.add_row(*(Text(text) for text in line))
        Console(highlight=False).print(table)

    def facts(self, pairs: Sequence[tuple[str, Any]]) -> None:
        """One object for people: a line per member, absent ones left out."""
        said = [(name, plain(value)) for name, value in pairs if value not in (None, "", (), [])]
        width = max((len(name) for name, _ in said), default=0)
        for name, value in said:
            label = f"{name}:".ljust(width + 1)
            self.line(f"{self.paint(label, '2')} {value}")

    def paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colours else text

    def state(self, state: str) -> str:
        """`ok`, `warn`, `fail` or `skip`, in its colour."""
        return self.paint(state, _STATES.get(state, "0"))


def plain(value: Any) -> str:
    """A value as a cell."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value)) or "-"
    # a name may hold anything printable; what moves the cursor is not printable
    return "".join(character if character.isprintable() else "�" for character in str(value))


def when(at_ms: int | None) -> str | None:
    """Unix milliseconds as local time."""
    if at_ms is None:
        return None
    return dt.datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def count(number: int | None) -> str:
    """`1,234,567`."""
    return "-" if number is None else f"{number:,}"


def milliseconds(microseconds: int | None) -> str:
    """`12.3 ms`; `-` where a phase was not reached."""
    return "-" if microseconds is None or microseconds < 0 else f"{microseconds / 1000:,.1f} ms"
