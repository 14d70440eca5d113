"""The example of docs/reference/configuration.md on a new gateway: a file that everybody copies must apply."""

import re
from pathlib import Path
from typing import Any

from potluck.identity.keys import new_secret

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "configuration.md"


async def post(api: Any, what: str, text: str) -> Any:
    variables = {"OPENAI_API_KEY": "sk-one", "OPENAI_SPARE_API_KEY": "sk-two"}
    variables["POTLUCK_KEY_WEB_BACKEND"] = new_secret("plk")
    return await api.post(f"/api/v1/config/{what}", json={"text": text, "variables": variables})


def example() -> str:
    found = re.search(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1]


async def test_the_example_of_the_reference_applies(gateway: Any, api: Any) -> None:
    """All references in it lead somewhere, and its models and routes are there afterwards."""
    applied = await post(api, "apply", example())
    assert applied.status_code == 200, applied.text
    snapshot = gateway.snapshots.current
    assert {"small", "house-small", "notes"} <= set(snapshot.models)
    assert [each.name for each in snapshot.routes] == ["experiment", "frugal"]


async def test_what_the_page_says_is_refused_is_refused(api: Any) -> None:
    """Another dialect, and a fallback to nothing, pass the check of the text and not that of the gateway."""
    for text in (
        example().replace('dialect = "openai"', 'dialect = "anthropic"'),
        example().replace('"notes"]', '"gone"]'),
    ):
        assert text != example()
        refused = await post(api, "diff", text)
        assert refused.status_code in (400, 404), refused.text
