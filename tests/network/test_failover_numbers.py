"""The figures of failover: how many requests are saved at which price, and what it costs the caller in time.

What a call meets is drawn from its request's number, its target's name and how often the one called the other, so
that the requests which no choice of targets can save are the same in every run (`Weather.doomed`). Faults of keys are
not among them: a dead key is no bad call, it is the key's end.
"""

import asyncio
import collections
import random
import statistics
import time

import pytest
from dataplane import CALLER_KEY, Gateway, chat

from potluck.conformance.call import Call
from potluck.conformance.caller import encode_request
from potluck.conformance.faults import FAULTS, Expect
from potluck.conformance.provider import FakeProvider, refused_port
from potluck.model.resources import Timeouts
from potluck.model.usage import UsageRecord
from potluck.policy.retry import MAX_CALLS, MAX_TARGETS
from potluck.proxy.limits import PlaneLimits

pytestmark = pytest.mark.timeout(60)

BRISK = Timeouts(connect_s=1.0, first_byte_s=1.0, idle_s=1.0, total_s=20)
"""long enough for a good call on a busy machine"""
CALLERS = 24
TARGETS = 3
FAILOVER_EXTRA_S = 0.005


def strikes_before_content(expect: Expect | None) -> bool:
    """A fault of the target's that a second one makes good."""
    return expect is not None and expect.error_class.startswith("target_") and not expect.in_stream


SLOW_TO_MAKE = "gzip-bomb"
"""packing it holds the loop, which is the gateway's here, for as long as a target may take: others would time out"""
KINDS = {
    False: [name for name, row in FAULTS.items() if strikes_before_content(row.plain) and name != SLOW_TO_MAKE],
    True: [name for name, row in FAULTS.items() if strikes_before_content(row.stream)],
}
"""by whether a stream was asked for"""


@pytest.fixture
def limits() -> PlaneLimits:
    # the catalogue's giants are refused as such, but sooner
    return PlaneLimits(max_answer_bytes=1 << 20, max_inflated_bytes=1 << 20)


class Weather:
    """Three targets of one model, each failing a share of its calls in a way drawn anew for each."""

    def __init__(self, gateway: Gateway, fake: FakeProvider, share: float) -> None:
        self.gateway, self.share = gateway, share
        self.calls: collections.Counter[str] = collections.Counter()
        """by request: how many of its calls arrived"""
        self.calls_at: collections.Counter[tuple[str, str]] = collections.Counter()
        """by request and target"""
        self.kinds: collections.Counter[str] = collections.Counter()
        self.statuses: collections.Counter[int] = collections.Counter()
        targets = []
        for n in range(TARGETS):
            fake.script[f"t{n}"] = self._play
            targets.append(gateway.target(fake.base_url, f"t{n}", provider=f"p{n}", timeouts=BRISK))
        gateway.serve("m", *targets)
        gateway.rule("even", strategy="weighted")

    async def _play(self, call: Call) -> None:
        request = str(call.asked["user"])
        self.calls[request] += 1
        self.calls_at[request, call.model] += 1
        chance = self._chance(request, call.model, self.calls_at[request, call.model])
        if chance.random() >= self.share:
            await FAULTS["ok"].play(call)
            return
        kind = chance.choice(KINDS[call.stream])
        self.kinds[kind] += 1
        call.options["mib"] = "2"
        await FAULTS[kind].play(call)

    @staticmethod
    def _chance(request: str, target: str, nth: int) -> random.Random:
        """What the request's `nth` call to the target meets."""
        return random.Random(f"{request} {target} {nth}")

    def doomed(self, requests: int) -> set[str]:
        """Those of that many requests whose first call fails at every target."""
        return {
            str(request)
            for request in range(requests)
            if all(self._chance(str(request), f"t{n}", 1).random() < self.share for n in range(TARGETS))
        }

    async def run(self, requests: int) -> None:
        """That many requests, every other one a stream."""
        numbers = iter(range(requests))

        async def ask() -> None:
            async with self.gateway.caller(timeout_s=30) as caller:
                for n in numbers:
                    await caller.send(encode_request(body=chat("m", user=f"{n}", stream=bool(n % 2)), key=CALLER_KEY))
                    response = await caller.read()
                    self.statuses[response.status] += 1
                    if response.status == 200:
                        assert b"canary" not in response.body
                        assert not n % 2 or response.events[-1] == b"[DONE]"

        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(ask())
        await self.gateway.until(lambda: len(self.gateway.spool.records) == requests)

    async def check_counts(self) -> None:
        """No request made more calls than it may, resends included, and all that arrived is recorded."""
        await self.gateway.at_rest()
        records = self.gateway.spool.records
        calls = [len(record.attempts) + (record.answered is not None) for record in records]
        assert max(self.calls.values()) <= MAX_CALLS
        assert sum(self.calls.values()) == sum(calls) + self.gateway.pool.stats().retried

    @property
    def per_request(self) -> float:
        """Upstream calls that arrived, for each request."""
        return sum(self.calls.values()) / sum(self.statuses.values())

    @property
    def failed(self) -> list[UsageRecord]:
        return [record for record in self.gateway.spool.records if record.outcome != "ok"]


def used_up(record: UsageRecord) -> bool:
    """The request made all calls that it was allowed: four with resends, or three to targets not to be called again."""
    calls = record.attempts
    if len(calls) + sum(each.resent for each in calls) == MAX_CALLS:
        return True
    again = [each for each in calls if each.phase == "connect" or 500 <= each.status <= 599]
    return len({each.target for each in calls}) == MAX_TARGETS and not again


def opened(gateway: Gateway) -> int:
    """Breakers that opened, ever."""
    return sum(lane.opened for lane in gateway.plane.registry.lanes.values())


@pytest.mark.parametrize("requests", [1_000, pytest.param(5_000, marks=[pytest.mark.long, pytest.mark.timeout(300)])])
async def test_eight_percent(gateway: Gateway, fake: FakeProvider, requests: int):
    """Each target fails 8 % of its calls: 99.9 % of the requests succeed, with at most 1.15 calls each."""
    weather = Weather(gateway, fake, 0.08)
    began_s = time.monotonic()
    await weather.run(requests)
    failed = weather.failed
    print(
        f"8 %: {requests} requests in {time.monotonic() - began_s:.1f} s, {len(failed)} failed, "
        f"{weather.per_request:.4f} calls per request, {len(weather.kinds)} kinds of faults, "
        f"{opened(gateway)} breakers opened"
    )
    assert len(failed) <= requests / 1_000
    assert {record.user for record in failed} <= weather.doomed(requests), "a good target was left"
    assert weather.per_request <= 1.15
    assert weather.per_request > 1.05, "the faults were there"
    assert len(weather.kinds) > 30
    assert all(used_up(record) for record in failed)
    await weather.check_counts()


@pytest.mark.parametrize("requests", [400, pytest.param(5_000, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
async def test_thirty_percent(gateway: Gateway, fake: FakeProvider, requests: int):
    """Each target fails 30 % of its calls: no request fails while it has a call left, whatever the breakers say."""
    weather = Weather(gateway, fake, 0.3)
    began_s = time.monotonic()
    await weather.run(requests)
    failed = weather.failed
    print(
        f"30 %: {requests} requests in {time.monotonic() - began_s:.1f} s, {len(failed)} failed, "
        f"{weather.per_request:.4f} calls per request, {opened(gateway)} breakers opened"
    )
    assert failed, "three in a row fail now and then"
    assert {record.error_code for record in failed} <= {"upstream_error", "upstream_truncated", "upstream_timeout"}
    assert [record.id for record in failed if not used_up(record)] == []
    await weather.check_counts()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_connection_costs_little(gateway: Gateway, fake: FakeProvider, stream: bool):
    """The median of 200 requests whose first target refuses is at most 5 ms above that of 200 others beside them."""
    port, holder = refused_port()
    good = gateway.target(fake.base_url, "ok", provider="good")
    refuses = gateway.target(f"http://127.0.0.1:{port}/v1", "ok", provider="nobody")
    gateway.serve("plain", good)
    gateway.serve("over", refuses, good)
    took_s: dict[str, list[float]] = {"plain": [], "over": []}
    async with gateway.caller() as caller:
        for _ in range(200):
            for model, times in took_s.items():
                gateway.plane.registry.clear()  # its breaker would spare it the attempt
                began_s = time.perf_counter()
                await caller.send(gateway.request(model, stream=stream))
                response = await caller.read()
                times.append(time.perf_counter() - began_s)
                assert response.header("x-potluck-attempts") == ("1" if model == "plain" else "2")
    holder.close()
    extra_s = statistics.median(took_s["over"]) - statistics.median(took_s["plain"])
    print(f"failover on a refused connection: {extra_s * 1000:.2f} ms more, stream {stream}")
    assert extra_s <= FAILOVER_EXTRA_S
