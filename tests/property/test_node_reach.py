"""Whatever a gateway says over the link, the agent calls no host, port, path or model but those that it offered."""

import asyncio
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.model.snapshot import CompiledTarget, RequestHead
from potluck.node.jobs import Engine, Jobs
from potluck.ports import Sink
from potluck.wire import link_events as e
from potluck.wire import link_frames as f
from potluck.wire import link_messages as m
from potluck.wire.link import LinkCore
from potluck.wire.link_handshake import Party

CHAT = "/v1/chat/completions"
ENGINE, MODEL = "ollama-1", "tiny:1b"
PLACE = ("127.0.0.1", 11434, "/llm")
KEY = "engine's own key"


class Recorder:
    """An upstream that keeps what it was asked for and never answers."""

    def __init__(self) -> None:
        self.calls: list[tuple[CompiledTarget, RequestHead, bytes]] = []

    def open(self, target: CompiledTarget, head: RequestHead, body: bytes, sink: Sink) -> Any:
        self.calls.append((target, head, body))
        return Silent()


class Silent:
    sent = False

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def cancel(self, reason: str) -> None: ...


class Node:
    """A node's core, welcomed, and the jobs behind it."""

    def __init__(self) -> None:
        self.upstream = Recorder()
        engine = Engine(ENGINE, *PLACE[:2], False, PLACE[2], (("host", "h"), ("authorization", KEY)), self.upstream, 99)

        def find(id_: str, model: str, path: str) -> Engine | None:
            return engine if (id_, model, path) == (ENGINE, MODEL, CHAT) else None

        self.jobs = Jobs(find, lambda: None, lambda: None, lambda engine, detail: None)
        self.jobs.slots, self.jobs.queue = 99, 9
        self.core = LinkCore(Party("node", "http://g", lambda text: b"s" * 64, lambda *_: True, b"k" * 32), 0.0)
        self.core.hello(m.Hello("n", "k", "b", "a", 0, 0, ["resume"], "0" * 64))
        self.hear(f.CHALLENGE, m.Challenge("http://g", "s", "1" * 64))
        self.core.receive(f.frame(f.WELCOME, 0, b"s" * 64 + f.encode(m.Welcome(0, ["resume"]))), 0.0)
        paths = [CHAT, "/v1/embeddings"]
        self.core.caps(m.Caps(1, 99, 9, [m.EngineOffer(ENGINE, "ollama", paths)], [m.ModelOffer(ENGINE, MODEL)]))

    def hear(self, kind: int, message: m.Message, stream: int = 0) -> None:
        self.receive(f.frame(kind, stream, f.encode(message)))

    def receive(self, frame: bytes) -> None:
        for event in self.core.receive(frame, 0.0):
            if isinstance(event, (e.Opened, e.DataCame, e.Cancelled, e.Writable, e.Lost)):
                self.jobs.take(event)


def mostly(good: Any, *bad: Any) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(good), st.just(good), st.sampled_from(bad), st.text(max_size=40))


BODIES = st.one_of(
    st.just(json.dumps({"model": MODEL}).encode()),
    st.dictionaries(st.sampled_from(["model", "Model", "MODEL", "messages", "x"]), mostly(MODEL, "huge:cloud")).map(
        lambda members: json.dumps(members).encode()
    ),
    st.sampled_from(
        [
            b'{"model":"huge:cloud","model":"tiny:1b"}',
            b'{"model":"tiny:1b","model":"huge:cloud"}',
            b'{"mod\\u0065l":"tiny:1b","MODEL":"huge:cloud"}',
            b"[]",
            b"",
        ]
    ),
    st.binary(max_size=60),
)
OPENS = st.fixed_dictionaries(
    {
        "job": mostly("job_1", "../x", ""),
        "engine": mostly(ENGINE, "http://169.254.169.254", "127.0.0.1:22", "local"),
        "model": mostly(MODEL, "huge:cloud", "tiny:1b\r\nhost: evil"),
        "path": mostly(CHAT, "/api/pull", "/v1/../api/delete", "/v1/embeddings", "http://evil/", CHAT + "?a=b"),
        "headers": st.lists(
            st.tuples(
                mostly("accept", "host", "authorization", "Accept", "connection"),
                mostly("application/json", "x\r\nhost: evil", "evil"),
            ),
            max_size=3,
        ),
        "own": st.booleans(),
    }
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(OPENS, BODIES), min_size=1, max_size=4))
def test_nothing_but_what_is_offered_is_ever_called(requests: list[tuple[dict[str, Any], bytes]]) -> None:
    """Every call that is made has the owner's address, an offered path and model, the owner's fields, and the body as
    it came; everything else ends the link or the request."""

    async def run() -> None:
        node = Node()
        for number, (members, body) in enumerate(requests):
            stream = 2 * number + 1
            opening = json.dumps({**members, "body_bytes": len(body)}).encode()
            node.receive(f.frame(f.OPEN, stream, opening))
            if body:
                node.receive(f.data_frame(stream, 0, body))
        bodies = [body for _, body in requests]
        for target, head, body in node.upstream.calls:
            assert (target.endpoint.host, target.endpoint.port, target.endpoint.tls) == (*PLACE[:2], False)
            assert (head.method, head.path) == ("POST", PLACE[2] + CHAT)
            lines = head.wire.decode("latin-1").split("\r\n")
            names = [line.partition(":")[0] for line in lines[1:]]
            assert lines[0] == f"POST {PLACE[2]}{CHAT} HTTP/1.1"
            assert len(set(names)) == len(names)
            assert "host: h" in lines
            assert f"authorization: {KEY}" in lines
            assert set(names) <= {"host", "authorization", "accept-encoding", "content-length", *m.REQUEST_HEADERS}
            assert body in bodies
            assert json.loads(body)["model"] == MODEL
            names = [name for name, _ in json.loads(body, object_pairs_hook=list)]
            assert [name for name in names if name.lower() == "model"] == ["model"]

    asyncio.run(run())


def test_an_honest_request_is_called() -> None:
    """The test above would pass with an agent that calls nothing: this one would not."""

    async def run() -> None:
        node, body = Node(), json.dumps({"model": MODEL}).encode()
        node.hear(f.OPEN, m.Open("job_1", ENGINE, MODEL, CHAT, len(body), [("accept", "text/event-stream")]), 1)
        node.receive(f.data_frame(1, 0, body))
        assert [body for _, _, body in node.upstream.calls] == [body]

    asyncio.run(run())
