"""A real gateway with the built-in model, for all client suites: `potluck serve` as a person would start it.

The model is the gateway's own, or that of a machine that joined it: `potluck node run --local-model`. Nothing else is
different.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from potluck.engines import model_file

MODEL = model_file.MODEL_NAME
MAX_BODY_BYTES = 1 << 20


class Served:
    """A running gateway: where it is, and what opens it."""

    def __init__(self, process: subprocess.Popen[str], url: str, home: Path) -> None:
        self.process = process
        self.serves = process
        """whose child the engine is"""
        self.url = url
        self.base_url = f"{url}/v1"
        self.api_key = (home / "first-api-key").read_text().strip()

    def get(self, path: str) -> Any:
        """A JSON answer of the data plane, asked with the first API key."""
        request = urllib.request.Request(self.url + path, headers={"authorization": f"Bearer {self.api_key}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def record(self, request_id: str, within_s: float = 10.0) -> dict[str, Any]:
        """The record of one call, as soon as it was imported."""
        ends = time.monotonic() + within_s
        while True:
            try:
                found: dict[str, Any] = self.get(f"/v1/requests/{request_id}")
            except urllib.error.HTTPError:
                assert time.monotonic() < ends, f"no record of {request_id}"
                time.sleep(0.05)
            else:
                return found

    def engine(self) -> psutil.Process:
        """The built-in model's process."""
        children = psutil.Process(self.serves.pid).children(recursive=True)
        return next(each for each in children if "potluck.engines.llama_child" in each.cmdline())

    def until_engine_rests(self, within_s: float) -> None:
        """Returns once the engine has used no processor time for a fifth of a second. Fails after `within_s`."""
        engine, ends = self.engine(), time.monotonic() + within_s
        while True:
            before = sum(engine.cpu_times()[:2])
            time.sleep(0.2)
            if sum(engine.cpu_times()[:2]) - before <= 0.02:
                return
            assert time.monotonic() < ends, "the engine is still at work"


@contextmanager
def serving(home: Path, *options: str) -> Iterator[Served]:
    """A gateway on this home. Fails with its log when it does not start; ended by SIGTERM."""
    env = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    env["POTLUCK_MAX_BODY_BYTES"] = str(MAX_BODY_BYTES)
    log = (home / "stderr.log").open("w")
    command = [str(Path(sys.executable).parent / "potluck"), "serve", "--home", str(home), "--port", "0", *options]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        yield Served(process, _listening(process, home), home)
    finally:
        _end(process)
        assert process.stdout is not None
        process.stdout.close()
        log.close()


@contextmanager
def serving_by_machine(home: Path) -> Iterator[Served]:
    """A gateway without a model, and a machine that serves the one in `home`. Both are ended by SIGTERM."""
    place = home / "gateway"
    place.mkdir()
    with serving(place, "--no-local-model") as gateway:
        command = [str(Path(sys.executable).parent / "potluck"), "node"]
        env = {name: value for name, value in os.environ.items() if not name.startswith("POTLUCK_")}
        env["POTLUCK_NODE_HOME"] = str(home / "node")
        join = {**env, "POTLUCK_JOIN_TOKEN": _join_token(gateway, place)}
        subprocess.run([*command, "join", gateway.url, "--name", "lab-1"], env=join, check=True, timeout=60)
        subprocess.run([*command, "set", "discover", "no"], env=env, check=True, timeout=60)
        words = ["run", "--local-model", "--model-home", str(home), "--page-port", "0"]
        with (home / "node.log").open("w") as log:
            agent = subprocess.Popen([*command, *words], env=env, stderr=log, text=True)
        try:
            gateway.serves = agent
            ends = time.monotonic() + 60
            while MODEL not in [model["id"] for model in gateway.get("/v1/models")["data"]]:
                assert time.monotonic() < ends, f"the machine never served: {(home / 'node.log').read_text()[-2000:]}"
                time.sleep(0.05)
            yield gateway
        finally:
            _end(agent)


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    finally:
        process.kill()
        process.wait()


def _join_token(gateway: Served, home: Path) -> str:
    admin = {"authorization": f"Bearer {(home / 'admin-token').read_text().strip()}"}
    fields = admin | {"content-type": "application/json"}
    request = urllib.request.Request(f"{gateway.url}/api/v1/join-tokens", b"{}", fields)
    with urllib.request.urlopen(request, timeout=10) as answer:
        secret: str = json.load(answer)["secret"]
    return secret


def _listening(process: subprocess.Popen[str], home: Path) -> str:
    """The address that the gateway printed. Fails with its log when it ended instead."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.match(r"Potluck listens on (\S+)", line):
            return found[1]
    pytest.fail(f"potluck serve ended: {(home / 'stderr.log').read_text()[-2000:]}")
