"""Windows: a scheduled task that starts the agent in its owner's session, when they log on.

Not a Windows service: a service lives in a session without a desktop, where neither the owner's presence nor the engine
in their tray can be seen, and would need a wrapper that speaks to the service manager. The Task Scheduler starts the
agent again when it ends, and needs no administrator.
"""

import ntpath
import subprocess
from pathlib import PureWindowsPath
from xml.sax.saxutils import escape

from potluck.node.service.steps import LOG, Command, Job, Remove, Run, ServiceStatus, Step, Write

TASK = "Potluck node"
FILE = "task.xml"


def task(job: Job) -> str:
    """The task's definition."""
    program = _windowless(job.program[0])
    home = str(job.home)
    words = subprocess.list2cmdline(["-m", "potluck.node.service.windowless", home, "node", "run", "--home", home])
    user = escape(job.user)
    return f"""\
<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo>
    <Description>Shares this machine's engines with its Potluck gateway.</Description>
  </RegistrationInfo>
  <Triggers>
    <LogonTrigger><Enabled>true</Enabled><UserId>{user}</UserId></LogonTrigger>
  </Triggers>
  <Principals>
    <Principal id="Owner">
      <UserId>{user}</UserId>
      <LogonType>InteractiveToken</LogonType>
      <RunLevel>LeastPrivilege</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <StartWhenAvailable>true</StartWhenAvailable>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <Priority>7</Priority>
    <RestartOnFailure><Interval>PT1M</Interval><Count>999</Count></RestartOnFailure>
  </Settings>
  <Actions Context="Owner">
    <Exec>
      <Command>{escape(program)}</Command>
      <Arguments>{escape(words)}</Arguments>
      <WorkingDirectory>{escape(str(job.home))}</WorkingDirectory>
    </Exec>
  </Actions>
</Task>
"""


class Tasks:
    """Windows."""

    def obstacle(self, job: Job, run: Run) -> str:  # noqa: ARG002 — the protocol's
        return ""  # the scheduler is a part of Windows that cannot be away

    def install(self, job: Job) -> list[Step]:
        place = job.home / FILE
        return [
            Write(place, task(job), "utf-16"),
            Command(("schtasks", "/End", "/TN", TASK), None),
            Command(("schtasks", "/Create", "/TN", TASK, "/XML", str(place), "/F")),
            Command(("schtasks", "/Run", "/TN", TASK)),
        ]

    def uninstall(self, job: Job) -> list[Step]:
        return [
            Command(("schtasks", "/End", "/TN", TASK), None),
            Command(("schtasks", "/Delete", "/TN", TASK, "/F"), None),
            Remove(job.home / FILE),
        ]

    def status(self, job: Job, run: Run) -> ServiceStatus:
        # of the XML form: the words of the others are in the user's language
        code, said = run(("schtasks", "/Query", "/TN", TASK, "/XML"))
        if code or not (job.home / FILE).exists():
            return ServiceStatus("absent", False, "no scheduled task is installed: potluck node install-service")
        if "<Enabled>false</Enabled>" in said:
            return ServiceStatus("stopped", False, "the scheduled task is switched off: potluck node install-service")
        running = (job.home / "agent.json").exists()
        line = f"starts when you log on; potluck node status says whether it serves, {job.home / LOG} what happened"
        return ServiceStatus("running" if running else "stopped", True, f"the scheduled task {line}")


def _windowless(program: str) -> str:
    """`pythonw.exe` where the program is `python.exe`: no console window stays open."""
    path = PureWindowsPath(program)
    if path.name.lower() == "python.exe":
        return ntpath.join(str(path.parent), "pythonw.exe")
    return program
