"""Which model a name means: exact names first by table, then patterns, always the earliest model in the list."""

import re
from collections.abc import Iterable

import msgspec

_COMPACT_DATE = re.compile(r"^(.*-)(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])\Z")


class Rule(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A pattern over a name in lower case: every member that is there must hold."""

    starts: str = ""
    ends: str = ""
    contains: tuple[str, ...] = ()
    regex: str = ""

    def holds(self, name: str) -> bool:
        return (
            name.startswith(self.starts)
            and name.endswith(self.ends)
            and all(text in name for text in self.contains)
            and (not self.regex or re.search(self.regex, name) is not None)
        )


class Matcher:
    """Compiled from (model, its names, its rules) in order. Calling it gives the model that a name means, or None."""

    def __init__(self, models: Iterable[tuple[str, Iterable[str], Iterable[Rule]]]) -> None:
        self._models: list[str] = []
        self._exact: dict[str, int] = {}
        self._rules: list[tuple[int, Rule]] = []
        for place, (model, names, rules) in enumerate(models):
            self._models.append(model)
            for name in names:
                self._exact.setdefault(name.lower(), place)
            self._rules.extend((place, rule) for rule in rules)

    def __call__(self, name: str) -> str | None:
        best = self._exact.get(name, len(self._models))
        for place, rule in self._rules:
            if place >= best:
                break
            if rule.holds(name):
                return self._models[place]
        return self._models[best] if best < len(self._models) else None


def dashed_date(name: str) -> str:
    """`gpt-5.2-20251211` → `gpt-5.2-2025-12-11`; other names as they are."""
    return _COMPACT_DATE.sub(r"\1\2-\3-\4", name)
