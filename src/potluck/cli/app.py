"""The tree of commands. Each is imported when it is called, so that none pays for the others.

A group is one line in `COMMANDS`: its name, the module and attribute that hold it, and its help for the overview.
"""

import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from potluck import __version__
from potluck.cli.failure import FAILED, USAGE, Failure
from potluck.cli.session import Group, Session

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("potluck.cli.commands.serve:serve", "Run the gateway."),
    "doctor": ("potluck.cli.commands.doctor:doctor", "Check the installation and say how to mend it."),
    "key": ("potluck.cli.commands.keys:key", "API keys."),
    "provider": ("potluck.cli.commands.providers:provider", "Upstream accounts and own servers."),
    "credential": ("potluck.cli.commands.credentials:credential", "Keys of upstream accounts."),
    "model": ("potluck.cli.commands.models:model", "Models, their targets and prices."),
    "route": ("potluck.cli.commands.routes:route", "Routing rules."),
    "target": ("potluck.cli.commands.targets:target", "How targets stand right now."),
    "node": ("potluck.cli.commands.node:node", "Share this machine's engines with a gateway."),
    "nodes": ("potluck.cli.commands.nodes:nodes", "Machines that joined, and the tokens by which they do."),
    "local-model": ("potluck.cli.commands.local_model:local_model", "The built-in model."),
    "project": ("potluck.cli.commands.projects:project", "Projects, which keys belong to."),
    "usage": ("potluck.cli.commands.usage:usage", "Requests, tokens and cost."),
    "request": ("potluck.cli.commands.requests:request", "Single requests."),
    "config": ("potluck.cli.commands.configuration:config", "The declarative configuration file."),
    "db": ("potluck.cli.commands.database:db", "The store: upgrade, backup, restore."),
    "version": ("potluck.cli.commands.version:version", "Version of this program and of the gateway."),
}


class Root(Group):
    """Knows its commands by name and help; imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 — click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in COMMANDS.items()])


@click.command(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="potluck %(version)s")
def root() -> None:
    """One OpenAI-compatible endpoint over every model provider you pay for and every machine you own.

    Start with `potluck serve`. The other commands talk to the running gateway, at --url.
    """


assert isinstance(root, Root)


def run(arguments: Sequence[str], env: dict[str, str] | None = None) -> int:
    """Run one command line. Prints what it has to say and returns the exit status."""
    session = Session(dict(os.environ) if env is None else env)
    try:
        result: Any = root.main(list(arguments), prog_name="potluck", standalone_mode=False, obj=session)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except Failure as failure:
        return _complain(failure.message, failure.status)
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(error.format_message().rstrip("\n") + "\n")
        return USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "potluck"
        return _complain(f"{_sentence(error.format_message())} (see: {path} --help)", USAGE, path)
    except click.ClickException as error:
        return _complain(_sentence(error.format_message()), FAILED)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _complain("interrupted", 130)
    except BrokenPipeError:
        _forget_output()  # whoever read it has seen enough
        return 0
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == __package__.partition(".")[0]:
            raise
        return _complain(
            f"this installation is a node's: it lacks {error.name.partition('.')[0]}, and runs `potluck node` alone. "
            "Run this where the gateway is installed, with all its packages",
            FAILED,
        )
    except OSError as error:
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        _forget_output()
        return _complain(f"the output cannot be written: {error.strerror}", FAILED)
    except ValueError as error:
        from potluck.config import ConfigError

        if isinstance(error, ConfigError):
            return _complain(str(error), FAILED)
        raise


_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EBADF)


def _forget_output() -> None:
    """What is left of it goes nowhere; without this the interpreter complains at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, status: int, path: str = "potluck") -> int:
    lines = message.splitlines() or ["failed"]
    sys.stderr.write("".join(f"{path}: {line}\n" for line in lines))
    return status


def _sentence(message: str) -> str:
    """click's message on one line, in our case: `missing argument 'NAME'`."""
    text = " ".join(message.split()).rstrip(".")
    return text[:1].lower() + text[1:]
