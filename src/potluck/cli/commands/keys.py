"""`potluck key create|list|show|own-devices|data-class|rotate|revoke`."""

from typing import Any

import click

from potluck.cli.output import when
from potluck.cli.session import Group, Session, current
from potluck.cli.times import length_s, moment_ms

DATA_CLASSES = ("open", "standard", "private")
OWN_DEVICES = ("off", "own_first", "own_only")
OWN_DEVICES_HELP = "The project's and the organisation's own nodes: own_first before others, own_only nothing else."


@click.group(cls=Group)
def key() -> None:
    """API keys, which callers of /v1 use."""


@key.command()
@click.argument("name")
@click.option("--project", help="Project that it belongs to.")
@click.option("--model", "models", multiple=True, help="A model it may use; several times for more. Default: all.")
@click.option("--tag", "tags", multiple=True, help="A tag for reports; several times for more.")
@click.option("--expires", metavar="WHEN", help="When it ends: 30d, 12h, 2030-01-31. Default: never.")
@click.option("--own-devices", type=click.Choice(OWN_DEVICES), help=OWN_DEVICES_HELP)
@click.option("--data-class", type=click.Choice(DATA_CLASSES), help="The most open one. Default: its project's.")
def create(
    name: str,
    project: str | None,
    models: tuple[str, ...],
    tags: tuple[str, ...],
    expires: str | None,
    own_devices: str | None,
    data_class: str | None,
) -> None:
    """Make a key and print its secret, once."""
    session = current()
    body: dict[str, Any] = {"name": name}
    if project:
        body["project"] = project
    if models:
        body["models"] = list(models)
    if tags:
        body["tags"] = list(tags)
    if expires:
        body["expires_at_ms"] = moment_ms(expires, ahead=True)
    if own_devices:
        body["own_device_priority"] = own_devices
    if data_class:
        body["data_class"] = data_class
    made = session.gateway.post("/keys", body)
    _print_secret(session, made, f"API key {made['name']} ({made['id']}), shown this once:")


@key.command("list")
@click.option("--all", "everything", is_flag=True, help="Revoked and expired keys too.")
def list_(everything: bool) -> None:
    """List keys, without their secrets."""
    session = current()
    keys = list(session.gateway.pages("/keys"))
    if not everything:
        keys = [each for each in keys if each["status"] == "active"]
    if session.json:
        session.output.data({"data": keys})
        return
    rows = [each | {"used": when(each["last_used_at_ms"]), "ends": when(each["expires_at_ms"])} for each in keys]
    columns = [("NAME", "name"), ("KEY", "hint"), ("PROJECT", "project"), ("MODELS", "models"), ("STATUS", "status")]
    columns += [("LAST USED", "used"), ("EXPIRES", "ends"), ("ID", "id")]
    optional = ("id", "ends", "used", "project", "models")
    session.output.table(columns, rows, empty="no keys: potluck key create NAME", optional=optional)


@key.command()
@click.argument("ref", metavar="KEY")
def show(ref: str) -> None:
    """Show a key, by name or id, without its secret."""
    session = current()
    found = session.gateway.get(session.gateway.path_of("/keys", ref))
    if session.json:
        session.output.data(found)
        return
    session.output.facts(
        [
            ("name", found["name"]),
            ("id", found["id"]),
            ("key", found["hint"]),
            ("status", found["status"]),
            ("project", found["project"]),
            ("models", found["models"] or "all"),
            ("tags", found["tags"]),
            ("own devices", found["own_device_priority"]),
            ("data class", found["data_class"] or "its project's"),
            ("created", when(found["created_at_ms"])),
            ("last used", when(found["last_used_at_ms"]) or "never"),
            ("expires", when(found["expires_at_ms"])),
            ("revoked", when(found["revoked_at_ms"])),
            ("old secret until", when(found["previous_until_ms"])),
            ("from", "configuration file" if found["origin"] == "file" else None),
        ]
    )


@key.command("own-devices")
@click.argument("ref", metavar="KEY")
@click.argument("priority", type=click.Choice(OWN_DEVICES))
def own_devices(ref: str, priority: str) -> None:
    """Set what a key does about its own devices: off like other targets, own_first before them, own_only nothing else.

    Its own devices are the nodes of its project, and those of the whole organisation.
    """
    session = current()
    body = {"own_device_priority": priority}
    changed = session.gateway.patch(session.gateway.path_of("/keys", ref), body)
    if session.json:
        session.output.data(changed)
    else:
        session.output.line(f"API key {changed['name']}: own devices {changed['own_device_priority']}")


@key.command("data-class")
@click.argument("ref", metavar="KEY")
@click.argument("data_class", metavar="CLASS", type=click.Choice([*DATA_CLASSES, "project"]))
def data_class(ref: str, data_class: str) -> None:
    """Set the most open data class of a key's requests: open, standard, private, or project for its project's.

    The stricter of the key's and its project's counts.
    """
    session = current()
    body = {"data_class": None if data_class == "project" else data_class}
    changed = session.gateway.patch(session.gateway.path_of("/keys", ref), body)
    if session.json:
        session.output.data(changed)
    else:
        session.output.line(f"API key {changed['name']}: data class {changed['data_class'] or 'of its project'}")


@key.command()
@click.argument("ref", metavar="KEY")
@click.option(
    "--overlap", metavar="TIME", default="0s", help="How long the old secret stays good: 1h, 7d. Default: 0s."
)
def rotate(ref: str, overlap: str) -> None:
    """Give a key a new secret and print it, once."""
    session = current()
    overlap_s = int(length_s(overlap))
    made = session.gateway.post(session.gateway.path_of("/keys", ref) + "/rotate", {"overlap_s": overlap_s})
    until = f"the old secret is good until {when(made['previous_until_ms'])}" if overlap_s else "the old secret is void"
    _print_secret(session, made, f"new secret of API key {made['name']}, shown this once ({until}):")


@key.command()
@click.argument("ref", metavar="KEY")
def revoke(ref: str) -> None:
    """End a key at once. Streams that already run finish."""
    session = current()
    ended = session.gateway.post(session.gateway.path_of("/keys", ref) + "/revoke")
    if session.json:
        session.output.data(ended)
    else:
        session.output.line(f"API key {ended['name']} ({ended['hint']}) is revoked")


def _print_secret(session: Session, made: dict[str, Any], title: str) -> None:
    if session.json:
        session.output.data(made)
        return
    session.output.warn(made.get("warnings", []))
    model = made["models"][0] if made["models"] else _some_model(session)
    session.output.line(title)
    session.output.line()
    session.output.line(made["secret"])
    session.output.line()
    session.output.line(f"curl {session.url}/v1/chat/completions \\")
    session.output.line(f'  -H "Authorization: Bearer {made["secret"]}" \\')
    session.output.line('  -H "Content-Type: application/json" \\')
    session.output.line(f"""  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'""")


def _some_model(session: Session) -> str:
    """A model that a first call can use now; `MODEL` when there is none."""
    for model in session.gateway.get("/snapshot")["models"]:
        if any(not target["unroutable"] and "chat" in target["capabilities"] for target in model["targets"]):
            return str(model["name"])
    return "MODEL"
