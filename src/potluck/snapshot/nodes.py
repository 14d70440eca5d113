"""One node, compiled: what of its word is used, which endpoints its models serve, what they cost.

Everything that a node announced is a stranger's word, validated when it came. Rules:
- The price is the one set at the gateway; else the announced one, if it is within the node's ceiling; else 0 for own
  machines. A price above the ceiling, an announced one of a community node without a ceiling, and a community node
  without any price make a target unroutable, in words.
- A model that two of its engines offer is the first one's: a target's name says node and model, no engine.
- Whether it is connected is not known here.
"""

import re
from collections.abc import Collection, Generator, Iterable, Mapping
from functools import lru_cache

import msgspec

from potluck.model.node import NODE_PREFIX, CompiledNode, Node, NodePlace, NodePrice, OfferedModel, place_of
from potluck.model.price import Price, nanousd_to_usd_text
from potluck.model.resources import AssistantPrefix, Capability, Target, Timeouts
from potluck.model.snapshot import CompiledTarget, Endpoint, RequestHead
from potluck.snapshot.parts import OFFERS_PER_STEP, PLAIN, Offer, share_of, target_id_of
from potluck.snapshot.prices import FREE

NODE_FIRST_BYTE_S = 120.0
"""until a node's answer begins: an engine loads its model at the first call for it"""
NODE_IDLE_S = 60.0
"""silence inside a node's answer: a long prompt is read on a slow machine after the head has come"""

PATHS: dict[Capability, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "responses": "/v1/responses",
}
_FIELDS = (("content-type", "application/json"), ("accept", "application/json, text/event-stream"))
HEADS = {capability: RequestHead("POST", path, _FIELDS, b"") for capability, path in PATHS.items()}
"""a link carries fields and bodies, no HTTP/1.1: there are no bytes ready-made"""
GOES_ON: dict[str, AssistantPrefix] = {"llamacpp": "plain", "vllm": "continue_flag", "sglang": "continue_flag"}
"""how engines go on from an assistant's text, by their kind in letters; others are not trusted to"""
TIER = "own nodes"


class NodePart(msgspec.Struct, frozen=True, eq=False):
    """Everything of an approved node that its targets share."""

    node: Node
    endpoint: Endpoint
    """no address: the link is the way there"""
    models: dict[str, OfferedModel]
    offers: dict[str, Offer]
    kinds: dict[str, str]
    """of its engines, by id, in letters"""

    @property
    def name(self) -> str:
        return NODE_PREFIX + self.node.name

    @property
    def created_at_ms(self) -> int:
        return self.node.created_at_ms

    @property
    def own(self) -> bool:
        return not self.node.community

    @property
    def tier(self) -> str | None:
        """Own machines with the same model stand side by side; nobody gets a stranger's machine without naming it."""
        return None if self.node.community else TIER

    def offer(self, upstream_model: str) -> Offer | None:
        return self.offers.get(upstream_model)

    def places(
        self,
        upstream_model: str,
        public_name: str,  # noqa: ARG002 — a node's price is the machine's, whatever its models are called
        overrides: Mapping[str, Price],
        declared: Target | None = None,
        barred: str = "",
    ) -> list[CompiledTarget]:
        """The target on this node; none where it does not offer the model."""
        model, node = self.models.get(upstream_model), self.node
        if model is None:
            return []
        offer = self.offers[upstream_model]
        name = f"{self.name}/{upstream_model}"
        price, unpriced = price_on(node, model, overrides.get(name))
        weight, tier, slots = share_of(declared, max(1, node.offer.slots))
        return [
            CompiledTarget(
                id=offer.target_id,
                name=name,
                provider_id=node.id,
                provider=self.name,
                credential_id=None,
                upstream="hub",
                endpoint=self.endpoint,
                model_json=msgspec.json.encode(upstream_model),
                heads={each: HEADS[each] for each in offer.capabilities},
                price=price,
                own=self.own,
                on_hangup="cancel",
                quirks=frozenset(),
                weight=weight,
                priority=tier,
                slots=slots,
                assistant_prefix=GOES_ON.get(self.kinds.get(model.engine, ""), "none"),
                place=place_of(node.id, model.engine, upstream_model),
                unroutable="drained by the operator" if node.drained else barred or unpriced,
                node=NodePlace(node.id, model.engine, upstream_model),
                community=node.community,
                owner=node.owner,
            )
        ]


def compile_node(node: Node) -> Generator[None, None, NodePart]:
    """An approved node with what it offers."""
    kinds = {engine_id: _letters(kind) for engine_id, kind, _ in node.offer.engines}
    models: dict[str, OfferedModel] = {}
    offers: dict[str, Offer] = {}
    for count, model in enumerate(node.offer.models):
        if model.name not in models:
            models[model.name] = model
            offers[model.name] = Offer(target_id_of(node.id, model.name), served(model), None, model.context_tokens)
        if count % OFFERS_PER_STEP == 0:
            yield
    times = Timeouts(first_byte_s=NODE_FIRST_BYTE_S, idle_s=NODE_IDLE_S)
    slots = max(1, node.offer.slots)
    return NodePart(node, Endpoint(node.id, "", 0, False, times, slots), models, offers, kinds)


def compiled_node(node: Node) -> CompiledNode:
    """The node as the hub sees it."""
    return CompiledNode(
        node.id, node.organisation_id, node.name, node.state == "approved", dict(node.keys), node.drained, node.offer
    )


def served(model: OfferedModel) -> tuple[Capability, ...]:
    """The endpoints that a model serves: its engine has the path, and the model does that.

    A model of which nothing is said does what is usual. Responses are spoken completely by few: only if they are named.
    """
    does = model.capabilities or PLAIN
    return tuple(each for each, path in PATHS.items() if path in model.paths and each in does)


def price_on(node: Node, model: OfferedModel, operator: Price | None) -> tuple[Price | None, str]:
    """What the model costs there, or why it must not be called. `operator`: set for this very target by name."""
    said = node.prices.get(model.name)
    if said is not None:
        return _price(said, "operator"), ""
    if operator is not None:
        return operator, ""
    if model.price is not None:
        if wrong := above_ceiling(node, model.price):
            return None, f"{wrong}: potluck nodes price {node.name} {model.name} --input USD --output USD"
        return _price(model.price, "target"), ""
    if node.community:
        return None, (
            f"no price: potluck nodes price {node.name} {model.name} --input USD --output USD (per million tokens)"
        )
    return FREE, ""


def above_ceiling(node: Node, price: NodePrice) -> str:
    """Why a price is more than the node may ask, or an empty text."""
    ceiling = node.max_price or (None if node.community else NodePrice(0, 0))
    asked = f"{_shown(price)} USD per million tokens"
    if ceiling is None:
        return f"its price is not agreed on: it asks {asked}, and its join token names no ceiling"
    if price.input <= ceiling.input and price.output <= ceiling.output:
        return ""
    return f"its price is not agreed on: it asks {asked}, and its join token allows {_shown(ceiling)}"


@lru_cache(maxsize=1_000)
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")))


def meant(parts: Collection[NodePart], targets: Iterable[Target]) -> dict[str, list[NodePart]]:
    """By id of a model's targets on nodes: the nodes that it names and that offer its model.

    A node is there once: by the target with its very name, else by the first pattern that fits.
    """
    on_nodes = [target for target in targets if target.provider_id.startswith(NODE_PREFIX)]
    found: dict[str, list[NodePart]] = {}
    taken: set[tuple[str, str]] = set()
    for target in sorted(on_nodes, key=lambda each: "*" in each.provider_id):
        pattern, model = _pattern(target.provider_id.removeprefix(NODE_PREFIX)), target.upstream_model
        here = found[target.id] = []
        for part in parts:
            if model in part.models and (part.node.id, model) not in taken and pattern.fullmatch(part.node.name):
                taken.add((part.node.id, model))
                here.append(part)
    return found


def _letters(kind: str) -> str:
    return "".join(character for character in kind if character.isalnum())


def _price(price: NodePrice, source: str) -> Price:
    # records and the ledger know prices by it: it is never written in another way
    version = f"node:{nanousd_to_usd_text(price.input)}/{nanousd_to_usd_text(price.output)}"
    return Price(price.input, price.output, version, "operator" if source == "operator" else "target")


def _shown(price: NodePrice) -> str:
    """USD in and out, as people write them: `1000000/0.25`."""
    return "/".join(nanousd_to_usd_text(each).removesuffix(".0") for each in (price.input, price.output))
