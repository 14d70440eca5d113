"""Printing: JSON for programs, aligned plain text for pipes, coloured tables for terminals."""

import datetime as dt
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

Row = Mapping[str, Any]
Column = tuple[str, str]
"""heading, member"""

FOLDING = frozenset({"targets", "models", "fallback", "more", "base_url", "error"})
"""members whose cells may take several lines on a terminal"""
FOLDED_WIDTH = 20

_STATES = {"ok": "32", "warn": "33", "fail": "31", "skip": "2"}


def has_rich() -> bool:
    """Rich is installed; on a machine that only shares its engines it is not."""
    return importlib.util.find_spec("rich") is not None


class Output:
    """Where a command's results go. Rich is imported for tables on a terminal only."""

    def __init__(self, *, json: bool, terminal: bool, colours: bool) -> None:
        self.json = json
        self.terminal = terminal
        self.colours = colours

    @property
    def width(self) -> int:
        return shutil.get_terminal_size().columns

    def data(self, value: Any) -> None:
        """`value` as indented JSON."""
        sys.stdout.write(f"{json.dumps(value, indent=2, ensure_ascii=False)}\n")

    def line(self, text: str = "") -> None:
        sys.stdout.write(f"{text}\n")

    def say(self, text: str) -> None:
        """For people only: nothing with --json."""
        if not self.json:
            self.line(text)

    def warn(self, warnings: Iterable[str]) -> None:
        """What was done all the same, and is perhaps not what was meant: on stderr; with --json it is in the data."""
        if not self.json:
            sys.stderr.writelines(f"potluck: warning: {each}\n" for each in warnings)

    def table(
        self,
        columns: Sequence[Column],
        rows: Sequence[Row],
        *,
        empty: str,
        right: Sequence[str] = (),
        optional: Sequence[str] = (),
    ) -> None:
        """Rows for people; `empty` is said when there are none. `right`: members that align right.

        `optional`: members that a narrow terminal may leave out, the first one first; a pipe gets them all.
        """
        if not rows:
            self.line(empty)
            return
        cells = {member: [plain(row.get(member)) for row in rows] for _, member in columns}
        widths = {member: max(len(heading), *map(len, cells[member])) for heading, member in columns}
        if self.terminal:
            columns = _fitting(columns, widths, optional, self.width)
            self._rich(columns, cells, right)
            return
        for index in range(-1, len(rows)):
            texts = []
            for heading, member in columns:
                text = heading if index < 0 else cells[member][index]
                texts.append(text.rjust(widths[member]) if member in right else text.ljust(widths[member]))
            self.line("  ".join(texts).rstrip())

    def _rich(self, columns: Sequence[Column], cells: Mapping[str, Sequence[str]], right: Sequence[str]) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        for heading, member in columns:
            folds = member in FOLDING
            justify: Literal["left", "right"] = "right" if member in right else "left"
            table.add_column(heading, justify=justify, overflow="fold", no_wrap=not folds)
        for line in zip(*(cells[member] for _, member in columns), strict=True):
            table.add_row(*(Text(text) for text in line))
        Console(highlight=False, no_color=not self.colours).print(table)

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


def _fitting(columns: Sequence[Column], widths: Mapping[str, int], optional: Sequence[str], width: int) -> list[Column]:
    """The columns that fit side by side, those that fold at their narrowest."""
    kept = list(columns)
    for member in optional:
        taken = sum(2 + (min(widths[name], FOLDED_WIDTH) if name in FOLDING else widths[name]) for _, name in kept)
        if taken + 2 <= width:  # the frame's own margins
            break
        kept = [column for column in kept if column[1] != member]
    return kept


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
