"""launchd on macOS: an agent of one user, started when they log in, or a daemon, started with the machine.

A daemon runs as whoever called sudo, since the files of the node are theirs.
"""

import plistlib
from pathlib import Path
from typing import Any

from potluck.node.service.steps import LOG, Command, Job, Remove, Run, ServiceStatus, Step, Write

LABEL = "org.potluck.node"
DAEMONS = Path("/Library/LaunchDaemons")


def plist(job: Job) -> str:
    """The job's property list."""
    log = str(job.home / LOG)
    found: dict[str, Any] = {
        "Label": LABEL,
        "ProgramArguments": job.command("run"),
        "EnvironmentVariables": {"POTLUCK_NODE_HOME": str(job.home), "HOME": str(job.user_home)},
        "RunAtLoad": True,
        "KeepAlive": True,
        "ThrottleInterval": 10,
        "ExitTimeOut": 45,
        "ProcessType": "Background",
        "StandardOutPath": log,
        "StandardErrorPath": log,
        "Umask": 0o077,
    }
    if job.system:
        found["UserName"] = job.user
    return plistlib.dumps(found, sort_keys=False).decode()


class Launchd:
    """macOS."""

    def obstacle(self, job: Job, run: Run) -> str:
        if run(("launchctl", "print", _domain(job)))[0] == 0:
            return ""
        if job.system:
            return "launchd does not answer here: keep 'potluck node run' running under a supervisor of your own"
        return (
            f"launchd has no session of {job.user} here: log in at the Mac itself and call this there, "
            "or with sudo for a service that starts with the Mac"
        )

    def install(self, job: Job) -> list[Step]:
        place = _place(job)
        mine: list[Step] = [Command(("chown", "-R", "-h", job.user, str(job.home)))] if job.system else []
        return [
            *mine,
            Command(("launchctl", "bootout", f"{_domain(job)}/{LABEL}"), None),
            Write(place, plist(job)),
            Command(("launchctl", "enable", f"{_domain(job)}/{LABEL}")),
            Command(("launchctl", "bootstrap", _domain(job), str(place))),
        ]

    def uninstall(self, job: Job) -> list[Step]:
        return [Command(("launchctl", "bootout", f"{_domain(job)}/{LABEL}"), None), Remove(_place(job))]

    def status(self, job: Job, run: Run) -> ServiceStatus:
        code, said = run(("launchctl", "print", f"{_domain(job)}/{LABEL}"))
        if code:
            return ServiceStatus("absent", False, "no service is installed: potluck node install-service")
        when = "with this Mac" if job.system else "when you log in"
        if "state = running" in said:
            return ServiceStatus("running", True, f"the service is running, and starts {when}")
        return ServiceStatus("stopped", True, f"the service is not running: {job.home / LOG} says why")


def _domain(job: Job) -> str:
    return "system" if job.system else f"gui/{job.uid}"


def _place(job: Job) -> Path:
    folder = DAEMONS if job.system else job.user_home / "Library" / "LaunchAgents"
    return folder / f"{LABEL}.plist"
