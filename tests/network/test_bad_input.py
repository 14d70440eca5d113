"""Every unreadable, oversized, mis-framed or mis-typed request is answered in the envelope, or closed by rule.

After each of them the gateway holds nothing and answers the next caller; the `gateway` fixture looks for what is left.
"""

import asyncio
import contextlib
import json
import random
import time

import pytest
from dataplane import CALLER_KEY, Gateway
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from potluck.conformance import answers
from potluck.conformance.caller import Caller, CutError, encode_request
from potluck.conformance.provider import FakeProvider
from potluck.proxy.limits import PlaneLimits

pytestmark = pytest.mark.timeout(30)

GOOD = answers.completion("ok")
BODY = b'{"model":"ok","messages":[{"role":"user","content":"hi"}]}'
AUTH = b"Authorization: Bearer " + CALLER_KEY.encode() + b"\r\n"
LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
HOST = b"Host: g\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.fixture
def limits() -> PlaneLimits:
    """Short deadlines, so that what is closed by time is closed soon."""
    return PlaneLimits(head_s=0.5, body_idle_s=0.5, linger_s=0.3, keep_alive_s=3.0)


HEADS: dict[str, tuple[bytes, int]] = {
    "two hosts": (LINE + HOST + b"Host: h\r\n" + AUTH + LENGTH + b"\r\n" + BODY, 400),
    "no host": (LINE + AUTH + LENGTH + b"\r\n" + BODY, 400),
    "absolute URI": (b"POST http://g/v1/chat/completions HTTP/1.1\r\n" + HOST + AUTH + LENGTH + b"\r\n" + BODY, 400),
    "CONNECT": (b"CONNECT g:443 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "TRACE": (b"TRACE /v1/models HTTP/1.1\r\n" + HOST + AUTH + b"\r\n", 405),
    "coding in HTTP/1.0": (b"POST /v1/chat/completions HTTP/1.0\r\n" + AUTH + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "length and chunked": (LINE + HOST + AUTH + LENGTH + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "chunked and length": (LINE + HOST + AUTH + CHUNKED + LENGTH + b"\r\n" + BODY, 400),
    "gzip coding": (LINE + HOST + AUTH + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "chunked twice": (LINE + HOST + AUTH + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked not last": (LINE + HOST + AUTH + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    "obscured chunked": (LINE + HOST + AUTH + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "length not a number": (LINE + HOST + AUTH + b"Content-Length: ten\r\n\r\n" + BODY, 400),
    "length negative": (LINE + HOST + AUTH + b"Content-Length: -5\r\n\r\n" + BODY, 400),
    "length with sign": (LINE + HOST + AUTH + b"Content-Length: +5\r\n\r\n" + BODY, 400),
    "length in hex": (LINE + HOST + AUTH + b"Content-Length: 0x5\r\n\r\n" + BODY, 400),
    "length huge": (LINE + HOST + AUTH + b"Content-Length: 99999999999999999999999\r\n\r\n" + BODY, 400),
    "length beyond the limit": (LINE + HOST + AUTH + b"Content-Length: 99999999999\r\n\r\n" + BODY, 413),
    "two lengths": (LINE + HOST + AUTH + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + BODY, 400),
    "same length twice": (LINE + HOST + AUTH + LENGTH + LENGTH + b"\r\n" + BODY, 400),
    "list of lengths": (LINE + HOST + AUTH + b"Content-Length: 5, 5\r\n\r\n" + BODY, 400),
    "empty length": (LINE + HOST + AUTH + b"Content-Length: \r\n\r\n" + BODY, 400),
    "folded header": (LINE + HOST + b"X-A: b\r\n c\r\n" + AUTH + LENGTH + b"\r\n" + BODY, 400),
    "bare LF": ((LINE + HOST + AUTH + LENGTH).replace(b"\r\n", b"\n") + b"\n" + BODY, 400),
    "one bare LF": (LINE + b"Host: g\n" + AUTH + LENGTH + b"\r\n" + BODY, 400),
    "bare CR": (LINE + b"Host: g\rX: y\r\n" + AUTH + LENGTH + b"\r\n" + BODY, 400),
    "NUL in a value": (LINE + HOST + b"X-A: b\0c\r\n" + AUTH + LENGTH + b"\r\n" + BODY, 400),
    "NUL in a name": (LINE + HOST + b"X\0A: b\r\n" + AUTH + LENGTH + b"\r\n" + BODY, 400),
    "space before colon": (LINE + b"Host : g\r\n" + AUTH + LENGTH + b"\r\n" + BODY, 400),
    "space in a name": (LINE + HOST + b"X A: b\r\n" + AUTH + LENGTH + b"\r\n" + BODY, 400),
    "no colon": (LINE + HOST + b"canary\r\n" + AUTH + LENGTH + b"\r\n" + BODY, 400),
    "empty name": (LINE + HOST + b": b\r\n" + AUTH + LENGTH + b"\r\n" + BODY, 400),
    "leading space": (LINE + b" " + HOST + AUTH + LENGTH + b"\r\n" + BODY, 400),
    "HTTP/2.0": (LINE.replace(b"1.1", b"2.0") + HOST + AUTH + LENGTH + b"\r\n" + BODY, 505),
    "HTTP/1.9": (LINE.replace(b"1.1", b"1.9") + HOST + AUTH + LENGTH + b"\r\n" + BODY, 400),
    "HTTP/0.9": (b"GET /v1/models\r\n\r\n", 505),
    "h2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),
    "ssh": (b"SSH-2.0-OpenSSH_9.2\r\n", 400),
    "binary": (bytes(range(128, 256)) * 2, 400),
    "no method": (b" /v1/models HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "odd method": (b"P\xc3\x96ST /v1/models HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "space in the URL": (b"GET /v1/mo dels HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "two keys": (LINE + HOST + AUTH + AUTH + LENGTH + b"\r\n" + BODY, 400),
    "odd expectation": (LINE + HOST + AUTH + LENGTH + b"Expect: 200-ok\r\n\r\n" + BODY, 417),
    "long URL": (b"GET /v1/models?" + b"x" * 9000 + b" HTTP/1.1\r\n" + HOST + AUTH + b"\r\n", 414),
    "many headers": (
        LINE + HOST + AUTH + LENGTH + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n" + BODY,
        431,
    ),
    "big header": (LINE + HOST + AUTH + b"X-A: " + b"y" * 40_000 + b"\r\n" + LENGTH + b"\r\n" + BODY, 431),
    "unending header": (LINE + HOST + AUTH + b"X-A: " + b"y" * 40_000, 431),
    "bad chunk size": (LINE + HOST + AUTH + CHUNKED + b"\r\nxyz\r\n" + BODY, 400),
    "negative chunk size": (LINE + HOST + AUTH + CHUNKED + b"\r\n-5\r\nhello\r\n0\r\n\r\n", 400),
    "chunk size with 0x": (LINE + HOST + AUTH + CHUNKED + b"\r\n0x5\r\nhello\r\n0\r\n\r\n", 400),
    "empty chunk size": (LINE + HOST + AUTH + CHUNKED + b"\r\n\r\nhello\r\n0\r\n\r\n", 400),
    "chunk size overflow": (LINE + HOST + AUTH + CHUNKED + b"\r\nffffffffffffffff1\r\nhello\r\n0\r\n\r\n", 400),
    "huge chunk size": (LINE + HOST + AUTH + CHUNKED + b"\r\nffffffffffff\r\nhello", 413),
    "chunk too long": (LINE + HOST + AUTH + CHUNKED + b"\r\n3\r\nhello\r\n0\r\n\r\n", 400),
    "chunk with bare LF": (LINE + HOST + AUTH + CHUNKED + b"\r\n5\nhello\r\n0\r\n\r\n", 400),
    "chunk ended by LF": (LINE + HOST + AUTH + CHUNKED + b"\r\n5\r\nhello\n0\r\n\r\n", 400),
    "long chunk extension": (LINE + HOST + AUTH + CHUNKED + b"\r\n5;" + b"x" * 5000 + b"\r\nhello\r\n0\r\n\r\n", 400),
    "long trailers": (LINE + HOST + AUTH + CHUNKED + b"\r\n0\r\n" + b"x: y\r\n" * 5000 + b"\r\n", 400),
    "trailer with bare LF": (LINE + HOST + AUTH + CHUNKED + b"\r\n0\r\nx: y\n\r\n", 400),
}

NOT_V1 = ("absolute URI", "CONNECT", "h2 preface")
"""their targets are not below /v1/: the control plane's guard answers, in its own form"""


@pytest.mark.parametrize("name", HEADS)
async def test_bad_framing_is_answered_and_the_connection_closes(gateway: Gateway, fake: FakeProvider, name: str):
    """What cannot be framed for certain is refused with an envelope, never forwarded, and the connection ends."""
    data, status = HEADS[name]
    async with gateway.caller() as caller:
        with contextlib.suppress(OSError):
            await caller.send(data)
        response = await caller.read(head_only=False)
        assert response.status == status
        assert response.header("connection") == "close"
        if name in NOT_V1:
            assert response.json["status"] == status
        else:
            assert response.code in ("invalid_request", "request_too_large", "method_not_allowed")
            assert response.json["error"]["message"].endswith(f"(request {response.header('x-request-id')})")
        assert b"canary" not in response.body
        assert await caller.closed()
    assert not fake.requests
    await _still_good(gateway)


@pytest.mark.parametrize("name", HEADS)
async def test_bad_framing_byte_by_byte_ends_the_same(gateway: Gateway, name: str):
    """The same bytes one at a time get the same status."""
    data, status = HEADS[name]
    data = data[:2500]
    whole = len(data) == len(HEADS[name][0])
    async with gateway.caller() as caller:
        with contextlib.suppress(OSError):
            for n in range(0, len(data), 1 if whole else 50):
                await caller.send(data[n : n + (1 if whole else 50)])
                if gateway.spool.refusals:
                    break
        response = await caller.read()
        assert response.status in (status, 408 if not whole else status)
        assert await caller.closed()


BODIES: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "invalid_json"),
    "blanks": (b"   \n ", 400, "invalid_json"),
    "not JSON": (b"model=ok&messages=hi", 400, "invalid_json"),
    "half": (BODY[:-5], 400, "invalid_json"),
    "two objects": (BODY + BODY, 400, "invalid_json"),
    "trailing comma": (BODY[:-1] + b",}", 400, "invalid_json"),
    "NaN": (BODY[:-1] + b',"temperature":NaN}', 400, "invalid_json"),
    "comment": (b"/* hi */" + BODY, 400, "invalid_json"),
    "single quotes": (b"{'model':'ok'}", 400, "invalid_json"),
    "NUL": (b"\0" * 100, 400, "invalid_json"),
    "invalid UTF-8": (BODY.replace(b"hi", b"\xff\xfe"), 400, "invalid_json"),
    "invalid UTF-8 in an unknown member": (BODY[:-1] + b',"x":"\xc3\x28"}', 400, "invalid_json"),
    "UTF-16": (BODY.decode().encode("utf-16"), 400, "invalid_json"),
    "deep arrays": (BODY[:-1] + b',"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400, "invalid_json"),
    "deep objects": (BODY[:-1] + b',"x":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}", 400, "invalid_json"),
    "deep messages": (b'{"model":"ok","messages":' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "*"),
    "list": (b"[" + BODY + b"]", 400, "invalid_request"),
    "string": (b'"hi"', 400, "invalid_request"),
    "null": (b"null", 400, "invalid_request"),
    "number": (b"42", 400, "invalid_request"),
    "no model": (b'{"messages":[{"role":"user","content":"hi"}]}', 400, "invalid_request"),
    "model a number": (BODY.replace(b'"ok"', b"5"), 400, "invalid_request"),
    "model null": (BODY.replace(b'"ok"', b"null"), 400, "invalid_request"),
    "model empty": (BODY.replace(b'"ok"', b'""'), 400, "invalid_request"),
    "model with control characters": (BODY.replace(b'"ok"', b'"o\\u0000k"'), 400, "invalid_request"),
    "model with a space": (BODY.replace(b'"ok"', b'"o k"'), 400, "invalid_request"),
    "model very long": (BODY.replace(b'"ok"', b'"' + b"m" * 5000 + b'"'), 400, "invalid_request"),
    "no messages": (b'{"model":"ok"}', 400, "invalid_request"),
    "messages a string": (b'{"model":"ok","messages":"hi"}', 400, "invalid_request"),
    "messages empty": (b'{"model":"ok","messages":[]}', 400, "invalid_request"),
    "stream a string": (BODY[:-1] + b',"stream":"yes"}', 400, "invalid_request"),
    "stream a number": (BODY[:-1] + b',"stream":1}', 400, "invalid_request"),
    "stream options a list": (BODY[:-1] + b',"stream":true,"stream_options":[]}', 400, "invalid_request"),
    "include usage a string": (BODY[:-1] + b',"stream":true,"stream_options":{"include_usage":"x"}}', 400, "*"),
    "max tokens a string": (BODY[:-1] + b',"max_tokens":"5"}', 400, "invalid_request"),
    "max tokens negative": (BODY[:-1] + b',"max_tokens":-5}', 400, "invalid_request"),
    "max tokens fraction": (BODY[:-1] + b',"max_tokens":1.5}', 400, "invalid_request"),
    "n huge": (BODY[:-1] + b',"n":100000}', 400, "invalid_request"),
    "n zero": (BODY[:-1] + b',"n":0}', 400, "invalid_request"),
    "user an object": (BODY[:-1] + b',"user":{}}', 400, "invalid_request"),
    "two models": (BODY[:-1] + b',"model":"other"}', 400, "invalid_request"),
    "two models, one escaped": (BODY[:-1] + b',"mod\\u0065l":"other"}', 400, "invalid_request"),
    "two streams": (BODY[:-1] + b',"stream":true,"stream":false}', 400, "invalid_request"),
    "two potlucks": (BODY[:-1] + b',"potluck":{},"potluck":{}}', 400, "invalid_request"),
    "two limits": (BODY[:-1] + b',"max_tokens":1,"max_tokens":100}', 400, "invalid_request"),
    "unknown control": (BODY[:-1] + b',"potluck":{"cheapest":true}}', 400, "invalid_request"),
    "control of a wrong type": (BODY[:-1] + b',"potluck":{"only":"x"}}', 400, "invalid_request"),
    "looser data class": (BODY[:-1] + b',"potluck":{"data_class":"open"}}', 403, "policy_denied"),
    "unknown model": (BODY.replace(b'"ok"', b'"okk"'), 404, "model_not_found"),
}


@pytest.mark.parametrize("name", BODIES)
async def test_bad_bodies_are_refused_and_the_connection_goes_on(gateway: Gateway, fake: FakeProvider, name: str):
    """A body that is whole but wrong is answered with the member and the reason; nothing reaches an upstream."""
    body, status, code = BODIES[name]
    async with gateway.caller() as caller:
        response = await caller.ask(body=body, key=CALLER_KEY)
        assert (response.status, response.code if code != "*" else code) == (status, code)
        error = response.json["error"]
        assert error["message"].endswith(f"(request {response.header('x-request-id')})")
        assert len(error["message"]) < 1000
        assert not fake.requests
        await caller.send(gateway.request())
        assert (await caller.read()).body == GOOD


async def test_near_matches_of_an_unknown_model_are_named(gateway: Gateway):
    """404 model_not_found names models that look alike."""
    async with gateway.caller() as caller:
        response = await caller.ask(body=BODY.replace(b'"ok"', b'"usage-finale"'), key=CALLER_KEY)
    assert response.code == "model_not_found"
    assert "usage-final" in response.json["error"]["message"]


@pytest.mark.parametrize(
    ("key", "headers"),
    [
        (None, {}),
        (None, {"Authorization": "Basic dXNlcjpwYXNz"}),
        (None, {"Authorization": "Bearer"}),
        (None, {"Authorization": "Bearer "}),
        (None, {"Authorization": CALLER_KEY}),
        (None, {"Authorization": f"Bearer {CALLER_KEY} x"}),
        (None, {"Authorization": "Bearer \xff\xfe"}),
        (None, {"Authorization": "Bearer " + "x" * 20_000}),
        (None, {"Cookie": f"session={CALLER_KEY}"}),
        ("plk-0000000000000000000000000000000000000000000000", {}),
        ("sk-proj-something-else", {}),
        (CALLER_KEY[:-1], {}),
        (CALLER_KEY + "0", {}),
        (CALLER_KEY.upper(), {}),
    ],
)
async def test_bad_keys_get_401_at_the_head(gateway: Gateway, key: str | None, headers: dict[str, str]):
    """No key, a key of another kind, part of a key: 401 before the body, which is not echoed."""
    async with gateway.caller() as caller:
        await caller.send(encode_request(body=BODY, key=key, headers=headers))
        response = await caller.read()
        assert (response.status, response.code) == (401, "invalid_api_key")
        assert CALLER_KEY[:12].encode() not in response.body
        assert await caller.closed()


@pytest.mark.parametrize("name", ["x-api-key", "api-key"])
async def test_other_places_for_the_key(gateway: Gateway, name: str):
    """Anthropic's and Azure's headers carry the key as well."""
    async with gateway.caller() as caller:
        await caller.send(encode_request(body=BODY, headers={name: CALLER_KEY}))
        assert (await caller.read()).body == GOOD


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v1/chat/completions", 405, "POST"),
        ("PUT", "/v1/chat/completions", 405, "POST"),
        ("DELETE", "/v1/embeddings", 405, "POST"),
        ("PATCH", "/v1/completions", 405, "POST"),
        ("POST", "/v1/models", 405, "GET, HEAD"),
        ("OPTIONS", "/v1/chat/completions", 405, "POST"),
        ("BREW", "/v1/models", 400, None),
        ("GET", "/v1/", 404, None),
        ("GET", "/v1/nothing", 404, None),
        ("GET", "/v1/models/", 404, None),
        ("POST", "/v1/chat/completions/", 404, None),
        ("POST", "/v1/CHAT/completions", 404, None),
        ("POST", "/v1//chat/completions", 404, None),
        ("POST", "/v1/../v1/chat/completions", 404, None),
        ("POST", "/v1/chat%2Fcompletions", 404, None),
        ("POST", "/v1/images/generations", 404, None),
        ("GET", "/v1/requests/req_unknown", 404, None),
        ("GET", "/v1/models/none", 404, None),
    ],
)
async def test_wrong_methods_and_urls_are_told_so(
    gateway: Gateway, fake: FakeProvider, method: str, path: str, status: int, allow: str | None
):
    """405 names what is allowed, 404 is JSON in the envelope; never a blind pass-through."""
    async with gateway.caller() as caller:
        await caller.send(encode_request(method, path, key=CALLER_KEY))
        response = await caller.read()
        assert response.status == status
        assert response.header("allow") == allow
        assert response.code in ("method_not_allowed", "unknown_url", "model_not_found", "invalid_request")
    assert not fake.requests


async def test_duplicates_that_nobody_reads_pass_as_one(gateway: Gateway, fake: FakeProvider):
    """A repeated member that policy does not read is sent on once, the last one, so that all readers agree."""
    async with gateway.caller() as caller:
        response = await caller.ask(body=BODY[:-1] + b',"seed":1,"seed":2}', key=CALLER_KEY)
        assert response.status == 200
    assert fake.requests[0].body.count(b'"seed"') == 1
    assert fake.requests[0].json["seed"] == 2


async def test_what_the_limits_read_is_what_the_upstream_reads(gateway: Gateway, fake: FakeProvider):
    """Escaped names and odd spacing arrive upstream in a form that every JSON reader takes alike."""
    body = b'{"\\u006dodel" : "ok" ,"messages":[{"role":"user","content":"hi"}],"max_tokens": 7 }'
    async with gateway.caller() as caller:
        assert (await caller.ask(body=body, key=CALLER_KEY)).status == 200
    assert fake.requests[0].json == {
        "model": "ok", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 7,
    }  # fmt: skip
    assert fake.requests[0].body.count(b"odel") == 1


async def test_a_50_mb_header_costs_next_to_nothing(gateway: Gateway):
    """50 MB of header are refused at 32 KiB: less than 0.2 s of CPU, and no memory."""
    started = time.process_time()
    async with gateway.caller() as caller:
        with contextlib.suppress(OSError):
            await caller.send(LINE + HOST + b"X-A: ")
            for _ in range(50):
                await caller.send(b"y" * 1_000_000)
        with contextlib.suppress(CutError, OSError):
            assert (await caller.read()).status == 431
    await gateway.until(lambda: not gateway.plane.connections)
    assert time.process_time() - started < 0.2


async def test_callers_who_vanish_at_any_byte_leave_nothing(gateway: Gateway):
    """A request cut by FIN or RST after each of its bytes: no task, no socket, no byte is left."""
    request = gateway.request(stream=True)
    for cut in range(0, len(request), 5):
        async with gateway.caller() as caller:
            await caller.send(request[:cut])
            if cut % 2:
                caller.reset()
            else:
                caller.hang_up()
    await gateway.until(lambda: not gateway.plane.connections)
    assert gateway.plane.buffered_bytes == 0
    await _still_good(gateway)


SEEDS = [gateway_request for gateway_request, _ in HEADS.values()]
junk = st.binary(max_size=300)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_no_bytes_whatever_hang_or_break_the_gateway(gateway: Gateway, data: st.DataObject):
    """Invariant: mutated requests are answered by well-formed responses or a close, and the next caller is served."""
    rng = random.Random(data.draw(st.integers(0, 1 << 30)))
    request = bytearray(rng.choice([*SEEDS, gateway.request(), gateway.request() * 2])[:3000])
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(request) + 1)
        match rng.randrange(4):
            case 0:
                request[at:at] = data.draw(junk)
            case 1:
                del request[at : at + rng.randrange(1, 40)]
            case 2:
                request[at : at + 1] = bytes((rng.randrange(256),))
            case 3:
                request[at:at] = rng.choice(
                    [b"\r\n", b"\r\n\r\n", b"\n", b"\0", b": ", b" ", b"0\r\n\r\n", LENGTH, CHUNKED]
                )
    async with gateway.caller(timeout_s=5.0) as caller:
        with contextlib.suppress(OSError):
            await caller.send(bytes(request))
            caller.finish_sending()
        await _read_well_formed_answers(caller)
    await _still_good(gateway)


async def _read_well_formed_answers(caller: Caller) -> None:
    while True:
        try:
            response = await caller.read_head()
            if 200 <= response.status < 600:
                assert response.version == b"HTTP/1.1"
                await caller.read_rest(response)
                if response.header("content-type") == "application/json":  # else the control plane's stand-in has it
                    json.loads(response.body)
        except (CutError, OSError):
            return  # closed; a caller who half-closes has hung up


async def _still_good(gateway: Gateway) -> None:
    async with gateway.caller() as caller:
        await caller.send(gateway.request())
        assert (await caller.read()).body == GOOD


async def test_a_thousand_bad_callers_leave_no_trace(gateway: Gateway):
    """After a flood of every kind of bad request the gateway holds no connection, exchange or byte."""

    async def misbehave(data: bytes) -> None:
        with contextlib.suppress(CutError, OSError, ValueError):
            async with gateway.caller(timeout_s=5.0) as caller:
                await caller.send(data)
                await caller.read()

    requests: list[bytes] = [data for data, _ in HEADS.values()]
    requests += [encode_request(body=body, key=CALLER_KEY) for body, _, _ in BODIES.values()]
    for n in range(0, 1000, 50):
        await asyncio.gather(*(misbehave(requests[(n + k) % len(requests)]) for k in range(50)))
    await gateway.until(lambda: not gateway.plane.connections)
    assert gateway.plane.buffered_bytes == 0
    await _still_good(gateway)
