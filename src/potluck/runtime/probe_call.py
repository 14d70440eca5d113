"""One probe on its way, and what its answer has shown: an implementation of `ports.Sink`, and two readers of it.

Rule: a reader says what is held against whom, as a `ports.Failure` in our words, and holds nothing against it itself.
"""

import time
import zlib
from collections.abc import Callable

import msgspec

from potluck.model.snapshot import CompiledTarget, RequestHead
from potluck.model.usage import TokenUsage
from potluck.policy.estimate import estimate_usage
from potluck.policy.probing import Outcome
from potluck.policy.retry_after import parse_retry_after
from potluck.ports import Call, Failure, Upstream
from potluck.providers.openai import classify_status
from potluck.proxy.verdict import of_error_object
from potluck.wire.dialects.answer import MalformedAnswer, read_response

DEADLINE_S = 30.0
"""for the whole of one probe; connecting and the first byte have their provider's times within it"""
MAX_BODY_BYTES = 8 << 20
"""of an answer; the longest lists of models have half a megabyte"""

Done = Callable[["ProbeCall"], None]


class ProbeCall:
    """One probe on its way: implements `ports.Sink`, gathers the answer, calls `done` once when it is over."""

    __slots__ = ("_call", "_coding", "_done", "_parts", "_size_bytes", "deadline", "failure", "retry_after_s", "status")

    def __init__(self, deadline: float, done: Done) -> None:
        self.deadline = deadline
        self.status = 0
        self.retry_after_s: float | None = None
        self.failure: Failure | None = None
        """why no whole answer came, where none did"""
        self._call: Call | None = None
        self._coding = False
        self._done: Done | None = done
        self._parts: list[bytes] = []
        self._size_bytes = 0

    def open(self, upstream: Upstream, target: CompiledTarget, head: RequestHead, body: bytes) -> None:
        self._call = upstream.open(target, head, body, self)

    def body(self) -> bytes:
        """What came, decompressed; empty where that does not go."""
        body = b"".join(self._parts)
        if self._coding:
            try:
                return zlib.decompressobj(47).decompress(body, MAX_BODY_BYTES)
            except zlib.error:
                return b""
        return body

    def cancel(self, reason: str) -> None:
        """Give up; nothing is called back."""
        self._done = None
        if self._call is not None:
            self._call.cancel(reason)

    def fail(self, failure: Failure) -> None:
        """End it from here: the call is closed, and `done` called."""
        if self._call is not None:
            self._call.cancel(failure.detail)
        self.failed(failure)

    def late(self) -> None:
        self.fail(Failure("target_slow", "first_byte", f"no whole answer within {DEADLINE_S:g} s", timeout=True))

    # --- ports.Sink

    def may_resend(self) -> bool:
        return True

    def connected(self, *, reused: bool) -> None:
        pass

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status
        self._coding = headers.get(b"content-encoding", b"").strip().lower() in (b"gzip", b"x-gzip", b"deflate")
        if b"retry-after" in headers:
            self.retry_after_s = parse_retry_after(headers[b"retry-after"], time.time())

    def data(self, chunk: bytes) -> None:
        self._size_bytes += len(chunk)
        if self._size_bytes > MAX_BODY_BYTES:
            self.fail(Failure("target_down", "stream", "sent an answer larger than the limit"))
        else:
            self._parts.append(chunk)

    def end(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(self)

    def end_by_close(self) -> None:
        self.end()

    def failed(self, failure: Failure) -> None:
        if self.status in (0, 200):
            self.failure = failure
        self.end()


class _ModelList(msgspec.Struct):
    data: list[msgspec.Raw] | None = None
    models: list[msgspec.Raw] | None = None


def read_models(call: ProbeCall, *, has_key: bool) -> tuple[Outcome, Failure | None]:
    """What a `GET /models` has shown; a failure, where something is held against the key or the server."""
    if call.failure is not None:
        slow = call.failure.error_class == "target_slow"
        return "target_slow" if slow else "target_down", call.failure
    status = call.status
    if status == 200:
        if _is_model_list(call.body()):
            return "ok", None
        return "target_down", Failure("target_down", "first_byte", "GET /models: it sent no list of models")
    detail = f"GET /models: answered HTTP {status}"
    if status in (403, 404, 405) or (status in (401, 402) and not has_key):
        return "not_served", None
    if status in (401, 402):
        if b"scope" in call.body():
            return "not_served", None  # OpenAI's restricted keys: good, but not for the list
        return "key_dead", Failure("key_dead", "first_byte", detail, status=status)
    error_class = classify_status(status)
    if error_class == "key_limited":
        return "key_limited", None
    if error_class == "caller_fault":
        return "caller_fault", None
    slow = error_class == "target_slow"
    return ("target_slow" if slow else "target_down"), Failure(
        "target_slow" if slow else "target_down", "first_byte", detail, status=status
    )


def _is_model_list(body: bytes) -> bool:
    """`{"data": […]}`; also a bare array, and `models` instead of `data`, as some servers send."""
    try:
        if body.lstrip()[:1] == b"[":
            msgspec.json.decode(body, type=list[msgspec.Raw])
            return True
        listed = msgspec.json.decode(body, type=_ModelList)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return listed.data is not None or listed.models is not None


def read_completion(call: ProbeCall, body_bytes: int) -> tuple[Outcome, Failure | None, TokenUsage | None]:
    """What a completion has shown, and what it used where that is known.

    A model that only thought is alive: reasoning text or tokens count, and so does an end by `length`.
    """
    if call.failure is not None:
        return _outcome(call.failure), call.failure, None
    body, status = call.body(), call.status
    if status == 400 and b"output limit was reached" in body:
        return "ok", None, None  # how OpenAI says that a model has only thought
    if status != 200:
        error_class = classify_status(status)
        failure = Failure(
            "target_down" if error_class == "none" else error_class,
            "first_byte",
            f"answered HTTP {status}",
            retry_after_s=call.retry_after_s,
            status=status,
        )
        return _outcome(failure), failure, None
    try:
        facts = read_response("chat", body)
    except MalformedAnswer as error:
        failure = Failure("target_down", "first_byte", f"sent an unreadable answer: {error}")
        return "target_down", failure, None
    if facts.error is not None:
        failure = of_error_object(facts.error, "in an answer of status 200")
        return _outcome(failure), failure, None
    usage = facts.usage or estimate_usage(body_bytes, len(body))
    if facts.empty and facts.finish_reason != "length":
        return "target_down", Failure("target_down", "first_byte", "sent an empty answer"), usage
    return "ok", None, usage


def _outcome(failure: Failure) -> Outcome:
    match failure.error_class:
        case "key_dead" | "key_limited" | "target_slow" | "caller_fault":
            return failure.error_class
        case _:
            return "target_down"
