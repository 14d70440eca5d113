"""A real agent as a child process: joined and started as a person would, watched and killed."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COMMAND_S = 60.0


class AgentProcess:
    """One machine's agent. `await join(url, token)`, `await start()`; it can be started again after its death."""

    def __init__(self, home: Path, *, inside: Sequence[str] = (), options: Sequence[str] = ()) -> None:
        """`inside`: a command that becomes the one after it (`ip netns exec NAME`). `options`: more of `node run`."""
        self.home = home
        self.process: asyncio.subprocess.Process | None = None
        self._inside = inside
        self._options = options
        env = {name: value for name, value in os.environ.items() if not name.startswith("POTLUCK_")}
        self._env = env | {"POTLUCK_NODE_HOME": str(home)}

    async def join(self, url: str, token: str, *options: str) -> None:
        """`potluck node join`. Raises RuntimeError with what it said."""
        await self.node("join", url, *options, POTLUCK_JOIN_TOKEN=token)

    async def node(self, *words: str, **env: str) -> str:
        """One `potluck node …` command; what it printed. Raises RuntimeError."""
        process = await asyncio.create_subprocess_exec(
            *self._inside,
            sys.executable,
            "-m",
            "potluck",
            "node",
            *words,
            env=self._env | env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(COMMAND_S):
            out, err = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"potluck node {words[0]} ended with {process.returncode}: {err.decode()}")
        return out.decode()

    async def status(self) -> dict[str, Any]:
        """`potluck node status --json`."""
        found: dict[str, Any] = json.loads(await self.node("status", "--json"))
        return found

    async def start(self) -> None:
        """`potluck node run`, in the background."""
        with (self.home / "agent.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self._inside,
                sys.executable,
                "-m",
                "potluck",
                "node",
                "run",
                *self._options,
                env=self._env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        """Everything that it wrote, over all its lives."""
        return (self.home / "agent.log").read_text(errors="replace")

    async def end(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, and wait until it is gone. Nothing happens when it is not running."""
        process = self.process
        if process is not None and process.returncode is None:
            process.send_signal(number)
        if process is not None:
            async with asyncio.timeout(COMMAND_S):
                await process.wait()
