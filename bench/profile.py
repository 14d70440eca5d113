"""Where the time goes: `python -m bench.profile --scenario plain_1k` runs Potluck under a profiler and that load, once.

The figures are dearer than the bench's own; what counts is their order.
"""

import argparse
import os
import pstats
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench import measure
from bench.processes import LOAD_CORE, BenchError, raise_file_limit, stop
from bench.stack import PLAIN_MODEL, ROUTED_MODELS, Server, start_potluck, start_upstreams

SCENARIOS = ("plain_1k", "plain_100k", "cheapest_1k", "least_busy_1k", "chunk_burst", "chunk_paced")


def _load(scenario: str, server: Server, directory: Path, seconds: float) -> float:
    """CPU microseconds per request or event under this load, profiler included."""
    if scenario.endswith("k"):
        prompt_bytes = 100_000 if scenario == "plain_100k" else 1000
        model = ROUTED_MODELS.get(scenario.removesuffix("_1k"), PLAIN_MODEL)
        return measure.measure_plain(server, directory, prompt_bytes=prompt_bytes, seconds=seconds, model=model).cpu_us
    if scenario == "chunk_burst":
        return measure.measure_chunks(server, streams=32, chunks=200, pace_ms=0, ramp_s=0.2, seconds=seconds)
    return measure.measure_chunks(server, streams=500, chunks=2000, pace_ms=20, ramp_s=1.0, seconds=seconds)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--scenario", choices=SCENARIOS, default="plain_1k")
    parser.add_argument("--how", choices=("calls", "lines"), default="lines")
    parser.add_argument("--sort", choices=("tottime", "cumtime", "ncalls"), default="tottime")
    parser.add_argument("--top", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--save", type=Path, help="keep the profile in this file")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="potluck-profile-"))
    directory.chmod(0o755)
    out = directory / "profile"
    raise_file_limit()
    os.sched_setaffinity(0, {LOAD_CORE})
    started = []
    try:
        upstreams = start_upstreams(directory)
        started += upstreams.processes
        launcher = [sys.executable, "-m", "bench.profiled", arguments.how, str(out)]
        server = start_potluck(directory, upstreams, launcher=launcher)
        started.append(server.process)
        os.kill(server.process.pid, signal.SIGUSR1)
        figure = _load(arguments.scenario, server, directory, arguments.seconds)
        os.kill(server.process.pid, signal.SIGUSR1)
        _wait_for(out)
        print(f"{arguments.scenario}: {figure:.1f} µs under the profiler")
        _show(out, arguments)
        if arguments.save:
            shutil.copy(out, arguments.save)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    finally:
        for process in reversed(started):
            stop(process)
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def _wait_for(out: Path, limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not out.exists() or not out.stat().st_size:
        if time.monotonic() > deadline:
            raise BenchError("the profiler wrote nothing")
        time.sleep(0.02)
    time.sleep(0.2)


def _show(out: Path, arguments: argparse.Namespace) -> None:
    if arguments.how == "calls":
        pstats.Stats(str(out)).sort_stats(arguments.sort).print_stats(arguments.top)
        return
    shown = 0
    for line in out.read_text().splitlines():
        shown = 0 if line.strip().startswith("share") else shown + 1
        if shown <= arguments.top:
            print(line)


if __name__ == "__main__":
    sys.exit(main())
