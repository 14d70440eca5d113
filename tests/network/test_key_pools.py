"""Several keys for one target: a limited one is parked, a dead one set aside and tried once a minute, a new one taken.

Every key is told apart by the upstream, from the Authorization field of what it really got.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate

import msgspec
import pytest
from dataplane import CAPABILITIES, Gateway

from potluck.conformance.call import Call
from potluck.conformance.faults import FAULTS
from potluck.conformance.provider import FakeProvider
from potluck.model.secret import Secret
from potluck.model.snapshot import CompiledTarget
from potluck.policy.credentials import PROBE_EVERY_S
from potluck.providers.openai import build_heads
from potluck.proxy.registry import Lane, LaneView

pytestmark = pytest.mark.timeout(30)

AT_ONCE_S = 0.2


def limited(value: bytes) -> Callable[[Call], Awaitable[None]]:
    """A 429 with this `Retry-After`; empty: without one."""

    async def play(call: Call) -> None:
        fields = [(b"retry-after", value)] if value else []
        await call.answer(b'{"error":{"message":"canary"}}', *fields, status=429, reason="Too Many Requests")

    return play


class KeyPool:
    """A provider that knows keys: how it answers each of them, and which it was asked with, in order."""

    def __init__(self, gateway: Gateway, fake: FakeProvider) -> None:
        self.gateway, self.fake = gateway, fake
        self.moods: dict[str, Callable[[Call], Awaitable[None]]] = {}
        """by key; `ok` for those that are not in it"""
        self.used: list[tuple[str, str]] = []
        """key and upstream model of each call"""
        for model in ("one", "two"):
            fake.script[model] = self._play
        self.registry.random = lambda: 0.0  # the first of several keys is drawn

    @property
    def registry(self):
        return self.gateway.plane.registry

    async def _play(self, call: Call) -> None:
        key = (call.request.header("authorization") or b"").decode().removeprefix("Bearer sk-")
        self.used.append((key, call.model))
        await self.moods.get(key, FAULTS["ok"].play)(call)

    def target(self, secret: str, model: str = "one", *, credential: str | None = None) -> CompiledTarget:
        """The upstream model by one key; the credential is named after it unless it says otherwise."""
        heads = build_heads(self.fake.base_url, Secret(f"sk-{secret}"), CAPABILITIES)
        return self.gateway.target(self.fake.base_url, model, credential=credential or secret, heads=heads)

    def serve(self, *secrets: str) -> None:
        """The model `m`, served by the upstream model `one` with these keys."""
        self.gateway.serve("m", *(self.target(secret) for secret in secrets))

    def lane(self, credential: str, model: str = "one") -> Lane:
        """The state of a key at a target."""
        return next(
            lane
            for lane in self.registry.lanes.values()
            if lane.credential == credential and lane.target == f"fake/{model}"
        )

    def view(self, credential: str, model: str = "one") -> LaneView:
        """The same as people see it."""
        return next(
            view for view in self.registry.view() if view.credential == credential and view.target == f"fake/{model}"
        )

    def let_pass(self, credential: str, seconds: float) -> None:
        """As if so much time had passed since the key was parked or died."""
        lane = self.lane(credential)
        lane.parking.until -= seconds
        for health in (lane.key, lane.refused):
            if health.dead:
                health.retry_at -= seconds

    async def ask(self, model: str = "m", *, stream: bool = False):
        """One request; its answer and the keys that it was tried with."""
        before = len(self.used)
        async with self.gateway.caller() as caller:
            await caller.send(self.gateway.request(model, stream=stream))
            response = await caller.read()
        return response, [key for key, _ in self.used[before:]]


@pytest.fixture
def pool(gateway: Gateway, fake: FakeProvider) -> KeyPool:
    return KeyPool(gateway, fake)


class TestLimitedKeys:
    """429: the key is parked where it was refused, and nothing else is."""

    @pytest.mark.parametrize(
        ("value", "least", "most"),
        [
            (lambda: b"7", 7, 7),
            (lambda: b"1.2", 2, 2),
            (lambda: formatdate(time.time() + 30, usegmt=True).encode(), 29, 30),
            (lambda: b"946080000", 3600, 3600),
            (lambda: b"Fri, 31 Dec 9999 23:59:59 GMT", 3600, 3600),
            (lambda: b"soon", 1, 1),
            (lambda: b"-5", 1, 1),
            (lambda: formatdate(time.time() - 30, usegmt=True).encode(), 1, 1),
            (lambda: b"", 1, 1),
        ],
        ids=["seconds", "fraction", "date", "absurd", "absurd-date", "junk", "negative", "past", "none"],
    )
    async def test_retry_after_is_honoured(self, pool: KeyPool, value: Callable[[], bytes], least: int, most: int):
        """Both forms are read, absurd ones capped: the caller is told, and the key is left alone for as long."""
        pool.serve("a")
        pool.moods["a"] = limited(value())
        response, used = await pool.ask()
        assert (response.status, response.code, used) == (429, "upstream_rate_limited", ["a"])
        assert least <= int(response.header("retry-after") or 0) <= most
        assert least - 1.1 <= pool.lane("a").parking.until - time.monotonic() <= most
        assert pool.view("a").state == "parked"
        began_s = time.monotonic()
        response, used = await pool.ask()
        assert (response.status, response.code, used) == (429, "upstream_rate_limited", [])
        assert time.monotonic() - began_s < AT_ONCE_S
        assert least - 1 <= int(response.header("retry-after") or 0) <= most
        assert response.header("x-potluck-attempts") == "0"
        assert "parked" in response.json["error"]["message"]

    @pytest.mark.parametrize("stream", [False, True])
    async def test_the_other_key_is_used_at_once(self, pool: KeyPool, stream: bool):
        """One key refused for rate: the same target answers by the other one, and only that one until the time is
        over."""
        pool.serve("a", "b")
        pool.moods["a"] = limited(b"7")
        response, used = await pool.ask(stream=stream)
        assert (response.status, used) == (200, ["a", "b"])
        assert response.header("x-potluck-target") == "fake/one"
        record = await pool.gateway.record("m")
        assert [each.error_class for each in record.attempts] == ["key_limited"]
        assert record.answered is not None
        assert (record.answered.kind, record.answered.credential_id) == ("key", "crd_fake_b")
        assert record.answered.start_us - record.attempts[0].end_us < AT_ONCE_S * 1e6
        for _ in range(3):
            response, used = await pool.ask(stream=stream)
            assert (used, response.header("x-potluck-attempts")) == (["b"], "1")
        pool.moods.clear()
        pool.let_pass("a", 6.9)
        assert (await pool.ask())[1] == ["b"]
        pool.let_pass("a", 0.1)
        assert (await pool.ask())[1] == ["a"]
        assert pool.view("a").state == "closed"

    async def test_the_key_is_parked_at_this_target_only(self, pool: KeyPool):
        """Rate limits go by model: the key's other targets go on."""
        pool.serve("a")
        pool.gateway.serve("n", pool.target("a", "two"))
        pool.moods["a"] = limited(b"60")
        await pool.ask("m")
        pool.moods.clear()
        assert (await pool.ask("n"))[1] == ["a"]
        assert (await pool.ask("m"))[1] == []

    async def test_a_parked_target_is_passed_over(self, pool: KeyPool):
        """The next target answers, in the same request and in those after it, without the first being asked."""
        second = pool.gateway.target(pool.fake.base_url, "ok", provider="second")
        pool.gateway.serve("m", pool.target("a"), second)
        pool.moods["a"] = limited(b"60")
        for attempts, tried in (("2", ["a"]), ("1", []), ("1", [])):
            response, used = await pool.ask()
            assert (response.header("x-potluck-target"), used) == ("second/ok", tried)
            assert response.header("x-potluck-attempts") == attempts

    async def test_all_parked_is_told_at_once(self, pool: KeyPool):
        """No upstream call is made, and the caller gets the smallest time, rounded up."""
        pool.serve("a", "b", "c")
        pool.moods |= {"a": limited(b"40"), "b": limited(b"4.2"), "c": limited(b"17")}
        response, used = await pool.ask()
        assert (response.status, used) == (429, ["a", "b", "c"])
        assert response.header("retry-after") == "5"
        response, used = await pool.ask()
        assert (response.status, response.code, used) == (429, "upstream_rate_limited", [])
        assert response.header("retry-after") == "5"
        pool.let_pass("b", 3.0)
        response, used = await pool.ask()
        assert (response.header("retry-after"), used) == ("2", [])

    async def test_refusals_in_a_row_park_for_longer(self, pool: KeyPool):
        """Without a time given the park doubles, and what the caller is told doubles with it."""
        pool.serve("a")
        pool.moods["a"] = limited(b"")
        told = []
        for _ in range(4):
            response, used = await pool.ask()
            assert (response.status, used) == (429, ["a"])
            told.append(int(response.header("retry-after") or 0))
            pool.let_pass("a", pool.lane("a").parking.until - time.monotonic())
        assert told == [1, 2, 4, 8]

    async def test_a_refusal_for_rate_opens_no_breaker(self, pool: KeyPool):
        """Twenty of them say nothing about the target's health."""
        pool.serve("a")
        pool.moods["a"] = limited(b"1")
        for _ in range(20):
            await pool.ask()
            pool.let_pass("a", 100)
        assert pool.lane("a").breaker.state == "closed"
        pool.moods.clear()
        assert (await pool.ask())[0].status == 200


class TestDeadKeys:
    """401, 402, 403: the key is set aside and reported."""

    @pytest.mark.parametrize("status", [401, 402, 403])
    async def test_the_only_key_is_dead(self, pool: KeyPool, status: int, caplog: pytest.LogCaptureFixture):
        """The first request finds out; all others fail at once, with the reason, and nobody is asked again."""
        pool.serve("a")
        pool.moods["a"] = FAULTS[f"status-{status}"].play
        with caplog.at_level(logging.WARNING, "potluck.routing"):
            response, used = await pool.ask()
        assert (response.status, response.code, used) == (502, "upstream_error", ["a"])
        (line,) = caplog.records
        assert re.search(r"credential_dead: fake/one by credential 'a' is set aside: .*HTTP 40\d", line.getMessage())
        caplog.clear()
        began_s = time.monotonic()
        for _ in range(10):
            response, used = await pool.ask()
            assert (response.status, response.code, used) == (503, "no_target_available", [])
            assert "its credential is dead" in response.json["error"]["message"]
            assert "'a'" not in response.json["error"]["message"], "how keys are called is the operator's"
            assert f"HTTP {status}" in response.json["error"]["message"]
            assert "canary" not in response.json["error"]["message"]
        assert time.monotonic() - began_s < 10 * AT_ONCE_S
        assert not caplog.records, "it is reported once"
        view = pool.view("a")
        assert view.state == "dead"
        assert f"answered HTTP {status}" in view.reason
        assert PROBE_EVERY_S - 5 < view.retry_in_s <= PROBE_EVERY_S

    async def test_one_probe_a_minute(self, pool: KeyPool, caplog: pytest.LogCaptureFixture):
        """Thirty requests a minute later: one of them finds the key still dead, the others do not ask."""
        pool.serve("a")
        pool.moods["a"] = FAULTS["status-401"].play
        await pool.ask()
        for minute in range(3):
            pool.let_pass("a", PROBE_EVERY_S)
            before = len(pool.used)
            answers = await asyncio.gather(*(pool.ask() for _ in range(30)))
            assert len(pool.used) - before == 1, f"minute {minute + 1}"
            assert sorted(response.status for response, _ in answers) == [502] + [503] * 29
        pool.moods.clear()
        with caplog.at_level(logging.INFO, "potluck.routing"):
            pool.let_pass("a", PROBE_EVERY_S)
            assert (await pool.ask())[0].status == 200
        assert "fake/one by credential 'a' is back" in caplog.text
        assert pool.view("a").state == "closed"
        answers = await asyncio.gather(*(pool.ask() for _ in range(10)))
        assert {response.status for response, _ in answers} == {200}

    async def test_a_probe_that_says_nothing_of_the_key_is_made_again(self, pool: KeyPool):
        """The probe met a broken target: a minute later there is another one, not two."""
        pool.serve("a")
        pool.moods["a"] = FAULTS["status-401"].play
        await pool.ask()
        pool.moods["a"] = FAULTS["status-404"].play
        pool.let_pass("a", PROBE_EVERY_S)
        assert (await pool.ask())[1] == ["a"]
        pool.moods.clear()
        pool.let_pass("a", PROBE_EVERY_S)
        response, used = await pool.ask()
        assert (response.status, used) == (200, ["a"])

    @pytest.mark.parametrize("stream", [False, True])
    async def test_the_other_key_takes_over_unseen(self, pool: KeyPool, stream: bool):
        """One dead key of two costs one call, once."""
        pool.serve("a", "b")
        pool.moods["a"] = FAULTS["status-401"].play
        for attempts, tried in (("2", ["a", "b"]), ("1", ["b"]), ("1", ["b"])):
            response, used = await pool.ask(stream=stream)
            assert (response.status, used) == (200, tried)
            assert response.header("x-potluck-attempts") == attempts
        pool.let_pass("a", PROBE_EVERY_S)
        response, used = await pool.ask(stream=stream)
        assert (response.status, used) == (200, ["a", "b"]), "the minute's probe is somebody's first call, and unseen"

    async def test_a_401_is_said_of_the_key_everywhere(self, pool: KeyPool):
        """The key's other targets are not asked with it either, known ones and such as come later."""
        pool.serve("a")
        pool.gateway.serve("n", pool.target("a", "two"))
        assert (await pool.ask("n"))[0].status == 200
        pool.moods["a"] = FAULTS["status-401"].play
        await pool.ask("m")
        for model in ("n", "later"):
            if model == "later":
                pool.fake.script["three"] = pool.fake.script["one"]
                pool.gateway.serve("later", pool.target("a", "three"))
            response, used = await pool.ask(model)
            assert (response.status, used) == (503, []), model

    async def test_a_403_is_said_of_this_target(self, pool: KeyPool):
        """Providers refuse a key for one model by it: its other models go on."""
        pool.serve("a")
        pool.gateway.serve("n", pool.target("a", "two"))
        pool.moods["a"] = FAULTS["status-403"].play
        await pool.ask("m")
        pool.moods.clear()
        assert (await pool.ask("n"))[1] == ["a"]
        assert (await pool.ask("m"))[1] == []

    async def test_a_403_costs_a_target_one_key(self, pool: KeyPool):
        """All keys are asked, but when a second one is forbidden it is the request: the model stays for the next."""
        pool.serve("a", "b", "c")
        pool.moods |= dict.fromkeys("abc", FAULTS["status-403"].play)
        response, used = await pool.ask()
        assert (response.status, sorted(used)) == (502, ["a", "b", "c"])
        assert sorted(pool.view(key).state for key in "abc") == ["closed", "closed", "dead"]

    async def test_a_key_without_access_fails_nobody(self, pool: KeyPool):
        """One key of the only target may not use the model: the other one answers, from the first request on."""
        pool.serve("a", "b")
        pool.moods["a"] = FAULTS["status-403"].play
        for _ in range(8):
            assert (await pool.ask())[0].status == 200
        assert (pool.view("a").state, pool.view("b").state) == ("dead", "closed")

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("behaviour", ["status-403-flagged", "status-402-tokens"])
    async def test_a_refused_prompt_costs_no_key(self, pool: KeyPool, behaviour: str, stream: bool):
        """One caller's prompt is refused as often as he likes: the model stays, for him and for all others."""
        pool.serve("a")
        for _ in range(20):
            pool.moods["a"] = FAULTS[behaviour].play
            response, used = await pool.ask(stream=stream)
            assert (response.status, response.code, used) == (403, "policy_denied", ["a"])
            assert "canary" not in response.json["error"]["message"]
            pool.moods.clear()
            assert (await pool.ask(stream=stream))[0].status == 200
        refused = [each for record in pool.gateway.spool.records for each in record.attempts]
        assert {(each.error_class, each.kind) for each in refused} == {("policy", "first")}
        assert pool.view("a").state == "closed"
        assert pool.registry.impaired == set()

    async def test_a_refused_prompt_goes_to_the_next_target(self, pool: KeyPool):
        """Other providers have other rules; the first one's other keys are not asked, since it has the same for all."""
        second = pool.gateway.target(pool.fake.base_url, "ok", provider="second")
        pool.gateway.serve("m", pool.target("a"), pool.target("b"), second)
        pool.moods |= dict.fromkeys("ab", FAULTS["status-403-flagged"].play)
        response, used = await pool.ask()
        assert (response.status, response.header("x-potluck-target"), used) == (200, "second/ok", ["a"])
        pool.moods |= dict.fromkeys("ab", FAULTS["status-402-tokens"].play)
        response, used = await pool.ask()
        assert (response.status, response.header("x-potluck-target")) == (200, "second/ok")
        assert used == ["a", "b"], "another account may have the credit"
        assert pool.registry.impaired == set()

    async def test_a_dead_key_can_be_revived_by_hand(self, pool: KeyPool):
        """Whoever has paid the bill need not wait for the minute."""
        pool.serve("a")
        pool.moods["a"] = FAULTS["status-402"].play
        await pool.ask()
        pool.moods.clear()
        assert pool.registry.clear(credential="a") == 1
        assert (await pool.ask())[0].status == 200

    async def test_parked_and_dead_together_fail_at_once(self, pool: KeyPool):
        """One key dead, the other one parked: both reasons are told, and when to come again."""
        pool.serve("a", "b")
        pool.moods |= {"a": FAULTS["status-401"].play, "b": limited(b"9")}
        await pool.ask()
        response, used = await pool.ask()
        assert (response.status, used) == (503, [])
        assert "dead" in response.json["error"]["message"]
        assert "parked" in response.json["error"]["message"]
        assert response.header("retry-after") == "9"


class TestRotation:
    """A key is replaced while requests run."""

    @staticmethod
    async def load(pool: KeyPool, over: asyncio.Event, *, stream: bool) -> list[int]:
        """Ask one request after the other until told to stop; the statuses. A stream must be whole."""
        statuses = []
        async with pool.gateway.caller() as caller:
            while not over.is_set():
                await caller.send(pool.gateway.request("m", stream=stream))
                response = await caller.read()
                statuses.append(response.status)
                if stream and response.status == 200:
                    assert response.events[-1] == b"[DONE]"
        return statuses

    async def under_load(self, pool: KeyPool, rotate: Callable[[], Awaitable[None]]) -> None:
        """Six plain and six streaming callers before, during and after a rotation: none of their requests fails."""
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            callers = [group.create_task(self.load(pool, over, stream=bool(n % 2))) for n in range(12)]
            await self.calls(pool, 50)
            await rotate()
            await self.calls(pool, 100)
            over.set()
        statuses = [status for caller in callers for status in caller.result()]
        assert len(statuses) > 150
        assert set(statuses) == {200}
        assert pool.registry.impaired == set()

    @staticmethod
    async def calls(pool: KeyPool, count: int) -> None:
        """Wait until the provider has seen so many more calls."""
        wanted = len(pool.used) + count
        await pool.fake.wait_for(lambda: len(pool.used) >= wanted, timeout_s=20)

    async def test_add_new_drain_old_remove(self, pool: KeyPool):
        """The new key joins, the old one leaves the pool, its last calls end, and it is revoked: nobody notices."""
        pool.serve("old")
        slow = 0.01

        async def unhurried(call: Call) -> None:
            await call.pause(slow)
            await FAULTS["ok"].play(call)

        pool.moods["old"] = unhurried

        async def rotate() -> None:
            pool.registry.random = lambda: 0.99  # the last of the two is drawn
            pool.serve("old", "new")
            await self.calls(pool, 30)
            assert "new" in {key for key, _ in pool.used}
            running = set(pool.gateway.plane.exchanges)
            pool.serve("new")
            await pool.gateway.until(lambda: not running & pool.gateway.plane.exchanges)
            pool.moods["old"] = FAULTS["status-401"].play
            used = len(pool.used)
            await self.calls(pool, 50)
            assert {key for key, _ in pool.used[used:]} == {"new"}

        await self.under_load(pool, rotate)

    async def test_exchanged_in_place(self, pool: KeyPool):
        """The credential keeps its name and gets another secret; the old one is revoked when its calls are over."""
        pool.gateway.serve("m", pool.target("old", credential="main"))

        async def rotate() -> None:
            running = set(pool.gateway.plane.exchanges)
            pool.gateway.serve("m", pool.target("new", credential="main"))
            await pool.gateway.until(lambda: not running & pool.gateway.plane.exchanges)
            pool.moods["old"] = FAULTS["status-401"].play

        await self.under_load(pool, rotate)
        assert pool.used[-1][0] == "new"

    async def test_what_the_old_secret_met_is_not_held_against_the_new_one(self, pool: KeyPool):
        """A call that went out before the exchange comes back with a 401 after it: the new secret is not dead."""
        answer = asyncio.Event()

        async def refused_late(call: Call) -> None:
            await answer.wait()
            await FAULTS["status-401"].play(call)

        pool.moods["old"] = refused_late
        pool.gateway.serve("m", pool.target("old", credential="main"))
        async with asyncio.TaskGroup() as group:
            old = group.create_task(pool.ask())
            await pool.fake.wait_for(lambda: pool.used)
            pool.gateway.serve("m", pool.target("new", credential="main"))
            assert (await pool.ask())[0].status == 200
            answer.set()
        assert old.result()[0].status == 502
        response, used = await pool.ask()
        assert (response.status, used) == (200, ["new"])

    async def test_a_dead_key_that_is_exchanged_lives(self, pool: KeyPool):
        """Whoever pastes the right key need not wait for the probe."""
        pool.gateway.serve("m", pool.target("wrong", credential="main"))
        pool.moods["wrong"] = FAULTS["status-401"].play
        await pool.ask()
        assert (await pool.ask())[0].status == 503
        pool.gateway.serve("m", pool.target("right", credential="main"))
        response, used = await pool.ask()
        assert (response.status, used) == (200, ["right"])
        assert pool.registry.impaired == set()


async def test_keys_are_drawn_by_their_weight(pool: KeyPool):
    """Three to one, by chance."""
    pool.registry.random = random.Random(4).random
    heavy = msgspec.structs.replace(pool.target("a"), credential_weight=3)
    pool.gateway.serve("m", heavy, pool.target("b"))
    async with pool.gateway.caller() as caller:
        for _ in range(400):
            await caller.send(pool.gateway.request("m"))
            await caller.read()
    count = sum(key == "a" for key, _ in pool.used)
    assert abs(count - 300) < 4 * (400 * 0.75 * 0.25) ** 0.5
