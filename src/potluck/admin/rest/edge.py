"""The outermost layer: gives each request its id, and each answer its id and the headers that keep browsers careful."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from potluck.model.ids import RequestIds

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CSP = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)


class Edge:
    """Wraps the application. A `HEAD` is served as the `GET` it stands for; the server drops the body."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = self._ids.next()
        inner = {**scope, "state": {**(scope.get("state") or {}), "request_id": request_id}}
        if scope["method"] == "HEAD":
            inner["method"] = "GET"

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": self._with_headers(message, request_id)}
            await send(message)

        await self.app(inner, receive, answer)

    @staticmethod
    def _with_headers(message: MutableMapping[str, Any], request_id: str) -> list[tuple[bytes, bytes]]:
        headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
        have = {name for name, _ in headers}
        headers.append((b"x-request-id", request_id.encode()))
        headers += [(name, value) for name, value in _HEADERS if name not in have]
        if b"content-security-policy" not in have:
            headers.append((b"content-security-policy", CSP.encode()))
        if b"cache-control" not in have:
            headers.append((b"cache-control", b"no-store"))
        return headers
