"""`--home` for commands that work on this machine's files instead of a gateway's API."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from potluck.cli.session import current

F = TypeVar("F", bound=Callable[..., Any])


def home_option(function: F) -> F:
    """Adds `--home DIR`; the command gets it as `home`, None when it was not given."""
    return click.option("--home", metavar="DIR", type=click.Path(), help="Home directory. [POTLUCK_HOME]")(function)


def resolve_home(home: str | None) -> Path:
    """The directory that the option, the environment or the platform names."""
    from potluck.config.settings import home_directory

    return home_directory(home, current().env)
