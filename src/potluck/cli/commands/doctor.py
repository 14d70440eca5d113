"""`potluck doctor`: every check, one line each, with how to mend what is wrong."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from potluck.cli.checkup.verdict import Verdict
from potluck.cli.home_option import home_option, resolve_home
from potluck.cli.session import Command, Session, current


@click.command(cls=Command)
@home_option
@click.option("--public-url", metavar="URL", help="Where callers reach the gateway. [POTLUCK_PUBLIC_URL]")
def doctor(home: str | None, public_url: str | None) -> int:
    """Check the installation and say how to mend it; exit 1 if something is broken."""
    session, place = current(), resolve_home(home)
    public_url = public_url or session.env.get("POTLUCK_PUBLIC_URL")
    return show(session, examine(session, place, public_url))


def show(session: Session, found: Iterable[Verdict]) -> int:
    """Print verdicts as they come; 1 if one of them is a failure."""
    verdicts = []
    for verdict in found:
        verdicts.append(verdict)
        if not session.json:
            _print(session, verdict)
    if session.json:
        import msgspec

        session.output.data([msgspec.structs.asdict(verdict) for verdict in verdicts])
    else:
        counts = {state: sum(each.state == state for each in verdicts) for state in ("ok", "warn", "fail", "skip")}
        session.output.line()
        session.output.line(", ".join(f"{number} {state}" for state, number in counts.items() if number))
    return 1 if any(verdict.state == "fail" for verdict in verdicts) else 0


def examine(session: Session, home: Path, public_url: str | None) -> Iterator[Verdict]:
    """All checks, each as it is done: this machine first, then what needs the gateway."""
    from potluck.cli.checkup import machine, network

    yield machine.program()
    yield machine.home_rights(home)
    yield machine.disk(home)
    yield from machine.databases(home)
    yield machine.spool(home)
    yield machine.clock(home)
    yield machine.open_files()
    yield network.built_in_model(home)
    yield from network.engines()
    gateway = session.gateway
    answered = network.alive(session.url)
    yield machine.port(session.url, home, answered=answered)
    if answered:
        yield from network.ready(gateway)
    yield from network.providers(gateway if answered else None, home)
    if answered:
        yield network.stream(gateway, public_url, home)


def _print(session: Session, verdict: Verdict) -> None:
    output = session.output
    state = output.state(verdict.state) + " " * (4 - len(verdict.state))
    output.line(f"{state}  {verdict.check:<16}  {verdict.found}")
    if verdict.mend:
        output.line(f"{'':<24}{output.paint('→ ' + verdict.mend, '1')}")
