"""Runs `potluck …` as on a machine that has the agent's packages and no other: whatever else is imported is not there.

python alone.py PACKAGE,PACKAGE,… -- node run …
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any


class Absent(MetaPathFinder):
    """Finds nothing, loudly, for packages that are not on the list."""

    def __init__(self, there: frozenset[str]) -> None:
        self._there = there | sys.stdlib_module_names | {"potluck"}

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        name = fullname.partition(".")[0]
        if name not in self._there and not name.startswith("_sysconfigdata"):  # of Python's own, named by platform
            raise ModuleNotFoundError(f"No module named {fullname!r} (not of the agent's list)", name=fullname)
        return None


if __name__ == "__main__":
    separator = sys.argv.index("--")
    sys.meta_path.insert(0, Absent(frozenset(sys.argv[1].split(","))))
    sys.argv = ["potluck", *sys.argv[separator + 1 :]]
    from potluck.cli import main

    sys.exit(main())
