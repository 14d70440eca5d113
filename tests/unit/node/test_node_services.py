"""The agent as a service: what is written and run on each system, read as text and against faked commands."""

import getpass
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from xml.etree import ElementTree as ET

import pytest

from potluck.node.service import running
from potluck.node.service.launchd import Launchd, plist
from potluck.node.service.steps import Command, Job, Remove, ServiceError, Write
from potluck.node.service.systemd import Systemd, closed_to_others, presence_unit, unit
from potluck.node.service.tasks import Tasks, task

SYSTEM = Job(
    program=("/opt/potluck-node/venv/bin/python", "-m", "potluck"),
    home=Path("/var/lib/potluck-node"),
    system=True,
    user="potluck-node",
    user_home=Path("/root"),
    uid=0,
)
MINE = replace(
    SYSTEM, home=Path("/home/ada/.local/share/potluck-node"), system=False, user="ada", user_home=Path("/home/ada")
)
TASK_SPACE = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"


class Machine:
    """Answers commands: `says` by the first words that fit, else success; keeps what was run."""

    def __init__(self, says: dict[str, tuple[int, str]] | None = None) -> None:
        self.says = says or {}
        self.ran: list[str] = []

    def __call__(self, argv: Sequence[str]) -> tuple[int, str]:
        line = " ".join(argv)
        self.ran.append(line)
        return next((answer for start, answer in self.says.items() if line.startswith(start)), (0, ""))


def _settings(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def test_the_systems_unit_has_few_rights() -> None:
    """Not root, no capability, the file system read-only but for its own state, and started once it is enrolled."""
    found = _settings(unit(SYSTEM))
    assert found["ExecStart"] == "/opt/potluck-node/venv/bin/python -m potluck node run"
    assert found["User"] == found["Group"] == "potluck-node"
    assert found["CapabilityBoundingSet"] == ""
    assert (found["NoNewPrivileges"], found["ProtectSystem"]) == ("yes", "strict")
    assert (found["StateDirectory"], found["StateDirectoryMode"]) == ("potluck-node", "0700")
    assert found["ConditionPathExists"] == "/var/lib/potluck-node/node.json"
    assert found["WantedBy"] == "multi-user.target"


def test_a_home_elsewhere_is_the_one_writable_place() -> None:
    """A home that is not below /var/lib stays writable by its path."""
    found = _settings(unit(replace(SYSTEM, home=Path("/srv/100% node"))))
    assert "StateDirectory" not in found
    assert found["ReadWritePaths"] == "/srv/100%% node"
    assert found["Environment"] == '"POTLUCK_NODE_HOME=/srv/100%% node"'


def test_a_users_unit_asks_for_nothing_that_a_user_lacks() -> None:
    """In a user's manager there is no other user to run as, and no file system to lock."""
    found = _settings(unit(MINE))
    assert {"User", "ProtectSystem", "CapabilityBoundingSet", "StateDirectory"}.isdisjoint(found)
    assert found["NoNewPrivileges"] == "yes"
    assert found["WantedBy"] == "default.target"


def test_the_helper_starts_for_those_who_have_the_secret() -> None:
    """It runs in each session as its user, with what that user was given, and not at all where that is nothing."""
    found = _settings(presence_unit(SYSTEM))
    assert found["ExecStart"].endswith(" node presence-helper --port 7174 --home %h/.config/potluck-node")
    assert found["ConditionPathExists"] == "%h/.config/potluck-node/presence-secret"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("kind", ["system", "user", "presence", "awkward"])
def test_systemd_takes_the_units(kind: str, tmp_path: Path) -> None:
    """systemd's own checker finds no fault: no unknown setting, no program that is not there."""
    awkward = tmp_path / "a b $c %d"
    awkward.mkdir()
    (awkward / "python").symlink_to(sys.executable)
    text = {
        "system": lambda: unit(replace(SYSTEM, program=(sys.executable, "-m", "potluck"), user="daemon")),
        "user": lambda: unit(replace(MINE, program=(sys.executable, "-m", "potluck"))),
        "presence": lambda: presence_unit(replace(SYSTEM, program=(sys.executable, "-m", "potluck"))),
        "awkward": lambda: unit(replace(MINE, program=(str(awkward / "python"), "-m", "potluck"), home=awkward)),
    }[kind]()
    place = tmp_path / "potluck-node.service"
    place.write_text(text)
    scope = ["--user"] if kind in ("user", "presence") else []
    done = subprocess.run(
        ["systemd-analyze", *scope, "--man=no", "--recursive-errors=no", "verify", str(place)],
        env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if str(place.name) in line]
    assert (done.returncode, said) == (0, []), done.stderr


def test_installing_for_the_system_makes_the_account_first() -> None:
    """The account exists and owns what root wrote before the unit is enabled; only then is it started."""
    steps = Systemd().install(SYSTEM)
    lines = [str(step) for step in steps]
    order = [
        next(i for i, line in enumerate(lines) if word in line)
        for word in ("useradd", "chown", "write /etc/systemd/system", "systemctl enable", "systemctl restart")
    ]
    assert order == sorted(order)
    account = next(step for step in steps if isinstance(step, Command) and step.argv[0] == "useradd")
    assert account.fine == {9}, "an account that exists already is as good"


@pytest.mark.parametrize(
    ("keeper", "job", "says", "words"),
    [
        (Systemd(), replace(SYSTEM, live=False), {}, "systemd does not run here"),
        (Systemd(), replace(MINE, live=False), {}, "systemd does not run here"),
        (Systemd(), SYSTEM, {"systemctl --version": (127, "")}, "has no systemd"),
        (Systemd(), MINE, {"systemctl --user": (1, "Failed to connect to bus")}, "log in as yourself"),
        (Launchd(), MINE, {"launchctl print gui/0": (125, "")}, "log in at the Mac itself"),
        (Launchd(), SYSTEM, {"launchctl print system": (127, "")}, "launchd does not answer"),
    ],
)
def test_what_stands_in_the_way_is_said(
    keeper: Systemd | Launchd, job: Job, says: dict[str, tuple[int, str]], words: str
) -> None:
    """Where the service manager is missing or cannot be asked, the obstacle is named with what to do."""
    assert words in keeper.obstacle(job, Machine(says))


def test_a_program_that_the_services_user_cannot_reach_is_named(tmp_path: Path) -> None:
    """A folder that only its owner may pass, on the way to the program itself or behind a link, is named."""
    open_ = tmp_path / "open"
    mine = tmp_path / "mine"
    for folder in (open_, mine):
        folder.mkdir()
        (folder / "python").touch()
    (open_ / "link").symlink_to(mine / "python")
    for folder in (tmp_path, *tmp_path.parents):  # pytest's own folders are closed
        if folder.owner() == getpass.getuser() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o001)
    assert closed_to_others([open_ / "python", open_ / "link"]) is None
    mine.chmod(0o700)
    assert closed_to_others([open_ / "python"]) is None
    assert closed_to_others([open_ / "python", mine / "python"]) == mine
    assert closed_to_others([open_ / "link"]) == mine
    told = Systemd().obstacle(replace(SYSTEM, program=(str(mine / "python"), "-m", "potluck")), Machine())
    assert f"{mine} does not let in" in told


def test_root_without_a_running_systemd_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No account, no unit, no owner is made for a service that nothing would start."""
    monkeypatch.setattr(running.os, "geteuid", lambda: 0)
    monkeypatch.setattr(running.sys, "platform", "linux")
    monkeypatch.setattr(running.Path, "is_dir", lambda path: False)
    machine = Machine()
    with pytest.raises(ServiceError, match=r"supervisor of your own\. Nothing was changed"):
        running.install_service(tmp_path / "node", env={}, run=machine)
    assert machine.ran == ["systemctl --version"]


@pytest.mark.parametrize("job", [SYSTEM, MINE], ids=["system", "user"])
@pytest.mark.parametrize("keeper", [Systemd(), Launchd(), Tasks()], ids=["systemd", "launchd", "tasks"])
def test_uninstalling_removes_every_file_that_installing_writes(keeper, job: Job) -> None:
    """Nothing written stays behind, and nothing that is already gone is a fault."""
    written = {step.path for step in keeper.install(job) if isinstance(step, Write)}
    steps = keeper.uninstall(job)
    assert {step.path for step in steps if isinstance(step, Remove)} == written
    assert all(step.fine is None for step in steps if isinstance(step, Command))


@pytest.mark.parametrize(
    ("says", "state", "words"),
    [
        ({"systemctl is-enabled": (0, "enabled\n"), "systemctl is-active": (0, "active\n")}, "running", "is running"),
        ({"systemctl is-enabled": (0, "enabled\n"), "systemctl is-active": (3, "failed\n")}, "stopped", "journalctl"),
        (
            {"systemctl is-enabled": (1, ""), "systemctl is-active": (3, "inactive\n")},
            "absent",
            "potluck node install-service",
        ),
    ],
)
def test_the_status_says_what_to_do_next(says: dict[str, tuple[int, str]], state: str, words: str) -> None:
    """One line tells how the service stands, and where to look or what to call when it does not run."""
    found = Systemd().status(SYSTEM, Machine(says))
    assert (found.state, words in found.line) == (state, True), found


def test_a_users_service_without_lingering_is_told_about() -> None:
    """A user's service ends with their session unless they linger: the status says how to."""
    says = {"systemctl --user is-enabled": (0, "enabled"), "systemctl --user is-active": (0, "active")}
    assert "enable-linger" in Systemd().status(MINE, Machine({**says, "loginctl": (0, "no\n")})).line
    assert "enable-linger" not in Systemd().status(MINE, Machine({**says, "loginctl": (0, "yes\n")})).line


def test_launchd_keeps_the_agent_running() -> None:
    """The property list starts the agent at load and again when it ends; a daemon runs as the person, not as root."""
    found = plistlib.loads(plist(replace(MINE, user_home=PurePosixPath("/Users/ada & co"))).encode())
    assert found["ProgramArguments"] == [*MINE.program, "node", "run"]
    assert (found["RunAtLoad"], found["KeepAlive"], found["Umask"]) == (True, True, 0o077)
    assert found["EnvironmentVariables"]["HOME"] == "/Users/ada & co"
    assert "UserName" not in found
    assert plistlib.loads(plist(replace(SYSTEM, user="ada")).encode())["UserName"] == "ada"


def test_launchd_loads_it_in_the_right_place() -> None:
    """A user's agent goes to their own session, a daemon to the system's."""
    mine = [str(step) for step in Launchd().install(replace(MINE, uid=501))]
    assert "write /home/ada/Library/LaunchAgents/org.potluck.node.plist" in mine
    bootstrap = "run launchctl bootstrap"
    assert f"{bootstrap} gui/501 /home/ada/Library/LaunchAgents/org.potluck.node.plist" in mine
    system = [str(step) for step in Launchd().install(SYSTEM)]
    assert f"{bootstrap} system /Library/LaunchDaemons/org.potluck.node.plist" in system
    said = (0, "\tstate = running\n")
    assert Launchd().status(MINE, Machine({"launchctl print": said})).state == "running"
    assert Launchd().status(MINE, Machine({"launchctl print": (113, "")})).state == "absent"


def test_the_scheduled_task_runs_for_its_owner_without_an_end() -> None:
    """At log-on of that user, without a console window, without the three days after which Windows ends a task, and
    not stopped by a battery: that is the agent's own rule."""
    program = (r"C:\Users\ada & co\venv\Scripts\python.exe", "-m", "potluck")
    home = PureWindowsPath(r"C:\Users\ada & co\AppData\Local\potluck-node")
    root = ET.fromstring(task(replace(MINE, program=program, home=home, user=r"LAB\ada")).split("?>", 1)[1])
    text = {element.tag.removeprefix(TASK_SPACE): element.text for element in root.iter()}
    assert text["Command"] == r"C:\Users\ada & co\venv\Scripts\pythonw.exe"
    assert text["Arguments"] == rf'-m potluck.node.service.windowless "{home}" node run --home "{home}"'
    assert (text["UserId"], text["LogonType"], text["RunLevel"]) == (r"LAB\ada", "InteractiveToken", "LeastPrivilege")
    assert text["ExecutionTimeLimit"] == "PT0S"
    assert (text["DisallowStartIfOnBatteries"], text["StopIfGoingOnBatteries"]) == ("false", "false")


def test_the_task_file_is_in_the_encoding_that_windows_reads(tmp_path: Path) -> None:
    """schtasks takes UTF-16 with its mark, and the file says so."""
    job = replace(MINE, home=tmp_path)
    running.carry_out(Tasks().install(job), Machine())
    content = (tmp_path / "task.xml").read_bytes()
    assert content[:2] in (b"\xff\xfe", b"\xfe\xff")
    assert 'encoding="UTF-16"' in content.decode("utf-16").splitlines()[0]


def test_a_command_that_fails_is_named(tmp_path: Path) -> None:
    """A refused step ends the installation with the command and its own words."""
    machine = Machine({"systemctl --user daemon-reload": (1, "Failed to connect to bus\n")})
    with pytest.raises(ServiceError, match="cannot run systemctl --user daemon-reload: Failed to connect to bus"):
        running.carry_out(Systemd().install(replace(MINE, user_home=tmp_path)), machine)


def test_installing_and_uninstalling_a_users_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit is written below the user's home, enabled and started; afterwards nothing of it is left."""
    monkeypatch.setattr(running.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(running.sys, "platform", "linux")
    monkeypatch.setattr(running.getpass, "getuser", lambda: "ada")
    monkeypatch.setattr(running.Path, "home", lambda: tmp_path)
    monkeypatch.setattr(running.Path, "is_dir", lambda path: True)
    machine = Machine({"systemctl --user is-active": (0, "active"), "systemctl --user is-enabled": (0, "enabled")})
    assert running.install_service(tmp_path / "node", env={}, run=machine).state == "running"
    place = tmp_path / ".config/systemd/user/potluck-node.service"
    assert f"{sys.executable} -m potluck node run" in place.read_text()
    assert "systemctl --user restart potluck-node.service" in machine.ran
    machine.says = {"systemctl --user is-enabled": (1, "")}
    assert running.uninstall_service(tmp_path / "node", env={}, run=machine).state == "absent"
    assert not place.exists()


def test_a_user_without_a_name_has_its_service_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that no account has, as in a container: the steps are done; without HOME a sentence says what to do."""

    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 54321")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(running.os, "geteuid", lambda: 54321)
    monkeypatch.setattr(running.sys, "platform", "linux")
    monkeypatch.setattr(running.getpass, "getuser", unknown)
    monkeypatch.setattr(running.Path, "home", lambda: tmp_path)
    machine = Machine({"systemctl --user": (1, "")})
    assert running.uninstall_service(tmp_path / "node", env={}, run=machine).state == "absent"
    assert any("disable --now" in each for each in machine.ran)
    monkeypatch.setattr(running.Path, "home", homeless)
    with pytest.raises(ServiceError, match="set HOME"):
        running.uninstall_service(tmp_path / "node", env={}, run=machine)


@pytest.mark.parametrize(
    ("platform", "env", "words"),
    [("darwin", {}, "call this with sudo from yours"), ("linux", {}, "no systemd: keep .* supervisor of your own")],
)
def test_where_no_service_can_be_had_it_says_what_to_do(
    platform: str, env: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root on a Mac without a person behind it, or a system without systemd: a sentence, not a traceback."""
    monkeypatch.setattr(running.os, "geteuid", lambda: 0)
    monkeypatch.setattr(running.sys, "platform", platform)
    with pytest.raises(ServiceError, match=words):
        running.plan(Path("/nowhere"), env=env, run=Machine({"systemctl --version": (127, "")}))


def test_a_command_that_is_not_there_is_no_crash() -> None:
    """A program that is missing answers like a shell's 127."""
    assert running.run_command(["/nowhere/systemctl"])[0] == 127
    assert running.run_command([sys.executable, "-c", "print('x'); raise SystemExit(3)"]) == (3, "x\n")


def test_without_a_console_it_writes_a_log(tmp_path: Path) -> None:
    """What the program prints, and why it ended, stands in the node's home; a log that has grown is put aside."""
    (tmp_path / "agent.log").write_bytes(b"x" * (1 << 20) + b"y")
    command = [sys.executable, "-m", "potluck.node.service.windowless", str(tmp_path), "node", "status", "--home"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert "has not joined" in (tmp_path / "agent.log").read_text()
    assert (tmp_path / "agent.log.1").stat().st_size == (1 << 20) + 1
