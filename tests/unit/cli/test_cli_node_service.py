"""What the agent's commands say on a machine where something that they need is missing, and of its service."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from potluck.node import service
from potluck.node.home import Enrolled, Home
from potluck.node.service import ServiceError, ServiceStatus


@pytest.fixture
def node(tmp_path: Path) -> Home:
    """A machine that has joined."""
    home = Home(tmp_path / "node")
    home.prepare()
    origin = "https://potluck.example.org"
    home.write("node.json", Enrolled(origin, origin, "A" * 43, "node_1", "lab-1"))
    return home


@pytest.mark.parametrize("insecure", [False, True])
def test_without_its_engine_the_built_in_model_comes_by_the_installer(
    potluck: Any, node: Home, insecure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent names the installer of its own gateway, and no package that an index may know as somebody else's."""
    enrolled = node.enrolled()
    assert enrolled
    node.write("node.json", Enrolled(enrolled.url, enrolled.origin, "A" * 43, "node_1", "lab-1", insecure=insecure))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = potluck("node", "run", "--local-model", POTLUCK_NODE_HOME=str(node.path))
    assert said.status == 1
    line = f"curl -fsSL {enrolled.url}/install.sh | sh -s -- --local-model{' --insecure' if insecure else ''}"
    assert line + " (sudo sh" in said.err
    assert "pip install" not in said.err


def test_a_service_is_told_of_in_a_line(potluck: Any, node: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """For people the one line, for programs all of it."""
    found = ServiceStatus("running", True, "the service of the system is running")
    monkeypatch.setattr(service, "install_service", lambda home, env: found)
    said = potluck("node", "install-service", POTLUCK_NODE_HOME=str(node.path))
    assert (said.status, said.out) == (0, "the service of the system is running\n")
    said = potluck("node", "install-service", "--json", POTLUCK_NODE_HOME=str(node.path))
    assert json.loads(said.out) == {"state": "running", "at_start": True, "line": found.line}


def test_a_service_that_cannot_be_is_a_fault(potluck: Any, node: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The obstacle in one line, and exit status 1."""

    def refused(home: Path, env: Any) -> ServiceStatus:
        raise ServiceError("systemd does not run here: keep it running yourself. Nothing was changed")

    monkeypatch.setattr(service, "install_service", refused)
    said = potluck("node", "install-service", POTLUCK_NODE_HOME=str(node.path))
    assert (said.status, said.out) == (1, "")
    assert "Nothing was changed" in said.err
