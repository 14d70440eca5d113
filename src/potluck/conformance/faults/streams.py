"""Event streams that break the form: junk, errors in band, nothing in them, events without end."""

from potluck.conformance import answers
from potluck.conformance.answers import chat_events, chunk, event, role_chunk
from potluck.conformance.call import Call
from potluck.conformance.faults.catalogue import BROKEN, DOWN, Play, fault

EARLY = "502: no content was sent yet"
LATE = "an error event, no [DONE]"
NOTHING = "502: a stream that carries nothing is a failure"


def _after_words(junk: bytes) -> Play:
    async def play(call: Call) -> None:
        await call.sse()
        await call.chunks(list(chat_events(call.model))[:3])
        await call.settle()
        await call.chunk(junk)
        await call.chunks(list(chat_events(call.model))[3:])
        await call.end()

    return play


def _at_once(junk: bytes) -> Play:
    async def play(call: Call) -> None:
        await call.sse()
        await call.chunk(junk)
        await call.chunks(chat_events(call.model))
        await call.end()

    return play


_ERROR = answers.compact({"error": {"message": "canary: overloaded", "type": "server_error", "code": "overloaded"}})
_JUNK = {
    "malformed-json": ("a data line of broken JSON", b'data: {"choices":[{"delta":{"content":"x"}\n\n'),
    "data-not-json": ("a data line that is a word", b"data: canary\n\n"),
    "data-not-object": ("a data line that is a JSON number", b"data: 42\n\n"),
    "data-invalid-utf8": ("a data line that is not UTF-8", b'data: {"choices":[],"x":"\xff\xfe"}\n\n'),
    "error-event": ("an error object as an event", b"data: " + _ERROR + b"\n\n"),
    "error-named-event": ("an error in an event named error", b"event: error\ndata: " + _ERROR + b"\n\n"),
    "html-in-stream": ("an HTML page between events", b"data: <html>canary</html>\n\n"),
}
for _name, (_does, _bytes) in _JUNK.items():
    fault(f"{_name}-first", f"{_does}, first of all", EARLY, stream=DOWN)(_at_once(_bytes))
    fault(f"{_name}-mid", f"{_does}, after two words", LATE, stream=BROKEN)(_after_words(_bytes))


@fault("empty-stream", "a stream without a byte", NOTHING, stream=DOWN)
async def empty_stream(call: Call) -> None:
    await call.sse()
    await call.end()


@fault("only-done", "a stream of nothing but [DONE]", NOTHING, stream=DOWN)
async def only_done(call: Call) -> None:
    await call.sse()
    await call.chunk(answers.DONE)
    await call.end()


@fault("empty-deltas", "a finish reason and [DONE], every delta being empty", NOTHING, stream=DOWN)
async def empty_deltas(call: Call) -> None:
    await call.sse()
    await call.chunk(event(role_chunk(call.model)))
    await call.chunk(event(chunk(call.model, {}, "stop")))
    await call.chunk(answers.DONE)
    await call.end()


@fault("huge-event", "one event of 64 MiB without a line end", "an error event, memory bounded", stream=BROKEN)
async def huge_event(call: Call) -> None:
    await call.sse()
    await call.chunks(list(chat_events(call.model))[:3])
    await call.settle()
    await call.chunk(b'data: {"choices":[{"index":0,"delta":{"content":"')
    for _ in range(1024):
        await call.chunk(b"x" * 65_536)
    await call.chunk(b'"}}]}\n\n')
    await call.end()


@fault("many-data-lines", "one event of a million data lines", "an error event, memory bounded", stream=BROKEN)
async def many_data_lines(call: Call) -> None:
    await call.sse()
    await call.chunks(list(chat_events(call.model))[:3])
    await call.settle()
    for _ in range(300):
        await call.chunk(b"data: {\n" * 8192)
    await call.end()
