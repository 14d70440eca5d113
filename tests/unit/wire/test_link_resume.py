"""A running answer over dropped links: what goes on, what is lost, and who is told."""

import msgspec
import pytest

from potluck.wire import link_events as e
from potluck.wire import link_frames as f
from potluck.wire import link_messages as m
from potluck.wire.link_jobs import MAX_FINISHED, JobTable
from tests.unit.wire.link_pair import HELLO, Pair, caps, failure, frame
from tests.unit.wire.test_link_streams import data_of


def test_an_answer_goes_on_where_it_was_cut() -> None:
    """Bytes that were under way come again, none twice; what was produced meanwhile follows; the end is confirmed."""
    pair = Pair()
    at_gateway, at_node = pair.answering(body=b"prompt")
    at_node.data(b"one ")
    assert data_of(pair.to_gateway()) == b"one "
    at_node.data(b"two ")
    pair.node.frames_to_send()
    assert pair.drop() == ([], [])
    assert at_node.data(b"three ") is True
    at_node.end(m.Usage(1, 3))
    pair.now = 10.0
    again = pair.again()
    assert again.node.resume() == 1
    assert again.to_gateway() == [e.Resumed(at_gateway)]
    assert again.to_node() == [e.Resumed(at_node)]
    assert again.to_gateway() == [e.DataCame(at_gateway, b"two three ", False), e.Ended(at_gateway, m.Usage(1, 3))]
    assert again.to_node() == [e.Finished(at_node)]
    assert again.tables[0].jobs == again.tables[1].jobs == {}


def test_a_head_that_was_lost_is_said_again() -> None:
    """The gateway says whether it knows the head; it comes once."""
    pair = Pair()
    at_gateway, at_node = pair.open(body=b"prompt")
    at_node.accept()
    pair.to_gateway()
    at_node.head(200, [])
    pair.node.frames_to_send()
    pair.drop()
    again = pair.again()
    again.node.resume()
    again.to_gateway()
    again.to_node()
    assert again.to_gateway() == [e.HeadCame(at_gateway, m.Head(200))]


def test_an_end_that_was_lost_is_said_again() -> None:
    """The node keeps an answer until DONE."""
    pair = Pair()
    at_gateway, at_node = pair.answering()
    at_node.data(b"all")
    at_node.end()
    pair.node.frames_to_send()
    pair.drop()
    again = pair.again()
    again.node.resume()
    again.to_gateway()
    again.to_node()
    assert again.to_gateway() == [e.DataCame(at_gateway, b"all", False), e.Ended(at_gateway, None)]
    assert again.to_node() == [e.Finished(at_node)]


def test_a_done_that_was_lost_is_answered_done() -> None:
    """The gateway remembers what came whole; with a wrong token it does not say so."""
    pair = Pair()
    _, at_node = pair.answering()
    at_node.end()
    pair.to_gateway()
    pair.drop()
    again = pair.again()
    assert again.tables[0].was_finished("req_1", "cd" * 16) is False
    again.node.resume()
    assert again.to_gateway() == []
    assert again.to_node() == [e.Finished(at_node)]


def test_a_job_that_the_gateway_gave_up_is_rejected() -> None:
    """A caller that hung up while the link was down: the node aborts when it comes back."""
    pair = Pair()
    at_gateway, at_node = pair.answering()
    pair.drop()
    at_gateway.cancel("client_closed")
    assert pair.tables[0].jobs == {}
    again = pair.again()
    again.node.resume()
    again.to_gateway()
    assert again.to_node() == [e.Lost(at_node, "rejected")]
    assert again.tables[1].jobs == {}


def test_a_request_that_had_not_arrived_is_lost_on_both_sides() -> None:
    """Without the whole request there is nothing to go on with: the gateway can try elsewhere at once."""
    pair = Pair()
    body = bytes(300_000)
    at_gateway, at_node = pair.open(body=body)
    assert pair.drop() == ([e.Lost(at_gateway, "link lost")], [e.Lost(at_node, "link lost")])
    assert pair.tables[0].jobs == pair.tables[1].jobs == {}


@pytest.mark.parametrize("without", ["feature", "token"])
def test_nothing_is_kept_unless_both_agreed(without: str) -> None:
    """No `resume` in the terms, or no token for the job: the answer is lost with its link."""
    hello = msgspec.structs.replace(HELLO, features=[]) if without == "feature" else HELLO
    pair = Pair(hello=hello)
    at_gateway, at_node = pair.answering(token="" if without == "token" else "ab" * 16)
    at_node.data(b"some")
    pair.to_gateway()
    assert not at_node.held
    assert pair.drop() == ([e.Lost(at_gateway, "link lost")], [e.Lost(at_node, "link lost")])


def test_the_node_may_see_the_drop_first() -> None:
    """RESUME on the second link takes the job from the first; what still comes there is late, not wrong."""
    pair = Pair()
    second = pair.again()
    at_gateway, at_node = pair.answering()
    at_node.data(b"one ")
    under_way = pair.node.frames_to_send()
    pair.node.lost(0)
    second.node.resume()
    assert second.to_gateway() == [e.Resumed(at_gateway)]
    assert second.to_node() == [e.Resumed(at_node)]
    assert [event for each in under_way for event in pair.gateway.receive(each, 0)] == []
    assert data_of(second.to_gateway()) == b"one "
    assert pair.gateway.lost(0) == []
    at_node.data(b"two")
    assert data_of(second.to_gateway()) == b"two"


@pytest.mark.parametrize("late", ["data", "control"])
def test_what_is_late_on_a_stream_that_moved_comes_to_an_end(late: str) -> None:
    """What its window had left, and some frames beside, may still come; who goes on sending loses that link alone."""
    pair = Pair()
    second = pair.again()
    at_gateway, at_node = pair.answering()
    stream = at_gateway.stream
    left = at_gateway.in_limit - at_gateway.in_received
    pair.node.lost(0)
    second.node.resume()
    second.to_gateway()
    piece = 1024
    data = f.DATA_HEADER.pack(f.LAYOUT, f.DATA, 0, stream, piece, 0) + bytes(piece)
    flood = data if late == "data" else frame(f.WINDOW, stream, f.OFFSET.pack(1))
    counted = 0
    while not (events := pair.gateway.receive(flood, 0)):
        counted += 1
        assert counted < 1_000_000, "it never ends"
    assert failure(events) == "bad_stream"
    if late == "data":
        assert left <= counted * piece <= left + 16 * 1024
    second.to_node()
    at_node.data(b"on")
    assert data_of(second.to_gateway()) == b"on"


def test_a_wrong_token_ends_the_link_and_nothing_else() -> None:
    """A forged RESUME takes no answer away from its link."""
    pair = Pair()
    thief = pair.again()
    at_gateway, at_node = pair.answering()
    ask = m.Resume([m.ResumeAsk("req_1", "cd" * 16, 0, 0)])
    assert failure(thief.gateway.receive(frame(f.RESUME, 0, ask), 0)) == "bad_resume"
    at_node.data(b"mine")
    assert pair.to_gateway() == [e.DataCame(at_gateway, b"mine", False)]


@pytest.mark.parametrize(("first", "produced"), [(0, 2), (4, 9)])
def test_a_node_that_lacks_bytes_loses_the_job(first: int, produced: int) -> None:
    """Behind what was accepted, or without bytes that are wanted: the answer cannot be whole any more."""
    pair = Pair()
    at_gateway, at_node = pair.answering()
    at_node.data(b"abc")
    pair.to_gateway()
    pair.gateway.lost(0)
    again = Pair((pair.tables[0], JobTable("node")))
    ask = m.Resume([m.ResumeAsk("req_1", "ab" * 16, first, produced)])
    assert again.gateway.receive(frame(f.RESUME, 0, ask), 0) == [e.Lost(at_gateway, "the node cannot go on with it")]


def test_jobs_run_out_on_both_sides() -> None:
    """30 s at the gateway, 45 s at the node; a late `next` is answered with a reset."""
    pair = Pair()
    at_gateway, at_node = pair.answering()
    pair.drop()
    assert pair.tables[0].expire(29.9) == []
    again = pair.again()
    again.node.resume()
    again.to_gateway()
    assert pair.tables[0].expire(30.0) == []
    assert pair.tables[1].expire(44.9) == []
    assert pair.tables[1].expire(45.0) == [at_node]
    assert again.to_node() == []
    assert again.to_gateway() == [e.WasReset(at_gateway, m.Reset("expired"))]
    assert pair.tables[0].jobs == pair.tables[1].jobs == {}


def test_a_node_that_started_anew_leaves_nothing_behind() -> None:
    """A new boot id: the gateway gives up what waits, at once."""
    pair = Pair()
    at_gateway, _ = pair.answering()
    pair.drop()
    assert pair.tables[0].abandon() == [at_gateway]
    assert pair.tables[0].jobs == {}
    assert at_gateway.state == "over"


def test_a_failed_link_loses_no_answer() -> None:
    """A frame that breaks a rule ends that link; its answers go on over the next."""
    pair = Pair()
    at_gateway, at_node = pair.answering()
    at_node.data(b"one")
    pair.to_gateway()
    assert failure(pair.gateway.receive(b"rubbish", 0)) == "bad_frame"
    assert [type(event) for event in pair.to_node()] == [e.GoingAway]
    again = pair.again()
    again.node.resume()
    again.to_gateway()
    again.to_node()
    at_node.data(b"two")
    assert data_of(again.to_gateway()) == b"two"
    assert at_gateway.in_received == 6


def test_a_second_drop_before_the_answer_to_resume() -> None:
    """Asking is no state: the next link asks again."""
    pair = Pair()
    at_gateway, at_node = pair.answering()
    at_node.data(b"abc")
    pair.drop()
    second = pair.again()
    second.node.resume()
    second.to_gateway()
    second.drop()
    third = second.again()
    assert third.node.resume() == 1
    third.to_gateway()
    third.to_node()
    assert data_of(third.to_gateway()) == b"abc"
    assert at_gateway.in_received == at_node.out_sent == 3


def test_a_stopped_engine_goes_on_after_resume() -> None:
    """While there is no link the node stops reading at its limit, and is told to go on after it."""
    pair = Pair()
    at_gateway, at_node = pair.answering()
    pair.drop()
    while at_node.data(bytes(65536)):
        pass
    again = pair.again()
    again.node.resume()
    again.to_gateway()
    again.to_node()
    for _ in range(20):
        at_gateway.consumed(len(data_of(again.to_gateway())))
        if e.Writable(at_node) in again.to_node():
            break
    assert at_node.data(b"more") is True


def test_what_is_remembered_is_bounded() -> None:
    """The last 256 whole answers, and no more."""
    table = JobTable("gateway")
    pair = Pair((table, JobTable("node")))
    for number in range(MAX_FINISHED + 1):
        _, at_node = pair.answering(f"req_{number}")
        at_node.end()
        pair.to_gateway()
        pair.to_node()
    assert not table.was_finished("req_0", "ab" * 16)
    assert table.was_finished("req_1", "ab" * 16)
    assert table.was_finished(f"req_{MAX_FINISHED}", "ab" * 16)


def test_capabilities_belong_to_a_link() -> None:
    """A new link starts without engines, whatever the last one offered."""
    pair = Pair()
    pair.node.caps(caps(9))
    pair.to_gateway()
    assert Pair(pair.tables).gateway.why_not_open("e1", "/v1/embeddings") == ""
