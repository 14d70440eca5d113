"""The reference pages say what the program does."""

import re
import subprocess
import sys
from pathlib import Path

import potluck

PROJECT = Path(__file__).parents[3]
METRIC = re.compile(r'"(potluck_[a-z_]+)"')


def test_generated_pages_are_current() -> None:
    """docs/reference/cli.md and settings.md are what the program's own commands and settings give."""
    done = subprocess.run(
        [sys.executable, PROJECT / "scripts" / "reference", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_metric_is_documented_and_no_other() -> None:
    """docs/reference/metrics.md lists exactly the names that the program exports."""
    package = Path(potluck.__file__).parent
    exported = set()
    for source in ("telemetry/exposition.py", "runtime/gateway.py"):
        exported |= set(METRIC.findall((package / source).read_text()))
    page = (PROJECT / "docs" / "reference" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `(potluck_[a-z_]+)`", page, re.MULTILINE))
    assert documented == exported
