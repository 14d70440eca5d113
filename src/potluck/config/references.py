"""What the objects of a text refer to by name, each with its place, before anybody knows whether it is there.

Rule: a list of these is all that is known without a gateway; `admin` looks them up in the store as well.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec

from potluck.config.reading import Draft, Place
from potluck.config.routing import KINDS
from potluck.model.node import NODE_PREFIX

Kind = Literal[
    "target",
    "node",
    "project",
    "models of a key",
    "fallback",
    "filter",
    "matched model",
    "matched project",
    "matched key",
]
_ROUTE_MEMBERS: dict[tuple[object, ...], Kind] = {
    ("match", "models"): "matched model",
    ("match", "projects"): "matched project",
    ("match", "keys"): "matched key",
    ("constraints", "only"): "filter",
    ("constraints", "ignore"): "filter",
    ("fallback",): "fallback",
}
_ALWAYS_THERE = {"project": {"default"}, "key": {"first"}, "provider": {"local"}}
"""what a new gateway has by itself"""


class Reference(msgspec.Struct, frozen=True):
    """One name, no pattern. `route` and `member`: where, when it stands in a route (`match.keys`)."""

    at: Place
    kind: Kind
    name: str
    route: str = ""
    member: str = ""


def references(draft: Draft) -> Iterator[Reference]:
    """All of them in the sound parts of a text, in its order, without those that are at fault by themselves."""
    routes = draft.names("routes")
    for at, value in draft.values.items():
        name = str(value)
        match at:
            case ("models", _, "targets", _, "target"):
                provider, _, upstream_model = name.partition("/")
                if provider and upstream_model:
                    yield Reference(at, "node" if provider.startswith(NODE_PREFIX) else "target", name)
            case ("keys", _, "project"):
                yield Reference(at, "project", name)
            case ("keys", _, "models", _):
                yield Reference(at, "models of a key", name)
            case ("routes", index, *path, int()) if tuple(path) in _ROUTE_MEMBERS and "*" not in name:
                route = routes.get(("routes", index, "name"), "")
                yield Reference(at, _ROUTE_MEMBERS[tuple(path)], name, route, ".".join(map(str, path)))


def missing(draft: Draft) -> list[tuple[Place, str]]:
    """What the text refers to and neither has nor every gateway has: it must be in the gateway already."""
    here = {kind: set(draft.names(f"{kind}s").values()) | more for kind, more in _ALWAYS_THERE.items()}
    found: list[tuple[Place, str]] = []
    for each in references(draft):
        provider, _, upstream_model = each.name.partition("/")
        if provider.startswith(NODE_PREFIX):
            continue  # a node enrols when its machine is there
        match each.kind:
            case "target":
                kind, name = "provider", provider
            case "filter":
                kind, name = "provider", "" if each.name in KINDS else provider
            case "fallback":
                # a bare name may be one that a provider lists
                kind, name = "provider", provider if upstream_model else ""
            case "project" | "matched project":
                kind, name = "project", each.name
            case "matched key":
                kind, name = "key", each.name
            case _:
                continue
        if name and name not in here[kind]:
            found.append((each.at, f"there is no {kind} {name!r} in this file: the gateway must have it"))
    return found
