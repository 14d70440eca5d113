"""What `serve` prints once it listens."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from potluck.admin.first_start import FirstStart
from potluck.config.settings import Settings
from potluck.runtime import announce

KEY = "plk-" + "a" * 46


@pytest.fixture
def said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """`said(host="::", is_new=False)` → the lines."""
    home = tmp_path / "a home"
    home.mkdir()
    (home / "first-api-key").write_text(KEY + "\n")

    def call(*, model: str | None = "m", is_new: bool = False, works: bool = True, **settings: Any) -> list[str]:
        first = FirstStart(vault=None, lines=(), model=model, is_new=is_new)  # type: ignore[arg-type]
        announce.listening(Settings(home=home, **settings), 8123, first, lambda key: works and key == KEY.encode())
        return capsys.readouterr().out.splitlines()

    return call


def call_of(lines: list[str]) -> str:
    """The printed command, as a person selects it."""
    start = next(index for index, line in enumerate(lines) if line.startswith("curl "))
    end = next(index for index in range(start, len(lines)) if not lines[index].endswith("\\"))
    return "\n".join(lines[start : end + 1])


def run_as_pasted(call: str) -> list[str]:
    """What curl would be called with."""
    program = f"curl() {{ {sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' \"$@\"; }}\n{call}"
    import json

    done = subprocess.run(["sh", "-c", program], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


@pytest.mark.parametrize("model", ["m", None])
@pytest.mark.parametrize("is_new", [True, False])
def test_the_call_works_when_pasted(said: Any, model: str | None, is_new: bool) -> None:
    """The key itself on the very first start; later, into a log, the command that reads it: the same call."""
    lines = said(model=model, is_new=is_new)
    arguments = run_as_pasted(call_of(lines))
    assert arguments[0] == f"http://127.0.0.1:8123/v1/{'chat/completions' if model else 'models'}"
    assert f"Authorization: Bearer {KEY}" in arguments
    assert (KEY in "\n".join(lines)) == is_new
    assert any(line.startswith("first API key: ") and line.endswith("first-api-key") for line in lines)


def test_a_terminal_is_shown_the_key(said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person at a terminal may copy it at every start."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert KEY in call_of(said())


def test_a_key_that_does_not_work_any_more_is_not_printed(said: Any, tmp_path: Path) -> None:
    """Rotated or revoked, or its file deleted: no call that would be refused, but how to make a key."""
    for lines in (said(works=False, is_new=True), (tmp_path / "a home" / "first-api-key").unlink() or said()):
        assert not any(line.startswith("curl ") or KEY in line for line in lines)
        assert any(line.startswith("API keys: potluck key create NAME") for line in lines)


@pytest.mark.parametrize(
    ("settings", "listens", "warns"),
    [
        ({}, "only this machine can reach it", False),
        ({"host": "127.0.0.2"}, "only this machine can reach it", False),
        ({"host": "0.0.0.0"}, "every IPv4 address of this machine (0.0.0.0), port 8123", True),
        ({"host": "::"}, "every IPv6 address of this machine (::), port 8123", True),
        ({"host": ""}, "every address of this machine, port 8123", True),
        ({"host": "10.0.0.7"}, "connections on 10.0.0.7, port 8123", True),
        ({"host": "0.0.0.0", "public_url": "http://p.example"}, "(0.0.0.0), port 8123", True),
        ({"host": "0.0.0.0", "public_url": "https://p.example"}, "(0.0.0.0), port 8123", False),
        ({"host": "0.0.0.0", "tls_cert": Path("c.pem")}, "(0.0.0.0), port 8123", False),
    ],
)
def test_who_can_reach_it_is_said(said: Any, settings: dict[str, Any], listens: str, warns: bool) -> None:
    """The addresses that it takes connections on, and a warning where keys would cross a network in clear."""
    lines = said(**settings)
    assert sum(line.startswith("Potluck listens on http") for line in lines) == 1
    assert sum(listens in line for line in lines) == 1
    assert any(line.startswith("warning: this is plain http") for line in lines) == warns
