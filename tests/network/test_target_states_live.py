"""A target that breaks is seen at once by API, command line and metrics, and a hand can end it."""

import re
import time
from pathlib import Path
from typing import Any

import pytest

from potluck.cli.app import run
from potluck.conformance.process import GatewayProcess, point_at
from potluck.conformance.provider import FakeProvider

SEEN_S = 1.0
"""within which a change of state has to be visible"""


async def ask(gateway: GatewayProcess, model: str = "ok") -> int:
    """One plain call; its status."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    async with gateway.caller(timeout_s=30) as caller:
        return (await caller.ask("POST", "/v1/chat/completions", body, key=gateway.key)).status


async def states(gateway: GatewayProcess) -> dict[str, dict[str, Any]]:
    answer = await gateway.api("GET", "/target-states")
    assert answer.status == 200
    return {each["target"]: each for each in answer.json["data"]}


async def metrics(gateway: GatewayProcess) -> str:
    async with gateway.caller(timeout_s=30) as caller:
        return (await caller.ask("GET", "/metrics")).body.decode()


def command(gateway: GatewayProcess, capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command line prints that must succeed."""
    capfd.readouterr()
    env = {"POTLUCK_HOME": str(gateway.home), "POTLUCK_URL": f"http://{gateway.host}:{gateway.port}"}
    status = run(arguments, env)
    said = capfd.readouterr()
    assert (status, said.err) == (0, ""), said
    return said.out


async def test_a_broken_target_is_seen_and_cleared(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The breaker that opens is told within a second everywhere, with its reason; a clearing closes it for requests."""
    async with (
        FakeProvider() as fake,
        GatewayProcess(tmp_path / "home", point_at(fake, "ok", "other")) as gateway,
    ):
        await gateway.ready()
        assert await ask(gateway) == 200
        assert {target: each["state"] for target, each in (await states(gateway)).items()} == {"fake/ok": "closed"}
        fake.override = "status-500"
        while (await states(gateway))["fake/ok"]["failures"] < 5:
            assert await ask(gateway) == 502
        broken_at = time.monotonic()
        seen = (await states(gateway))["fake/ok"]
        assert (seen["state"], seen["failures"] >= 5) == ("open", True)
        assert seen["reason"].startswith("breaker open: 5 failures in a row, the last: ")
        listed = command(gateway, capfd, "target", "list")
        assert re.search(r"^fake/ok +main +open +in \d+ s .*5 failures in a row", listed, re.MULTILINE)
        assert time.monotonic() - broken_at < SEEN_S
        exposed = await metrics(gateway)
        assert 'potluck_target_state{credential="main",state="open",target="fake/ok"} 1.0' in exposed
        assert 'potluck_target_state{credential="main",state="closed",target="fake/ok"} 0.0' in exposed
        assert 'potluck_target_opened_total{target="fake/ok"} 1.0' in exposed
        assert 'potluck_target_in_flight{target="fake/ok"} 0.0' in exposed
        attempts = r'^potluck_attempts_total\{blame="provider",error_class="target_down",target="fake/ok"\} [5-9]'
        assert re.search(attempts, exposed, re.MULTILINE)
        shown = command(gateway, capfd, "model", "show", "ok")
        assert re.search(r"^fake/ok .* open$", shown, re.MULTILINE)
        assert "fake/ok by main is open: breaker open: 5 failures in a row" in shown
        assert "unused" in command(gateway, capfd, "model", "show", "other")
        explained = command(gateway, capfd, "route", "explain", "--model", "ok")
        assert re.search(r"^1  fake/ok +main +open +tier 0; breaker open: 5 failures", explained, re.MULTILINE)

        fake.override = None
        assert command(gateway, capfd, "target", "clear", "fake/ok") == "fake/ok: cleared\n"
        cleared = (await states(gateway))["fake/ok"]
        assert (cleared["state"], cleared["reason"], cleared["failures"]) == ("closed", "", 0)
        assert await ask(gateway) == 200
        assert command(gateway, capfd, "target", "clear", "fake/ok") == "fake/ok: nothing was held against it\n"
        assert 'state="closed",target="fake/ok"} 1.0' in await metrics(gateway)
        entry = (await gateway.api("GET", "/audit?limit=2")).json["data"][1]
        assert (entry["action"], entry["name"], entry["detail"]["cleared"]) == ("target.clear", "fake/ok", 1)


async def test_a_dead_key_is_seen_and_another_is_told_first(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A refused key is `dead` on every target of its provider; explaining puts the live one in front."""
    async with FakeProvider() as fake, GatewayProcess(tmp_path / "home") as gateway:
        await gateway.ready()
        provider = {"name": "fake", "base_url": fake.base_url, "own": True, "key": "sk-upstream-first-secret"}
        assert (await gateway.api("POST", "/providers", provider)).status == 201
        model = {"name": "ok", "targets": [{"target": "fake/ok"}]}
        assert (await gateway.api("POST", "/models", model)).status == 201
        fake.override = "status-401"
        assert await ask(gateway) == 502
        assert (await states(gateway))["fake/ok"]["state"] == "dead"
        refused = (await gateway.api("POST", "/routes/explain", {"model": "ok"})).json["refused"]
        assert (refused["status"], refused["code"]) == (503, "no_target_available")
        assert await ask(gateway) == 503
        body = {"provider": "fake", "name": "second", "key": "sk-upstream-second-secret"}
        assert (await gateway.api("POST", "/credentials", body)).status == 201
        fake.override = None
        explained = command(gateway, capfd, "route", "explain", "--model", "ok")
        assert re.search(r"^1  fake/ok +second +closed .*\n   fake/ok +main +dead ", explained, re.MULTILINE)
        assert await ask(gateway) == 200
        assert "closed; 1 of 2 keys dead" in command(gateway, capfd, "model", "show", "ok")
        assert "cleared" in command(gateway, capfd, "target", "clear", "--credential", "fake/main")
        assert {each["state"] for each in (await gateway.api("GET", "/target-states")).json["data"]} == {"closed"}
