"""Every fault of the catalogue against one target: what the upstream saw and what the caller got, byte for byte."""

import json
from typing import Any

import pytest
from dataplane import CALLER_KEY, PRICE, UPSTREAM_KEY, Gateway

from potluck.conformance import answers
from potluck.conformance.answers import WORDS, chat_events, chunk, compact
from potluck.conformance.caller import Response
from potluck.conformance.faults import FAULTS, Expect
from potluck.conformance.faults.good import ODD_USAGE
from potluck.conformance.provider import FakeProvider
from potluck.model.price import cost_nanousd
from potluck.model.usage import TokenUsage, UsageRecord

pytestmark = pytest.mark.timeout(30)

PLAIN = [name for name, row in FAULTS.items() if row.plain is not None]
STREAM = [name for name, row in FAULTS.items() if row.stream is not None]

USAGE = TokenUsage(input_tokens=11, output_tokens=5)
ODD = TokenUsage(input_tokens=2006, output_tokens=300, cached_input_tokens=1920, reasoning_tokens=128)


def hi(name: str, *last: dict[str, Any]) -> list[bytes]:
    """The payloads of a stream that says only Hi."""
    first = [answers.role_chunk(name), chunk(name, {"content": "Hi"})]
    return [compact(each) for each in (*first, *(last or (chunk(name, {}, "stop"),)))]


def canonical(name: str, words: tuple[str, ...] = WORDS) -> list[bytes]:
    """The payloads that a good stream amounts to, without usage and [DONE]."""
    return [event[6:-2] for event in chat_events(name, words)][:-1]


UNUSUAL_STREAMS: dict[str, Any] = {
    "split-utf8": lambda name: canonical(name, ("Füße", " 🍲", " 食べ物")),
}


def check_answer(response: Response, expect: Expect) -> None:
    """The parts of an answer that hold for every fault: status, form of the error, nothing of the upstream's own."""
    assert response.status == expect.status
    assert b"canary" not in bytes(response.raw).lower()
    request_id = response.header("x-request-id") or ""
    assert request_id.startswith("req_")
    if expect.in_stream:
        assert response.header("content-type") == "text/event-stream; charset=utf-8"
        last = json.loads(response.events[-1])
        assert set(last) == {"error"}
        assert set(last["error"]) == {"message", "type", "param", "code"}
        assert last["error"]["code"] == expect.code
        assert request_id in last["error"]["message"]
        assert b"[DONE]" not in response.body
    elif expect.code:
        assert response.header("content-type") == "application/json"
        assert expect.code in ("*", response.code)
        assert response.json["error"]["message"].endswith(f"(request {request_id})")
        assert b"data:" not in response.body


def check_record(record: UsageRecord, response: Response, expect: Expect) -> None:
    """The record says the same as the answer."""
    assert record.id == response.header("x-request-id")
    assert (record.outcome, record.status) == (expect.outcome, expect.status)
    assert record.error_code == ("" if not expect.code else record.error_code if expect.code == "*" else expect.code)
    assert (record.attempts[-1].error_class if record.answered is None else "none") == expect.error_class
    if expect.outcome == "ok":
        assert record.usage is not None
        assert record.cost_nanousd == cost_nanousd(record.usage, PRICE)
    if not expect.in_stream and expect.code:
        said = record.usage is not None and not record.usage.estimated
        assert said or record.cost_nanousd in (None, 0), "nothing was delivered, and the target counted nothing"


async def check_next_request(gateway: Gateway, fake: FakeProvider) -> None:
    """After any fault the next caller gets his own good answer."""
    fake.override = None
    for _ in range(2):
        async with gateway.caller() as caller:
            await caller.send(gateway.request("ok"))
            assert (await caller.read()).body == answers.completion("ok")


@pytest.mark.parametrize("name", PLAIN)
async def test_a_plain_request_ends_honestly(gateway: Gateway, fake: FakeProvider, name: str):
    """A caller who asked for JSON gets the whole answer or an error status, never a broken 200."""
    expect = FAULTS[name].plain
    assert expect is not None
    async with gateway.caller() as caller:
        await caller.send(gateway.request(name))
        response = await caller.read()
        check_answer(response, expect)
        check_record(await gateway.record(name), response, expect)
        if name == "bytes-after-end-later":  # once they are there; before that nobody could know
            await fake.wait_for(lambda: fake.connections[0].closed_how)
        await caller.send(gateway.request("ok"))
        assert (await caller.read()).body == answers.completion("ok"), "the caller's connection goes on"
    await check_next_request(gateway, fake)


@pytest.mark.parametrize("name", STREAM)
async def test_a_stream_ends_honestly(gateway: Gateway, fake: FakeProvider, name: str):
    """A caller who asked for a stream gets it whole, an error status, or an error event and no [DONE]."""
    expect = FAULTS[name].stream
    assert expect is not None
    async with gateway.caller() as caller:
        await caller.send(gateway.request(name, stream=True))
        response = await caller.read()
        check_answer(response, expect)
        check_record(await gateway.record(name), response, expect)
        if expect.in_stream:
            assert response.events[:-1] == canonical(name)[:3], "what came before the fault was passed on, and no more"
        await caller.send(gateway.request("ok"))
        assert (await caller.read()).body == answers.completion("ok"), "the caller's connection goes on"
    await check_next_request(gateway, fake)


GOOD_PLAIN = {name: name for name in PLAIN if FAULTS[name].plain == Expect()}
PLAIN_BODIES: dict[str, Any] = {
    "chunked-body": lambda name: answers.completion(name, ("Füße",)),
    "usage-none": lambda name: answers.completion(name, usage=None),
    "bytes-after-end": lambda _: answers.completion("m"),
    "usage-odd-types": None,
    "unknown-members": None,
    "tool-calls": None,
    "reasoning-only": None,
}
"""what differs from the canonical body; None: looked at by a test of its own"""


@pytest.mark.parametrize("name", [name for name in GOOD_PLAIN if PLAIN_BODIES.get(name, "") is not None])
async def test_a_good_body_passes_untouched(gateway: Gateway, name: str):
    """The bytes of a whole answer are the upstream's."""
    async with gateway.caller() as caller:
        await caller.send(gateway.request(name))
        response = await caller.read()
    assert response.body == PLAIN_BODIES.get(name, answers.completion)(name)
    record = await gateway.record(name)
    assert record.usage == (USAGE if name != "usage-none" else record.usage)
    assert record.finish_reason == "stop"


GOOD_STREAMS = [
    name
    for name in STREAM
    if FAULTS[name].stream == Expect() and not name.startswith("usage-")
    and name not in ("unknown-members", "tool-calls", "reasoning-only")
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD_STREAMS)
async def test_a_good_stream_takes_the_one_form(gateway: Gateway, name: str):
    """Whatever the upstream's line ends, comments and splits: one data line per event, LF, exactly one [DONE]."""
    async with gateway.caller() as caller:
        await caller.send(gateway.request(name, stream=True))
        response = await caller.read()
    payloads = UNUSUAL_STREAMS.get(name, canonical)(name)
    got = response.events
    assert got.pop() == b"[DONE]"
    if name == "multi-line-data":  # joined by a space, as JSON allows
        assert [json.loads(payload) for payload in got] == [json.loads(payload) for payload in payloads]
    else:
        assert got == payloads
    assert response.body.count(b"[DONE]") == 1
    assert response.body.endswith(b"data: [DONE]\n\n")
    assert b"\r" not in response.body
    assert response.header("content-encoding") is None
    record = await gateway.record(name)
    assert (record.usage, record.finish_reason) == (USAGE, "stop")


USAGES: dict[str, tuple[list[bytes], TokenUsage | None]] = {
    "usage-final": (canonical("usage-final"), ODD),
    "usage-with-finish": (hi("usage-with-finish"), ODD),
    "usage-after-finish": ([], ODD),
    "usage-cumulative": ([], ODD),
    "usage-x-groq": (hi("usage-x-groq"), ODD),
    "usage-null": (hi("usage-null"), USAGE),
    "usage-none": (canonical("usage-none"), None),
}


@pytest.mark.parametrize("name", USAGES)
async def test_usage_is_read_wherever_it_stands_and_kept_from_who_did_not_ask(gateway: Gateway, name: str):
    """Six placements give exact counts, none gives an estimate; a caller who did not ask sees no usage at all."""
    payloads, usage = USAGES[name]
    async with gateway.caller() as caller:
        await caller.send(gateway.request(name, stream=True))
        response = await caller.read()
    assert not any(json.loads(payload).get("usage") for payload in response.events[:-1])
    if payloads and name not in ("usage-null", "usage-x-groq"):
        assert response.events == [*payloads, b"[DONE]"]
    record = await gateway.record(name)
    assert record.usage is not None
    if usage is None:
        assert record.usage.estimated
        assert record.usage.input_tokens > 0
        assert record.usage.output_tokens > 0
    else:
        assert record.usage == usage


@pytest.mark.parametrize("name", [name for name in USAGES if name not in ("usage-none", "usage-x-groq")])
async def test_who_asks_for_usage_gets_it_once_with_its_cost(gateway: Gateway, name: str):
    """The last chunk with counts has the upstream's own, and `cost_usd` beside them."""
    async with gateway.caller() as caller:
        await caller.send(gateway.request(name, stream=True, stream_options={"include_usage": True}))
        response = await caller.read()
    *payloads, done = response.events
    assert done == b"[DONE]"
    usage = [json.loads(payload)["usage"] for payload in payloads if json.loads(payload).get("usage")][-1]
    wanted = answers.USAGE if name == "usage-null" else ODD_USAGE
    assert {key: usage[key] for key in wanted} == wanted
    record = await gateway.record(name)
    assert record.cost_nanousd is not None
    assert round(usage["cost_usd"] * 1e9) == record.cost_nanousd


async def test_unknown_members_of_an_answer_pass(gateway: Gateway):
    """Members that nobody knows reach the caller as the upstream wrote them."""
    extra = b'"x_new":{"deep":[1,2.5,"\xc3\xbc",null]},"service_tier":"default"'
    async with gateway.caller() as caller:
        await caller.send(gateway.request("unknown-members"))
        assert extra in (await caller.read()).body
        await caller.send(gateway.request("unknown-members", stream=True))
        response = await caller.read()
    assert extra in response.events[1]
    assert '"x_thought":"é"'.encode() in response.events[1]


async def test_tool_calls_and_thoughts_count_as_content(gateway: Gateway):
    """An answer that only calls a tool, or only thought, is an answer."""
    async with gateway.caller() as caller:
        for name, finish in (("tool-calls", "tool_calls"), ("reasoning-only", "length")):
            for stream in (False, True):
                await caller.send(gateway.request(name, stream=stream))
                response = await caller.read()
                assert response.status == 200
                record = gateway.spool.records[-1]
                assert (record.outcome, record.finish_reason) == ("ok", finish)
                if stream:
                    assert [json.loads(payload)["choices"][0]["finish_reason"] for payload in response.events[:-1]] == [
                        *([None] * (len(response.events) - 2)),
                        finish,
                    ]


async def test_odd_counts_never_become_a_negative_cost(gateway: Gateway):
    """Counts that are no counts are replaced by an estimate; nothing goes below zero."""
    async with gateway.caller() as caller:
        await caller.send(gateway.request("usage-odd-types"))
        assert (await caller.read()).status == 200
    record = await gateway.record()
    assert record.usage is not None
    assert record.usage.input_tokens >= 0
    assert 0 <= record.usage.output_tokens < 1_000_000
    assert record.cost_nanousd is not None
    assert record.cost_nanousd >= 0


async def test_the_upstream_sees_the_request_and_nothing_of_the_caller(gateway: Gateway, fake: FakeProvider):
    """Unknown members pass, `potluck` goes, model and key are the target's, the caller's headers stay here."""
    gateway.add("public-name", fake.base_url, upstream_model="ok")
    body = (
        b'{ "model": "public-name", "messages": [{"role":"user","content":"caf\xc3\xa9 \\u00e9"}],'
        b' "x_new": {"a": 1.50}, "temperature": 0.70, "potluck": {"tags": ["t"]}, "seed": 12345678901234567890 }'
    )
    head = (
        f"POST /v1/chat/completions?beta=true HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {CALLER_KEY}\r\n"
        f"Cookie: session=canary\r\nX-Forwarded-For: 10.1.2.3\r\nOpenAI-Organization: org-canary\r\n"
        f"User-Agent: canary-agent\r\nAccept-Encoding: gzip, br\r\nX-Stainless-Lang: canary\r\nTE: trailers\r\n"
        f"Referer: http://canary\r\nContent-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    async with gateway.caller() as caller:
        await caller.send(head.encode() + body)
        assert (await caller.read()).status == 200
    (seen,) = fake.requests
    assert seen.body == (
        b'{"model":"ok","messages":[{"role":"user","content":"caf\xc3\xa9 \\u00e9"}],"x_new":{"a": 1.50},'
        b'"temperature":0.70,"seed":12345678901234567890}'
    )
    assert (seen.method, seen.target) == ("POST", "/v1/chat/completions")
    assert seen.header("authorization") == f"Bearer {UPSTREAM_KEY}".encode()
    assert seen.header("host") == f"127.0.0.1:{fake.port}".encode()
    assert seen.header("accept-encoding") == b"identity"
    assert seen.header("content-length") == b"%d" % len(seen.body)
    assert not {name for name, _ in seen.headers} - {
        b"host", b"authorization", b"content-type", b"content-length", b"accept", b"accept-encoding", b"user-agent",
    }  # fmt: skip
    whole = bytes(seen.connection.raw)
    assert CALLER_KEY.encode() not in whole
    assert b"canary" not in whole.replace(UPSTREAM_KEY.encode(), b"")


async def test_usage_is_asked_for_in_streams_only(gateway: Gateway, fake: FakeProvider):
    """The upstream sees `include_usage` in a stream whatever the caller said, and other stream options stay."""
    async with gateway.caller() as caller:
        for members in (
            {},
            {"stream": True},
            {"stream": True, "stream_options": {"include_usage": False, "include_obfuscation": False}},
            {"stream": True, "stream_options": None},
        ):
            await caller.send(gateway.request("ok", **members))
            assert (await caller.read()).status == 200
    options = [seen.json.get("stream_options") for seen in fake.requests]
    assert options == [
        None,
        {"include_usage": True},
        {"include_usage": True, "include_obfuscation": False},
        {"include_usage": True},
    ]


async def test_no_header_of_the_upstream_reaches_the_caller(gateway: Gateway, fake: FakeProvider):
    """Cookies, organisation ids, foreign request ids, an echo of the key: none; only the listed headers, each once."""
    listed = {
        b"content-type", b"content-length", b"transfer-encoding", b"date", b"x-request-id", b"cache-control",
        b"x-accel-buffering", b"x-potluck-target", b"x-potluck-route", b"x-potluck-attempts", b"x-potluck-cache",
        b"x-potluck-cost-usd", b"x-potluck-overhead-us",
    }  # fmt: skip
    async with gateway.caller() as caller:
        for stream in (False, True):
            await caller.send(gateway.request("leaky-headers", stream=stream))
            response = await caller.read()
            names = [name for name, _ in response.headers]
            assert set(names) <= listed
            assert len(names) == len(set(names))
            assert b"canary" not in bytes(response.raw)
            assert UPSTREAM_KEY.encode() not in bytes(response.raw)
            assert response.header("x-potluck-target") == "fake/leaky-headers"


async def test_a_callers_fault_is_told_in_the_upstreams_words(gateway: Gateway):
    """400 and 413 keep their status, 422 is OpenAI's 400; the message says which member was wrong, as it was told."""
    async with gateway.caller() as caller:
        for upstream, status in ((400, 400), (413, 413), (422, 400)):
            await caller.send(gateway.request(f"status-{upstream}"))
            response = await caller.read()
            assert response.status == status
            assert "messages[0].role" in response.json["error"]["message"]


@pytest.mark.parametrize(
    ("name", "low_s", "high_s"),
    [("status-429", 1, 60), ("status-429-seconds", 7, 7), ("status-429-fraction", 2, 2), ("status-429-date", 28, 30),
     ("status-429-absurd", 60, 86_400), ("status-429-junk", 1, 60)],
)  # fmt: skip
async def test_retry_after_is_told_in_whole_seconds(gateway: Gateway, name: str, low_s: int, high_s: int):
    """Seconds, fractions, dates; absurd values are capped, junk is ignored, and a 429 always has one."""
    async with gateway.caller() as caller:
        await caller.send(gateway.request(name))
        response = await caller.read()
    assert response.status == 429
    assert low_s <= int(response.header("retry-after") or "") <= high_s


async def test_a_refused_connection_is_a_502_without_an_address(gateway: Gateway):
    """Nobody listens: 502 upstream_error, and the upstream's address is not told."""
    async with gateway.caller() as caller:
        await caller.send(gateway.request("refused"))
        response = await caller.read()
    assert (response.status, response.code) == (502, "upstream_error")
    assert b"127.0.0.1" not in response.body
    record = await gateway.record()
    assert (record.outcome, record.attempts[0].error_class) == ("upstream_error", "target_down")


@pytest.mark.parametrize("name", ["dies-on-reuse", "closes-on-reuse"])
async def test_a_dead_kept_alive_connection_costs_one_silent_retry(gateway: Gateway, fake: FakeProvider, name: str):
    """The second request finds its connection dead before any byte: it goes out once more, and is recorded once."""
    async with gateway.caller() as caller:
        for _ in range(2):
            await caller.send(gateway.request(name))
            assert (await caller.read()).body == answers.completion(name)
    assert [seen.n for seen in fake.requests] == [1, 2, 1]
    assert fake.requests[1].body == fake.requests[2].body
    assert len(gateway.spool.records) == 2
    assert all(record.answered and not record.attempts for record in gateway.spool.records)


async def test_a_reused_connection_that_began_to_answer_is_not_retried(gateway: Gateway, fake: FakeProvider):
    """Half a head on a kept-alive connection is a failure: the upstream may have done, and billed, the work."""
    async with gateway.caller() as caller:
        await caller.send(gateway.request("half-head-on-reuse"))
        assert (await caller.read()).status == 200
        await caller.send(gateway.request("half-head-on-reuse"))
        assert (await caller.read()).status == 502
    assert [seen.n for seen in fake.requests] == [1, 2]


@pytest.mark.parametrize(
    ("name", "stream"), [("bytes-after-end", False), ("bytes-after-end-later", False), ("bytes-after-stream", True)]
)
async def test_bytes_behind_an_answer_never_reach_the_next_caller(
    gateway: Gateway, fake: FakeProvider, name: str, stream: bool
):
    """A connection with anything behind its answer is closed, and the next request goes over another one."""
    async with gateway.caller() as caller:
        await caller.send(gateway.request(name, stream=stream))
        assert (await caller.read()).status == 200
    await fake.wait_for(lambda: fake.connections[0].closed_how)
    async with gateway.caller() as caller:
        await caller.send(gateway.request("ok"))
        assert (await caller.read()).body == answers.completion("ok")
    assert fake.requests[0].connection is not fake.requests[1].connection


async def test_good_answers_share_one_upstream_connection(gateway: Gateway, fake: FakeProvider):
    """Plain and streamed answers one after the other go over one kept-alive connection."""
    async with gateway.caller() as caller:
        for stream in (False, True, False, True):
            await caller.send(gateway.request("ok", stream=stream))
            await caller.read()
    assert len(fake.connections) == 1
    assert [seen.n for seen in fake.requests] == [1, 2, 3, 4]
