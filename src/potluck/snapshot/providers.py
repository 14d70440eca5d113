"""One provider, compiled: where it is, request heads per credential, the models that it offers, how it is probed."""

from collections.abc import Generator, Iterable, Mapping

import msgspec

from potluck.catalog import CatalogModel, catalog
from potluck.identity.vault import Vault
from potluck.model.price import Price
from potluck.model.resources import AssistantPrefix, Capability, Provider, Target
from potluck.model.secret import Secret
from potluck.model.snapshot import CompiledProbe, CompiledTarget, Endpoint, RequestHead
from potluck.providers.base_url import BaseUrl, parse_base_url
from potluck.providers.openai import MODELS_PATH, PATHS, build_heads, models_request
from potluck.providers.quirks import assistant_prefix_of, quirks_of, served
from potluck.snapshot.parts import OFFERS_PER_STEP, PLAIN, Offer, share_of, target_id_of
from potluck.snapshot.prices import FREE, choose_price, missing_price
from potluck.snapshot.rows import PlaceRows

LOCAL_MODEL = "smollm2-135m"
LOCAL_CONTEXT_TOKENS = 2048
LOCAL_PLACEHOLDER_PORT = 1
"""stands in the heads until the supervisor says where the built-in model listens"""

Heads = dict[Capability, RequestHead]


class Account(msgspec.Struct, frozen=True):
    """One enabled credential of a provider, or its having none, ready to ask with. Secret: never log it."""

    credential_id: str | None
    credential: str
    weight: int
    heads: Heads
    models_head: RequestHead

    def __repr__(self) -> str:
        return f"Account({self.credential})"


class ProviderPart(msgspec.Struct, frozen=True, eq=False):
    """Everything of a provider that its targets share."""

    provider: Provider
    endpoint: Endpoint
    quirks: frozenset[str]
    assistant_prefix: AssistantPrefix
    accounts: tuple[Account, ...]
    """heaviest first; one without credential if none is enabled"""
    offers: dict[str, Offer]
    unroutable: str = ""
    """why none of its targets must be called"""

    @property
    def name(self) -> str:
        return self.provider.name

    @property
    def created_at_ms(self) -> int:
        return self.provider.created_at_ms

    @property
    def own(self) -> bool:
        return self.provider.own or self.provider.builtin

    @property
    def tier(self) -> str | None:
        """A name that several providers offer is the oldest one's first."""
        return self.provider.id

    def offer(self, upstream_model: str) -> Offer:
        """One that is not listed may be in the catalogue under a name like it."""
        return self.offers.get(upstream_model) or offer_of(self.provider, upstream_model)

    def places(
        self,
        upstream_model: str,
        public_name: str,
        overrides: Mapping[str, Price],
        declared: Target | None = None,
        barred: str = "",
    ) -> list[CompiledTarget]:
        """See `parts.Part`."""
        offer = self.offer(upstream_model)
        written = None if declared is None else declared.price
        price = choose_price(
            written, overrides, self.name, upstream_model, public_name, own=self.own, listed=offer.price
        )
        if declared is None:
            return self.targets(offer.target_id, upstream_model, offer.capabilities, price, barred)
        return self.targets(declared.id, upstream_model, declared.capabilities, price, barred, declared)

    def targets(
        self,
        target_id: str,
        upstream_model: str,
        capabilities: Iterable[Capability],
        price: Price | None,
        unroutable: str = "",
        declared: Target | None = None,
    ) -> list[CompiledTarget]:
        """The targets of one place: one per credential, with the same id and name.

        `declared`: the target as somebody declared it, for its share, its tier and its slots.
        """
        unroutable = unroutable or self.unroutable
        if price is None and not unroutable:
            unroutable = missing_price(self.provider.name, upstream_model)
        does = tuple(capabilities)
        wanted = served(does, self.quirks)
        if "chat" not in does:
            # a provider that speaks responses does so for its chat models only
            wanted = tuple(each for each in wanted if each in does)
        model_json = msgspec.json.encode(upstream_model)
        # the supervisor may start the built-in model on another port: the same place
        at = self.provider.id if self.provider.builtin else self.endpoint.key
        place = f"{at} {upstream_model}"
        weight, priority, slots = share_of(declared, self.provider.max_connections)
        return [
            CompiledTarget(
                id=target_id,
                name=f"{self.provider.name}/{upstream_model}",
                provider_id=self.provider.id,
                provider=self.provider.name,
                credential_id=account.credential_id,
                upstream="local" if self.provider.builtin else "pool",
                endpoint=self.endpoint,
                model_json=model_json,
                heads={each: account.heads[each] for each in wanted},
                price=price,
                own=self.own,
                on_hangup=self.provider.on_hangup,
                quirks=self.quirks,
                credential=account.credential,
                credential_weight=account.weight,
                weight=weight,
                priority=priority,
                slots=slots,
                assistant_prefix=self.assistant_prefix,
                place=place,
                unroutable=unroutable,
            )
            for account in self.accounts
        ]

    def models_question(self) -> tuple[CompiledTarget, RequestHead]:
        """A target without heads, which says only where and whose, and the head of a `GET /models` there."""
        target_id = target_id_of(self.provider.id, "")
        return self.targets(target_id, "", (), FREE)[0], self.accounts[0].models_head


def compile_provider(
    rows: PlaceRows, provider: Provider, vault: Vault, local: tuple[int, Secret] | None
) -> Generator[None, None, ProviderPart]:
    """Unseal its credentials, make its heads, list its offers. Raises VaultError when a credential does not open."""
    url = parse_base_url(provider.base_url)
    accounts: list[Account] = []
    unroutable = ""
    if provider.builtin:
        port, secret = local or (LOCAL_PLACEHOLDER_PORT, None)
        url = parse_base_url(f"http://127.0.0.1:{port}/v1")
        accounts.append(_account(url, secret))
    else:
        pool = rows.credentials.get(provider.id)
        if pool == []:
            # whoever disables the last key wants it out, not called without one
            unroutable = all_disabled(provider.name)
        for each in pool or ():
            accounts.append(_account(url, vault.unseal(each.sealed, each.id), each.id, each.name, each.weight))
            yield
    offers: dict[str, Offer] = {}
    for count, (name, offer) in enumerate(_offers(rows, provider)):
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
        provider.assistant_prefix or ("plain" if provider.builtin else assistant_prefix_of(url)),
        tuple(accounts) or (_account(url, None),),
        offers,
        unroutable,
    )


def all_disabled(provider: str) -> str:
    """Why a provider is not called whose keys are all disabled, with the command that mends it."""
    return f"no enabled credential: potluck credential update {provider}/NAME --enable"


def compile_probe(part: ProviderPart, overrides: Mapping[str, Price]) -> CompiledProbe | None:
    """How the provider is probed; None: not at all, as where its keys are all disabled.

    The supervisor looks after the built-in model by itself.
    Without a model for paid completions, the targets have no heads: they say only where and whose.
    """
    provider = part.provider
    if provider.probe is None or provider.builtin or part.unroutable:
        return None
    model = provider.probe.model
    if model:
        targets = part.places(model, model, overrides)
    else:
        targets = part.targets(target_id_of(provider.id, ""), "", (), FREE)
    heads = tuple(account.models_head for account in part.accounts)
    return CompiledProbe(provider.id, provider.name, provider.probe, tuple(targets), heads)


def _offers(rows: PlaceRows, provider: Provider) -> Iterable[tuple[str, Offer]]:
    if provider.builtin:
        yield LOCAL_MODEL, Offer(target_id_of(provider.id, LOCAL_MODEL), PLAIN, None, LOCAL_CONTEXT_TOKENS)
        return
    listed = {} if provider.own else catalog().models_of(provider.base_url)
    for name, entry in listed.items():
        yield name, _offer(provider, name, entry)
    for name in rows.own_lists.get(provider.id, ()):
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


def _account(
    url: BaseUrl, secret: Secret | None, credential_id: str | None = None, credential: str = "", weight: int = 1
) -> Account:
    path = url.path + MODELS_PATH
    fields = (("host", url.authority), *models_request(url, secret)[1].items())
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "content-length: "]
    models_head = RequestHead("GET", path, fields, "\r\n".join(lines).encode("ascii"))
    return Account(credential_id, credential, weight, build_heads(url, secret, PATHS), models_head)
