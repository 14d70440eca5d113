"""Active probes against a fake provider that counts them: when they go, what they tell, what they cost."""

import gzip
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from dataplane import CALLER_KEY, UPSTREAM_KEY, Gateway

from potluck.conformance import answers
from potluck.conformance.call import Call
from potluck.conformance.caller import Response
from potluck.conformance.faults import Play
from potluck.conformance.provider import FakeProvider, refused_port
from potluck.model.price import Price
from potluck.model.resources import Probe
from potluck.model.secret import Secret
from potluck.model.snapshot import CompiledProbe, CompiledTarget, RequestHead
from potluck.policy.breaker import RUN
from potluck.policy.probing import MAX_TOKENS
from potluck.providers.base_url import parse_base_url
from potluck.providers.openai import models_request
from potluck.proxy.registry import Lane
from potluck.runtime.probe_call import DEADLINE_S, MAX_BODY_BYTES
from potluck.runtime.probes import SPENT_FILE, Probes

EVERY_S = 0.001
"""rounds go when the test sweeps, and are due as soon as it does"""
NOON = 20_000 * 86_400.0 + 43_200
FREE_LIST, PAID = Probe(EVERY_S), Probe(EVERY_S, "small", 0.5)
ONE_CALL_NANOUSD = 11 * 100 + 5 * 400
"""of the fake's usual answer at the data plane's usual price"""


def status(code: int, text: str = "canary of the provider", **members: Any) -> Play:
    """Answers with an error."""

    async def play(call: Call) -> None:
        await call.answer(answers.error(code, text), status=code, reason="No", **members)

    return play


def says(body: bytes, *headers: tuple[bytes, bytes]) -> Play:
    """Answers 200 with this body."""

    async def play(call: Call) -> None:
        await call.answer(body, *headers)

    return play


async def silent(call: Call) -> None:
    """Takes the request and says nothing."""
    await call.silence()


GOOD_LIST = says(answers.models(["small"]))
GOOD_ANSWER = says(answers.completion("small"))


class Rig:
    """A gateway with one provider that is probed, and both ends of it."""

    def __init__(self, gateway: Gateway, fake: FakeProvider, home: Path) -> None:
        self.gateway = gateway
        self.fake = fake
        self.home = home
        self.registry = gateway.plane.registry
        self.lists: Play = GOOD_LIST
        self.answers: Play = GOOD_ANSWER
        self.unix_s = NOON
        fake.script["probed"] = self._play
        self.probes = self.restarted()

    async def _play(self, call: Call) -> None:
        await (self.lists if call.request.method == "GET" else self.answers)(call)

    def restarted(self) -> Probes:
        """Probes as a new process with the same home has them."""
        return Probes(
            self.gateway.snapshots, self.registry, {"pool": self.gateway.pool}, self.home, unix_s=lambda: self.unix_s
        )

    def target(self, credential: str = "main", **members: Any) -> CompiledTarget:
        base_url = members.pop("base_url", self.fake.url_for("probed"))
        return self.gateway.target(base_url, "small", provider="lab", credential=credential, **members)

    def configure(self, probe: Probe | None, *targets: CompiledTarget, base_url: str = "") -> None:
        """The provider with these targets (one per credential), served as the model `small`."""
        targets = targets or (self.target(),)
        self.gateway.serve("small", *targets)
        head = _models_head(base_url or self.fake.url_for("probed"))
        probes = () if probe is None else (CompiledProbe("prv_lab", "lab", probe, targets, (head,) * len(targets)),)
        self.gateway.snapshots.swap(probes=probes)
        self.probes.sweep(time.monotonic())

    def lane(self, credential: str = "main") -> Lane:
        return self.registry.lane(self.target(credential))

    async def round(self) -> None:
        """Let every account have one round, to its end."""
        since = time.monotonic()
        await self.gateway.until(lambda: time.monotonic() > since + 1.3 * EVERY_S)
        self.probes.sweep(time.monotonic())
        await self.gateway.at_rest()

    async def call(self) -> Response:
        """One call of live traffic."""
        async with self.gateway.caller() as caller:
            await caller.send(self.gateway.request("small"))
            return await caller.read()

    async def fail_lane(self, times: int = RUN) -> None:
        """Live traffic that fails until the breaker opens."""
        good, self.answers = self.answers, says(b"{}")  # of all failures one that is not tried again
        for _ in range(times):
            await self.call()
        self.answers = good

    def seen(self, method: str) -> int:
        """Requests that the provider got."""
        return sum(request.method == method for request in self.fake.requests)

    def outcomes(self, kind: str) -> dict[str, int]:
        return {outcome: n for (_, of, outcome), n in self.probes.counts.items() if of == kind}


def _models_head(base_url: str) -> RequestHead:
    """As the snapshot compiles it."""
    url = parse_base_url(base_url)
    fields = (("host", url.authority), *models_request(url, Secret(UPSTREAM_KEY))[1].items())
    lines = [f"GET {url.path}/models HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "content-length: "]
    return RequestHead("GET", f"{url.path}/models", fields, "\r\n".join(lines).encode())


@pytest.fixture
async def rig(gateway: Gateway, fake: FakeProvider, tmp_path: Path) -> Any:
    rig = Rig(gateway, fake, tmp_path)
    yield rig
    rig.probes.close()


# --- when they go


async def test_without_probes_nothing_is_sent(rig: Rig) -> None:
    """The default: the provider hears of live traffic only."""
    rig.configure(None)
    for _ in range(5):
        await rig.round()
    assert rig.fake.requests == []
    assert rig.probes.counts == {}


async def test_no_probe_goes_while_live_traffic_succeeds(rig: Rig) -> None:
    """Neither the free one nor the paid one, though the provider has no list of models."""
    rig.lists = status(404)
    rig.configure(PAID)
    for _ in range(10):
        assert (await rig.call()).status == 200
        await rig.round()
    assert rig.seen("GET") == 0
    assert rig.seen("POST") == 10
    await rig.round()
    assert (rig.seen("GET"), rig.seen("POST")) == (1, 11)


async def test_an_idle_provider_is_asked_for_its_models_only(rig: Rig) -> None:
    """One `GET /models` per round, with the provider's key; no completion, whatever the budget."""
    rig.configure(PAID)
    for _ in range(4):
        await rig.round()
    assert (rig.seen("GET"), rig.seen("POST")) == (4, 0)
    assert rig.fake.requests[0].header("authorization") == f"Bearer {UPSTREAM_KEY}".encode()
    assert rig.outcomes("models") == {"ok": 4}
    assert len(rig.fake.connections) == 1


async def test_only_one_call_per_credential_at_a_time(rig: Rig) -> None:
    """A probe that gets no answer holds up the next of its own credential, until its deadline."""
    rig.lists = silent
    rig.configure(FREE_LIST, rig.target("main"), rig.target("spare"))
    now = time.monotonic()
    for n in range(5):
        rig.probes.sweep(now + 1 + n)
    await rig.fake.wait_for(lambda: rig.seen("GET") == 2)
    rig.lists = GOOD_LIST
    rig.probes.sweep(now + 1 + DEADLINE_S)
    assert rig.outcomes("models") == {"target_slow": 2}
    rig.probes.sweep(now + 2 + DEADLINE_S)
    await rig.gateway.at_rest()
    assert rig.outcomes("models") == {"target_slow": 2, "ok": 2}
    assert rig.seen("GET") == 4


async def test_probes_end_at_shutdown(rig: Rig) -> None:
    """What is on its way is given up at once, and nothing new begins."""
    rig.lists = silent
    rig.configure(FREE_LIST)
    rig.probes.sweep(time.monotonic() + 1)
    await rig.fake.wait_for(lambda: rig.seen("GET") == 1)
    rig.probes.close()
    await rig.gateway.at_rest()
    rig.probes.sweep(time.monotonic() + 100)
    assert rig.seen("GET") == 1
    assert rig.probes.counts == {}


async def test_a_completion_that_is_given_up_leaves_its_target_free(rig: Rig) -> None:
    """Nothing stays in flight, the breaker's probe may go again, and what may be billed stays reserved."""
    rig.configure(PAID)
    await rig.fail_lane()
    rig.answers = silent
    rig.probes.sweep(time.monotonic() + 1)
    await rig.fake.wait_for(lambda: rig.fake.requests[-1].method == "POST" and rig.seen("GET") == 1)
    assert rig.registry.standing(rig.lane().place).in_flight == 1
    assert rig.lane().breaker.state == "half_open"
    rig.configure(None)
    assert rig.registry.standing(rig.lane().place).in_flight == 0
    assert rig.lane().breaker.state == "open"
    assert _spent(rig) > 0


# --- what a list of models tells


@pytest.mark.parametrize("code", [401, 402])
async def test_a_dead_key_is_found_without_live_traffic(rig: Rig, code: int) -> None:
    """The key is set aside for all its lanes, with the reason, before any request meets it."""
    rig.lists = status(code)
    rig.configure(FREE_LIST)
    await rig.round()
    lane = rig.lane()
    assert lane.key.dead
    assert lane.key.detail == f"GET /models: answered HTTP {code}"
    answer = await rig.call()
    assert answer.status == 503
    assert rig.seen("POST") == 0


async def test_a_key_that_is_taken_again_is_revived_at_once(rig: Rig) -> None:
    """No live call has to try it first."""
    rig.configure(FREE_LIST)
    told = []
    rig.registry.on_notice = lambda event, lane, reason: told.append((event, lane.target))
    rig.answers = status(401)
    assert (await rig.call()).status == 502
    assert rig.lane().key.dead
    rig.answers = GOOD_ANSWER
    await rig.round()
    assert not rig.lane().key.dead
    assert (await rig.call()).status == 200
    assert told == [("credential_dead", "lab/small"), ("credential_alive", "lab/small")]


async def test_a_key_that_died_since_its_last_success_is_asked_about(rig: Rig) -> None:
    """Live traffic that succeeded before a key died does not hold up its revival."""
    rig.configure(FREE_LIST)
    assert (await rig.call()).status == 200
    rig.answers = status(401)
    await rig.call()
    await rig.round()
    assert rig.seen("GET") == 1
    assert not rig.lane().key.dead


async def test_a_list_for_anybody_revives_a_dead_key_once(rig: Rig) -> None:
    """Such a list says nothing about keys: the second time it is left to a call, until one succeeds."""
    rig.configure(FREE_LIST)
    rig.answers = status(401)
    await rig.call()
    await rig.round()
    assert not rig.lane().key.dead
    await rig.call()
    for _ in range(3):
        await rig.round()
    assert rig.lane().key.dead
    assert rig.outcomes("models") == {"ok": 4}


async def test_a_place_that_refuses_the_key_is_not_revived(rig: Rig) -> None:
    """403 was said for the model, and the list of models knows nothing about that."""
    rig.configure(FREE_LIST)
    rig.answers = status(403)
    await rig.call()
    await rig.round()
    assert rig.lane().refused.dead


async def test_a_restricted_key_is_not_dead(rig: Rig) -> None:
    """OpenAI's restricted keys may call models and not list them."""
    rig.lists = status(401, "You have insufficient permissions. Missing scopes: api.model.read")
    rig.configure(FREE_LIST)
    await rig.round()
    assert not rig.lane().key.dead
    assert rig.outcomes("models") == {"not_served": 1}


async def test_a_server_without_keys_cannot_have_a_dead_one(rig: Rig) -> None:
    """Its 401 says that it lists to others, not that it is ill."""
    rig.lists = status(401)
    target = rig.target(credential_id=None, credential="")
    rig.configure(FREE_LIST, target)
    await rig.round()
    assert rig.outcomes("models") == {"not_served": 1}
    assert (await rig.call()).status == 200


@pytest.mark.parametrize(
    ("lists", "outcome"),
    [
        (status(500), "target_down"),
        (status(504), "target_slow"),
        (says(b"<html>welcome</html>"), "target_down"),
        (says(answers.error(500, "canary")), "target_down"),
        (says(b"[" + b"1," * (MAX_BODY_BYTES // 2) + b"1]"), "target_down"),
    ],
)
async def test_a_server_that_is_down_counts_as_one_failure(rig: Rig, lists: Play, outcome: str) -> None:
    """Of each ready lane of the credential, and of no other; five in a row open the breaker, as calls would."""
    rig.lists = lists
    rig.configure(FREE_LIST)
    other = rig.lane("other")
    lane = rig.lane()
    await rig.round()
    assert (lane.breaker.bad, other.breaker.bad) == (1, 0)
    assert lane.breaker.state == "closed"
    for _ in range(RUN + 1):
        await rig.round()
    assert lane.breaker.state == "open"
    assert lane.breaker.bad == RUN
    assert rig.outcomes("models") == {outcome: RUN + 2}


async def test_a_refused_connection_counts_as_one_failure(rig: Rig) -> None:
    """Nothing listens there any more."""
    port, holder = refused_port()
    base_url = f"http://127.0.0.1:{port}/v1"
    target = rig.target(base_url=base_url)
    rig.configure(FREE_LIST, target, base_url=base_url)
    lane = rig.registry.lane(target)
    await rig.round()
    assert lane.breaker.bad == 1
    assert rig.outcomes("models") == {"target_down": 1}
    holder.close()


@pytest.mark.parametrize(
    "lists",
    [
        says(b'{"object":"list","data":[]}'),
        says(b'{"models":[{"name":"small"}]}'),
        says(b' [{"id":"small"}]'),
        says(gzip.compress(answers.models(["small"])), (b"content-encoding", b"gzip")),
    ],
)
async def test_the_forms_of_a_list(rig: Rig, lists: Play) -> None:
    """An array, another name, an empty list, a compressed one: all are good."""
    rig.lists = lists
    rig.configure(FREE_LIST)
    await rig.round()
    assert rig.outcomes("models") == {"ok": 1}


@pytest.mark.parametrize("code", [400, 404, 405, 429])
async def test_what_says_nothing_about_health(rig: Rig, code: int) -> None:
    """No list, or too many questions: nothing is held against anything."""
    rig.lists = status(code)
    rig.configure(FREE_LIST)
    lane = rig.lane()
    await rig.round()
    assert not lane.troubled
    assert rig.seen("POST") == 0


async def test_an_open_breaker_gets_its_call_as_soon_as_the_server_answers(rig: Rig) -> None:
    """`GET /models` closes nothing: a live call does, but it need not wait for the delay to pass."""
    rig.configure(FREE_LIST)
    lane = rig.lane()
    await rig.fail_lane()
    assert lane.breaker.state == "open"
    assert not lane.breaker.ready(time.monotonic())
    await rig.round()
    assert lane.breaker.state == "open"
    assert lane.breaker.ready(time.monotonic())
    assert (await rig.call()).status == 200
    assert lane.breaker.state == "closed"


# --- completions


async def test_an_open_breaker_is_closed_by_a_completion(rig: Rig) -> None:
    """After a good list; of few tokens, as the model is called by live traffic; and nothing more once it is closed."""
    rig.configure(PAID)
    lane = rig.lane()
    await rig.fail_lane()
    live = rig.seen("POST")
    await rig.round()
    assert lane.breaker.state == "closed"
    asked = rig.fake.requests[-1]
    assert asked.json["model"] == "small"
    assert asked.json["max_tokens"] == MAX_TOKENS
    assert not asked.json.get("stream")
    assert asked.header("authorization") == f"Bearer {UPSTREAM_KEY}".encode()
    await rig.round()
    assert rig.seen("POST") == live + 1
    assert rig.outcomes("completion") == {"ok": 1}


async def test_a_completion_that_fails_is_the_breakers_failed_probe(rig: Rig) -> None:
    """The delay doubles, and a good list does not hurry the next: money follows the breaker's patience."""
    rig.configure(PAID)
    lane = rig.lane()
    await rig.fail_lane()
    rig.answers = status(500)
    live = rig.seen("POST")
    for _ in range(4):
        await rig.round()
    assert rig.seen("POST") == live + 1
    assert lane.breaker.opens == 2
    assert rig.outcomes("completion") == {"target_down": 1}
    assert rig.probes.cost_nanousd == {("lab",): 0}


async def test_a_server_that_is_down_is_not_asked_for_a_completion(rig: Rig) -> None:
    """The free probe has said it."""
    rig.configure(PAID)
    await rig.fail_lane()
    rig.lists = status(503)
    live = rig.seen("POST")
    for _ in range(3):
        await rig.round()
    assert rig.seen("POST") == live


async def test_a_paid_probe_needs_a_budget_and_a_price(rig: Rig) -> None:
    """Without the one it is never sent; without the other it is counted as not callable."""
    rig.lists = status(404)
    rig.configure(Probe(EVERY_S, "small", 0.0))
    await rig.round()
    assert rig.outcomes("completion") == {}
    rig.configure(PAID, rig.target(price=None, unroutable="no price: potluck model price lab/small"))
    await rig.round()
    assert rig.outcomes("completion") == {"not_callable": 1}
    assert rig.seen("POST") == 0


async def test_the_days_budget_is_never_passed(rig: Rig) -> None:
    """Over many rounds and a restart; the next day of UTC begins anew."""
    rig.lists = status(404)
    limit_nanousd = 40_000
    rig.configure(Probe(EVERY_S, "small", limit_nanousd / 1e9))
    for _ in range(15):
        await rig.round()
    sent, spent = rig.seen("POST"), _spent(rig)
    assert 5 < sent < 15
    assert spent == sent * ONE_CALL_NANOUSD <= limit_nanousd
    assert rig.outcomes("completion") == {"ok": sent, "no_budget": 15 - sent}
    assert rig.probes.cost_nanousd == {("lab",): spent}
    rig.probes.close()
    rig.probes = rig.restarted()
    rig.probes.sweep(time.monotonic())
    await rig.round()
    assert rig.seen("POST") == sent
    rig.unix_s += 43_200
    await rig.round()
    assert rig.seen("POST") == sent + 1
    assert _spent(rig) == ONE_CALL_NANOUSD


async def test_the_bound_is_reserved_before_a_completion_is_sent(rig: Rig) -> None:
    """A process that dies while one is on its way has it in the day's sum."""
    rig.lists, rig.answers = status(404), silent
    rig.configure(PAID)
    rig.probes.sweep(time.monotonic() + 1)
    await rig.fake.wait_for(lambda: rig.seen("POST") == 1)
    body_bytes = len(rig.fake.requests[-1].body)
    assert _spent(rig) == body_bytes * 100 + MAX_TOKENS * 400


async def test_a_completion_that_comes_too_late_may_be_billed(rig: Rig) -> None:
    """What was reserved for it is what it cost, and its breaker opens again."""
    rig.configure(PAID)
    await rig.fail_lane()
    rig.answers = silent
    rig.probes.sweep(time.monotonic() + 1)
    await rig.fake.wait_for(lambda: rig.fake.requests[-1].method == "POST" and rig.seen("GET") == 1)
    reserved = _spent(rig)
    rig.probes.sweep(time.monotonic() + 1 + DEADLINE_S)
    assert rig.outcomes("completion") == {"target_slow": 1}
    assert _spent(rig) == rig.probes.cost_nanousd["lab",] == reserved > 0
    assert rig.lane().breaker.opens == 2


async def test_a_home_that_cannot_be_written_ends_paid_probes(rig: Rig) -> None:
    """What cannot be written down is not spent."""
    rig.lists = status(404)
    rig.home = rig.home / "gone"
    rig.probes = rig.restarted()
    rig.configure(PAID)
    await rig.round()
    assert rig.outcomes("completion") == {"no_budget": 1}
    assert rig.seen("POST") == 0


THOUGHTS: dict[str, Any] = {
    "prompt_tokens": 11,
    "completion_tokens": 16,
    "total_tokens": 27,
    "completion_tokens_details": {"reasoning_tokens": 16},
}


def _empty(usage: dict[str, Any] | None, finish: str, **message: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "", **message}, "finish_reason": finish}
    return answers.completion("small", choices=[choice], usage=usage)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (says(_empty(THOUGHTS, "length")), "ok"),
        (says(_empty(None, "stop", reasoning_content="Hm")), "ok"),
        (says(_empty(None, "length")), "ok"),
        (status(400, "Could not finish the message because max_tokens or model output limit was reached."), "ok"),
        (says(_empty(None, "stop")), "target_down"),
        (says(b"<html>"), "target_down"),
        (says(answers.error(500, "canary", code="server_error")), "target_down"),
        (status(504), "target_slow"),
    ],
)
async def test_thinking_is_life(rig: Rig, answer: Play, outcome: str) -> None:
    """A model that spends its few tokens on reasoning is alive; one that says and thinks nothing is not."""
    rig.configure(PAID)
    await rig.fail_lane()
    rig.answers = answer
    await rig.round()
    assert rig.outcomes("completion") == {outcome: 1}
    assert (rig.lane().breaker.state == "closed") == (outcome == "ok")


async def test_a_model_that_thinks_beyond_its_limit_is_reserved_as_it_costs(rig: Rig) -> None:
    """The first completion shows it; from then on so much has to be left of the day's budget."""
    rig.lists = status(404)
    rig.answers = says(answers.completion("small", usage={**THOUGHTS, "completion_tokens": 100, "total_tokens": 111}))
    cost_nanousd = 11 * 100 + 100 * 400
    rig.configure(Probe(EVERY_S, "small", 2.5 * cost_nanousd / 1e9))
    for _ in range(4):
        await rig.round()
    assert rig.outcomes("completion") == {"ok": 2, "no_budget": 2}
    assert _spent(rig) == 2 * cost_nanousd


async def test_a_limit_by_another_name(rig: Rig) -> None:
    """OpenAI's thinking models refuse `max_tokens`: the next completion has it as they want, and nobody is to blame."""

    async def picky(call: Call) -> None:
        if "max_tokens" in call.asked:
            await status(400, "Unsupported parameter: use 'max_completion_tokens' instead.")(call)
        else:
            await GOOD_ANSWER(call)

    rig.lists, rig.answers = status(404), picky
    rig.configure(PAID)
    await rig.round()
    assert not rig.lane().troubled
    await rig.round()
    assert rig.outcomes("completion") == {"caller_fault": 1, "ok": 1}
    assert rig.fake.requests[-1].json["max_completion_tokens"] == MAX_TOKENS


async def test_a_completion_tells_of_its_key_as_a_call_does(rig: Rig) -> None:
    """401 kills the key, 429 parks it for as long as it is told."""
    rig.lists = status(404)
    rig.answers = says(b"{}")
    rig.configure(PAID)

    async def limited(call: Call) -> None:
        await call.answer(answers.error(429, "slow"), (b"retry-after", b"7"), status=429, reason="Slow")

    rig.answers = limited
    await rig.round()
    assert rig.lane().parking.parked(time.monotonic() + 6)
    await rig.round()
    assert rig.outcomes("completion") == {"key_limited": 1}
    rig.lane().parking.clear()
    rig.answers = status(401)
    await rig.round()
    assert rig.lane().key.dead


async def test_a_free_model_is_asked_within_a_budget_of_nothing_spent(rig: Rig) -> None:
    """An own server without a list of models: its completions cost 0."""
    rig.lists = status(405)
    rig.configure(PAID, rig.target(price=Price(0, 0, "own", "own"), own=True))
    await rig.round()
    assert rig.outcomes("completion") == {"ok": 1}
    assert _spent(rig) == 0


# --- what is told


async def test_logs_name_outcome_and_cost_and_no_secret(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Each paid probe is a line with its cost, an outcome is told when it changes; keys and foreign words never."""
    rig.configure(PAID)
    await rig.fail_lane()
    with caplog.at_level(logging.DEBUG):
        await rig.round()
        rig.lists = status(401, f"Incorrect key {UPSTREAM_KEY}, says canary")
        await rig.round()
        await rig.round()
    lines = [record.getMessage() for record in caplog.records if record.name == "potluck.probes"]
    text = "\n".join(lines)
    assert "probe of lab by credential 'main': GET /models: ok" in text
    assert "a completion of small: ok; it cost USD 0.0000031, with which the day has come to 0.0000031" in text
    told = [record.levelno for record in caplog.records if "key_dead" in record.getMessage()]
    assert told == [logging.INFO, logging.DEBUG]
    assert "GET /models: key_dead (answered HTTP 401)" in text
    everything = "\n".join(record.getMessage() for record in caplog.records)
    assert UPSTREAM_KEY not in everything
    assert "canary" not in everything
    assert CALLER_KEY not in everything


async def test_a_changed_provider_is_probed_as_it_is_now(rig: Rig) -> None:
    """Another interval or no probes at all take force with the configuration; a running probe is given up."""
    rig.configure(Probe(3600.0))
    await rig.round()
    assert rig.seen("GET") == 0
    rig.lists = silent
    rig.configure(FREE_LIST)
    rig.probes.sweep(time.monotonic() + 1)
    await rig.fake.wait_for(lambda: rig.seen("GET") == 1)
    rig.configure(Probe(EVERY_S * 2))
    await rig.gateway.at_rest()
    rig.lists = GOOD_LIST
    await rig.round()
    await rig.round()
    seen = rig.seen("GET")
    assert seen > 1
    rig.configure(None)
    await rig.round()
    assert rig.seen("GET") == seen


async def test_probes_take_no_part_in_usage(rig: Rig) -> None:
    """They belong to no project: no intent and no record is written."""
    rig.lists = status(404)
    rig.configure(PAID)
    await rig.round()
    assert rig.seen("POST") == 1
    assert rig.gateway.spool.intents == []
    assert rig.gateway.spool.records == []


def _spent(rig: Rig) -> int:
    """The day's sum, as it is on the disk."""
    return json.loads((rig.home / SPENT_FILE).read_bytes())["nanousd"].get("prv_lab", 0)
