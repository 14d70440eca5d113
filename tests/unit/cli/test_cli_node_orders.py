"""Orders to the agent and its end: what the commands say where only half of it could be done."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from potluck.cli.commands import node as node_commands
from potluck.cli.commands import node_agent
from potluck.cli.failure import Failure
from potluck.node import service
from potluck.node.home import Home, Running
from potluck.node.process import LOCK_FILE
from potluck.node.service import ServiceStatus


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A machine without a service, whose agent says that it runs."""
    found = Home(tmp_path / "node")
    found.prepare()
    found.write("agent.json", Running(1, "t", 4321))
    absent = ServiceStatus("absent", False, "no service is installed")
    monkeypatch.setattr(service, "uninstall_service", lambda home, env: absent)
    return found


@pytest.mark.parametrize("action", ["pause", "resume", "drain"])
@pytest.mark.parametrize("unkept", ["", "state.json cannot be written: No space left on device"])
def test_an_order_that_will_not_hold_says_so(
    potluck: Any, home: Home, action: str, unkept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is carried out and shown; exit status 1 and why, where a restart would undo it."""
    said = {"name": "lab-1", "state": "paused", "reason": "as its owner says", "until": None, "unkept": unkept}
    monkeypatch.setattr(node_agent, "order", lambda *_: said)
    done = potluck("node", action, POTLUCK_NODE_HOME=str(home.path))
    assert (done.status, "lab-1: paused" in done.out) == (1 if unkept else 0, True)
    assert (f"does not hold over a restart: {unkept}" in done.err) == bool(unkept)


def test_an_agent_without_a_service_is_ended_too(potluck: Any, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told to stop, and waited for until its lock is free."""
    with contextlib.ExitStack() as lock:
        lock.enter_context(home.alone(LOCK_FILE, "busy"))
        orders: list[str] = []

        def stop(files: Home, action: str) -> dict[str, Any]:
            orders.append(action)
            lock.close()
            return {}

        monkeypatch.setattr(node_commands, "order", stop)
        done = potluck("node", "uninstall-service", POTLUCK_NODE_HOME=str(home.path))
        assert (done.status, orders) == (0, ["stop"]), done.err


@pytest.mark.parametrize("hears", [True, False])
def test_an_agent_that_does_not_end_is_named(
    potluck: Any, home: Home, hears: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process and exit status 1, whether it took the order or not."""

    def stop(files: Home, action: str) -> dict[str, Any]:
        if hears:
            return {}
        raise Failure("the agent at port 1 does not answer")

    monkeypatch.setattr(node_commands, "order", stop)
    monkeypatch.setattr(node_commands, "_END_S", -60.0)
    with home.alone(LOCK_FILE, "busy"):
        done = potluck("node", "uninstall-service", POTLUCK_NODE_HOME=str(home.path))
    assert (done.status, "end process 4321" in done.err, done.err.count("\n")) == (1, True, 1)


def test_what_a_killed_agent_left_is_no_agent(potluck: Any, home: Home) -> None:
    """Its `agent.json` is there and its lock is free: nothing is to be ended."""
    assert potluck("node", "uninstall-service", POTLUCK_NODE_HOME=str(home.path)).status == 0
