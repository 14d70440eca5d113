"""A machine enrols by a join token, changes its key, or leaves. It proves itself by signatures; no admin is there.

Rules
- The token is spent in the transaction that makes the node: of two machines that race for the last use, one wins.
- A machine whose answer was lost asks again with the same token and key, and gets it: nothing is spent twice.
- Who has no good token learns nothing: unknown, expired, used up and revoked are one answer. So are an unknown node, a
  key that is not its own, and a signature that does not fit.
- A challenge is not remembered. It only says that a signature is younger than `CHALLENGE_KEPT_S`; to replay one within
  that time gains nothing: enrolling again gives the answer that was given, rotating again asks for the key that is in
  force already, and a node that left is gone. Origin and purpose are under the signature, so that it is good
  nowhere else and for nothing else.
"""

from base64 import urlsafe_b64decode
from collections.abc import Callable
from hashlib import blake2b, sha256
from hmac import compare_digest
from typing import Any

import msgspec
import sqlalchemy as sa

from potluck.admin.errors import OperationError, conflict, invalid
from potluck.admin.operations.node_views import max_price_of
from potluck.admin.operations.nodes import revoke_row
from potluck.admin.operations.work import Actor, Row, Work
from potluck.identity.gateway_key import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, verify
from potluck.identity.keys import has_shape
from potluck.identity.vault import Vault
from potluck.model.ids import new_id
from potluck.model.node import NodePrice, Offer
from potluck.store import tables as t
from potluck.wire.link_messages import signed

CHALLENGE_KEPT_S = 300
ROTATED_KEPT_S = 86_400
"""how long the key before the last rotation stays good"""
MAX_NAME_CHARS = 63

ENROLL_CONTEXT = b"potluck.node.v1 enroll\n"
ROTATE_CONTEXT = b"potluck.node.v1 rotate\n"
LEAVE_CONTEXT = b"potluck.node.v1 leave\n"

STRANGER = Actor("stranger", "stranger", "")
"""who acts until token or signature say whose machine it is"""


class Enrolled(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine has to know about itself; `row` is the node's, `organisation` a name; `again`: told before."""

    row: Row
    organisation: str
    again: bool = False

    @property
    def max_price(self) -> NodePrice | None:
        return max_price_of(self.row)


class Applicant(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that wants in, and what it signed."""

    token: str
    public_key: bytes
    name: str
    challenge: str
    proof: bytes
    origin: str
    """under which it dialled, as the gateway sees it"""
    agent: str = ""
    os: str = ""
    arch: str = ""

    def __repr__(self) -> str:
        return f"Applicant({self.name!r})"


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of itself and signed with the key of that id."""

    node: str
    key: str
    challenge: str
    proof: bytes
    origin: str


def new_challenge(vault: Vault, now_s: float) -> str:
    """What a machine has to sign: the time, and a keyed hash of it."""
    at = f"{int(now_s):x}"
    return f"{at}.{_challenge_hash(vault, at)}"


def check_challenge(vault: Vault, challenge: str, now_s: float) -> None:
    """Raises 400 for one that this gateway did not make, or that is too old."""
    at, _, hashed = challenge.partition(".")
    if not compare_digest(hashed.encode(), _challenge_hash(vault, at).encode()):
        raise invalid("challenge", "this gateway did not make that challenge: ask for one with GET /node/v1/enroll")
    if not 0 <= now_s - int(at, 16) <= CHALLENGE_KEPT_S:
        raise invalid("challenge", f"the challenge is older than {CHALLENGE_KEPT_S} seconds: ask for a new one")


def check_applicant(vault: Vault, applicant: Applicant, now_s: float) -> None:
    """What needs no store. Raises 400 for challenge or proof, 401 for what is no token at all."""
    check_challenge(vault, applicant.challenge, now_s)
    said = (applicant.origin.encode(), applicant.challenge.encode(), applicant.public_key)
    message = signed(ENROLL_CONTEXT, *said, sha256(applicant.token.encode()).digest())
    if not verify(applicant.public_key, message, applicant.proof):
        raise invalid(
            "proof",
            f"the signature does not fit: it is to be made with the new key, over the origin {applicant.origin} and "
            "what docs/reference/node-enrolment.md says",
        )
    if not has_shape(applicant.token, "plj"):
        raise no_such_token()


def enrol(applicant: Applicant) -> Callable[[Work], Enrolled]:
    """The operation that spends the token and makes the node, once `check_applicant` has passed.

    It raises 401 for a token that is not good, 409 when the key is enrolled by another one.
    """

    def run(work: Work) -> Enrolled:
        known = _enrolled_by(work, applicant)
        if known is not None:
            return Enrolled(row=known, organisation=_organisation(work, known["organisation_id"]), again=True)
        token = _spent(work, applicant.token)
        work.actor = Actor(token["id"], token["name"], token["organisation_id"])
        if _key_is_known(work, applicant.public_key):
            raise conflict(
                "this public key is enrolled already: make a new key pair for a new node", "already_enrolled"
            )
        row = work.insert(
            t.nodes,
            "another machine took that name just now: try again",
            id=new_id("node"),
            name=_free_name(work, applicant.name),
            state="approved" if token["approved"] else "pending",
            join_token_id=token["id"],
            key_id=new_id("nky"),
            public_key=applicant.public_key,
            agent=applicant.agent,
            offer=msgspec.json.encode(Offer(os=applicant.os, arch=applicant.arch)).decode(),
            **{member: token[member] for member in ("owner", "community", "ephemeral", "tags", "max_models")},
            max_price=token["max_price"],
        )
        work.touch(nodes=[row["id"]])
        work.audit("node.enrol", row["id"], row["name"], token=token["name"], state=row["state"], agent=row["agent"])
        return Enrolled(row=row, organisation=_organisation(work, work.organisation_id))

    return run


def rotate(said: Signed, public_key: bytes, proof_new: bytes) -> Callable[[Work], str]:
    """The operation that puts a new key in force; it gives the key's id. Asked again, the id is the same.

    It raises 400 for the new key's proof, 401 for the old one's, 409 when the new key is known already.
    """

    def run(work: Work) -> str:
        message = signed(ROTATE_CONTEXT, said.origin.encode(), said.challenge.encode(), said.node.encode(), public_key)
        row = _signer(work, said, message)
        if not verify(public_key, message, proof_new):
            raise invalid("proof_new", "the signature does not fit the new public key")
        if row["public_key"] == public_key and row["key_id"] != said.key:
            return str(row["key_id"])  # the answer was lost on its way
        if row["key_id"] != said.key:
            raise _no_such_node()
        if _key_is_known(work, public_key):
            raise conflict("this public key is in use already: make a new key pair", "already_enrolled")
        changed = work.update(
            t.nodes,
            row,
            "this public key is in use already: make a new key pair",
            key_id=new_id("nky"),
            public_key=public_key,
            previous_key_id=row["key_id"],
            previous_public_key=row["public_key"],
            previous_until_ms=work.now_ms + ROTATED_KEPT_S * 1000,
        )
        work.touch(nodes=[row["id"]])
        work.audit("node.rotate", row["id"], row["name"], key=changed["key_id"])
        return str(changed["key_id"])

    return run


def leave(said: Signed) -> Callable[[Work], None]:
    """The operation by which a node revokes itself. It raises 401."""

    def run(work: Work) -> None:
        message = signed(LEAVE_CONTEXT, said.origin.encode(), said.challenge.encode(), said.node.encode())
        revoke_row(work, _signer(work, said, message), "node.leave")

    return run


def no_such_token() -> OperationError:
    """401: nothing is said of why."""
    return OperationError(
        401, "invalid_token", "this join token is not known, or is expired, used up or revoked: ask for a new one"
    )


def key_bytes(text: str, where: str, length: int) -> bytes:
    """Base64url, with or without padding, of exactly so many bytes. Raises 400."""
    try:
        raw = urlsafe_b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))
    except ValueError:
        raw = b""
    if len(raw) != length:
        raise invalid(where, f"must be {length} bytes in base64url")
    return raw


def public_key_of(text: str, where: str = "public_key") -> bytes:
    return key_bytes(text, where, PUBLIC_KEY_BYTES)


def proof_of(text: str, where: str = "proof") -> bytes:
    return key_bytes(text, where, SIGNATURE_BYTES)


def _challenge_hash(vault: Vault, at: str) -> str:
    return blake2b(at.encode(), digest_size=16, key=vault.pepper, person=b"node challenge").hexdigest()


def _enrolled_by(work: Work, applicant: Applicant) -> Row | None:
    """The live node that this key became by this token, however much of the token is left."""
    spent = sa.select(t.join_tokens.c.id).where(t.join_tokens.c.hash == work.vault.hash(applicant.token.encode()))
    return work.row(
        sa.select(t.nodes).where(
            t.nodes.c.public_key == applicant.public_key,
            t.nodes.c.join_token_id == spent.scalar_subquery(),
            t.nodes.c.revoked_at_ms.is_(None),
        )
    )


def _organisation(work: Work, organisation_id: str) -> str:
    names = sa.select(t.organisations.c.name).where(t.organisations.c.id == organisation_id)
    return str(work.connection.execute(names).scalar())


def _spent(work: Work, token: str) -> Row:
    """The token's row after one use of it. Raises 401."""
    tokens = t.join_tokens
    good = (
        tokens.c.hash == work.vault.hash(token.encode()),
        tokens.c.revoked_at_ms.is_(None),
        tokens.c.expires_at_ms > work.now_ms,
        sa.or_(tokens.c.uses_left.is_(None), tokens.c.uses_left > 0),
    )
    row = work.row(sa.select(tokens).where(*good))
    spent: Any = work.connection.execute(sa.update(tokens).where(*good).values(uses_left=tokens.c.uses_left - 1))
    if row is None or spent.rowcount != 1:
        raise no_such_token()
    return row


def _signer(work: Work, said: Signed, message: bytes) -> Row:
    """The live node that signed the message, by its key in force or the one before; it acts henceforth. Raises 401."""
    row = work.row(sa.select(t.nodes).where(t.nodes.c.id == said.node, t.nodes.c.revoked_at_ms.is_(None)))
    keys: dict[str, bytes] = {}
    if row is not None:
        keys[row["key_id"]] = row["public_key"]
        if (row["previous_until_ms"] or 0) > work.now_ms:
            keys[row["previous_key_id"]] = row["previous_public_key"]
    if row is None or not verify(keys.get(said.key, b""), message, said.proof):
        raise _no_such_node()
    work.actor = Actor(row["id"], row["name"], row["organisation_id"])
    return row


def _no_such_node() -> OperationError:
    return OperationError(
        401, "invalid_proof", "no enrolled node has that id, key and signature: it may be revoked; enrol it anew"
    )


def _key_is_known(work: Work, public_key: bytes) -> bool:
    """Of any node, revoked ones too: a key that somebody may have copied does not come back."""
    known = sa.or_(t.nodes.c.public_key == public_key, t.nodes.c.previous_public_key == public_key)
    return work.row(sa.select(t.nodes.c.id).where(known)) is not None


def _free_name(work: Work, wanted: str) -> str:
    """The name, or with the first free number after it: `lab-1`, `lab-1-2`."""
    live = sa.select(t.nodes.c.name).where(
        t.nodes.c.organisation_id == work.organisation_id, t.nodes.c.revoked_at_ms.is_(None)
    )
    taken = {row["name"] for row in work.rows(live)}
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted[: MAX_NAME_CHARS - len(str(number)) - 1]}-{number}"
    return name
