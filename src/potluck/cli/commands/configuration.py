"""`potluck config check|diff|apply|export`."""

import sys
from pathlib import Path
from typing import Any

import click

from potluck.cli.failure import Failure
from potluck.cli.session import Group, Session, current

_SIGNS = {"add": ("+", "32"), "change": ("~", "33"), "remove": ("-", "31"), "release": ("o", "2")}


@click.group(cls=Group)
def config() -> None:
    """The declarative configuration file, potluck.toml."""


@config.command()
@click.argument("file", type=click.Path())
def check(file: str) -> int:
    """Check a file without a gateway: syntax, members, names, variables. All problems at once."""
    from potluck.config import ConfigError
    from potluck.config.reading import load

    session = current()
    try:
        document = load(file, session.env)
    except ConfigError as error:
        if session.json:
            problems = [{"line": each.line, "where": each.where, "message": each.message} for each in error.problems]
            session.output.data({"ok": False, "problems": problems})
            return 1
        raise
    counts = {name: len(getattr(document, name)) for name in ("providers", "models", "projects", "keys", "routes")}
    if session.json:
        session.output.data({"ok": True, "problems": [], **counts})
    else:
        said = ", ".join(f"{number} {name if number != 1 else name[:-1]}" for name, number in counts.items())
        session.output.line(f"{file} is good: {said}")
    return 0


@config.command()
@click.argument("file", type=click.Path())
def diff(file: str) -> None:
    """Show what apply would do. Nothing is changed."""
    session = current()
    result = session.gateway.post("/config/diff", _request(session, file))
    if session.json:
        session.output.data(result)
    else:
        _print_changes(session, result, "nothing to do: the gateway is as the file says")


@config.command()
@click.argument("file", type=click.Path())
def apply(file: str) -> None:
    """Make the gateway as the file says: all of it or nothing. Applying it again changes nothing."""
    session = current()
    result = session.gateway.post("/config/apply", _request(session, file))
    if session.json:
        session.output.data(result)
        return
    _print_changes(session, result, "nothing to do: the gateway is as the file says")
    for made in result.get("secrets", []):
        session.output.line()
        session.output.line(f"API key {made['name']}, shown this once:")
        session.output.line(made["secret"])


@config.command()
@click.option("--output", "-o", "file", type=click.Path(), help="Write to this file instead of standard output.")
def export(file: str | None) -> None:
    """Print the gateway's configuration as a file. Secrets become ${VARIABLES}."""
    session = current()
    result = session.gateway.get("/config/export")
    text = str(result["text"])
    if session.json:
        session.output.data(result)
    elif file is None:
        sys.stdout.write(text)
    else:
        try:
            Path(file).write_text(text, encoding="utf-8")
        except OSError as error:
            raise Failure(f"cannot write {file}: {(error.strerror or 'I/O error').lower()}") from None
        session.output.line(f"written to {file}")


def _request(session: Session, file: str) -> dict[str, Any]:
    """The file with the variables it asks for: it is checked here first, so that mistakes need no gateway."""
    from potluck.config.reading import parse, read_text, variables

    text = read_text(file)
    parse(text, session.env, source=Path(file).name)
    values = {name: session.env[name] for name in variables(text) if name in session.env}
    return {"text": text, "variables": values, "source": Path(file).name}


def _print_changes(session: Session, result: dict[str, Any], nothing: str) -> None:
    changes = result["changes"]
    if not changes:
        session.output.line(nothing)
    for change in changes:
        sign, colour = _SIGNS[change["action"]]
        line = f"{sign} {change['action']} {change['kind']} {change['name']}"
        session.output.line(session.output.paint(line, colour))
