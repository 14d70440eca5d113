"""Lines of members: what an error points at."""

import tomllib

import pytest

from potluck.config.positions import line_of, positions

TEXT = '''
# [not.a.table]
a = 1
"quoted key" = """
many
lines = 3
"""
after.dotted = 'x # y'
[table]
"x.y" = [1, [2,
  3], { k = "]" }]   # ] comment
[[list]]
n = 1
[list.sub]
m = { a = { b = 1 } }
[[list]]
n = 2
[[list.inner]]
z = 1
[[list.inner]]
z = """"quoted""""
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a",), 3),
        (("quoted key",), 4),
        (("after", "dotted"), 8),
        (("table",), 9),
        (("table", "x.y"), 10),
        (("table", "x.y", 1, 1), 11),
        (("table", "x.y", 2, "k"), 11),
        (("list", 0), 12),
        (("list", 0, "sub", "m", "a", "b"), 15),
        (("list", 1, "n"), 17),
        (("list", 1, "inner", 1, "z"), 21),
    ],
)
def test_members_are_found_on_their_line(path: tuple[str | int, ...], line: int) -> None:
    """Headers, dotted and quoted keys, arrays over lines and nested tables all get their own line."""
    tomllib.loads(TEXT)
    assert positions(TEXT)[path] == line


def test_the_nearest_known_place_stands_in() -> None:
    """A path that the text does not have is reported at what encloses it; the whole document has line 0."""
    lines = positions(TEXT)
    assert line_of(lines, ("list", 1, "absent", "deep")) == 16
    assert line_of(lines, ()) == 0
