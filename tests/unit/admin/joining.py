"""A machine that enrols: it makes its key pair and signs what the gateway asks for."""

import base64
import hashlib
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from potluck.admin.operations import nodes
from potluck.admin.operations.work import Actor
from potluck.model.node import Offer, OfferedModel
from potluck.wire.link_messages import signed

PATHS = ("/v1/chat/completions", "/v1/completions")


def text(raw: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Machine:
    """One key pair, and what it says with it."""

    def __init__(self) -> None:
        self.private = Ed25519PrivateKey.generate()
        self.public = self.private.public_key().public_bytes_raw()
        self.node = self.key = ""

    def signs(self, purpose: str, *parts: bytes) -> str:
        """Its signature over these parts, for `enroll`, `rotate` or `leave`."""
        return text(self.private.sign(signed(f"potluck.node.v1 {purpose}\n".encode(), *parts)))

    async def asks(self, client: httpx.AsyncClient, token: str, name: str = "lab-1", **instead: Any) -> dict[str, Any]:
        """A whole request to enrol; `instead` replaces members, `origin` and `challenge` before it is signed."""
        terms = (await client.get("/node/v1/enroll")).json()
        origin = instead.pop("origin", terms["origin"])
        challenge = instead.pop("challenge", terms["challenge"])
        parts = (origin.encode(), challenge.encode(), self.public, hashlib.sha256(token.encode()).digest())
        return {
            "token": token,
            "public_key": text(self.public),
            "name": name,
            "challenge": challenge,
            "proof": self.signs("enroll", *parts),
            "agent": "potluck/0.0",
            "os": "linux",
            "arch": "x86_64",
        } | instead

    async def joins(self, client: httpx.AsyncClient, token: str, name: str = "lab-1") -> httpx.Response:
        """Enrol; it remembers what it became."""
        answer = await client.post("/node/v1/enroll", json=await self.asks(client, token, name))
        if answer.status_code == 201:
            self.node, self.key = answer.json()["node"], answer.json()["key"]
        return answer

    async def leaves(self, client: httpx.AsyncClient) -> dict[str, Any]:
        """A whole request to leave."""
        terms = (await client.get("/node/v1/enroll")).json()
        parts = (terms["origin"].encode(), terms["challenge"].encode(), self.node.encode())
        said = {"node": self.node, "key": self.key, "challenge": terms["challenge"]}
        return said | {"proof": self.signs("leave", *parts)}

    async def rotates(self, client: httpx.AsyncClient, new: "Machine") -> dict[str, Any]:
        """A whole request to put another machine's key in the place of its own."""
        terms = (await client.get("/node/v1/enroll")).json()
        parts = (terms["origin"].encode(), terms["challenge"].encode(), self.node.encode(), new.public)
        said = {"node": self.node, "key": self.key, "challenge": terms["challenge"], "public_key": text(new.public)}
        return said | {"proof_old": self.signs("rotate", *parts), "proof_new": new.signs("rotate", *parts)}


async def token(api: httpx.AsyncClient, **terms: Any) -> str:
    """The secret of a new join token."""
    answer = await api.post("/api/v1/join-tokens", json=terms)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["secret"])


async def joined(api: httpx.AsyncClient, name: str = "lab-1", **terms: Any) -> Machine:
    """A machine that has enrolled by a token of its own."""
    machine = Machine()
    answer = await machine.joins(api, await token(api, **terms), name)
    assert answer.status_code == 201, answer.text
    return machine


async def offering(gateway: Any, api: httpx.AsyncClient, name: str, *models: str) -> Machine:
    """A machine that has enrolled and announced these models."""
    machine = await joined(api, name)
    actor = Actor(machine.node, name, gateway.actor.organisation_id, role="node")
    offered = tuple(OfferedModel("e", model, ("chat",), PATHS) for model in models)
    offer = Offer(models=offered, engines=(("e", "ollama", "1"),), slots=2)
    await gateway.control.do(actor, lambda work: nodes.store_offer(work, machine.node, offer, "potluck/0"))
    return machine
