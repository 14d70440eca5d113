"""Patterns end where the text ends."""

import ast

from house_tree import ROOT, parse


def test_no_pattern_lets_a_line_feed_through() -> None:
    """In Python `$` also matches before a last line feed: patterns of ours end in `\\Z`, or in `$(?!\\n)`."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_open(node.value)
    ]
    assert not found


def _is_open(text: str) -> bool:
    return text.startswith(("^", "(?:^")) and text.endswith("$")
