"""`potluck config check|diff|apply|export`."""

import sys
from pathlib import Path
from typing import Any

import click

from potluck.cli.failure import NO_CONNECTION, Failure
from potluck.cli.gateway import Refused
from potluck.cli.session import Group, Session, current
from potluck.config import ConfigError, Problem
from potluck.config.reading import Draft, read, read_text, variables
from potluck.config.references import missing

COUNTED = ("providers", "models", "projects", "keys", "routes")
"""sections whose objects are counted"""
_SIGNS = {"add": ("+", "32"), "change": ("~", "33"), "remove": ("-", "31"), "release": ("o", "2")}


@click.group(cls=Group)
def config() -> None:
    """The declarative configuration file, potluck.toml."""


@config.command()
@click.argument("file", type=click.Path())
@click.option("--offline", is_flag=True, help="Ask no gateway: what the file names elsewhere is not looked up.")
def check(file: str, offline: bool) -> int:
    """Say everything that keeps a file from being applied to the gateway; without one, what can be said of it alone.

    Nothing is changed. Exit 1 if something is wrong.
    """
    session = current()
    draft = _read(session, file)
    found = None if offline else _ask(session, draft)
    if found is None:
        problems, warnings = draft.problems(), draft.located(missing(draft))
    else:
        problems, warnings = (_located(draft, found[member]) for member in ("problems", "warnings"))
    document = draft.document
    counts = {name: len(getattr(document, name)) for name in COUNTED} if document is not None else {}
    if session.json:
        said: dict[str, Any] = {"ok": not problems, "gateway": None if found is None else session.url}
        said |= {"problems": [each.as_member() for each in problems]}
        session.output.data(said | {"warnings": [each.as_member() for each in warnings], **counts})
        return 1 if problems else 0
    session.output.warn(map(str, warnings))
    if problems:
        raise ConfigError(problems)
    totals = ", ".join(f"{number} {name if number != 1 else name[:-1]}" for name, number in counts.items())
    by_itself = " by itself, no gateway was asked" if found is None else ""
    session.output.line(f"{file} is good{by_itself}: {totals}")
    return 0


@config.command()
@click.argument("file", type=click.Path())
def diff(file: str) -> None:
    """Show what apply would do. Nothing is changed."""
    session = current()
    draft = _read(session, file)
    _print_changes(session, draft, _send(session, "diff", draft))


@config.command()
@click.argument("file", type=click.Path())
def apply(file: str) -> None:
    """Make the gateway as the file says: all of it or nothing. Applying it again changes nothing."""
    session = current()
    draft = _read(session, file)
    result = _send(session, "apply", draft)
    _print_changes(session, draft, result)
    if session.json:
        return
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


def _read(session: Session, file: str) -> Draft:
    """The file as far as it can be read here. Raises ConfigError when that is not far."""
    return read(read_text(file), session.env, source=Path(file).name)


def _body(session: Session, draft: Draft) -> dict[str, Any]:
    """The text with the variables that it asks for."""
    values = {name: session.env[name] for name in variables(draft.text) if name in session.env}
    return {"text": draft.text, "variables": values, "source": draft.source}


def _ask(session: Session, draft: Draft) -> dict[str, Any] | None:
    """What the gateway says against the file; None when there is none to ask, or no token to ask it with."""
    try:
        session.token()
    except Failure:
        return None
    try:
        return dict(session.gateway.post("/config/check", _body(session, draft)))
    except Failure as failure:
        if failure.status != NO_CONNECTION:
            raise
        return None


def _send(session: Session, verb: str, draft: Draft) -> dict[str, Any]:
    """Compare or apply. Raises Failure or ConfigError with all that is wrong with the file, also without a gateway."""
    try:
        return dict(session.gateway.post(f"/config/{verb}", _body(session, draft)))
    except Failure as failure:
        if draft.faults and not isinstance(failure, Refused):
            raise ConfigError(draft.problems()) from None
        raise


def _located(draft: Draft, members: list[dict[str, Any]]) -> list[Problem]:
    return [Problem(**each, source=draft.source) for each in members]


def _print_changes(session: Session, draft: Draft, result: dict[str, Any]) -> None:
    if session.json:
        session.output.data(result)
        return
    changes = result["changes"]
    if not changes:
        session.output.line("nothing to do: the gateway is as the file says")
    for change in changes:
        sign, colour = _SIGNS[change["action"]]
        line = f"{sign} {change['action']} {change['kind']} {change['name']}"
        session.output.line(session.output.paint(line, colour))
    if adopted := result["adopted"]:
        named = ", ".join(f"{each['kind']} {each['name']}" for each in adopted)
        session.output.line(f"as the file says already, and looked after by it from now on: {named}")
    session.output.warn(map(str, _located(draft, result["warnings"])))
