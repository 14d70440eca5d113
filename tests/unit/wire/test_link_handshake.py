"""The first four frames, heartbeats and what is said on an open link apart from streams."""

import tracemalloc

import msgspec
import pytest

from potluck.wire import link_events as e
from potluck.wire import link_frames as f
from potluck.wire import link_messages as m
from potluck.wire.link import LinkCore
from potluck.wire.link_handshake import Party
from potluck.wire.link_jobs import JobTable
from tests.unit.wire.link_pair import (
    ENGINE,
    GATEWAY,
    GATEWAY_KEY,
    HELLO,
    NODE,
    NODE_KEY,
    ORIGIN,
    PATH,
    Pair,
    caps,
    failure,
    frame,
    request,
    signer,
    verify,
)


def before_proof() -> tuple[Pair, bytes]:
    """A pair whose node has answered CHALLENGE; its PROOF is not delivered."""
    pair = Pair(joined=False)
    pair.node.hello(HELLO)
    pair.to_gateway()
    pair.gateway.challenge(NODE_KEY, "s-1", "22" * 32)
    pair.to_node()
    (proof,) = pair.node.frames_to_send()
    return pair, proof


def test_both_sides_come_to_the_same_terms() -> None:
    """Features are those of both, the window is the gateway's choice."""
    pair = Pair(
        hello=msgspec.structs.replace(HELLO, features=["inner", "resume"]),
        terms=m.Welcome(0, [], stream_window_bytes=65536),
    )
    assert pair.gateway.terms == pair.node.terms == m.Welcome(0, ["resume"], stream_window_bytes=65536)
    assert pair.gateway.phase == pair.node.phase == "open"
    assert pair.gateway.session == pair.node.session == "session-1"


def test_a_proof_by_another_key_ends_the_link() -> None:
    """Whoever does not hold the node's key gets no WELCOME, and is told why."""
    pair, _ = before_proof()
    stranger = signer(b"another key")(b"anything")
    assert failure(pair.gateway.receive(frame(f.PROOF, 0, stranger), 0)) == "bad_proof"
    (last,) = pair.gateway.frames_to_send()
    assert last[1] == f.GOAWAY
    assert f.decode(f.GOAWAY, last[12:]).code == "bad_proof"
    assert pair.gateway.phase == "closed"


def test_a_recorded_proof_does_not_open_another_link() -> None:
    """The gateway's nonce is under the signature, so a replay fails."""
    pair, proof = before_proof()
    assert isinstance(pair.gateway.receive(proof, 0)[0], e.Proved)
    again = LinkCore(GATEWAY, 0)
    again.receive(frame(f.HELLO, 0, HELLO), 0)
    again.challenge(NODE_KEY, "s-1", "33" * 32)
    assert failure(again.receive(proof, 0)) == "bad_proof"


def test_a_recorded_welcome_does_not_open_another_link() -> None:
    """The node's nonce is under the gateway's signature."""
    pair, proof = before_proof()
    pair.gateway.receive(proof, 0)
    pair.gateway.welcome(JobTable("gateway"), 0)
    (welcome,) = [x for x in pair.gateway.frames_to_send() if x[1] == f.WELCOME]
    other = LinkCore(NODE, 0, JobTable("node"))
    other.hello(msgspec.structs.replace(HELLO, nonce="44" * 32))
    other.receive(frame(f.CHALLENGE, 0, m.Challenge(ORIGIN, "s-1", "22" * 32)), 0)
    assert failure(other.receive(welcome, 0)) == "bad_gateway"
    assert isinstance(pair.node.receive(welcome, 0)[0], e.Welcomed)


def test_terms_that_were_changed_on_the_way_do_not_verify() -> None:
    """Nobody between the two takes a feature away."""
    pair, proof = before_proof()
    pair.gateway.receive(proof, 0)
    pair.gateway.welcome(JobTable("gateway"), 0)
    (welcome,) = pair.gateway.frames_to_send()
    payload = welcome[12:].replace(b'"resume"', b'"stream"')
    assert failure(pair.node.receive(frame(f.WELCOME, 0, payload), 0)) == "bad_gateway"


def test_a_gateway_of_another_origin_is_not_answered() -> None:
    """The node signs nothing for an origin that it did not dial."""
    node = LinkCore(NODE, 0, JobTable("node"))
    node.hello(HELLO)
    node.frames_to_send()
    events = node.receive(frame(f.CHALLENGE, 0, m.Challenge("https://elsewhere.example", "s-1", "22" * 32)), 0)
    assert failure(events) == "bad_origin"
    assert [x[1] for x in node.frames_to_send()] == [f.GOAWAY]


def test_a_node_without_a_pinned_key_takes_no_gateway() -> None:
    """An empty pin does not mean any gateway."""
    node = LinkCore(Party("node", ORIGIN, signer(NODE_KEY), lambda *_: True), 0, JobTable("node"))
    node.hello(HELLO)
    node.receive(frame(f.CHALLENGE, 0, m.Challenge(ORIGIN, "s-1", "22" * 32)), 0)
    assert failure(node.receive(frame(f.WELCOME, 0, bytes(64) + b'{"minor":0,"features":[]}'), 0)) == "bad_gateway"


def test_a_node_of_the_future_is_told_the_version() -> None:
    """No common minor version is a reason of its own."""
    hello = msgspec.structs.replace(HELLO, min_minor=m.MINOR + 1, max_minor=m.MINOR + 1)
    assert failure(LinkCore(GATEWAY, 0).receive(frame(f.HELLO, 0, hello), 0)) == "version"


@pytest.mark.parametrize("kind", [f.CAPS, f.LOAD, f.ACCEPT, f.PING, f.DATA, f.PROOF, f.RESUME])
def test_nothing_but_the_next_frame_comes_before_welcome(kind: int) -> None:
    """Whoever has not proved itself says HELLO and PROOF, in this order, or nothing."""
    stream = 1 if f.FRAMES[kind].on_stream else 0
    raw = f.data_frame(1, 0, b"x") if kind == f.DATA else frame(kind, stream, bytes(8))
    assert failure(LinkCore(GATEWAY, 0).receive(raw, 0)) in ("bad_state", "bad_payload", "bad_frame")


def test_a_large_frame_before_welcome_is_not_read() -> None:
    """A stranger costs 4 KiB."""
    hello = frame(f.HELLO, 0, b'{"x":"' + b"y" * m.MAX_EARLY_BYTES + b'"}')
    assert failure(LinkCore(GATEWAY, 0).receive(hello, 0)) == "too_large"


def test_a_handshake_has_a_deadline() -> None:
    """A peer that says nothing is not waited for longer than 10 s."""
    core = LinkCore(GATEWAY, 100.0)
    assert core.tick(100.0 + m.HANDSHAKE_S - 0.1) == []
    assert failure(core.tick(100.0 + m.HANDSHAKE_S)) == "handshake_timeout"


def test_heartbeats_measure_and_notice() -> None:
    """A PING every 15 s gives the round trip; one missed makes suspect, a frame recovers, three missed end it."""
    pair = Pair()
    pair.now = 15.0
    assert pair.gateway.tick(15.0) == pair.node.tick(15.0) == []
    pair.to_node()
    pair.now = 15.25
    pair.to_gateway()
    assert pair.gateway.rtt_s == 0.25
    assert pair.gateway.tick(35.0) == []
    assert pair.gateway.tick(35.26) == [e.Suspect()]
    assert pair.gateway.why_not_open("e1", PATH) == "suspect"
    assert pair.gateway.tick(40.0) == []
    pair.now = 41.0
    assert pair.to_node() == []
    assert pair.to_gateway()[0] == e.Recovered()
    assert pair.gateway.why_not_open("e1", PATH) == ""
    events = pair.gateway.tick(41.0 + 45.0)
    assert failure(events) == "lost"


def test_a_clock_that_the_node_could_lie_about_is_never_asked() -> None:
    """The two clocks may differ by anything, in their rate as well: only one's own counts."""
    gateway_now, node_now = 5.0, 1e9
    gateway, node = LinkCore(GATEWAY, gateway_now), LinkCore(NODE, node_now, JobTable("node"))

    def carry() -> None:
        for each in node.frames_to_send():
            gateway.receive(each, gateway_now)
        for each in gateway.frames_to_send():
            node.receive(each, node_now)

    node.hello(HELLO)
    carry()
    gateway.challenge(NODE_KEY, "s", "22" * 32)
    carry()
    carry()
    gateway.welcome(JobTable("gateway"), gateway_now)
    carry()
    for _ in range(20):
        gateway_now += 15.0
        node_now += 7.5
        assert gateway.tick(gateway_now) == node.tick(node_now) == []
        carry()
        carry()
    assert gateway.phase == node.phase == "open"


def test_capabilities_load_drain_tasks_and_logs_arrive_as_they_were_said() -> None:
    """Each kind comes out at the other end as the same value."""
    pair = Pair()
    pair.gateway.caps_ack(1)
    assert pair.to_node() == [e.CapsAcked(1)]
    load = m.Load("paused", "owner is here", "active", [m.EngineState("e1", True, waiting=3)])
    pair.node.load(load)
    assert pair.to_gateway() == [e.LoadCame(load)]
    assert pair.gateway.why_not_open("e1", PATH) == "not ready"
    drain = m.Drain("pause", 30.0, 600.0, "backup")
    pair.gateway.drain(drain)
    assert pair.to_node() == [e.DrainCame(drain)]
    pair.node.drain(drain)
    pair.node.drained()
    assert pair.to_gateway() == [e.DrainCame(drain), e.Drained()]
    pair.node.load(m.Load("ready"))
    pair.to_gateway()
    assert pair.gateway.why_not_open("e1", PATH) == ""
    task = m.Task("t1", "load", "e1", "llama3.2:3b")
    pair.gateway.task(task)
    assert pair.to_node() == [e.TaskCame(task)]
    result = m.TaskResult("t1", True, "", 900)
    pair.node.task_result(result)
    pair.node.log(m.Log("warning", "disk is slow"), 1.0)
    pair.node.log(m.Log("warning", "disk is still slow"), 1.9)
    assert pair.to_gateway() == [e.TaskEnded(result), e.Logged(m.Log("warning", "disk is slow"))]


def test_a_graceful_goaway_lets_streams_end_and_takes_no_new_ones() -> None:
    """A gateway that restarts spreads its nodes, and cuts nothing."""
    pair = Pair()
    at_gateway, at_node = pair.answering()
    pair.gateway.goaway("restart", spread_s=20.0)
    assert pair.to_node() == [e.GoingAway(m.Goaway("restart", "", True, 20.0))]
    assert pair.gateway.why_not_open("e1", PATH) == "going away"
    at_node.data(b"abc")
    at_node.end()
    assert pair.to_gateway() == [e.DataCame(at_gateway, b"abc", False), e.Ended(at_gateway, None)]


def test_a_close_tells_the_peer_why() -> None:
    """Revocation drops the link at once, with its reason."""
    pair = Pair()
    assert pair.gateway.close("revoked", "by an admin", 0) == []
    assert pair.to_node() == [e.GoingAway(m.Goaway("revoked", "by an admin"))]
    assert pair.gateway.phase == pair.node.phase == "closed"


def test_a_task_without_a_link_has_failed() -> None:
    """Nobody waits for the result of a task whose link is gone."""
    pair = Pair()
    pair.gateway.task(m.Task("t1", "unload", "e1"))
    assert pair.gateway.lost(0) == [e.TaskEnded(m.TaskResult("t1", False, "link lost"))]


def test_what_the_caller_says_wrongly_is_a_value_error() -> None:
    """Errors of our own side are not put on the wire."""
    pair = Pair()
    wrong = [
        lambda: pair.node.open(request(), b""),
        lambda: pair.gateway.open(request(), b"more"),
        lambda: pair.gateway.open(request(headers=[("host", "lan")]), b""),
        lambda: pair.gateway.open(request(deadline_s=-1.0), b""),
        lambda: pair.gateway.load(m.Load("ready")),
        lambda: pair.node.caps(caps(1)),
        lambda: pair.node.caps(caps(2, [ENGINE, ENGINE])),
        lambda: pair.node.caps(caps(2, [m.EngineOffer("e2", "ollama", ["/api/delete"])])),
        lambda: pair.node.task_result(m.TaskResult("t9", True)),
        lambda: pair.node.drained(),
        lambda: pair.gateway.challenge(NODE_KEY, "s", "22" * 32),
        lambda: pair.gateway.task(m.Task("t", "probe", "e9")),
        lambda: LinkCore(GATEWAY, 0).welcome(JobTable("gateway"), 0),
    ]
    for each in wrong:
        with pytest.raises(ValueError):
            each()
    assert pair.to_node() == pair.to_gateway() == []


def test_the_gateways_signature_covers_the_terms_as_sent() -> None:
    """WELCOME is 64 bytes of signature over the handshake, then the terms."""
    pair, proof = before_proof()
    pair.gateway.receive(proof, 0)
    pair.gateway.welcome(JobTable("gateway"), 0)
    (welcome,) = pair.gateway.frames_to_send()
    hello, challenge = f.encode(HELLO), f.encode(m.Challenge(ORIGIN, "s-1", "22" * 32))
    signed = m.signed(m.WELCOME_CONTEXT, hello, challenge, proof[12:], welcome[76:])
    assert verify(GATEWAY_KEY, signed, welcome[12:76])


def test_an_idle_link_costs_little() -> None:
    """A thousand idle nodes are a thousand cores of less than 8 KiB each at the gateway."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        pairs = [Pair().gateway for _ in range(200)]
        each = (tracemalloc.get_traced_memory()[0] - before) / len(pairs)
    finally:
        tracemalloc.stop()
    assert each < 8192
