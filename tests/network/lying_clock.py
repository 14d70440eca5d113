"""Runs a Python command with a clock that is wrong: `python lying_clock.py python -m potluck node run …`.

`LYING_CLOCK_S` is added to the time of day. Monotonic time is as it is.
"""

import os
import runpy
import sys
import time

if __name__ == "__main__":
    wrong_s, right, right_ns = float(os.environ["LYING_CLOCK_S"]), time.time, time.time_ns
    time.time = lambda: right() + wrong_s
    time.time_ns = lambda: right_ns() + int(wrong_s * 1e9)
    module = sys.argv.index("-m") + 1
    sys.argv = sys.argv[module:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
