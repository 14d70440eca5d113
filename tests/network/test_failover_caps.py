"""How many calls a request makes at most, to how many targets, at what distance, and that its time is never passed."""

import asyncio
import itertools
import random
import time

import pytest
from dataplane import PATIENT, Gateway

from potluck.conformance.answers import chunk, event, role_chunk
from potluck.conformance.call import Call
from potluck.conformance.faults import FAULTS
from potluck.conformance.provider import FakeProvider, refused_port
from potluck.model.resources import RouteTimeouts, Timeouts
from potluck.policy.retry import JITTER_MAX, JITTER_MIN, MAX_CALLS, MAX_TARGETS, SAME_TARGET_FIRST_S

pytestmark = pytest.mark.timeout(60)

BRISK = Timeouts(connect_s=0.3, first_byte_s=0.3, idle_s=0.3, total_s=20)
"""of targets that stall; others have all the time that a busy machine may take"""
AT_ONCE_S = 0.35
"""less than the shortest pause before the same target, and what a busy machine may take"""
LATE_S = 1.0
"""a deadline may be noticed this much later: sweeps are 50 ms apart here, and machines are busy"""

REFUSED = "refused"
AGAIN = (REFUSED, "status-500", "status-502", "status-503", "status-504")
"""after these the same target may be called again"""
ONCE = (
    "reset-before-head", "cut-mid-head", "stall-before-head", "status-401", "status-404", "status-429", "status-408",
    "empty-200", "html-200", "no-content",
)  # fmt: skip
NEVER_AGAIN_IN_TIME = "status-503-later"
"""a 503 that asks for more time than a caller should wait"""


class Board:
    """Models whose targets fail on command, and what was called when, seen from the fake's side."""

    def __init__(self, gateway: Gateway, fake: FakeProvider) -> None:
        self.gateway, self.fake = gateway, fake
        self.seen: dict[str, list[tuple[str, float]]] = {}
        """by model: the targets called, and when"""
        self._refused, self._holder = refused_port()

    def serve(self, model: str, kinds: tuple[str, ...]) -> None:
        """A model with one target for each kind of failure, in this order."""
        self.seen[model] = []
        self.gateway.serve(model, *(self._target(model, n, kind) for n, kind in enumerate(kinds)))

    def _target(self, model: str, n: int, kind: str):
        name = f"{model}-{n}"
        if kind == REFUSED:
            base_url = f"http://127.0.0.1:{self._refused}/v1"
        else:
            base_url = self.fake.base_url

            async def play(call: Call) -> None:
                self.seen[model].append((name, time.monotonic()))
                if kind == NEVER_AGAIN_IN_TIME:
                    await call.answer(b"", (b"retry-after", b"6"), status=503, reason="Busy")
                else:
                    await FAULTS[kind].play(call)

            self.fake.script[name] = play
        # a provider of its own for each: a dead key must not decide about its neighbours
        timeouts = BRISK if kind.startswith("stall") else PATIENT
        return self.gateway.target(base_url, name, provider=f"p{n}-{model}", timeouts=timeouts)

    def close(self) -> None:
        self._holder.close()


@pytest.fixture
def board(gateway: Gateway, fake: FakeProvider):
    board = Board(gateway, fake)
    yield board
    board.close()


def allowed(kinds: tuple[str, ...]) -> list[int]:
    """The calls that a request to failing targets has to make, by their place in the list."""
    tried = list(range(min(len(kinds), MAX_TARGETS)))
    again = [n for n in tried if kinds[n] in AGAIN]
    return tried + again[: MAX_CALLS - len(tried)]


async def check(board: Board, model: str, kinds: tuple[str, ...], *, stream: bool) -> None:
    """One request: which calls it made, in which order and when."""
    gateway = board.gateway
    async with gateway.caller() as caller:
        await caller.send(gateway.request(model, stream=stream))
        response = await caller.read()
    assert response.status in (429, 502, 504), kinds
    record = await gateway.record(model)
    calls = [int(each.target.rpartition("-")[2]) for each in record.attempts]
    assert calls == allowed(kinds), kinds
    assert len(calls) <= 4
    assert len(set(calls)) <= 3
    assert response.header("x-potluck-attempts") == str(len(calls))
    seen = [int(name.rpartition("-")[2]) for name, _ in board.seen[model]]
    assert seen == [n for n in calls if kinds[n] != REFUSED], "what is recorded is what was called"
    pauses = 0
    for before, attempt in itertools.pairwise(record.attempts):
        pause_s = (attempt.start_us - before.end_us) / 1e6
        if attempt.kind == "same":
            # the loop's timers count in whole milliseconds, and may be as much early
            assert pause_s >= SAME_TARGET_FIRST_S * JITTER_MIN * 2**pauses - 0.002
            pauses += 1
        else:
            assert attempt.kind == "next"
            assert pause_s < AT_ONCE_S, "another target is called at once"
    assert pauses == len(calls) - len(set(calls))


async def test_no_combination_of_failures_passes_the_caps(board: Board):
    """One to four targets, each failing in its own way: at most four calls, at most three targets, each in its turn."""
    alike = [(kind,) * count for kind in (*AGAIN, *ONCE) for count in (1, 2, 3, 4)]
    chance = random.Random(10)
    mixed = [tuple(chance.choices((*AGAIN, *ONCE), k=count)) for count in (2, 3, 4) for _ in range(20)]
    combinations = [(kinds, stream) for kinds in (*alike, *mixed) for stream in (False, True)]
    at_once = asyncio.Semaphore(20)

    async def one(model: str, kinds: tuple[str, ...], *, stream: bool) -> None:
        async with at_once:
            await check(board, model, kinds, stream=stream)

    for n, (kinds, _) in enumerate(combinations):
        board.serve(f"m{n}", kinds)
    async with asyncio.TaskGroup() as requests:
        for n, (kinds, stream) in enumerate(combinations):
            requests.create_task(one(f"m{n}", kinds, stream=stream))
    pauses_s = [
        (again.start_us - before.end_us) / 1e6
        for record in board.gateway.spool.records
        for before, again in itertools.pairwise(record.attempts)
        if again.kind == "same" and before.kind != "same"
    ]
    assert len(pauses_s) > 50
    assert max(pauses_s) < SAME_TARGET_FIRST_S * JITTER_MAX + LATE_S
    assert max(pauses_s) - min(pauses_s) > 0.05, "what failed together does not come back together"


async def test_a_target_that_asks_for_long_is_not_called_again(board: Board):
    """`Retry-After: 6` of a 503 is honoured: no caller is kept waiting for it."""
    board.serve("m", (NEVER_AGAIN_IN_TIME,))
    began_s = time.monotonic()
    async with board.gateway.caller() as caller:
        await caller.send(board.gateway.request("m"))
        response = await caller.read()
    assert (response.status, len(board.seen["m"])) == (502, 1)
    assert time.monotonic() - began_s < LATE_S


@pytest.mark.parametrize("stream", [False, True])
async def test_all_attempts_share_one_deadline(board: Board, stream: bool):
    """Targets that stall in turn: the caller has his 504 when the rule's time is over, not when the last one is."""
    board.serve("m", ("stall-before-head",) * 4)
    board.gateway.rule("short", timeouts=RouteTimeouts(total_s=0.85))
    began_s = time.monotonic()
    async with board.gateway.caller() as caller:
        await caller.send(board.gateway.request("m", stream=stream))
        response = await caller.read()
    took_s = time.monotonic() - began_s
    assert (response.status, response.code) == (504, "upstream_timeout")
    assert 0.8 < took_s < 0.85 + LATE_S
    record = await board.gateway.record("m")
    assert record.outcome == "upstream_timeout"
    assert [each.error_class for each in record.attempts] == ["target_slow"] * 3
    assert await all_closed(board.fake)


async def test_the_deadline_cuts_a_running_stream(gateway: Gateway, fake: FakeProvider):
    """A stream that goes on and on ends at the rule's time, with an error event."""

    async def drip(call: Call) -> None:
        await call.sse()
        await call.chunk(event(role_chunk(call.model)))
        while True:
            await call.chunk(event(chunk(call.model, {"content": "on "})))
            await call.pause(0.02)

    fake.script["drip"] = drip
    gateway.serve("m", gateway.target(fake.base_url, "drip"), gateway.target(fake.base_url, "ok", provider="second"))
    gateway.rule("short", timeouts=RouteTimeouts(total_s=0.5))
    began_s = time.monotonic()
    async with gateway.caller() as caller:
        await caller.send(gateway.request("m", stream=True))
        response = await caller.read()
    assert 0.45 < time.monotonic() - began_s < 0.5 + LATE_S
    assert b"upstream_timeout" in response.events[-1]
    assert len(fake.requests) == 1, "content was out: no other target is asked"


async def test_no_pause_that_would_end_after_the_deadline(board: Board):
    """Where the back-off does not fit any more the answer comes now, and honestly."""
    board.serve("m", ("status-500",))
    board.gateway.rule("short", timeouts=RouteTimeouts(total_s=0.35))
    began_s = time.monotonic()
    async with board.gateway.caller() as caller:
        await caller.send(board.gateway.request("m"))
        response = await caller.read()
    assert (response.status, len(board.seen["m"])) == (502, 1)
    assert time.monotonic() - began_s < LATE_S


async def test_the_deadline_holds_for_the_second_call_of_a_target(gateway: Gateway, fake: FakeProvider):
    """The pause fitted, the call after it does not end: 504 at the deadline."""
    calls = 0

    async def fails_then_stalls(call: Call) -> None:
        nonlocal calls
        calls += 1
        await FAULTS["status-500" if calls == 1 else "stall-before-head"].play(call)

    fake.script["worsens"] = fails_then_stalls
    gateway.serve("m", gateway.target(fake.base_url, "worsens"))
    gateway.rule("short", timeouts=RouteTimeouts(total_s=0.9))
    began_s = time.monotonic()
    async with gateway.caller() as caller:
        await caller.send(gateway.request("m"))
        response = await caller.read()
    assert (response.status, calls) == (504, 2)
    assert 0.85 < time.monotonic() - began_s < 0.9 + LATE_S


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hang_up_ends_the_pause(board: Board, stream: bool):
    """A caller who leaves between two calls of a target is not called for again."""
    board.serve("m", ("status-500",))
    async with board.gateway.caller() as caller:
        await caller.send(board.gateway.request("m", stream=stream))
        lanes = board.gateway.plane.registry.lanes
        await board.gateway.until(lambda: any(lane.breaker.bad for lane in lanes.values()))
        caller.hang_up()
        record = await board.gateway.record("m")
    assert (record.outcome, len(record.attempts)) == ("client_closed", 1)
    await board.gateway.at_rest()
    assert len(board.seen["m"]) == 1


async def all_closed(fake: FakeProvider) -> bool:
    """Every connection was let go by the gateway."""
    await fake.wait_for(lambda: not fake.open_connections)
    return all(connection.closed_how in ("fin", "rst") for connection in fake.connections)
