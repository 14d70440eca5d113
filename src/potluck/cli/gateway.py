"""Client of the gateway's HTTP interface, on the standard library: it is imported by every short command."""

import http.client
import json
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from potluck import __version__
from potluck.cli.failure import FAILED, NO_CONNECTION, USAGE, Failure
from potluck.model.secret import Secret

TIMEOUT_S = 15.0
"""silence of the gateway"""
PAGE = 200
_NAMELESS = frozenset({"/requests"})
"""collections whose objects have an id only: there is no name to look for"""
_GROUPS = {"/nodes": "nodes", "/join-tokens": "nodes token"}
"""command groups that are not called as one object is"""


class Refused(Failure):
    """The gateway answered, and not with success. `http_status` says how, `body` is what it said."""

    def __init__(self, message: str, http_status: int, body: Any) -> None:
        super().__init__(message, FAILED)
        self.http_status = http_status
        self.body = body


class Answer:
    """Status, headers and body of one answer."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        """The body decoded; None when it is empty. Raises Failure when it is not JSON."""
        if not self.body:
            return None
        try:
            return json.loads(self.body)
        except ValueError:
            raise Failure("the answer is not JSON: check --url or POTLUCK_URL") from None


class Gateway:
    """Calls with a token. Raises Failure with exit status 3 when there is no connection, Refused on an error."""

    def __init__(self, url: str, token: Callable[[], Secret], timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Failure(f"--url {url!r} is not an address: write http://127.0.0.1:7171", USAGE)
        self.url = url
        self._parts = parts
        self._token = token
        self._timeout_s = timeout_s

    def get(self, path: str, **query: Any) -> Any:
        return self.call("GET", path, query=query)

    def post(self, path: str, body: Any = None) -> Any:
        return self.call("POST", path, body)

    def patch(self, path: str, body: Any) -> Any:
        return self.call("PATCH", path, body)

    def delete(self, path: str) -> Any:
        return self.call("DELETE", path)

    def pages(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Every object of a list, page by page."""
        cursor: str | None = None
        while True:
            page = self.get(path, limit=PAGE, cursor=cursor, **query)
            yield from page["data"]
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def path_of(self, collection: str, ref: str, **query: Any) -> str:
        """The path of an object by id or name. A name with `/` in it is no path segment: its id is looked up."""
        kind = collection.strip("/").removesuffix("s").replace("-", " ")
        listing = f"`potluck {_GROUPS.get(collection, kind)} list` shows what there is"
        if not ref:
            raise Failure(f"which {kind}? an empty name or id is none: {listing}", USAGE)
        if "/" not in ref and ref not in (".", ".."):
            return f"{collection}/{_segment(ref)}"
        if collection not in _NAMELESS:
            for each in self.pages(collection, **query):
                if ref in (each["name"], f"{each.get('provider')}/{each['name']}"):
                    return f"{collection}/{_segment(each['id'])}"
        raise Failure(f"there is no {kind} {ref!r}: {listing}")

    def call(self, method: str, path: str, body: Any = None, *, query: Mapping[str, Any] | None = None) -> Any:
        """One call of the admin API (`path` below `/api/v1`), its decoded answer."""
        answer = self.send(method, f"/api/v1{path}", body, query=query, token=self._token())
        if answer.status >= 400:
            raise refusal(answer, self.url)
        if not answer.headers.get("x-request-id", "").startswith("req_"):
            raise Failure(f"{self.url} answers, but is no Potluck gateway: check --url or POTLUCK_URL")
        return answer.json()

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        token: Secret | None = None,
    ) -> Answer:
        """One exchange with the gateway, whatever its status."""
        said = {name: value for name, value in (query or {}).items() if value is not None}
        asked = f"?{urlencode(said, doseq=True, errors='surrogateescape')}" if said else ""
        target = f"{self._parts.path.rstrip('/')}{path}{asked}"
        headers = {"accept": "application/json", "user-agent": f"potluck/{__version__}"}
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            headers["content-type"] = "application/json"
        if token is not None:
            headers["authorization"] = f"Bearer {token.reveal()}"
        connection = self.connect()
        try:
            connection.request(method, target, payload, headers)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        except (OSError, http.client.HTTPException) as error:
            raise no_connection(self.url, error, listens=connection.sock is not None) from None
        except (UnicodeEncodeError, ValueError):
            raise Failure(
                "the token holds characters that no token has: give the whole token and only it", USAGE
            ) from None
        finally:
            connection.close()

    def connect(self) -> http.client.HTTPConnection:
        """A connection of one's own, for answers that are read as they come."""
        host = self._parts.hostname or ""
        try:
            port = self._parts.port
        except ValueError:
            raise Failure(f"--url {self.url!r} has no valid port", USAGE) from None
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=self._timeout_s)
        return http.client.HTTPConnection(host, port, timeout=self._timeout_s)


def _segment(text: str) -> str:
    # an argument that is no UTF-8 is sent as its bytes: the gateway knows no such name and says so
    return quote(text, safe="", errors="surrogateescape")


def refusal(answer: Answer, url: str) -> Refused:
    """An error answer (RFC 9457, or the data plane's envelope) as one line."""
    try:
        body = json.loads(answer.body)
    except ValueError:
        body = None
    said = ""
    if isinstance(body, dict):
        error = body.get("error")
        said = str(
            body.get("detail") or (error.get("message") if isinstance(error, dict) else "") or body.get("title") or ""
        )
    if answer.status == 401:
        said = f"{url} does not accept this admin token: give --token or set POTLUCK_ADMIN_TOKEN or POTLUCK_HOME"
    return Refused(said or f"the gateway answered {answer.status}", answer.status, body)


def no_connection(url: str, error: Exception, *, listens: bool = False) -> Failure:
    """Why there was no answer, and what to do. `listens`: the connection itself was made."""
    mend = "start it with `potluck serve`, or name another with --url"
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"its certificate is not trusted ({error.verify_message})"
        mend = "put its authority into the file that SSL_CERT_FILE names"
    elif isinstance(error, ssl.SSLError):
        why, mend = "it does not speak TLS", "write http:// in --url"
    elif isinstance(error, socket.gaierror):
        why, mend = "the host name is not known", "mend --url or POTLUCK_URL"
    elif isinstance(error, TimeoutError) and listens:
        return Failure(f"something listens at {url} and does not answer: is that the gateway?", NO_CONNECTION)
    elif isinstance(error, TimeoutError):
        why = "no answer in time"
    elif isinstance(error, OSError) and error.errno:
        why = os.strerror(error.errno).lower()
    else:
        why, mend = "the connection broke before an answer", "is --url the address of a Potluck gateway?"
    return Failure(f"could not connect to {url}: {why}; {mend}", NO_CONNECTION)
