"""Projects: what keys belong to, and the most open class of data that these may use."""

from potluck.admin.operations import nodes
from potluck.admin.operations.names import names_kept
from potluck.admin.operations.views import ProjectView, project_view
from potluck.admin.operations.work import Work
from potluck.model.ids import new_id
from potluck.model.resources import DataClass
from potluck.store import tables as t

DEFAULT_PROJECT = "default"


def create_project(work: Work, name: str, *, data_class: DataClass = "standard") -> ProjectView:
    """Raises 409 when the name is taken."""
    taken = f"there is a project {name!r} already: choose another name"
    row = work.insert(t.projects, taken, id=new_id("prj"), name=name, data_class=data_class)
    work.audit("project.create", row["id"], name, data_class=data_class)
    return project_view(row)


def update_project(
    work: Work, ref: str, *, name: str | None = None, data_class: DataClass | None = None
) -> ProjectView:
    """Change what is given; its keys follow at once. Raises 404, 409."""
    row = work.find(t.projects, "project", ref)
    work.check_writable("project", row)
    with names_kept(work):
        changed = work.update(
            t.projects,
            row,
            f"there is a project {name!r} already: choose another name",
            name=row["name"] if name is None else name,
            data_class=row["data_class"] if data_class is None else data_class,
        )
    if changed is not row:
        live = t.api_keys.select().where(t.api_keys.c.project_id == row["id"], t.api_keys.c.revoked_at_ms.is_(None))
        work.touch(keys=[key["id"] for key in work.rows(live)])
        if changed["name"] != row["name"]:
            nodes.follow_project(work, row["name"], changed["name"])
        work.audit("project.update", row["id"], changed["name"], data_class=changed["data_class"])
    return project_view(changed)


def delete_project(work: Work, ref: str) -> None:
    """Raises 404, and 409 while keys (revoked ones too: usage refers to them) or nodes belong to it, or may yet."""
    row = work.find(t.projects, "project", ref)
    work.check_writable("project", row)
    nodes.check_unowned(work, row["name"])
    with names_kept(work):
        work.delete(t.projects, row, f"project {row['name']!r} has keys: their usage refers to it, so it stays")
    work.audit("project.delete", row["id"], row["name"])


def show_project(work: Work, ref: str) -> ProjectView:
    return project_view(work.find(t.projects, "project", ref))
