"""The client of the admin API, against real sockets: pages, refusals, broken servers."""

import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from potluck.cli.failure import Failure
from potluck.cli.gateway import Gateway, Refused
from potluck.model.secret import Secret

Reply = tuple[int, str, bytes]


class Server:
    """Answers by path with what `replies` holds, and remembers what it was asked."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply | Callable[[dict[str, list[str]]], Reply]] = {}
        self.is_potluck = True
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                parts = urlsplit(self.path)
                outer.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                reply = outer.replies.get(parts.path, (404, "application/problem+json", b'{"title": "nothing here"}'))
                status, kind, content = reply(parse_qs(parts.query)) if callable(reply) else reply
                self.send_response(status)
                self.send_header("content-type", kind)
                if outer.is_potluck:
                    self.send_header("x-request-id", "req_1")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815 — the library's names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def client(server: Server) -> Gateway:
    return Gateway(server.url, lambda: Secret("pla-token"))


def reply(value: object, status: int = 200) -> Reply:
    return status, "application/json", json.dumps(value).encode()


def test_calls_carry_the_token_and_json(server: Server) -> None:
    """A POST is JSON with the bearer token below /api/v1; an empty answer is None."""
    server.replies["/api/v1/keys"] = reply({"id": "key_1"}, 201)
    server.replies["/api/v1/keys/key_1"] = (204, "application/json", b"")
    assert client(server).post("/keys", {"name": "é"}) == {"id": "key_1"}
    assert client(server).delete("/keys/key_1") is None
    method, path, headers, body = server.asked[0]
    assert (method, path, headers["authorization"]) == ("POST", "/api/v1/keys", "Bearer pla-token")
    assert json.loads(body) == {"name": "é"}


def test_pages_are_followed(server: Server) -> None:
    """A list is read to its end by cursor; parameters that are None are not sent."""

    def page(query: dict[str, list[str]]) -> Reply:
        if query.get("cursor") == ["c 2"]:
            return reply({"data": [{"n": 3}], "next_cursor": None})
        assert "provider" not in query
        return reply({"data": [{"n": 1}, {"n": 2}], "next_cursor": "c 2"})

    server.replies["/api/v1/keys"] = page
    assert [each["n"] for each in client(server).pages("/keys", provider=None)] == [1, 2, 3]


def test_names_with_a_slash_are_looked_up(server: Server) -> None:
    """A name that cannot be one path segment is found in the list; others are escaped."""
    page = {
        "data": [{"id": "crd_1", "provider": "openai", "name": "main"}, {"id": "m", "name": "a/b"}],
        "next_cursor": None,
    }
    server.replies["/api/v1/credentials"] = reply(page)
    gateway = client(server)
    assert gateway.path_of("/credentials", "openai/main") == "/credentials/crd_1"
    assert gateway.path_of("/credentials", "a/b") == "/credentials/m"
    assert gateway.path_of("/keys", "a b?") == "/keys/a%20b%3F"
    with pytest.raises(Failure, match="there is no credential 'x/y'"):
        gateway.path_of("/credentials", "x/y")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, "application/problem+json", b'{"title": "Not Found", "detail": "there is no key"}'), "there is no key"),
        ((500, "text/html", b"<html>"), "the gateway answered 500"),
        ((400, "application/json", b'{"error": {"message": "no such model"}}'), "no such model"),
        ((401, "application/json", b"{}"), "does not accept this admin token"),
        ((503, "application/json", b"[]"), "the gateway answered 503"),
    ],
)
def test_refusals_are_one_line(server: Server, answer: Reply, said: str) -> None:
    """Whatever the form of an error answer, the person gets its sentence, and the program its status."""
    server.replies["/api/v1/keys"] = answer
    with pytest.raises(Refused) as caught:
        client(server).get("/keys")
    assert said in caught.value.message
    assert caught.value.http_status == answer[0]


def test_a_server_that_is_no_gateway_says_so(server: Server) -> None:
    """Something else at the address is recognised, whatever it answers."""
    server.replies["/api/v1/keys"] = (200, "text/html", b"<html>hello</html>")
    with pytest.raises(Failure, match="the answer is not JSON"):
        client(server).get("/keys")
    server.is_potluck = False
    server.replies["/api/v1/keys"] = reply({"object": "list"})
    with pytest.raises(Failure, match="answers, but is no Potluck gateway"):
        client(server).get("/keys")


def test_a_plain_server_behind_https_is_said(server: Server) -> None:
    """https:// to a port that speaks plain HTTP is exit status 3 with the remedy."""
    with pytest.raises(Failure) as caught:
        Gateway(server.url.replace("http:", "https:"), lambda: Secret("t")).get("/keys")
    assert caught.value.status == 3
    assert "write http:// in --url" in caught.value.message


def test_a_token_with_odd_characters_is_said(server: Server) -> None:
    """A token that cannot stand in a header is refused before anything is sent, without being shown."""
    with pytest.raises(Failure) as caught:
        Gateway(server.url, lambda: Secret("pla-é→\nx")).get("/keys")
    assert caught.value.status == 2
    assert "→" not in caught.value.message
    assert server.asked == []


@pytest.mark.parametrize(
    ("ref", "path"),
    [
        ("key_1", "/keys/key_1"),
        ("a b?c#d%", "/keys/a%20b%3Fc%23d%25"),
        ("caf\u00e9", "/keys/caf%C3%A9"),
        ("\udcff", "/keys/%FF"),
    ],
)
def test_a_name_is_one_segment_of_the_path(server: Server, ref: str, path: str) -> None:
    """Whatever a name holds, it stays within its segment."""
    assert client(server).path_of("/keys", ref) == path


@pytest.mark.parametrize("ref", ["../keys", "a/b", "..", "."])
def test_no_name_leads_out_of_its_collection(server: Server, ref: str) -> None:
    """A request has an id and no name: one with `/` in it is not there, and nothing is asked."""
    with pytest.raises(Failure, match="there is no request"):
        client(server).path_of("/requests", ref)
    assert server.asked == []
    server.replies["/api/v1/keys"] = reply({"data": [{"id": "key_1", "name": "other"}]})
    with pytest.raises(Failure, match="there is no key"):
        client(server).path_of("/keys", ref)


def test_an_empty_name_is_refused(server: Server) -> None:
    """Without this the path would be the collection's."""
    with pytest.raises(Failure) as caught:
        client(server).path_of("/keys", "")
    assert caught.value.status == 2
    assert server.asked == []


def test_what_listens_and_says_nothing_is_named_within_15_s() -> None:
    """Another program on that port, or one that hangs: the call ends, and the line asks whether that is the gateway."""
    assert Gateway("http://127.0.0.1:1", lambda: Secret("pla-token"))._timeout_s <= 15
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for scheme in ("http", "https"):  # of which the second is silent inside the handshake
            url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
            with pytest.raises(Failure, match="does not answer: is that the gateway") as raised:
                Gateway(url, lambda: Secret("pla-token"), timeout_s=0.1).get("/nodes")
            assert raised.value.status == 3
            assert str(raised.value.message) == f"something listens at {url} and does not answer: is that the gateway?"


def test_an_address_where_nobody_listens_is_not_taken_for_a_silent_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is never made says so."""

    def lost(*_: object, **__: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", lost)
    with pytest.raises(Failure, match="no answer in time"):
        Gateway("http://127.0.0.1:1", lambda: Secret("pla-token")).get("/nodes")
