"""`python -m bench`: measure, print the table, exit 1 when a budget is passed by more than the margin."""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from bench import report, rows
from bench.linked import Linked, start_linked
from bench.processes import LOAD_CORE, BenchError, Quiet, raise_file_limit, stop
from bench.stack import Server, start_command, start_nginx_proxy, start_potluck, start_upstreams

NOISE = 0.05
"""share of the gateway's core that others may take before the bench says so"""
DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; the figure is their median (5)")
    parser.add_argument("--only", action="append", default=[], metavar="ROW", help="only this row; may be repeated")
    parser.add_argument("--quick", action="store_true", help="one short round: a rough idea within a minute")
    parser.add_argument("--json", action="store_true", help="print JSON with every sample instead of the table")
    parser.add_argument("--write-doc", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument("--no-potluck", action="store_true", help="leave Potluck out, to try the bench itself")
    parser.add_argument("--limit-proxy", action="store_true", help="also measure bench/limit.py, the Python floor")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="also measure this server; {port}, {plain_port} and {stream_port} are filled in",
    )
    parser.add_argument("--keep", action="store_true", help="keep the working directory (logs, homes) and name it")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    known = {row.key for row in rows.ROWS} | set(rows.ONCE) | set(rows.EVERY_ROUND)
    if unknown := set(arguments.only) - known:
        print(f"unknown row {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known))}", file=sys.stderr)
        return 2
    if platform.system() != "Linux" or (os.cpu_count() or 1) < 2:
        print("the bench reads /proc and pins processes: it needs Linux and two cores", file=sys.stderr)
        return 2
    directory = Path(tempfile.mkdtemp(prefix="potluck-bench-"))
    raise_file_limit()
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        return _measure(arguments, directory)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    finally:
        if arguments.keep:
            print(f"kept {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)


def _measure(arguments: argparse.Namespace, directory: Path) -> int:
    directory.chmod(0o755)
    rounds = 1 if arguments.quick else arguments.rounds
    servers: list[Server] = []
    linked: Linked | None = None
    upstreams = start_upstreams(directory)
    try:
        servers.append(start_nginx_proxy(directory, upstreams))
        if not arguments.no_potluck:
            servers.append(start_potluck(directory, upstreams))
        others = [entry.partition("=")[::2] for entry in arguments.also]
        if arguments.limit_proxy:
            others.append(("python floor", f"{sys.executable} -m bench.limit {{port}} {{plain_port}} {{stream_port}}"))
        servers += [start_command(name, command, directory, upstreams) for name, command in others]
        if not arguments.no_potluck and (not arguments.only or {"link", *rows.LINK_ROWS} & set(arguments.only)):
            linked = start_linked(directory, upstreams.stream_port)
        setup = rows.Setup(
            directory,
            upstreams,
            tuple(servers),
            seconds=2.0 if arguments.quick else 3.0,
            requests=500 if arguments.quick else 2000,
            linked=linked,
        )
        results = rows.run(setup, rounds=rounds, only=set(arguments.only))
    finally:
        if linked is not None:
            linked.close()
        for process in [server.process for server in servers] + upstreams.processes:
            stop(process)
    names = sorted((server.name for server in servers), key=lambda name: (name != report.SUBJECT, name != report.LIMIT))
    lines = report.judge(results, names)
    if arguments.json:
        print(json.dumps(report.as_json(lines, results, rounds), indent=2))
    else:
        print(f"\n{report.machine()}; median of {rounds} rounds\n\n{report.as_text(report.table(lines, names))}")
    if Quiet.worst > NOISE:
        print(
            f"\nothers took up to {Quiet.worst:.0%} of the gateway's core meanwhile: measure again on a quiet machine",
            file=sys.stderr,
        )
    if arguments.write_doc:
        report.write_document(DOCUMENT, lines, names, rounds)
    over = [line.row.title for line in lines if line.verdict == "over"]
    if over:
        print(f"\nover budget by more than the margin: {'; '.join(over)}", file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
