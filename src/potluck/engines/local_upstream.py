"""Calls to the built-in model: they wait while it starts, then go through the pool, and their answers are mended.

A call is at one place at a time: waiting for the model → open at the inner upstream → over. It is the inner call's sink
and the caller's `Call`. What it waits for, it waits for no longer than the endpoint's `first_byte_s`.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from potluck.engines.answers import CutError, StreamAnswer, WholeAnswer, mended_error, refusal
from potluck.engines.builtin import State
from potluck.engines.mend import Prepared, Refused, prepare
from potluck.model.snapshot import CompiledTarget, RequestHead
from potluck.ports import Call, Failure, Sink, Upstream
from potluck.wire.sse import SseError

_MAX_ERROR_BYTES = 64 << 10
_AGAIN_S = 0.1
_MAX_AGAIN = 20
"""A refused connection is tried again for two seconds: the child may have died without its supervisor knowing yet. One
that was lost before any answer is tried once more, not oftener: the request itself may be what kills the child."""

Headers = dict[bytes, bytes]


class Model(Protocol):
    """What is needed of `BuiltinModel`."""

    state: State
    reason: str
    port: int
    embeddings_port: int
    embeds: bool

    def want_embeddings(self) -> None: ...

    def wait(self, callback: Callable[[], None]) -> None: ...

    def unwait(self, callback: Callable[[], None]) -> None: ...


class LocalUpstream:
    """Implements `ports.Upstream` for the provider `local`, over the pool."""

    def __init__(self, inner: Upstream, model: Model, loop: asyncio.AbstractEventLoop) -> None:
        self.inner = inner
        self.model = model
        self.loop = loop

    def open(self, target: CompiledTarget, head: RequestHead, body: bytes, sink: Sink) -> Call:
        """Start a call. Never raises, and never calls the sink before it has returned."""
        try:
            prepared = prepare(head.path, body)
        except Refused as refused:
            call = LocalCall(self, target, head, Prepared(b"", "other"), sink)
            self.loop.call_soon(call.answer, *refusal(refused.param, str(refused)))
            return call
        call = LocalCall(self, target, head, prepared, sink)
        if self.serves(prepared):
            call.go()
        else:
            call.wait()
        return call

    def serves(self, prepared: Prepared) -> bool:
        """The server that the call is for answers."""
        return self.model.state == "ready" and (prepared.kind != "embeddings" or self.model.embeds)


class LocalCall:
    """One call. Implements `ports.Call` towards the exchange and `ports.Sink` towards the inner upstream."""

    def __init__(
        self, upstream: LocalUpstream, target: CompiledTarget, head: RequestHead, prepared: Prepared, sink: Sink
    ) -> None:
        self._upstream = upstream
        self._target = target
        self._head = head
        self._prepared = prepared
        self._sink = sink
        self._inner: Call | None = None
        self._over = False
        self._paused = False
        self._tries = 0
        self._waiting = False
        self._timer: asyncio.TimerHandle | None = None
        self._status = 0
        self._held = bytearray()
        """an error's body"""
        self._whole: WholeAnswer | None = None
        self._stream: StreamAnswer | None = None

    # towards the exchange

    @property
    def sent(self) -> bool:
        return self._inner is not None and self._inner.sent

    def pause(self) -> None:
        self._paused = True
        if self._inner is not None:
            self._inner.pause()

    def resume(self) -> None:
        self._paused = False
        if self._inner is not None:
            self._inner.resume()

    def cancel(self, reason: str) -> None:
        if not self._over:
            self._leave()
            if self._inner is not None:
                self._inner.cancel(reason)

    # waiting for the model

    def wait(self) -> None:
        """Wait until the model is ready, or is known not to become so."""
        loop, model = self._upstream.loop, self._upstream.model
        if not self._waiting:
            self._waiting = True
            model.wait(self._look)
        if self._prepared.kind == "embeddings":
            model.want_embeddings()
        if self._timer is None:
            self._timer = loop.call_later(self._target.endpoint.timeouts.first_byte_s, self._too_late)
        loop.call_soon(self._look)

    def go(self) -> None:
        """Open the call at the inner upstream, at the port that the model has now."""
        target, model = self._target, self._upstream.model
        port = model.embeddings_port if self._prepared.kind == "embeddings" else model.port
        if target.endpoint.port != port:
            endpoint = msgspec.structs.replace(target.endpoint, port=port, key=f"{target.endpoint.key}:{port}")
            target = msgspec.structs.replace(target, endpoint=endpoint)
        self._inner = self._upstream.inner.open(target, self._head, self._prepared.body, self)
        if self._paused:
            self._inner.pause()

    def _look(self) -> None:
        model = self._upstream.model
        if self._over or not self._waiting:
            return
        if self._upstream.serves(self._prepared):
            self._stop_waiting()
            self.go()
        elif model.state in ("off", "missing", "failed"):
            self._fail(Failure("target_down", "connect", model.reason))

    def _too_late(self) -> None:
        if not self._over:
            self._fail(Failure("target_slow", "connect", "the built-in model did not start in time", timeout=True))

    def _stop_waiting(self) -> None:
        self._waiting = False
        self._upstream.model.unwait(self._look)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave(self) -> None:
        self._over = True
        self._stop_waiting()

    def _fail(self, failure: Failure) -> None:
        self._leave()
        self._sink.failed(failure)

    def answer(self, status: int, body: bytes) -> None:
        """End with an answer of our own."""
        if self._over:
            return
        self._leave()
        self._sink.head(status, {b"content-type": b"application/json", b"content-length": b"%d" % len(body)})
        self._sink.data(body)
        self._sink.end()

    # towards the inner upstream

    def connected(self, *, reused: bool) -> None:
        if not self._over:
            self._sink.connected(reused=reused)

    def may_resend(self) -> bool:
        return not self._over and self._sink.may_resend()

    def head(self, status: int, headers: Headers) -> None:
        if self._over:
            return
        self._status = status
        if status != 200:
            return
        if self._prepared.whole:
            self._whole = WholeAnswer(self._prepared)
            return
        if not self._prepared.untouched:
            self._stream = StreamAnswer(self._prepared)
        self._sink.head(status, headers)

    def data(self, chunk: bytes) -> None:
        if self._over:
            return
        try:
            if self._status != 200:
                self._held += chunk[: _MAX_ERROR_BYTES - len(self._held)]
            elif self._whole is not None:
                self._whole.feed(chunk)
            elif self._stream is None:
                self._sink.data(chunk)
            elif mended := self._stream.feed(chunk):
                self._sink.data(mended)
        except (CutError, SseError) as error:
            self._break(str(error))

    def end(self) -> None:
        if self._over:
            return
        if self._status != 200:
            self.answer(*mended_error(self._status, bytes(self._held), self._prepared.kind))
        elif self._whole is not None:
            try:
                body = self._whole.finish()
            except CutError as error:
                self._break(str(error))
            else:
                self.answer(200, body)
        else:
            self._leave()
            self._sink.end()

    def end_by_close(self) -> None:
        if self._status != 200 or self._whole is not None:
            self.end()
        elif not self._over:
            self._leave()
            self._sink.end_by_close()

    def failed(self, failure: Failure) -> None:
        if self._over:
            return
        tries = _MAX_AGAIN if failure.phase == "connect" else 1
        if not self._status and not failure.timeout and self._tries < tries:
            self._tries += 1
            self._inner = None
            self._timer = self._upstream.loop.call_later(_AGAIN_S, self._again)
            return
        self._fail(failure)

    def _again(self) -> None:
        self._timer = None
        if not self._over:
            self.wait()

    def _break(self, detail: str) -> None:
        self._leave()
        if self._inner is not None:
            self._inner.cancel(detail)
        self._sink.failed(Failure("target_down", "stream", detail))
