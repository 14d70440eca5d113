"""A Potluck whose only upstream is a node: the gateway on the measured core, the agent beside the load on the other."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from bench.processes import GATEWAY_CORE, LOAD_CORE, BenchError, free_port, spawn, stop
from bench.stack import (
    PLAIN_MODEL,
    STREAM_MODEL,
    Server,
    make_secret,
    post,
    potluck_command,
    potluck_environment,
    wait_model,
    wait_ready,
)

SLOTS = 256
JOIN_S = 30.0


class Linked:
    """The gateway as a server of the bench, and the agent that serves it. `close()` ends both."""

    def __init__(self, server: Server, agent: subprocess.Popen[bytes]) -> None:
        self.server = server
        self._agent = agent

    def close(self) -> None:
        stop(self._agent)
        stop(self.server.process)


def start_linked(directory: Path, engine_port: int) -> Linked:
    """Potluck with a new home, and a node that shares the bench's stream upstream. Raises BenchError."""
    home, place, port = directory / "linked-home", directory / "node-home", free_port()
    token, key = make_secret("pla-"), make_secret("plk-")
    log = directory / "linked.log"
    process = spawn(potluck_command(port, home), core=GATEWAY_CORE, log=log, env=potluck_environment(token, key))
    agent: subprocess.Popen[bytes] | None = None
    try:
        wait_ready(port, process, log)
        secret = json.loads(post(port, token, "join-tokens", {"name": "bench"}))["secret"]
        env = os.environ | {"POTLUCK_NODE_HOME": str(place), "POTLUCK_JOIN_TOKEN": secret}
        program = str(Path(sys.executable).with_name("potluck"))
        for words in (
            ["join", f"http://127.0.0.1:{port}", "--name", "bench"],
            ["set", "slots", str(SLOTS)],
            ["set", "engines", f"http://127.0.0.1:{engine_port}/v1"],
        ):
            done = subprocess.run([program, "node", *words], env=env, capture_output=True, check=False, timeout=30)
            if done.returncode:
                raise BenchError(f"potluck node {words[0]}: {done.stderr.decode(errors='replace')}")
        agent = spawn([program, "node", "run"], core=LOAD_CORE, log=directory / "agent.log", env=env)
        for model in (PLAIN_MODEL, STREAM_MODEL):
            wait_model(port, key, model, JOIN_S)
        _wait_ready_node(port, token)
    except BaseException:
        for each in (agent, process):
            if each is not None:
                stop(each)
        raise
    return Linked(Server("potluck", port, port, key, process, home), agent)


def _wait_ready_node(port: int, token: str) -> None:
    deadline = time.monotonic() + JOIN_S
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/v1/nodes", headers={"authorization": f"Bearer {token}"}
    )
    while True:
        with urllib.request.urlopen(request, timeout=5) as answer:
            standing = json.load(answer)["data"][0]["standing"]
        if standing == "ready":
            return
        if time.monotonic() > deadline:
            raise BenchError(f"the bench's node does not serve: {standing}")
        time.sleep(0.1)
