"""`/install.sh`, `/install.ps1` and what they download: for a machine that is to become a node and knows nobody yet.

Rule: public, since there is no secret in them. A script speaks of the gateway by the address that it was asked for
under, and only where that address is this gateway's (421 otherwise). All is revalidated on every use: a script and a
wheel of two versions must not meet.
"""

from collections.abc import Callable

from litestar import Response, get
from litestar.params import FromPath

from potluck.admin.errors import OperationError, not_found
from potluck.admin.installers import LISTS, InstallerError, Kit, Piece, Script
from potluck.admin.rest.auth import PUBLIC, AdminRequest
from potluck.admin.rest.deps import Deps
from potluck.config.origins import OriginError, claimed_origin

SHELL = "text/x-shellscript"
TEXT = "text/plain"
"""Litestar says UTF-8 of every text by itself"""
WHEEL = "application/zip"


@get("/install.sh", opt=PUBLIC, include_in_schema=False, sync_to_thread=True)
def shell_script(request: AdminRequest) -> Response[bytes]:
    """The installer for Linux and macOS."""
    return _script(request, "install.sh", SHELL)


@get("/install.ps1", opt=PUBLIC, include_in_schema=False, sync_to_thread=True)
def windows_script(request: AdminRequest) -> Response[bytes]:
    """The installer for Windows."""
    return _script(request, "install.ps1", TEXT)


@get("/install/{name:str}", opt=PUBLIC, include_in_schema=False, sync_to_thread=True)
def piece(request: AdminRequest, name: FromPath[str]) -> Response[bytes]:
    """The wheel, of this very version, or a requirement list."""
    kit = _kit(request)
    if name == kit.wheel_path.name:
        return _answer(request, kit.wheel, WHEEL)
    if name in LISTS:
        return _answer(request, lambda: kit.requirements(name), TEXT)
    raise not_found("file of an installer", name)


def _kit(request: AdminRequest) -> Kit:
    state = request.app.state
    if "kit" not in state:
        deps: Deps = state.deps
        state["kit"] = Kit(deps.store.home)
    kit: Kit = state["kit"]
    return kit


def _script(request: AdminRequest, name: Script, media_type: str) -> Response[bytes]:
    deps: Deps = request.app.state.deps
    server = request.scope.get("server")
    try:
        origin = claimed_origin(
            request.headers.get("host", ""),
            tls=request.scope["scheme"] in ("https", "wss"),
            public_url=deps.public_url,
            own_names=deps.own_names,
            socket_address=str(server[0]) if server else "",
        )
    except OriginError as error:
        raise OperationError(421, "wrong_origin", str(error)) from None
    return _answer(request, lambda: _kit(request).script(name, origin), media_type)


def _answer(request: AdminRequest, make: Callable[[], Piece], media_type: str) -> Response[bytes]:
    try:
        found = make()
    except InstallerError as error:
        raise OperationError(503, "installers_unavailable", str(error)) from error
    tag = f'"{found.sha256}"'
    headers = {"cache-control": "no-cache", "etag": tag, "x-content-type-options": "nosniff"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(b"", status_code=304, headers=headers)
    return Response(found.content, media_type=media_type, headers=headers)


ROUTES = [shell_script, windows_script, piece]
