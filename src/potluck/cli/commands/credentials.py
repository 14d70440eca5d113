"""`potluck credential add|list|update|rotate|remove`. A credential is named `provider/name`, or by its id."""

from typing import Any

import click

from potluck.cli.failure import USAGE, Failure
from potluck.cli.output import when
from potluck.cli.secrets_in import read_secret
from potluck.cli.session import Group, Session, current


@click.group(cls=Group)
def credential() -> None:
    """Keys of upstream accounts. They are sealed, and never shown again."""


@credential.command()
@click.argument("provider")
@click.argument("name", default="main")
@click.option("--key-env", metavar="VAR", help="Take the key from this environment variable.")
@click.option("--key-stdin", is_flag=True, help="Take the key from standard input.")
@click.option("--weight", type=click.IntRange(1, 1000), default=1, help="Its share of the provider's traffic.")
def add(provider: str, name: str, key_env: str | None, key_stdin: bool, weight: int) -> None:
    """Add a key to a provider's pool."""
    session = current()
    key = _needed(session, key_env, key_stdin)
    body = {"provider": provider, "name": name, "key": key, "weight": weight}
    made = session.gateway.post("/credentials", body)
    _say(session, made, "is added")


@credential.command("list")
@click.argument("provider", required=False)
def list_(provider: str | None) -> None:
    """List keys, of one provider or of all, without the keys themselves."""
    session = current()
    credentials = list(session.gateway.pages("/credentials", provider=provider))
    if session.json:
        session.output.data({"data": credentials})
        return
    rows = [each | {"made": when(each["created_at_ms"])} for each in credentials]
    columns = [("PROVIDER", "provider"), ("NAME", "name"), ("KEY", "hint"), ("WEIGHT", "weight")]
    columns += [("DISABLED", "disabled"), ("CREATED", "made"), ("ID", "id")]
    empty = "no credentials: potluck credential add PROVIDER --key-env VARIABLE"
    session.output.table(columns, rows, empty=empty, right=("weight",), optional=("id", "made"))


@credential.command()
@click.argument("ref", metavar="PROVIDER/NAME")
@click.option("--weight", type=click.IntRange(1, 1000), help="Its share of the provider's traffic.")
@click.option("--disable/--enable", "disabled", default=None, help="Take it out of the pool, or back in.")
def update(ref: str, **changes: Any) -> None:
    """Change a key's weight, or take it out of the pool."""
    session = current()
    body = {member: value for member, value in changes.items() if value is not None}
    if not body:
        raise Failure("nothing to change: give --weight, --disable or --enable", USAGE)
    _say(session, session.gateway.patch(session.gateway.path_of("/credentials", ref), body), "is changed")


@credential.command()
@click.argument("ref", metavar="PROVIDER/NAME")
@click.option("--key-env", metavar="VAR", help="Take the new key from this environment variable.")
@click.option("--key-stdin", is_flag=True, help="Take the new key from standard input.")
def rotate(ref: str, key_env: str | None, key_stdin: bool) -> None:
    """Put a new key in the place of an old one."""
    session = current()
    key = _needed(session, key_env, key_stdin)
    _say(
        session,
        session.gateway.post(session.gateway.path_of("/credentials", ref) + "/rotate", {"key": key}),
        "has its new key",
    )


@credential.command()
@click.argument("ref", metavar="PROVIDER/NAME")
def remove(ref: str) -> None:
    """Remove a key from its provider's pool."""
    session = current()
    session.gateway.delete(session.gateway.path_of("/credentials", ref))
    if session.json:
        session.output.data({"removed": ref})
    else:
        session.output.line(f"credential {ref} is removed")


def _needed(session: Session, variable: str | None, from_stdin: bool) -> str:
    key = read_secret(session, variable, from_stdin)
    if key is None:
        raise Failure("where is the key? give --key-env VARIABLE or --key-stdin", USAGE)
    return key.reveal()


def _say(session: Session, made: dict[str, Any], what: str) -> None:
    if session.json:
        session.output.data(made)
    else:
        session.output.line(f"credential {made['provider']}/{made['name']} ({made['hint']}) {what}")
