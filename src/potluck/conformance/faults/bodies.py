"""Answers that are whole by their framing and worth nothing, or not what was asked for."""

import gzip
import zlib

from potluck.conformance import answers
from potluck.conformance.call import Call
from potluck.conformance.faults.catalogue import DOWN, GOOD, fault

EMPTY = "502: a 200 that carries nothing is a failure"
NOT_JSON = "502, never its text"


@fault("empty-200", "200 with an empty body", EMPTY, plain=DOWN, stream=DOWN)
async def empty_200(call: Call) -> None:
    await call.answer(b"")


@fault("empty-object", "200 with {}", EMPTY, plain=DOWN)
async def empty_object(call: Call) -> None:
    await call.answer(b"{}")


@fault("no-choices", "200 with an empty list of choices", EMPTY, plain=DOWN)
async def no_choices(call: Call) -> None:
    await call.answer(answers.completion(call.model, choices=[]))


@fault("choices-null", "200 with choices: null", EMPTY, plain=DOWN)
async def choices_null(call: Call) -> None:
    await call.answer(b'{"id":"x","object":"chat.completion","choices":null,"usage":null}')


@fault("empty-content", "a choice with empty content, no tool calls, no tokens", EMPTY, plain=DOWN)
async def empty_content(call: Call) -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    await call.answer(answers.completion(call.model, (), usage=usage))


@fault("html-200", "200 with an HTML page", NOT_JSON, plain=DOWN, stream=DOWN)
async def html_200(call: Call) -> None:
    await call.answer(b"<!doctype html><title>canary</title>Log in to the hotel's network", kind=b"text/html")


@fault("html-as-json", "an HTML page that calls itself JSON", NOT_JSON, plain=DOWN, stream=DOWN)
async def html_as_json(call: Call) -> None:
    await call.answer(b"<!doctype html><title>canary</title>")


@fault("half-json", "JSON cut by the provider itself, its length being right", "502", plain=DOWN)
async def half_json(call: Call) -> None:
    await call.answer(answers.completion(call.model)[:-7])


@fault("json-array", "200 with a JSON list", "502", plain=DOWN)
async def json_array(call: Call) -> None:
    await call.answer(b"[" + answers.completion(call.model) + b"]")


@fault("invalid-utf8", "a body that is not UTF-8", "502", plain=DOWN)
async def invalid_utf8(call: Call) -> None:
    await call.answer(answers.completion(call.model).replace(b"dish", b"d\xff\xfeh"))


@fault("deep-nesting", "a body nested 100,000 deep", "502, no crash", plain=DOWN)
async def deep_nesting(call: Call) -> None:
    await call.answer(b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@fault("error-object-200", "200 with an error object", "502", plain=DOWN, stream=DOWN)
async def error_object_200(call: Call) -> None:
    await call.answer(answers.error(500, "canary: overloaded", code="overloaded"))


@fault("json-for-stream", "a whole completion where a stream was asked for", "502", stream=DOWN)
async def json_for_stream(call: Call) -> None:
    await call.answer(answers.completion(call.model))


@fault("stream-for-plain", "a stream where a completion was asked for", "502", plain=DOWN)
async def stream_for_plain(call: Call) -> None:
    await call.sse()
    await call.chunks(answers.chat_events(call.model))
    await call.end()


@fault("gzip", "a gzip body though identity was asked for", "decoded", plain=GOOD)
async def gzip_body(call: Call) -> None:
    await call.answer(gzip.compress(answers.completion(call.model), mtime=0), (b"content-encoding", b"gzip"))


@fault("gzip-stream", "a gzip stream though identity was asked for", "decoded", stream=GOOD)
async def gzip_stream(call: Call) -> None:
    await call.sse((b"content-encoding", b"gzip"))
    await call.chunk(gzip.compress(b"".join(answers.chat_events(call.model, usage=call.wants_usage)), mtime=0))
    await call.end()


@fault("gzip-bomb", "200 KB of gzip that unpack to 200 MiB", "502, memory bounded", plain=DOWN)
async def gzip_bomb(call: Call) -> None:
    packer = zlib.compressobj(level=9, wbits=31)
    parts = [packer.compress(b" " * (1 << 20)) for _ in range(200)]
    await call.answer(b"".join([*parts, packer.flush()]), (b"content-encoding", b"gzip"))


@fault("huge-body", "a body larger than any limit, its length said", "502, memory bounded", plain=DOWN)
async def huge_body(call: Call) -> None:
    size = int(call.number("mib", 80)) << 20
    await call.head(200, (b"content-type", b"application/json"), (b"content-length", b"%d" % size))
    await _push(call, size)


@fault("huge-chunked-body", "a body larger than any limit, in chunks", "502, memory bounded", plain=DOWN)
async def huge_chunked_body(call: Call) -> None:
    await call.head(200, (b"content-type", b"application/json"), (b"transfer-encoding", b"chunked"))
    for _ in range(int(call.number("mib", 80)) * 16):
        await call.chunk(b" " * 65_536)
    await call.end()


async def _push(call: Call, size: int) -> None:
    block = b" " * 65_536
    for _ in range(size // len(block)):
        await call.send(block)
