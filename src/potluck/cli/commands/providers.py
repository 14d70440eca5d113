"""`potluck provider add|list|show|test|update|remove`."""

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from potluck.cli.failure import USAGE, Failure
from potluck.cli.number import Number
from potluck.cli.output import when
from potluck.cli.secrets_in import read_secret
from potluck.cli.session import Group, current
from potluck.model.resources import AssistantPrefix

F = TypeVar("F", bound=Callable[..., Any])
AUTO = "auto"


class _Every(click.ParamType[Any]):
    """A number of seconds, or `off`."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "off" else Number(10, 86_400).convert(value, param, ctx)


def _continuing_and_probing(command: F) -> F:
    """The options of `add` and `update` for what a provider can go on from, and for active health checks."""
    for option in reversed(
        [
            click.option(
                "--assistant-prefix",
                type=click.Choice([AUTO, *get_args(AssistantPrefix)]),
                help="How it goes on from text that is already there. auto: what is known of its host.",
            ),
            click.option("--probe-every", type=_Every(), metavar="SECONDS|off", help="Check its health actively."),
            click.option("--probe-model", metavar="MODEL", help="Check with a short completion of this model too."),
            click.option(
                "--probe-budget",
                type=Number(0, 1_000_000),
                metavar="USD",
                help="What that may cost a day.",
            ),
        ]
    ):
        command = option(command)
    return command


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
@_continuing_and_probing
def add(
    name: str,
    base_url: str,
    dialect: str | None,
    key_env: str | None,
    key_stdin: bool,
    own: bool,
    on_hangup: str | None,
    **more: Any,
) -> None:
    """Add a provider, with its key if it has one."""
    session = current()
    key = read_secret(session, key_env, key_stdin)
    body: dict[str, Any] = {"name": name, "base_url": base_url, "own": own}
    body |= {member: value for member, value in (("dialect", dialect), ("on_hangup", on_hangup)) if value}
    body |= {member: value for member, value in _more(more).items() if value is not None}
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
            ("assistant prefix", found["assistant_prefix"]),
            ("probes", _probes(found["probe"])),
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
@_continuing_and_probing
def update(ref: str, **changes: Any) -> None:
    """Change what is given."""
    session = current()
    body = _more(changes)
    body |= {member: value for member, value in changes.items() if value is not None}
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


def _more(options: dict[str, Any]) -> dict[str, Any]:
    """Takes `_continuing_and_probing`'s options out; returns the members that they stand for, null: taken away."""
    prefix, every = options.pop("assistant_prefix"), options.pop("probe_every")
    probe = {"every_s": every, "model": options.pop("probe_model"), "budget_usd_per_day": options.pop("probe_budget")}
    probe = {member: value for member, value in probe.items() if value is not None}
    body: dict[str, Any] = {}
    if prefix is not None:
        body["assistant_prefix"] = None if prefix == AUTO else prefix
    if every == "off":
        body["probe"] = None
    elif probe:
        body["probe"] = probe
    return body


def _probes(probe: dict[str, Any] | None) -> str | None:
    if probe is None:
        return None
    paid = f", with {probe['model']} for at most ${probe['budget_usd_per_day']:g} a day" if probe["model"] else ""
    return f"every {probe['every_s']:g} s{paid}"
