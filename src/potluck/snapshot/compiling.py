"""Rows → compiled keys, targets and models. Generators: each `yield` is a place where the loop may do other work."""

import time
from collections.abc import Generator, Iterable, Mapping

import msgspec

from potluck.model.node import NODE_PREFIX
from potluck.model.price import Price
from potluck.model.resources import OPENNESS, Model, Target
from potluck.model.snapshot import CompiledKey, CompiledModel, CompiledTarget
from potluck.snapshot.cards import alias_card, model_card, renamed_card
from potluck.snapshot.nodes import NodePart, meant
from potluck.snapshot.parts import Part
from potluck.snapshot.rows import KeyRow, RawRow, key_of

UNITS_PER_STEP = 64
"""how many targets or keys are compiled between two yields: well under a millisecond"""
PER_MODEL = 4
"""what a model and its card cost, counted in targets"""

PRIVATE_WEIGHTS = "its weights are private: own infrastructure only"

Models = dict[str, CompiledModel]


def compile_key(row: KeyRow, now_ms: int) -> dict[bytes, CompiledKey]:
    """A key under its hash, and under its previous one while that overlaps; nothing when it has expired."""
    expires_s = float("inf") if row.expires_at_ms is None else row.expires_at_ms / 1000
    found = {}
    if expires_s * 1000 > now_ms:
        found[row.hash] = _key(row, expires_s)
    until_ms = row.previous_until_ms or 0
    if row.previous_hash is not None and min(until_ms, expires_s * 1000) > now_ms:
        found[row.previous_hash] = _key(row, min(until_ms / 1000, expires_s))
    return found


def compile_keys(
    rows: Iterable[RawRow], keys: dict[bytes, CompiledKey], hashes: dict[str, tuple[bytes, ...]]
) -> Generator[None]:
    """Add the rows to `keys`, and to `hashes` under which hashes each stands there."""
    now_ms = int(time.time() * 1000)
    for count, raw in enumerate(rows):
        row = key_of(raw)
        found = compile_key(row, now_ms)
        if found:
            keys.update(found)
            hashes[row.id] = tuple(found)
        if count % UNITS_PER_STEP == 0:
            yield


def compile_pins(part: Part, overrides: Mapping[str, Price]) -> Generator[None, None, Models]:
    """`provider/upstream-model` → a model of that one place, for all that the part offers."""
    pins: Models = {}
    made = 0
    for upstream_model, offer in part.offers.items():
        targets = part.places(upstream_model, upstream_model, overrides)
        name = f"{part.name}/{upstream_model}"
        pins[name] = compile_model(name, part.created_at_ms, targets, offer.context_tokens)
        made += PER_MODEL + len(targets)
        if made >= UNITS_PER_STEP:
            made = 0
            yield
    return pins


def pin_declared(declared: Models, pins: Models, parts: Mapping[str, Part]) -> Generator[None, None, None]:
    """Add to `pins` the places that a declared model names and no provider lists, or lists without what a call needs.

    A listed place that has no price of its own is pinned at the price that it was declared with.
    """
    for count, model in enumerate(declared.values()):
        fresh: dict[str, list[CompiledTarget]] = {}
        for target in model.targets:
            pin = pins.get(target.name)
            if pin is None or (pin.targets[0].unroutable and not target.unroutable):
                fresh.setdefault(target.name, []).append(target)
        for name, targets in fresh.items():
            created_at_ms = parts[targets[0].provider_id].created_at_ms
            pins[name] = compile_model(name, created_at_ms, targets, None)
        if count % UNITS_PER_STEP == 0:
            yield


def compile_declared(
    models: Iterable[Model],
    targets: Mapping[str, list[Target]],
    parts: Mapping[str, Part],
    overrides: Mapping[str, Price],
) -> Generator[None, None, Models]:
    """The models that somebody declared, by public name, in listing order."""
    declared: Models = {}
    made = 0
    nodes = [part for part in parts.values() if isinstance(part, NodePart)]
    for model in models:
        places: list[CompiledTarget] = []
        contexts = []
        wanted = targets.get(model.id, ())
        on_nodes = meant(nodes, wanted)
        for target in wanted:
            # a provider that is not here: the built-in one of a gateway that runs without it
            named: list[Part] = [*on_nodes.get(target.id, ())]
            if target.provider_id in parts:
                named.append(parts[target.provider_id])
            for part in named:
                barred = "" if model.placement == "any" or part.own else PRIVATE_WEIGHTS
                fresh = part.places(target.upstream_model, model.name, overrides, target, barred)
                places += fresh
                offer = part.offer(target.upstream_model)
                contexts.append(target.context_tokens or (offer.context_tokens if offer is not None else None))
                made += 1 + len(fresh)
                if made >= UNITS_PER_STEP:
                    made = 0
                    yield
        # one whose nodes are still to come is there, and says so when it is called
        if places or on_nodes:
            known = [context for context in contexts if context is not None]
            context_tokens = min(known, default=None)
            declared[model.name] = compile_model(model.name, model.created_at_ms, places, context_tokens, declared=True)
            made += PER_MODEL
    return declared


def with_aliases(
    models: Iterable[Model], declared: Models, taken: Mapping[str, CompiledModel]
) -> Generator[None, None, Models]:
    """The declared models, then their aliases. An alias that is a declared name or `taken` by a pin is left out."""
    named = dict(declared)
    made = 0
    for model in models:
        meant = declared.get(model.name)
        if meant is None or not model.aliases:
            continue
        for alias in model.aliases:
            if alias not in named and alias not in taken:
                card = alias_card(model.name, alias, meant.card)
                named[alias] = CompiledModel(alias, meant.targets, card, model.name, declared=True)
        made += PER_MODEL + len(model.aliases)
        if made >= UNITS_PER_STEP:
            made = 0
            yield
    return named


def merge_names(
    named: Models,
    pins: Mapping[str, Models],
    taken: Mapping[str, CompiledModel],
    parts: Mapping[str, Part],
) -> Generator[None, None, Models]:
    """Public names in listing order: the `named` ones, then every upstream name that is offered and free.

    A name that several parts offer has a target at each, those of the older one first; `pins` has them by age. A name
    that reads as a pin stays a pin: `taken` holds them all. What a node calls its model is its own word: there a name
    that begins as a part's pins do is none, though that part lists no such model.
    """
    models = dict(named)
    begins = {part.name for part in parts.values()}
    offered: dict[str, list[tuple[Part, CompiledModel]]] = {}
    for part_id, each in pins.items():
        part = parts[part_id]
        if part.tier is None:
            continue
        start = len(part.name) + 1
        for pin, model in each.items():
            name = pin[start:]
            if part.name.startswith(NODE_PREFIX) and "/" in name and name.partition("/")[0] in begins:
                continue
            if name not in named and name not in taken:
                offered.setdefault(name, []).append((part, model))
        yield
    made = 0
    for name, places in offered.items():
        models[name] = yield from merge_places(name, places)
        made += PER_MODEL + len(places)
        if made >= UNITS_PER_STEP:
            made = 0
            yield
    return models


def merge_places(name: str, places: list[tuple[Part, CompiledModel]]) -> Generator[None, None, CompiledModel]:
    """One model under `name` from one-place models, those of one tier side by side, all of equal weight."""
    if len(places) == 1:
        _, only = places[0]
        return CompiledModel(name, only.targets, renamed_card(only.card, only.name, name))
    tiers: dict[str | None, list[CompiledTarget]] = {}
    contexts = []
    for count, (part, model) in enumerate(places):
        tier = tiers.setdefault(part.tier, [])
        number = list(tiers).index(part.tier)
        tier += [msgspec.structs.replace(target, priority=number) for target in model.targets]
        offer = part.offer(name)
        contexts.append(None if offer is None else offer.context_tokens)
        if count % UNITS_PER_STEP == UNITS_PER_STEP - 1:
            yield
    created_at_ms = min(part.created_at_ms for part, _ in places)
    targets = [target for tier in tiers.values() for target in tier]
    context_tokens = min([each for each in contexts if each is not None], default=None)
    return compile_model(name, created_at_ms, targets, context_tokens)


def compile_model(
    name: str,
    created_at_ms: int,
    targets: Iterable[CompiledTarget],
    context_tokens: int | None,
    *,
    declared: bool = False,
) -> CompiledModel:
    """A public model with its card."""
    targets = tuple(targets)
    return CompiledModel(name, targets, model_card(name, created_at_ms, targets, context_tokens), declared=declared)


def _key(row: KeyRow, expires_s: float) -> CompiledKey:
    data_class = min(row.data_class, row.own_class or row.data_class, key=OPENNESS.__getitem__)
    as_its_project = not row.models and row.own_devices == "off" and data_class == row.data_class
    return CompiledKey(
        id=row.id,
        name=row.name,
        organisation_id=row.organisation_id,
        project_id=row.project_id,
        project=row.project,
        data_class=data_class,
        models=frozenset(row.models) if row.models else None,
        tags=row.tags,
        expires_at_s=expires_s,
        created_at_ms=row.created_at_ms,
        model_order=row.models,
        own_devices=row.own_devices,
        scope=row.project_id if as_its_project else row.id,
    )
