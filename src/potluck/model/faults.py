"""An unexpected exception in a line for the log: what it is and where it rose.

Rule: its message is left out. It may quote what was being handled, a prompt or a key.
"""

from pathlib import PurePath
from types import CodeType

FRAMES = 4
"""innermost first, that are told"""


def fault_of(error: BaseException) -> str:
    """`KeyError at relay.py:61 feed < attempt.py:170 data`."""
    frames: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(_place(trace.tb_frame.f_code, trace.tb_lineno))
        trace = trace.tb_next
    where = " < ".join(reversed(frames[-FRAMES:]))
    return f"{type(error).__name__} at {where}" if where else type(error).__name__


def _place(code: CodeType, line: int) -> str:
    return f"{PurePath(code.co_filename).name}:{line} {code.co_name}"
