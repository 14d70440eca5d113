"""The first four frames of a link: who is there, is it the one that is known, and on what terms. No I/O.

    node                          gateway
    HELLO      ─────────────▶     looks the node's key up by its id
               ◀─────────────     CHALLENGE
    PROOF      ─────────────▶     checks the signature, then state and approval
               ◀─────────────     WELCOME

Rules of this file
- PROOF is the node's signature over HELLO and CHALLENGE as they were sent; WELCOME carries the gateway's over these,
  the proof and the terms. Both nonces, the origin, the node's id and the session's are among the signed bytes: a frame
  recorded on another link, or made for another gateway, does not verify, and no version or feature can be taken away.
- The node takes no other origin than the one that it dialled, and no other gateway key than the one that it pinned.
- Before both have proved themselves, nothing else is said but GOAWAY.
"""

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from potluck.wire import link_frames as f
from potluck.wire import link_messages as m


class Party(msgspec.Struct, frozen=True):
    """What an end is, shared by all its links. `sign(bytes) → signature`, `verify(key, bytes, signature) → bool`.

    Neither raises.
    """

    role: Literal["gateway", "node"]
    origin: str
    """of the gateway: as it knows itself, as the node dialled it"""
    sign: Callable[[bytes], bytes]
    verify: Callable[[bytes, bytes, bytes], bool]
    gateway_key: bytes = b""
    """node: the pinned one"""
    features: frozenset[str] = m.FEATURES


class Handshake:
    """One end's part. Its saying methods return payloads and raise ValueError out of turn."""

    __slots__ = ("_awaits", "_challenge", "_hello", "_node_key", "_party", "_proof", "_sent_hello")

    def __init__(self, party: Party) -> None:
        self._party = party
        self._awaits = f.HELLO
        """the frame that comes next, from whichever side"""
        self._hello: m.Hello | None = None
        self._node_key = self._sent_hello = self._challenge = self._proof = b""

    def hello(self, hello: m.Hello) -> bytes:
        """Node: HELLO."""
        self._turn(f.HELLO)
        payload = f.encode(hello)
        f.decode(f.HELLO, payload)
        self._hello, self._sent_hello, self._awaits = hello, payload, f.CHALLENGE
        return payload

    def challenge(self, node_key: bytes, session: str, nonce: str) -> bytes:
        """Gateway: CHALLENGE to the node that should hold this key."""
        self._turn(f.CHALLENGE)
        payload = f.encode(m.Challenge(self._party.origin, session, nonce))
        f.decode(f.CHALLENGE, payload)
        self._node_key, self._challenge, self._awaits = node_key, payload, f.PROOF
        return payload

    def welcome(self, terms: m.Welcome) -> tuple[m.Welcome, bytes]:
        """Gateway: the terms with minor version and features filled in, and WELCOME."""
        self._turn(f.WELCOME)
        assert self._hello is not None
        terms = msgspec.structs.replace(
            terms,
            minor=min(m.MINOR, self._hello.max_minor),
            features=sorted(self._party.features & set(self._hello.features)),
        )
        payload = f.encode(terms)
        f.decode_terms(payload)
        signature = self._party.sign(self._under_welcome(payload))
        return terms, signature + payload

    def read(self, kind: int, payload: bytes, message: Any) -> m.Hello | bytes | m.Welcome | None:
        """The peer's frame: HELLO gives itself, CHALLENGE the PROOF, WELCOME its terms, PROOF None.

        Raises `Violation`.
        """
        if kind != self._awaits:
            raise f.Violation("bad_state", f"{f.FRAMES[kind].name} during the handshake")
        party = self._party
        if kind == f.HELLO:
            hello: m.Hello = message
            if hello.min_minor > m.MINOR or hello.max_minor < hello.min_minor:
                raise f.Violation("version", f"this side speaks minor versions up to {m.MINOR}")
            self._hello, self._sent_hello, self._awaits = hello, payload, f.CHALLENGE
            return hello
        if kind == f.CHALLENGE:
            if message.origin != party.origin:
                raise f.Violation("bad_origin", "the gateway has another origin than was dialled")
            self._challenge, self._awaits = payload, f.WELCOME
            self._proof = party.sign(self._under_proof())
            return self._proof
        if kind == f.PROOF:
            if not party.verify(self._node_key, self._under_proof(), payload):
                raise f.Violation("bad_proof", "the signature does not fit the node's key")
            self._proof, self._awaits = payload, f.WELCOME
            return None
        signature, terms_sent = payload[: m.SIGNATURE_BYTES], payload[m.SIGNATURE_BYTES :]
        if not party.gateway_key or not party.verify(party.gateway_key, self._under_welcome(terms_sent), signature):
            raise f.Violation("bad_gateway", "the signature does not fit the pinned gateway")
        try:
            terms = f.decode_terms(terms_sent)
        except f.BadMessage as error:
            raise f.Violation("bad_payload", str(error)) from None
        assert self._hello is not None
        chosen = set(terms.features)
        if not self._hello.min_minor <= terms.minor <= self._hello.max_minor or not chosen <= set(self._hello.features):
            raise f.Violation("version", "the gateway chose what was not offered")
        return terms

    def _turn(self, kind: int) -> None:
        if self._awaits != kind or f.FRAMES[kind].sender != self._party.role:
            raise ValueError(f"{f.FRAMES[kind].name} is not the {self._party.role}'s to say now")

    def _under_proof(self) -> bytes:
        return m.signed(m.PROOF_CONTEXT, self._sent_hello, self._challenge)

    def _under_welcome(self, terms: bytes) -> bytes:
        return m.signed(m.WELCOME_CONTEXT, self._sent_hello, self._challenge, self._proof, terms)
