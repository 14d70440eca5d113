"""HTTP that breaks the rules: endless heads, two framings, bytes after the end, connections that die when reused."""

from potluck.conformance import answers
from potluck.conformance.call import Call
from potluck.conformance.faults.catalogue import DOWN, GOOD, TRUNCATED, Play, fault
from potluck.conformance.faults.good import ok

MALFORMED = "502; the connection is not used again"


def _raw(data: bytes) -> Play:
    async def play(call: Call) -> None:
        await call.send(data)
        await call.silence()

    return play


_BODY = answers.completion("m")
_LENGTH = b"content-length: %d\r\n" % len(_BODY)
_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
_CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(_BODY), _BODY)
_SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: canary\r\nconnection: upgrade\r\n\r\ncanary"
_BROKEN = {
    "not-http": ("speaks another protocol", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "bad-status-line": ("a status line without a status", b"HTTP/1.1 OK\r\n\r\n"),
    "http-2-preface": ("an HTTP/2 settings frame", b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
    "length-and-chunked": (
        "both content-length and chunked",
        _JSON + _LENGTH + b"transfer-encoding: chunked\r\n\r\n" + _CHUNKED,
    ),
    "two-lengths": ("two different lengths", _JSON + _LENGTH + b"content-length: 3\r\n\r\n" + _BODY),
    "bad-length": ("a length that is no number", _JSON + b"content-length: 12x\r\n\r\n" + _BODY),
    "negative-length": ("a negative length", _JSON + b"content-length: -1\r\n\r\n" + _BODY),
    "bad-chunk-size": ("a chunk size that is no number", _JSON + b"transfer-encoding: chunked\r\n\r\nzz\r\n" + _BODY),
    "header-no-colon": ("a header line without a colon", _JSON + b"canary\r\n" + _LENGTH + b"\r\n" + _BODY),
    "nul-in-header": ("a NUL in a header", _JSON + b"x-a: b\0c\r\n" + _LENGTH + b"\r\n" + _BODY),
    "switching-101": ("switches protocols unasked", _SWITCH),
}
for _name, (_does, _data) in _BROKEN.items():
    fault(_name, _does, MALFORMED, plain=DOWN, stream=DOWN)(_raw(_data))


@fault("endless-head", "header after header without end", MALFORMED, plain=DOWN, stream=DOWN)
async def endless_head(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\n")
    n = 0
    while True:
        await call.send(b"x-filler-%d: %b\r\n" % (n, b"y" * 1000))
        await call.pause(0)
        n += 1


@fault("huge-header", "one header of 4 MiB", MALFORMED, plain=DOWN, stream=DOWN)
async def huge_header(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\nx-filler: ")
    for _ in range(64):
        await call.send(b"y" * 65_536)
    await call.send(b"\r\ncontent-length: 2\r\n\r\n{}")


@fault("endless-1xx", "informational responses without end", MALFORMED, plain=DOWN, stream=DOWN)
async def endless_1xx(call: Call) -> None:
    while True:
        await call.send(b"HTTP/1.1 103 Early Hints\r\nx-filler: yyyyyyyyyyyyyyyyyyyyyyyy\r\n\r\n" * 50)
        await call.pause(0)


@fault("huge-chunk-extension", "a chunk extension without end", MALFORMED, plain=TRUNCATED)
async def huge_chunk_extension(call: Call) -> None:
    await call.head(200, (b"content-type", b"application/json"), (b"transfer-encoding", b"chunked"))
    await call.send(b"5;name=")
    for _ in range(64):
        await call.send(b"y" * 65_536)
    await call.silence()


# the pool: what one caller's connection must not do to the next

SECOND = b'{"id":"canary","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"canary"},"finish_reason":"stop"}]}'  # noqa: E501
POISON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(SECOND), SECOND)


@fault("bytes-after-end", "a second answer behind the first, in one write", "the next caller never gets it", plain=GOOD)
async def bytes_after_end(call: Call) -> None:
    await call.send(_JSON + _LENGTH + b"\r\n" + _BODY + POISON)


@fault("bytes-after-end-later", "a second answer a moment later", "the next caller never gets it", plain=GOOD)
async def bytes_after_end_later(call: Call) -> None:
    await ok(call)
    await call.settle()
    await call.send(POISON)


@fault("bytes-after-stream", "a second answer behind the last chunk", "the next caller never gets it", stream=GOOD)
async def bytes_after_stream(call: Call) -> None:
    await call.sse()
    await call.chunks(answers.chat_events(call.model, usage=call.wants_usage))
    await call.send(b"0\r\n\r\n" + POISON)


@fault("dies-while-idle", "closes the connection after its answer, unsaid", "nobody notices", plain=GOOD, stream=GOOD)
async def dies_while_idle(call: Call) -> None:
    await ok(call)
    await call.settle()
    call.fin()


@fault("dies-on-reuse", "answers once, resets at the second request on a connection", "one retry", plain=GOOD,
       stream=GOOD)  # fmt: skip
async def dies_on_reuse(call: Call) -> None:
    if call.request.n > 1:
        call.reset()
    else:
        await ok(call)


@fault("closes-on-reuse", "answers once, closes at the second request on a connection", "one retry", plain=GOOD,
       stream=GOOD)  # fmt: skip
async def closes_on_reuse(call: Call) -> None:
    if call.request.n > 1:
        call.fin()
    else:
        await ok(call)


@fault("half-head-on-reuse", "at the second request: half a head, then closes", "no retry: 502", plain=GOOD)
async def half_head_on_reuse(call: Call) -> None:
    if call.request.n > 1:
        await call.send(b"HTTP/1.1 200 O")
        call.fin()
    else:
        await ok(call)


@fault("close-announced", "answers with `connection: close` and does not close", "not used again", plain=GOOD)
async def close_announced(call: Call) -> None:
    await call.answer(answers.completion(call.model), (b"connection", b"close"))
    await call.silence()


@fault("length-too-long-stall", "a length one byte too long, then silence and close", "502", plain=TRUNCATED)
async def length_too_long(call: Call) -> None:
    await call.send(_JSON + b"content-length: %d\r\n\r\n" % (len(_BODY) + 1) + _BODY)
    await call.settle()
    call.fin()
