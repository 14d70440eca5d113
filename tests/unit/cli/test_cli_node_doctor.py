"""What `potluck node doctor` says: what is so, why, and how to mend it, each once."""

import os
from pathlib import Path

import pytest

from potluck.cli.checkup import node as checks
from potluck.cli.checkup.verdict import Verdict
from potluck.cli.node_home import links_shown
from potluck.node.home import Enrolled, Home
from potluck.node.settings import NodeSettings

QUIET = NodeSettings(discover=False, engines=("http://127.0.0.1:9/v1",))


def found(home: Home) -> dict[str, Verdict]:
    return {each.check: each for each in checks.examine(home)}


def test_a_machine_that_has_not_joined_is_told_how(tmp_path: Path) -> None:
    """The missing directory is no fault of its own; the token has to come from somewhere."""
    home = Home(tmp_path / "node")
    rights = checks._rights(home)
    assert rights.state == "skip"
    home.prepare()
    home.write("settings.json", QUIET)
    verdicts = found(home)
    assert {name: each.state for name, each in verdicts.items()} == {
        "home": "ok",
        "joined": "fail",
        "engine": "fail",
        "presence": "skip",
    }
    assert "potluck nodes token create" in verdicts["joined"].mend
    assert "potluck node set engines" in verdicts["engine"].mend


def test_a_gateway_that_is_not_there_is_one_fault(tmp_path: Path) -> None:
    """The link is not blamed for it, nor a proxy in between."""
    home = Home(tmp_path)
    home.prepare()
    home.write("settings.json", QUIET)
    home.write("node.json", Enrolled("http://127.0.0.1:9", "http://127.0.0.1:9", "A" * 43, "node_1", "lab-1"))
    verdicts = found(home)
    assert (verdicts["gateway"].state, verdicts["link"].state, verdicts["agent"].state) == ("fail", "skip", "warn")
    assert "install-service" in verdicts["agent"].mend


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root writes for others")
def test_files_that_the_agent_cannot_read_are_found(tmp_path: Path) -> None:
    """Another user's file in the directory, and the command that mends it."""
    home = Home(tmp_path)
    home.prepare()
    home.write("settings.json", QUIET)
    os.chown(tmp_path, 4711, 4712)
    verdict = checks._rights(home)
    assert (verdict.state, "settings.json" in verdict.found) == ("fail", True)
    assert verdict.mend == f"sudo chown -R -h 4711:4712 {tmp_path}"


def test_links_are_shown_in_words() -> None:
    """How many, and how far away the gateway is once that is known."""
    down, fresh = {"up": False, "rtt_ms": None}, {"up": True, "rtt_ms": None}
    assert links_shown([down, down]) == "none is up"
    assert links_shown([fresh, down]) == "1 up"
    assert links_shown([{"up": True, "rtt_ms": 0.5}, fresh]) == "2 up, there and back in 0.5 ms"
