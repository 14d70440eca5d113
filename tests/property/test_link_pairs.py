"""Two ends of a node's links at random: sockets that delay, drop and change; owners that do anything at any time.

Whatever happens: bytes arrive once and in order, no window is passed, every job ends once on each side, nothing stays
behind, and no link fails but for the slowness of its owners.
"""

import random
from collections import Counter, deque
from collections.abc import Callable

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from potluck.wire import link_events as e
from potluck.wire import link_frames as f
from potluck.wire import link_messages as m
from potluck.wire.link import LinkCore
from potluck.wire.link_handshake import Party
from potluck.wire.link_jobs import Job, JobTable
from tests.unit.wire.link_pair import GATEWAY, NODE, PATH, Pair, request

LARGEST = 1 << 20
ANSWERS = [random.Random(n).randbytes(LARGEST) for n in range(4)]
OWNERS_FAULT = {"lost", "unconfirmed"}
"""how a link may end without a broken rule: nobody was heard, or an owner sat on a CANCEL"""
TERMS = m.Welcome(0, [], stream_window_bytes=32 * 1024, link_window_bytes=256 * 1024, max_streams=8)


def expected(job: Job) -> bytes:
    """What the engine answers to this job; its request's body is the same from the other end."""
    return ANSWERS[int(job.request.job.removeprefix("req_")) % len(ANSWERS)]


class Link:
    """A pair of cores and the frames between them. A socket that is gone at one side takes nothing any more."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.to_node: deque[bytes] = deque()
        self.to_gateway: deque[bytes] = deque()

    @property
    def alive(self) -> bool:
        return self.pair.gateway.phase == self.pair.node.phase == "open"


class World:
    """Both owners, up to two links, and what was seen of every job."""

    def __init__(self) -> None:
        self.now = 0.0
        self.tables = (JobTable("gateway"), JobTable("node"))
        self.links: list[Link] = []
        self.count = 0
        self.gateway_jobs: dict[str, Job] = {}
        self.node_jobs: dict[str, Job] = {}
        self.answered: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.gateway_ends: dict[str, str] = {}
        self.node_ends: dict[str, str] = {}
        self.resumed: set[str] = set()
        self.tampered = False

    # what owners see

    def gateway_saw(self, events: list[e.Event]) -> None:
        for event in events:
            match event:
                case e.Failed():
                    assert event.code in OWNERS_FAULT or self.tampered, event
                case e.DataCame(job=job, data=data):
                    name = job.request.job
                    at = self.answered[name]
                    assert self.tampered or expected(job)[at : at + len(data)] == data
                    self.answered[name] += len(data)
                    assert name not in self.gateway_ends
                    assert job.in_received - job.in_consumed <= job.window
                case e.Ended(job=job):
                    node_job = self.node_jobs[job.request.job]
                    assert self.tampered or self.answered[job.request.job] == node_job.out_produced
                    self._gateway_ended(job, "ended")
                case e.Resumed(job=job):
                    self.resumed.add(job.request.job)
                case e.Refused(job=job) | e.WasReset(job=job) | e.Confirmed(job=job) | e.Lost(job=job):
                    self._gateway_ended(job, type(event).__name__)
                case _:
                    pass

    def _gateway_ended(self, job: Job, how: str) -> None:
        assert job.request.job not in self.gateway_ends
        assert job.state == "over"
        self.gateway_ends[job.request.job] = how

    def node_saw(self, events: list[e.Event]) -> None:
        for event in events:
            match event:
                case e.Failed():
                    assert event.code in OWNERS_FAULT or self.tampered, event
                case e.Opened(job=job):
                    self.node_jobs[job.request.job] = job
                case e.DataCame(job=job, data=data, whole=whole):
                    name = job.request.job
                    body = expected(job)[::-1]
                    at = self.asked[name]
                    assert self.tampered or body[at : at + len(data)] == data
                    self.asked[name] += len(data)
                    assert whole == (self.asked[name] == job.request.body_bytes)
                    assert job.in_received - job.in_consumed <= job.window
                case e.Finished(job=job) | e.Lost(job=job):
                    assert job.request.job not in self.node_ends
                    self.node_ends[job.request.job] = type(event).__name__
                case _:
                    pass

    # what happens; `n` decides the details

    def open(self, n: int) -> None:
        cores = [link.pair.gateway for link in self.links if not link.pair.gateway.why_not_open("e1", PATH)]
        if cores:
            self.count += 1
            size = (0, n % 500, (n * 37) % 100_000)[n % 3]
            ask = request(f"req_{self.count}", bytes(size))
            job = cores[n % len(cores)].open(ask, b"") if not size else self._open_with(cores[n % len(cores)], ask)
            self.gateway_jobs[job.request.job] = job

    @staticmethod
    def _open_with(core: LinkCore, ask: m.Open) -> Job:
        number = int(ask.job.removeprefix("req_")) % len(ANSWERS)
        return core.open(ask, ANSWERS[number][::-1][: ask.body_bytes])

    def engine(self, n: int) -> None:
        """The node's owner does the next thing for one of its jobs."""
        jobs = list(self.tables[1].jobs.values())
        if not jobs:
            return
        job = jobs[n % len(jobs)]
        if job.cancelled:
            self.node_ends[job.request.job] = "cancelled"
            job.reset("cancelled")
        elif job.state == "opened":
            if n % 7 == 0:
                self.node_ends[job.request.job] = "refused"
                job.refuse(m.Refuse("busy"))
            else:
                job.accept()
        elif job.state == "accepted":
            job.head(200, [("content-type", "text/plain")])
        elif job.state == "answering":
            if n % 11 == 0:
                job.end()
            elif n % 13 == 0:
                job.reset("engine_failed")
            elif not job.full:
                at = job.out_produced
                job.data(expected(job)[at : at + 1 + n % 90_000])

    def gateway_consumes(self, n: int) -> None:
        self._consume(self.tables[0], n)

    def node_consumes(self, n: int) -> None:
        self._consume(self.tables[1], n)

    @staticmethod
    def _consume(table: JobTable, n: int) -> None:
        jobs = [job for job in table.jobs.values() if job.in_received > job.in_consumed]
        if jobs:
            job = jobs[n % len(jobs)]
            waiting = job.in_received - job.in_consumed
            job.consumed(waiting if n % 2 else 1 + n % waiting)

    def cancel(self, n: int) -> None:
        jobs = [job for job in self.tables[0].jobs.values() if not job.cancelled]
        if jobs and n % 3 == 0:
            job = jobs[n % len(jobs)]
            job.cancel("client_closed")
            if job.state == "over":
                self.gateway_ends[job.request.job] = "given up"

    def send(self, n: int) -> None:
        for link in self.links:
            link.to_node.extend(link.pair.gateway.frames_to_send(1 + n))
            link.to_gateway.extend(link.pair.node.frames_to_send(1 + n))

    def deliver(self, n: int) -> None:
        if self.links:
            link = self.links[n % len(self.links)]
            for _ in range(1 + n % 5):
                if link.to_node:
                    self.node_saw(link.pair.node.receive(link.to_node.popleft(), self.now))
                if link.to_gateway and n % 2:
                    self.gateway_saw(link.pair.gateway.receive(link.to_gateway.popleft(), self.now))

    def drop(self, n: int) -> None:
        """A socket breaks, at one side first or at both."""
        if self.links and n % 4 == 0:
            link = self.links[n % len(self.links)]
            if n % 8:
                self.gateway_saw(link.pair.gateway.lost(self.now))
            if n % 3:
                self.node_saw(link.pair.node.lost(self.now))
        self._bury()

    def _bury(self) -> None:
        """The side that is left of a broken link reads what had reached it, then sees the end."""
        for link in [link for link in self.links if not link.alive]:
            if link.pair.gateway.phase == link.pair.node.phase == "closed":
                self.links.remove(link)

    def notice(self, n: int) -> None:
        """The other side of a broken socket notices, after what was under way."""
        for link in self.links:
            if link.pair.gateway.phase == "closed" and not (n % 2 and link.to_node):
                self.node_saw(link.pair.node.lost(self.now))
            elif link.pair.node.phase == "closed" and not (n % 2 and link.to_gateway):
                self.gateway_saw(link.pair.gateway.lost(self.now))
        self._bury()

    def connect(self, _n: int) -> None:
        if len(self.links) < 2:
            self.links.append(Link(Pair(self.tables, now=self.now, terms=TERMS)))
            self.resume(0)

    def resume(self, n: int) -> None:
        open_links = [link for link in self.links if link.pair.node.phase == "open"]
        if open_links:
            open_links[n % len(open_links)].pair.node.resume()

    def wait(self, n: int) -> None:
        self.now += n % 5 / 4
        for link in list(self.links):
            self.gateway_saw(link.pair.gateway.tick(self.now))
            self.node_saw(link.pair.node.tick(self.now))
        for table, ends in zip(self.tables, (self.gateway_ends, self.node_ends), strict=True):
            for job in table.expire(self.now):
                assert job.request.job not in ends
                ends[job.request.job] = "expired"
        self._bury()

    def settle(self) -> None:
        """Every owner does its part until nothing moves."""
        for turn in range(400):
            self.notice(0)
            self.connect(0)
            self.resume(turn)
            self.send(1 << 20)
            for link in self.links:
                while link.to_node:
                    self.node_saw(link.pair.node.receive(link.to_node.popleft(), self.now))
                while link.to_gateway:
                    self.gateway_saw(link.pair.gateway.receive(link.to_gateway.popleft(), self.now))
            for table in self.tables:
                for job in table.jobs.values():
                    job.consumed(LARGEST)
            for job in list(self.tables[1].jobs.values()):
                if job.cancelled:
                    self.node_ends[job.request.job] = "cancelled"
                    job.reset("cancelled")
                    continue
                job.accept()
                job.head(200, [])
                job.end()
            if not self.tables[1].jobs and not any(job.link for job in self.tables[0].jobs.values()):
                return
        raise AssertionError([(job.request.job, job.state, job.link) for job in self.tables[1].jobs.values()])

    def check(self) -> None:
        """Each job ended once on each side that knew it; nothing is left."""
        for job in self.tables[0].expire(self.now + 1e6):
            self.gateway_ends[job.request.job] = "expired"
        assert self.tables[0].jobs == self.tables[1].jobs == {}
        assert set(self.gateway_ends) == set(self.gateway_jobs)
        for name, job in self.node_jobs.items():
            assert job.state == "over"
            assert not job.held
            assert not job.unsent
            assert name in self.node_ends or job.ending is not None or job.cancelled
        for link in self.links:
            for core in (link.pair.gateway, link.pair.node):
                assert not core._streams
                assert not core._ring
        for name, how in self.gateway_ends.items():
            if how == "ended":
                assert self.node_jobs[name].out_produced == self.answered[name]


ACTIONS: dict[str, Callable[[World, int], None]] = {
    "open": World.open,
    "engine": World.engine,
    "engine more": World.engine,
    "engine yet more": World.engine,
    "gateway consumes": World.gateway_consumes,
    "node consumes": World.node_consumes,
    "node consumes more": World.node_consumes,
    "cancel": World.cancel,
    "send": World.send,
    "deliver": World.deliver,
    "deliver more": World.deliver,
    "drop": World.drop,
    "notice": World.notice,
    "connect": World.connect,
    "resume": World.resume,
    "wait": World.wait,
}
SCRIPTS = st.lists(st.tuples(st.sampled_from(sorted(ACTIONS)), st.integers(0, 100_000)), min_size=1, max_size=400)


def run(script: list[tuple[str, int]]) -> World:
    world = World()
    world.connect(0)
    for name, n in script:
        ACTIONS[name](world, n)
    return world


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(SCRIPTS)
def test_whatever_happens_every_byte_comes_once(script: list[tuple[str, int]]) -> None:
    """Random owners over random sockets: see the head of this file."""
    world = run(script)
    world.settle()
    world.check()


def long_script(seed: int, steps: int) -> list[tuple[str, int]]:
    chance = random.Random(seed)
    names = [name for name in ACTIONS if name not in ("drop", "cancel")] * 6 + ["drop", "cancel"]
    return [(chance.choice(names), chance.randrange(100_000)) for _ in range(steps)]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1 << 32))
@example(0)
def test_long_lives_of_links(seed: int) -> None:
    """The same for a thousand steps, in which answers come whole over several links."""
    world = run(long_script(seed, 1000))
    world.settle()
    world.check()


def test_long_lives_do_what_they_are_for() -> None:
    """The random worlds are not idle: answers end whole, some after a resume, of all kinds of ends."""
    kinds: Counter[str] = Counter()
    answered_bytes = resumed = 0
    for seed in range(8):
        world = run(long_script(seed, 1000))
        world.settle()
        kinds.update(world.gateway_ends.values())
        answered_bytes += sum(world.answered.values())
        resumed += sum(world.gateway_ends[name] == "ended" and world.answered[name] > 0 for name in world.resumed)
    assert {"ended", "Refused", "WasReset", "Confirmed", "Lost"} <= set(kinds)
    assert kinds["ended"] > 40
    assert resumed > 6
    assert answered_bytes > 4_000_000


def mutated(frame: bytes, n: int) -> bytes:
    at = n % len(frame)
    match n % 5:
        case 0:
            return frame[:at]
        case 1:
            return frame + bytes([n % 256])
        case 2:
            return frame[:at] + bytes([frame[at] ^ (1 << n % 8)]) + frame[at + 1 :]
        case 3:  # within the header, where it hurts
            at = n % 12
            return frame[:at] + bytes([n % 256]) + frame[at + 1 :]
        case _:
            return frame[: f.HEADER.size] + bytes(reversed(frame[f.HEADER.size :]))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SCRIPTS, st.lists(st.integers(0, 1 << 30), min_size=1, max_size=10))
def test_a_tampered_link_ends_alone(script: list[tuple[str, int]], changes: list[int]) -> None:
    """Frames changed on one link never raise, and answers on another link come whole."""
    world = run(script)
    world.tampered = True
    while len(world.links) < 2 or not all(link.alive for link in world.links):
        world.notice(0)
        for link in world.links:
            if link.alive:
                continue
            world.gateway_saw(link.pair.gateway.lost(world.now))
            world.node_saw(link.pair.node.lost(world.now))
        world._bury()
        world.connect(0)
    bad, good = world.links
    for job in list(world.tables[0].jobs.values()):
        job.cancel("timeout")
    world.send(1 << 20)
    while good.to_node or good.to_gateway:
        if good.to_node:
            world.node_saw(good.pair.node.receive(good.to_node.popleft(), world.now))
        if good.to_gateway:
            world.gateway_saw(good.pair.gateway.receive(good.to_gateway.popleft(), world.now))
    healthy = (
        good.pair.gateway.open(request("req_4000"), b"") if not good.pair.gateway.why_not_open("e1", PATH) else None
    )
    for n in changes:
        for core, queue in ((bad.pair.node, bad.to_node), (bad.pair.gateway, bad.to_gateway)):
            frame = queue.popleft() if queue else ANSWERS[0][n % 1000 :][: n % 60]
            core.receive(mutated(frame, n) if frame else b"", world.now)
            core.frames_to_send()
    if healthy is not None:
        good.pair.now = world.now
        (opened,) = [event for event in good.pair.to_node() if isinstance(event, e.Opened)]
        opened.job.accept()
        opened.job.head(200, [])
        opened.job.data(ANSWERS[0][:1000])
        opened.job.end()
        events = good.pair.to_gateway()
        assert e.DataCame(healthy, ANSWERS[0][:1000], False) in events
        assert e.Ended(healthy, None) in events


KINDS = sorted(f.FRAMES)
GARBAGE = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda kind, flags, stream, payload: f.HEADER.pack(1, kind, flags, stream, len(payload)) + payload,
        st.sampled_from(KINDS),
        st.sampled_from([0, 0, 0, 1, f.IGNORABLE]),
        st.sampled_from([0, 1, 1, 2, 3, 2**32 - 1]),
        st.one_of(
            st.binary(max_size=80),
            st.sampled_from([b"", bytes(8), b"{}", b"[]", b'{"code":"busy"}', b'{"total_bytes":0}', b'{"status":200}']),
        ),
    ),
    st.builds(f.data_frame, st.sampled_from([0, 1, 3]), st.integers(0, 2**64 - 1), st.binary(max_size=50)),
)


def _early(party: Party) -> LinkCore:
    return LinkCore(party, 0, JobTable("node")) if party.role == "node" else LinkCore(party, 0)


@settings(max_examples=300, deadline=None)
@given(st.lists(GARBAGE, min_size=1, max_size=20), st.sampled_from(["gateway", "node"]), st.booleans())
def test_garbage_gives_events_and_nothing_else(frames: list[bytes], side: str, early: bool) -> None:
    """Any bytes, before and after the handshake: events or the link's end, one `Failed` at most, never an exception."""
    if early:
        core = _early(GATEWAY if side == "gateway" else NODE)
    else:
        pair = Pair()
        pair.answering()
        core = pair.gateway if side == "gateway" else pair.node
    failed = 0
    for frame in frames:
        events = core.receive(frame, 0)
        failed += sum(isinstance(event, e.Failed) for event in events)
        core.tick(0)
        core.frames_to_send()
    assert failed <= 1
    assert (core.phase == "closed") >= (failed == 1)
