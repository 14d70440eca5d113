"""`python -m bench.fleet`: run the scenarios, print the table, exit 1 when a policy does not do what it should."""

import argparse
import json
import sys
from pathlib import Path

from bench.fleet import scenario, table
from bench.fleet.trial import OURS, trial
from bench.report import as_text

DOCUMENT = Path(__file__).parents[2] / "docs" / "performance.md"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--scenario", action="append", default=[], metavar="NAME", help="only this; may be repeated")
    parser.add_argument("--list", action="store_true", help="name the scenarios and what each comes from")
    parser.add_argument("--ours", action="store_true", help="leave out the naive policies")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--write-doc", action="store_true", help="put the whole table into docs/performance.md")
    return parser.parse_args()


def _progress(name: str, policy: str, share: float) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{name}: {policy} {share:.0%}", end="", file=sys.stderr, flush=True)


def main() -> int:
    arguments = _arguments()
    names = scenario.names()
    if unknown := set(arguments.scenario) - set(names):
        print(f"unknown scenario {', '.join(sorted(unknown))}; there are: {', '.join(names)}", file=sys.stderr)
        return 2
    if arguments.write_doc and (arguments.scenario or arguments.ours):
        print("--write-doc is about all scenarios and policies", file=sys.stderr)
        return 2
    if arguments.list:
        for name in names:
            print(f"{name}: {scenario.load(name).field}\n")
        return 0
    trials: table.Trials = []
    for number, name in enumerate(arguments.scenario or names, 1):
        loaded = scenario.load(name)
        verdicts = trial(
            loaded,
            lambda policy, share, name=name: _progress(name, policy, share),  # type: ignore[misc]
            {OURS} if arguments.ours else None,
        )
        trials.append((loaded, verdicts))
        good = "as it should be" if all(verdict.good for verdict in verdicts) else "NOT as it should be"
        start = "\r\033[K" if sys.stderr.isatty() else ""
        print(f"{start}{number}/{len(arguments.scenario or names)} {name}: {good}", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps(table.as_json(trials), indent=2))
    else:
        print(f"\n{as_text(table.table(trials))}")
    if arguments.write_doc:
        table.write_document(DOCUMENT, trials)
    return 0 if all(verdict.good for _, verdicts in trials for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
