"""The listener on real sockets: what HTTP/1.1 allows a caller to do, and what he gets."""

import asyncio
import contextlib
import json
import time

import pytest
from dataplane import CALLER_KEY, Gateway, chat

from potluck.conformance import answers
from potluck.conformance.call import Call
from potluck.conformance.caller import encode_request
from potluck.conformance.provider import FakeProvider
from potluck.proxy.limits import KIB, PlaneLimits

pytestmark = pytest.mark.timeout(30)

GOOD = answers.completion("ok")


@pytest.fixture
def limits() -> PlaneLimits:
    """Short deadlines and small bodies, so that each can be reached."""
    return PlaneLimits(
        max_body_bytes=256 * KIB,
        buffered_bodies_bytes=1024 * KIB,
        head_s=0.4,
        keep_alive_s=0.8,
        body_idle_s=0.4,
        body_total_s=1.2,
        linger_s=0.5,
        caller_stall_s=0.6,
    )


async def test_a_connection_is_kept_alive(gateway: Gateway):
    """Requests one after the other on one connection are all answered."""
    async with gateway.caller() as caller:
        for _ in range(5):
            await caller.send(gateway.request())
            response = await caller.read()
            assert response.body == GOOD
            assert response.header("connection") is None


async def test_an_idle_connection_is_closed_without_a_byte(gateway: Gateway):
    """After `keep_alive_s` without a request, both fresh and used connections are closed in order."""
    async with gateway.caller() as fresh, gateway.caller() as used:
        await used.send(gateway.request())
        await used.read()
        started = time.monotonic()
        assert await fresh.closed()
        assert await used.closed()
        assert time.monotonic() - started < 2.0


async def test_pipelined_requests_are_answered_in_order(gateway: Gateway, fake: FakeProvider):
    """Many requests in one write: the answers come in order, though the first takes longest."""
    models = ["ok;wait_ms=60", "ok;wait_ms=20", *(f"ok;n={n}" for n in range(20))]
    for model in models:
        gateway.add(model, fake.base_url)
    async with gateway.caller() as caller:
        await caller.send(b"".join(gateway.request(model) for model in models))
        for model in models:
            assert (await caller.read()).json["model"] == model
    assert [seen.json["model"] for seen in fake.requests] == models


async def test_pipelined_streams_and_own_answers_mix(gateway: Gateway):
    """A stream, a list of models, a refusal and a plain answer in one write come back in order, each whole."""
    get = encode_request("GET", "/v1/key", key=CALLER_KEY)
    unknown = encode_request("GET", "/v1/nothing", key=CALLER_KEY)
    async with gateway.caller() as caller:
        await caller.send(gateway.request(stream=True) + get + unknown + gateway.request())
        assert (await caller.read()).events[-1] == b"[DONE]"
        assert (await caller.read()).json["object"] == "key"
        assert (await caller.read()).code == "unknown_url"
        assert (await caller.read()).body == GOOD


async def test_a_request_may_come_byte_by_byte(gateway: Gateway):
    """Head and body in single bytes are one request."""
    async with gateway.caller() as caller:
        for byte in gateway.request():
            await caller.send(bytes((byte,)))
        assert (await caller.read()).body == GOOD


@pytest.mark.parametrize("cut", range(0, 240, 7))
async def test_a_request_may_be_split_anywhere(gateway: Gateway, cut: int):
    """Two requests in two writes, cut at any point, are two requests."""
    data = gateway.request() + gateway.request()
    async with gateway.caller() as caller:
        await caller.send(data[:cut])
        await asyncio.sleep(0)
        await caller.send(data[cut:])
        assert (await caller.read()).body == GOOD
        assert (await caller.read()).body == GOOD


async def test_chunked_requests_are_read(gateway: Gateway, fake: FakeProvider):
    """A chunked body, with extensions and trailers, byte by byte, reaches the upstream with a length."""
    body = json.dumps(chat("ok")).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {CALLER_KEY}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    ).encode()
    framed = b"%x;a=b\r\n%b\r\n%X \r\n%b\r\n0\r\nx-trailer: 1\r\n\r\n" % (9, body[:9], len(body) - 9, body[9:])
    async with gateway.caller() as caller:
        await caller.send(head + framed)
        assert (await caller.read()).body == GOOD
        for byte in head + framed:
            await caller.send(bytes((byte,)))
        assert (await caller.read()).body == GOOD
    first, second = fake.requests
    assert first.body == second.body == b'{"model":"ok","messages":[{"role": "user", "content": "Who brings what?"}]}'
    assert first.header("content-length") == b"%d" % len(first.body)
    assert first.header("transfer-encoding") is None


async def test_expect_100_is_answered_once_and_only_when_the_body_is_wanted(gateway: Gateway):
    """100 comes after an acceptable head; a refused head gets its error at once; a body already sent gets no 100."""
    body = json.dumps(chat("ok")).encode()
    expect = {"Expect": "100-continue"}
    whole = encode_request(body=body, key=CALLER_KEY, headers=expect)
    head = whole.removesuffix(body)
    async with gateway.caller() as caller:
        await caller.send(head)
        assert bytes((await caller.read_head()).raw) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await caller.send(body)
        assert (await caller.read()).body == GOOD
        await caller.send(whole)
        assert (await caller.read()).status == 200
    async with gateway.caller() as caller:
        await caller.send(encode_request(body=body, key="plk-wrong", headers=expect).removesuffix(body))
        assert (await caller.read()).status == 401
        assert await caller.closed()


async def test_head_requests_get_no_body(gateway: Gateway):
    """HEAD gives the GET's head, content-length included, without its body; the connection goes on."""
    async with gateway.caller() as caller:
        await caller.send(encode_request("GET", "/v1/models", key=CALLER_KEY))
        full = await caller.read()
        await caller.send(encode_request("HEAD", "/v1/models", key=CALLER_KEY))
        head = await caller.read(head_only=True)
        assert (head.status, head.header("content-length")) == (200, str(len(full.body)))
        await caller.send(encode_request("HEAD", "/v1/chat/completions", key=CALLER_KEY))
        assert (await caller.read(head_only=True)).status == 405
        await caller.send(gateway.request())
        assert (await caller.read()).body == GOOD


async def test_http_1_0_is_answered_and_closed(gateway: Gateway):
    """HTTP/1.0 needs no Host, gets no chunked coding and a close, unless it asks to be kept alive."""
    body = json.dumps(chat("ok", stream=True)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.0\r\nAuthorization: Bearer {CALLER_KEY}\r\nContent-Length: {len(body)}\r\n"
    )
    async with gateway.caller() as caller:
        await caller.send(head.encode() + b"\r\n" + body)
        response = await caller.read()
        assert response.header("transfer-encoding") is None
        assert response.header("connection") == "close"
        assert response.events[-1] == b"[DONE]"
    async with gateway.caller() as caller:
        for _ in range(2):
            await caller.send(
                f"GET /v1/key HTTP/1.0\r\napi-key: {CALLER_KEY}\r\nConnection: keep-alive\r\n\r\n".encode()
            )
            response = await caller.read()
            assert (response.status, response.header("connection")) == (200, "keep-alive")


async def test_connection_close_is_obeyed(gateway: Gateway):
    """`Connection: close` is answered with the same and a close, plain and streamed."""
    for stream in (False, True):
        async with gateway.caller() as caller:
            await caller.send(
                encode_request(body=chat("ok", stream=stream), key=CALLER_KEY, headers={"Connection": "close"})
            )
            response = await caller.read()
            assert (response.status, response.header("connection")) == (200, "close")
            assert await caller.closed()


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "TLS/1.2"])
async def test_upgrade_is_ignored_and_the_body_stays_intact(gateway: Gateway, fake: FakeProvider, upgrade: str):
    """`curl --http2` sends Upgrade: h2c with its POST: it is answered in HTTP/1.1, and the next request too."""
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": upgrade, "HTTP2-Settings": "AAMAAABkAAQAAP__"}
    request = encode_request(body=chat("ok"), key=CALLER_KEY, headers=headers)
    async with gateway.caller() as caller:
        await caller.send(request)
        assert (await caller.read()).body == GOOD
        for byte in request:
            await caller.send(bytes((byte,)))
        assert (await caller.read()).body == GOOD
    assert fake.requests[0].body == fake.requests[1].body


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("nothing but a method", b"PO"),
        ("half a request line", b"POST /v1/chat/comp"),
        ("half a head", b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\n"),
        ("half a body", None),
        ("half a chunked body", None),
    ],
)
async def test_a_slow_caller_gets_408_and_the_connection_ends(gateway: Gateway, name: str, data: bytes | None):
    """What has begun and does not go on is answered 408 after its deadline, then closed."""
    if data is None:
        data = gateway.request()[:-10]
        if "chunked" in name:
            data = (
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {CALLER_KEY}\r\n"
                'Transfer-Encoding: chunked\r\n\r\n5\r\n{"mod'
            ).encode()
    started = time.monotonic()
    async with gateway.caller() as caller:
        await caller.send(data)
        response = await caller.read()
        assert (response.status, response.code) == (408, "request_timeout")
        assert response.header("connection") == "close"
        assert await caller.closed()
    assert time.monotonic() - started < 2.5


async def test_dripping_does_not_move_the_deadline_of_a_head(gateway: Gateway):
    """A head that drips a byte now and then is cut off all the same: slow loris."""
    drip = b"GET /v1/models HTTP/1.1\r\nHost: g\r\nx-slow: " + b"y" * 200
    async with gateway.caller() as caller:
        for sent, byte in enumerate(drip):  # noqa: B007
            await caller.send(bytes((byte,)))
            await asyncio.sleep(0.02)
            if gateway.spool.refusals:
                break
        assert sent < 60
        assert (await caller.read()).status == 408


async def test_dripping_does_not_move_the_total_deadline_of_a_body(gateway: Gateway):
    """A body that always goes on, too slowly, ends in 408 at `body_total_s`."""
    body = json.dumps(chat("ok", padding="x" * 2000)).encode()
    head = encode_request(body=body, key=CALLER_KEY).removesuffix(body)
    started = time.monotonic()
    async with gateway.caller() as caller:
        await caller.send(head)
        for byte in body:
            await caller.send(bytes((byte,)))
            if gateway.spool.refusals:
                break
            await asyncio.sleep(0.02)
        assert (await caller.read()).status == 408
    assert 1.0 < time.monotonic() - started < 3.0


async def test_too_large_bodies_are_refused_at_the_head(gateway: Gateway, fake: FakeProvider):
    """A length above the limit gets 413 before a byte of body is sent, and the connection closes."""
    head = encode_request(key=CALLER_KEY, headers={"Content-Length": str(257 * KIB)})
    async with gateway.caller() as caller:
        await caller.send(head)
        response = await caller.read()
        assert (response.status, response.code) == (413, "request_too_large")
        assert response.header("connection") == "close"
        assert await caller.closed()
    assert not fake.requests


async def test_too_large_chunked_bodies_are_refused_when_they_pass_the_limit(gateway: Gateway):
    """A chunked body is refused as soon as it is too large; the caller who goes on sending reads the 413."""
    head = encode_request(key=CALLER_KEY, headers={"Transfer-Encoding": "chunked"})
    async with gateway.caller() as caller:
        await caller.send(head)
        for _ in range(5):
            await caller.send(b"10000\r\n" + b" " * 65_536 + b"\r\n")
        response = await caller.read()
        assert (response.status, response.code) == (413, "request_too_large")
    assert gateway.plane.buffered_bytes == 0


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [("/v1/chat/completions", "plk-wrong", 401), ("/v1/nothing", CALLER_KEY, 404), ("/v1/models", CALLER_KEY, 405)],
)
async def test_refusals_at_the_head_drain_a_little_and_close(gateway: Gateway, path: str, key: str, status: int):
    """401, 404 and 405 come before the body; a caller who has sent up to 64 KiB of it still reads the answer."""
    body = b"x" * 60_000
    async with gateway.caller() as caller:
        await caller.send(encode_request(path=path, body=body, key=key))
        response = await caller.read()
        assert response.status == status
        assert response.header("connection") == "close"
        assert await caller.closed()
    await gateway.until(lambda: not gateway.plane.connections, timeout_s=2.0)


async def test_a_refused_caller_cannot_send_for_ever(gateway: Gateway):
    """After a refusal at most 64 KiB more are read, then the connection is cut."""
    async with gateway.caller() as caller:
        await caller.send(encode_request(body=b"x" * 10, key="plk-wrong", headers={})[:-10])
        assert (await caller.read()).status == 401
        with contextlib.suppress(OSError):
            for _ in range(100):
                await caller.send(b"x" * 65_536)
        await gateway.until(lambda: not gateway.plane.connections)


async def test_requests_without_a_body_survive_a_refusal(gateway: Gateway):
    """A refused GET has nothing left to send: its connection goes on."""
    async with gateway.caller() as caller:
        await caller.send(encode_request("GET", "/v1/models"))
        assert (await caller.read()).status == 401
        await caller.send(encode_request("GET", "/v1/models", key=CALLER_KEY))
        assert (await caller.read()).status == 200


async def test_bodies_held_at_once_are_bounded(gateway: Gateway):
    """Past the process-wide cap new bodies get 503 overloaded with retry-after; when bodies go, callers may come."""
    head = encode_request(key=CALLER_KEY, headers={"Content-Length": str(250 * KIB)})
    callers = [gateway.caller() for _ in range(5)]
    try:
        for caller in callers[:4]:
            await caller.__aenter__()
            await caller.send(head + b" " * (250 * KIB - 1))
        await gateway.until(lambda: gateway.plane.buffered_bytes == 1000 * KIB - 4)
        fifth = callers[4]
        await fifth.__aenter__()
        await fifth.send(head)
        response = await fifth.read()
        assert (response.status, response.code) == (503, "overloaded")
        assert int(response.header("retry-after") or "") >= 1
        callers[0].hang_up()
        await gateway.until(lambda: gateway.plane.buffered_bytes == 750 * KIB - 3)
        async with gateway.caller() as sixth:
            await sixth.send(gateway.request())
            assert (await sixth.read()).body == GOOD
    finally:
        for caller in callers:
            await caller.__aexit__()


async def test_heads_that_promise_bodies_take_no_room(gateway: Gateway):
    """Bodies count as they come: twenty callers who promise 250 KiB each and send nothing keep nobody out."""
    head = encode_request(key=CALLER_KEY, headers={"Content-Length": str(250 * KIB)})
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            caller = await stack.enter_async_context(gateway.caller())
            await caller.send(head)
        await gateway.until(lambda: len(gateway.plane.connections) == 20)
        assert gateway.plane.buffered_bytes == 0
        async with gateway.caller() as served:
            await served.send(gateway.request())
            assert (await served.read()).body == GOOD
            request = gateway.request(padding="p" * 100_000)
            await served.send(request[:60_000])
            await gateway.until(lambda: 0 < gateway.plane.buffered_bytes <= 60_000)
            await served.send(request[60_000:])
            assert (await served.read()).body == GOOD
    await gateway.until(lambda: gateway.plane.buffered_bytes == 0)


async def test_bodies_that_pass_the_cap_as_they_come_are_refused(gateway: Gateway):
    """Five callers whose bodies, each allowed at its head, pass 1 MiB together: one gets 503 overloaded."""
    head = encode_request(key=CALLER_KEY, headers={"Content-Length": str(250 * KIB)})
    statuses = []
    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(gateway.caller(timeout_s=2.0)) for _ in range(5)]
        for caller in callers:
            await caller.send(head)
        await gateway.until(lambda: len(gateway.plane.connections) == 5)
        for _ in range(4):
            for caller in callers:
                await caller.send(b" " * 0xF000)
        statuses += [(await caller.read()).status for caller in callers]
    assert 503 in statuses
    assert gateway.plane.buffered_bytes == 0


async def test_the_drain_waits_for_own_answers_and_bodies_on_their_way(gateway: Gateway):
    """A lookup that takes a moment and a body that is half here are answered; a body that never comes gets 503."""
    plane = gateway.plane
    plane.lookup = lambda _id, _key, answer: plane.loop.call_later(0.2, answer, b'{"found":1}') and None
    request = gateway.request()
    async with gateway.caller() as asking, gateway.caller() as sending, gateway.caller() as silent:
        await asking.send(encode_request("GET", "/v1/requests/req_x", key=CALLER_KEY))
        await sending.send(request[:-5])
        await silent.send(request[:-5])
        await gateway.until(lambda: len(plane.connections) == 3 and plane.buffered_bytes)
        drain = asyncio.ensure_future(plane.drain(0.35))
        await asyncio.sleep(0.05)
        assert not drain.done()
        await sending.send(request[-5:])
        response = await sending.read()
        assert (response.body, response.header("connection")) == (GOOD, "close")
        assert (await asking.read()).json == {"found": 1}
        response = await silent.read()
        assert (response.status, response.code) == (503, "overloaded")
        assert await drain == 0


async def test_chunked_bodies_count_against_the_cap_too(gateway: Gateway):
    """Five callers each holding 240 KiB of a chunked body pass 1 MiB together: one gets 503 overloaded."""
    head = encode_request(key=CALLER_KEY, headers={"Transfer-Encoding": "chunked"})
    callers = [gateway.caller(timeout_s=2.0) for _ in range(5)]
    statuses = []
    try:
        for caller in callers:
            await caller.__aenter__()
            await caller.send(head)
        for _ in range(4):
            for caller in callers:
                await caller.send(b"f000\r\n" + b" " * 0xF000 + b"\r\n")
        statuses += [(await caller.read()).status for caller in callers]
    finally:
        for caller in callers:
            await caller.__aexit__()
    assert 503 in statuses
    assert gateway.plane.buffered_bytes == 0


async def test_a_caller_who_pipelines_and_never_reads_is_held_back(gateway: Gateway, fake: FakeProvider):
    """Answers nobody takes do not pile up: the gateway stops reading requests, and in the end cuts the connection."""
    words = "ok;chunks=400;size=100"
    gateway.add(words, fake.base_url)
    requests = gateway.request(words)
    async with gateway.caller(receive_buffer_bytes=4096) as caller:
        caller.stall()
        connection = None
        for _ in range(2000):
            caller._writer.write(requests)
            connection = connection or next(iter(gateway.plane.connections), None)
            await asyncio.sleep(0)
        assert connection is not None
        peak = 0
        with_deadline = time.monotonic() + 4
        while gateway.plane.connections and time.monotonic() < with_deadline:
            peak = max(peak, connection.transport.get_write_buffer_size())
            await asyncio.sleep(0.01)
        assert peak < 2 << 20
        assert not gateway.plane.connections, "a caller that takes nothing for so long is cut"


async def test_a_caller_who_pipelines_own_answers_and_never_reads_is_held_back(gateway: Gateway):
    """The same for answers that need no upstream."""
    get = encode_request("GET", "/v1/models", key=CALLER_KEY) * 50
    async with gateway.caller(receive_buffer_bytes=4096) as caller:
        caller.stall()
        for _ in range(400):
            caller._writer.write(get)
            await asyncio.sleep(0)
        (connection,) = gateway.plane.connections
        await asyncio.sleep(0.1)
        assert connection.transport.get_write_buffer_size() < 2 << 20
    await gateway.until(lambda: not gateway.plane.connections)


async def test_nagle_is_off_on_both_sides(gateway: Gateway, fake: FakeProvider):
    """A stream of small writes shows no 40 ms step between what the upstream sent and what the caller got."""

    async def ticks(call: Call) -> None:
        await call.sse()
        for part in answers.chat_events(call.model, [f" {n}" for n in range(40)]):
            await call.chunk(part)
            await call.pause(0.002)
        await call.end()

    fake.script["ticks"] = ticks
    gateway.add("ticks", fake.base_url)
    gaps = []
    async with gateway.caller() as caller:
        await caller.send(gateway.request("ticks", stream=True))
        response = await caller.read_head()
        last = time.monotonic()
        while await caller.read_chunk(response):
            now = time.monotonic()
            gaps.append(now - last)
            last = now
    assert sorted(gaps)[len(gaps) // 2] < 0.02
    assert sum(gap > 0.035 for gap in gaps) < len(gaps) / 5, gaps  # a busy machine may add some


async def test_a_stalled_caller_holds_the_upstream_back_and_is_cut(gateway: Gateway, fake: FakeProvider):
    """A caller who takes nothing: the gateway stops reading, buffers less than a megabyte, and cuts after a while."""
    async with gateway.caller(receive_buffer_bytes=4096) as caller:
        await caller.send(gateway.request("endless-stream", stream=True))
        await caller.read_head()
        caller.stall()
        (connection,) = gateway.plane.connections
        peak = 0
        async with asyncio.timeout(5):
            while gateway.plane.connections:
                peak = max(peak, connection.transport.get_write_buffer_size())
                await asyncio.sleep(0.005)
        assert peak < 1 << 20
    record = await gateway.record("endless-stream")
    assert record.outcome == "client_closed"
    await fake.wait_for(lambda: fake.connections[0].closed_how)
    assert fake.connections[0].closed_how in ("fin", "rst")


async def test_a_caller_who_pauses_gets_everything_in_the_end(gateway: Gateway, fake: FakeProvider):
    """Back-pressure loses nothing: a caller who stalls, then reads on, gets each event once."""
    model = "ok;chunks=3000;size=500"
    gateway.add(model, fake.base_url)
    async with gateway.caller(receive_buffer_bytes=8192) as caller:
        await caller.send(gateway.request(model, stream=True))
        response = await caller.read_head()
        caller.stall()
        await asyncio.sleep(0.3)
        caller._writer.transport.resume_reading()  # type: ignore[attr-defined]
        await caller.read_rest(response)
    assert len(response.events) == 3003
    assert (await gateway.record(model)).outcome == "ok"


@pytest.mark.parametrize("ending", [b"\r\n", b"\r\n\r\n", b"\n", b"\r"])
async def test_empty_lines_between_requests_are_ignored(gateway: Gateway, ending: bytes):
    """RFC 9112 §2.2: line ends before a request line are skipped (old clients send them after a body)."""
    async with gateway.caller() as caller:
        await caller.send(gateway.request() + ending)
        assert (await caller.read()).body == GOOD
        await caller.send(ending + gateway.request())
        assert (await caller.read()).body == GOOD


async def test_what_is_read_ahead_stays_small(gateway: Gateway):
    """A caller who pipelines 8 MB of requests and reads the answers is read ahead of by a few reads at most."""
    get = encode_request("GET", "/v1/key", key=CALLER_KEY, headers={"X-Padding": "p" * 2000})
    peak = 0
    async with gateway.caller() as caller:
        for _ in range(40):
            caller._writer.write(get * 100)
        (connection,) = gateway.plane.connections
        for _ in range(4000):
            assert (await caller.read()).status == 200
            peak = max(peak, len(connection._buffer))
    assert peak < 1 << 20
