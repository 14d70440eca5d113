"""The supervisor of the built-in model: one child process, restarted when it dies, gone when the gateway goes.

    off ─start→ starting ─→ ready ─(died)→ backing_off ─→ starting …
                   │ └─(never ready, 5 times in a row)→ failed, tried again every 30 s
                   └─(no file, no engine)→ missing, looked at every 2 s

Three things end the child with the gateway: `stop`; the end of its stdin, which it watches; on Linux the kernel's
parent-death signal. What slips through all of them is swept at the next start.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from potluck.engines import model_file, orphans
from potluck.engines.llama_child import EMBEDDINGS_READY, EXIT_NO_ENGINE, READY, ChildConfig
from potluck.model.secret import Secret

State = Literal["off", "missing", "starting", "ready", "backing_off", "failed"]

SLOTS = 4
SLOT_TOKENS = 2048
EMBEDDING_SLOTS = 2
EMBEDDING_TOKENS = 512
_START_EMBEDDINGS = b"embeddings\n"
_MAX_THREADS = 4
_MAX_LOG_BYTES = 1 << 20
_KEPT_VARIABLES = frozenset({
    "DYLD_LIBRARY_PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV",
})  # fmt: skip
_LOGGER = logging.getLogger(__name__)


class Pace(msgspec.Struct, frozen=True):
    """The supervisor's times, in seconds."""

    first_delay_s: float = 0.5
    """before the first restart; doubles with each further death"""
    max_delay_s: float = 30.0
    stable_s: float = 60.0
    """a child that lived so long is a good one: the delay begins anew"""
    ready_s: float = 60.0
    """longest loading time"""
    look_s: float = 2.0
    """between looks whether a missing file has come"""
    leave_s: float = 1.0
    """between the order to go and the kill"""
    probe_every_s: float = 10.0
    probe_s: float = 5.0
    """a child that does not answer `GET /health` for so long, three times in a row, hangs"""


class BuiltinModel:
    """Runs the child. `port` and `secret` are known from the start, so that a snapshot can be made before it is ready.

    `on_change(port, secret)` is called when the port had to change, before the child is started on it. `state` and
    `reason` (in words, with the command that mends it) may be read at any time.
    """

    def __init__(
        self,
        home: Path,
        loop: asyncio.AbstractEventLoop,
        on_change: Callable[[int, Secret], None],
        *,
        pace: Pace | None = None,
    ) -> None:
        self.state: State = "off"
        self.reason = "it is turned off"
        self.pid: int | None = None
        self.secret = Secret(secrets.token_urlsafe(32))
        self.port, self.embeddings_port = _free_port(), _free_port()
        self.embeds = False
        """the server for embeddings answers: it starts with the first call that needs it"""
        self._home = home
        self._loop = loop
        self._on_change = on_change
        self._pace = pace or Pace()
        self._waiting: set[Callable[[], None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._embeddings_wanted = False
        self._orders: asyncio.StreamWriter | None = None
        """the stdin of a child that is ready"""

    @property
    def api_key(self) -> str:
        """The secret's text, for the request heads of the snapshot."""
        return self.secret.reveal()

    async def start(self) -> None:
        """Begin, and return at once: the child loads in the background. A second call does nothing."""
        if self._task is not None:
            return
        if orphans.sweep(self._marks):
            _LOGGER.warning("a built-in model was still running though its owner was gone, and has been ended")
        problem = model_file.problem(self._home)
        self._set("missing" if problem else "starting", problem or "it is loading")
        # kept here until `stop` awaits it
        self._task = self._loop.create_task(self._supervise(), name="builtin-model")

    async def stop(self) -> None:
        """End the child and wait for its end; ≤ `Pace.leave_s` and the kernel's kill."""
        if self._task is None:
            return
        task, self._task = self._task, None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        self._set("off", "it is turned off")

    def wait(self, callback: Callable[[], None]) -> None:
        """Call back at every change of state, until `unwait`."""
        self._waiting.add(callback)

    def unwait(self, callback: Callable[[], None]) -> None:
        self._waiting.discard(callback)

    def want_embeddings(self) -> None:
        """Start the server for embeddings, now and in every further child; `wait` tells when `embeds` is true."""
        if not self._embeddings_wanted:
            self._embeddings_wanted = True
            if self._orders is not None:
                self._orders.write(_START_EMBEDDINGS)

    @property
    def _marks(self) -> Path:
        return self._home / "run"

    @property
    def log_file(self) -> Path:
        """What the engine had to complain about."""
        return self._home / "logs" / "local-model.log"

    def _set(self, state: State, reason: str) -> None:
        if state != self.state:
            _LOGGER.info("built-in model: %s%s", state, f" ({reason})" if reason else "")
        self.state, self.reason = state, reason
        for callback in tuple(self._waiting):
            callback()

    async def _supervise(self) -> None:
        pace, delay_s, failures = self._pace, self._pace.first_delay_s, 0
        while True:
            if problem := model_file.problem(self._home):
                self._set("missing", problem)
                await asyncio.sleep(pace.look_s)
                continue
            self._set("starting", "it is loading")
            began_s = self._loop.time()
            try:
                code, was_ready = await self._run_child()
            except OSError as error:
                code, was_ready = -1, False
                _LOGGER.error("the built-in model could not be started: %s", error)
            if not _is_free(self.embeddings_port):
                self.embeddings_port = _free_port()
            if was_ready:
                failures = 0
                if self._loop.time() - began_s >= pace.stable_s:
                    delay_s = pace.first_delay_s
            else:
                failures += 1
                if not _is_free(self.port):
                    self.port = _free_port()
                    self._on_change(self.port, self.secret)
            ended = f"it ended with status {code}" if was_ready else f"it did not start; {self.log_file} says why"
            if code == EXIT_NO_ENGINE:
                hint = model_file.LIBRARY_HINT if model_file.has_engine() else model_file.ENGINE_COMMAND
                self._set("missing", f"its engine cannot be loaded ({self.log_file} says why): {hint}")
            elif failures >= 5:
                self._set("failed", f"{ended}. If the file is damaged: {model_file.INSTALL_COMMAND}")
            else:
                self._set("backing_off", f"{ended}; next try in {delay_s:g} s")
            _LOGGER.warning("built-in model: %s; next try in %g s", ended, delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, pace.max_delay_s)

    async def _run_child(self) -> tuple[int, bool]:
        """One life of the child: (exit status, whether it was ever ready). Leaves no process behind, cancelled too."""
        config = ChildConfig(
            model=str(model_file.model_path(self._home)),
            template=Path(__file__).with_name("chatml_tools.jinja").read_text(),
            alias=model_file.MODEL_NAME,
            port=self.port,
            embeddings_port=self.embeddings_port,
            api_key=self.secret.reveal(),
            parent=os.getpid(),
            threads=_threads(),
            slots=SLOTS,
            slot_tokens=SLOT_TOKENS,
            embedding_slots=EMBEDDING_SLOTS,
            embedding_tokens=EMBEDDING_TOKENS,
        )
        process = await self._spawn()
        ready, listening, mark = False, None, None
        try:
            self.pid = process.pid
            mark = orphans.mark(self._marks, process.pid, os.getpid())
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(msgspec.json.encode(config) + b"\n")
            async with asyncio.timeout(self._pace.ready_s):
                ready = await process.stdout.readline() == READY
            if ready:
                self._orders = process.stdin
                if self._embeddings_wanted:
                    process.stdin.write(_START_EMBEDDINGS)
                self._set("ready", "")
                listening = self._loop.create_task(self._listen(process.stdout))
                await self._until_gone(process)
        except TimeoutError:
            _LOGGER.error("the built-in model was not ready in %g s", self._pace.ready_s)
        finally:
            self.pid, self._orders, self.embeds = None, None, False
            if listening is not None:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
            await self._end(process)
            if mark is not None:
                mark.unlink(missing_ok=True)
        assert process.returncode is not None
        return process.returncode, ready

    async def _spawn(self) -> asyncio.subprocess.Process:
        """Start the child. A cancellation meanwhile ends the one that was being started."""
        with self._open_log() as log:
            spawning = asyncio.ensure_future(
                asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "potluck.engines.llama_child"),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    env={name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES},
                    start_new_session=True,  # a Ctrl-C at the terminal is the gateway's: it drains first
                )
            )
            try:
                return await asyncio.shield(spawning)
            except asyncio.CancelledError:
                await self._end(await spawning)
                raise

    async def _listen(self, said: asyncio.StreamReader) -> None:
        """Hear that the server for embeddings is there."""
        if await said.readline() == EMBEDDINGS_READY:
            self.embeds = True
            self._set(self.state, self.reason)

    async def _until_gone(self, process: asyncio.subprocess.Process) -> None:
        """Returns when the child ended, or hangs."""
        missed = 0
        while missed < 3:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pace.probe_every_s):
                    await process.wait()
                return
            missed = 0 if await self._answers() else missed + 1
        _LOGGER.error("the built-in model does not answer any more and is ended")

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(self._pace.probe_s):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
                    return bool(await reader.read(1))
                finally:
                    writer.transport.abort()
        except (OSError, TimeoutError):
            return False

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Ask, then kill, then reap; a cancellation meanwhile does not leave it behind."""
        assert process.stdin is not None
        process.stdin.close()
        # to the end of its stdout too: nothing of it is left on the loop
        ending = asyncio.ensure_future(process.communicate())
        try:
            await asyncio.wait({ending}, timeout=self._pace.leave_s)
        finally:
            if process.returncode is None:
                process.kill()
        await ending

    def _open_log(self) -> BinaryIO:
        path = self.log_file
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            if path.stat().st_size > _MAX_LOG_BYTES:
                path.replace(path.with_suffix(".log.1"))
        return path.open("ab")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _threads() -> int:
    """One core is left to everyone else, since the engine's threads spin at barriers.

    Measured on 2 cores, tokens/s alone and beside one busy process: two threads 129 and 19–40, one 124 and 121.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores - 1, 1), _MAX_THREADS)
