"""What only a whole gateway process can show: memory, time, revoked keys, foreign hosts, secrets in what it leaves."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from potluck.conformance import answers
from potluck.conformance.answers import chunk, event
from potluck.conformance.call import Call
from potluck.conformance.caller import CutError, encode_request
from potluck.conformance.faults import FAULTS
from potluck.conformance.process import GatewayProcess, point_at
from potluck.conformance.provider import FakeProvider

pytestmark = pytest.mark.timeout(90)

UPSTREAM_KEY = b"sk-upstream-canary-secret"


def chat(gateway: GatewayProcess, model: str, key: str | None = None, **members: Any) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], **members}
    return encode_request(body=body, key=key or gateway.key)


async def test_a_stalled_caller_costs_no_memory(tmp_path: Path):
    """Ten callers who take nothing while upstreams push without end: less than 10 MB more, and all is freed."""
    config = ("endless-stream", "ok")
    async with FakeProvider() as fake, GatewayProcess(tmp_path / "home", point_at(fake, *config)) as gateway:
        await gateway.ready()
        async with gateway.caller() as warm:
            await warm.send(chat(gateway, "ok", stream=True))
            await warm.read()
        before = gateway.rss_bytes()
        callers = [gateway.caller(receive_buffer_bytes=4096) for _ in range(10)]
        for caller in callers:
            await caller.__aenter__()
            await caller.send(chat(gateway, "endless-stream", stream=True))
            await caller.read_head()
            caller.stall()
        peak = before
        for _ in range(30):
            await asyncio.sleep(0.05)
            peak = max(peak, gateway.rss_bytes())
        async with gateway.caller() as other:
            await other.send(chat(gateway, "ok"))
            assert (await other.read()).status == 200
        assert peak - before < 10 << 20, f"{(peak - before) >> 20} MB more"
        for caller in callers:
            await caller.__aexit__()
        await fake.wait_for(
            lambda: not any(b"endless-stream" in c.requests[0].body for c in fake.open_connections if c.requests)
        )


async def test_first_and_every_word_pass_without_a_delayed_ack_step(tmp_path: Path):
    """Through two real sockets each way a word takes milliseconds, never the 40 ms of a delayed acknowledgement."""
    sent_at: list[float] = []

    async def ticks(call: Call) -> None:
        await call.sse()
        for n in range(30):
            sent_at.append(time.monotonic())
            await call.chunk(event(chunk(call.model, {"content": f" {n}"})))
            await call.pause(0.01)
        await call.chunk(event(chunk(call.model, {}, "stop")))
        await call.chunk(answers.DONE)
        await call.end()

    async with FakeProvider() as fake, GatewayProcess(tmp_path / "home", point_at(fake, "ticks")) as gateway:
        fake.script["ticks"] = ticks
        await gateway.ready()
        async with gateway.caller() as caller:
            await caller.send(chat(gateway, "ticks", stream=True))
            response = await caller.read_head()
            took = []
            for n in range(30):
                await caller.read_chunk(response)
                took.append(time.monotonic() - sent_at[n])
            await caller.read_rest(response)
    assert sorted(took)[len(took) // 2] < 0.02, took
    assert sum(each > 0.035 for each in took) < len(took) / 5, took  # a busy machine may add some


async def test_a_revoked_key_ends_within_a_second_and_running_streams_finish(tmp_path: Path):
    """Revoking: new requests get 401 at once, also on kept-alive connections; a stream that runs ends whole."""
    release = asyncio.Event()

    async def held(call: Call) -> None:
        parts = list(answers.chat_events(call.model, usage=call.wants_usage))
        await call.sse()
        await call.chunks(parts[:3])
        await release.wait()
        await call.chunks(parts[3:])
        await call.end()

    async with FakeProvider() as fake, GatewayProcess(tmp_path / "home", point_at(fake, "held", "ok")) as gateway:
        fake.script["held"] = held
        await gateway.ready()
        made = (await gateway.api("POST", "/keys", {"name": "short-lived"})).json
        key = made["secret"]
        async with gateway.caller() as running, gateway.caller() as kept:
            await running.send(chat(gateway, "held", key, stream=True))
            response = await running.read_head()
            await running.read_chunk(response)
            await kept.send(chat(gateway, "ok", key))
            assert (await kept.read()).status == 200
            assert (await gateway.api("POST", f"/keys/{made['id']}/revoke")).status == 200
            revoked_s = time.monotonic()
            await kept.send(chat(gateway, "ok", key))
            refused = await kept.read()
            assert (refused.status, refused.code) == (401, "invalid_api_key")
            assert time.monotonic() - revoked_s < 1.0
            release.set()
            await running.read_rest(response)
            assert response.events[-1] == b"[DONE]"
        request_id = response.header("x-request-id") or ""
        async with asyncio.timeout(5):
            while gateway.outcomes().get(request_id) != "ok":
                await asyncio.sleep(0.05)


async def test_the_control_plane_answers_under_known_hosts_only(tmp_path: Path):
    """DNS rebinding: a page under a foreign name cannot read the console of a gateway on loopback."""
    async with FakeProvider() as fake, GatewayProcess(tmp_path / "home", point_at(fake, "ok")) as gateway:
        await gateway.ready()
        async with gateway.caller() as caller:
            for host, status in (("127.0.0.1", 200), (f"localhost:{gateway.port}", 200), ("[::1]", 200)):
                await caller.send(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert (await caller.read()).status == status, host
            await caller.send(b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            assert (await caller.read()).status == 421


async def test_every_end_has_its_record(tmp_path: Path):
    """ok, cut, failed, refused for rate, hung up: `GET /v1/requests/{id}` says which, to its own key alone."""
    models = ("ok", "cut-rst", "status-500", "status-429", "status-400", "stall-before-head", "empty-200")
    wanted = {
        "ok": "ok", "cut-rst": "upstream_truncated", "status-500": "upstream_error", "status-400": "caller_error",
        "status-429": "upstream_rate_limited", "empty-200": "upstream_error",
    }  # fmt: skip
    async with FakeProvider() as fake, GatewayProcess(tmp_path / "home", point_at(fake, *models)) as gateway:
        await gateway.ready()
        ids: dict[str, str] = {}
        for model in wanted:
            async with gateway.caller() as caller:
                await caller.send(chat(gateway, model, stream=True))
                ids[model] = (await caller.read()).header("x-request-id") or ""
        for model, outcome in wanted.items():
            record = await gateway.record(ids[model])
            assert record["outcome"] == outcome, model
            assert record["target"] == f"fake/{model}"
        other = (await gateway.api("POST", "/keys", {"name": "other"})).json["secret"]
        async with gateway.caller() as caller:
            stranger = await caller.ask("GET", f"/v1/requests/{ids['ok']}", key=other)
            assert stranger.status == 404


async def test_no_secret_is_left_anywhere(tmp_path: Path):
    """Caller keys, admin tokens and upstream keys stand in no log, database, spool, metric or answer of the API."""
    home = tmp_path / "home"
    names = [name for name, row in FAULTS.items() if not row.early and "stall" not in name and "huge" not in name]
    names = [name for name in names if row_is_quick(name)]
    async with FakeProvider() as fake, GatewayProcess(home, point_at(fake, *names)) as gateway:
        await gateway.ready()
        key, token = gateway.key.encode(), gateway.token.encode()
        async with gateway.caller() as caller:
            for name in names:
                await caller.send(chat(gateway, name, stream=bool(FAULTS[name].stream)))
                await caller.read()
        seen = [
            (await gateway.api("GET", path)).raw for path in ("/providers", "/credentials", "/keys", "/config/export")
        ]
        async with gateway.caller() as caller:
            seen.append((await caller.ask("GET", "/metrics")).raw)
        gateway.tell(signal.SIGTERM)
        assert await gateway.wait() == 0
    for data in seen:
        for secret in (key, token, UPSTREAM_KEY):
            assert secret not in bytes(data)
    files = [path for path in home.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        if path.name in ("admin-token", "first-api-key", "potluck.toml"):
            continue
        data = path.read_bytes()
        for secret in (key, token, UPSTREAM_KEY, UPSTREAM_KEY[3:]):
            assert secret not in data, path
    for name in ("admin-token", "first-api-key", "master-key"):
        assert (home / name).stat().st_mode & 0o077 == 0, name


def row_is_quick(name: str) -> bool:
    """Ends by itself within a moment."""
    return name not in (
        "comments-forever",
        "never-reads",
        "endless-stream",
        "close-announced",
        "many-data-lines",
        "gzip-bomb",
    )


async def flood(gateway: GatewayProcess, fake: FakeProvider, rounds: int) -> None:
    """Callers of every kind of end at once: whole, cut, hung up, reset, refused, junk."""
    junk = os.urandom(200)

    async def one(n: int) -> None:
        async with gateway.caller(timeout_s=20) as caller:
            match n % 6:
                case 0:
                    await caller.send(chat(gateway, "ok", stream=True))
                    await caller.read()
                case 1:
                    await caller.send(chat(gateway, "cut-rst", stream=True))
                    await caller.read()
                case 2:
                    await caller.send(chat(gateway, "endless-stream", stream=True))
                    await caller.read_chunk(await caller.read_head())
                    caller.reset()
                case 3:
                    await caller.send(chat(gateway, "ok")[:-9])
                    caller.hang_up()
                case 4:
                    await caller.send(chat(gateway, "ok", "plk-unknown"))
                    await caller.read()
                case 5:
                    await caller.send(junk)
                    await caller.read()

    for _ in range(rounds):
        done = await asyncio.gather(*(one(n) for n in range(60)), return_exceptions=True)
        assert not [
            each for each in done if isinstance(each, BaseException) and not isinstance(each, CutError | OSError)
        ]


async def _left(gateway: GatewayProcess) -> str:
    async with gateway.caller() as caller:
        metrics = (await caller.ask("GET", "/metrics")).body.decode()
    return "\n".join(line for line in metrics.splitlines() if line.startswith("potluck_requests_in_flight "))


@pytest.mark.parametrize("rounds", [4, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(300)])])
async def test_a_flood_of_ends_leaves_sockets_and_memory_where_they_were(tmp_path: Path, rounds: int):
    """After hundreds of callers of every kind: sockets at the baseline, memory within a few MB, nothing in flight."""
    models = ("ok", "cut-rst", "endless-stream")
    async with FakeProvider() as fake, GatewayProcess(tmp_path / "home", point_at(fake, *models)) as gateway:
        await gateway.ready()
        await flood(gateway, fake, 2)
        await _left(gateway)  # the control plane is imported at its first request: 9 MB that no caller leaves behind
        sockets, rss = gateway.open_sockets(), gateway.rss_bytes()
        await flood(gateway, fake, rounds)
        async with asyncio.timeout(10):
            while gateway.open_sockets() > sockets + 4:
                await asyncio.sleep(0.05)
        assert (await _left(gateway)).endswith(" 0.0")
        assert gateway.rss_bytes() - rss < 8 << 20
        assert "Traceback" not in gateway.log()
