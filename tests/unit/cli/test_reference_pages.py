"""The reference pages say what the program does."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

import potluck
from potluck.cli.app import run
from potluck.wire.dialects.controls import CacheControl, Controls, controls_of_fields

PROJECT = Path(__file__).parents[3]
REFERENCE = PROJECT / "docs" / "reference"
METRIC = re.compile(r'"(potluck_[a-z_]+)"')
RESPONSE_FIELD = re.compile(r"(x-potluck-[a-z-]+): ")
EXAMPLE_VARIABLES = dict.fromkeys(("OPENAI_API_KEY", "OPENAI_SPARE_API_KEY", "POTLUCK_KEY_WEB_BACKEND"), "not-used")


def test_generated_pages_are_current() -> None:
    """docs/reference/cli.md, settings.md and configuration.md are what the program's own commands and structs give."""
    done = subprocess.run(
        [sys.executable, PROJECT / "scripts" / "reference", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_metric_is_documented_and_no_other() -> None:
    """docs/reference/metrics.md lists exactly the names that the program exports."""
    package = Path(potluck.__file__).parent
    exported = set()
    for source in ("telemetry/exposition.py", "runtime/gateway.py", "runtime/fleet_readings.py"):
        exported |= set(METRIC.findall((package / source).read_text()))
    page = (PROJECT / "docs" / "reference" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `(potluck_[a-z_]+)`", page, re.MULTILINE))
    assert documented == exported


def configuration_parts() -> tuple[str, str]:
    """The page's text before its example, and the example."""
    before, _, rest = (REFERENCE / "configuration.md").read_text(encoding="utf-8").partition("```toml\n")
    return before, rest.partition("```")[0]


def members_on_page(text: str) -> Iterator[str]:
    """`providers.timeouts.connect_s` for each row below a heading that names a section or table."""
    for title, below in re.findall(r"^##+ `(.+?)`$(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL):
        for member in re.findall(r"^\| `(\w+)` \|", below, re.MULTILINE):
            yield f"{title.strip('[]')}.{member}"


def members_in(tree: Any, path: str = "") -> Iterator[str]:
    """The same of a TOML document."""
    if isinstance(tree, list):
        for each in tree:
            yield from members_in(each, path)
    elif isinstance(tree, dict):
        for name, value in tree.items():
            inner = f"{path}.{name}" if path else name
            yield inner
            yield from members_in(value, inner)


def test_the_example_configuration_is_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`config check` takes the page's example as it stands there, and finds something in every section."""
    file = tmp_path / "potluck.toml"
    file.write_text(configuration_parts()[1], encoding="utf-8")
    assert run(["config", "check", str(file)], EXAMPLE_VARIABLES | {"HOME": str(tmp_path)}) == 0
    said = capsys.readouterr().out
    assert " is good" in said
    assert not re.search(r"\b0 ", said)


def test_the_example_configuration_shows_every_member() -> None:
    """What the page lists is written in its example, and nothing else is."""
    text, example = configuration_parts()
    listed = set(members_on_page(text))
    shown = set(members_in(tomllib.loads(example)))
    sections = {each for each in shown if "." not in each}
    prices = {each for each in shown if each.startswith("models.targets.price.")}  # listed under [[prices]]
    assert shown - sections - prices == listed


def controls_rows(heading: str) -> dict[str, str]:
    """The first column of each row of the tables below a heading, with the rest of the row."""
    page = (REFERENCE / "controls.md").read_text(encoding="utf-8")
    below = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| (.*) \|$", below, re.MULTILINE))


def literals_of(kind: Any) -> Iterator[str]:
    """Words that a member takes."""
    for each in get_args(kind):
        if isinstance(each, str):
            yield each
        else:
            yield from literals_of(each)


def test_every_control_is_documented_with_its_values() -> None:
    """docs/reference/controls.md lists the members of `potluck`, all words that they take, and the headers' names."""
    rows = controls_rows("In the request")
    wanted = {field.name: set(literals_of(field.type)) for field in msgspec.structs.fields(Controls)}
    wanted["cache"] = set(literals_of(CacheControl.__annotations__["mode"]))
    members = [name for name in rows if name in wanted]
    assert members[: len(wanted)] == list(wanted)
    for name, words in wanted.items():
        assert words <= set(re.findall(r"`(\w+)`", rows[name])), name
    with pytest.raises(ValueError, match="there are: ") as refused:
        controls_of_fields({b"x-potluck-none": b""}, None)
    known = str(refused.value).partition("there are: ")[2].split(", ")
    assert [name for name in rows if name.startswith("x-potluck-")] == known


def test_every_response_header_is_documented_and_no_other() -> None:
    """The names that the data plane writes into heads and comments are those on the page."""
    package = Path(potluck.__file__).parent
    written = set()
    for source in ("proxy/verdict.py", "wire/dialects/resume.py"):
        written |= set(RESPONSE_FIELD.findall((package / source).read_text(encoding="utf-8")))
    rows = controls_rows("In the answer")
    heads = {name for name in rows if re.fullmatch(r"x-potluck-[a-z-]+", name)}
    comments = {name for row in rows if row.startswith(": ") for name in RESPONSE_FIELD.findall(row)}
    assert heads | comments == written
