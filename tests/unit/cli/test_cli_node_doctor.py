"""What `potluck node doctor` says: what is so, why, and how to mend it, each once."""

import os
import socket
from pathlib import Path

import pytest

from potluck.cli.checkup import node as checks
from potluck.cli.checkup.verdict import Verdict
from potluck.cli.node_home import links_shown
from potluck.engines import model_file
from potluck.node.dialing import REFUSALS
from potluck.node.home import Enrolled, Home, KeyFile
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


@pytest.mark.parametrize("name", ["node.json", "key", "settings.json", "state.json", "agent.json", "engine-keys.json"])
def test_a_damaged_file_is_a_row_and_ends_nothing(tmp_path: Path, name: str) -> None:
    """Each has its mend, and what does not need it is checked all the same."""
    home = Home(tmp_path)
    home.prepare()
    home.write("settings.json", QUIET)
    home.write("node.json", Enrolled("http://127.0.0.1:9", "http://127.0.0.1:9", "A" * 43, "node_1", "lab-1"))
    home.write("key", KeyFile("nky_1", "not a key" if name == "key" else "A" * 43))
    if name != "key":
        home.write_bytes(name, b"{")
    verdicts = found(home)
    assert (verdicts[name].state, "damaged" in verdicts[name].found or "read" in verdicts[name].found) == ("fail", True)
    assert verdicts[name].mend
    assert ("gateway" in verdicts) == (name != "node.json")
    assert ("engine" in verdicts) == (name != "settings.json")


def test_a_refusal_has_the_mend_that_fits() -> None:
    """Not a proxy in between, for a machine that was revoked or copied."""
    for code, word in (("revoked", "join URL --force"), ("clone", "rotate-key"), ("not_approved", "approve lab-1")):
        assert word in checks._link_mend(REFUSALS[code][1], "lab-1")
    assert "WebSockets" in checks._link_mend("the connection was cut", "lab-1")


def test_the_agent_that_runs_is_asked_what_it_serves() -> None:
    """Engines of `run --engine` and the built-in model are no setting, and are served."""
    engines = [{"id": "local", "answers": True}, {"id": "vllm-1", "answers": False}]
    models = [{"engine": "local"}, {"engine": "vllm-1"}]
    said = {"engines": engines, "models": models, "withheld": [], "local_model": "ready"}
    assert [each.state for each in checks._served(said)] == ["ok", "fail"]
    nothing = {"engines": [], "models": [], "withheld": [], "local_model": ""}
    assert [each.state for each in checks._served(nothing)] == ["fail"]


@pytest.mark.parametrize("runs", [False, True])
def test_a_built_in_model_without_its_engine_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    """One row, with the way back through the gateway's installer, whether or not the agent runs."""
    monkeypatch.setattr(model_file, "has_engine", lambda: False)
    home = Home(tmp_path)
    home.prepare()
    home.write("settings.json", NodeSettings(discover=False, local_model=True))
    home.write("node.json", Enrolled("http://127.0.0.1:9", "http://127.0.0.1:9", "A" * 43, "node_1", "lab-1"))
    said = {"engines": [], "models": [], "withheld": [], "local_model": "missing: it is not here"}
    said |= {"state": "ready", "reason": "it does not serve", "links": []}
    monkeypatch.setattr(checks, "report_of", lambda _: said if runs else None)
    rows = [each for each in checks.examine(home) if each.check in ("built-in model", "engine")]
    assert [(each.check, each.state) for each in rows] == [("built-in model", "fail")]
    assert "its engine is not installed" in rows[0].found
    assert "http://127.0.0.1:9/install." in rows[0].mend


def test_a_port_that_is_taken_is_found() -> None:
    """Two agents, or another program, where helpers of the desktop are to report."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        assert checks._helpers(port).state == "fail"
    assert checks._helpers(port).state == "ok"


def test_links_are_shown_in_words() -> None:
    """How many, and how far away the gateway is once that is known."""
    down, fresh = {"up": False, "rtt_ms": None}, {"up": True, "rtt_ms": None}
    assert links_shown([down, down]) == "none is up"
    assert links_shown([fresh, down]) == "1 up"
    assert links_shown([{"up": True, "rtt_ms": 0.5}, fresh]) == "2 up, there and back in 0.5 ms"
