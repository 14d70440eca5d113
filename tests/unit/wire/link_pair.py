"""A gateway's core and a node's, wired to each other in memory; signatures are keyed hashes, which cost little."""

import hashlib
from collections.abc import Callable
from typing import Any

from potluck.wire import link_events as e
from potluck.wire import link_frames as f
from potluck.wire import link_messages as m
from potluck.wire.link import LinkCore
from potluck.wire.link_handshake import Party
from potluck.wire.link_jobs import Job, JobTable

ORIGIN = "https://gateway.example"
NODE_KEY, GATEWAY_KEY = b"node's key", b"gateway's key"
PATH = "/v1/chat/completions"
TOKEN = "ab" * 16
ENGINE = m.EngineOffer("e1", "ollama", [PATH, "/v1/embeddings"])


def signer(key: bytes) -> Callable[[bytes], bytes]:
    return lambda text: hashlib.blake2b(text, key=key).digest()


def verify(key: bytes, text: bytes, signature: bytes) -> bool:
    return hashlib.blake2b(text, key=key).digest() == signature


GATEWAY = Party("gateway", ORIGIN, signer(GATEWAY_KEY), verify)
NODE = Party("node", ORIGIN, signer(NODE_KEY), verify, GATEWAY_KEY)
HELLO = m.Hello("node-1", "key-1", "boot-1", "agent 1", 0, 0, sorted(m.FEATURES), "11" * 32)


def caps(revision: int = 1, engines: list[m.EngineOffer] | None = None) -> m.Caps:
    return m.Caps(revision, 4, 2, [ENGINE] if engines is None else engines, [])


def request(job: str = "req_1", body: bytes = b"", **members: Any) -> m.Open:
    members = {"token": TOKEN, "headers": [("content-type", "application/json")], **members}
    return m.Open(job, "e1", "llama3.2:3b", PATH, len(body), **members)


class Pair:
    """Two cores and what is under way between them. `tables`: (gateway's, node's), kept over links."""

    def __init__(
        self,
        tables: tuple[JobTable, JobTable] | None = None,
        *,
        now: float = 0.0,
        terms: m.Welcome | None = None,
        hello: m.Hello = HELLO,
        joined: bool = True,
    ) -> None:
        self.now = now
        self.tables = tables or (JobTable("gateway"), JobTable("node"))
        self.gateway = LinkCore(GATEWAY, now)
        self.node = LinkCore(NODE, now, self.tables[1])
        self.hello = hello
        if joined:
            self.join(terms)

    def join(self, terms: m.Welcome | None = None) -> None:
        """The whole handshake, and one engine offered."""
        self.node.hello(self.hello)
        (came,) = self.to_gateway()
        assert isinstance(came, e.HelloCame)
        self.gateway.challenge(NODE_KEY, "session-1", "22" * 32)
        assert self.to_node() == []
        (proved,) = self.to_gateway()
        assert isinstance(proved, e.Proved)
        self.gateway.welcome(self.tables[0], self.now, terms)
        (welcomed,) = self.to_node()
        assert isinstance(welcomed, e.Welcomed)
        self.node.caps(caps())
        (offered,) = self.to_gateway()
        assert isinstance(offered, e.CapsCame)

    def to_gateway(self) -> list[e.Event]:
        """Deliver what the node has to send."""
        return self._carry(self.node, self.gateway)

    def to_node(self) -> list[e.Event]:
        """Deliver what the gateway has to send."""
        return self._carry(self.gateway, self.node)

    def _carry(self, sender: LinkCore, receiver: LinkCore) -> list[e.Event]:
        return [event for frame in sender.frames_to_send() for event in receiver.receive(frame, self.now)]

    def open(self, job: str = "req_1", body: bytes = b"", **members: Any) -> tuple[Job, Job]:
        """A job on both sides, not accepted yet."""
        at_gateway = self.gateway.open(request(job, body, **members), body)
        opened, *rest = self.to_node()
        assert isinstance(opened, e.Opened)
        for event in rest:
            assert isinstance(event, e.DataCame)
            event.job.consumed(len(event.data))
        return at_gateway, opened.job

    def answering(self, job: str = "req_1", body: bytes = b"", **members: Any) -> tuple[Job, Job]:
        """A job whose answer has begun."""
        at_gateway, at_node = self.open(job, body, **members)
        at_node.accept()
        at_node.head(200, [("content-type", "text/event-stream")])
        self.to_gateway()
        return at_gateway, at_node

    def drop(self) -> tuple[list[e.Event], list[e.Event]]:
        """Both sockets are gone, with what was under way."""
        return self.gateway.lost(self.now), self.node.lost(self.now)

    def again(self, **more: Any) -> "Pair":
        """A new link between the same two."""
        return Pair(self.tables, now=self.now, **more)


def frame(kind: int, stream: int = 0, message: m.Message | bytes = b"") -> bytes:
    payload = message if isinstance(message, bytes) else f.encode(message)
    return f.frame(kind, stream, payload)


def failure(events: list[e.Event]) -> str:
    """The code of the one `Failed` among the events."""
    (failed,) = [event for event in events if isinstance(event, e.Failed)]
    return failed.code
