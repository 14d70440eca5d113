"""A real gateway as a child process: started as a person would start it, watched, told, and killed.

Each has a home of its own and no provider key of the environment. Works on Linux; children are found in `/proc`.
"""

import asyncio
import contextlib
import os
import re
import signal
import sqlite3
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from potluck.conformance.caller import Caller, Response
from potluck.conformance.provider import FakeProvider

START_S = 30.0


def point_at(fake: FakeProvider, *models: str, extra: str = "") -> str:
    """A `potluck.toml` with the fake as own provider `fake`, and these models, each served by its namesake there."""
    lines = [
        "[[providers]]",
        'name = "fake"',
        f'base_url = "{fake.base_url}"',
        "own = true",
        'credentials = [{ name = "main", key = "sk-upstream-canary-secret" }]',
        extra,
    ]
    for model in models:
        lines += ["[[models]]", f'name = "{model}"', f'targets = [{{ target = "fake/{model}" }}]']
    return "\n".join(lines) + "\n"


class GatewayProcess:
    """`async with GatewayProcess(home, config) as gateway`. A home can be started on again after its process died."""

    host = "127.0.0.1"
    """where it is called"""

    def __init__(
        self,
        home: Path,
        config: str = "",
        env: Mapping[str, str] | None = None,
        *,
        options: Sequence[str] = (),
        inside: Sequence[str] = (),
    ) -> None:
        """`options`: more of `serve`. `inside`: a command that becomes the one after it (`ip netns exec NAME`)."""
        self.home = home
        self.port = 0
        self.process: asyncio.subprocess.Process
        self.lines: list[str] = []
        """what it printed until it listened"""
        self._config = config
        self._env = env or {}
        self._options = options
        self._inside = inside
        self._output: asyncio.Task[bytes] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def start(self) -> None:
        """Returns when it listens. Raises RuntimeError with its log when it does not."""
        self.home.mkdir(parents=True, exist_ok=True)
        command = [*self._inside, sys.executable, "-m", "potluck", "serve", "--no-local-model"]
        command += ["--home", str(self.home), "--port", str(self.port), *self._options]
        if self._config:
            file = self.home / "potluck.toml"
            file.write_text(self._config)
            command += ["--config", str(file)]
        env = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
        env = {name: value for name, value in env.items() if not name.startswith("POTLUCK_")}
        with (self.home / "stderr.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, env={**env, **self._env}, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        try:
            async with asyncio.timeout(START_S):
                await self._listening(self.process.stdout)
        except BaseException:
            await self.kill()
            raise
        assert self.process.stdout is not None
        reading = self.process.stdout.read()
        self._output = asyncio.create_task(reading)  # noqa: TID251 — kept, awaited in wait()

    async def _listening(self, output: asyncio.StreamReader | None) -> None:
        assert output is not None
        self.lines = []
        while line := await output.readline():
            self.lines.append(line.decode().rstrip("\n"))
            if found := re.search(r"listens on https?://[^ :]+:(\d+)", self.lines[-1]):
                self.port = int(found[1])
                return
        raise RuntimeError(f"the gateway did not start: {self.log()[-2000:]}")

    @property
    def key(self) -> str:
        """The first API key."""
        return (self.home / "first-api-key").read_text().strip()

    @property
    def token(self) -> str:
        """The first admin token."""
        return (self.home / "admin-token").read_text().strip()

    def log(self) -> str:
        """Everything it wrote to stderr, over all its lives."""
        return (self.home / "stderr.log").read_text(errors="replace")

    def caller(self, **options: Any) -> Caller:
        """A raw connection to it."""
        return Caller(self.host, self.port, **options)

    async def api(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Response:
        """One call of the admin API, `/api/v1` being understood."""
        async with self.caller(timeout_s=30) as caller:
            return await caller.ask(method, f"/api/v1{path}", body, key=self.token)

    async def ready(self) -> None:
        """Returns when `/readyz` says yes. Raises TimeoutError."""
        async with asyncio.timeout(START_S):
            while True:
                async with self.caller(timeout_s=30) as caller:
                    if (await caller.ask("GET", "/readyz")).status == 200:
                        return
                await asyncio.sleep(0.02)

    async def record(self, request_id: str, timeout_s: float = 10.0) -> dict[str, Any]:
        """`GET /v1/requests/{id}` as soon as the record is there. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while True:
                async with self.caller() as caller:
                    response = await caller.ask("GET", f"/v1/requests/{request_id}", key=self.key)
                if response.status == 200:
                    found: dict[str, Any] = response.json
                    return found
                await asyncio.sleep(0.05)

    def outcomes(self) -> dict[str, str]:
        """Outcome by request id in `usage.db`. Raises ValueError if the hourly sums count otherwise."""
        with contextlib.closing(sqlite3.connect(f"file:{self.home / 'usage.db'}?mode=ro", uri=True)) as database:
            database.execute("BEGIN")
            found = dict(database.execute("SELECT id, outcome FROM requests").fetchall())
            (counted,) = database.execute("SELECT coalesce(sum(requests), 0) FROM usage_hours").fetchone()
        if len(found) != counted:
            raise ValueError(f"{len(found)} requests are recorded, the hourly sums count {counted}")
        return found

    # the process

    def children(self) -> list[int]:
        """Its living descendants, by pid."""
        return descendants(self.process.pid)

    def rss_bytes(self) -> int:
        """Resident memory of the serving process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def open_sockets(self) -> int:
        """Sockets that the serving process has open."""
        count = 0
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                count += str(entry.readlink()).startswith("socket:")
        return count

    def tell(self, number: int) -> None:
        """Send a signal."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def wait(self, timeout_s: float = 30.0) -> int:
        """Its exit status, once it has ended. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            status = await self.process.wait()
            if self._output is not None:
                await self._output
        return status

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process.returncode is None:
            self.tell(signal.SIGKILL)
        await self.wait()


def descendants(pid: int) -> list[int]:
    """Living descendants of a process; zombies are gone."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return [child for child in found if is_alive(child)]


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def command_of(pid: int) -> str:
    """Its command line; empty when it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


async def gone(pids: list[int], timeout_s: float) -> float:
    """Seconds until all of these have ended. Raises TimeoutError naming those that have not."""
    started_s = time.monotonic()
    while left := [pid for pid in pids if is_alive(pid)]:
        if time.monotonic() - started_s > timeout_s:
            raise TimeoutError(f"still alive after {timeout_s} s: {[command_of(pid) for pid in left]}")
        await asyncio.sleep(0.01)
    return time.monotonic() - started_s
