"""`potluck version`."""

import platform

import click

from potluck import __version__
from potluck.cli.failure import Failure
from potluck.cli.gateway import Gateway
from potluck.cli.session import Command, current

TIMEOUT_S = 5.0


@click.command(cls=Command)
def version() -> None:
    """Show the version of this program and, if one answers, of the gateway."""
    session = current()
    gateway: str | None = None
    try:
        answer = Gateway(session.url, session.token, TIMEOUT_S).send("GET", "/api/openapi.json", token=session.token())
        gateway = str(answer.json()["info"]["version"]) if answer.status == 200 else None
    except (Failure, KeyError, TypeError):
        gateway = None
    said = {"version": __version__, "python": platform.python_version(), "url": session.url, "gateway": gateway}
    if session.json:
        session.output.data(said)
        return
    session.output.line(f"potluck {__version__} (Python {said['python']})")
    session.output.line(f"gateway at {session.url}: {gateway or 'no answer'}")
