"""Join tokens: what lets machines enrol. Made, listed, revoked here; spent in `enrolment`.

Rule: a token carries the terms of every node that comes by it. Revoking it ends new enrolments, and no node.
"""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from potluck.admin.errors import conflict
from potluck.admin.operations.node_views import (
    JoinTokenView,
    MadeJoinToken,
    NodePriceEntry,
    join_token_view,
    made_join_token,
)
from potluck.admin.operations.nodes import check_owner
from potluck.admin.operations.work import Work
from potluck.identity.keys import hint, new_secret
from potluck.model.ids import new_id
from potluck.store import tables as t

DEFAULT_LIFETIME_S = 86_400
MIN_LIFETIME_S = 3600
MAX_LIFETIME_S = 90 * 86_400
MAX_USES = 10_000


def create_join_token(
    work: Work,
    *,
    name: str | None = None,
    uses: int | None = 1,
    lifetime_s: int = DEFAULT_LIFETIME_S,
    needs_approval: bool | None = None,
    ephemeral: bool = False,
    community: bool = False,
    owner: str = "",
    tags: Sequence[str] = (),
    max_models: int | None = None,
    max_price: NodePriceEntry | None = None,
) -> MadeJoinToken:
    """Make a token; `uses=None`: without end. Own machines need no approval unless told, the community's do.

    Raises 400, 404 (project), 409 (name taken).
    """
    check_owner(work, owner)
    token_id = new_id("jtk")
    name = name or f"join-{token_id[-6:]}"
    mine = t.join_tokens.c.organisation_id == work.organisation_id
    live = sa.select(t.join_tokens.c.id).where(
        mine, t.join_tokens.c.name == name, t.join_tokens.c.revoked_at_ms.is_(None)
    )
    taken = f"there is a join token {name!r} already: choose another name, or revoke that one first"
    if work.row(live):
        raise conflict(taken, "already_exists")
    secret = new_secret("plj")
    approved = not (community if needs_approval is None else needs_approval)
    row = work.insert(
        t.join_tokens,
        taken,
        id=token_id,
        name=name,
        hash=work.vault.hash(secret.encode()),
        hint=hint(secret),
        uses_left=uses,
        approved=approved,
        ephemeral=ephemeral,
        community=community,
        owner=owner,
        tags=msgspec.json.encode(tags).decode(),
        max_models=max_models,
        max_price=None if max_price is None else msgspec.json.encode(max_price.to_price()).decode(),
        expires_at_ms=work.now_ms + lifetime_s * 1000,
    )
    work.audit(
        "join_token.create",
        token_id,
        name,
        uses=uses,
        expires_at_ms=row["expires_at_ms"],
        approved=approved,
        community=community,
        ephemeral=ephemeral,
        owner=owner,
    )
    return made_join_token(row, work.now_ms, secret)


def show_join_token(work: Work, ref: str) -> JoinTokenView:
    """One token: by id also when it is revoked, by name only while it is not. Raises 404."""
    mine = t.join_tokens.c.organisation_id == work.organisation_id
    row = work.row(sa.select(t.join_tokens).where(mine, t.join_tokens.c.id == ref))
    row = row or work.find(t.join_tokens, "join token", ref, t.join_tokens.c.revoked_at_ms.is_(None))
    return join_token_view(row, work.now_ms)


def revoke_join_token(work: Work, ref: str) -> JoinTokenView:
    """No machine enrols by it any more; again, by id, is no error. Raises 404."""
    found = show_join_token(work, ref)
    if found.revoked_at_ms is not None:
        return found
    row = work.find(t.join_tokens, "join token", found.id)
    changed = work.update(t.join_tokens, row, revoked_at_ms=work.now_ms)
    work.audit("join_token.revoke", row["id"], row["name"])
    return join_token_view(changed, work.now_ms)
