"""One provider, compiled: where it is, a request head per credential and endpoint, and the models that it offers."""

from collections.abc import Generator, Iterable
from hashlib import blake2b

import msgspec

from potluck.catalog import CatalogModel, catalog
from potluck.identity.vault import Vault
from potluck.model.ids import base36
from potluck.model.price import Price
from potluck.model.resources import Capability, Provider
from potluck.model.secret import Secret
from potluck.model.snapshot import CompiledTarget, Endpoint, RequestHead
from potluck.providers.base_url import parse_base_url
from potluck.providers.openai import PATHS, build_heads
from potluck.providers.quirks import quirks_of, served
from potluck.snapshot.prices import missing_price
from potluck.snapshot.rows import RouteRows

PLAIN: tuple[Capability, ...] = ("chat", "completions", "embeddings")
"""what a model does when nobody says"""
LOCAL_MODEL = "smollm2-135m"
LOCAL_CONTEXT_TOKENS = 2048
OFFERS_PER_STEP = 64
LOCAL_PLACEHOLDER_PORT = 1
"""stands in the heads until the supervisor says where the built-in model listens"""

Heads = dict[Capability, RequestHead]


class Offer(msgspec.Struct, frozen=True):
    """An upstream model that a provider has, by the catalogue or its own list."""

    target_id: str
    capabilities: tuple[Capability, ...]
    price: Price | None
    """the dated table's"""
    context_tokens: int | None


class ProviderPart(msgspec.Struct, frozen=True, eq=False):
    """Everything of a provider that its targets share."""

    provider: Provider
    endpoint: Endpoint
    quirks: frozenset[str]
    heads: tuple[tuple[str | None, Heads], ...]
    """per enabled credential, heaviest first: its id and a head per capability; one without credential if none"""
    offers: dict[str, Offer]

    @property
    def own(self) -> bool:
        return self.provider.own or self.provider.builtin

    def targets(
        self,
        target_id: str,
        upstream_model: str,
        capabilities: Iterable[Capability],
        price: Price | None,
        unroutable: str = "",
    ) -> list[CompiledTarget]:
        """The targets of one place: one per credential, with the same id and name."""
        if price is None and not unroutable:
            unroutable = missing_price(self.provider.name, upstream_model)
        does = tuple(capabilities)
        wanted = served(does, self.quirks)
        if "chat" not in does:
            # a provider that speaks responses does so for its chat models only
            wanted = tuple(each for each in wanted if each in does)
        model_json = msgspec.json.encode(upstream_model)
        return [
            CompiledTarget(
                id=target_id,
                name=f"{self.provider.name}/{upstream_model}",
                provider_id=self.provider.id,
                provider=self.provider.name,
                credential_id=credential_id,
                upstream="local" if self.provider.builtin else "pool",
                endpoint=self.endpoint,
                model_json=model_json,
                heads={each: heads[each] for each in wanted},
                price=price,
                own=self.own,
                on_hangup=self.provider.on_hangup,
                quirks=self.quirks,
                unroutable=unroutable,
            )
            for credential_id, heads in self.heads
        ]


def compile_provider(
    routes: RouteRows, provider: Provider, vault: Vault, local: tuple[int, Secret] | None
) -> Generator[None, None, ProviderPart]:
    """Unseal its credentials, make its heads, list its offers. Raises VaultError when a credential does not open."""
    url = parse_base_url(provider.base_url)
    keys: list[tuple[str | None, Secret | None]] = [
        (each.id, vault.unseal(each.sealed, each.id)) for each in routes.credentials.get(provider.id, ())
    ]
    if provider.builtin:
        port, secret = local or (LOCAL_PLACEHOLDER_PORT, None)
        url = parse_base_url(f"http://127.0.0.1:{port}/v1")
        keys = [(None, secret)]
    offers: dict[str, Offer] = {}
    for count, (name, offer) in enumerate(_offers(routes, provider)):
        offers[name] = offer
        if count % OFFERS_PER_STEP == 0:
            yield
    return ProviderPart(
        provider,
        Endpoint(
            # the place is in the key: connections to where a provider was before must not serve where it is now
            f"{provider.id} {url.authority}{' tls' if url.tls else ''}",
            url.host,
            url.port,
            url.tls,
            provider.timeouts,
            provider.max_connections,
        ),
        quirks_of(url),
        tuple((credential_id, build_heads(url, secret, PATHS)) for credential_id, secret in keys or [(None, None)]),
        offers,
    )


def target_id_of(provider_id: str, upstream_model: str) -> str:
    """The id of a target that nobody declared: the same for the same place, over restarts and replicas."""
    digest = blake2b(f"{provider_id}/{upstream_model}".encode(), digest_size=13).digest()
    return f"tgt_{base36(int.from_bytes(digest, 'big'), 21)[:21]}"


def _offers(routes: RouteRows, provider: Provider) -> Iterable[tuple[str, Offer]]:
    if provider.builtin:
        yield LOCAL_MODEL, Offer(target_id_of(provider.id, LOCAL_MODEL), PLAIN, None, LOCAL_CONTEXT_TOKENS)
        return
    listed = {} if provider.own else catalog().models_of(provider.base_url)
    for name, entry in listed.items():
        yield name, _offer(provider, name, entry)
    for name in routes.own_lists.get(provider.id, ()):
        if name not in listed:
            yield name, offer_of(provider, name)


def offer_of(provider: Provider, upstream_model: str) -> Offer:
    """What the catalogue knows of a model there (its price, what it does), else nothing but its name."""
    entry = None if provider.own or provider.builtin else catalog().find(provider.base_url, upstream_model)
    return _offer(provider, upstream_model, entry)


def _offer(provider: Provider, upstream_model: str, entry: CatalogModel | None) -> Offer:
    target_id = target_id_of(provider.id, upstream_model)
    if entry is None:
        return Offer(target_id, PLAIN, None, None)
    return Offer(target_id, entry.capabilities or PLAIN, entry.price, entry.context_tokens)
