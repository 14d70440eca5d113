"""The dated price table: read lazily, validated whole, kept small.

At the first question the whole file is decoded once and thrown away, which proves it; after that only its text is kept,
and a provider's part is decoded when somebody asks for that provider.
"""

import re
from functools import lru_cache
from importlib.resources import files
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from potluck.catalog.matching import Matcher, Rule, dashed_date
from potluck.model.price import Price, PriceTier
from potluck.model.resources import Capability

FORMAT = 1

_Rate = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
_Count = Annotated[int, msgspec.Meta(gt=0, le=10**9)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class CatalogError(Exception):
    """The price table cannot be used, and why. It is refused whole."""


class CatalogModel(msgspec.Struct, frozen=True, gc=False):
    """A model as the catalogue knows it. `price` is None when it is not sold by tokens or requests."""

    name: str
    price: Price | None
    context_tokens: int | None = None
    capabilities: tuple[Capability, ...] = ()
    deprecated: bool = False
    listed: bool = True
    """False: a family of names (`ft:gpt-4o-mini:…`), none of which is known"""


class _Tier(msgspec.Struct, forbid_unknown_fields=True):
    above: _Count
    input: _Rate
    output: _Rate
    cached_input: _Rate | None = None
    cache_write: _Rate | None = None


class _Rates(msgspec.Struct, forbid_unknown_fields=True):
    """`Price` in the table: nano-USD per million tokens, `per_request` in nano-USD."""

    input: _Rate
    output: _Rate
    cached_input: _Rate | None = None
    cache_write: _Rate | None = None
    reasoning: _Rate | None = None
    audio_input: _Rate | None = None
    audio_output: _Rate | None = None
    per_request: _Rate = 0
    tiers: tuple[_Tier, ...] = ()


class _Model(msgspec.Struct, forbid_unknown_fields=True):
    name: _Name
    price: _Rates | None = None
    context: _Count | None = None
    does: tuple[Capability, ...] = ()
    names: tuple[_Name, ...] = ()
    """other names that mean this model"""
    rules: tuple[Rule, ...] = ()
    """patterns of names that mean this model; the first model in the list that a name matches is meant"""
    listed: bool = True
    """False: `name` itself is not a name that the provider answers to"""
    deprecated: bool = False


class _Provider(msgspec.Struct, forbid_unknown_fields=True):
    url: _Name
    """regular expression at the start of a base URL"""
    models: tuple[_Model, ...]
    also: tuple[_Name, ...] = ()
    """other names of this provider"""
    resells: tuple[_Name, ...] = ()
    """providers whose prices hold here too, for models not listed here"""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    version: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}$(?!\n)")]
    source: str
    providers: dict[str, msgspec.Raw]


class _Part:
    """One provider, decoded."""

    def __init__(self, provider: _Provider, version: str) -> None:
        self.models = {model.name: _public(model, version) for model in provider.models}
        self.match = Matcher(
            (model.name, (model.name, *model.names) if model.listed else model.names, model.rules)
            for model in provider.models
        )


class Catalog:
    """A price table. `version` (`2026-11-24`) is its date; `source` says where its figures come from."""

    def __init__(self, text: bytes) -> None:
        """Read a table. Raises CatalogError when anything in it is wrong."""
        try:
            table = msgspec.json.decode(text, type=_File)
            if table.format != FORMAT:
                raise CatalogError(f"the price table has format {table.format}, this program reads {FORMAT}")
            self.version = f"catalog:{table.version}"
            self.source = table.source
            self._raw = {name: bytes(raw) for name, raw in table.providers.items()}
            self._urls: list[tuple[re.Pattern[str], str]] = []
            self._resells: dict[str, tuple[str, ...]] = {}
            self._names: dict[str, str] = {}
            for name, raw in self._raw.items():
                self._check(name, msgspec.json.decode(raw, type=_Provider))
        except (msgspec.MsgspecError, re.error) as error:
            raise CatalogError(f"the price table is not readable and was refused whole: {error}") from error
        for name, resold in self._resells.items():
            for other in resold:
                if other not in self._raw:
                    raise CatalogError(f"the price table was refused whole: {name} resells {other}, which it lacks")
        self._parts: dict[str, _Part] = {}

    def providers(self) -> tuple[str, ...]:
        """Names of the providers in the table."""
        return tuple(self._raw)

    def provider(self, where: str) -> str | None:
        """The provider's name in the table, for its name, a host name or a base URL."""
        if "://" not in where and "." not in where and "/" not in where:
            return self._names.get(where.lower())
        url = where if "://" in where else f"https://{where}"
        parts = urlsplit(url)
        if not parts.hostname:
            return None
        url = f"https://{parts.hostname}{parts.path}"
        return next((name for pattern, name in self._urls if pattern.match(url)), None)

    def find(self, where: str, model: str) -> CatalogModel | None:
        """The model that a name means at a provider: dated names and aliases included, upper case as lower."""
        name = self.provider(where)
        if name is None:
            return None
        asked = model.lower()
        for text in dict.fromkeys((asked, dashed_date(asked), asked.removeprefix("models/"))):
            for each in (name, *self._resells.get(name, ())):
                part = self._part(each)
                found = part.match(text)
                if found is not None:
                    return part.models[found]
        return None

    def lookup(self, where: str, model: str) -> Price | None:
        """The price of a model at a provider (name, host or base URL). None: not in the table or not sold by tokens."""
        found = self.find(where, model)
        return found.price if found else None

    def models_of(self, where: str) -> dict[str, CatalogModel]:
        """What a provider has, by name; empty for one that the table does not know. Deprecated models are left out."""
        return {model.name: model for model in self.all_of(where) if model.listed and not model.deprecated}

    def all_of(self, where: str) -> tuple[CatalogModel, ...]:
        """Every entry of a provider in the table's order: deprecated ones and families of names too."""
        name = self.provider(where)
        return tuple(self._part(name).models.values()) if name else ()

    def _part(self, name: str) -> _Part:
        part = self._parts.get(name)
        if part is None:
            part = _Part(msgspec.json.decode(self._raw[name], type=_Provider), self.version)
            self._parts[name] = part
        return part

    def _check(self, name: str, provider: _Provider) -> None:
        self._urls.append((re.compile(provider.url), name))
        self._resells[name] = provider.resells
        for each in (name, *provider.also):
            if each in self._names:
                raise CatalogError(f"the price table was refused whole: two providers are named {each}")
            self._names[each] = name
        seen: set[str] = set()
        for model in provider.models:
            if model.name in seen:
                raise CatalogError(f"the price table was refused whole: {name} has {model.name} twice")
            seen.add(model.name)
            if any(rule == Rule() for rule in model.rules):
                raise CatalogError(
                    f"the price table was refused whole: a rule of {name}/{model.name} holds for any name"
                )
            for rule in model.rules:
                re.compile(rule.regex)
            if model.price and sorted(t.above for t in model.price.tiers) != [t.above for t in model.price.tiers]:
                raise CatalogError(f"the price table was refused whole: tiers of {name}/{model.name} are out of order")


def _public(model: _Model, version: str) -> CatalogModel:
    price = None
    if model.price is not None:
        rates = model.price
        price = Price(
            input=rates.input,
            output=rates.output,
            version=version,
            source="catalog",
            cached_input=rates.cached_input,
            cache_write=rates.cache_write,
            reasoning=rates.reasoning,
            audio_input=rates.audio_input,
            audio_output=rates.audio_output,
            per_request=rates.per_request,
            tiers=tuple(PriceTier(t.above, t.input, t.output, t.cached_input, t.cache_write) for t in rates.tiers),
        )
    return CatalogModel(model.name, price, model.context, model.does, model.deprecated, model.listed)


@lru_cache(maxsize=1)
def catalog() -> Catalog:
    """The bundled table. Raises CatalogError when the installation's copy is damaged."""
    return Catalog(files("potluck.catalog").joinpath("data/prices.json").read_bytes())
