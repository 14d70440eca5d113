"""What every command knows: which gateway, which token, how to print. The options stand before or after the command."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from potluck.cli.failure import USAGE, Failure
from potluck.model.secret import Secret

if TYPE_CHECKING:
    from potluck.cli.gateway import Gateway
    from potluck.cli.output import Output

DEFAULT_URL = "http://127.0.0.1:7171"
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Session:
    """One command line's global options, and what is made from them on first use."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.given: dict[str, Any] = {}
        """options as they were written, by name; one after the command wins"""
        self._gateway: Gateway | None = None
        self._output: Output | None = None

    @property
    def json(self) -> bool:
        return bool(self.given.get("json"))

    @property
    def url(self) -> str:
        """The gateway's address: option, variable, else where `serve` listens in this environment. Raises Failure."""
        return str(self.given.get("url") or self.env.get("POTLUCK_URL") or _own_url(self.env)).rstrip("/")

    @property
    def home(self) -> Path:
        from potluck.config.settings import home_directory

        return home_directory(None, self.env)

    @property
    def colours(self) -> bool:
        quiet = self.given.get("no_color") or self.env.get("NO_COLOR") or self.env.get("TERM") == "dumb"
        return sys.stdout.isatty() and not quiet

    def token(self) -> Secret:
        """The admin token: option, variable, else the local home's. Raises Failure when there is none."""
        given = self.given.get("token") or self.env.get("POTLUCK_ADMIN_TOKEN")
        if given:
            return Secret(str(given).strip())
        path = self.home / "admin-token"
        parts = urlsplit(self.url)
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise Failure(
                f"no token for {self.url}: this machine's own is not sent over plain http; "
                "give --token or set POTLUCK_ADMIN_TOKEN",
                USAGE,
            )
        try:
            return Secret(path.read_text(encoding="ascii").strip())
        except FileNotFoundError:
            raise Failure(
                f"no admin token: {path} does not exist; start `potluck serve` once, give --token, "
                "or set POTLUCK_ADMIN_TOKEN or POTLUCK_HOME",
                USAGE,
            ) from None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not plain text"
            raise Failure(f"cannot read the admin token {path}: {why}", USAGE) from None

    @property
    def gateway(self) -> "Gateway":
        """The gateway's admin API."""
        if self._gateway is None:
            from potluck.cli.gateway import Gateway

            self._gateway = Gateway(self.url, self.token)
        return self._gateway

    @property
    def output(self) -> "Output":
        if self._output is None:
            from potluck.cli.output import Output, has_rich

            is_rich = sys.stdout.isatty() and has_rich()
            self._output = Output(json=self.json, terminal=is_rich, colours=self.colours)
        return self._output


def _own_url(env: Mapping[str, str]) -> str:
    """Where a gateway that was started with these variables is reached from this machine."""
    default = urlsplit(DEFAULT_URL)
    host = env.get("POTLUCK_HOST") or default.hostname or ""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 — named, not bound
    port = env.get("POTLUCK_PORT") or str(default.port)
    if not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise Failure(f"POTLUCK_PORT: {port!r} is not a port; mend it, or name the gateway with --url", USAGE)
    if int(port) == 0:  # any free one: nobody can know which
        port = str(default.port)
    scheme = "https" if env.get("POTLUCK_TLS_CERT") else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{int(port)}"


def _note(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
    session = ctx.find_object(Session)
    assert session is not None
    if value is not None and value is not False:
        session.given[str(parameter.name)] = value


def _options() -> list[click.Option]:
    shared: dict[str, Any] = {"expose_value": False, "callback": _note}
    return [
        click.Option(
            ["--url"], metavar="URL", help=f"The gateway. [POTLUCK_URL; {DEFAULT_URL} or POTLUCK_PORT's]", **shared
        ),
        click.Option(
            ["--token"], metavar="TOKEN", help="Admin token. [POTLUCK_ADMIN_TOKEN; HOME/admin-token]", **shared
        ),
        click.Option(["--json"], is_flag=True, help="Print JSON.", **shared),
        click.Option(["--no-color"], is_flag=True, help="Print without colours.", **shared),
    ]


class _TakesGlobalOptions:
    params: list[click.Parameter]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        taken = {name for parameter in self.params for name in parameter.opts}
        self.params += [option for option in _options() if not taken & set(option.opts)]


class Command(_TakesGlobalOptions, click.Command):
    """A command that takes the global options, after its name. An empty argument names nothing and is refused."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            if isinstance(parameter, click.Argument) and ctx.params.get(str(parameter.name)) == "":
                raise click.UsageError(f"{parameter.make_metavar(ctx)} is empty", ctx)
        return rest


class Group(_TakesGlobalOptions, click.Group):
    """A group that takes the global options, as its members do."""

    command_class = Command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            # the first sentence whole: click cuts it to 45 characters
            formatter.write_dl([(name, command.get_short_help_str(100)) for name, command in found if command])

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 — click's signature
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f" (there are: {', '.join(self.list_commands(ctx))})"
            raise click.UsageError(f"no such command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)


Group.group_class = Group


def current() -> Session:
    """The session of the command that runs."""
    session = click.get_current_context().find_object(Session)
    assert session is not None
    return session
