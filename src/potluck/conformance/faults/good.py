"""Behaviour that is unusual but right: every row here must reach the caller as a good answer in the canonical form."""

from potluck.conformance import answers
from potluck.conformance.answers import USAGE, chat_events, chunk, event, role_chunk
from potluck.conformance.call import Call
from potluck.conformance.faults.catalogue import GOOD, fault

AS_IS = "pass it on in the canonical form"


def words_of(call: Call) -> tuple[str, ...]:
    """The words to say: five by default; `;chunks=N` gives N, `;size=B` pads each to B bytes."""
    count, size = int(call.number("chunks", len(answers.WORDS))), int(call.number("size", 0))
    return tuple(answers.WORDS[i % len(answers.WORDS)].ljust(size, ".") for i in range(count))


@fault("ok", "answers well; options chunks, size, gap_ms, wait_ms", AS_IS, plain=GOOD, stream=GOOD)
async def ok(call: Call) -> None:
    await call.pause(call.number("wait_ms", 0) / 1000)
    path = call.request.target.partition("?")[0]
    if path.endswith("/models"):
        await call.answer(answers.models(call.connection.listed))
    elif path.endswith("/embeddings"):
        inputs = call.asked.get("input")
        await call.answer(answers.embeddings(call.model, len(inputs) if isinstance(inputs, list) else 1))
    elif not call.stream:
        make = answers.completion if path.endswith("/chat/completions") else answers.text_completion
        await call.answer(make(call.model, words_of(call)))
    else:
        make_events = answers.chat_events if path.endswith("/chat/completions") else answers.text_events
        gap_s = call.number("gap_ms", 0) / 1000
        await call.sse()
        for part in make_events(call.model, words_of(call), usage=call.wants_usage):
            await call.chunk(part)
            if gap_s:
                await call.pause(gap_s)
        await call.end()


@fault("drip", "sends head and body one byte at a time", AS_IS, plain=GOOD, stream=GOOD)
async def drip(call: Call) -> None:
    if call.stream:
        body = b"".join(chat_events(call.model, usage=call.wants_usage))
        framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:333], body[333:])) + b"0\r\n\r\n"
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    else:
        framed = answers.completion(call.model)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(framed)
    for byte in head + framed:
        await call.send(bytes((byte,)))
        await call.pause(0)


@fault("crlf-lines", "ends every line of the stream with CR LF", AS_IS, stream=GOOD)
async def crlf_lines(call: Call) -> None:
    await call.sse()
    await call.chunks(part.replace(b"\n", b"\r\n") for part in chat_events(call.model, usage=call.wants_usage))
    await call.end()


@fault("cr-lines", "ends every line of the stream with a lone CR", AS_IS, stream=GOOD)
async def cr_lines(call: Call) -> None:
    await call.sse()
    await call.chunks(part.replace(b"\n", b"\r") for part in chat_events(call.model, usage=call.wants_usage))
    await call.end()


@fault("bom", "puts a byte order mark before the stream", "take it off", stream=GOOD)
async def bom(call: Call) -> None:
    await call.sse()
    await call.chunk(b"\xef\xbb\xbf")
    await call.chunks(chat_events(call.model, usage=call.wants_usage))
    await call.end()


@fault("comments", "writes comments, event names, ids and retry fields", "keep only the data", stream=GOOD)
async def comments(call: Call) -> None:
    await call.sse()
    await call.chunk(b": hello\n\nretry: 5\n\n")
    for n, part in enumerate(chat_events(call.model, usage=call.wants_usage)):
        await call.chunk(b": PROCESSING\n\nevent: message\nid: %d\n" % n + part)
    await call.end()


@fault("multi-line-data", "spreads one JSON object over several data lines", "one data line per event", stream=GOOD)
async def multi_line_data(call: Call) -> None:
    await call.sse()
    for part in chat_events(call.model, usage=call.wants_usage):
        await call.chunk(part.replace(b',"choices"', b',\ndata: "choices"'))
    await call.end()


@fault("no-space-after-colon", "writes `data:` without the space", AS_IS, stream=GOOD)
async def no_space_after_colon(call: Call) -> None:
    await call.sse()
    await call.chunks(part.replace(b"data: ", b"data:") for part in chat_events(call.model, usage=call.wants_usage))
    await call.end()


@fault("split-utf8", "splits multi-byte characters over chunks and writes", AS_IS, stream=GOOD)
async def split_utf8(call: Call) -> None:
    await call.sse()
    body = b"".join(chat_events(call.model, ("Füße", " 🍲", " 食べ物"), usage=call.wants_usage))
    for byte in body:
        await call.chunk(bytes((byte,)))
    await call.end()


@fault("one-write", "sends head and whole stream in one write", AS_IS, stream=GOOD)
async def one_write(call: Call) -> None:
    body = b"".join(chat_events(call.model, usage=call.wants_usage))
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    await call.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))


@fault("no-last-newline", "ends the body right after `data: [DONE]`, without the blank line", AS_IS, stream=GOOD)
async def no_last_newline(call: Call) -> None:
    await call.sse()
    parts = list(chat_events(call.model, usage=call.wants_usage))
    await call.chunks([*parts[:-1], parts[-1].rstrip(b"\n")])
    await call.end()


@fault("no-done", "finishes well but sends no [DONE]", "add the missing [DONE]", stream=GOOD)
async def no_done(call: Call) -> None:
    await call.sse()
    await call.chunks(list(chat_events(call.model, usage=call.wants_usage))[:-1])
    await call.end()


@fault("double-done", "sends [DONE] twice", "exactly one [DONE]", stream=GOOD)
async def double_done(call: Call) -> None:
    await call.sse()
    await call.chunks(chat_events(call.model, usage=call.wants_usage))
    await call.chunk(answers.DONE)
    await call.end()


@fault("data-after-done", "goes on with an event after [DONE]", "nothing after [DONE]", stream=GOOD)
async def data_after_done(call: Call) -> None:
    await call.sse()
    await call.chunks(chat_events(call.model, usage=call.wants_usage))
    await call.chunk(event(chunk(call.model, {"content": " seconds?"})))
    await call.end()


@fault(
    "close-delimited-stream", "streams without length or chunks and ends by closing after [DONE]", AS_IS, stream=GOOD
)
async def close_delimited_stream(call: Call) -> None:
    await call.head(200, (b"content-type", b"text/event-stream"), (b"connection", b"close"))
    for part in chat_events(call.model, usage=call.wants_usage):
        await call.send(part)
    call.fin()


@fault("close-delimited-body", "sends whole JSON without length and closes", AS_IS, plain=GOOD)
async def close_delimited_body(call: Call) -> None:
    await call.head(200, (b"content-type", b"application/json"))
    await call.send(answers.completion(call.model))
    call.fin()


@fault("http-1.0", "answers in HTTP/1.0 and closes", AS_IS, plain=GOOD)
async def http_1_0(call: Call) -> None:
    body = answers.completion(call.model)
    await call.send(
        b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )
    call.fin()


@fault("informational-first", "sends 100, 102 and 103 before the answer", "skip them", plain=GOOD, stream=GOOD)
async def informational_first(call: Call) -> None:
    await call.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
    await call.settle()
    await call.send(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n")
    await ok(call)


@fault("trailers", "ends the chunked body with trailers", "drop them", plain=GOOD, stream=GOOD)
async def trailers(call: Call) -> None:
    if call.stream:
        await call.sse((b"trailer", b"x-cost"))
        await call.chunks(chat_events(call.model, usage=call.wants_usage))
    else:
        await call.head(200, (b"content-type", b"application/json"), (b"transfer-encoding", b"chunked"))
        await call.chunk(answers.completion(call.model))
    await call.send(b"0\r\nx-cost: canary-trailer\r\n\r\n")


@fault("chunked-body", "sends JSON in chunks with extensions, one inside a character", AS_IS, plain=GOOD)
async def chunked_body(call: Call) -> None:
    body = answers.completion(call.model, ("Füße",))
    cut = body.index(b"\xc3") + 1
    await call.head(200, (b"content-type", b"application/json"), (b"transfer-encoding", b"chunked"))
    await call.send(b"%x;name=value\r\n%b\r\n" % (cut, body[:cut]))
    await call.settle()
    await call.chunk(body[cut:])
    await call.end()


LEAKS = (
    (b"set-cookie", b"session=canary-cookie; Path=/"),
    (b"openai-organization", b"org-canary"),
    (b"openai-project", b"proj-canary"),
    (b"x-request-id", b"req_canary"),
    (b"server", b"canary-server"),
    (b"x-ratelimit-remaining-tokens", b"149984-canary"),
    (b"cf-ray", b"canary-ray"),
    (b"via", b"1.1 canary-via"),
    (b"access-control-allow-origin", b"*, canary"),
    (b"x-potluck-target", b"canary/target"),
    (b"www-authenticate", b"Bearer canary"),
)
"""headers that tell who the upstream is or act on the caller's browser; every value holds the word canary"""


@fault("leaky-headers", "adds cookies, organisation ids and an echo of the key", "none reaches the caller", plain=GOOD,
       stream=GOOD)  # fmt: skip
async def leaky_headers(call: Call) -> None:
    echo = (b"x-echo-authorization", call.request.header("authorization") or b"canary-none")
    if call.stream:
        await call.sse(*LEAKS, echo)
        await call.chunks(chat_events(call.model, usage=call.wants_usage))
        await call.end()
    else:
        await call.answer(answers.completion(call.model), *LEAKS, echo)


@fault("unknown-members", "adds members that nobody knows", "pass them on untouched", plain=GOOD, stream=GOOD)
async def unknown_members(call: Call) -> None:
    extra: answers.Json = {"x_new": {"deep": [1, 2.50, "ü", None]}, "service_tier": "default"}
    if call.stream:
        await call.sse()
        await call.chunk(event(role_chunk(call.model)))
        await call.chunk(event(chunk(call.model, {"content": "Hi", "x_thought": "é"}, **extra)))
        await call.chunk(event(chunk(call.model, {}, "stop")))
        await call.chunk(answers.DONE)
        await call.end()
    else:
        body = answers.completion(call.model)
        await call.answer(body[:-1] + b"," + answers.compact(extra)[1:])


# where the counts of tokens stand: six placements in the field

ODD_USAGE = {
    "prompt_tokens": 2006,
    "completion_tokens": 300,
    "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 128, "audio_tokens": 0},
}


@fault("usage-final", "counts in a last chunk without choices, as asked for", "read it exactly", stream=GOOD)
async def usage_final(call: Call) -> None:
    await call.sse()
    parts = list(chat_events(call.model))
    last = [event(chunk(call.model, None, usage=ODD_USAGE))] if call.wants_usage else []
    await call.chunks([*parts[:-1], *last, parts[-1]])
    await call.end()


@fault("usage-with-finish", "counts in the chunk that holds the finish reason", "read it exactly", stream=GOOD)
async def usage_with_finish(call: Call) -> None:
    await call.sse()
    await call.chunk(event(role_chunk(call.model)))
    await call.chunk(event(chunk(call.model, {"content": "Hi"})))
    await call.chunk(event(chunk(call.model, {}, "stop", usage=ODD_USAGE)))
    await call.chunk(answers.DONE)
    await call.end()


@fault("usage-after-finish", "counts in a chunk with an empty choice after the finish", "read it exactly", stream=GOOD)
async def usage_after_finish(call: Call) -> None:
    await call.sse()
    parts = list(chat_events(call.model))
    await call.chunks([*parts[:-1], event(chunk(call.model, {"content": ""}, usage=ODD_USAGE)), parts[-1]])
    await call.end()


@fault("usage-cumulative", "running counts on every chunk", "the last ones count, once", stream=GOOD)
async def usage_cumulative(call: Call) -> None:
    await call.sse()
    for n, word in enumerate(answers.WORDS, start=1):
        usage = {"prompt_tokens": 2006, "completion_tokens": n, "total_tokens": 2006 + n}
        await call.chunk(event(chunk(call.model, {"content": word}, usage=usage)))
    await call.chunk(event(chunk(call.model, {}, "stop", usage=ODD_USAGE)))
    await call.chunk(answers.DONE)
    await call.end()


@fault("usage-x-groq", "counts inside a member `x_groq` of the last chunk", "read it exactly", stream=GOOD)
async def usage_x_groq(call: Call) -> None:
    await call.sse()
    await call.chunk(event(role_chunk(call.model)))
    await call.chunk(event(chunk(call.model, {"content": "Hi"})))
    await call.chunk(event(chunk(call.model, {}, "stop", x_groq={"id": "req_1", "usage": ODD_USAGE})))
    await call.chunk(answers.DONE)
    await call.end()


@fault("usage-none", "never counts, though asked to", "estimate, and mark it", plain=GOOD, stream=GOOD)
async def usage_none(call: Call) -> None:
    if call.stream:
        await call.sse()
        await call.chunks(chat_events(call.model))
        await call.end()
    else:
        await call.answer(answers.completion(call.model, usage=None))


@fault("usage-null", "sends `usage: null` on each chunk until the last, as OpenAI does", "read the last", stream=GOOD)
async def usage_null(call: Call) -> None:
    await call.sse()
    await call.chunk(event(chunk(call.model, {"role": "assistant", "content": ""}, usage=None)))
    await call.chunk(event(chunk(call.model, {"content": "Hi"}, usage=None)))
    await call.chunk(event(chunk(call.model, {}, "stop", usage=None)))
    await call.chunk(event(chunk(call.model, None, usage=USAGE)))
    await call.chunk(answers.DONE)
    await call.end()


@fault("usage-odd-types", "counts as floats, strings, negatives", "never below zero, never a crash", plain=GOOD)
async def usage_odd_types(call: Call) -> None:
    usage = {"prompt_tokens": -5, "completion_tokens": "12", "total_tokens": 1e30}
    await call.answer(answers.completion(call.model, usage=usage))


@fault("tool-calls", "answers with a tool call and no content", "that is content", plain=GOOD, stream=GOOD)
async def tool_calls(call: Call) -> None:
    tool = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"q":"soup"}'}}
    if call.stream:
        await call.sse()
        await call.chunk(event(chunk(call.model, {"role": "assistant", "content": None})))
        await call.chunk(event(chunk(call.model, {"tool_calls": [{"index": 0, **tool}]})))
        await call.chunk(event(chunk(call.model, {}, "tool_calls")))
        await call.chunk(answers.DONE)
        await call.end()
    else:
        message = {"role": "assistant", "content": None, "tool_calls": [tool]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        await call.answer(answers.completion(call.model, choices=[choice]))


@fault("reasoning-only", "thinks, is cut by its token limit, says nothing", "that is content", plain=GOOD, stream=GOOD)
async def reasoning_only(call: Call) -> None:
    if call.stream:
        await call.sse()
        await call.chunk(event(chunk(call.model, {"role": "assistant", "reasoning_content": "Hm"})))
        await call.chunk(event(chunk(call.model, {}, "length")))
        await call.chunk(answers.DONE)
        await call.end()
    else:
        message = {"role": "assistant", "content": "", "reasoning_content": "Hm"}
        await call.answer(answers.completion(call.model, choices=[
            {"index": 0, "message": message, "finish_reason": "length"}]))  # fmt: skip
