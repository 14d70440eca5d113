"""One port, two planes: `/v1` and everything else on one connection, handed over and back at message boundaries."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from dataplane import CALLER_KEY, Gateway
from uvicorn.config import Config
from uvicorn.server import ServerState

from potluck.conformance import answers
from potluck.conformance.caller import CutError, encode_request
from potluck.proxy.guarded import GuardedHttp
from potluck.proxy.limits import KIB, PlaneLimits
from potluck.runtime import gateway as runtime
from potluck.wire.http1 import MAX_HEAD_BYTES

pytestmark = pytest.mark.timeout(30)

GOOD = answers.completion("ok")


@pytest.fixture
def limits() -> PlaneLimits:
    return PlaneLimits(
        head_s=0.4, keep_alive_s=0.8, body_idle_s=0.4, body_total_s=1.2, linger_s=0.3, caller_stall_s=0.6
    )


def control(path: str = "/anything", body: bytes | None = None, method: str | None = None, **headers: str) -> bytes:
    """A request to the control plane."""
    return encode_request(method or ("GET" if body is None else "POST"), path, body, headers=headers)


async def test_back_and_forth_on_one_connection(gateway: Gateway):
    """A browser's connection serves console, /v1, console, stream, console, … in turn."""
    async with gateway.caller() as caller:
        for n in range(6):
            response = await caller.ask("GET", f"/page/{n}")
            assert response.body == f"GET /page/{n} 0".encode()
            await caller.send(gateway.request(stream=bool(n % 2)))
            response = await caller.read()
            assert response.events[-1] == b"[DONE]" if n % 2 else response.body == GOOD


async def test_pipelined_over_both_planes(gateway: Gateway):
    """Requests of both planes in one write, with bodies, slow and streamed ones among them, are answered in order."""
    requests = [
        control("/slow"), gateway.request(), control("/a", b"x" * 5000), control("/stream"),
        gateway.request(stream=True),
        gateway.request(), control("/b"), control("/slow", b"{}"), encode_request("GET", "/v1/key", key=CALLER_KEY),
        control("/c"),
    ]  # fmt: skip
    async with gateway.caller() as caller:
        await caller.send(b"".join(requests))
        assert (await caller.read()).body == b"GET /slow 0"
        assert (await caller.read()).body == GOOD
        assert (await caller.read()).body == b"POST /a 5000"
        assert (await caller.read()).body == b"0;1;2;3;4;GET /stream 0"
        assert (await caller.read()).events[-1] == b"[DONE]"
        assert (await caller.read()).body == GOOD
        assert (await caller.read()).body == b"GET /b 0"
        assert (await caller.read()).body == b"POST /slow 2"
        assert (await caller.read()).json["object"] == "key"
        assert (await caller.read()).body == b"GET /c 0"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100])
async def test_byte_by_byte_over_both_planes(gateway: Gateway, step: int):
    """The same sequence in pieces of any size."""
    data = control("/a") + gateway.request() + control("/b", b"hello") + control("/c") + gateway.request()
    async with gateway.caller() as caller:
        for at in range(0, len(data), step):
            await caller.send(data[at : at + step])
        assert (await caller.read()).body == b"GET /a 0"
        assert (await caller.read()).body == GOOD
        assert (await caller.read()).body == b"POST /b 5"
        assert (await caller.read()).body == b"GET /c 0"
        assert (await caller.read()).body == GOOD


@pytest.mark.parametrize("path", ["/", "/v", "/v1", "/v1x/", "/v2/chat", "/V1/models", "/?/v1/", "/x/v1/models"])
async def test_what_only_looks_like_v1_is_the_control_planes(gateway: Gateway, path: str):
    """The table knows `/v1/` and nothing near it; single bytes decide the same."""
    request = control(path)
    async with gateway.caller() as caller:
        await caller.send(request)
        assert (await caller.read()).body.startswith(b"GET /")
        for byte in request:
            await caller.send(bytes((byte,)))
        assert (await caller.read()).body.startswith(b"GET /")


async def test_chunked_bodies_and_expectations_on_the_control_plane(gateway: Gateway):
    """Chunked coding, trailers and Expect: 100-continue work there too, and /v1 goes on behind them."""
    head = encode_request("POST", "/up", headers={"Transfer-Encoding": "chunked"})
    async with gateway.caller() as caller:
        await caller.send(head + b"5\r\nhello\r\n3\r\nyou\r\n0\r\nx-t: 1\r\n\r\n" + gateway.request())
        assert (await caller.read()).body == b"POST /up 8"
        assert (await caller.read()).body == GOOD
        await caller.send(encode_request("POST", "/up", headers={"Content-Length": "5", "Expect": "100-continue"}))
        assert bytes((await caller.read_head()).raw).startswith(b"HTTP/1.1 100 ")
        await caller.send(b"hello" + gateway.request())
        assert (await caller.read()).body == b"POST /up 5"
        assert (await caller.read()).body == GOOD


async def test_head_and_upgrade_on_the_control_plane(gateway: Gateway):
    """HEAD has no body; Upgrade: h2c is ignored; the connection goes on after both."""
    async with gateway.caller() as caller:
        await caller.send(control("/h", method="HEAD"))
        response = await caller.read(head_only=True)
        assert (response.status, response.header("content-length")) == (200, "9")
        await caller.send(
            control("/u", Connection="Upgrade, HTTP2-Settings", Upgrade="h2c", **{"HTTP2-Settings": "AA"})
        )
        assert (await caller.read()).body == b"GET /u 0"
        await caller.send(gateway.request())
        assert (await caller.read()).body == GOOD


async def test_connection_close_is_obeyed_on_the_control_plane(gateway: Gateway):
    """`Connection: close` ends the connection after the answer; what is pipelined behind is not answered."""
    async with gateway.caller() as caller:
        await caller.send(control("/a", Connection="close") + gateway.request())
        assert (await caller.read()).body == b"GET /a 0"
        with contextlib.suppress(CutError):
            assert await caller.closed()
    assert not gateway.spool.records


async def test_slow_heads_and_bodies_on_the_control_plane(gateway: Gateway):
    """Half a head and half a body get 408 and a close; an idle connection is closed without a byte."""
    half_body = encode_request("POST", "/up", headers={"Content-Length": "50"}) + b"half"
    for data in (b"GET /page HTTP/1.1\r\nHost", half_body):
        async with gateway.caller() as caller:
            await caller.send(data)
            response = await caller.read()
            assert (response.status, response.json["status"]) == (408, 408)
            assert await caller.closed()
    async with gateway.caller() as caller:
        assert (await caller.ask("GET", "/page")).status == 200
        assert await caller.closed()


async def test_a_dripped_head_is_cut_on_the_control_plane(gateway: Gateway):
    """Slow loris against the control plane ends at `head_s`, also after the hand-over."""
    started = time.monotonic()
    async with gateway.caller() as caller:
        await caller.send(b"GET /page HTTP/1.1\r\nHost: g\r\nx-slow: ")
        with contextlib.suppress(OSError):
            for _ in range(100):
                await caller.send(b"y")
                await asyncio.sleep(0.02)
                if not gateway.plane.guarded:
                    break
        assert (await caller.read()).status == 408
    assert time.monotonic() - started < 3.0


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_bodies_on_the_control_plane_are_refused(gateway: Gateway, chunked: bool):
    """More than 8 MiB: 413 at the head, or when a chunked body passes it."""
    if chunked:
        head = encode_request("POST", "/up", headers={"Transfer-Encoding": "chunked"})
    else:
        head = encode_request("POST", "/up", headers={"Content-Length": str(9 << 20)})
    async with gateway.caller() as caller:
        await caller.send(head)
        if chunked:
            with contextlib.suppress(OSError):
                for _ in range(140):
                    await caller.send(b"10000\r\n" + b" " * 65_536 + b"\r\n")
        assert (await caller.read()).status == 413
    await gateway.until(lambda: not gateway.plane.guarded)


async def test_large_heads_on_the_control_plane_cost_little(gateway: Gateway):
    """50 MB of header to the control plane are refused at 32 KiB with less than 0.2 s of CPU."""
    started = time.process_time()
    async with gateway.caller() as caller:
        with contextlib.suppress(OSError):
            await caller.send(b"GET /page HTTP/1.1\r\nHost: g\r\nX-A: ")
            for _ in range(50):
                await caller.send(b"y" * 1_000_000)
        with contextlib.suppress(CutError, OSError):
            assert (await caller.read()).status == 431
    await gateway.until(lambda: not gateway.plane.guarded)
    assert time.process_time() - started < 0.2


async def test_a_body_that_nobody_reads_does_not_poison_the_next_request(gateway: Gateway):
    """An application that answers without reading: the body is not taken for a request."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: g\r\n\r\n"
    async with gateway.caller() as caller:
        await caller.send(control("/deaf", smuggled))
        assert (await caller.read()).body == b"POST /deaf 0"
        await caller.send(gateway.request())
        assert (await caller.read()).body == GOOD
        head = control("/deaf", b"x" * 100).removesuffix(b"x" * 100)
        await caller.send(head)
        assert (await caller.read()).body == b"POST /deaf 0"
        with contextlib.suppress(OSError):
            await caller.send(smuggled)
        with contextlib.suppress(CutError, OSError):
            assert await caller.closed()


async def test_hang_ups_on_the_control_plane_leave_nothing(gateway: Gateway):
    """A connection that is cut anywhere in its life on the control plane is forgotten."""
    data = control("/slow", b"hello") + control("/stream")
    for cut in range(0, len(data) + 1, 6):
        async with gateway.caller() as caller:
            await caller.send(data[:cut])
            if cut % 4:
                caller.reset()
            else:
                caller.hang_up()
    await gateway.until(lambda: not gateway.plane.guarded and not gateway.plane.connections)
    async with gateway.caller() as caller:
        assert (await caller.ask("GET", "/page")).status == 200


async def test_pipelining_without_reading_is_held_back_on_the_control_plane(gateway: Gateway):
    """Pages that nobody takes do not pile up."""
    async with gateway.caller(receive_buffer_bytes=4096) as caller:
        caller.stall()
        page = control("/" + "p" * 1500) * 50
        for _ in range(200):
            caller._writer.write(page)
            await asyncio.sleep(0)
        (guarded,) = gateway.plane.guarded
        await asyncio.sleep(0.1)
        assert guarded.transport.get_write_buffer_size() < 2 << 20
        assert len(guarded._held) < 512 * KIB
        await gateway.until(lambda: not gateway.plane.guarded)  # a caller that takes nothing for so long is cut


async def test_requests_wait_for_a_control_plane_that_is_still_coming(gateway: Gateway):
    """Before the control plane is there its requests wait, /v1 is served, and then they are answered."""
    guard, gateway.plane._guard = gateway.plane.guard, None
    async with gateway.caller() as waiting, gateway.caller() as served:
        await waiting.send(control("/early", b"hello") + gateway.request())
        await served.send(gateway.request())
        assert (await served.read()).body == GOOD
        assert guard is not None
        gateway.plane.set_guard(guard)
        assert (await waiting.read()).body == b"POST /early 5"
        assert (await waiting.read()).body == GOOD


async def test_draining_closes_both_planes(gateway: Gateway):
    """While draining, idle connections of either plane close and busy ones end after their answer."""
    async with gateway.caller() as idle, gateway.caller() as page, gateway.caller() as busy:
        assert (await page.ask("GET", "/page")).status == 200
        await idle.send(gateway.request())
        await idle.read()
        await busy.send(control("/slow"))
        await gateway.until(lambda: len(gateway.plane.guarded) == 2)
        assert await gateway.plane.drain(2.0) == 0
        assert await idle.closed()
        assert await page.closed()
        assert (await busy.read()).body == b"GET /slow 0"
        assert await busy.closed()


def attach(gateway: Gateway, app: Callable[..., Any]) -> None:
    """Give the gateway another control plane."""
    config = Config(app, http=GuardedHttp, ws="none", lifespan="off", loop="none", log_config=None, access_log=False)
    config.load()
    state = ServerState()
    gateway.plane.set_guard(lambda _: GuardedHttp(gateway.plane, config, state))


@pytest.mark.parametrize("upgrade_to", ["websocket", "h2c"])
@pytest.mark.parametrize("body", [None, b"GET /smuggled HTTP/1.1\r\nHost: evil.example\r\n\r\n"])
async def test_an_upgrade_switches_no_guard_off(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, body: bytes | None, upgrade_to: str
):
    """Upgrade is ignored, without a word in the log: what follows on the connection is judged as ever."""
    gateway.plane.allowed_hosts = frozenset({b"localhost"})
    fields = {"Connection": "Upgrade", "Upgrade": upgrade_to, "Sec-WebSocket-Key": "AA", "Sec-WebSocket-Version": "13"}
    upgrade = control("/u", body, **fields)
    answer = b"POST /u %d" % len(body) if body else b"GET /u 0"
    with caplog.at_level(logging.WARNING):
        async with gateway.caller() as caller:
            await caller.send(upgrade)
            assert (await caller.read()).body == answer
            await caller.send(control("/next", b"x" * 3000))
            assert (await caller.read()).body == b"POST /next 3000"
            await caller.send(upgrade + encode_request("GET", "/v1/models", key=CALLER_KEY) + upgrade)
            assert (await caller.read()).body == answer
            assert (await caller.read()).json["object"] == "list"
            assert (await caller.read()).body == answer
            await caller.send(b"GET /page HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            assert (await caller.read()).status == 421
        async with gateway.caller() as caller:
            await caller.send(upgrade)
            assert (await caller.read()).body == answer
            await caller.send(b"GET /page HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"y" * MAX_HEAD_BYTES)
            assert (await caller.read()).status == 431
        async with gateway.caller() as caller:
            await caller.send(upgrade)
            assert (await caller.read()).body == answer
            assert await caller.closed()  # idle: the deadline stands too
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_control_plane_that_cannot_start_is_told(gateway: Gateway, monkeypatch: pytest.MonkeyPatch):
    """Who waits for it and who comes later get 503 in its form and a close; /v1 goes on."""

    def broken() -> None:
        raise ImportError("no such thing")

    monkeypatch.setattr(runtime, "_import_control", broken)
    settings: Any = None
    process = runtime.Gateway(settings)
    process.plane, process.loop = gateway.plane, gateway.plane.loop
    gateway.plane._guard = None
    async with gateway.caller() as waiting, gateway.caller() as late:
        await waiting.send(control("/early", b"hello") + gateway.request())
        await gateway.until(lambda: gateway.plane._awaiting_guard)
        await process._bring_in_control_plane()
        await late.send(gateway.request())
        assert (await late.read()).body == GOOD
        await late.send(control("/late"))
        for caller in (waiting, late):
            response = await caller.read()
            assert (response.status, response.json["status"]) == (503, 503)
            assert response.header("content-type") == "application/problem+json"
            assert response.header("connection") == "close"
            assert await caller.closed()
        assert "control" in process.problems
    await gateway.until(lambda: not gateway.plane.connections)


async def test_waiting_for_the_control_plane_ends(gateway: Gateway):
    """Who hangs up while he waits is forgotten; who waits too long, or into the drain, gets 503."""
    plane = gateway.plane
    plane._guard = None
    async with gateway.caller() as gone:
        await gone.send(control("/gone"))
        await gateway.until(lambda: plane._awaiting_guard)
    await gateway.until(lambda: not plane._awaiting_guard)
    async with gateway.caller() as patient:
        await patient.send(control("/patient"))
        assert (await patient.read()).status == 503
        assert await patient.closed()
    assert not plane._awaiting_guard
    async with gateway.caller() as drained:
        await drained.send(control("/drained", method="HEAD"))
        await gateway.until(lambda: plane._awaiting_guard)
        await plane.drain(5.0)
        response = await drained.read(head_only=True)
        assert response.status == 503
        assert await drained.closed()


@pytest.mark.parametrize(
    ("field", "status"), [(b"localhost ", 200), (b"localhost\t ", 200), (b"localhost:80 ", 200), (b"evil ", 421)]
)
async def test_white_space_around_the_host_is_not_part_of_it(gateway: Gateway, field: bytes, status: int):
    """RFC 9110 §5.5: white space around a field's value does not count."""
    gateway.plane.allowed_hosts = frozenset({b"localhost"})
    async with gateway.caller() as caller:
        await caller.send(b"GET /page HTTP/1.1\r\nHost: " + field + b"\r\n\r\n")
        assert (await caller.read()).status == status


@pytest.mark.parametrize("size_bytes", [50_000, 8 << 20])
async def test_an_answer_before_a_close_that_nobody_takes_is_given_up(gateway: Gateway, size_bytes: int):
    """`Connection: close` and a caller who does not read: the socket goes after `caller_stall_s`, full or nearly so."""

    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * size_bytes})

    attach(gateway, large)
    async with gateway.caller(receive_buffer_bytes=4096) as caller:
        await caller.send(b"GET ")
        await gateway.until(lambda: gateway.plane.connections)
        (connection,) = gateway.plane.connections
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        caller.stall()
        await caller.send(control("/large", Connection="close")[4:])
        await gateway.until(lambda: gateway.plane.guarded)
        await gateway.until(lambda: not gateway.plane.guarded, timeout_s=4.0)


async def test_an_application_that_reads_on_does_not_undo_the_pause(gateway: Gateway):
    """uvicorn resumes reading when the application takes a body; what is read ahead stays bounded all the same."""
    taken, release = asyncio.Event(), asyncio.Event()

    async def held(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        taken.set()
        await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async with gateway.caller() as caller:
        await caller.ask("GET", "/page")
        attach(gateway, held)
        await caller.send(gateway.request())
        assert (await caller.read()).body == GOOD
        await caller.send(control("/fresh"))
        await gateway.until(lambda: gateway.plane.guarded)
        (guarded,) = gateway.plane.guarded
        release.set()
        assert (await caller.read()).status == 200
        release.clear()
        taken.clear()
        guarded.data_received(control("/held", b"x" * 100_000) + b"GET /" + b"x" * 100_000)
        await taken.wait()
        for _ in range(64):
            caller._writer.write(b"x" * 65_536)
        await asyncio.sleep(0.2)
        assert len(guarded._held) < 1 << 20
        caller.reset()
        release.set()
    await gateway.until(lambda: not gateway.plane.guarded)
