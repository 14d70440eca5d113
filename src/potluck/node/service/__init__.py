"""Starts the agent with the machine: a service of systemd (of the system or of one user), of launchd, or a scheduled
task of Windows.

Rules
- What is done is first a list of steps that one can read (`steps`), then carried out one by one (`running`).
- Builders of units, plists and task files are pure text. Installing twice is installing once.
- A service of the system never runs as root: on Linux as a user of its own, on macOS as whoever called sudo.

Here: `install_service(...)`, `uninstall_service(...)`, `service_status(...)`, `plan(...)` for a look beforehand.
"""

from potluck.node.service.running import install_service, plan, run_command, service_status, uninstall_service
from potluck.node.service.steps import ServiceError, ServiceStatus

__all__ = [
    "ServiceError",
    "ServiceStatus",
    "install_service",
    "plan",
    "run_command",
    "service_status",
    "uninstall_service",
]
