"""What the admin API shows of nodes and join tokens. Times are unix milliseconds, prices USD per million tokens."""

from typing import Any, Literal

import msgspec

from potluck.admin.fleet_readings import NodeReading
from potluck.admin.operations.work import Row
from potluck.config.forms import Usd
from potluck.model.node import NodePrice, NodeState, Offer
from potluck.model.price import NANOUSD_PER_USD
from potluck.model.resources import Origin

_STRINGS = msgspec.json.Decoder(list[str])
_OFFER = msgspec.json.Decoder(Offer)
_PRICE = msgspec.json.Decoder(NodePrice | None)
_PRICES = msgspec.json.Decoder(dict[str, NodePrice])


class NodePriceEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """USD per million tokens."""

    input: Usd
    output: Usd

    def __post_init__(self) -> None:
        if any(0 < each < 1 / NANOUSD_PER_USD for each in (self.input, self.output)):
            raise ValueError("the smallest price is 0.000000001 USD; 0 is free")

    def to_price(self) -> NodePrice:
        """The same in nano-USD."""
        return NodePrice(round(self.input * NANOUSD_PER_USD), round(self.output * NANOUSD_PER_USD))

    @classmethod
    def from_price(cls, price: NodePrice) -> "NodePriceEntry":
        return cls(input=price.input / NANOUSD_PER_USD, output=price.output / NANOUSD_PER_USD)


class JoinTokenView(msgspec.Struct, frozen=True, kw_only=True):
    """A join token without its secret. `uses_left`: null means without end."""

    id: str
    name: str
    hint: str
    status: Literal["active", "expired", "used_up", "revoked"]
    uses_left: int | None
    needs_approval: bool
    ephemeral: bool
    community: bool
    owner: str
    """`project:NAME`, or empty for the whole organisation"""
    tags: list[str]
    max_models: int | None
    max_price: NodePriceEntry | None
    """null: 0 for own machines, no limit for the community's"""
    expires_at_ms: int
    revoked_at_ms: int | None
    created_at_ms: int


class MadeJoinToken(JoinTokenView, frozen=True, kw_only=True):
    """A join token with its secret: shown in this answer and never again (null when the answer is a replay)."""

    secret: str | None
    url: str = ""
    """the gateway's address, as far as it knows it: where machines join"""

    def without_secret(self) -> "MadeJoinToken":
        return msgspec.structs.replace(self, secret=None)


class NodeEngineView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    kind: str
    version: str


class NodeModelView(msgspec.Struct, frozen=True, kw_only=True):
    """A model as its node announced it. `price`: what counts: set here, else announced, else null (the default)."""

    engine: str
    name: str
    target: str
    """the pin by which callers name it"""
    capabilities: list[str]
    context_tokens: int | None
    digest: str
    format: str
    quantization: str
    price: NodePriceEntry | None
    price_from: Literal["gateway", "node", "default"]


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """An enrolled machine: what is stored, and in `live` what is seen of it now (null: nothing yet)."""

    id: str
    name: str
    state: NodeState
    standing: str
    """in a line: `ready`, `waits for approval`, `paused by its owner: in use`, `not connected since …`"""
    drained: bool
    owner: str
    """`project:NAME`, or empty for the whole organisation"""
    community: bool
    ephemeral: bool
    tags: list[str]
    max_models: int | None
    max_price: NodePriceEntry | None
    """null: 0 for own machines, no limit for the community's"""
    key: str
    """id of its key in force"""
    previous_until_ms: int | None
    """the key before the last rotation is, or was, good until then"""
    agent: str
    os: str
    arch: str
    slots: int
    queue: int
    engines: list[NodeEngineView]
    models: list[NodeModelView]
    prices: dict[str, NodePriceEntry]
    """set here, by model"""
    last_seen_at_ms: int | None
    revoked_at_ms: int | None
    created_at_ms: int
    origin: Origin
    live: NodeReading | None = None


def offer_of(row: Row) -> Offer:
    """What a node announced last."""
    return _OFFER.decode(row["offer"])


def prices_of(row: Row) -> dict[str, NodePrice]:
    """What was set here for a node's models."""
    return _PRICES.decode(row["prices"])


def max_price_of(row: Row) -> NodePrice | None:
    """What its token wrote as the most that its owner may ask; None: nothing was written."""
    return None if row["max_price"] is None else _PRICE.decode(row["max_price"])


def join_token_view(row: Row, now_ms: int) -> JoinTokenView:
    return JoinTokenView(**_token_members(row, now_ms))


def made_join_token(row: Row, now_ms: int, secret: str) -> MadeJoinToken:
    return MadeJoinToken(**_token_members(row, now_ms), secret=secret)


def _token_members(row: Row, now_ms: int) -> dict[str, Any]:
    status = "active"
    if row["revoked_at_ms"] is not None:
        status = "revoked"
    elif row["expires_at_ms"] <= now_ms:
        status = "expired"
    elif row["uses_left"] == 0:
        status = "used_up"
    return {
        **_columns(JoinTokenView, row),
        "status": status,
        "needs_approval": not row["approved"],
        "tags": _STRINGS.decode(row["tags"]),
        "max_price": _entry(max_price_of(row)),
    }


def node_view(row: Row, reading: NodeReading | None = None) -> NodeView:
    """A node, with what is seen of it now."""
    offer, prices = offer_of(row), prices_of(row)
    models = []
    for model in offer.models:
        set_here = prices.get(model.name)
        models.append(
            NodeModelView(
                engine=model.engine,
                name=model.name,
                target=f"node:{row['name']}/{model.name}",
                capabilities=list(model.capabilities),
                context_tokens=model.context_tokens,
                digest=model.digest,
                format=model.format,
                quantization=model.quantization,
                price=_entry(set_here or model.price),
                price_from="gateway" if set_here else "node" if model.price else "default",
            )
        )
    members = {
        **_columns(NodeView, row),
        "standing": standing(row, reading),
        "tags": _STRINGS.decode(row["tags"]),
        "max_price": _entry(max_price_of(row)),
        "key": row["key_id"],
        "os": offer.os,
        "arch": offer.arch,
        "slots": offer.slots,
        "queue": offer.queue,
        "engines": [NodeEngineView(id=id_, kind=kind, version=version) for id_, kind, version in offer.engines],
        "models": models,
        "prices": {model: NodePriceEntry.from_price(price) for model, price in prices.items()},
        "live": reading,
    }
    return NodeView(**members)


def standing(row: Row, reading: NodeReading | None) -> str:
    """Whether calls go there, in a line; what its operator decided comes before what it says itself."""
    if row["state"] == "revoked":
        return "revoked"
    connected = reading is not None and reading.connected
    if row["state"] == "pending":
        return "waits for approval" if connected else "waits for approval, not connected"
    if not connected:
        was_here = row["last_seen_at_ms"] or (reading is not None and reading.since_ms)
        return "not connected" if was_here else "never connected"
    if row["drained"]:
        return "drained by the operator"
    assert reading is not None
    return reading.stands or "ready"


def _entry(price: NodePrice | None) -> NodePriceEntry | None:
    return None if price is None else NodePriceEntry.from_price(price)


def _columns(view: type[msgspec.Struct], row: Row) -> dict[str, Any]:
    return {field.name: row[field.name] for field in msgspec.structs.fields(view) if field.name in row}
