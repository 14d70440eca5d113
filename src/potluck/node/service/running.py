"""Carries the steps out: the thin part, which touches files and runs commands."""

import contextlib
import getpass
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from potluck.node.service.launchd import Launchd
from potluck.node.service.steps import Command, Job, Keeper, Run, ServiceError, ServiceStatus, Step, Write
from potluck.node.service.systemd import ACCOUNT, Systemd
from potluck.node.service.tasks import Tasks

COMMAND_S = 60.0
"""how long one command of the service manager may take"""
NO_SUCH_PROGRAM = 127


def run_command(argv: Sequence[str]) -> tuple[int, str]:
    """Exit status and output of a command, errors included; 127 when there is no such program, 124 when it hangs."""
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_S,
            check=False,
        )
    except FileNotFoundError:
        return NO_SUCH_PROGRAM, f"there is no program {argv[0]}"
    except OSError as error:
        return 126, str(error)
    except subprocess.TimeoutExpired:
        return 124, f"no answer in {COMMAND_S:.0f} s"
    return done.returncode, done.stdout.decode(errors="replace")


def install_service(home: Path, *, env: Mapping[str, str], run: Run = run_command) -> ServiceStatus:
    """Make the agent start with the machine, and start it. As root: for the system, else for this user. Nothing is
    changed where it cannot be done. Raises ServiceError."""
    keeper, job = _here(home, env)
    if obstacle := keeper.obstacle(job, run):
        raise ServiceError(f"{obstacle}. Nothing was changed")
    carry_out(keeper.install(job), run)
    return keeper.status(job, run)


def uninstall_service(home: Path, *, env: Mapping[str, str], run: Run = run_command) -> ServiceStatus:
    """Stop the agent, and start it no more. What is not there is no fault. Raises ServiceError."""
    keeper, job = _here(home, env)
    carry_out(keeper.uninstall(job), run)
    return keeper.status(job, run)


def service_status(home: Path, *, env: Mapping[str, str], run: Run = run_command) -> ServiceStatus:
    """How the service stands. Raises ServiceError where no service manager is known."""
    keeper, job = _here(home, env)
    return keeper.status(job, run)


def plan(home: Path, *, env: Mapping[str, str], run: Run = run_command) -> list[str]:
    """What `install_service` would do, a line per step. Raises ServiceError."""
    keeper, job = _here(home, env)
    if obstacle := keeper.obstacle(job, run):
        raise ServiceError(obstacle)
    return [str(step) for step in keeper.install(job)]


def _here(home: Path, env: Mapping[str, str]) -> tuple[Keeper, Job]:
    """This machine's service manager, and the agent as its service."""
    program = (sys.executable, "-m", "potluck")
    if sys.platform == "win32":
        user = f"{env.get('USERDOMAIN', '')}\\{env.get('USERNAME', '')}".lstrip("\\")
        return Tasks(), Job(program=program, home=home, system=False, user=user, user_home=Path.home(), uid=0)
    uid = os.geteuid()
    system = uid == 0
    if sys.platform == "darwin":
        user = env.get("SUDO_USER", "") if system else _user_name(uid)
        if user in ("", "root"):
            raise ServiceError("a service of this Mac runs as a person's account: call this with sudo from yours")
        user_home = _home_of(user)
        return Launchd(), Job(program=program, home=home, system=system, user=user, user_home=user_home, uid=uid)
    live = Path("/run/systemd/system").is_dir()
    user = ACCOUNT if system else _user_name(uid)
    return Systemd(), Job(
        program=program, home=home, system=system, user=user, user_home=_home_of(""), uid=uid, live=live
    )


def _user_name(uid: int) -> str:
    """The number, where the system has no name for it."""
    with contextlib.suppress(KeyError, OSError):
        return getpass.getuser()
    return str(uid)


def _home_of(user: str) -> Path:
    """Empty: of whoever calls."""
    try:
        return Path(f"~{user}").expanduser() if user else Path.home()
    except RuntimeError:
        whose = f"of {user}" if user else "of this user: set HOME"
        raise ServiceError(f"the system knows no home directory {whose}") from None


def carry_out(steps: Sequence[Step], run: Run) -> None:
    """One step after another, up to the first that fails. Raises ServiceError."""
    for step in steps:
        try:
            _do(step, run)
        except OSError as error:
            raise ServiceError(f"cannot {step}: {error.strerror}") from error


def _do(step: Step, run: Run) -> None:
    if isinstance(step, Command):
        status, said = run(step.argv)
        if status and step.fine is not None and status not in step.fine:
            raise ServiceError(f"cannot {step}: {' '.join(said.split()) or f'exit status {status}'}")
    elif isinstance(step, Write):
        step.path.parent.mkdir(parents=True, exist_ok=True)
        step.path.write_bytes(step.content.encode(step.encoding))
    else:
        step.path.unlink(missing_ok=True)
