"""The Dockerfile's steps and `install.sh`, run for real in a clean Debian. Long: they install packages.

One gateway, from the gateway's image, serves all of them, and is asked by HTTP alone.
"""

import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import clean_root
import pytest
import yaml
from clean_root import Booted, Image, Root, build, end

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PLAIN_DEBIAN = f"""
FROM {clean_root.BASE_IMAGE} AS machine
RUN apt-get update \\
 && apt-get install --yes --no-install-recommends ca-certificates curl python3 python3-venv systemd \\
 && rm -rf /var/lib/apt/lists/*
"""
"""a machine as somebody has it: `apt install` of what install.sh asks for, systemd as on any Debian"""
BUILD_TOOLS = ("pip", "pip3", "hatchling", "gcc", "cc", "make", "git")
UNIT = "/etc/systemd/system/potluck-node.service"

REASON = clean_root.why_not()
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(REASON), reason=REASON),
]


def _until(what: Callable[[], Any], wait_s: float, words: str) -> Any:
    """The first answer that is not empty; asks each tenth of a second."""
    latest = time.monotonic() + wait_s
    while time.monotonic() < latest:
        if found := what():
            return found
        time.sleep(0.1)
    pytest.fail(f"not in {wait_s} s: {words}")


class Served:
    """The gateway's image, running."""

    def __init__(self, image: Image, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.root = Root(image, folder)
        self.env = {"POTLUCK_PORT": str(self.port), "POTLUCK_NO_LOCAL_MODEL": "1"}
        self.process = self.root.start([*image.entrypoint, *image.command], env=self.env)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer of the admin API; None when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        token = self.root.seen("/data/admin-token")
        try:
            headers = {"authorization": f"Bearer {token.read_text().strip()}"} if token else {}
            if body is not None:
                headers["content-type"] = "application/json"
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status < 300 or answer.status == 503, (answer.status, content)
            return json.loads(content) if answer.status < 300 and content else None
        except OSError:
            return None
        finally:
            connection.close()

    def token(self) -> str:
        secret = self.ask("POST", "/api/v1/join-tokens", {})["secret"]
        assert isinstance(secret, str)
        return secret

    def node(self, name: str) -> Any:
        return next((each for each in self.ask("GET", "/api/v1/nodes")["data"] if each["name"] == name), None)

    def connected(self, name: str) -> bool:
        found = self.node(name)
        return bool(found and found["live"] and found["live"]["connected"])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    clean_root.forget_old_layers()
    try:
        image = build(DOCKERFILE, ROOT, "gateway")
    except clean_root.NoNetworkError as error:
        pytest.skip(str(error))
    served = Served(image, tmp_path_factory.mktemp("gateway"))
    latest = time.monotonic() + 60
    while served.ask("GET", "/readyz") is None:
        if served.process.poll() is not None or time.monotonic() > latest:
            pytest.fail(f"the gateway's image does not serve:\n{end(served.process)}")
        time.sleep(0.1)
    yield served
    end(served.process)


@pytest.fixture
def machine(tmp_path: Path, gateway: Served) -> Iterator[Root]:
    """A clean Debian of one's own. It is not kept: 100 MB."""
    yield Root(build(PLAIN_DEBIAN, ROOT, "machine"), tmp_path / "machine")
    shutil.rmtree(tmp_path / "machine")


@pytest.mark.parametrize("target", ["gateway", "node"])
def test_an_image_holds_no_more_than_it_needs(target: str, gateway: Served, tmp_path: Path) -> None:
    """Not root, nothing of it writable but its data, no pip, no compiler, no source."""
    image = build(DOCKERFILE, ROOT, target)
    assert image.user not in ("", "root", "0")
    assert image.volumes == ("/data",)
    root = Root(image, tmp_path / "root")
    asked = "; ".join(f"command -v {tool}" for tool in BUILD_TOOLS)
    done = root.run(["sh", "-c", f"{asked}; python3 -m pip --version; ls /source /tools; id -u"])
    assert done.stdout.split() == ["10001"], done.stdout
    writable = root.run(["sh", "-c", "find / -xdev -writable -not -type l -not -path '/tmp*' -not -path '/var/tmp*'"])
    assert {line for line in writable.stdout.split() if not line.startswith(("/var/lock", "/run"))} == {"/data"}


def test_the_gateways_image_is_healthy(gateway: Served, tmp_path: Path) -> None:
    """Its own health check finds it well, and finds a gateway that is not there ill."""
    image = gateway.root.image
    assert image.exposed == ("7171",)
    assert Root(image, tmp_path / "well").run(list(image.health), env=gateway.env).returncode == 0
    assert Root(image, tmp_path / "ill").run(list(image.health), env={"POTLUCK_PORT": "1"}).returncode != 0


def test_the_nodes_image_joins_and_serves(gateway: Served, tmp_path: Path) -> None:
    """It joins by its token at the first start and connects; at the next start it needs none."""
    image = build(DOCKERFILE, ROOT, "node")
    env = {"POTLUCK_GATEWAY": gateway.url, "POTLUCK_JOIN_TOKEN": gateway.token()}
    root = Root(image, tmp_path / "root")
    process = root.start([*image.entrypoint, "--name", "boxed"], env=env)
    _until(lambda: gateway.connected("boxed") or process.poll() is not None, 30, "the node connects")
    assert process.poll() is None, end(process)
    end(process)
    _until(lambda: not gateway.connected("boxed"), 30, "the gateway misses it")
    process = root.start(list(image.entrypoint))
    _until(lambda: gateway.connected("boxed") or process.poll() is not None, 30, "the node connects again")
    said = end(process)
    assert env["POTLUCK_JOIN_TOKEN"] not in said


def test_compose_names_what_the_dockerfile_has() -> None:
    """The targets exist, nothing runs with more rights than it needs, and nothing secret is written in."""
    text = (ROOT / "compose.yaml").read_text()
    found = yaml.safe_load(text)
    for name, service in found["services"].items():
        assert f"AS {service['build']['target']}\n" in DOCKERFILE, name
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"]
        assert [each.partition(":")[2] for each in service["volumes"]] == ["/data"]
    assert found["services"]["gateway"]["ports"] == ["127.0.0.1:7171:7171"]
    assert "plj-" not in text.replace("plj-...", "")


def _install(
    machine: Root | Booted, gateway: Served, *arguments: str, token: str = ""
) -> "subprocess.CompletedProcess[str]":
    """As the page says: curl … | sh."""
    line = f'curl -fsSL {gateway.url}/install.sh | sh -s -- "$@"'
    env = {"POTLUCK_JOIN_TOKEN": token} if token else {}
    return machine.run(["sh", "-c", line, "sh", *arguments], env=env)


def test_install_enrol_start_on_boot_upgrade_and_uninstall(machine: Root, gateway: Served) -> None:
    """The whole of it on a clean Debian under its own systemd: installed from the gateway, enrolled, running under the
    hardened unit; back after the plug was pulled; the same node after an upgrade; afterwards nothing is left."""
    token = gateway.token()
    booted = Booted(machine)
    try:
        first = _install(booted, gateway, "--name", "lab-1", token=token)
        assert first.returncode == 0, first.stdout + first.stderr
        assert token not in first.stdout + first.stderr
        _until(lambda: gateway.connected("lab-1"), 30, "the node connects")
        told = booted.run(["potluck", "node", "status"])
        assert told.returncode == 0, told.stdout + told.stderr
        listed = booted.run(["/opt/potluck-node/venv/bin/python", "-m", "pip", "list", "--format=freeze"]).stdout
        assert "potluck==" in listed
        assert not {"litestar", "sqlalchemy", "aiohttp", "uvicorn"} & {line.split("==")[0] for line in listed.split()}
        shown = booted.run(["systemctl", "show", "-p", "User", "-p", "NRestarts", "potluck-node"]).stdout
        assert set(shown.split()) == {"User=potluck-node", "NRestarts=0"}
        node = gateway.node("lab-1")["id"]
    finally:
        booted.end()
    _until(lambda: not gateway.connected("lab-1"), 60, "the gateway misses it")

    booted = Booted(machine)
    try:
        _until(lambda: gateway.connected("lab-1"), 30, "the node is back after a restart, by itself")
        again = _install(booted, gateway)
        assert (again.returncode, "enrolled already" in again.stdout) == (0, True), again.stdout + again.stderr
        _until(lambda: gateway.connected("lab-1"), 30, "the same node connects again")
        assert gateway.node("lab-1")["id"] == node

        removed = _install(booted, gateway, "--uninstall")
        assert removed.returncode == 0, removed.stdout + removed.stderr
        assert gateway.node("lab-1") is None
        assert booted.run(["systemctl", "is-active", "potluck-node"]).stdout.strip() == "inactive"
        for path in ("/opt/potluck-node", UNIT, "/usr/local/bin/potluck"):
            assert booted.run(["test", "-e", path]).returncode == 1, path
        twice = _install(booted, gateway, "--uninstall")
        assert (twice.returncode, "Nothing to remove" in twice.stdout) == (0, True), twice.stderr
    finally:
        booted.end()


def test_a_token_that_was_used_up_ends_it_in_words(machine: Root, gateway: Served) -> None:
    """A second machine with the same token is refused; the script says so, and can simply be run again."""
    token = gateway.token()
    assert _install(machine, gateway, "--no-service", "--name", "lab-2", token=token).returncode == 0
    machine.run(["rm", "-rf", "/var/lib/potluck-node"])
    refused = _install(machine, gateway, "--no-service", "--name", "lab-3", token=token)
    assert refused.returncode == 1
    assert "this machine was not enrolled" in refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr
    assert gateway.node("lab-3") is None
    assert _install(machine, gateway, "--no-service", "--name", "lab-3", token=gateway.token()).returncode == 0


def test_another_user_installs_for_themselves(machine: Root, gateway: Served) -> None:
    """Without root all goes below the person's home, and nothing outside of it is touched."""
    made = machine.run(["useradd", "--create-home", "ada"])
    assert made.returncode == 0, made.stderr
    line = f"curl -fsSL {gateway.url}/install.sh | sh -s -- --no-service --name adas"
    env = {"HOME": "/home/ada", "POTLUCK_JOIN_TOKEN": gateway.token()}
    done = machine.run(["sh", "-c", line], user="ada", env=env, timeout_s=300)
    assert done.returncode == 0, done.stdout + done.stderr
    process = machine.start(["/home/ada/.local/bin/potluck", "node", "run"], user="ada", env={"HOME": "/home/ada"})
    _until(lambda: gateway.connected("adas") or process.poll() is not None, 30, "the node connects")
    assert process.poll() is None, end(process)
    end(process)
    mine = machine.run(
        ["find", "/", "-xdev", "-user", "ada", "-not", "-path", "/home/ada*", "-not", "-path", "/proc/*"]
    )
    assert [line for line in mine.stdout.split() if not line.startswith(("/var/mail", "/var/spool/mail"))] == []


def test_the_built_in_model_needs_no_engine_of_ones_own(machine: Root, gateway: Served) -> None:
    """On a machine with nothing to share, `--local-model` brings engine and model, and names the library that it cannot
    bring; where systemd does not run, the agent is run by hand, and the gateway knows the model."""
    token = gateway.token()
    bare = _install(machine, gateway, "--local-model", "--name", "small", token=token)
    assert (bare.returncode, "apt install libgomp1" in bare.stderr) == (1, True), bare.stdout + bare.stderr
    assert machine.run(["sh", "-c", "apt-get update && apt-get install --yes libgomp1"]).returncode == 0
    done = _install(machine, gateway, "--local-model", "--name", "small", token=token)
    assert (done.returncode, "systemd does not run here" in done.stdout) == (0, True), done.stdout + done.stderr
    assert machine.seen(UNIT) is None
    process = machine.start(["potluck", "node", "run"])

    def shared() -> bool:
        return process.poll() is not None or "smollm2-135m" in [
            each["name"] for each in gateway.node("small")["models"]
        ]

    try:
        _until(shared, 180, "the model is shared")
        assert process.poll() is None
    finally:
        print(end(process))
