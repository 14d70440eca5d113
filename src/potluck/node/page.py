"""The status page on loopback, and the orders that the command line gives to the running agent.

Rules of this file
- It listens on 127.0.0.1 only, and answers only if the Host field names that: a site whose name was made to point here
  gets nothing.
- Whoever can connect may read how the node is. Orders need the token of `agent.json`, which only the owner can read: as
  a bearer, or as the cookie that `/enter/TOKEN` sets, with the form's own token and no foreign Origin.
- No script: HTML that reloads itself, and forms. The policy forbids everything else.
- A request is small, comes in time, and is the only one on its connection.
"""

import asyncio
import contextlib
import hmac
import secrets
import time
from collections.abc import Callable
from hashlib import sha256
from html import escape
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

MAX_REQUEST_BYTES: Final = 8 * 1024
REQUEST_S: Final = 5.0
PORTS_TRIED: Final = 20
RELOAD_S: Final = 5
COOKIE: Final = "potluck_node"
_HEADERS: Final = (
    "cache-control: no-store\r\n"
    "content-security-policy: default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'\r\n"
    "referrer-policy: no-referrer\r\n"
    "x-content-type-options: nosniff\r\n"
    "connection: close\r\n"
)
_STATUS: Final = {
    200: "OK",
    303: "See Other",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    421: "Misdirected Request",
}
_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}form{display:inline}
th,td{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #ddd}
button{font:inherit;padding:.3rem .8rem;margin-right:.5rem}
.ready{color:#176b2c}.paused,.pending,.draining{color:#8a5a00}.joining,.stopped{color:#a11}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}th,td{border-color:#333}
.ready{color:#6c8}.paused,.pending,.draining{color:#db5}.joining,.stopped{color:#f77}}
"""


class _Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes = b""
    kind: str = "text/plain; charset=utf-8"
    extra: str = ""


class Page:
    """Serves it. `report()`: what is shown; `order(action, for_s)`: `pause`, `resume`, `drain` or `stop`."""

    def __init__(self, report: Callable[[], dict[str, Any]], order: Callable[[str, float | None], None]) -> None:
        self._report = report
        self._order = order
        self.token = secrets.token_urlsafe(24)
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self, port: int) -> None:
        """Listen at `port` or the next free one; 0: any. Raises OSError."""
        for tried in range(port, min(port + PORTS_TRIED, 65_536)) if port else (0,):
            with contextlib.suppress(OSError):
                self._server = await asyncio.start_server(self._serve, "127.0.0.1", tried, limit=MAX_REQUEST_BYTES)
                self.port = self._server.sockets[0].getsockname()[1]
                return
        raise OSError(f"no free port from {port} on")

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                fields = {name.strip().lower(): value.strip() for name, _, value in (x.partition(":") for x in head)}
                size = fields.get("content-length", "0")
                if not (size.isascii() and size.isdigit()) or int(size) > MAX_REQUEST_BYTES:
                    return
                body = await reader.readexactly(int(size))
                method, path, *_ = [*head[0].split(" "), "", ""]
                answer = self._answer(method, path, fields, body)
                lines = (
                    f"HTTP/1.1 {answer.status} {_STATUS[answer.status]}\r\ncontent-type: {answer.kind}\r\n"
                    f"content-length: {len(answer.body)}\r\n{_HEADERS}{answer.extra}\r\n"
                )
                writer.write(lines.encode("latin-1") + answer.body)
                await writer.drain()
        except (OSError, TimeoutError, EOFError, ValueError, asyncio.LimitOverrunError):
            pass  # whoever it was does not speak HTTP
        finally:
            writer.close()

    def _answer(self, method: str, path: str, fields: dict[str, str], body: bytes) -> _Answer:
        own = (f"127.0.0.1:{self.port}", f"localhost:{self.port}")
        if fields.get("host", "").lower() not in own:
            return _Answer(421, b"this page is at 127.0.0.1\n")
        is_owner = self._is_owner(fields)
        if method == "POST" and path.startswith("/control/"):
            form = {name: values[-1] for name, values in parse_qs(body.decode("latin-1")).items()}
            bearer = _same(fields.get("authorization", ""), f"Bearer {self.token}")
            same_site = fields.get("origin", f"http://{own[0]}") in [f"http://{each}" for each in own]
            asked_here = is_owner and same_site and _same(form.get("csrf", ""), self._csrf())
            if not (bearer or asked_here):
                return _Answer(403, b"an order needs the token: potluck node status --page\n")
            return self._obey(path.removeprefix("/control/"), form, is_page=not bearer)
        if method != "GET":
            return _Answer(405, b"\n")
        if path.startswith("/enter/"):
            if not _same(path.removeprefix("/enter/"), self.token):
                return _Answer(403, b"this is not its token: potluck node status --page\n")
            cookie = f"set-cookie: {COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/\r\n"
            return _Answer(303, extra=f"location: /\r\n{cookie}")
        if path == "/status.json":
            return _Answer(200, msgspec.json.encode(self._report()), "application/json")
        if path == "/":
            return _Answer(200, self._html(is_owner).encode(), "text/html; charset=utf-8")
        return _Answer(404, b"there is / and /status.json\n")

    def _obey(self, action: str, form: dict[str, str], *, is_page: bool) -> _Answer:
        try:
            for_s = float(form["for_s"]) if form.get("for_s") else None
            if action not in ("pause", "resume", "drain", "stop") or not (for_s is None or 0 < for_s < 10**8):
                raise ValueError(action)
        except ValueError:
            return _Answer(400, b"orders are pause, resume, drain and stop\n")
        self._order(action, for_s)
        if is_page:
            return _Answer(303, extra="location: /\r\n")
        return _Answer(200, msgspec.json.encode(self._report()), "application/json")

    def _is_owner(self, fields: dict[str, str]) -> bool:
        for each in fields.get("cookie", "").split(";"):
            name, _, value = each.strip().partition("=")
            if name == COOKIE and _same(value, self.token):
                return True
        return False

    def _csrf(self) -> str:
        return hmac.new(self.token.encode(), b"form", sha256).hexdigest()

    def _html(self, is_owner: bool) -> str:
        said = self._report()
        until = f" (until {_clock(said['until'])})" if said["until"] else ""
        name, state = escape(said["name"]), said["state"]
        top = (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}: {state}</title>"
            f"<meta http-equiv=refresh content={RELOAD_S}><meta name=viewport content='width=device-width'>"
            f"<style>{_STYLE}</style><h1>{name} <span class={state}>{state}</span></h1>"
            f"<p>{escape(said['reason'][:1].upper() + said['reason'][1:])}{until}.</p>"
        )
        parts = [top]
        if is_owner:
            parts.append("<p>" + "".join(self._button(*each) for each in _BUTTONS) + "</p>")
        else:
            parts.append("<p>Buttons: <code>potluck node status --page</code></p>")
        parts.append(
            f"<p>Gateway {escape(said['gateway'])}; {said['running']} of {said['slots']} slots in use, "
            f"{said['waiting']} waiting; mode {escape(','.join(said['mode']))}; somebody at the machine: "
            f"{escape({'active': 'yes', 'idle': 'no'}.get(said['presence'], 'not known'))}.</p>"
        )
        parts.append(_table("Models", said["models"], ("name", "engine", "context_tokens", "resident", "running")))
        parts.append(_table("Links", said["links"], ("up", "rtt_ms", "next_try_s", "last_end")))
        counts = [{"what": what, "count": count} for what, count in {**said["ends"], **said["refusals"]}.items()]
        parts.append(_table("Requests since the start", counts, ("what", "count")))
        parts.append(_table("Found, not shared", [{"what": each} for each in said["withheld"]], ("what",)))
        errors = [{"when": _clock(each["at"]), "what": each["what"]} for each in reversed(said["errors"])]
        parts.append(_table("Last errors", errors, ("when", "what")))
        return "".join(parts)

    def _button(self, action: str, label: str, for_s: str) -> str:
        return (
            f"<form method=post action=/control/{action}><input type=hidden name=csrf value={self._csrf()}>"
            f"<input type=hidden name=for_s value='{for_s}'><button>{label}</button></form>"
        )


_BUTTONS: Final = (
    ("pause", "Pause now", ""),
    ("pause", "Pause for an hour", "3600"),
    ("drain", "Drain", ""),
    ("resume", "Resume", ""),
)


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode())


def _table(title: str, rows: list[dict[str, Any]], members: tuple[str, ...]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{member.replace('_', ' ')}" for member in members)
    lines = "".join("<tr>" + "".join(f"<td>{escape(_plain(row[each]))}" for each in members) for row in rows)
    return f"<h2>{title}</h2><table><tr>{head}{lines}</table>"


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _clock(unix_s: float) -> str:
    return time.strftime("%a %H:%M:%S", time.localtime(unix_s))
