"""The owner's settings: what is taken, what is refused with a word, and that the page says the same."""

import re
from pathlib import Path

import msgspec
import pytest

from potluck.node import rules
from potluck.node.settings import NodeSettings, SettingsError, checked, shown, table, with_value

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "node-settings.md"


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [("discover", "maybe", "neither yes nor no"), ("engines", "ftp://x", "engines: 'ftp://x' is not an address")],
)
def test_what_is_refused_says_what_would_do(key: str, text: str, words: str) -> None:
    """When it is set, not at the agent's next start."""
    with pytest.raises(SettingsError, match=words):
        with_value(NodeSettings(), key, text)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("mode", "Idle", ("idle",)),
        ("mode", "idle, manual", ("idle", "manual")),
        ("keep-vram-bytes", "2GiB", 2 << 30),
        ("headless", "yes", True),
        ("idle_after_s", "60", 60.0),
        ("schedule", "mon-fri 22:00-07:00,sat 10:00-12:00", ("mon-fri 22:00-07:00", "sat 10:00-12:00")),
        ("timezone", "Europe/Berlin", "Europe/Berlin"),
        ("engines", "http://127.0.0.1:9000", ("http://127.0.0.1:9000",)),
        ("slots", "4", 4),
    ],
)
def test_a_setting_is_taken(key: str, text: str, value: object) -> None:
    """Keys with either dash, values as people write them; an empty text is the default again."""
    changed = with_value(NodeSettings(), key, text)
    name = key.replace("-", "_")
    assert getattr(changed, name) == value
    assert with_value(NodeSettings(), name, shown(name, value)) == changed
    assert with_value(changed, key, "") == NodeSettings()


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("mode", "sometimes", "'sometimes' is not one of always, idle"),
        ("mode", "always,idle", "stands alone"),
        ("mode", "schedule", "needs windows first"),
        ("schedule", "nights", "not a window like"),
        ("timezone", "Mars/Olympus", "not known here"),
        ("timezone", "../../etc/passwd", "not known here"),
        ("idle_after_s", "0", "at least 1"),
        ("grace_s", "nan", "out of range"),
        ("links", "3", "at most 2"),
        ("headless", "perhaps", "neither yes nor no"),
        ("idle_after", "60", "did you mean idle_after_s?"),
        ("prices", "1", "no setting"),
    ],
)
def test_a_setting_is_refused_with_a_word(key: str, text: str, words: str) -> None:
    """What cannot be meant is named in one line."""
    with pytest.raises(SettingsError, match=re.escape(words)) as refusal:
        with_value(NodeSettings(), key, text)
    assert "\n" not in str(refusal.value)


def test_a_file_is_read_as_it_was_written() -> None:
    """Only what differs is written, and a member that nobody knows is refused."""
    changed = with_value(NodeSettings(), "mode", "idle")
    assert msgspec.json.encode(changed) == b'{"mode":["idle"]}'
    assert msgspec.json.decode(msgspec.json.encode(changed), type=NodeSettings) == changed
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"moode":["idle"]}', type=NodeSettings)
    with pytest.raises(SettingsError, match="needs windows"):
        checked(NodeSettings(mode=("schedule",)))


def test_the_page_of_settings_is_current() -> None:
    """Every setting and every number of the rules stands on the page once, as the program has it."""
    page = PAGE.read_text(encoding="utf-8")
    rows = [
        f"| `{row.key}` | {f'`{row.default}`' if row.default else ''} | {row.unit} | {row.help} |" for row in table()
    ]
    assert [line for line in page.splitlines() if line.startswith("| `") and line.count(" | ") == 3] == rows
    numbers = dict(re.findall(r"^\| `([A-Z_]+)` \| ([\d,.]+) s \|", page, re.MULTILINE))
    named = {name: getattr(rules, name) for name in dir(rules) if name.isupper() and name.endswith("_S")}
    assert {name: float(text.replace(",", "")) for name, text in numbers.items()} == named
