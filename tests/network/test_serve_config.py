"""`serve --config FILE`: the file is in force from the first request, and a bad one keeps the gateway from starting."""

import http.client
import re
import signal
import subprocess
import sys
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
