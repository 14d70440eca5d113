"""Ends that are none: refused, reset, cut short, stalled, in a plain body and in a stream."""

from collections.abc import Iterable

from potluck.conformance import answers
from potluck.conformance.answers import chat_events, chunk, event, role_chunk
from potluck.conformance.call import Call
from potluck.conformance.faults.catalogue import (
    CUT,
    DOWN,
    GOOD,
    SLOW,
    STALLED,
    TRUNCATED,
    fault,
)

NEVER_200 = "502, never 200"
HONEST_CUT = "an error event, no [DONE], the record says upstream_truncated"


def _first_words(call: Call) -> Iterable[bytes]:
    """A role and two words, all whole events."""
    return list(chat_events(call.model))[:3]


async def _begin_body(call: Call) -> None:
    """A JSON head with the right length, and the first 40 bytes of the body."""
    body = answers.completion(call.model)
    await call.head(200, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)))
    await call.send(body[:40])
    await call.settle()


@fault("reset-before-head", "reads the request, then resets", "502", plain=DOWN, stream=DOWN)
async def reset_before_head(call: Call) -> None:
    call.reset()


@fault("close-before-head", "reads the request, then closes without a word", "502", plain=DOWN, stream=DOWN)
async def close_before_head(call: Call) -> None:
    call.fin()


@fault("reset-early", "resets when the request's head is in, body unread", "502", plain=DOWN, stream=DOWN, early=True)
async def reset_early(call: Call) -> None:
    call.reset()


@fault("cut-mid-head", "closes in the middle of the response head", "502", plain=DOWN, stream=DOWN)
async def cut_mid_head(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\ncontent-type: applic")
    call.fin()


@fault("cut-mid-head-rst", "resets in the middle of the response head", "502", plain=DOWN, stream=DOWN)
async def cut_mid_head_rst(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\ncontent-type: applic")
    await call.settle()
    call.reset()


@fault("short-body", "closes before content-length is reached", NEVER_200, plain=TRUNCATED)
async def short_body(call: Call) -> None:
    await _begin_body(call)
    call.fin()


@fault("short-body-rst", "resets before content-length is reached", NEVER_200, plain=TRUNCATED)
async def short_body_rst(call: Call) -> None:
    await _begin_body(call)
    call.reset()


@fault("chunked-body-cut", "closes without the last chunk, the JSON being whole", NEVER_200, plain=TRUNCATED)
async def chunked_body_cut(call: Call) -> None:
    await call.head(200, (b"content-type", b"application/json"), (b"transfer-encoding", b"chunked"))
    await call.chunk(answers.completion(call.model))
    call.fin()


@fault("close-delimited-cut", "closes a body without length in the middle of its JSON", NEVER_200, plain=TRUNCATED)
async def close_delimited_cut(call: Call) -> None:
    await call.head(200, (b"content-type", b"application/json"))
    await call.send(answers.completion(call.model)[:-9])
    call.fin()


@fault("cut-after-head", "closes after the stream's head", "502: nothing was sent yet", stream=TRUNCATED)
async def cut_after_head(call: Call) -> None:
    await call.sse()
    await call.settle()
    call.fin()


@fault("cut-after-role", "closes after a chunk that only names the role", "502: no content yet", stream=TRUNCATED)
async def cut_after_role(call: Call) -> None:
    await call.sse()
    await call.chunk(event(role_chunk(call.model)))
    await call.settle()
    call.fin()


@fault("cut-between-chunks", "closes between two chunks", HONEST_CUT, stream=CUT)
async def cut_between_chunks(call: Call) -> None:
    await call.sse()
    await call.chunks(_first_words(call))
    await call.settle()
    call.fin()


@fault("cut-in-chunk", "closes inside a chunk and inside an event", HONEST_CUT, stream=CUT)
async def cut_in_chunk(call: Call) -> None:
    await call.sse()
    await call.chunks(_first_words(call))
    await call.settle()
    await call.send(b'80\r\ndata: {"id":"chatcmpl-fake","obj')
    await call.settle()
    call.fin()


@fault("cut-rst", "resets between two chunks", HONEST_CUT, stream=CUT)
async def cut_rst(call: Call) -> None:
    await call.sse()
    await call.chunks(_first_words(call))
    await call.settle()
    call.reset()


@fault("cut-in-chunk-rst", "resets inside a chunk", HONEST_CUT, stream=CUT)
async def cut_in_chunk_rst(call: Call) -> None:
    await call.sse()
    await call.chunks(_first_words(call))
    await call.settle()
    await call.send(b'80\r\ndata: {"id":"chatcmpl-fake","obj')
    await call.settle()
    call.reset()


@fault("cut-before-last-chunk", "closes after [DONE] without the last chunk", "[DONE] is the end", stream=GOOD)
async def cut_before_last_chunk(call: Call) -> None:
    await call.sse()
    await call.chunks(chat_events(call.model, usage=call.wants_usage))
    await call.settle()
    call.fin()


@fault("stream-length-short", "gives the stream a length and closes before it", HONEST_CUT, stream=CUT)
async def stream_length_short(call: Call) -> None:
    await call.head(200, (b"content-type", b"text/event-stream"), (b"content-length", b"9999"))
    await call.send(b"".join(_first_words(call)))
    await call.settle()
    call.fin()


@fault("close-delimited-stream-cut", "closes a stream without framing before its finish reason", HONEST_CUT, stream=CUT)
async def close_delimited_stream_cut(call: Call) -> None:
    await call.head(200, (b"content-type", b"text/event-stream"))
    await call.send(b"".join(_first_words(call)))
    await call.settle()
    call.fin()


@fault("no-finish", "ends its body cleanly without finish reason or [DONE]", HONEST_CUT, stream=CUT)
async def no_finish(call: Call) -> None:
    await call.sse()
    await call.chunks(_first_words(call))
    await call.settle()
    await call.end()


@fault("no-finish-but-done", "sends [DONE] without any finish reason", HONEST_CUT, stream=CUT)
async def no_finish_but_done(call: Call) -> None:
    await call.sse()
    await call.chunks(_first_words(call))
    await call.settle()
    await call.chunk(answers.DONE)
    await call.end()


@fault("half-last-event", "ends its body cleanly in the middle of an event", HONEST_CUT, stream=CUT)
async def half_last_event(call: Call) -> None:
    await call.sse()
    await call.chunks(_first_words(call))
    await call.settle()
    await call.chunk(event(chunk(call.model, {"content": "half"}))[:50])
    await call.end()


@fault("stall-before-head", "reads the request and says nothing", "504 after first_byte_s", plain=SLOW, stream=SLOW)
async def stall_before_head(call: Call) -> None:
    await call.silence()


@fault("stall-mid-head", "stops in the middle of the head", "504", plain=SLOW, stream=SLOW)
async def stall_mid_head(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\ncontent-ty")
    await call.silence()


@fault("stall-after-head", "sends the head, then nothing", "504: nothing was sent yet", plain=SLOW, stream=SLOW)
async def stall_after_head(call: Call) -> None:
    if call.stream:
        await call.sse()
    else:
        await call.head(200, (b"content-type", b"application/json"), (b"content-length", b"99"))
    await call.silence()


@fault("stall-after-role", "stops after a chunk that only names the role", "504: no content yet", stream=SLOW)
async def stall_after_role(call: Call) -> None:
    await call.sse()
    await call.chunk(event(role_chunk(call.model)))
    await call.silence()


@fault("stall-mid-body", "stops in the middle of the JSON", "504 after idle_s", plain=SLOW)
async def stall_mid_body(call: Call) -> None:
    await _begin_body(call)
    await call.silence()


@fault("stall-mid-stream", "stops after two words", "an error event after idle_s", stream=STALLED)
async def stall_mid_stream(call: Call) -> None:
    await call.sse()
    await call.chunks(_first_words(call))
    await call.silence()


@fault("comments-forever", "keeps alive with comments and never says a word", "504 at total_s", stream=SLOW)
async def comments_forever(call: Call) -> None:
    await call.sse()
    while True:
        await call.chunk(b": PROCESSING\n\n")
        await call.pause(0.1)


@fault(
    "stall-before-end", "says everything, then neither ends nor closes", "a whole answer ends at [DONE]", stream=GOOD
)
async def stall_before_end(call: Call) -> None:
    await call.sse()
    await call.chunks(chat_events(call.model, usage=call.wants_usage))
    await call.silence()


@fault("endless-stream", "words without end, as fast as they are taken", "stop at the caller's hang-up", stream=None)
async def endless_stream(call: Call) -> None:
    await call.sse()
    await call.chunk(event(role_chunk(call.model)))
    word = event(chunk(call.model, {"content": "x" * int(call.number("size", 1000))}))
    while True:
        await call.chunk(word)
        await call.pause(call.number("gap_ms", 0) / 1000)


@fault("never-reads", "accepts the connection and never reads the body", "504", plain=SLOW, stream=SLOW, early=True)
async def never_reads(call: Call) -> None:
    await call.connection.leave_unread()


@fault(
    "early-refusal", "answers 413 before it has read the body, and closes", "the 413 counts, not the reset", early=True
)
async def early_refusal(call: Call) -> None:
    await call.answer(answers.error(413, "too large", code="too_large"), (b"connection", b"close"), status=413)
    call.fin()
