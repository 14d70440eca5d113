"""Who is served and who waits, without a socket: what happens in the same turn of the loop."""

from typing import Any

import pytest

from potluck.node.jobs import Engine, Jobs
from potluck.ports import Failure
from potluck.wire import link_events as e
from potluck.wire import link_frames as f
from potluck.wire import link_messages as m
from potluck.wire.link_jobs import Job, JobTable

GOOD = b'{"model":"m"}'


class Carrier:
    """A link that keeps what was said."""

    def __init__(self) -> None:
        self.said: list[tuple[int, bytes]] = []

    def say(self, kind: int, stream: int, payload: bytes = b"") -> None:
        self.said.append((kind, payload))

    def wake(self, job: Job) -> None:
        if job.state == "ending":
            assert job.ending is not None
            self.said.append((0, f.encode(job.ending)))

    def release(self, job: Job, *, moved: bool = False) -> None:
        pass


class Calls:
    """An upstream that keeps its sinks."""

    def __init__(self) -> None:
        self.sinks: list[Any] = []

    def open(self, target: Any, head: Any, body: Any, sink: Any) -> "Calls":
        self.sinks.append(sink)
        return self

    def cancel(self, reason: str) -> None:
        pass


class Scene:
    """Jobs for one engine that could do many at once."""

    def __init__(self, slots: int) -> None:
        self.upstream = Calls()
        engine = Engine("e", "127.0.0.1", 1, False, "", (), self.upstream, 9)  # type: ignore[arg-type]
        self.jobs = Jobs(lambda *_: engine, lambda: None, lambda: None, lambda *_: None)
        self.jobs.resize(slots, 5)
        self.link, self.table = Carrier(), JobTable("node")

    def open(self, name: str, body: bytes = GOOD) -> Job:
        job = Job(self.table, self.link, 1, m.Open(name, "e", "m", "/v1/chat/completions", len(body)), 1 << 16)
        self.jobs.take(e.Opened(job))
        job.in_received += len(body)
        self.jobs.take(e.DataCame(job, body, True))
        return job


@pytest.fixture
def scene() -> Scene:
    return Scene(1)


def test_a_request_that_ends_as_it_is_started_leaves_the_turns_in_order(scene: Scene) -> None:
    """Two slots become free for one that names another model and one that is fine: each has its turn once."""
    first = scene.open("a")
    wrong = scene.open("b", b'{"model":"x"}')
    right = scene.open("c")
    assert [call.job for call in scene.jobs.waiting] == [wrong, right]
    scene.jobs.slots = 3
    scene.upstream.sinks[0].failed(Failure("target_unreachable", "connect", "gone"))
    assert [call.job for call in scene.jobs.running.values()] == [right]
    assert scene.jobs.waiting == []
    assert (first.state, wrong.state, right.state) == ("ending", "ending", "accepted")
    assert len(scene.upstream.sinks) == 2


def test_who_waits_gets_a_slot_as_soon_as_there_are_more(scene: Scene) -> None:
    """How many an engine does at once is learnt after its models: nobody waits for somebody else's end."""
    scene.open("a")
    second = scene.open("b")
    assert second.state == "opened"
    scene.jobs.resize(2, 5)
    assert second.state == "accepted"


def test_a_long_reason_fits_the_protocol(scene: Scene) -> None:
    """Whatever stands in the way is told in as many words as a frame may have."""
    scene.open("a")
    scene.jobs.reset_all("owner_active", "x" * 1000)
    f.decode(f.RESET, scene.link.said[-1][1])
