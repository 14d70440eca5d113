"""The names that callers use: models, their aliases and routes share one space, and fallbacks lead somewhere in it.

Rule: after every operation each name has one holder, and no route falls back to something that the operation took away.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property

import msgspec
import sqlalchemy as sa

from potluck.admin.errors import OperationError, conflict
from potluck.admin.first_start import LOCAL_MODEL
from potluck.admin.operations.work import Work
from potluck.catalog import catalog
from potluck.config.forms import near
from potluck.store import tables as t

_TEXTS = msgspec.json.Decoder(tuple[str, ...])
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


class PublicNames:
    """What the names of the work's organisation are and lead to, as the store has it now."""

    def __init__(self, work: Work) -> None:
        def all_of(table: sa.Table) -> list[sa.RowMapping]:
            mine = table.c.organisation_id == work.organisation_id
            return work.rows(sa.select(table).where(mine).order_by(table.c.created_at_ms, table.c.id))

        self._work = work
        models = all_of(t.models)
        self.models = {str(row["name"]) for row in models}
        self.aliases = [(str(row["name"]), alias) for row in models for alias in _TEXTS.decode(row["aliases"])]
        """(model, alias)"""
        self.fallbacks: dict[str, tuple[str, ...]] = {
            str(row["name"]): _TEXTS.decode(row["fallback"]) for row in all_of(t.routes)
        }
        """of each route, by its name"""
        self.providers = {str(row["name"]): str(row["base_url"]) for row in all_of(t.providers)}

    @cached_property
    def declared(self) -> set[str]:
        """Declared models and their aliases."""
        return self.models | {alias for _, alias in self.aliases}

    @cached_property
    def offered(self) -> set[str]:
        """What providers have by their own list or the catalogue, and the built-in model."""
        listed, providers = t.provider_models, t.providers
        named = sa.select(listed.c.name).join(providers, providers.c.id == listed.c.provider_id)
        rows = self._work.rows(named.where(providers.c.organisation_id == self._work.organisation_id))
        known = {name for base_url in self.providers.values() for name in catalog().models_of(base_url)}
        return {str(row["name"]) for row in rows} | known | {LOCAL_MODEL}

    def clashes(self) -> Iterator[Broken]:
        """Each name that has two holders."""
        holders = dict.fromkeys(self.models, "a model")
        named = [("model", model, alias, f"an alias of model {model!r}") for model, alias in self.aliases]
        named += [("route", route, route, "a route") for route in self.fallbacks]
        for kind, owner, name, what in named:
            if name in holders:
                both = f"{holders[name]} and {what}" if holders[name] != what else f"{what} twice"
                yield Broken(kind, owner, name, "already_exists", f"{name!r} would be {both}: choose another name")
            holders.setdefault(name, what)

    def leading(self) -> set[tuple[str, str]]:
        """(route, fallback) of those that lead somewhere."""
        return {(route, each) for route, them in self.fallbacks.items() for each in them if not self.astray(each)}

    def astray(self, fallback: str) -> str:
        """Why a route cannot fall back to that; an empty text when it can."""
        if "*" in fallback or fallback in self.declared:
            return ""
        provider, _, upstream_model = fallback.partition("/")
        if provider.startswith("node:"):
            return "nodes are not in this version of Potluck yet: remove it, or write a pattern such as node:*"
        if (upstream_model and provider in self.providers) or fallback in self.offered:
            return ""
        if fallback in self.fallbacks:
            return f"{fallback!r} is a route: a fallback is a model, alias, provider/model or pattern with *"
        if upstream_model:
            return f"there is no provider {provider!r}{nearest(provider, self.providers)}"
        said = f"{fallback!r} names no model, alias, provider/model or pattern with *"
        return said + nearest(fallback, self.declared, self.offered)


@contextmanager
def names_kept(work: Work) -> Iterator[None]:
    """Models, aliases, routes or providers change inside. Raises 409 when a name then has two holders, or a route is
    left with a fallback to something that is gone. A file's names are looked at once all of it is in place."""
    if work.actor.origin == "file":
        yield
        return
    led = PublicNames(work).leading()
    yield
    for each in broken(work, led):
        raise conflict(each.detail, each.code)


def broken(work: Work, led: set[tuple[str, str]]) -> list[Broken]:
    """What is wrong with the names now; `led`: what `PublicNames.leading` was before."""
    now = PublicNames(work)
    lost = led - now.leading()
    return [
        *now.clashes(),
        *(
            Broken("route", route, each, "in_use", f"route {route!r} falls back to {each!r}: change that route first")
            for route, them in now.fallbacks.items()
            for each in them
            if (route, each) in lost
        ),
    ]


def check_fallbacks(work: Work, fallbacks: Iterable[str]) -> None:
    """Raises 404 when one leads nowhere."""
    if not (wanted := list(fallbacks)):
        return
    names = PublicNames(work)
    for each in wanted:
        if wrong := names.astray(each):
            raise OperationError(404, "not_found", wrong, where="fallback")


def check_aliases(work: Work, aliases: Iterable[str]) -> None:
    """Raises 409 for an alias that would hide a pin: `provider/model` of a provider that there is."""
    for alias in aliases:
        provider, slash, _ = alias.partition("/")
        if slash and provider in PublicNames(work).providers:
            detail = f"the alias {alias!r} would hide that model of provider {provider!r}: choose another"
            raise OperationError(409, "conflict", detail, where="aliases")


def nearest(name: str, known: Iterable[str], more: Iterable[str] = ()) -> str:
    """`; did you mean 'small'?`, from `known` or `more`; when none is near, some of `known`."""
    known = sorted(known)
    said = near(name, [*known, *sorted(more)])
    if not said.startswith(" (known"):
        return said
    rest = ", …" if len(known) > MOST_NAMED else ""
    return f" (known: {', '.join(known[:MOST_NAMED]) or 'none'}{rest})"
