"""The tree of commands: help, exit statuses, errors of one line, cheap imports."""

import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import pytest

from potluck import __version__
from potluck.cli.app import COMMANDS, root
from potluck.cli.session import Command, Group, Session
from potluck.model.secret import Secret

Potluck = Callable[..., Any]

NOT_YET = {"limit", "budget", "cache", "compare", "audit", "ledger", "smoke"}


def commands() -> list[tuple[str, click.Command]]:
    """Every command and group of the tree, with its full name."""
    found: list[tuple[str, click.Command]] = []

    def walk(name: str, command: click.Command) -> None:
        found.append((name, command))
        if isinstance(command, click.Group):
            context = click.Context(command)
            for member in command.list_commands(context):
                each = command.get_command(context, member)
                assert each is not None
                walk(f"{name} {member}", each)

    walk("potluck", root)
    return found


def test_every_command_has_help_and_takes_the_global_options() -> None:
    """Each command explains itself, each option too, and --url, --token, --json, --no-color stand anywhere."""
    for name, command in commands():
        assert command.help, name
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--url", "--token", "--json", "--no-color"} <= options, name
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, (name, parameter.name)


def test_the_overview_is_the_tree() -> None:
    """`potluck --help` names what there is, in the words of the commands, and nothing that has not landed."""
    context = click.Context(root)
    for name, (place, _) in COMMANDS.items():
        module, _, attribute = place.partition(":")
        assert isinstance(getattr(importlib.import_module(module), attribute), (Command, Group)), name
    assert not NOT_YET & set(root.list_commands(context))


@pytest.mark.parametrize("name", ["", "key", "provider", "config", "serve", "doctor"])
def test_help_ends_well(potluck: Potluck, name: str) -> None:
    """--help prints to stdout and is status 0."""
    ran = potluck(*name.split(), "--help")
    assert ran.status == 0
    assert ran.out.startswith("Usage: potluck")
    assert ran.err == ""


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("kye list", "no such command 'kye'; did you mean 'key'?"),
        ("key lst", "no such command 'lst'; did you mean 'list'?"),
        ("key create", "missing argument 'NAME'"),
        ("key create a b", "unexpected extra argument"),
        ("key list --nope", "no such option '--nope'"),
        ("usage --by colour", "is not one of"),
        ("serve --port x", "--port: 'x' is not a whole number"),
        ("serve --workers 2", "--workers: more than one worker has not landed"),
        ("provider update x", "nothing to change"),
        ("model price m --input 1", "a price needs both"),
        ("key list --url ftp://h", "is not an address"),
        ("key create x --expires soon --token t", "neither a length of time (7d) nor a date"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(potluck: Potluck, line: str, part: str) -> None:
    """What was typed wrongly is said in one line on stderr, with what there is instead; nothing goes to stdout."""
    ran = potluck(*line.split())
    assert ran.status == 2
    assert part in ran.err
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("potluck")
    assert ran.out == ""


@pytest.mark.parametrize(
    "line",
    [
        "key show",
        "key revoke",
        "key rotate",
        "provider show",
        "provider remove",
        "request show",
        "model show",
        "project remove",
        "credential remove",
        "config check",
        "db backup",
    ],
)
def test_an_empty_argument_is_refused(potluck: Potluck, line: str) -> None:
    """An unset shell variable names nothing: one line says so, before anything is asked."""
    ran = potluck(*line.split(), "", POTLUCK_ADMIN_TOKEN="pla-x")
    assert (ran.status, ran.out) == (2, "")
    assert " is empty (see: potluck " in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("name", ["", "key", "provider", "local-model"])
def test_a_group_without_a_command_shows_its_help(potluck: Potluck, name: str) -> None:
    """It is printed as help is, line by line, to stderr: status 2."""
    ran, asked = potluck(*name.split()), potluck(*name.split(), "--help")
    assert (ran.status, ran.out, ran.err) == (2, "", asked.out)


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({}, "http://127.0.0.1:7171"),
        ({"POTLUCK_PORT": "9"}, "http://127.0.0.1:9"),
        ({"POTLUCK_PORT": "0"}, "http://127.0.0.1:7171"),
        ({"POTLUCK_HOST": "0.0.0.0", "POTLUCK_PORT": "9"}, "http://127.0.0.1:9"),
        ({"POTLUCK_HOST": "::"}, "http://[::1]:7171"),
        ({"POTLUCK_HOST": "10.0.0.7", "POTLUCK_TLS_CERT": "c.pem"}, "https://10.0.0.7:7171"),
        ({"POTLUCK_URL": "http://h:1/", "POTLUCK_PORT": "9"}, "http://h:1"),
    ],
)
def test_the_gateway_is_looked_for_where_serve_listens(env: dict[str, str], url: str) -> None:
    """The variables that tell `serve` where to listen tell the commands where it is."""
    assert Session(env).url == url


def test_a_port_that_is_none_is_said(potluck: Potluck) -> None:
    """A mistake in POTLUCK_PORT is one line, as in `serve`."""
    for port in ("x", "70000", "-1"):
        ran = potluck("key", "list", POTLUCK_PORT=port, POTLUCK_ADMIN_TOKEN="pla-x")
        assert (ran.status, ran.err.count("\n")) == (2, 1)
        assert f"POTLUCK_PORT: '{port}' is not a port" in ran.err


def test_a_gateway_that_is_not_there_is_status_3(potluck: Potluck) -> None:
    """No connection is its own exit status, and the line says how to start one."""
    ran = potluck("--url", "http://127.0.0.1:9", "key", "list", "--token", "pla-x")
    assert ran.status == 3
    assert ran.err == (
        "potluck: could not connect to http://127.0.0.1:9: connection refused; "
        "start it with `potluck serve`, or name another with --url\n"
    )
    ran = potluck("key", "list", POTLUCK_URL="http://no-such-host.invalid", POTLUCK_ADMIN_TOKEN="pla-x")
    assert ran.status == 3
    assert "the host name is not known" in ran.err


def test_global_options_may_stand_before_or_after(potluck: Potluck) -> None:
    """The same option counts at any place; the one nearest to the command wins."""
    for line in (
        "--url http://127.0.0.1:9 key list",
        "key --url http://127.0.0.1:9 list",
        "key list --url http://127.0.0.1:9",
    ):
        assert "127.0.0.1:9:" in potluck(*line.split(), POTLUCK_ADMIN_TOKEN="pla-x").err
    ran = potluck(
        "--url", "http://127.0.0.1:7", "key", "list", "--url", "http://127.0.0.1:9", POTLUCK_ADMIN_TOKEN="pla-x"
    )
    assert "127.0.0.1:9:" in ran.err


def test_a_missing_token_says_where_it_would_be(potluck: Potluck) -> None:
    """Without a token the line names the file that was looked for and the ways to give one."""
    ran = potluck("key", "list")
    assert ran.status == 2
    assert "admin-token does not exist" in ran.err
    assert "POTLUCK_ADMIN_TOKEN" in ran.err


def test_this_machines_token_is_not_sent_in_clear_to_others(potluck: Potluck, home) -> None:  # type: ignore[no-untyped-def]
    """The local home's token goes to loopback or over TLS only; another machine needs one that was given for it."""
    (home / "admin-token").write_text("pla-local\n")
    ran = potluck("key", "list", "--url", "http://gateway.invalid")
    assert ran.status == 2
    assert "not sent over plain http" in ran.err
    assert "pla-local" not in ran.err


def test_version_is_cheap() -> None:
    """`potluck --version` imports neither click nor msgspec, and prints the version."""
    program = (
        "import sys; sys.argv = ['potluck', '--version']\n"
        "from potluck.cli import main\n"
        "status = main()\n"
        "assert not {'click', 'msgspec', 'rich', 'asyncio', 'json'} & set(sys.modules), sys.modules\n"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"potluck {__version__}\n"), done.stderr


def test_short_commands_do_not_load_the_serving_rooms() -> None:
    """A command that only talks to the gateway imports no Rich, SQL, cryptography or event loop."""
    program = (
        "import sys\n"
        "from potluck.cli.app import run\n"
        "status = run(['key', 'list', '--token', 't', '--url', 'http://127.0.0.1:9'], {})\n"
        "heavy = {'rich', 'sqlalchemy', 'cryptography', 'uvloop', 'litestar', 'structlog', 'prometheus_client'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr


def test_python_m_potluck_is_potluck() -> None:
    """`python -m potluck` runs the same program."""
    done = subprocess.run([sys.executable, "-m", "potluck", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"potluck {__version__}\n"


def test_a_reader_that_leaves_is_no_error() -> None:
    """`potluck … | head -1` ends quietly when the pipe is closed."""
    line = f"{sys.executable} -m potluck --help | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_secrets_print_as_stars() -> None:
    """A Secret in a message, a repr or a format is stars, equal to its like and to nothing else."""
    secret = Secret("plk-abc")
    assert f"{secret} {secret!r} {[secret]}" == "******** Secret(********) [Secret(********)]"
    assert secret == Secret("plk-abc")
    assert secret != Secret("plk-abd")
    assert secret != "plk-abc"
    assert re.fullmatch(r"-?\d+", str(hash(secret)))
