"""`potluck project create|list|remove`."""

import click

from potluck.cli.output import when
from potluck.cli.session import Group, current


@click.group(cls=Group)
def project() -> None:
    """Projects, which API keys belong to."""


@project.command()
@click.argument("name")
@click.option(
    "--data-class",
    type=click.Choice(["open", "standard", "private"]),
    default="standard",
    help="The most open class that its keys may use; private: own infrastructure only. Default: standard.",
)
def create(name: str, data_class: str) -> None:
    """Make a project."""
    session = current()
    made = session.gateway.post("/projects", {"name": name, "data_class": data_class})
    if session.json:
        session.output.data(made)
    else:
        session.output.line(
            f"project {made['name']} ({made['id']}) is made: potluck key create NAME --project {made['name']}"
        )


@project.command("list")
def list_() -> None:
    """List projects."""
    session = current()
    projects = list(session.gateway.pages("/projects"))
    if session.json:
        session.output.data({"data": projects})
        return
    rows = [each | {"made": when(each["created_at_ms"])} for each in projects]
    columns = [("NAME", "name"), ("DATA CLASS", "data_class"), ("CREATED", "made"), ("ID", "id")]
    session.output.table(columns, rows, empty="no projects: potluck project create NAME", optional=("id",))


@project.command()
@click.argument("ref", metavar="PROJECT")
def remove(ref: str) -> None:
    """Remove a project that has no keys."""
    session = current()
    session.gateway.delete(session.gateway.path_of("/projects", ref))
    if session.json:
        session.output.data({"removed": ref})
    else:
        session.output.line(f"project {ref} is removed")
