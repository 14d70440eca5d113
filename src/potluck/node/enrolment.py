"""Joining a gateway, changing the key, leaving: three short conversations over HTTP, made by a command.

Rules of this file
- The gateway is held to the address that its owner typed: it has to name the same origin, no redirect is followed, and
  the key that it shows is pinned. What it says is checked as a stranger's word.
- Plain http only to loopback, unless the owner said `--insecure`.
- The private key never leaves the machine; what is signed names the gateway's origin and its challenge, so that nobody
  can use it elsewhere. The join token goes in the body, never in the address.
"""

import http.client
import platform
import socket
import ssl
import sys
import urllib.error
import urllib.request
from hashlib import sha256
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from potluck import __version__
from potluck.config.origins import OriginError, origin_of
from potluck.engines.asking import is_loopback
from potluck.model.node import NodePrice
from potluck.model.secret import Secret
from potluck.node.home import Enrolled
from potluck.node.identity import Identity, from_text, to_text
from potluck.wire.link_messages import Id, Origin, Text, signed

ENROLL_CONTEXT = b"potluck.node.v1 enroll\n"
ROTATE_CONTEXT = b"potluck.node.v1 rotate\n"
LEAVE_CONTEXT = b"potluck.node.v1 leave\n"
ENROLL_PATH = "/node/v1/enroll"
MAX_ENROLMENT_ANSWER_BYTES = 64 * 1024
TIMEOUT_S = 20.0
AGENT = f"potluck/{__version__}"

T = TypeVar("T")


class EnrolmentError(Exception):
    """It did not come about. One line: what, why, how to mend it. `connected`: the gateway did answer, with `status`,
    which is 0 where no HTTP status was the reason."""

    def __init__(self, message: str, *, connected: bool = True, status: int = 0) -> None:
        super().__init__(message)
        self.connected = connected
        self.status = status


class _Offer(msgspec.Struct):
    """What a gateway says of itself."""

    challenge: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    origin: Origin
    gateway_key: Annotated[str, msgspec.Meta(max_length=64)]


class Joined(msgspec.Struct):
    """The answer to enrolment."""

    node: Id
    name: Text
    key: Id
    state: Text
    origin: Origin
    gateway_key: Annotated[str, msgspec.Meta(max_length=64)]
    organisation: Text = ""
    owner: Text = ""
    community: bool = False
    max_price: NodePrice | None = None
    max_models: int | None = None


class _Rotated(msgspec.Struct):
    key: Id


class Gateway:
    """A gateway's enrolment interface, at the address that somebody typed. Blocking; raises EnrolmentError."""

    def __init__(self, url: str, *, insecure: bool = False, ca_file: str = "", timeout_s: float = TIMEOUT_S) -> None:
        self.url, self.origin = checked_address(url, insecure=insecure)
        self._insecure, self._ca_file, self._timeout_s = insecure, ca_file, timeout_s
        host = urlsplit(self.origin).hostname or ""
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if is_loopback(host):
            handlers.append(urllib.request.ProxyHandler({}))
        if self.origin.startswith("https:"):
            handlers.append(urllib.request.HTTPSHandler(context=trust(ca_file)))
        self._opener = urllib.request.build_opener(*handlers)

    def enroll(self, token: Secret, identity: Identity, name: str) -> tuple[Enrolled, str, str]:
        """Become a node: what to keep, the key's id, and the state (`approved`, `pending`)."""
        offer = self._ask()
        public = identity.public
        under = signed(
            ENROLL_CONTEXT,
            self.origin.encode(),
            offer.challenge.encode(),
            public,
            sha256(token.reveal().encode()).digest(),
        )
        body = {
            "token": token.reveal(),
            "public_key": to_text(public),
            "name": name,
            "challenge": offer.challenge,
            "proof": to_text(identity.sign(under)),
            "agent": AGENT,
            "os": sys.platform,
            "arch": platform.machine().lower(),
        }
        try:
            joined = self._call("POST", ENROLL_PATH, body, Joined)
        except EnrolmentError as error:
            if error.connected:
                raise
            joined = self._call("POST", ENROLL_PATH, body, Joined)  # the token may be spent and the answer lost
        if joined.origin != self.origin or joined.gateway_key != offer.gateway_key:
            raise EnrolmentError(f"{self.url} changed its identity while this machine joined: try again")
        enrolled = Enrolled(
            url=self.url,
            origin=self.origin,
            gateway_key=offer.gateway_key,
            node=joined.node,
            name=joined.name,
            organisation=joined.organisation,
            owner=joined.owner,
            community=joined.community,
            max_price=joined.max_price,
            max_models=joined.max_models,
            insecure=self._insecure,
            ca_file=self._ca_file,
        )
        return enrolled, joined.key, joined.state

    def rotate(self, enrolled: Enrolled, key: str, old: Identity, new: Identity) -> str:
        """Announce a new key; its id. The old one, whose id is `key`, stays good for a day."""
        offer = self._ask(enrolled)
        parts = (self.origin.encode(), offer.challenge.encode(), enrolled.node.encode(), new.public)
        under = signed(ROTATE_CONTEXT, *parts)
        body = {
            "node": enrolled.node,
            "key": key,
            "challenge": offer.challenge,
            "public_key": to_text(new.public),
            "proof_old": to_text(old.sign(under)),
            "proof_new": to_text(new.sign(under)),
        }
        return self._call("POST", "/node/v1/rotate", body, _Rotated).key

    def leave(self, enrolled: Enrolled, key: str, identity: Identity) -> None:
        """End the enrolment."""
        offer = self._ask(enrolled)
        under = signed(LEAVE_CONTEXT, self.origin.encode(), offer.challenge.encode(), enrolled.node.encode())
        proof = to_text(identity.sign(under))
        body = {"node": enrolled.node, "key": key, "challenge": offer.challenge, "proof": proof}
        self._call("POST", "/node/v1/leave", body, None)

    def look(self, enrolled: Enrolled) -> None:
        """Whether the gateway that was joined answers there."""
        self._ask(enrolled)

    def _ask(self, enrolled: Enrolled | None = None) -> _Offer:
        offer = self._call("GET", ENROLL_PATH, None, _Offer)
        if offer.origin != self.origin:
            raise EnrolmentError(
                f"{self.url} calls itself {offer.origin}: join by that address, or mend its --public-url"
            )
        try:
            from_text(offer.gateway_key, 32)
        except ValueError:
            raise EnrolmentError(f"{self.url} shows no key that can be pinned: is it a Potluck gateway?") from None
        if enrolled is not None and offer.gateway_key != enrolled.gateway_key:
            raise EnrolmentError(
                f"{self.url} has another key than the gateway that this machine joined: nothing was sent"
            )
        return offer

    def _call(self, method: str, path: str, body: Any, answer: type[T] | None) -> T:
        payload = None if body is None else msgspec.json.encode(body)
        request = urllib.request.Request(  # noqa: S310 — http and https only: `checked_address`
            self.origin + path, payload, {"user-agent": AGENT, "accept": "application/json"}, method=method
        )
        if payload is not None:
            request.add_header("content-type", "application/json")
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                said = response.read(MAX_ENROLMENT_ANSWER_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                refusal = self._refusal(error.code, error.read(MAX_ENROLMENT_ANSWER_BYTES))
                raise EnrolmentError(refusal, status=error.code) from None
        except (OSError, http.client.HTTPException) as error:
            raise EnrolmentError(f"cannot reach {self.url}: {_why(error)}", connected=False) from None
        if answer is None:
            return None  # type: ignore[return-value]
        try:
            return msgspec.json.decode(said, type=answer)
        except (msgspec.MsgspecError, ValueError):
            raise EnrolmentError(f"{self.url} answers, but not as a Potluck gateway does: check the address") from None

    def _refusal(self, status: int, body: bytes) -> str:
        try:
            problem = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.MsgspecError, ValueError):
            problem = {}
        said = str(problem.get("detail") or problem.get("title") or "")[:300]
        said = "".join(each if each.isprintable() else " " for each in said)
        if 300 <= status < 400:
            said = "it sends elsewhere (a redirect): give the address where the gateway itself answers"
        if status == 404 and not said:
            said = "it has no enrolment: is it a Potluck gateway, and new enough?"
        return f"{self.url} refused (HTTP {status}): {said or 'it does not say why'}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def checked_address(url: str, *, insecure: bool) -> tuple[str, str]:
    """The gateway's URL and its origin. Raises EnrolmentError for no address, and for plain http to elsewhere."""
    text = url.strip().rstrip("/")
    if "://" not in text:
        text = f"https://{text}"
    text = _in_ascii(text)
    try:
        origin = origin_of(text)
    except OriginError as error:
        raise EnrolmentError(str(error)) from None
    parts = urlsplit(text)
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        raise EnrolmentError(f"give the gateway's address alone, without a path or a user: {origin}")
    host = parts.hostname or ""
    if parts.scheme == "http" and not insecure and not is_loopback(host):
        raise EnrolmentError(
            f"{origin} is plain http to another machine: what goes over it can be read and changed on the way. "
            f"Use https, or say --insecure"
        )
    return text, origin


def _in_ascii(text: str) -> str:
    """A host name with letters of any language, as the network writes it. Raises EnrolmentError."""
    if text.isascii():
        return text
    try:
        parts = urlsplit(text)
        host = (parts.hostname or "").encode("idna").decode()
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        raise EnrolmentError(f"{text} is not an address like https://potluck.example") from None
    user, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}{at}{host}{port}").geturl()


def trust(ca_file: str) -> ssl.SSLContext:
    """The system's trust store, or the roots of a file. Raises EnrolmentError."""
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise EnrolmentError(f"--ca-file {ca_file} cannot be used: {getattr(error, 'strerror', '') or error}") from None


def _why(error: BaseException) -> str:
    reason: Any = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({reason.verify_message}): --ca-file names a root of your own"
    if isinstance(reason, ssl.SSLError):
        return "TLS failed: does it speak https there?"
    if isinstance(reason, (TimeoutError, socket.timeout)):
        return "it does not answer in time"
    if isinstance(reason, socket.gaierror):
        return "its name is not known"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror.lower()
    return "the answer is not HTTP" if isinstance(error, http.client.HTTPException) else str(reason)[:200]
