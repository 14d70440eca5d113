"""The worked example in docs/concepts/routing.md is what a gateway with the page's configuration prints."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "concepts" / "routing.md"


async def test_the_page_shows_what_the_commands_print(tmp_path: Path) -> None:
    """Each command of the page is run on a real gateway; change the page by scripts/routing-example."""
    script = runpy.run_path(str(ROOT / "scripts" / "routing-example"))
    page = PAGE.read_text(encoding="utf-8")
    # without its output, so that none of it can come from the page
    bare = re.sub(r"(```console\n\$ .*?\n).*?```\n", r"\1```\n", page, flags=re.DOTALL)
    assert bare.count("$ potluck route explain") == 3
    assert await script["rendered"](bare, tmp_path) == page
