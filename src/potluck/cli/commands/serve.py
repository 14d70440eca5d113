"""`potluck serve`: options made from the settings, then the gateway takes over."""

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from potluck.cli.failure import USAGE, Failure
from potluck.cli.session import Command, current
from potluck.config import ConfigError
from potluck.config.settings import describe, load_settings, misspelt_variables

_METAVARS = {
    "--home": "DIR",
    "--host": "ADDRESS",
    "--port": "PORT",
    "--config": "FILE",
    "--public-url": "URL",
    "--tls-cert": "FILE",
    "--tls-key": "FILE",
    "--trusted-proxies": "CIDRS",
    "--workers": "N",
}

F = TypeVar("F", bound=Callable[..., Any])


def _setting_options(function: F) -> F:
    for setting in reversed([setting for setting in describe() if setting.option]):
        default = "" if setting.default in (None, (), False) else f"; {setting.default}"
        function = click.option(
            setting.option,
            setting.name,
            is_flag=setting.kind is bool,
            metavar=None if setting.kind is bool else _METAVARS.get(setting.option, "TEXT"),
            help=f"{setting.help[:1].upper()}{setting.help[1:]}. [{setting.env}{default}]",
        )(function)
    return function


@click.command(cls=Command)
@_setting_options
def serve(**options: Any) -> int:
    """Run the gateway in the foreground until it is told to stop (Ctrl-C or SIGTERM).

    It listens on this machine only, unless --host says otherwise; another machine then needs --public-url or TLS. More
    settings are environment variables: docs/reference/settings.md.
    """
    env = current().env
    for name, meant in misspelt_variables(env).items():
        sys.stderr.write(f"potluck serve: {name} is not a setting and has no effect; did you mean {meant}?\n")
    try:
        settings = load_settings(options, env)
    except ConfigError as error:
        raise Failure(str(error), USAGE) from None
    from potluck.runtime.gateway import run

    for variable in _FOR_US_ALONE:
        os.environ.pop(variable, None)
    return run(settings)


_FOR_US_ALONE = ("POTLUCK_MASTER_KEY", "POTLUCK_BOOTSTRAP_ADMIN_TOKEN", "POTLUCK_BOOTSTRAP_API_KEY")
"""read once; child processes do not inherit them"""

for parameter in serve.params:
    if parameter.name in ("url", "token", "json", "no_color"):
        assert isinstance(parameter, click.Option)
        parameter.hidden = True  # accepted everywhere, of no use here
