"""Streams on a link: answers, refusals, cancels, windows, the order of frames."""

import pytest

from potluck.wire import link_events as e
from potluck.wire import link_frames as f
from potluck.wire import link_messages as m
from potluck.wire.link_jobs import HELD_HARD_BYTES, HELD_PER_JOB_BYTES, Job
from tests.unit.wire.link_pair import PATH, Pair, caps, request

WINDOW = m.STREAM_WINDOW_BYTES


def data_of(events: list[e.Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, e.DataCame))


def test_an_answer_from_open_to_done() -> None:
    """Both sides see every step, and keep nothing of it afterwards."""
    pair = Pair()
    body = b'{"model": "x"}'
    at_gateway = pair.gateway.open(request(body=body), body)
    opened, came = pair.to_node()
    assert isinstance(opened, e.Opened)
    at_node = opened.job
    assert at_node.request == request(body=body)
    assert came == e.DataCame(at_node, body, True)
    at_node.accept()
    at_node.head(200, [("content-type", "text/event-stream"), ("server", "secret/1.0")])
    at_node.data(b"data: 1\n\n")
    assert pair.to_gateway() == [
        e.Accepted(at_gateway),
        e.HeadCame(at_gateway, m.Head(200, [("content-type", "text/event-stream")])),
        e.DataCame(at_gateway, b"data: 1\n\n", False),
    ]
    at_node.data(b"data: [DONE]\n\n")
    at_node.end(m.Usage(7, 2))
    assert pair.to_gateway() == [
        e.DataCame(at_gateway, b"data: [DONE]\n\n", False),
        e.Ended(at_gateway, m.Usage(7, 2)),
    ]
    assert at_node.state == "ended"
    assert pair.to_node() == [e.Finished(at_node)]
    assert at_gateway.state == at_node.state == "over"
    assert pair.tables[0].jobs == pair.tables[1].jobs == {}


def test_a_refusal_carries_its_reason() -> None:
    """Code, hint and numbers reach the gateway, and the stream is over."""
    pair = Pair()
    at_gateway, at_node = pair.open()
    refusal = m.Refuse("model_loading", "loading", retry_after_s=4.0, eta_s=3.5)
    at_node.refuse(refusal)
    assert pair.to_gateway() == [e.Refused(at_gateway, refusal)]
    assert pair.tables[0].jobs == pair.tables[1].jobs == {}


def test_the_body_of_a_refused_request_is_dropped() -> None:
    """What the gateway sent before it heard of the refusal is late, not wrong."""
    pair = Pair()
    body = bytes(200_000)
    at_gateway = pair.gateway.open(request(body=body), body)
    first, *rest = pair.gateway.frames_to_send(1)
    (opened,) = pair.node.receive(first, 0)
    assert isinstance(opened, e.Opened)
    opened.job.refuse(m.Refuse("busy"))
    assert [pair.node.receive(each, 0) for each in rest] == [[]] * len(rest)
    assert pair.to_node() == []
    assert pair.to_gateway() == [e.Refused(at_gateway, m.Refuse("busy"))]
    assert pair.node.phase == "open"


def test_a_reset_comes_after_the_bytes_that_were_given() -> None:
    """An engine that fails in mid-answer: what it had said is delivered first."""
    pair = Pair()
    at_gateway, at_node = pair.answering()
    at_node.data(b"half")
    at_node.reset("engine_failed", "it closed the connection")
    assert pair.to_gateway() == [
        e.DataCame(at_gateway, b"half", False),
        e.WasReset(at_gateway, m.Reset("engine_failed", "it closed the connection")),
    ]
    assert pair.tables[0].jobs == pair.tables[1].jobs == {}


def test_a_cancel_is_confirmed_by_the_node() -> None:
    """The node drops what waits, and says when the engine call is closed."""
    pair = Pair()
    at_gateway, at_node = pair.answering()
    at_node.data(b"never seen")
    at_gateway.cancel("client_closed")
    assert pair.to_node() == [e.Cancelled(at_node, "client_closed")]
    assert at_node.data(b"nor this") is False
    assert pair.node.frames_to_send() == []
    at_node.reset("cancelled")
    assert pair.to_gateway() == [e.Confirmed(at_gateway)]
    assert pair.tables[0].jobs == pair.tables[1].jobs == {}


@pytest.mark.parametrize("last", ["end", "reset", "refuse", "waiting end"])
def test_a_cancel_that_crosses_the_end_closes_both_sides(last: str) -> None:
    """Whichever last frame was under way confirms the cancel."""
    pair = Pair()
    at_gateway, at_node = pair.open() if last == "refuse" else pair.answering()
    if last == "refuse":
        at_node.refuse(m.Refuse("busy"))
    elif last == "reset":
        at_node.reset("internal")
    else:
        at_node.data(bytes(2 * WINDOW) if last == "waiting end" else b"all")
        at_node.end()
    under_way = pair.node.frames_to_send(10 * WINDOW)
    at_gateway.cancel("timeout")
    pair.to_node()
    events = [event for each in under_way for event in pair.gateway.receive(each, 0)] + pair.to_gateway()
    assert events == [e.Confirmed(at_gateway)]
    assert pair.tables[0].jobs == pair.tables[1].jobs == {}
    assert pair.gateway.phase == pair.node.phase == "open"


def test_a_cancel_that_is_never_confirmed_ends_the_link() -> None:
    """A node that does not let go loses the link, not the gateway its streams."""
    pair = Pair()
    at_gateway, _ = pair.answering()
    at_gateway.cancel("client_closed")
    pair.to_node()
    for now in (1.0, 12.0, 25.0):
        pair.node.say(f.PING, 0, bytes(8))
        for each in pair.node.frames_to_send():
            pair.gateway.receive(each, now)
        assert pair.gateway.tick(now) == []
    (failed, confirmed) = pair.gateway.tick(31.0)
    assert isinstance(failed, e.Failed)
    assert failed.code == "unconfirmed"
    assert confirmed == e.Confirmed(at_gateway)


def test_a_stalled_caller_holds_one_window() -> None:
    """Nothing more comes than the window while nothing is consumed; half a window used up opens it again."""
    pair = Pair()
    at_gateway, at_node = pair.answering()
    at_node.data(bytes(HELD_PER_JOB_BYTES))
    came = 0
    for _ in range(40):
        came += len(data_of(pair.to_gateway()))
        pair.to_node()
    assert came == at_gateway.in_received == WINDOW
    at_gateway.consumed(WINDOW // 2 - 1)
    assert not pair.gateway.wants_to_send
    at_gateway.consumed(1)
    pair.to_node()
    for _ in range(40):
        came += len(data_of(pair.to_gateway()))
    assert came == WINDOW + WINDOW // 2


def test_stalled_callers_do_not_hold_up_another() -> None:
    """More stalled streams than the link's window has room for: the next one still flows."""
    pair = Pair()
    stalled = [pair.answering(f"req_{n}")[1] for n in range(20)]
    for job in stalled:
        job.data(bytes(WINDOW))
    for _ in range(100):
        pair.to_gateway()
        pair.to_node()
    assert sum(job.out_sent for job in stalled) == 20 * WINDOW > m.LINK_WINDOW_BYTES
    at_gateway, at_node = pair.answering("req_last")
    at_node.data(b"quick")
    assert e.DataCame(at_gateway, b"quick", False) in pair.to_gateway()


def test_the_owner_of_an_answer_is_told_to_stop_and_to_go_on() -> None:
    """`data` says no at 512 KiB held, and `Writable` follows the acknowledgement."""
    pair = Pair()
    at_gateway, at_node = pair.answering()
    assert at_node.data(bytes(HELD_PER_JOB_BYTES - 1)) is True
    assert at_node.data(b"x") is False
    for _ in range(40):
        pair.to_gateway()
    at_gateway.consumed(WINDOW)
    assert pair.to_node() == [e.Writable(at_node)]


def test_an_owner_that_does_not_stop_loses_the_answer() -> None:
    """Memory ends at 8 MiB per job, and the gateway hears why."""
    pair = Pair()
    at_gateway, at_node = pair.answering()
    for _ in range(HELD_HARD_BYTES // 65536 + 1):
        at_node.data(bytes(65536))
    assert not at_node.unsent
    events = pair.to_gateway()
    assert isinstance(events[-1], e.WasReset)
    assert events[-1].reset.code == "overflow"
    assert at_gateway.state == "over"


def test_bodies_take_turns_and_control_goes_first() -> None:
    """A large body delays another's first token by one turn, and a frame of control not at all."""
    pair = Pair()
    _, large = pair.answering("req_large")
    _, small = pair.answering("req_small")
    large.data(bytes(200_000))
    small.data(b"token")
    pair.node.load(m.Load("ready"))
    frames = pair.node.frames_to_send()
    assert [(each[1], int.from_bytes(each[4:8], "big")) for each in frames[:3]] == [
        (f.LOAD, 0),
        (f.DATA, large.stream),
        (f.DATA, small.stream),
    ]
    assert max(len(each) for each in frames) == m.TURN_BYTES + f.DATA_HEADER.size
    assert sum(len(each) for each in frames) <= 64 * 1024 + 2 * m.TURN_BYTES


def test_equal_bodies_get_equal_shares() -> None:
    """Three bodies of any chunk sizes have sent the same number of bytes, to within a turn."""
    pair = Pair()
    jobs = [pair.answering(f"req_{n}")[1] for n in range(3)]
    for job, size in zip(jobs, (100, 5_000, 60_000), strict=True):
        for _ in range(120_000 // size):
            job.data(bytes(size))
    pair.node.frames_to_send(200_000)
    sent = [job.out_sent for job in jobs]
    assert max(sent) - min(sent) <= m.TURN_BYTES


def test_a_withdrawn_engine_is_refused_not_forbidden() -> None:
    """OPEN and a newer CAPS may cross on the way."""
    pair = Pair()
    at_gateway = pair.gateway.open(request(), b"")
    pair.node.caps(caps(2, []))
    assert pair.to_node() == []
    assert e.Refused(at_gateway, m.Refuse("model_gone")) in pair.to_gateway()
    assert pair.gateway.why_not_open("e1", PATH) == "not offered"


def test_a_draining_node_refuses_by_itself() -> None:
    """An OPEN that crosses DRAIN costs one round trip."""
    pair = Pair()
    at_gateway = pair.gateway.open(request(), b"")
    pair.node.drain(m.Drain("stop"))
    assert pair.to_node() == []
    assert pair.to_gateway()[-1] == e.Refused(at_gateway, m.Refuse("draining"))


def test_streams_have_a_number() -> None:
    """The gateway opens no more than the terms say; the slots come back with the ends."""
    pair = Pair(terms=m.Welcome(0, [], max_streams=2))
    _, first = pair.answering("req_1")
    pair.answering("req_2")
    assert pair.gateway.why_not_open("e1", PATH) == "full"
    with pytest.raises(ValueError, match="full"):
        pair.gateway.open(request("req_3"), b"")
    first.end()
    pair.to_gateway()
    assert pair.gateway.why_not_open("e1", PATH) == ""


def test_what_is_said_to_a_job_that_is_over_is_dropped() -> None:
    """Engine and caller end when they like."""
    pair = Pair()
    at_gateway, at_node = pair.answering()
    at_node.end()
    pair.to_gateway()
    pair.to_node()

    def say_everything(job: Job) -> None:
        job.accept()
        job.refuse(m.Refuse("busy"))
        job.head(200, [])
        assert job.data(b"x") is False
        job.end()
        job.reset("internal")
        job.cancel("timeout")
        job.consumed(5)

    say_everything(at_gateway)
    say_everything(at_node)
    assert not pair.gateway.wants_to_send
    assert not pair.node.wants_to_send


def test_a_link_that_nobody_reads_ends() -> None:
    """Control frames that the socket does not take stay below 1 MiB."""
    pair = Pair()
    for _ in range(4000):
        pair.node.load(m.Load("ready", "x" * 300))
    (failed,) = pair.node.tick(1.0)
    assert isinstance(failed, e.Failed)
    assert failed.code == "overflow"
    assert [each[1] for each in pair.node.frames_to_send()] == [f.GOAWAY]
