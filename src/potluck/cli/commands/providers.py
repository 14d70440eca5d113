"""`potluck provider add|list|show|test|update|remove`."""

from typing import Any

import click

from potluck.cli.failure import USAGE, Failure
from potluck.cli.output import when
from potluck.cli.secrets_in import read_secret
from potluck.cli.session import Group, current


@click.group(cls=Group)
def provider() -> None:
    """Upstream accounts and servers of one's own."""


@provider.command()
@click.argument("name")
@click.option("--base-url", metavar="URL", required=True, help="Its address, with the version: https://host/v1.")
@click.option("--dialect", help="What it speaks: openai (default).")
@click.option("--key-env", metavar="VAR", help="Take its key from this environment variable.")
@click.option("--key-stdin", is_flag=True, help="Take its key from standard input.")
@click.option("--own", is_flag=True, help="Own infrastructure: may serve private data, costs 0 unless priced.")
@click.option("--on-hangup", type=click.Choice(["cancel", "drain"]), help="What to do when a caller leaves.")
def add(
    name: str,
    base_url: str,
    dialect: str | None,
    key_env: str | None,
    key_stdin: bool,
    own: bool,
    on_hangup: str | None,
) -> None:
    """Add a provider, with its key if it has one."""
    session = current()
    key = read_secret(session, key_env, key_stdin)
    body: dict[str, Any] = {"name": name, "base_url": base_url, "own": own}
    body |= {member: value for member, value in (("dialect", dialect), ("on_hangup", on_hangup)) if value}
    if key is not None:
        body["key"] = key.reveal()
    made = session.gateway.post("/providers", body)
    if session.json:
        session.output.data(made)
        return
    session.output.line(f"provider {made['name']} ({made['id']}) is added")
    if made["listed_models"]:
        session.output.line(f"it answers, and names {made['listed_models']} models: potluck model list")
    else:
        session.output.line(f"it has not named any model yet: potluck provider test {made['name']}")
    if key is None and not own:
        session.output.line(f"it has no key: potluck credential add {made['name']} --key-env VARIABLE")


@provider.command("list")
def list_() -> None:
    """List providers."""
    session = current()
    providers = list(session.gateway.pages("/providers"))
    if session.json:
        session.output.data({"data": providers})
        return
    rows = [
        each
        | {
            "keys": len(each["credentials"]),
            "base_url": "built in" if each["builtin"] else each["base_url"],
            "own": each["own"] or each["builtin"],
        }
        for each in providers
    ]
    columns = [("NAME", "name"), ("BASE URL", "base_url"), ("DIALECT", "dialect"), ("OWN", "own"), ("KEYS", "keys")]
    columns += [("MODELS", "listed_models"), ("FROM", "origin"), ("ID", "id")]
    session.output.table(
        columns,
        rows,
        empty="no providers: potluck provider add NAME --base-url URL",
        right=("keys", "listed_models"),
        optional=("id", "origin", "dialect"),
    )


@provider.command()
@click.argument("ref", metavar="PROVIDER")
def show(ref: str) -> None:
    """Show a provider and its key pool, without the keys."""
    session = current()
    found = session.gateway.get(session.gateway.path_of("/providers", ref))
    if session.json:
        session.output.data(found)
        return
    timeouts = ", ".join(f"{name.removesuffix('_s')} {value:g} s" for name, value in found["timeouts"].items())
    session.output.facts(
        [
            ("name", found["name"]),
            ("id", found["id"]),
            ("base url", found["base_url"]),
            ("dialect", found["dialect"]),
            ("own", found["own"]),
            ("on hang-up", found["on_hangup"]),
            ("timeouts", timeouts),
            ("connections", f"at most {found['max_connections']}"),
            ("models listed", found["listed_models"]),
            ("created", when(found["created_at_ms"])),
            ("from", "configuration file" if found["origin"] == "file" else None),
        ]
    )
    session.output.line()
    columns = [("CREDENTIAL", "name"), ("KEY", "hint"), ("WEIGHT", "weight"), ("DISABLED", "disabled"), ("ID", "id")]
    session.output.table(columns, found["credentials"], empty="no credentials", right=("weight",), optional=("id",))


@provider.command()
@click.argument("ref", metavar="PROVIDER")
def test(ref: str) -> int:
    """Ask a provider for its models; exit 1 if it does not answer."""
    session = current()
    result = session.gateway.post(session.gateway.path_of("/providers", ref) + "/test")
    if session.json:
        session.output.data(result)
    else:
        state = session.output.state("ok" if result["ok"] else "fail")
        session.output.line(f"{state}  {ref}: {result['detail']}")
    return 0 if result["ok"] else 1


@provider.command()
@click.argument("ref", metavar="PROVIDER")
@click.option("--name", help="A new name.")
@click.option("--base-url", metavar="URL", help="A new address.")
@click.option("--dialect", help="What it speaks.")
@click.option("--own/--not-own", default=None, help="Own infrastructure or not.")
@click.option("--on-hangup", type=click.Choice(["cancel", "drain"]), help="What to do when a caller leaves.")
@click.option("--max-connections", type=click.IntRange(1, 65_535), help="Connections at once.")
def update(ref: str, **changes: Any) -> None:
    """Change what is given."""
    session = current()
    body = {member: value for member, value in changes.items() if value is not None}
    if not body:
        raise Failure("nothing to change: give at least one option (see: potluck provider update --help)", USAGE)
    changed = session.gateway.patch(session.gateway.path_of("/providers", ref), body)
    if session.json:
        session.output.data(changed)
    else:
        session.output.line(f"provider {changed['name']} is changed")


@provider.command()
@click.argument("ref", metavar="PROVIDER")
def remove(ref: str) -> None:
    """Remove a provider with its credentials."""
    session = current()
    session.gateway.delete(session.gateway.path_of("/providers", ref))
    if session.json:
        session.output.data({"removed": ref})
    else:
        session.output.line(f"provider {ref} is removed")
