"""The enrolment client: what it signs, whom it believes, and what it says when it does not come about."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from typing import Any

import pytest

from potluck.model.secret import Secret
from potluck.node.enrolment import EnrolmentError, Gateway, checked_address
from potluck.node.identity import Identity, fresh_key, from_text, to_text, verify
from potluck.wire.link_messages import signed

TOKEN = Secret("plj-secret")
PINNED = Identity(fresh_key())


class Enroller:
    """A gateway's enrolment interface, as the contract has it; `answer(method, path, body)` → status and JSON."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, Any]] = []
        self.claims = ""
        self.answer: Callable[[str, str, Any], tuple[int, Any]] = self._honest
        self.port = 0
        self.headers = ""
        self.raw: bytes | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _honest(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        key = to_text(PINNED.public)
        if method == "GET":
            offer = {"challenge": "chal-1", "origin": self.claims or self.url, "gateway_key": key, "minor": 0}
            return 200, offer | {"version": "0.1", "new": 1}
        if path == "/node/v1/enroll":
            made = {"node": "node_1", "name": "lab-1-2", "key": "nky_1", "state": "pending", "organisation": "default"}
            terms = {"owner": "", "community": False, "max_price": {"input": 5, "output": 6}, "max_models": None}
            return 201, made | terms | {"origin": self.url, "gateway_key": key}
        return (200, {"key": "nky_2"}) if path == "/node/v1/rotate" else (204, None)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        raw = await reader.readexactly(int(fields.get("content-length", "0")))
        body = json.loads(raw) if raw else None
        self.seen.append((method, path, body))
        try:
            status, said = self.answer(method, path, body)
        except ConnectionResetError:
            writer.transport.abort()
            return
        content = self.raw if self.raw is not None else b"" if said is None else json.dumps(said).encode()
        writer.write(
            f"HTTP/1.1 {status} x\r\nconnection: close\r\n{self.headers}content-length: {len(content)}\r\n\r\n".encode()
            + content
        )
        await writer.drain()
        writer.close()


@pytest.fixture
async def enroller() -> AsyncIterator[Enroller]:
    found = Enroller()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()
    await server.wait_closed()


async def test_joining_signs_what_the_contract_says(enroller: Enroller) -> None:
    """The proof covers origin, challenge, key and token; what comes back is kept, what is new in it is not minded."""
    identity = Identity(fresh_key())
    kept, key_id, state = await asyncio.to_thread(Gateway(enroller.url).enroll, TOKEN, identity, "lab-1")
    body = enroller.seen[-1][2]
    token_hash = sha256(TOKEN.reveal().encode()).digest()
    under = signed(b"potluck.node.v1 enroll\n", enroller.url.encode(), b"chal-1", identity.public, token_hash)
    assert verify(from_text(body["public_key"], 32), under, from_text(body["proof"], 64))
    assert set(body) == {"token", "public_key", "name", "challenge", "proof", "agent", "os", "arch"}
    assert (kept.node, kept.name, key_id, state) == ("node_1", "lab-1-2", "nky_1", "pending")
    assert kept.gateway_key == to_text(PINNED.public)
    assert kept.max_price is not None
    assert all(TOKEN.reveal() not in path for _, path, _ in enroller.seen)


async def test_a_lost_answer_is_asked_for_again(enroller: Enroller) -> None:
    """When the connection breaks after the token was sent, the same key and proof go out once more."""
    identity, lost = Identity(fresh_key()), iter((True,))
    honest = enroller.answer

    def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "POST" and next(lost, False):
            raise ConnectionResetError
        return honest(method, path, body)

    enroller.answer = answer
    kept, _, _ = await asyncio.to_thread(Gateway(enroller.url).enroll, TOKEN, identity, "lab-1")
    assert kept.node == "node_1"
    first, second = (body for method, _, body in enroller.seen if method == "POST")
    assert first == second


async def test_a_refusal_is_not_asked_for_again(enroller: Enroller) -> None:
    """What the gateway has answered stands."""
    honest = enroller.answer
    enroller.answer = lambda method, path, body: (401, {}) if method == "POST" else honest(method, path, body)
    with pytest.raises(EnrolmentError, match="HTTP 401"):
        await asyncio.to_thread(Gateway(enroller.url).enroll, TOKEN, Identity(fresh_key()), "lab-1")
    assert [method for method, _, _ in enroller.seen] == ["GET", "POST"]


async def test_rotating_and_leaving_prove_the_key(enroller: Enroller) -> None:
    """Both keys sign the change, and the key signs the goodbye, each under its own context."""
    old, new = Identity(fresh_key()), Identity(fresh_key())
    gateway = Gateway(enroller.url)
    kept, key_id, _ = await asyncio.to_thread(gateway.enroll, TOKEN, old, "lab-1")
    assert await asyncio.to_thread(gateway.rotate, kept, key_id, old, new) == "nky_2"
    body, origin = enroller.seen[-1][2], enroller.url.encode()
    under = signed(b"potluck.node.v1 rotate\n", origin, b"chal-1", b"node_1", new.public)
    assert verify(old.public, under, from_text(body["proof_old"], 64))
    assert verify(new.public, under, from_text(body["proof_new"], 64))
    await asyncio.to_thread(gateway.leave, kept, "nky_2", new)
    body = enroller.seen[-1][2]
    assert verify(
        new.public, signed(b"potluck.node.v1 leave\n", origin, b"chal-1", b"node_1"), from_text(body["proof"], 64)
    )


async def test_a_gateway_by_another_name_gets_no_token(enroller: Enroller) -> None:
    """One that calls itself otherwise than it was called is refused before anything secret is said."""
    enroller.claims = "https://other.example"
    with pytest.raises(EnrolmentError, match=r"calls itself https://other\.example"):
        await asyncio.to_thread(Gateway(enroller.url).enroll, TOKEN, Identity(fresh_key()), "lab-1")
    assert [method for method, _, _ in enroller.seen] == ["GET"]


async def test_another_gateway_at_the_address_gets_no_goodbye(enroller: Enroller) -> None:
    """`leave` and `rotate` sign nothing for a key that is not the pinned one."""
    gateway, identity = Gateway(enroller.url), Identity(fresh_key())
    kept, key_id, _ = await asyncio.to_thread(gateway.enroll, TOKEN, identity, "lab-1")
    enroller.answer = lambda method, path, body: (
        200,
        {"challenge": "c", "origin": enroller.url, "gateway_key": to_text(Identity(fresh_key()).public)},
    )
    before = len(enroller.seen)
    with pytest.raises(EnrolmentError, match="another key"):
        await asyncio.to_thread(gateway.leave, kept, key_id, identity)
    assert [method for method, _, _ in enroller.seen[before:]] == ["GET"]


async def test_no_redirect_carries_the_token_away(enroller: Enroller) -> None:
    """A redirect is an answer, and not obeyed."""
    enroller.answer = lambda method, path, body: (307, None)
    enroller.headers = f"location: {enroller.url}/elsewhere\r\n"
    with pytest.raises(EnrolmentError, match="redirect"):
        await asyncio.to_thread(Gateway(enroller.url).enroll, TOKEN, Identity(fresh_key()), "lab-1")
    assert [path for _, path, _ in enroller.seen] == ["/node/v1/enroll"]


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{", b'{"challenge":"c"}', b'{"challenge":"c","origin":"x","gateway_key":"y"}', b"\xff" * 70_000],
)
async def test_nonsense_is_refused_in_one_line(enroller: Enroller, raw: bytes) -> None:
    """Whatever answers there, the failure is one line and nothing was sent."""
    enroller.raw = raw
    with pytest.raises(EnrolmentError) as refused:
        await asyncio.to_thread(Gateway(enroller.url).enroll, TOKEN, Identity(fresh_key()), "lab-1")
    assert "\n" not in str(refused.value)
    assert [method for method, _, _ in enroller.seen] == ["GET"]


async def test_a_refusal_keeps_its_words(enroller: Enroller) -> None:
    """The gateway's own sentence is shown, without what could move the cursor."""

    def refuse(method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "GET":
            return enroller._honest(method, path, body)
        return 401, {"title": "Unauthorized", "detail": "the token is\x1b[31m used up"}

    enroller.answer = refuse
    with pytest.raises(EnrolmentError, match=r"HTTP 401\): the token is \[31m used up"):
        await asyncio.to_thread(Gateway(enroller.url).enroll, TOKEN, Identity(fresh_key()), "lab-1")


async def test_nobody_there_is_said(enroller: Enroller) -> None:
    """An address where nobody listens is another failure than a refusal."""
    with pytest.raises(EnrolmentError, match="cannot reach") as refused:
        await asyncio.to_thread(Gateway("http://127.0.0.1:9").enroll, TOKEN, Identity(fresh_key()), "lab-1")
    assert not refused.value.connected


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Potluck.Example.org/", "https://potluck.example.org"),
        ("potluck.example.org:8443", "https://potluck.example.org:8443"),
        ("http://127.0.0.1:7171", "http://127.0.0.1:7171"),
        ("http://[::1]:7171", "http://[::1]:7171"),
        ("https://b\u00fccher.example:8443", "https://xn--bcher-kva.example:8443"),
    ],
)
def test_an_address_is_an_origin(url: str, origin: str) -> None:
    """As the gateway writes it; without a scheme it is https."""
    assert checked_address(url, insecure=False)[1] == origin


@pytest.mark.parametrize(
    "url",
    [
        "http://potluck.example.org",
        "http://10.0.0.7:7171",
        "ftp://x",
        "https://x/path",
        "https://u:p@x",
        "https://\u00fc:p@x",
        "https://\u00fc..x",
        "",
    ],
)
def test_an_address_that_will_not_do_is_refused(url: str) -> None:
    """Plain http to another machine, paths, users and other schemes."""
    with pytest.raises(EnrolmentError):
        checked_address(url, insecure=False)


def test_plain_http_is_used_when_it_is_said_aloud() -> None:
    """`--insecure`."""
    assert checked_address("http://10.0.0.7:7171", insecure=True)[1] == "http://10.0.0.7:7171"
