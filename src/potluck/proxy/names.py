"""What a caller's model name stands for (`interfaces.md` §4, *Model names*), and who may use it.

Tried in order: a declared model or alias, exactly · the name of a route that names models, not only patterns · both
without a suffix `:cheapest`, `:fastest` or `:own` · what a provider offers, exactly · that without a suffix · a pin
`provider/upstream-model` or `node:NAME/model`. So no provider's list, and no machine's, takes a name away from somebody
who wrote it down. Another organisation's nodes do not exist: what a name stands for never has a target there, and what
nobody else offers is no name.
"""

import difflib

import msgspec

from potluck.model.resources import Route
from potluck.model.snapshot import CompiledKey, CompiledModel, Snapshot
from potluck.proxy.filters import like
from potluck.snapshot.cards import card_of_some
from potluck.wire.errors import RequestError

SUFFIXES = ("cheapest", "fastest", "own")


class Named(msgspec.Struct, frozen=True):
    """What a name stands for."""

    name: str
    """without its suffix"""
    models: tuple[CompiledModel, ...]
    """one, or those that a route names"""
    prefer: str | None = None
    """the suffix"""
    route: Route | None = None
    """the route that was named"""


def resolve(snapshot: Snapshot, name: str, organisation_id: str) -> Named | None:
    """The models behind `name` for an organisation's callers; None: there is no such name."""
    base, _, suffix = name.rpartition(":")
    for meant in (_declared, _offered):
        found = meant(snapshot, name, organisation_id)
        if found is not None:
            return found
        if suffix in SUFFIXES:
            found = meant(snapshot, base, organisation_id)
            if found is not None:
                return Named(base, found.models, suffix, found.route)
    pin = _seen(snapshot, snapshot.pins.get(name), organisation_id)
    return Named(name, (pin,)) if pin is not None else None


def model_of(snapshot: Snapshot, name: str, organisation_id: str) -> CompiledModel | None:
    """The one model behind a name for an organisation's callers: declared, alias, offered, or a pin."""
    found = _seen(snapshot, snapshot.models.get(name), organisation_id)
    return found or _seen(snapshot, snapshot.pins.get(name), organisation_id)


def _seen(snapshot: Snapshot, model: CompiledModel | None, organisation_id: str) -> CompiledModel | None:
    """The model without its targets on other organisations' nodes; None where nothing but they made its name."""
    if model is None or not snapshot.nodes:
        return model
    nodes = snapshot.nodes
    kept = []
    for target in model.targets:
        node = nodes.get(target.node.node_id) if target.node is not None else None
        if node is None or node.organisation_id == organisation_id:
            kept.append(target)
    if len(kept) == len(model.targets):
        return model
    if not kept and not model.declared:
        return None
    return msgspec.structs.replace(model, targets=tuple(kept), card=card_of_some(model, kept))


def _offered(snapshot: Snapshot, name: str, organisation_id: str) -> Named | None:
    model = _seen(snapshot, snapshot.models.get(name), organisation_id)
    return None if model is None else Named(name, (model,))


def _declared(snapshot: Snapshot, name: str, organisation_id: str) -> Named | None:
    model = snapshot.models.get(name)
    if model is not None and model.declared:
        return _offered(snapshot, name, organisation_id)
    for route in snapshot.routes:
        if route.name == name and within(route, organisation_id):
            found = _models_of(snapshot, route, organisation_id)
            return Named(name, found, None, route) if found else None
    return None


def _models_of(snapshot: Snapshot, route: Route, organisation_id: str) -> tuple[CompiledModel, ...]:
    models = [model_of(snapshot, each, organisation_id) for each in route.match.models]
    return tuple(each for each in models if each is not None)


def allowed(key: CompiledKey, name: str, alias_of: str = "") -> bool:
    """Whether the key may use a model by its public name, alias or pin; an alias is allowed with its model."""
    return key.models is None or name in key.models or alias_of in key.models


def within(route: Route, organisation_id: str) -> bool:
    """Whether the rule is an organisation's own, or everybody's; to others it does not exist."""
    return route.organisation_id in ("", organisation_id)


def takes(route: Route, key: CompiledKey) -> bool:
    """Whether the rule takes requests of the key, by its organisation, its project and its name."""
    match = route.match
    return (
        within(route, key.organisation_id)
        and any(like(pattern, key.project) for pattern in match.projects)
        and any(like(pattern, key.name) for pattern in match.keys)
    )


def models_for(snapshot: Snapshot, route: Route, key: CompiledKey) -> tuple[CompiledModel, ...]:
    """What the key gets by naming the rule as a model: those of its models that it may use; empty: nothing."""
    if not takes(route, key):
        return ()
    models = _models_of(snapshot, route, key.organisation_id)
    if key.models is None or route.name in key.models:
        return models
    return tuple(model for model in models if allowed(key, model.name, model.alias_of))


def known_to(snapshot: Snapshot, key: CompiledKey) -> tuple[list[CompiledModel], list[Route]]:
    """The models and the rules that the key may call by their names, without what a name that is written down hides."""
    models = snapshot.models
    written = {name for name, model in models.items() if model.declared}
    routes = [each for each in snapshot.routes if each.name not in written and within(each, key.organisation_id)]
    written |= {route.name for route in routes if _models_of(snapshot, route, key.organisation_id)}

    def hidden(name: str) -> bool:
        base, _, suffix = name.rpartition(":")
        return name in written or (suffix in SUFFIXES and base in written)

    return (
        [
            seen
            for name, model in models.items()
            if (model.declared or not hidden(name)) and allowed(key, name, model.alias_of)
            if (seen := _seen(snapshot, model, key.organisation_id)) is not None
        ],
        [route for route in routes if models_for(snapshot, route, key)],
    )


def not_found(snapshot: Snapshot, key: CompiledKey, name: str) -> RequestError:
    """The 404 for an unknown model, with near matches among those that the key may use."""
    models, routes = known_to(snapshot, key)
    names = [model.name for model in models] + [route.name for route in routes]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; GET /v1/models lists what there is"
    return RequestError("model_not_found", f"there is no model {name!r} here{hint}", param="model")


def not_allowed(name: str) -> RequestError:
    return RequestError("model_not_allowed", f"this API key may not use the model {name!r}", param="model")
