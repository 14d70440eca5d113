"""Thousands of calls that end in every way at every phase leave no task, no socket, no slot and no mixed answer."""

import asyncio
import os
import random

import pytest
from upstream_rig import (
    CHUNKED,
    HELLO,
    OK,
    Peer,
    RecordingSink,
    both_loops,
    deaf_port,
    rig,
    target_at,
    until,
    unused_port,
)

from potluck.model.resources import Timeouts
from potluck.ports import Call

HASTY = Timeouts(connect_s=0.1, first_byte_s=0.1, idle_s=0.1, total_s=1.0)


class Moody:
    """An upstream that answers each request as the request's own body and chance have it."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def __call__(self, peer: Peer) -> None:
        if self._chance.random() < 0.05:
            peer.reset()
            return
        while True:
            body = await peer.request()
            if not await self._answer(peer, body, self._chance.random()):
                return

    async def _answer(self, peer: Peer, body: bytes, dice: float) -> bool:
        """Answer with the caller's own body, or not; tells whether the connection goes on."""
        chunked = CHUNKED + b"%x\r\n%b\r\n" % (len(body), body)
        if dice < 0.35:
            await peer.send(OK + b"content-length: %d\r\n\r\n%b" % (len(body), body))
            return True
        if dice < 0.6:
            await peer.send(chunked)
            await asyncio.sleep(self._chance.random() * 0.01)
            await peer.send(b"0\r\n\r\n")
            return True
        if dice < 0.65:
            await peer.send(HELLO.replace(b"hello", b"EVIL!") * 2)
        elif dice < 0.7:
            await peer.send(chunked)
            peer.reset()
        elif dice < 0.75:
            await peer.send(chunked)
        elif dice < 0.8:
            await peer.send(b"HTTP/1.1 20")
        elif dice < 0.83:
            await peer.send(chunked)
            await peer.closed_by_us()
        elif dice < 0.86:
            await peer.closed_by_us()
        elif dice < 0.9:
            await peer.send(OK + b"\r\n" + body)
        elif dice < 0.93:
            await peer.send(b"nonsense\r\n\r\n")
            await peer.closed_by_us()
        elif dice < 0.96:
            await peer.send(chunked + b"0\r\n\r\n")
        else:
            peer.reset()
        return False


async def _live(sink: RecordingSink, call: Call, chance: random.Random) -> None:
    """A caller: waits to the end, or gives up after a random while; pauses and resumes on the way."""
    if chance.random() < 0.3:
        call.pause()
        await asyncio.sleep(chance.random() * 0.01)
        call.resume()
    if chance.random() < 0.3:
        await asyncio.sleep(chance.random() * 0.02)
        if not sink.ended:
            call.cancel("client gone")
            sink.cancelled = True
            return
    await sink.over()


async def _storm(rounds: int, seed: int) -> None:
    print(f"seed {seed}")  # shown when it fails
    chance = random.Random(seed)
    with deaf_port() as deaf:
        async with rig() as it:
            servers = [await it.server(Moody(chance)) for _ in range(3)]
            targets = [
                target_at(s.port, timeouts=HASTY, max_connections=n) for s, n in zip(servers, (2, 8, 64), strict=True)
            ]
            targets += [target_at(unused_port(), timeouts=HASTY), target_at(deaf, timeouts=HASTY, max_connections=4)]
            ends: dict[str, int] = {}

            async def caller(number: int) -> None:
                for n in range(rounds):
                    body = b"<%d.%d>" % (number, n)
                    sink, call = it.call(chance.choices(targets, (8, 8, 8, 1, 1))[0], body)
                    await _live(sink, call, chance)
                    end = sink.ended or "cancelled"
                    ends[end] = ends.get(end, 0) + 1
                    # whoever's answer this is, it is not another caller's
                    assert sink.body in (b"", body, b"EVIL!")
                    if end == "end":
                        assert sink.body in (body, b"EVIL!")

            async with asyncio.TaskGroup() as callers:
                for number in range(40):
                    callers.create_task(caller(number))

            assert set(ends) == {"end", "end_by_close", "failed", "cancelled"}
            assert sum(ends.values()) == 40 * rounds
            await until(
                lambda: all(s.connecting == s.waiting == s.in_flight == 0 for s in it.pool.stats().endpoints.values())
            )


@both_loops
async def test_a_storm_of_faults_leaves_nothing() -> None:
    """Refusals, resets, stalls, cuts, excess bytes and cancels at random: all slots, tasks and sockets come back."""
    await _storm(100, seed=int.from_bytes(os.urandom(4)))


@pytest.mark.long
@both_loops
async def test_a_long_storm_of_faults_leaves_nothing() -> None:
    """The same over forty thousand calls."""
    await _storm(1000, seed=int.from_bytes(os.urandom(4)))
