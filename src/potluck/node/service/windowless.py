"""The agent without a console: what it prints goes to `HOME/agent.log`, since `pythonw` has nowhere to print to.

    pythonw -m potluck.node.service.windowless HOME node run --home HOME

A log that has grown is put aside at the start, as `agent.log.1`, over the one before it.
"""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from potluck.node.service.steps import LOG

MAX_LOG_BYTES = 1 << 20


def main(arguments: Sequence[str]) -> None:
    """`arguments`: the home, then those of `potluck`. Ends as `potluck` ends. Raises OSError where no log can be."""
    home, *words = arguments
    log = Path(home) / LOG
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.replace(log.with_name(f"{LOG}.1"))
    sys.stdout = sys.stderr = log.open("a", encoding="utf-8", buffering=1)
    sys.argv = ["potluck", *words]
    runpy.run_module("potluck", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
