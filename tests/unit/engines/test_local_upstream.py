"""The life of one call to the built-in model: waiting, going, failing, being cancelled."""

import asyncio
import json
from collections.abc import Callable

import pytest

from potluck.engines.builtin import State
from potluck.engines.local_upstream import LocalUpstream
from potluck.model.resources import Timeouts
from potluck.model.snapshot import CompiledTarget, Endpoint, RequestHead
from potluck.ports import Call, Failure, Sink

HEAD = RequestHead("POST", "/v1/chat/completions", (), b"")
BODY = b'{"stream":true,"stream_options":{"include_usage":true}}'
WHOLE = b"{}"
FINISHED = (
    b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}],"id":"chatcmpl-1"}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)


class Model:
    """A model whose state the test sets."""

    def __init__(self) -> None:
        self.state: State = "starting"
        self.reason = "it is loading"
        self.port = 1000
        self.embeddings_port = 3000
        self.embeds = False
        self.wanted = False
        self.callbacks: set[Callable[[], None]] = set()

    def wait(self, callback: Callable[[], None]) -> None:
        self.callbacks.add(callback)

    def unwait(self, callback: Callable[[], None]) -> None:
        self.callbacks.discard(callback)

    def want_embeddings(self) -> None:
        self.wanted = True

    def become(self, state: State, reason: str = "") -> None:
        self.state, self.reason = state, reason
        for callback in tuple(self.callbacks):
            callback()


class Inner:
    """An upstream that remembers what was opened on it, and does what the test does to its sinks."""

    def __init__(self) -> None:
        self.opened: list[tuple[CompiledTarget, bytes, Sink]] = []
        self.done: list[str] = []

    def open(self, target: CompiledTarget, head: RequestHead, body: bytes, sink: Sink) -> Call:
        self.opened.append((target, body, sink))
        return self

    @property
    def sink(self) -> Sink:
        return self.opened[-1][2]

    def pause(self) -> None:
        self.done.append("pause")

    def resume(self) -> None:
        self.done.append("resume")

    def cancel(self, reason: str) -> None:
        self.done.append(f"cancel {reason}")


class Seen:
    """A sink that writes down what comes."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.ends: list[str] = []
        self.failure: Failure | None = None
        self.over = asyncio.Event()

    def may_resend(self) -> bool:
        return True

    def connected(self, *, reused: bool) -> None:
        pass

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status

    def data(self, chunk: bytes) -> None:
        self.body += chunk

    def end(self) -> None:
        self.ends.append("end")
        self.over.set()

    def end_by_close(self) -> None:
        self.ends.append("close")
        self.over.set()

    def failed(self, failure: Failure) -> None:
        self.ends.append("failed")
        self.failure = failure
        self.over.set()


class Bench:
    """A LocalUpstream between a model and an inner upstream of the test's."""

    def __init__(self, **timeouts: float) -> None:
        self.model, self.inner, self.seen = Model(), Inner(), Seen()
        endpoint = Endpoint("local", "127.0.0.1", 1000, False, Timeouts(**timeouts))
        self.target = CompiledTarget(
            "t", "local/m", "p", "local", None, "local", endpoint, b'"m"', {}, None, True, "cancel", frozenset()
        )
        self.upstream = LocalUpstream(self.inner, self.model, asyncio.get_running_loop())

    def open(self, body: bytes = BODY, head: RequestHead = HEAD) -> Call:
        return self.upstream.open(self.target, head, body, self.seen)


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_call_waits_for_a_model_that_is_starting() -> None:
    """Nothing is opened before the model is ready, and then at once."""
    bench = Bench()
    bench.open()
    await turns()
    assert not bench.inner.opened
    bench.model.become("backing_off")
    bench.model.become("starting")
    assert not bench.inner.opened
    bench.model.become("ready")
    assert len(bench.inner.opened) == 1
    assert not bench.model.callbacks


@pytest.mark.parametrize("state", ["missing", "failed", "off"])
async def test_a_call_fails_with_the_reason_when_the_model_will_not_come(state: State) -> None:
    """The failure says how to mend it, and comes after `open` has returned."""
    bench = Bench()
    bench.model.become(state, "the built-in model is not installed: potluck local-model install")
    bench.open()
    assert not bench.seen.ends
    await turns()
    assert bench.seen.failure is not None
    assert bench.seen.failure.error_class == "target_down"
    assert "potluck local-model install" in bench.seen.failure.detail
    assert not bench.model.callbacks


async def test_waiting_has_an_end() -> None:
    """A model that never becomes ready costs a call its `first_byte_s`, no more."""
    bench = Bench(first_byte_s=0.02)
    bench.open()
    await asyncio.wait_for(bench.seen.over.wait(), 2)
    assert bench.seen.failure is not None
    assert bench.seen.failure.error_class == "target_slow"
    assert bench.seen.failure.timeout
    assert not bench.model.callbacks


async def test_a_call_that_is_cancelled_while_it_waits_is_never_opened() -> None:
    """The caller hung up: the model's readiness concerns it no more."""
    bench = Bench(first_byte_s=0.02)
    bench.open().cancel("client_closed")
    bench.model.become("ready")
    await asyncio.sleep(0.04)
    assert not bench.inner.opened
    assert not bench.seen.ends
    assert not bench.model.callbacks


async def test_a_call_that_is_paused_while_it_waits_is_opened_paused() -> None:
    """Back-pressure asked for early is not lost."""
    bench = Bench()
    bench.open().pause()
    bench.model.become("ready")
    assert bench.inner.done == ["pause"]


async def test_pause_resume_and_cancel_reach_the_inner_call() -> None:
    """Once open, the call is the inner one's remote control; after a cancel nothing comes any more."""
    bench = Bench()
    bench.model.become("ready")
    call = bench.open()
    call.pause()
    call.resume()
    call.cancel("why")
    call.cancel("again")
    assert bench.inner.done == ["pause", "resume", "cancel why"]
    bench.inner.sink.data(b"late")
    bench.inner.sink.end()
    assert not bench.seen.body
    assert not bench.seen.ends


async def test_the_port_is_the_one_that_the_model_has_now() -> None:
    """A snapshot may be older than a change of port: the call goes where the model is, on a pool of its own."""
    bench = Bench()
    bench.model.port = 2000
    bench.model.become("ready")
    bench.open()
    endpoint = bench.inner.opened[0][0].endpoint
    assert endpoint.port == 2000
    assert endpoint.key != bench.target.endpoint.key


async def test_embeddings_have_a_server_of_their_own() -> None:
    """The first call asks for it and waits; then it goes to that port, and later calls go at once."""
    bench = Bench()
    bench.model.become("ready")
    head = RequestHead("POST", "/v1/embeddings", (), b"")
    bench.open(b'{"input":"a"}', head)
    await turns()
    assert bench.model.wanted
    assert not bench.inner.opened
    bench.model.embeds = True
    bench.model.become("ready")
    bench.open(b'{"input":"a"}', head)
    assert [target.endpoint.port for target, _, _ in bench.inner.opened] == [3000, 3000]
    assert bench.inner.opened[0][0].endpoint.key != bench.target.endpoint.key


async def test_an_untouched_stream_is_forwarded_byte_by_byte() -> None:
    """What needs no mending is not even read."""
    bench = Bench()
    bench.model.become("ready")
    bench.open()
    bench.inner.sink.head(200, {})
    bench.inner.sink.data(b"da")
    assert bench.seen.body == b"da"
    bench.inner.sink.end()
    assert bench.seen.ends == ["end"]


async def test_a_whole_answer_comes_when_the_stream_is_complete() -> None:
    """Nothing is told before, so that a failure can still become another answer."""
    bench = Bench()
    bench.model.become("ready")
    bench.open(WHOLE)
    bench.inner.sink.head(200, {})
    bench.inner.sink.data(FINISHED)
    assert bench.seen.status == 0
    bench.inner.sink.end()
    assert bench.seen.status == 200
    assert json.loads(bench.seen.body)["choices"][0]["message"]["content"] == "hi"
    assert bench.seen.ends == ["end"]


@pytest.mark.parametrize(("data", "ending"), [(FINISHED[:-30], "end"), (FINISHED[:-30], "end_by_close"), (b"", "end")])
async def test_a_whole_answer_whose_stream_was_cut_is_a_failure(data: bytes, ending: str) -> None:
    """An incomplete stream is never handed on as an answer."""
    bench = Bench()
    bench.model.become("ready")
    bench.open(WHOLE)
    bench.inner.sink.head(200, {})
    bench.inner.sink.data(data)
    getattr(bench.inner.sink, ending)()
    assert bench.seen.ends == ["failed"]
    assert bench.seen.status == 0


async def test_nonsense_from_the_engine_ends_the_call_on_both_sides() -> None:
    """The inner call is cancelled and the sink told once."""
    bench = Bench()
    bench.model.become("ready")
    bench.open(WHOLE)
    bench.inner.sink.head(200, {})
    bench.inner.sink.data(b"data: {}\n\n")
    assert bench.seen.ends == ["failed"]
    assert len(bench.inner.done) == 1
    bench.inner.sink.failed(Failure("target_down", "stream", "late"))
    assert bench.seen.ends == ["failed"]


async def test_an_error_of_the_engine_is_mended() -> None:
    """Status and body are held until both are known."""
    bench = Bench()
    bench.model.become("ready")
    bench.open()
    bench.inner.sink.head(500, {})
    bench.inner.sink.data(b'{"error":{"message":"image input is not')
    bench.inner.sink.data(b' supported","code":500}}')
    bench.inner.sink.end()
    assert bench.seen.status == 400
    assert json.loads(bench.seen.body)["error"]["code"] == "invalid_request"


async def test_a_refused_request_never_reaches_the_engine() -> None:
    """It is answered here, after `open` has returned."""
    bench = Bench()
    bench.model.become("ready")
    bench.open(b'{"tool_choice":"required"}')
    assert bench.seen.status == 0
    await turns()
    assert bench.seen.status == 400
    assert bench.seen.ends == ["end"]
    assert not bench.inner.opened


async def test_a_connection_that_is_refused_is_tried_again() -> None:
    """The child died a moment ago and its supervisor starts a new one: the call waits for that."""
    bench = Bench()
    bench.model.become("ready")
    bench.open()
    bench.inner.sink.failed(Failure("target_down", "connect", "connection refused"))
    assert not bench.seen.ends
    bench.model.become("backing_off")
    while not bench.model.callbacks:
        await asyncio.sleep(0.01)
    bench.model.become("ready")
    assert len(bench.inner.opened) == 2


async def test_a_port_that_stays_closed_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After two seconds of refusals the caller is told."""
    monkeypatch.setattr("potluck.engines.local_upstream._AGAIN_S", 0.001)
    bench = Bench()
    bench.model.become("ready")
    bench.open()
    while not bench.seen.ends:
        tries = len(bench.inner.opened)
        bench.inner.sink.failed(Failure("target_down", "connect", "connection refused"))
        while not bench.seen.ends and len(bench.inner.opened) == tries:
            await asyncio.sleep(0.001)
    assert bench.seen.ends == ["failed"]
    assert len(bench.inner.opened) == 21


async def test_a_call_that_is_cancelled_before_its_second_try_stays_cancelled() -> None:
    """No second connection is made for a caller that is gone."""
    bench = Bench()
    bench.model.become("ready")
    call = bench.open()
    bench.inner.sink.failed(Failure("target_down", "connect", "connection refused"))
    call.cancel("client_closed")
    await asyncio.sleep(0.15)
    assert len(bench.inner.opened) == 1
    assert not bench.seen.ends


@pytest.mark.parametrize("phase", ["send", "first_byte"])
async def test_a_connection_that_is_lost_before_any_answer_is_tried_once_more(phase: str) -> None:
    """The child died under the call; a second loss is told, since the request may be what kills it."""
    bench = Bench()
    bench.model.become("ready")
    bench.open()
    bench.inner.sink.failed(Failure("target_down", phase, "reset"))
    async with asyncio.timeout(2):
        while len(bench.inner.opened) < 2:
            await asyncio.sleep(0.01)
    assert not bench.seen.ends
    bench.inner.sink.failed(Failure("target_down", phase, "reset"))
    assert bench.seen.ends == ["failed"]


@pytest.mark.parametrize("body", [BODY, WHOLE])
async def test_an_answer_that_breaks_off_is_not_begun_anew(body: bytes) -> None:
    """After the head a failure is one, whether the caller has seen something of the answer or not."""
    bench = Bench()
    bench.model.become("ready")
    bench.open(body)
    bench.inner.sink.head(200, {})
    bench.inner.sink.failed(Failure("target_down", "stream", "reset"))
    assert bench.seen.ends == ["failed"]


async def test_a_timeout_is_not_tried_again() -> None:
    """Its time is used up."""
    bench = Bench()
    bench.model.become("ready")
    bench.open()
    bench.inner.sink.failed(Failure("target_slow", "first_byte", "no answer in time", timeout=True))
    assert bench.seen.ends == ["failed"]
