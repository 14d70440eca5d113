"""The names that callers use, and what routes and keys name: models, aliases and routes share one space.

Rule: after every operation each name has one holder, and no route names something that the operation took away. What
only narrows (a rule for models, a key's list of them) may name what is not there yet: that is a warning.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property

import msgspec
import sqlalchemy as sa

from potluck.admin.errors import OperationError, conflict, invalid
from potluck.admin.first_start import LOCAL_MODEL
from potluck.admin.operations.target_rows import ALL_TARGETS, place_of_target
from potluck.admin.operations.work import Work
from potluck.catalog import catalog
from potluck.config.forms import near
from potluck.config.routing import KINDS
from potluck.model.node import NODE_PREFIX, Offer
from potluck.model.resources import RouteConstraints, RouteMatch
from potluck.store import tables as t

_TEXTS = msgspec.json.Decoder(tuple[str, ...])
_MATCH = msgspec.json.Decoder(RouteMatch)
_OFFER = msgspec.json.Decoder(Offer)
_CONSTRAINTS = msgspec.json.Decoder(RouteConstraints)
MOST_NAMED = 12
"""how many names a message lists when none is near"""


class Broken(msgspec.Struct, frozen=True):
    """What an operation must not leave behind. `kind` and `name`: the object that stands in the way.

    `about`: the public name that has two holders, or is gone.
    """

    kind: str
    name: str
    about: str
    code: str
    detail: str


class Mention(msgspec.Struct, frozen=True):
    """A name, no pattern, that a route holds. `member`: `fallback`, `match.keys`, `constraints.only`, …"""

    route: str
    member: str
    name: str

    def __str__(self) -> str:
        if self.member == "fallback":
            return f"route {self.route!r} falls back to {self.name!r}"
        return f"route {self.route!r} names {self.name!r} in `{self.member}`"


class PublicNames:
    """What the names of the work's organisation are and lead to, as the store has it now."""

    def __init__(self, work: Work) -> None:
        def all_of(table: sa.Table | sa.Subquery) -> list[sa.RowMapping]:
            mine = table.c.organisation_id == work.organisation_id
            return work.rows(sa.select(table).where(mine).order_by(table.c.created_at_ms, table.c.id))

        self._work = work
        models = all_of(t.models)
        self.models = {str(row["name"]) for row in models}
        self.aliases = [(str(row["name"]), alias) for row in models for alias in _TEXTS.decode(row["aliases"])]
        """(model, alias)"""
        routes = all_of(t.routes)
        self.routes = {str(row["name"]) for row in routes}
        self.mentions = {each for row in routes for each in _mentions(row)}
        providers = all_of(t.providers)
        self.providers = {str(row["name"]): str(row["base_url"]) for row in providers}
        names = {row["id"]: row["name"] for row in providers}
        self.targets = {f"{place_of_target(row, names)}/{row['upstream_model']}" for row in all_of(ALL_TARGETS)}
        """declared ones"""
        self.nodes = {str(row["name"]): row for row in all_of(t.nodes) if row["revoked_at_ms"] is None}
        self.projects = {str(row["name"]) for row in all_of(t.projects)}
        self.keys = {str(row["name"]) for row in all_of(t.api_keys) if row["revoked_at_ms"] is None}

    @cached_property
    def declared(self) -> set[str]:
        """Declared models and their aliases."""
        return self.models | {alias for _, alias in self.aliases}

    @cached_property
    def offered(self) -> set[str]:
        """What providers have by their own list or the catalogue, own nodes offer, and the built-in model."""
        listed = {name for names in self.listed.values() for name in names}
        known = {name for base_url in self.providers.values() for name in catalog().models_of(base_url)}
        on_nodes = {
            model.name
            for row in self.nodes.values()
            if row["state"] == "approved" and not row["community"]
            for model in _OFFER.decode(row["offer"]).models
        }
        return listed | known | on_nodes | {LOCAL_MODEL}

    @cached_property
    def listed(self) -> dict[str, set[str]]:
        """By provider, what its own list names; those that have not named anything are left out."""
        models, providers = t.provider_models, t.providers
        named = sa.select(providers.c.name.label("provider"), models.c.name)
        named = named.join(providers, providers.c.id == models.c.provider_id)
        found: dict[str, set[str]] = {}
        for row in self._work.rows(named.where(providers.c.organisation_id == self._work.organisation_id)):
            found.setdefault(str(row["provider"]), set()).add(str(row["name"]))
        return found

    def clashes(self) -> Iterator[Broken]:
        """Each name that has two holders."""
        holders = dict.fromkeys(self.models, "a model")
        named = [("model", model, alias, f"an alias of model {model!r}") for model, alias in self.aliases]
        named += [("route", route, route, "a route") for route in sorted(self.routes)]
        for kind, owner, name, what in named:
            if name in holders:
                both = f"{holders[name]} and {what}" if holders[name] != what else f"{what} twice"
                yield Broken(kind, owner, name, "already_exists", f"{name!r} would be {both}: choose another name")
            holders.setdefault(name, what)

    def leading(self) -> set[Mention]:
        """What routes name and what is there."""
        return {each for each in self.mentions if self._leads(each)}

    def _leads(self, mention: Mention) -> bool:
        name = mention.name
        if self.to_come(name):
            return False
        match mention.member:
            case "fallback":
                return not self.astray(name)
            case "match.models":
                return name in self.declared or self.pins(name)
            case "match.projects":
                return name in self.projects
            case "match.keys":
                return name in self.keys
            case _:
                return not self.foreign(name)

    def pins(self, name: str) -> bool:
        """Whether it reads as `provider/model` of a provider or node that there is."""
        place, _, upstream_model = name.partition("/")
        known = self.nodes if place.startswith(NODE_PREFIX) else self.providers
        return bool(upstream_model) and place.removeprefix(NODE_PREFIX) in known

    def to_come(self, name: str) -> str:
        """Why a target or node by that name means nothing now, and may later; an empty text: it means something."""
        place = name.partition("/")[0]
        node = place.removeprefix(NODE_PREFIX)
        if "*" in name or node == place or node in self.nodes:
            return ""
        return f"no node {node!r} has enrolled{nearest(node, self.nodes)}"

    def foreign(self, entry: str) -> str:
        """Why an entry of `only` or `ignore` means no target; an empty text when it means some."""
        if "*" in entry or entry in KINDS or entry in self.providers:
            return ""
        provider, _, upstream_model = entry.partition("/")
        if provider.startswith(NODE_PREFIX):
            return ""  # a node may come later
        if self.pins(entry):
            # one that has not named its models yet may have any
            known = self.listed.get(provider, set())
            if not known or upstream_model in known or entry in self.targets:
                return ""
            known = known | set(catalog().models_of(self.providers[provider]))
            if upstream_model in known:
                return ""
            return f"provider {provider!r} has no model {upstream_model!r}{nearest(upstream_model, known)}"
        said = f"{entry!r} is no kind ({', '.join(KINDS)}), provider, target (provider/model) or pattern with *"
        return said + nearest(entry, self.providers, (*KINDS, *self.targets))

    def unmatched(self, model: str) -> str:
        """Why a rule for that model takes no request now; an empty text when it may take some."""
        if "*" in model or model in self.declared or self.pins(model) or model in self.offered:
            return ""
        if model in self.routes:
            return f"{model!r} is a route: a rule takes requests by the name of a model or alias"
        return f"no model is called {model!r} now{nearest(model, self.declared, self.offered)}"

    def unused(self, model: str) -> str:
        """Why a key can use nothing under a name of its list now; an empty text when it can."""
        if "*" in model and model not in self.declared | self.offered:
            return f"{model!r} is taken as a name, letter by letter: a key's list of models has no patterns"
        if model in self.routes:
            return ""
        return self.unmatched(model)

    def astray(self, fallback: str) -> str:
        """Why a route cannot fall back to that; an empty text when it can."""
        if "*" in fallback or fallback in self.declared:
            return ""
        provider, _, upstream_model = fallback.partition("/")
        if provider.startswith(NODE_PREFIX) and upstream_model:
            return ""  # a node may come later
        if self.pins(fallback) or fallback in self.offered:
            return ""
        if fallback in self.routes:
            return f"{fallback!r} is a route: a fallback is a model, alias, provider/model or pattern with *"
        if upstream_model:
            return f"there is no provider {provider!r}{nearest(provider, self.providers)}"
        said = f"{fallback!r} names no model, alias, provider/model or pattern with *"
        return said + nearest(fallback, self.declared, self.offered)


@contextmanager
def names_kept(work: Work) -> Iterator[None]:
    """Models, aliases, routes, providers, projects or keys change inside. Raises 409 when a name then has two holders,
    or a route is left naming something that is gone. A file's names are looked at once all of it is in place."""
    if work.actor.origin == "file":
        yield
        return
    led = PublicNames(work).leading()
    yield
    for each in broken(work, led):
        raise conflict(each.detail, each.code)


def broken(work: Work, led: set[Mention]) -> list[Broken]:
    """What is wrong with the names now; `led`: what `PublicNames.leading` was before."""
    now = PublicNames(work)
    lost = sorted((led - now.leading()) & now.mentions, key=str)
    return [
        *now.clashes(),
        *(Broken("route", each.route, each.name, "in_use", f"{each}: change that route first") for each in lost),
    ]


def _mentions(row: sa.RowMapping) -> Iterator[Mention]:
    match, constraints = _MATCH.decode(row["match"]), _CONSTRAINTS.decode(row["constraints"])
    held = {
        "match.models": match.models,
        "match.projects": match.projects,
        "match.keys": match.keys,
        "constraints.only": constraints.only or (),
        "constraints.ignore": constraints.ignore or (),
        "fallback": _TEXTS.decode(row["fallback"]),
    }
    for member, names in held.items():
        for name in names:
            if "*" not in name:
                yield Mention(str(row["name"]), member, name)


def check_fallbacks(work: Work, fallbacks: Iterable[str]) -> None:
    """Raises 404 when one leads nowhere."""
    if not (wanted := list(fallbacks)):
        return
    names = PublicNames(work)
    for each in wanted:
        if wrong := names.astray(each):
            raise OperationError(404, "not_found", wrong, where="fallback")


def check_filters(work: Work, member: str, entries: Iterable[str]) -> None:
    """Raises 400 when an entry of `only` or `ignore` means no target."""
    if not (wanted := list(entries)):
        return
    names = PublicNames(work)
    for each in wanted:
        if wrong := names.foreign(each):
            raise invalid(f"constraints.{member}", wrong)


def check_aliases(work: Work, aliases: Iterable[str]) -> None:
    """Raises 409 for an alias that would hide a pin: `provider/model` of a provider that there is, or of any node."""
    if not (wanted := [each for each in aliases if "/" in each]):
        return
    providers = PublicNames(work).providers
    for alias in wanted:
        provider = alias.partition("/")[0]
        if provider in providers or provider.startswith(NODE_PREFIX):
            what = f"provider {provider!r}" if provider in providers else "a node"
            detail = f"the alias {alias!r} would hide that model of {what}: choose another"
            raise OperationError(409, "conflict", detail, where="aliases")


def nearest(name: str, known: Iterable[str], more: Iterable[str] = ()) -> str:
    """`; did you mean 'small'?`, from `known` or `more`; when none is near, some of `known`."""
    known = sorted(known)
    said = near(name, [*known, *sorted(more)])
    if not said.startswith(" (known"):
        return said
    rest = ", …" if len(known) > MOST_NAMED else ""
    return f" (known: {', '.join(known[:MOST_NAMED]) or 'none'}{rest})"
