"""Admin tokens: who may use the admin API. Stored as keyed hashes, as API keys are."""

import sqlalchemy as sa

from potluck.admin.operations.work import Actor, Work
from potluck.identity.keys import hint
from potluck.model.ids import new_id
from potluck.model.secret import Secret
from potluck.store import tables as t


def create_token(work: Work, name: str, role: str, *, secret: Secret) -> str:
    """Store a token; returns its id. `role`: `admin`, or `auditor` (may look, not change)."""
    row = work.insert(
        t.admin_tokens,
        "there is such a token already",
        id=new_id("tok"),
        name=name,
        role=role,
        hash=work.vault.hash(secret.reveal().encode()),
        hint=hint(secret.reveal()),
    )
    work.audit("token.create", row["id"], name, role=role)
    return str(row["id"])


def actor_of(connection: sa.Connection, token_hash: bytes, now_ms: int) -> Actor | None:
    """Who a token's hash belongs to (the actor's id is the token's); None for an unknown, revoked or expired one."""
    tokens = t.admin_tokens
    row = connection.execute(sa.select(tokens).where(tokens.c.hash == token_hash)).mappings().first()
    if row is None or row["revoked_at_ms"] is not None:
        return None
    if row["expires_at_ms"] is not None and row["expires_at_ms"] <= now_ms:
        return None
    return Actor(row["id"], row["name"], row["organisation_id"], row["role"])
