"""Logging of the process: one line per event on stderr, JSON or for people.

structlog's loggers and the standard library's end in the same handler. A line is rendered and masked where it is
logged; writing it happens in a thread, because a terminal on hold or a full pipe must never stop the event loop.
"""

import atexit
import datetime as dt
import logging
import queue
import sys
import threading
import traceback
from collections.abc import Callable, MutableMapping
from typing import IO, Any, Literal

import msgspec

from potluck.model.secret import Secret
from potluck.telemetry.masking import Masker

Event = MutableMapping[str, Any]

_QUEUED_LINES = 10_000
_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_LEVEL_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "31;1"}

masker = Masker()
"""the process's own: `masker.protect(secret)` keeps a value without a known shape out of the log"""


def configure(
    level: str = "info",
    format: Literal["json", "console"] | None = None,  # noqa: A002 — the setting's name
    *,
    stream: IO[str] | None = None,
    background: bool = False,
) -> "LineWriter":
    """Send every log line of the process to `stream` (stderr). Calling it again replaces what was there.

    `format` None: console on a terminal, else JSON. `background` writes from a thread and drops lines, counted, when
    10,000 of them wait; `flush()` of the writer that is returned waits for them.
    """
    stream = stream or sys.stderr
    terminal = stream.isatty()
    console = (format or ("console" if terminal else "json")) == "console"
    render = _Console(colours=terminal) if console else _json
    writer = LineWriter(stream, background=background)
    handler = _Handler(writer, render)
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, _Handler):
            root.removeHandler(old)
            old.writer.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    for noisy in ("asyncio", "aiohttp.access", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    _configure_structlog()
    return writer


def _configure_structlog() -> None:
    # structlog imports Rich when it is there, for tracebacks that we do not print: 110 ms and 8 MB of the gateway
    hidden = "rich" not in sys.modules
    if hidden:
        sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog
    finally:
        if hidden:
            del sys.modules["rich"]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.render_to_log_kwargs,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


class _Handler(logging.Handler):
    """A record → an event → a masked line."""

    def __init__(self, writer: "LineWriter", render: Callable[[Event], str]) -> None:
        super().__init__()
        self.writer = writer
        self.render = render

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: Event = {
                "at": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
                "level": record.levelname.lower(),
                "logger": record.name,
                "event": record.getMessage(),
            }
            event.update({name: value for name, value in vars(record).items() if name not in _OWN_FIELDS})
            if record.exc_info and record.exc_info[1] is not None:
                event["exception"] = "".join(traceback.format_exception(record.exc_info[1])).rstrip()
            self.writer.write(masker.mask(self.render(event)))
        except Exception:
            self.handleError(record)


def _plain(value: object) -> object:
    return "********" if isinstance(value, Secret) else repr(value)


_encoder = msgspec.json.Encoder(enc_hook=_plain)


def _json(event: Event) -> str:
    return _encoder.encode(event).decode()


class _Console:
    """`12:30:01.123 info  gateway: listening  url=http://127.0.0.1:7171`; the exception on lines of its own."""

    def __init__(self, *, colours: bool) -> None:
        self.colours = colours

    def __call__(self, event: Event) -> str:
        at, level = event["at"][11:23], event["level"]
        name = event["logger"].removeprefix("potluck.")
        if self.colours:
            level, name = f"\x1b[{_LEVEL_COLOURS.get(level, '0')}m{level:<7}\x1b[0m", f"\x1b[2m{name}:\x1b[0m"
        else:
            level, name = f"{level:<7}", f"{name}:"
        said = {
            key: value for key, value in event.items() if key not in ("at", "level", "logger", "event", "exception")
        }
        pairs = "".join(f"  {key}={_shown(value)}" for key, value in said.items())
        line = f"{at} {level} {name} {event['event']}{pairs}"
        return f"{line}\n{event['exception']}" if "exception" in event else line


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value if value and value.isprintable() and " " not in value else repr(value)
    return str(value) if isinstance(value, (int, float, Secret)) or value is None else repr(value)


class LineWriter:
    """Writes whole lines to a stream, on the spot or from a thread that may wait for a slow reader."""

    def __init__(self, stream: IO[str], *, background: bool) -> None:
        self._stream = stream
        self._dropped = 0
        self._queue: queue.Queue[str | None] = queue.Queue(_QUEUED_LINES)
        self._thread: threading.Thread | None = None
        if background:
            self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    def write(self, line: str) -> None:
        if self._thread is None:
            self._put(line)
            return
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def flush(self, timeout_s: float = 2.0) -> bool:
        """Wait until what was logged is written; False when the reader is too slow for that."""
        if self._thread is None:
            return True
        with self._queue.all_tasks_done:
            return self._queue.all_tasks_done.wait_for(lambda: not self._queue.unfinished_tasks, timeout_s)

    def close(self) -> None:
        """Write what waits (for at most 2 s) and stop. Idempotent; lines that come later are written on the spot."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        atexit.unregister(self.close)
        try:
            self._queue.put(None, timeout=2.0)
        except queue.Full:
            return
        thread.join(2.0)

    def _run(self) -> None:
        while True:
            line = self._queue.get()
            if line is not None:
                self._put(line)
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self._put(f"{dropped} log lines were dropped: the reader of this stream is too slow")
            self._queue.task_done()
            if line is None:
                return

    def _put(self, line: str) -> None:
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except (OSError, ValueError):
            # the stream is gone; there is nowhere to say so, and the gateway does not end for it
            return
