"""`install.sh`, run by a POSIX shell: every step in a dry run, and every way in which it refuses."""

import functools
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from potluck.admin.installers import LISTS, Kit

TEMPLATE = Path(__file__).parents[2] / "src" / "potluck" / "admin" / "installers" / "install.sh"
TOKEN = "plj-" + "a" * 46

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a shell script")


class Script:
    """The script as a gateway at `origin` serves it, and a machine of its own for it to run on."""

    def __init__(self, folder: Path, origin: str) -> None:
        self.folder = folder
        text = Kit(folder / "gateway").script("install.sh", origin).content.decode()
        self.systemd = folder / "systemd"
        """whether this is there says whether systemd runs"""
        self.systemd.mkdir()
        self.text = text.replace("/run/systemd/system", str(self.systemd)).replace("/usr/local/bin", f"{folder}/bin")
        self.path = "/usr/bin:/bin"

    def run(self, *arguments: str, token: str = TOKEN, text: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """Run it as `curl … | sh -s -- ARGUMENTS` does."""
        return subprocess.run(
            ["/bin/sh", "-s", "--", "--prefix", str(self.folder / "prefix"), *arguments],
            input=text or self.text,
            env={
                "PATH": self.path,
                "HOME": str(self.folder / "person"),
                "POTLUCK_NODE_HOME": str(self.folder / "node"),
                "POTLUCK_JOIN_TOKEN": token,
                **env,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def nothing_was_done(self) -> bool:
        return not (self.folder / "prefix").exists() and not (self.folder / "node").exists()


@pytest.fixture
def script(tmp_path: Path) -> Script:
    (tmp_path / "gateway").mkdir()
    return Script(tmp_path, "https://potluck.example.org")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Script]:
    """A script whose gateway is a folder of files, `tmp_path/www`."""
    (tmp_path / "www" / "install").mkdir(parents=True)
    (tmp_path / "gateway").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path / "www"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    made = Script(tmp_path, f"http://127.0.0.1:{server.server_port}")
    kit = Kit(tmp_path / "gateway")
    for piece in (kit.wheel(), *map(kit.requirements, LISTS)):
        (tmp_path / "www" / "install" / piece.name).write_bytes(piece.content)
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
@pytest.mark.parametrize("filled", [False, True])
def test_shellcheck_finds_nothing(script: Script, filled: bool, tmp_path: Path) -> None:
    """The script is clean POSIX sh, as template and as served."""
    place = tmp_path / "install.sh"
    place.write_text(script.text if filled else TEMPLATE.read_text())
    done = subprocess.run(
        ["shellcheck", "--shell=sh", str(place)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout


def test_a_dry_run_says_every_step_and_does_none(script: Script, tmp_path: Path) -> None:
    """Fetch, check, environment, packages by hash, agent, link, join, service, status: said in order, none done."""
    done = script.run("--dry-run", "--name", "lab-1")
    assert done.returncode == 0, done.stderr
    said = done.stdout
    order = [
        "https://potluck.example.org/install/potluck-",
        "https://potluck.example.org/install/node-requirements.txt",
        "SHA-256 of",
        " -m venv ",
        "--require-hashes --only-binary :all:",
        "--no-index --no-deps",
        "ln -sf",
        "node join https://potluck.example.org --name lab-1",
        "node install-service",
        "node status",
    ]
    places = [said.index(each) for each in order]
    assert places == sorted(places)
    assert TOKEN not in said
    assert script.nothing_was_done()


def test_a_dry_run_of_removing(script: Script) -> None:
    """Service, gateway, program: said in that order."""
    said = script.run("--dry-run", "--uninstall").stdout
    places = [said.index(each) for each in ("node uninstall-service", "node leave", "rm -rf")]
    assert places == sorted(places)
    assert script.nothing_was_done()


def test_without_a_running_systemd_no_service_is_made(script: Script) -> None:
    """A container has systemctl and nobody behind it: said before anything is done, and no service is tried."""
    script.systemd.rmdir()
    said = script.run("--dry-run").stdout
    assert "systemd does not run here" in said
    assert "install-service" not in said


def test_the_built_in_model_comes_when_it_is_asked_for(script: Script, tmp_path: Path) -> None:
    """Its engine by the second list, checked and by hashes; then the setting. An update keeps what was asked for."""
    said = script.run("--dry-run", "--local-model").stdout
    order = ["/install/node-local-requirements.txt", "SHA-256 of /tmp/potluck-install/node-local"]
    order += [" -m venv ", "-r /tmp/potluck-install/node-local-requirements.txt", "node join", "set local_model yes"]
    order += ["node install-service"]
    places = [said.index(each) for each in order]
    assert places == sorted(places)
    assert re.search(r"--require-hashes --only-binary :all: -r \S+/node-local-requirements.txt", said)
    plain = script.run("--dry-run").stdout
    assert "node-local" not in plain
    assert "local_model" not in plain

    settings(tmp_path, local_model=True)
    again = script.run("--dry-run").stdout
    assert "-r /tmp/potluck-install/node-local-requirements.txt" in again
    assert "set local_model" not in again
    settings(tmp_path, local_model=False)
    assert "node-local" not in script.run("--dry-run").stdout


def settings(folder: Path, *, local_model: bool) -> None:
    """What `potluck node set local_model …` leaves in the node's home."""
    done = subprocess.run(
        [sys.executable, "-m", "potluck", "node", "set", "local_model", "yes" if local_model else "no"],
        env={**os.environ, "POTLUCK_NODE_HOME": str(folder / "node")},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


SLOW_PYTHON = """
for each; do place=$each; done
case "$*" in
  "-m venv"*)
    mkdir -p "$place/bin" "$place/lib"
    touch "$place/pyvenv.cfg"
    ln -s PYTHON "$place/bin/python"
    echo half made
    exec sleep 60 ;;
  *) exec PYTHON "$@" ;;
esac"""
"""makes half an environment, whose python runs and has its own pip, and hangs"""


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_made_good_by_the_next(served: Script, tmp_path: Path, signal_: signal.Signals) -> None:
    """Interrupted while the environment is made: no temporary file stays, the next run makes the environment anew, and
    `--uninstall` removes the half of it."""
    temporary, made_anew = tmp_path / "tmp", tmp_path / "anew"
    temporary.mkdir()
    slow = SLOW_PYTHON.replace("PYTHON", sys.executable)
    anew = f'case "$*" in *hashlib*) exec {sys.executable} "$@" ;; "-m venv"*) echo "$*" >{made_anew}; exit 1 ;; esac'
    tools = _fake_tools(tmp_path, slow=slow, next=anew)
    with subprocess.Popen(
        ["/bin/sh", "-s", "--", "--prefix", str(tmp_path / "prefix"), "--no-service"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path / "person"),
            "POTLUCK_NODE_HOME": str(tmp_path / "node"),
            "POTLUCK_JOIN_TOKEN": TOKEN,
            "PYTHON": f"{tools}/slow",
            "TMPDIR": str(temporary),
        },
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(served.text)
        process.stdin.close()
        assert "half made\n" in iter(process.stdout.readline, "")
        assert list(temporary.glob("*/*.whl"))
        os.killpg(process.pid, signal_)
        assert process.wait(timeout=20) == 128 + signal_
    assert list(temporary.iterdir()) == []
    assert (tmp_path / "prefix" / "venv" / "bin" / "python").exists()

    again = served.run("--no-service", PYTHON=f"{tools}/next")
    assert again.returncode == 1, again.stdout
    assert "--clear" in made_anew.read_text()

    removed = served.run("--uninstall")
    assert (removed.returncode, "was interrupted" in removed.stdout) == (0, True), removed.stdout + removed.stderr
    assert not (tmp_path / "prefix").exists()


def test_an_environment_of_somebody_elses_is_left_alone(served: Script, tmp_path: Path) -> None:
    """A prefix with a `venv` that this script did not make is neither filled nor removed."""
    mine = tmp_path / "prefix" / "venv" / "pyvenv.cfg"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    refused = served.run("--no-service")
    assert (refused.returncode, "was not made by this script" in refused.stderr) == (1, True), refused.stderr
    assert "Nothing to remove" in served.run("--uninstall").stdout
    assert mine.read_text() == "mine"


def test_removing_what_is_not_there_is_no_fault(script: Script, tmp_path: Path) -> None:
    """Uninstalling twice is uninstalling once, also where something of the person's own keeps the folder."""
    (tmp_path / "potluck-node" / "mine").mkdir(parents=True)
    done = script.run("--uninstall", "--prefix", str(tmp_path / "potluck-node"))
    assert (done.returncode, "Nothing to remove" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("fails", "words", "removed"),
    [("uninstall-service", "nothing was removed", False), ("leave", "the gateway was not told", True), ("", "", True)],
)
def test_removing_that_failed_in_part_is_not_done(
    script: Script, tmp_path: Path, fails: str, words: str, removed: bool
) -> None:
    """The agent that does not stop ends it; a gateway that was not told is said at the end, with exit status 1."""
    program = tmp_path / "prefix" / "venv" / "bin" / "potluck"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\n[ "$2" != "{fails}" ]\n')
    program.chmod(0o755)
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "node.json").write_text("{}")
    done = script.run("--uninstall")
    assert (done.returncode, "Done." in done.stdout) == ((1, False) if fails else (0, True)), done.stdout
    assert words in done.stderr
    assert program.exists() is not removed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tokne", "x"], "unknown option --tokne"),
        (["--name"], "--name needs a value"),
        (["--ca-file", "/nowhere/roots.pem"], "/nowhere/roots.pem cannot be read"),
    ],
)
def test_wrong_words_are_named(script: Script, arguments: list[str], words: str) -> None:
    """A misspelt option ends it before anything is done."""
    done = script.run(*arguments)
    assert (done.returncode, words in done.stderr) == (1, True), done.stderr
    assert script.nothing_was_done()


def test_without_a_token_it_says_where_one_comes_from(script: Script) -> None:
    """A machine that is not enrolled needs a token; the message has the command that makes one."""
    done = script.run(token="")
    assert (done.returncode, "potluck nodes token create" in done.stderr) == (1, True), done.stderr
    assert script.nothing_was_done()


@pytest.mark.parametrize("origin", ["http://10.0.0.9:7171", "http://potluck.example.org", "http://127.evil.example"])
def test_plain_http_goes_no_further_than_this_machine(tmp_path: Path, origin: str) -> None:
    """Over plain http to another machine it refuses unless told, and then says it aloud."""
    (tmp_path / "gateway").mkdir()
    script = Script(tmp_path, origin)
    refused = script.run("--dry-run")
    assert (refused.returncode, "plain http" in refused.stderr) == (1, True), refused.stdout
    allowed = script.run("--dry-run", "--insecure")
    assert (allowed.returncode, "WARNING" in allowed.stdout) == (0, True), allowed.stderr
    assert "node join " + origin + " --insecure" in allowed.stdout


def _fake_tools(folder: Path, **programs: str) -> str:
    """A PATH with what any system has, and these programs."""
    bin_ = folder / "tools"
    bin_.mkdir()
    for tool in ("uname", "id", "mktemp", "rm", "mkdir", "ln", "readlink", "basename", "sed", "cat", "rmdir"):
        found = shutil.which(tool)
        assert found
        (bin_ / tool).symlink_to(found)
    for name, text in programs.items():
        (bin_ / name).write_text(f"#!/bin/sh\n{text}\n")
        (bin_ / name).chmod(0o755)
    return str(bin_)


def test_no_python_names_the_package(script: Script, tmp_path: Path) -> None:
    """Without a Python that is new enough, one line names what to install."""
    script.path = _fake_tools(tmp_path, python3="exit 1", systemctl="exit 0")
    done = script.run(PYTHON="/nowhere/python3")
    if done.returncode == 0:
        pytest.skip("/usr/local/bin or Homebrew has a Python here")
    assert "Python 3.11 or newer is needed" in done.stderr
    assert "apt install python3 python3-venv" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_python_without_venv_names_the_package(script: Script, tmp_path: Path) -> None:
    """Where Python's venv module was split off, the package that brings it is named."""
    split = 'case "$2" in *ensurepip*) exit 1 ;; esac'
    names = ("python3", "python3.14", "python3.13", "python3.12", "python3.11")
    script.path = _fake_tools(tmp_path, systemctl="exit 0", **dict.fromkeys(names, split))
    done = script.run(PYTHON=str(tmp_path / "tools" / "python3"))
    if done.returncode == 0 or "curl" in done.stderr:
        pytest.skip("/usr/local/bin or Homebrew has a Python here")
    assert "apt install python3-venv" in done.stderr, done.stderr


def test_another_wheel_than_the_scripts_is_not_installed(served: Script, tmp_path: Path) -> None:
    """What came with other bytes than the script names is refused, before anything of the machine is changed."""
    (wheel,) = (tmp_path / "www" / "install").glob("*.whl")
    wheel.write_bytes(wheel.read_bytes() + b"x")
    done = served.run("--no-service")
    assert (done.returncode, "is not what this script was made for" in done.stderr) == (1, True), done.stderr
    assert served.nothing_was_done()


def test_a_gateway_that_is_not_there_is_named(script: Script, tmp_path: Path) -> None:
    """The address that could not be fetched stands in the message, with what to try."""
    script.path = _fake_tools(tmp_path, curl="exit 7", systemctl="exit 0") + ":/usr/bin:/bin"
    done = script.run("--no-service")
    assert done.returncode == 1
    assert "could not be fetched: is the gateway up" in done.stderr
    assert script.nothing_was_done()


def test_a_script_that_was_cut_does_nothing(script: Script) -> None:
    """Whatever part of the script arrives, nothing is run before the whole of it is there."""
    lines = script.text.splitlines(keepends=True)
    for count in range(0, len(lines) - 1, 7):
        script.run("--no-service", text="".join(lines[:count]) or "\n")
    assert script.nothing_was_done()


def test_the_template_itself_installs_nothing(script: Script) -> None:
    """The file of the source tree says that it has to come from a gateway."""
    done = script.run(text=TEMPLATE.read_text())
    assert (done.returncode, "this is the template" in done.stderr) == (1, True), done.stderr


def test_a_program_of_somebody_elses_is_not_replaced(script: Script, tmp_path: Path) -> None:
    """A `potluck` that is there already stays, and the path of the agent's own is said."""
    place = tmp_path / "bin" / "potluck"
    place.parent.mkdir()
    text = script.text.replace("$HOME/.local/bin", str(place.parent))
    assert f"ln -sf {tmp_path}/prefix/venv/bin/potluck {place}" in script.run("--dry-run", text=text).stdout
    place.write_text("mine")
    said = script.run("--dry-run", text=text).stdout
    assert "another program and left as it is" in said
    assert "ln -sf" not in said
