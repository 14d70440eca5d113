"""`serve --config FILE`: the file is in force from the first request, and a bad one keeps the gateway from starting."""

import http.client
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GOOD = """
[[providers]]
name = "lab"
base_url = "http://127.0.0.1:9/v1"
own = true

[[models]]
name = "filed"
targets = [{ target = "lab/x" }]

[[keys]]
name = "app"
models = ["filed"]
"""


def command(home: Path, file: Path) -> list[str]:
    options = ["--home", str(home), "--config", str(file), "--port", "0", "--no-local-model"]
    return [sys.executable, "-m", "potluck", "serve", *options]


def start_and_stop(home: Path, file: Path, ask: str = "") -> tuple[list[str], int]:
    """Lines until the gateway listens, and the status of a call with the key `ask`, else with the one printed."""
    with subprocess.Popen(command(home, file), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines, url = [], ""
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if found := re.search(r"listens on http://(\S+)", line):
                url = found[1]
                break
        assert url, lines
        key = ask or next(line for line in lines if re.fullmatch(r"plk-[0-9A-Za-z]{46}", line))
        connection = http.client.HTTPConnection(url, timeout=10)
        connection.request("GET", "/v1/models/filed", headers={"authorization": f"Bearer {key}"})
        status = connection.getresponse().status
        connection.close()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 0
    return lines, status


def test_a_file_is_in_force_from_the_first_request(tmp_path: Path) -> None:
    """Its objects are there at once, its new key is printed once, and the next start changes nothing."""
    file, home = tmp_path / "potluck.toml", tmp_path / "home"
    file.write_text(GOOD)
    lines, status = start_and_stop(home, file)
    assert status == 200
    assert {"potluck.toml: add provider lab", "potluck.toml: add model filed", "potluck.toml: add key app"} <= set(
        lines
    )
    (secret,) = (line for line in lines if re.fullmatch(r"plk-[0-9A-Za-z]{46}", line))
    lines, status = start_and_stop(home, file, secret)
    assert status == 200
    assert not [line for line in lines if "potluck.toml" in line or secret in line]


def test_a_bad_file_keeps_the_gateway_from_starting(tmp_path: Path) -> None:
    """Every problem is a line with its place; a file that cannot be applied is refused as one that cannot be read."""
    file, home = tmp_path / "potluck.toml", tmp_path / "home"
    file.write_text('[[providers]]\nname = "a b"\n[[budgets]]\n')
    done = subprocess.run(command(home, file), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    first, second, third = done.stderr.splitlines()
    assert first == "potluck: potluck.toml:1: providers[0]: 'base_url' is missing"
    assert second.startswith("potluck: potluck.toml:2: providers[0].name: is 'a b'; allowed: letters")
    assert third.startswith("potluck: potluck.toml:3: budgets: budgets are not in this version of Potluck yet")
    file.write_text('[[models]]\nname = "m"\ntargets = [{ target = "nobody/x" }]\n')
    done = subprocess.run(command(home, file), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert re.match(r"potluck: potluck\.toml:3: models\[0\].*there is no provider 'nobody'", done.stderr), done.stderr


@contextmanager
def listening(lists: bytes) -> Iterator[tuple[str, list[str]]]:
    """A server that answers `GET /v1/models` and refuses to be a proxy; its address, and what it was asked."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.requestline)
            self.send_response(200)
            self.send_header("content-length", str(len(lists)))
            self.end_headers()
            self.wfile.write(lists)

        def do_CONNECT(self) -> None:
            seen.append(self.requestline)
            self.send_error(403)

        def log_message(self, *said: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def gateway(line: list[str], log: Path, **env: str) -> Iterator[str]:
    """A gateway that listens; its address."""
    with log.open("w") as errors:
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | env)
    with process:
        assert process.stdout is not None
        found = next(each for text in process.stdout if (each := re.search(r"listens on http://(\S+)", text)))
        try:
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)


def until(what: str, read: Path | None = None, url: str = "", key: str = "") -> str:
    """Waits until a log, or `GET /v1/models`, holds `what`; gives all of it."""
    give_up_at, said = time.monotonic() + 20, ""
    while time.monotonic() < give_up_at:
        if read is not None:
            said = read.read_text()
        else:
            connection = http.client.HTTPConnection(url, timeout=10)
            connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {key}"})
            said = connection.getresponse().read().decode()
            connection.close()
        if what in said:
            return said
        threading.Event().wait(0.02)
    raise AssertionError(said)


def test_providers_of_a_file_are_asked_for_their_models(tmp_path: Path) -> None:
    """Soon after the start, without being waited for; one that fails is logged once and asked again at the next."""
    file, home, log = tmp_path / "potluck.toml", tmp_path / "home", tmp_path / "log"
    with listening(json.dumps({"data": [{"id": "told-by-lab"}]}).encode()) as (address, seen):
        file.write_text(
            f'[[providers]]\nname = "lab"\nbase_url = "{address}/v1"\nown = true\n'
            '[[providers]]\nname = "gone"\nbase_url = "http://127.0.0.1:9/v1"\n'
        )
        with gateway(command(home, file), log) as url:
            key = (home / "first-api-key").read_text().strip()
            assert "lab/told-by-lab" in until("told-by-lab", url=url, key=key)
            until("provider gone has not named its models: connection refused", read=log)
        assert log.read_text().count("has not named its models") == 1
        with gateway(command(home, file), log):
            until("provider gone has not named its models", read=log)
        assert seen == ["GET /v1/models HTTP/1.1"]


def test_providers_of_the_first_start_are_asked_too(tmp_path: Path) -> None:
    """Those that come from the environment are asked once the gateway listens, and at the first start only."""
    home, log = tmp_path / "home", tmp_path / "log"
    line = [sys.executable, "-m", "potluck", "serve", "--home", str(home), "--port", "0", "--no-local-model"]
    with listening(b"") as (proxy, seen):
        env = {"MISTRAL_API_KEY": "sk-canary", "HTTPS_PROXY": proxy, "https_proxy": proxy}
        with gateway(line, log, **env):
            said = until("provider mistral has not named its models", read=log)
        assert "canary" not in said
        asked = [each for each in seen if "api.mistral.ai" in each]
        assert asked
        with gateway(line, log, **env):
            pass
        assert [each for each in seen if "api.mistral.ai" in each] == asked
