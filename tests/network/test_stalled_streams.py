"""Streams that say twenty tokens and then nothing: each ends at its idle time, and nothing of them is left behind."""

import asyncio
import gc
import os
import time
from pathlib import Path

import pytest
from dataplane import Gateway

from potluck.conformance.answers import chunk, event, role_chunk
from potluck.conformance.call import Call
from potluck.conformance.provider import FakeProvider
from potluck.model.resources import Timeouts

pytestmark = pytest.mark.timeout(60)

TOKENS = 20
IDLE_S = 0.3
LATE_S = 1.0
"""an idle time may be noticed so much later, on a busy machine"""
AT_ONCE = 100
GROWN_MAX_BYTES = 8 << 20
"""allocators keep some of what they had; a leak of 40 KB for each of a thousand streams would show"""


class Baseline:
    """Tasks, open files and memory of this process."""

    def __init__(self) -> None:
        gc.collect()
        self.tasks = len(asyncio.all_tasks())
        self.files = len(list(Path("/proc/self/fd").iterdir()))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.resident_bytes = pages * os.sysconf("SC_PAGE_SIZE")


async def stall(gateway: Gateway, count: int) -> list[float]:
    """So many stalled streams, `AT_ONCE` at a time: how long each was silent before its end, in seconds."""

    async def one() -> float:
        async with gateway.caller(timeout_s=20) as caller:
            await caller.send(gateway.request("m", stream=True))
            response = await caller.read_head()
            last_s = time.monotonic()
            while data := await caller.read_chunk(response):
                if b"error" not in data:
                    last_s = time.monotonic()
        events = response.events
        assert sum(b"token" in each for each in events) == TOKENS
        assert b"upstream_timeout" in events[-1]
        assert b"[DONE]" not in response.body
        return time.monotonic() - last_s

    took_s: list[float] = []
    for _ in range(0, count, AT_ONCE):
        gateway.plane.registry.clear()  # its breaker would send the next ones elsewhere
        took_s += await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    return took_s


async def settled(gateway: Gateway, fake: FakeProvider) -> Baseline:
    """The process once all is at rest; what the rig keeps for its tests is thrown away."""
    await gateway.at_rest()
    await fake.wait_for(lambda: not fake.open_connections)
    await gateway.until(lambda: not gateway.plane.connections)
    fake.forget()
    gateway.spool.records.clear()
    gateway.spool.intents.clear()
    return Baseline()


@pytest.mark.parametrize("streams", [100, pytest.param(1_000, marks=[pytest.mark.long, pytest.mark.timeout(300)])])
async def test_stalled_streams_leave_nothing(gateway: Gateway, fake: FakeProvider, streams: int):
    """Each gets its error at the idle time; tasks and sockets are as before, and memory does not grow."""

    async def words_then_silence(call: Call) -> None:
        await call.sse()
        await call.chunk(event(role_chunk(call.model)))
        for n in range(TOKENS):
            await call.chunk(event(chunk(call.model, {"content": f"token {n} "})))
        await call.silence()

    fake.script["stalls"] = words_then_silence
    timeouts = Timeouts(connect_s=5, first_byte_s=5, idle_s=IDLE_S, total_s=20)
    first = gateway.target(fake.base_url, "stalls", provider="p", timeouts=timeouts)
    # a second target would be well: content is out, so it must not be asked
    gateway.serve("m", first, gateway.target(fake.base_url, "ok", provider="q"))
    await stall(gateway, AT_ONCE)  # what is made once and kept
    before = await settled(gateway, fake)
    took_s = await stall(gateway, streams)
    outcomes = [(record.outcome, record.usage.output_tokens > 0) for record in gateway.spool.records if record.usage]
    assert outcomes == [("upstream_timeout", True)] * streams
    after = await settled(gateway, fake)
    print(
        f"{streams} stalled streams: silent {min(took_s):.2f} to {max(took_s):.2f} s; "
        f"tasks {after.tasks - before.tasks:+d}, files {after.files - before.files:+d}, "
        f"memory {(after.resident_bytes - before.resident_bytes) / 1024:+.0f} KiB"
    )
    assert min(took_s) > IDLE_S - 0.1
    assert max(took_s) < IDLE_S + LATE_S
    assert (after.tasks, after.files) == (before.tasks, before.files)
    assert after.resident_bytes - before.resident_bytes < GROWN_MAX_BYTES
