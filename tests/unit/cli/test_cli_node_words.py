"""What `potluck node` says to what people type, and how an order and a status read."""

import re
from pathlib import Path
from typing import Any

import pytest

from potluck.cli.commands import node_agent
from potluck.cli.commands.node_agent import _model_place
from potluck.cli.failure import Failure
from potluck.cli.node_home import read_settings
from potluck.cli.session import Session
from potluck.engines import model_file
from potluck.node.home import Enrolled, Home

NODE_1 = Enrolled("http://127.0.0.1:9", "http://127.0.0.1:9", "A" * 43, "node_1", "lab-1")


def report(count: int = 1) -> dict[str, Any]:
    """What an agent says of itself."""
    models = [
        {"name": f"m{n}", "engine": "e", "context_tokens": 1, "resident": n == 40, "running": int(n == 50)}
        for n in range(count)
    ]
    members = {"name": "lab-1", "state": "paused", "reason": "its owner paused it", "until": 0, "links": []}
    counts = {"running": 0, "slots": 1, "waiting": 0, "ends": {}, "refusals": {}, "withheld": [], "errors": []}
    return members | counts | {"gateway": "g", "mode": ["always"], "local_model": "", "models": models}


@pytest.mark.parametrize("length", ["999999d", "0s", "", "soon"])
def test_a_pause_of_no_length_is_refused(potluck: Any, home: Path, length: str) -> None:
    """Too long, none at all, or no time: in words, and nothing is paused."""
    Home(home).write("node.json", NODE_1)
    ran = potluck("node", "pause", "--for", length, "--home", str(home))
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert not (home / "state.json").exists()


def test_an_empty_value_is_the_default_again(potluck: Any, home: Path) -> None:
    """`node set slots ''`, as the page says."""
    assert potluck("node", "set", "slots", "4", "--home", str(home)).status == 0
    assert read_settings(Home(home)).slots == 4
    assert potluck("node", "set", "slots", "", "--home", str(home)).out == "slots = 0\n"
    assert read_settings(Home(home)).slots == 0


def test_a_negative_number_is_a_value_that_is_refused(potluck: Any, home: Path) -> None:
    """Not an option that nobody knows."""
    ran = potluck("node", "set", "slots", "-1", "--home", str(home))
    assert ran.status == 1
    assert "slots" in ran.err
    assert "option" not in ran.err


def test_an_order_is_answered_in_one_line(potluck: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No table: whoever pauses wants to know that it is paused."""
    monkeypatch.setattr(node_agent, "order", lambda *_: report())
    for word in ("pause", "resume", "drain"):
        assert potluck("node", word, "--home", str(home)).out == "lab-1: paused; its owner paused it\n"


def test_a_status_with_many_models_stays_readable(potluck: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that run or are in memory come first, and the rest is a number."""
    monkeypatch.setattr(node_agent, "ask_report", lambda _: report(300))
    said = potluck("node", "status", "--home", str(home)).out
    assert said.count("\n") < 40
    assert "m50" in said
    assert "m40" in said
    assert "and 280 more" in said


def test_a_key_that_was_not_there_is_not_forgotten(potluck: Any, home: Path) -> None:
    """`engine-key --clear` of another address than the one that was kept says which there are."""
    kept = "http://127.0.0.1:8000"
    words = ("node", "engine-key", kept, "--key-env", "KEY", "--home", str(home))
    assert potluck(*words, KEY="secret-1").status == 0
    said = potluck("node", "engine-key", "http://127.0.0.1:8001", "--clear", "--home", str(home)).out
    assert said == f"there was no key of http://127.0.0.1:8001; there are keys of {kept}\n"
    said = potluck("node", "engine-key", kept, "--clear", "--home", str(home)).out
    assert "forgotten" in said
    assert "name the engine" not in said


def test_leaving_by_force_says_what_was_not_done(potluck: Any, home: Path) -> None:
    """The gateway was not told, and still has this machine."""
    files = Home(home)
    files.write("node.json", NODE_1)
    assert potluck("node", "leave", "--home", str(home)).status == 1
    said = potluck("node", "leave", "--force", "--home", str(home)).out
    assert "was not told" in said
    assert "potluck nodes revoke lab-1" in said
    assert files.enrolled() is None


@pytest.mark.parametrize("asked_now", [True, False])
def test_a_service_without_the_models_engine_is_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked_now: bool
) -> None:
    """`run --local-model` fails at once; where only the settings want it, the agent starts, and its log says how."""
    monkeypatch.setattr(model_file, "has_engine", lambda: False)
    mend = "engine is not installed: .*http://127.0.0.1:9/install"
    if asked_now:
        with pytest.raises(Failure, match=mend):
            _model_place(Session({}), tmp_path, NODE_1, None, asked_now=True)
        return
    assert _model_place(Session({}), tmp_path, NODE_1, None, asked_now=False) == tmp_path
    assert re.search(mend, capsys.readouterr().err)
