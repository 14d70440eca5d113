"""Who calls. Every route is closed unless it says `public`, in which case it serves nothing of anybody's."""

import ipaddress
import time
from hashlib import blake2b
from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler

from potluck.admin.control import Control
from potluck.admin.errors import invalid
from potluck.admin.operations.tokens import actor_of
from potluck.admin.operations.work import Actor, Idempotency

PUBLIC = {"public": True}
"""`opt` of a route that needs no token"""
ADMIN_PREFIX = "pla-"
CHALLENGE = {"www-authenticate": "Bearer"}

FromGateway = NamedDependency[Control]
"""the parameter `control` of a handler"""
AnyConnection = ASGIConnection[Any, Any, Any, Any]
AdminRequest = Request[Actor, Any, Any]


async def require_token(connection: AnyConnection, handler: BaseRouteHandler) -> None:
    """The guard of the whole application. Sets the connection's user, an `Actor`. Raises 401, 403."""
    if handler.opt.get("public"):
        return
    actor = await identify(connection)
    if actor is None:
        raise NotAuthorizedException(
            "an admin token is needed: Authorization: Bearer pla-… (HOME/admin-token has the first one)",
            headers=CHALLENGE,
        )
    if actor.role != "admin" and connection.scope["method"] not in ("GET", "HEAD"):  # type: ignore[typeddict-item]
        raise PermissionDeniedException(f"the token {actor.name!r} may look, not change: use an admin's")
    connection.scope["user"] = actor


async def identify(connection: AnyConnection) -> Actor | None:
    """Whose token the connection shows, if it is a good one."""
    control: Control = connection.app.state.control
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token.startswith(ADMIN_PREFIX):
        return None
    hashed = control.vault.hash(token.encode("latin-1", "replace"))
    now_ms = int(time.time() * 1000)
    return await control.store.read(lambda store: actor_of(store, hashed, now_ms))


def is_local(connection: AnyConnection) -> bool:
    """Whether the caller is on this machine itself, not behind a proxy that is."""
    if connection.client is None or "x-forwarded-for" in connection.headers or "forwarded" in connection.headers:
        return False
    try:
        return ipaddress.ip_address(connection.client.host.partition("%")[0]).is_loopback
    except ValueError:
        return False


async def idempotency_of(request: AdminRequest, status: int) -> Idempotency | None:
    """What the request's `Idempotency-Key` stands for; None when it has none. Raises 400 for one that cannot be."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise invalid("idempotency-key", "an Idempotency-Key is 1 to 255 printable ASCII characters")
    # keyed: the body may hold a secret
    control: Control = request.app.state.control
    digest = blake2b(digest_size=32, key=control.vault.pepper)
    digest.update(f"{request.method} {request.url.path}\n".encode())
    digest.update(await request.body())
    return Idempotency(request.user.id, key, digest.digest(), status)
