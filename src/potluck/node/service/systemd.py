"""systemd: a unit of the system with a user of its own, or a unit of one user's manager.

The system's unit sees of the desktop what logind knows; a second, tiny unit can tell it more from a user's session.
Devices stay visible: GPUs are read there. The user's unit has fewer locks: most need rights that a user manager lacks.
"""

import stat
from collections.abc import Iterable
from pathlib import Path

import potluck
from potluck.node.service.steps import Command, Job, Remove, Run, ServiceStatus, Step, Write

UNIT = "potluck-node.service"
PRESENCE_UNIT = "potluck-node-presence.service"
SYSTEM_UNITS = Path("/etc/systemd/system")
SESSION_UNITS = Path("/etc/systemd/user")
ACCOUNT = "potluck-node"
STATE_ROOT = Path("/var/lib")
SESSION_HOME = "%h/.config/potluck-node"
"""where a user keeps what the helper in their session needs: `presence-secret`"""
PRESENCE_PORT = 7174
USER_EXISTS = 9
"""exit status of useradd"""

_LOCKS = """\
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
SystemCallArchitectures=native
UMask=0077
"""
_SYSTEM_LOCKS = """\
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=read-only
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
PrivateTmp=yes
RestrictNamespaces=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
"""


def unit(job: Job) -> str:
    """The agent's unit."""
    lines = [
        "[Unit]",
        "Description=Potluck node: shares this machine's engines with its gateway",
        f"ConditionPathExists={_path(job.home / 'node.json')}",
    ]
    if job.system:
        lines += ["Wants=network-online.target", "After=network-online.target"]
    lines += [
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={_line(job.command('run'))}",
        f"Environment={_word(f'POTLUCK_NODE_HOME={job.home}')}",
        "Restart=always",
        "RestartSec=5",
        "TimeoutStopSec=45",
        "OOMScoreAdjust=300",
    ]
    text = "\n".join(lines) + "\n" + _LOCKS
    if job.system:
        text += f"User={job.user}\nGroup={job.user}\n{_state(job.home)}{_SYSTEM_LOCKS}"
    return f"{text}\n[Install]\nWantedBy={'multi-user.target' if job.system else 'default.target'}\n"


def presence_unit(job: Job) -> str:
    """The unit in each user's session that tells the service whether somebody is there. It starts for those who were
    given the node's secret."""
    helper = _line(job.command("presence-helper", "--port", str(PRESENCE_PORT)))
    return (
        "[Unit]\n"
        "Description=Tells the Potluck node whether somebody uses this desktop\n"
        f"ConditionPathExists={SESSION_HOME}/presence-secret\n\n"
        "[Service]\n"
        "Type=exec\n"
        f"ExecStart={helper} --home {SESSION_HOME}\n"
        f"Restart=always\nRestartSec=30\n{_LOCKS}\n"
        "[Install]\nWantedBy=graphical-session.target\n"
    )


class Systemd:
    """Linux."""

    def obstacle(self, job: Job, run: Run) -> str:
        own = "keep 'potluck node run' running under a supervisor of your own"
        if run(("systemctl", "--version"))[0]:
            return f"this system has no systemd: {own}"
        if not job.live:
            return f"systemd does not run here (a container?): {own}"
        if not job.system:
            if run(("systemctl", "--user", "show-environment"))[0] == 0:
                return ""
            return f"your session has no systemd of its own (su, sudo -u?): log in as yourself and try again, or {own}"
        if (closed := closed_to_others((Path(job.program[0]), Path(potluck.__file__), job.home))) is None:
            return ""
        return (
            f"the service runs as {job.user}, a user without rights, whom {closed} does not let in: install the agent "
            "elsewhere (install.sh as root takes /opt and /var/lib), or open that folder (chmod o+x)"
        )

    def install(self, job: Job) -> list[Step]:
        if not job.system:
            return [
                Write(_user_unit(job), unit(job)),
                Command(("systemctl", "--user", "daemon-reload")),
                Command(("systemctl", "--user", "enable", UNIT)),
                Command(("systemctl", "--user", "restart", UNIT)),
            ]
        account = ("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", str(job.home))
        return [
            Command((*account, "--shell", "/usr/sbin/nologin", job.user), frozenset({USER_EXISTS})),
            # what root wrote there by joining
            Command(("chown", "-R", "-h", f"{job.user}:{job.user}", str(job.home))),
            Write(SYSTEM_UNITS / UNIT, unit(job)),
            Write(SESSION_UNITS / PRESENCE_UNIT, presence_unit(job)),
            Command(("systemctl", "enable", UNIT)),
            Command(("systemctl", "--global", "enable", PRESENCE_UNIT)),
            Command(("systemctl", "daemon-reload")),
            Command(("systemctl", "restart", UNIT)),
        ]

    def uninstall(self, job: Job) -> list[Step]:
        if not job.system:
            return [
                Command(("systemctl", "--user", "disable", "--now", UNIT), None),
                Remove(_user_unit(job)),
                Command(("systemctl", "--user", "daemon-reload"), None),
            ]
        return [
            Command(("systemctl", "disable", *(("--now",) if job.live else ()), UNIT), None),
            Command(("systemctl", "--global", "disable", PRESENCE_UNIT), None),
            Remove(SYSTEM_UNITS / UNIT),
            Remove(SESSION_UNITS / PRESENCE_UNIT),
            Command(("systemctl", "daemon-reload"), None),
        ]

    def status(self, job: Job, run: Run) -> ServiceStatus:
        scope = () if job.system else ("--user",)
        where = "the system" if job.system else "your user session"
        enabled = run(("systemctl", *scope, "is-enabled", UNIT))[1].strip() == "enabled"
        active = run(("systemctl", *scope, "is-active", UNIT))[1].strip()
        journal = f"journalctl {'-u' if job.system else '--user-unit'} {UNIT}"
        if active in ("active", "activating"):
            if not job.system and not _lingers(job, run):
                hint = "; it stops when you log out: loginctl enable-linger keeps it"
            else:
                hint = "" if enabled else "; it does not start by itself: potluck node install-service"
            return ServiceStatus("running", enabled, f"the service of {where} is running{hint}")
        if not job.live:
            return ServiceStatus("absent", False, "no service is kept here: systemd does not run")
        if enabled:
            return ServiceStatus("stopped", True, f"the service of {where} is not running: {journal} says why")
        return ServiceStatus("absent", False, "no service is installed: potluck node install-service")


def closed_to_others(paths: Iterable[Path]) -> Path | None:
    """The first folder on the way to one of these that only its owner or group may pass; links are followed."""
    for path in paths:
        for way in (path.absolute(), path.resolve()):
            for folder in reversed(way.parents):
                if folder.exists() and not folder.stat().st_mode & stat.S_IXOTH:
                    return folder
    return None


def _lingers(job: Job, run: Run) -> bool:
    return run(("loginctl", "show-user", job.user, "--property=Linger", "--value"))[1].strip() == "yes"


def _user_unit(job: Job) -> Path:
    return job.user_home / ".config" / "systemd" / "user" / UNIT


def _state(home: Path) -> str:
    if home.parent == STATE_ROOT:
        return f"StateDirectory={_path(Path(home.name))}\nStateDirectoryMode=0700\n"
    return f"ReadWritePaths={_path(home)}\n"


def _path(path: Path) -> str:
    """A path where systemd takes one per line: only `%` means something there."""
    return str(path).replace("%", "%%")


def _line(command: list[str]) -> str:
    """A command line. Variables are put into arguments and not into the program's path."""
    program, *arguments = command
    return " ".join([_word(program), *(_word(each).replace("$", "$$") for each in arguments)])


def _word(text: str) -> str:
    """One word of a command line, or one assignment."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if any(each in text for each in " \t\"'\\;") else escaped
