"""The nouns: what is to run, the steps that arrange it, how it stands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

LOG = "agent.log"
"""in the node's home, where the service manager keeps no log of its own"""
Run = Callable[[Sequence[str]], tuple[int, str]]
"""runs a command; its exit status (127: there is no such program) and what it printed"""


class ServiceError(Exception):
    """A step cannot be done. Says which, why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """The agent as a service. `program`: absolute path and arguments before `node`. `system`: starts with the machine
    and not with its user's session. `user`: whose rights it has, where `system`; or, on Windows, whose session it is.
    `live`: the service manager runs here now."""

    program: tuple[str, ...]
    home: Path
    system: bool
    user: str
    user_home: Path
    uid: int
    live: bool = True

    def command(self, *words: str) -> list[str]:
        return [*self.program, "node", *words]


@dataclass(frozen=True)
class Write:
    """A file to be there with this content. Parents are made."""

    path: Path
    content: str
    encoding: str = "utf-8"

    def __str__(self) -> str:
        return f"write {self.path}"


@dataclass(frozen=True)
class Remove:
    """A file to be gone."""

    path: Path

    def __str__(self) -> str:
        return f"remove {self.path}"


@dataclass(frozen=True)
class Command:
    """`fine`: exit statuses that are as good as 0; None: whatever comes of it."""

    argv: tuple[str, ...]
    fine: frozenset[int] | None = frozenset()

    def __str__(self) -> str:
        return "run " + " ".join(f"'{each}'" if " " in each else each for each in self.argv)


Step = Write | Remove | Command


@dataclass(frozen=True)
class ServiceStatus:
    """`line`: all of it for people, with the next thing to do where something is amiss."""

    state: Literal["absent", "stopped", "running"]
    at_start: bool
    """it starts with the machine, or with its user's session"""
    line: str


class Keeper(Protocol):
    """One service manager. Pure but for `obstacle` and `status`, which ask it."""

    def obstacle(self, job: Job, run: Run) -> str:
        """Why no service can be made here, and what to do; empty: one can. Asked before the first step."""
        ...

    def install(self, job: Job) -> list[Step]: ...

    def uninstall(self, job: Job) -> list[Step]: ...

    def status(self, job: Job, run: Run) -> ServiceStatus: ...
