"""Logging: one line per event, no secret in it, and a slow reader stops nobody."""

import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import structlog

from potluck.model.secret import Secret
from potluck.telemetry import logs
from potluck.telemetry.masking import Masker


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """What `configure` set up is gone after each test."""
    root = logging.getLogger()
    level = root.level
    yield
    for handler in root.handlers[:]:
        if isinstance(handler, logs._Handler):
            root.removeHandler(handler)
            handler.writer.close()
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_both_kinds_of_logger_write_the_same_json() -> None:
    """structlog's loggers and the standard library's end in one format, one line per event."""
    stream = io.StringIO()
    logs.configure("info", "json", stream=stream)
    structlog.get_logger("potluck.a").info("listening", port=7171)
    logging.getLogger("potluck.b").warning("odd %s", "thing", extra={"count": 2})
    logging.getLogger("potluck.b").debug("not shown")
    first, second = lines(stream)
    assert (first["event"], first["port"], first["level"], first["logger"]) == ("listening", 7171, "info", "potluck.a")
    assert (second["event"], second["count"], second["level"]) == ("odd thing", 2, "warning")
    assert str(first["at"]).endswith("+00:00")


def test_secrets_do_not_get_through() -> None:
    """Secret values, things shaped like keys, passwords in addresses and tracebacks with a key in them are masked."""
    stream = io.StringIO()
    logs.configure("info", "json", stream=stream)
    log = structlog.get_logger("potluck.a")
    log.info("made", secret=Secret("hush-hush"), nested={"list": [Secret("hush-hush"), "sk-proj-abcdefghijk"]})
    log.info("authorization: Bearer abc.def.ghi, url postgres://u:pw@h/d, plk-" + "a" * 46)
    try:
        raise RuntimeError("bad key pla-" + "z" * 46)
    except RuntimeError:
        log.exception("failed")
    text = stream.getvalue()
    for hidden in ("hush", "abcdefghijk", "abc.def.ghi", "pw@", "a" * 46, "z" * 46):
        assert hidden not in text
    assert len(lines(stream)) == 3
    assert "RuntimeError: bad key pla-********" in str(lines(stream)[2]["exception"])


def test_protected_values_are_masked_whatever_their_shape() -> None:
    """A provider's key without a known prefix is masked once it is protected; the longer of two wins."""
    masker = Masker()
    masker.protect(Secret("0123456789abcdef"))
    masker.protect(Secret("0123456789abcdef-more"))
    masker.protect(Secret("short"))
    assert masker.mask("x 0123456789abcdef-more y 0123456789abcdef short") == "x ******** y ******** short"


def test_console_lines_are_for_people() -> None:
    """Time, level, room, event and pairs on one line; no colours when it is not a terminal."""
    stream = io.StringIO()
    logs.configure("info", "console", stream=stream)
    structlog.get_logger("potluck.gateway").info("listening", url="http://h", text="two words", n=None)
    line = stream.getvalue()
    assert line.endswith("info    gateway: listening  url=http://h  text='two words'  n=None\n")
    assert "\x1b" not in line


def test_what_is_logged_cannot_forge_a_line() -> None:
    """A caller's newline in a value stays inside its line, in both formats."""
    for format_ in ("json", "console"):
        stream = io.StringIO()
        logs.configure("info", format_, stream=stream)  # type: ignore[arg-type]
        structlog.get_logger("a").info("seen", model="x\n2030 error forged")
        assert len(stream.getvalue().splitlines()) == 1


def test_a_reader_that_hangs_does_not_stop_the_logger() -> None:
    """With a background writer the caller never waits; what does not fit is dropped and counted."""

    class Stuck(io.StringIO):
        released = threading.Event()

        def write(self, text: str, /) -> int:
            self.released.wait(30)
            return super().write(text)

    stream = Stuck()
    writer = logs.configure("info", "json", stream=stream, background=True)
    for number in range(logs._QUEUED_LINES + 100):
        logging.getLogger("a").info("line %d", number)
    assert writer.flush(timeout_s=0.01) is False
    stream.released.set()
    assert writer.flush(timeout_s=30) is True
    written = stream.getvalue().splitlines()
    assert any("log lines were dropped" in line for line in written)
    assert len(written) <= logs._QUEUED_LINES + 3


def test_a_closed_stream_ends_nothing() -> None:
    """When stderr is gone, logging goes on without raising."""
    stream = io.StringIO()
    logs.configure("info", "json", stream=stream)
    stream.close()
    logging.getLogger("a").info("nobody reads this")


def test_configuring_again_replaces() -> None:
    """A second call does not double the lines."""
    first, second = io.StringIO(), io.StringIO()
    logs.configure("info", "json", stream=first)
    logs.configure("info", "json", stream=second)
    logging.getLogger("a").info("once")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


def test_logging_does_not_load_rich() -> None:
    """structlog would import Rich for tracebacks: the serving process does without its 110 ms and 8 MB."""
    program = (
        "import sys; from potluck.telemetry import logs; logs.configure(); import structlog;"
        "structlog.get_logger().info('x'); print('rich' in sys.modules); import rich"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
