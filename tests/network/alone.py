"""Runs `potluck …` as on a machine that has the agent's packages and no other: whatever else is imported is not there.

python alone.py PACKAGE,PACKAGE,… -- node run …
"""

import sys
from importlib.machinery import ModuleSpec
from typing import Any


class Filtered:
    """A finder that does not find what is not on the list."""

    def __init__(self, finder: Any, there: frozenset[str]) -> None:
        self._finder = finder
        self._there = there | sys.stdlib_module_names | {"potluck"}

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        name = fullname.partition(".")[0]
        if name not in self._there and not name.startswith("_sysconfigdata"):  # of Python's own, named by platform
            return None
        spec: ModuleSpec | None = self._finder.find_spec(fullname, path, target)
        return spec


if __name__ == "__main__":
    separator = sys.argv.index("--")
    packages = frozenset(sys.argv[1].split(","))
    sys.meta_path[:] = [Filtered(finder, packages) for finder in sys.meta_path]
    sys.argv = ["potluck", *sys.argv[separator + 1 :]]
    from potluck.cli import main

    sys.exit(main())
