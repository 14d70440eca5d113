"""What can be wrong with settings or a document."""

from collections.abc import Iterable

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong, and where. `line` is 0 when there is no line to point at."""

    message: str
    where: str = ""
    """the member, as a path: `providers[0].base_url`"""
    line: int = 0
    source: str = ""
    """the file's name, or the option or variable that was read"""

    def as_member(self) -> dict[str, str | int]:
        """As it stands in an answer, where the source is known."""
        return {"message": self.message, "where": self.where, "line": self.line}

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.source and self.line else self.source
        return ": ".join(part for part in (place, self.where, self.message) if part)


class ConfigError(ValueError):
    """Settings or a document that cannot be used. `problems` holds all of them; `str()` gives one line each."""

    def __init__(self, problems: str | Problem | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))
