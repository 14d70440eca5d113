"""Frames that break a rule: each ends its link with a code, and the core never raises."""

from collections.abc import Callable

import pytest

from potluck.wire import link_events as e
from potluck.wire import link_frames as f
from potluck.wire import link_messages as m
from tests.unit.wire.link_pair import ENGINE, PATH, Pair, caps, failure, frame, request

U64 = f.OFFSET.pack
ANSWER = m.ResumeAnswer("req_1", "next", 3)

# name, what the node sends after an answer of 3 bytes has begun on stream 1, the gateway's verdict
FROM_NODE: list[tuple[str, bytes, str]] = [
    ("empty", b"", "bad_frame"),
    ("short", b"\x01" * 11, "bad_frame"),
    ("layout", b"\x02" + frame(f.PING, 0, bytes(8))[1:], "bad_frame"),
    ("flags", frame(f.PING, 0, bytes(8))[:2] + b"\x00\x01" + frame(f.PING, 0, bytes(8))[4:], "bad_frame"),
    ("known kind marked ignorable", b"\x01\x06\x80\x00" + frame(f.PING, 0, bytes(8))[4:], "bad_frame"),
    ("length too small", frame(f.PING, 0, bytes(8)) + b"x", "bad_frame"),
    ("length too large", frame(f.PING, 0, bytes(8))[:-1], "bad_frame"),
    ("unknown kind", frame(200), "bad_frame"),
    ("data without bytes", f.data_frame(1, 3, b""), "bad_frame"),
    ("data with flags", b"\x01\x24\x00\x01" + f.data_frame(1, 3, b"x")[4:], "bad_frame"),
    ("data too large", f.data_frame(1, 3, bytes(m.MAX_DATA_BYTES + 1)), "too_large"),
    ("control too large", frame(f.LOG, 0, b" " * (m.MAX_CONTROL_BYTES + 1)), "too_large"),
    ("caps too large", frame(f.CAPS, 0, b" " * (m.MAX_CAPS_BYTES + 1)), "too_large"),
    ("no json", frame(f.LOAD, 0, b"{"), "bad_payload"),
    ("json of another shape", frame(f.LOAD, 0, b"[]"), "bad_payload"),
    ("deep json", frame(f.LOAD, 0, b'{"x":' + b"[" * 60_000), "bad_payload"),
    ("no utf-8", frame(f.LOAD, 0, b'{"state":"ready","reason":"\xff"}'), "bad_payload"),
    ("lone surrogate", frame(f.LOAD, 0, b'{"state":"ready","reason":"\\ud800"}'), "bad_payload"),
    ("line feed in text", frame(f.LOAD, 0, b'{"state":"ready","reason":"a\\nb"}'), "bad_payload"),
    ("line feed after an id", frame(f.TASK_RESULT, 0, b'{"task":"t\\n","ok":true}'), "bad_payload"),
    ("number out of range", frame(f.TASK_RESULT, 0, b'{"task":"t1","ok":true,"took_ms":-1}'), "bad_payload"),
    ("huge number", frame(f.END, 1, b'{"total_bytes":1e400}'), "bad_payload"),
    ("code outside the list", frame(f.RESET, 1, b'{"code":"because"}'), "bad_payload"),
    ("ping of 7 bytes", frame(f.PING, 0, bytes(7)), "bad_payload"),
    ("accept with payload", frame(f.ACCEPT, 1, b"x"), "bad_payload"),
    ("open by a node", frame(f.OPEN, 1, request()), "bad_state"),
    ("welcome by a node", frame(f.WELCOME, 0, bytes(80)), "bad_state"),
    ("done by a node", frame(f.DONE, 1), "bad_state"),
    ("hello again", frame(f.HELLO, 0, m.Hello("n", "k", "b", "a", 0, 0, [], "11" * 32)), "bad_state"),
    ("accept twice", frame(f.ACCEPT, 1), "bad_state"),
    ("refuse after accept", frame(f.REFUSE, 1, m.Refuse("busy")), "bad_state"),
    ("head twice", frame(f.HEAD, 1, m.Head(200)), "bad_state"),
    ("pong without ping", frame(f.PONG, 0, U64(1)), "bad_state"),
    ("drained without drain", frame(f.DRAINED), "bad_state"),
    ("result of no task", frame(f.TASK_RESULT, 0, m.TaskResult("t1", True)), "bad_state"),
    ("stream never opened", f.data_frame(3, 0, b"x"), "bad_stream"),
    ("even stream", frame(f.HEAD, 2, m.Head(200)), "bad_stream"),
    ("stream frame without stream", frame(f.END, 0, m.End(3)), "bad_stream"),
    ("link frame on a stream", frame(f.LOAD, 1, m.Load("ready")), "bad_stream"),
    ("gap", f.data_frame(1, 4, b"x"), "bad_offset"),
    ("offset of the future", f.data_frame(1, 2**64 - 1, b"x"), "bad_offset"),
    ("end too early", frame(f.END, 1, m.End(4)), "bad_end"),
    ("end short", frame(f.END, 1, m.End(2)), "bad_end"),
    ("grant taken back", frame(f.WINDOW, 1, U64(5)), "bad_window"),
    ("grant beyond a window", frame(f.WINDOW, 1, U64(2**63)), "bad_window"),
    ("link grant beyond a window", frame(f.WINDOW, 0, U64(2**63)), "bad_window"),
    ("link grant taken back", frame(f.WINDOW, 0, U64(0)), "bad_window"),
    ("caps twice the same", frame(f.CAPS, 0, caps(1)), "forbidden"),
    ("caps with an engine twice", frame(f.CAPS, 0, caps(2, [ENGINE, ENGINE])), "forbidden"),
    ("caps with a foreign path", frame(f.CAPS, 0, caps(2, [m.EngineOffer("e1", "x", ["/api/delete"])])), "forbidden"),
    ("caps with a model of no engine", frame(f.CAPS, 0, m.Caps(2, 1, 1, [], [m.ModelOffer("e9", "m")])), "forbidden"),
    ("load of a foreign engine", frame(f.LOAD, 0, m.Load("ready", engines=[m.EngineState("e9", True)])), "forbidden"),
    ("foreign answer header", frame(f.HEAD, 1, m.Head(200, [("set-cookie", "x")])), "bad_state"),
    ("resume of what runs here", frame(f.RESUME, 0, m.Resume([m.ResumeAsk("req_1", "ab" * 16, 0, 3)])), "bad_resume"),
]  # fmt: skip

# the same for the node, which has 3 of 10 bytes of body on stream 1
FROM_GATEWAY: list[tuple[str, bytes, str]] = [
    ("head by a gateway", frame(f.HEAD, 1, m.Head(200)), "bad_state"),
    ("caps by a gateway", frame(f.CAPS, 0, caps(3)), "bad_state"),
    ("challenge again", frame(f.CHALLENGE, 0, m.Challenge("https://x", "s", "11" * 32)), "bad_state"),
    ("the same stream again", frame(f.OPEN, 1, request("req_2")), "bad_stream"),
    ("even stream", frame(f.OPEN, 4, request("req_2")), "bad_stream"),
    ("the same job again", frame(f.OPEN, 3, request("req_1")), "bad_state"),
    ("engine never offered", frame(f.OPEN, 3, m.Open("req_2", "e9", "m", PATH, 0)), "forbidden"),
    ("path outside the list", frame(f.OPEN, 3, m.Open("req_2", "e1", "m", "/api/delete", 0)), "forbidden"),
    ("path with a way out", frame(f.OPEN, 3, m.Open("req_2", "e1", "m", "/v1/../api/pull", 0)), "forbidden"),
    ("path with a query", frame(f.OPEN, 3, m.Open("req_2", "e1", "m", PATH + "?x=1", 0)), "forbidden"),
    ("path that is an address", frame(f.OPEN, 3, m.Open("req_2", "e1", "m", "http://10.0.0.1/", 0)), "forbidden"),
    ("header outside the list", frame(f.OPEN, 3, request("req_2", headers=[("host", "lan")])), "forbidden"),
    ("header twice", frame(f.OPEN, 3, request("req_2", headers=[("accept", "a"), ("accept", "b")])), "forbidden"),
    ("line feed in a header", frame(f.OPEN, 3, request("req_2", headers=[("accept", "a\r\nhost: x")])), "bad_payload"),
    ("body too large", frame(f.OPEN, 3, m.Open("req_2", "e1", "m", PATH, m.MAX_BODY_BYTES + 1)), "bad_payload"),
    ("more body than said", f.data_frame(1, 3, bytes(8)), "bad_end"),
    ("gap in the body", f.data_frame(1, 5, b"x"), "bad_offset"),
    ("done before the end", frame(f.DONE, 1), "bad_state"),
    ("stream never opened", frame(f.CANCEL, 9, m.Cancel("timeout")), "bad_stream"),
    ("task for a foreign engine", frame(f.TASK, 0, m.Task("t1", "load", "e9")), "forbidden"),
    ("task outside the list", frame(f.TASK, 0, b'{"task":"t1","action":"update","engine":"e1"}'), "bad_payload"),
    ("ack of what was not sent", frame(f.CAPS_ACK, 0, m.CapsAck(2)), "bad_state"),
    ("answer to no question", frame(f.RESUME_RESULT, 0, m.ResumeResult([ANSWER])), "bad_resume"),
]  # fmt: skip


def names(cases: list[tuple[str, bytes, str]]) -> list[str]:
    return [name for name, _, _ in cases]


@pytest.mark.parametrize(("_name", "raw", "code"), FROM_NODE, ids=names(FROM_NODE))
def test_a_node_that_breaks_a_rule_loses_its_link(_name: str, raw: bytes, code: str) -> None:
    """The gateway ends this link with the code, says so last, and reads nothing more."""
    pair = Pair()
    at_gateway, at_node = pair.answering()
    at_node.data(b"abc")
    pair.to_gateway()
    assert failure(pair.gateway.receive(raw, 1.0)) == code
    (last,) = pair.gateway.frames_to_send()
    assert f.decode(f.GOAWAY, last[12:]).code == code
    assert pair.gateway.receive(frame(f.PING, 0, bytes(8)), 1.0) == []
    assert not pair.gateway.wants_to_send
    assert at_gateway.link is None
    assert at_gateway.state == "answering"


@pytest.mark.parametrize(("_name", "raw", "code"), FROM_GATEWAY, ids=names(FROM_GATEWAY))
def test_a_gateway_that_breaks_a_rule_reaches_nothing(_name: str, raw: bytes, code: str) -> None:
    """The node ends the link with the code, and no event but the end comes of the frame."""
    pair = Pair()
    body = b"0123456789"
    pair.gateway.open(request(body=body), body)
    first, _ = pair.gateway.frames_to_send()
    pair.node.receive(first, 1.0)
    pair.node.receive(f.data_frame(1, 0, body[:3]), 1.0)
    events = pair.node.receive(raw, 1.0)
    assert failure(events) == code
    assert {type(event) for event in events} == {e.Failed, e.Lost}
    assert [each[1] for each in pair.node.frames_to_send()] == [f.GOAWAY]


def test_an_answer_header_outside_the_list_ends_the_link() -> None:
    """An engine's cookies and addresses stay on its machine; who sends them has another agent."""
    pair = Pair()
    _, at_node = pair.open()
    at_node.accept()
    pair.to_gateway()
    assert failure(pair.gateway.receive(frame(f.HEAD, 1, m.Head(200, [("set-cookie", "x")])), 0)) == "forbidden"


def test_data_before_the_head_ends_the_link() -> None:
    """Order within a stream is a rule."""
    pair = Pair()
    _, at_node = pair.open()
    at_node.accept()
    pair.to_gateway()
    assert failure(pair.gateway.receive(f.data_frame(1, 0, b"x"), 0)) == "bad_state"


def test_a_frame_after_the_last_one_ends_the_link() -> None:
    """After END the stream is over, for the node as well."""
    pair = Pair()
    _, at_node = pair.answering()
    at_node.end()
    pair.to_gateway()
    assert failure(pair.gateway.receive(f.data_frame(1, 0, b"x"), 0)) == "bad_stream"


def test_bytes_that_came_before_are_dropped() -> None:
    """A duplicate, whole or in part, is delivered once."""
    pair = Pair()
    at_gateway, at_node = pair.answering()
    at_node.data(b"abc")
    pair.to_gateway()
    assert pair.gateway.receive(f.data_frame(1, 0, b"abc"), 0) == []
    assert pair.gateway.receive(f.data_frame(1, 1, b"bcd"), 0) == [e.DataCame(at_gateway, b"d", False)]


def test_bytes_beyond_the_windows_end_the_link() -> None:
    """A node that ignores windows is cut at the first byte too many, on a stream and on the link."""
    pair = Pair()
    at_gateway, _ = pair.answering()
    offset = 0
    events: list[e.Event] = []
    while not events or isinstance(events[0], e.DataCame):
        events = pair.gateway.receive(f.data_frame(1, offset, bytes(60_000)), 0)
        offset += 60_000
    assert failure(events) == "over_window"
    assert at_gateway.in_received == 240_000

    pair = Pair(terms=m.Welcome(0, [], link_window_bytes=256 * 1024))
    pair.answering()
    for n in range(10):  # duplicates cost the link as well; grants are given as they are read
        assert pair.gateway.receive(f.data_frame(1, 0, bytes(60_000)), 0)[1:] == [], n
    assert pair.gateway.phase == "open"


@pytest.mark.parametrize("role", ["gateway", "node"])
def test_a_flood_of_control_frames_ends_the_link(role: str) -> None:
    """A burst of 100, then 20 a second."""
    pair = Pair()
    core = pair.gateway if role == "gateway" else pair.node
    now = 1000.0
    ping = frame(f.PING, 0, bytes(8))
    for _ in range(m.CONTROL_BURST):
        assert core.receive(ping, now) == []
    for _ in range(m.CONTROL_PER_S):
        now += 0.0501
        assert core.receive(ping, now) == []
    assert failure(core.receive(ping, now)) == "flood"


def test_an_ignorable_frame_is_skipped() -> None:
    """What a later version adds does not end the link, if it is marked."""
    pair = Pair()
    raw = f.HEADER.pack(1, 200, f.IGNORABLE, 77, 5) + b"hello"
    assert pair.gateway.receive(raw, 0) == []
    assert pair.gateway.phase == "open"


def test_a_member_that_is_not_known_is_skipped() -> None:
    """Payloads may grow."""
    pair = Pair()
    raw = frame(f.LOAD, 0, b'{"state":"ready","moon":{"phase":[1,2,3]}}')
    assert pair.gateway.receive(raw, 0) == [e.LoadCame(m.Load("ready"))]


def test_engines_that_come_and_go_are_counted() -> None:
    """A node that renames its engines for ever is cut before it costs memory."""
    pair = Pair()
    events: list[e.Event] = []
    revision = 1
    while not events or isinstance(events[0], e.CapsCame):
        revision += 1
        offers = [m.EngineOffer(f"r{revision}-{n}", "x", [PATH]) for n in range(32)]
        events = pair.gateway.receive(frame(f.CAPS, 0, caps(revision, offers)), float(revision))
    assert failure(events) == "forbidden"
    assert revision < 12


WRONG_ANSWERS: list[tuple[str, Callable[[], list[m.ResumeAnswer]]]] = [
    ("another job", lambda: [m.ResumeAnswer("req_9", "next", 1, 3, 300_000, True)]),
    ("one too many", lambda: [m.ResumeAnswer("req_1", "rejected"), m.ResumeAnswer("req_2", "rejected")]),
    ("even stream", lambda: [m.ResumeAnswer("req_1", "next", 2, 3, 262_147, True)]),
    ("bytes never sent", lambda: [m.ResumeAnswer("req_1", "next", 1, 4, 262_147, True)]),
    ("limit taken back", lambda: [m.ResumeAnswer("req_1", "next", 1, 3, 100, True)]),
    ("limit beyond a window", lambda: [m.ResumeAnswer("req_1", "next", 1, 3, 262_148, True)]),
    ("done before the end", lambda: [m.ResumeAnswer("req_1", "done")]),
]


@pytest.mark.parametrize(("_name", "answers"), WRONG_ANSWERS, ids=[name for name, _ in WRONG_ANSWERS])
def test_a_wrong_answer_to_resume_ends_the_link(_name: str, answers: Callable[[], list[m.ResumeAnswer]]) -> None:
    """The node goes on only with what it can; the job stays for another link."""
    pair = Pair()
    _, at_node = pair.answering()
    at_node.data(b"abc")
    pair.to_gateway()
    pair.drop()
    again = pair.again()
    again.node.resume()
    events = again.node.receive(frame(f.RESUME_RESULT, 0, m.ResumeResult(answers())), 0)
    assert failure(events) in ("bad_resume", "bad_stream")
    assert at_node.link is None
    assert pair.tables[1].detached() == [at_node]
