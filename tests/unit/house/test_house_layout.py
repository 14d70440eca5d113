"""Sizes, names and docstrings: what keeps the rooms readable."""

import ast
import re
from pathlib import Path

import pytest
from house_tree import PACKAGE, ROOT, imported_names, parse, python_files, shown, tracked_files

NAMELESS = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "base", "misc"}
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
SCREEN_LINES = 40
PURE = {"wire": "bytes to events", "policy": "pure decisions"}
IMPURE = {"asyncio", "socket", "ssl", "time", "datetime", "sqlite3", "logging", "structlog", "random", "threading"}


def test_no_source_file_is_too_long() -> None:
    """No Python file has more than 800 lines."""
    for path in python_files("src", "tests", "bench", "scripts"):
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= 800, f"{shown(path)} has {lines} lines: split it"


def test_no_module_has_a_nameless_name() -> None:
    """Where no noun fits, the code is in the wrong room: no utils, helpers, common, manager, base."""
    found = [shown(path) for path in python_files("src") if {path.stem, path.parent.name} & NAMELESS]
    assert found == []


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_says_what_it_is(room: str) -> None:
    """Each room's docstring is there and fits on a screen."""
    docstring = ast.get_docstring(parse(PACKAGE / room / "__init__.py"))
    assert docstring, f"the room {room} has no docstring"
    assert len(docstring.splitlines()) <= SCREEN_LINES, f"the docstring of {room} is longer than a screen"


def test_every_module_says_what_it_holds() -> None:
    """Every module of the package that holds anything has a docstring."""
    found = [shown(path) for path in python_files("src") if path.stat().st_size and not ast.get_docstring(parse(path))]
    assert found == []


@pytest.mark.parametrize("room", [room for room in PURE if room in ROOMS])
def test_pure_rooms_import_nothing_impure(room: str) -> None:
    """`wire` and `policy` know no event loop, socket, clock, chance, database or log."""
    for path in python_files(f"src/potluck/{room}"):
        impure = imported_names(parse(path)) & IMPURE
        assert not impure, f"{shown(path)} imports {', '.join(sorted(impure))}"


def test_every_test_says_what_it_proves() -> None:
    """Every test function has a docstring."""
    found = []
    for path in python_files("tests"):
        for node in ast.walk(parse(path)):
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_function and node.name.startswith("test_") and not ast.get_docstring(node):
                found.append(f"{shown(path)}:{node.lineno} {node.name}")
    assert found == []


def test_test_files_have_names_of_their_own() -> None:
    """No two test files share a name, since they are no packages."""
    names = [path.name for path in python_files("tests") if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))


def test_no_path_of_a_single_machine_is_in_the_tree() -> None:
    """No tracked text names this checkout's folder or this person's home directory."""
    own = re.compile("|".join(rf"(?<![\w.-]){re.escape(str(place))}/" for place in (ROOT, Path.home()) if place.name))
    found = []
    for path in tracked_files():
        if path.stat().st_size > 2_000_000:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if own.search(text):
            found.append(shown(path))
    assert found == []
