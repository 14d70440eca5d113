"""On which line each member of a TOML text stands. Only for texts that `tomllib` has accepted.

The standard parser gives no positions, and an error without its line sends people searching. This is a scanner, not a
second parser: it follows headers, keys, strings and brackets, and trusts the text to be valid.
"""

import re

Step = str | int
Lines = dict[tuple[Step, ...], int]

_KEY_PART = re.compile(r"""[ \t]*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))[ \t]*""")
_SCALAR = re.compile(r"[^,\]}#\n]+")
_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRING = re.compile(r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\])*"|\'[^\']*\'', re.DOTALL)


def positions(text: str) -> Lines:
    """Path of each member and array item → its line, from 1."""
    return _Scanner(text).scan()


def line_of(lines: Lines, at: tuple[Step, ...]) -> int:
    """The line of `at`, or of the nearest thing around it; 0 when it is the whole document."""
    while at and at not in lines:
        at = at[:-1]
    return lines.get(at, 0)


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: Lines = {}
        self.counted_to, self.line = 0, 1
        self.sizes: dict[tuple[Step, ...], int] = {}
        """how many items each array of tables has so far"""

    def here(self) -> int:
        self.line += self.text.count("\n", self.counted_to, self.at)
        self.counted_to = self.at
        return self.line

    def skip_space(self) -> None:
        if found := _SPACE.match(self.text, self.at):
            self.at = found.end()

    def scan(self) -> Lines:
        table: tuple[Step, ...] = ()
        while True:
            self.skip_space()
            if self.at >= len(self.text):
                return self.lines
            if self.text.startswith("[[", self.at):
                table = self.header(2)
            elif self.text[self.at] == "[":
                table = self.header(1)
            else:
                self.pair(table)

    def header(self, brackets: int) -> tuple[Step, ...]:
        line = self.here()
        self.at += brackets
        path: tuple[Step, ...] = ()
        names = self.key()
        for index, name in enumerate(names):
            path = (*path, name)
            last = index == len(names) - 1
            if last and brackets == 2:
                self.sizes[path] = self.sizes.get(path, 0) + 1
            self.lines.setdefault(path, line)
            if path in self.sizes:
                path = (*path, self.sizes[path] - 1)
        self.at += brackets
        self.lines.setdefault(path, line)
        return path

    def key(self) -> list[str]:
        names = []
        while found := _KEY_PART.match(self.text, self.at):
            names.append(next(part for part in found.groups() if part is not None))
            self.at = found.end()
            if self.text[self.at : self.at + 1] != ".":
                break
            self.at += 1
        return names

    def pair(self, table: tuple[Step, ...]) -> None:
        line = self.here()
        path = table
        for name in self.key():
            path = (*path, name)
            self.lines.setdefault(path, line)
        if path == table:
            self.at += 1  # not a key: cannot happen in valid TOML, and must not loop
            return
        self.at += 1  # the equals sign
        self.value(path)

    def value(self, path: tuple[Step, ...]) -> None:
        self.skip_space()
        opening = self.text[self.at : self.at + 1]
        if opening in ("[", "{"):
            self.at += 1
            closing = "]" if opening == "[" else "}"
            index = 0
            while True:
                self.skip_space()
                if self.at >= len(self.text):
                    return
                if self.text[self.at] in (closing, ","):
                    ended = self.text[self.at] == closing
                    self.at += 1
                    if ended:
                        return
                elif opening == "[":
                    self.lines.setdefault((*path, index), self.here())
                    self.value((*path, index))
                    index += 1
                else:
                    self.pair(path)
        elif found := _STRING.match(self.text, self.at) or _SCALAR.match(self.text, self.at):
            self.at = found.end()
        else:
            self.at += 1
