"""SIGTERM under load: running answers are finished, new requests are refused, the process ends with status 0."""

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from potluck.conformance import answers
from potluck.conformance.call import Call
from potluck.conformance.caller import Response, encode_request
from potluck.conformance.process import GatewayProcess, gone, point_at
from potluck.conformance.provider import FakeProvider
from potluck.runtime.gateway import SAME_SIGNAL_S

pytestmark = pytest.mark.timeout(60)


def chat(gateway: GatewayProcess, model: str, **members: Any) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], **members}
    return encode_request(body=body, key=gateway.key)


def calls(fake: FakeProvider) -> int:
    """What the upstream saw on behalf of callers: the gateway itself asks for the list of models at its start."""
    return sum(request.method == "POST" for request in fake.requests)


async def test_running_streams_are_finished_and_new_requests_refused(tmp_path: Path):
    """Twenty streams and plain calls in flight at SIGTERM end whole; what comes after is refused."""
    release = asyncio.Event()

    async def held(call: Call) -> None:
        parts = list(answers.chat_events(call.model, usage=call.wants_usage))
        if call.stream:
            await call.sse()
            await call.chunks(parts[:3])
            await release.wait()
            await call.chunks(parts[3:])
            await call.end()
        else:
            await release.wait()
            await call.answer(answers.completion(call.model))

    async with FakeProvider() as fake, GatewayProcess(tmp_path / "home", point_at(fake, "held", "ok")) as gateway:
        fake.script["held"] = held
        await gateway.ready()
        children = gateway.children()

        async def run(stream: bool) -> tuple[Response, float]:
            async with gateway.caller(timeout_s=20) as caller:
                await caller.send(chat(gateway, "held", stream=stream))
                response = await caller.read()
                ended_s = time.monotonic()
                assert response.header("connection") == (None if stream else "close")
                assert await caller.closed()
                return response, ended_s

        async with gateway.caller() as idle, gateway.caller() as pipelining:
            await idle.send(chat(gateway, "ok"))
            await idle.read()
            running = [asyncio.ensure_future(run(bool(n % 2))) for n in range(20)]
            await pipelining.send(chat(gateway, "held"))
            await fake.wait_for(lambda: calls(fake) == 22)
            gateway.tell(signal.SIGTERM)
            assert await idle.closed()
            await pipelining.send(chat(gateway, "ok"))
            refused = await _ask_anew(gateway)
            assert refused in (None, 503)
            assert not any(task.done() for task in running)
            release.set()
            done = await asyncio.gather(*running)
            assert (await pipelining.read()).body == answers.completion("held")
            assert await gateway.wait() == 0
            ended_s = time.monotonic()
        assert ended_s - max(at_s for _, at_s in done) < 5
        for response, _ in done:
            assert response.status == 200
            if b"data:" in response.body:
                assert response.events[-1] == b"[DONE]"
                assert len(response.events) == len(answers.WORDS) + 3
            else:
                assert response.body == answers.completion("held")
        await gone(children, 2.0)
        outcomes = gateway.outcomes()
        assert list(outcomes.values()) == ["ok"] * 22
        assert "Traceback" not in gateway.log()


async def _ask_anew(gateway: GatewayProcess) -> int | None:
    """The status that a new caller gets; None: nobody listens any more."""
    try:
        async with gateway.caller() as caller:
            return (await caller.ask(body={"model": "ok", "messages": [{"role": "user"}]}, key=gateway.key)).status
    except OSError:
        return None


async def test_a_kept_alive_connection_is_told_to_close(tmp_path: Path):
    """A request whose head arrives while draining gets 503 overloaded, retry-after and `connection: close`."""
    release = asyncio.Event()

    async def held(call: Call) -> None:
        await release.wait()
        await call.answer(answers.completion(call.model))

    async with FakeProvider() as fake, GatewayProcess(tmp_path / "home", point_at(fake, "held", "ok")) as gateway:
        fake.script["held"] = held
        late_request = chat(gateway, "ok")
        async with gateway.caller() as busy, gateway.caller() as late:
            await busy.send(chat(gateway, "held"))
            await late.send(late_request[:20])
            await fake.wait_for(lambda: calls(fake))
            gateway.tell(signal.SIGTERM)
            while await _ask_anew(gateway) is not None:
                await asyncio.sleep(0.01)
            await late.send(late_request[20:])
            response = await late.read()
            assert (response.status, response.code) == (503, "overloaded")
            assert response.header("connection") == "close"
            assert int(response.header("retry-after") or "") >= 1
            release.set()
            assert (await busy.read()).status == 200
            assert await gateway.wait() == 0


async def test_a_body_on_its_way_is_answered(tmp_path: Path):
    """A request whose head has come at SIGTERM, and whose body comes within the drain, gets its answer."""
    async with FakeProvider() as fake, GatewayProcess(tmp_path / "home", point_at(fake, "ok")) as gateway:
        request = chat(gateway, "ok")
        async with gateway.caller() as caller:
            await caller.send(chat(gateway, "ok") + request[:-5])
            assert (await caller.read()).status == 200
            gateway.tell(signal.SIGTERM)
            await asyncio.sleep(0.5)
            await caller.send(request[-5:])
            response = await caller.read()
            assert (response.status, response.header("connection")) == (200, "close")
        assert await gateway.wait() == 0
        assert list(gateway.outcomes().values()) == ["ok"] * 2


async def test_a_slow_caller_still_gets_the_rest_of_a_large_answer(tmp_path: Path):
    """An answer that is complete but not yet taken when the drain ends is delivered, not cut."""
    model = "ok;chunks=4000;size=2000"
    async with FakeProvider() as fake, GatewayProcess(tmp_path / "home", point_at(fake, model)) as gateway:
        async with gateway.caller(receive_buffer_bytes=16_384) as caller:
            await caller.send(chat(gateway, model))
            response = await caller.read_head()
            gateway.tell(signal.SIGTERM)
            await asyncio.sleep(0.5)
            await caller.read_rest(response)
            assert response.status == 200
            assert len(response.json["choices"][0]["message"]["content"]) == 4000 * 2000
        assert await gateway.wait() == 0


async def test_the_drain_has_a_deadline_and_ends_honestly(tmp_path: Path):
    """What still runs at the deadline ends with an error in its own form, and a record."""
    env = {"POTLUCK_DRAIN_S": "0.5"}
    async with (
        FakeProvider() as fake,
        GatewayProcess(tmp_path / "home", point_at(fake, "words", "stall-before-head"), env) as gateway,
    ):

        async def words(call: Call) -> None:
            await call.sse()
            await call.chunks(list(answers.chat_events(call.model))[:3])
            await call.silence()

        fake.script["words"] = words
        async with gateway.caller() as plain, gateway.caller() as stream:
            await plain.send(chat(gateway, "stall-before-head"))
            await stream.send(chat(gateway, "words", stream=True))
            response = await stream.read_head()
            await stream.read_chunk(response)
            await fake.wait_for(lambda: calls(fake) == 2)
            started_s = time.monotonic()
            gateway.tell(signal.SIGTERM)
            refused = await plain.read()
            assert (refused.status, refused.code) == (503, "overloaded")
            await stream.read_rest(response)
            assert b'"code":"overloaded"' in response.events[-1]
            assert b"[DONE]" not in response.body
            assert await gateway.wait() == 0
            assert time.monotonic() - started_s < 5
        await fake.wait_for(lambda: not fake.open_connections)
        assert sorted(gateway.outcomes().values()) == ["shutdown", "shutdown"]


async def test_a_second_signal_cuts_the_drain_short(tmp_path: Path):
    """Whoever is in a hurry sends the signal twice."""
    async with (
        FakeProvider() as fake,
        GatewayProcess(tmp_path / "home", point_at(fake, "stall-before-head")) as gateway,
        gateway.caller() as caller,
    ):
        await caller.send(chat(gateway, "stall-before-head"))
        await fake.wait_for(lambda: calls(fake))
        told_s = time.monotonic()
        gateway.tell(signal.SIGTERM)
        gateway.tell(signal.SIGTERM)  # make and the terminal say it at once: one wish
        while await _ask_anew(gateway) is not None or time.monotonic() < told_s + SAME_SIGNAL_S + 0.1:
            await asyncio.sleep(0.01)
        assert gateway.process.returncode is None
        started_s = time.monotonic()
        gateway.tell(signal.SIGTERM)
        assert (await caller.read()).status == 503
        assert await gateway.wait() == 0
        assert time.monotonic() - started_s < 5
