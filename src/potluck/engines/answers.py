"""What the built-in model answers: llama.cpp's faults on the way out, mended before a caller sees them. Pure.

Its server (build 11549, measured) …
- counts the tokens of one choice: in a stream every choice brings a usage of its own, and these are added up exactly;
- puts a completion's usage into its last text chunk, and opens a stream of several prompts with `data: null`;
- writes a completion's logprobs in the form of chat;
- answers some bad requests with 500, numbers its error codes, and advises to reconfigure it.
"""

import re
from typing import Any

import msgspec

from potluck.engines.mend import Kind, Prepared
from potluck.wire.sse import DONE, SseReader

_encode = msgspec.json.encode
_decode = msgspec.json.decode

Json = dict[str, Any]

_TOO_LARGE = re.compile(r"input \((\d+) tokens\) is too large to process.*batch size: (\d+)")
_CALL_OPENING = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*')
_CALLER_FAULTS = ("Failed to parse tools", "Failed to parse messages", "input is not supported")
"""parts of messages that its server sends with status 500"""


class CutError(Exception):
    """The engine's stream ended before its answer was complete, or reported an error; the message is in our words."""


class EngineStream:
    """The engine's events, mended one by one; usage is taken out and added up."""

    def __init__(self, prepared: Prepared) -> None:
        self.done = False
        self._prepared = prepared
        self._reader = SseReader()
        self._usage_of: dict[int, Json] = {}
        self._finished = 0
        """the choice that ended last: the usage that follows is its own"""
        self._text_chars: dict[int, int] = {}
        self._calls: dict[int, ForcedCall] = {}

    def feed(self, data: bytes) -> list[Json]:
        """The chunks that `data` completes, without usage. Raises CutError, wire.sse.SseError."""
        chunks = []
        for _, payload in self._reader.feed(data):
            if payload == DONE:
                self.done = True
            elif payload != b"null":
                chunk = self._mend(payload)
                if any(_says_something(choice) for choice in chunk["choices"]):
                    chunks.append(chunk)
        return chunks

    def usage(self) -> Json:
        """Over all choices: each prompt counted once, each choice's output added."""
        prompts: dict[int, int] = {}
        cached: dict[int, int] = {}
        output_tokens = 0
        for index, usage in self._usage_of.items():
            prompt = index // self._prepared.choices_per_prompt
            prompts[prompt] = usage["prompt_tokens"]
            # the further choices of a prompt find all of it cached by the first
            hit = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
            cached[prompt] = min(cached.get(prompt, hit), hit)
            output_tokens += usage["completion_tokens"]
        input_tokens = sum(prompts.values())
        return {
            "prompt_tokens": input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(cached.values())},
        }

    def _mend(self, payload: bytes) -> Json:
        try:
            return self._mended(_decode(payload))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, LookupError, TypeError, AttributeError):
            raise CutError("reported an error inside its stream") from None

    def _mended(self, chunk: Json) -> Json:
        choices, usage = chunk["choices"], chunk.pop("usage", None)
        chunk.pop("timings", None)
        if self._prepared.kind == "completions":
            chunk["id"] = chunk.get("id", "").replace("chatcmpl-", "cmpl-")
        for choice in choices:
            if self._prepared.must_call:
                self._mend_call(choice, chunk.get("id", ""))
            if choice.get("finish_reason"):
                self._finished = choice["index"]
            if choice.get("logprobs"):
                self._mend_logprobs(choice)
        if usage is not None:
            self._usage_of[self._finished] = usage
        return chunk

    def _mend_call(self, choice: Json, answer_id: str) -> None:
        index, delta = choice["index"], choice.get("delta") or {}
        call = self._calls.setdefault(index, ForcedCall(f"call_{answer_id.removeprefix('chatcmpl-')}{index}"))
        piece = call.feed(delta.pop("content", None) or "")
        if reason := choice.get("finish_reason"):
            piece = call.close() if reason == "stop" else call.rest()
            choice["finish_reason"] = "tool_calls" if reason == "stop" else reason
        choice["delta"] = {**delta, "tool_calls": [piece]} if piece else delta

    def _mend_logprobs(self, choice: Json) -> None:
        tokens = choice["logprobs"].get("content") or []
        if self._prepared.kind == "completions":
            start = self._text_chars.get(choice["index"], 0)
            choice["logprobs"] = _legacy_logprobs(tokens, start, hide_top=self._prepared.hide_top)
            self._text_chars[choice["index"]] = start + sum(len(each["token"]) for each in tokens)
        elif self._prepared.hide_top:
            for token in tokens:
                token["top_logprobs"] = []


class ForcedCall:
    """`{"name": "f", "arguments": {…}}` as pieces of text in, pieces of a tool call out."""

    def __init__(self, call_id: str) -> None:
        self._id = call_id
        self._text = ""
        self._named = False
        self._begun = False
        """some of the arguments came: white space matters"""

    def feed(self, text: str) -> Json | None:
        """The next piece, if there is one. The end of the text is held back: it closes the object around."""
        self._text += text
        if not self._begun:
            self._text = self._text.lstrip()
        piece: Json = {"index": 0}
        if not self._named:
            opening = _CALL_OPENING.match(self._text)
            if opening is None:
                return None
            self._named, self._text = True, self._text[opening.end() :].lstrip()
            piece |= {"id": self._id, "type": "function", "function": {"name": _decode(opening[1]), "arguments": ""}}
        sure = len(self._text.rstrip("} \t\r\n"))
        arguments, self._text = self._text[:sure], self._text[sure:]
        self._begun = self._begun or bool(arguments)
        return self._piece(piece, arguments)

    def rest(self) -> Json | None:
        """What was held back of a call that was cut by its token limit."""
        arguments, self._text = self._text, ""
        return self._piece({"index": 0}, arguments) if self._named else None

    def close(self) -> Json | None:
        """What was held back, without the bracket that closes the object around."""
        self._text = self._text.rstrip().removesuffix("}").rstrip()
        return self.rest()

    @staticmethod
    def _piece(piece: Json, arguments: str) -> Json | None:
        function = piece.setdefault("function", {"arguments": ""})
        function["arguments"] += arguments
        return piece if arguments or "id" in piece else None


class StreamAnswer:
    """The engine's stream in, the dialect's stream out."""

    def __init__(self, prepared: Prepared) -> None:
        self._stream = EngineStream(prepared)
        self._wants_usage = prepared.usage
        self._last: Json = {}

    def feed(self, data: bytes) -> bytes:
        """Forwardable bytes of one read. Raises CutError, wire.sse.SseError."""
        was_done = self._stream.done
        chunks = self._stream.feed(data)
        out = [b"data: %b\n\n" % _encode(chunk) for chunk in chunks]
        if chunks:
            self._last = chunks[-1]
        if self._stream.done and not was_done:
            if self._wants_usage:
                out.append(b"data: %b\n\n" % _encode({**self._last, "choices": [], "usage": self._stream.usage()}))
            out.append(b"data: [DONE]\n\n")
        return b"".join(out)


class WholeAnswer:
    """The engine's stream in, one JSON answer out."""

    def __init__(self, prepared: Prepared) -> None:
        self._stream = EngineStream(prepared)
        self._chat = prepared.kind == "chat"
        self._first: Json = {}
        self._choices: dict[int, Json] = {}

    def feed(self, data: bytes) -> None:
        """Take in one read. Raises CutError, wire.sse.SseError."""
        for chunk in self._stream.feed(data):
            self._first = self._first or chunk
            for choice in chunk["choices"]:
                self._add(choice)

    def finish(self) -> bytes:
        """The answer. Raises CutError when it is not complete."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        if not self._stream.done or not choices or any(choice["finish_reason"] is None for choice in choices):
            raise CutError("cut its answer")
        for choice in choices:
            message = choice.get("message")
            if message is not None and message.get("tool_calls") and not message["content"]:
                message["content"] = None
        return _encode(
            {
                "id": self._first.get("id", ""),
                "object": "chat.completion" if self._chat else "text_completion",
                "created": self._first.get("created", 0),
                "model": self._first.get("model", ""),
                "choices": choices,
                "usage": self._stream.usage(),
            }
        )

    def _add(self, piece: Json) -> None:
        choice = self._choices.get(piece["index"])
        if choice is None:
            said: Json = (
                {"message": {"role": "assistant", "content": "", "refusal": None}} if self._chat else {"text": ""}
            )
            choice = {"index": piece["index"], **said, "logprobs": None, "finish_reason": None}
            self._choices[piece["index"]] = choice
        if self._chat:
            _add_delta(choice["message"], piece.get("delta") or {})
        else:
            choice["text"] += piece.get("text") or ""
        if piece.get("logprobs"):
            choice["logprobs"] = _joined(choice["logprobs"], piece["logprobs"])
        choice["finish_reason"] = piece.get("finish_reason") or choice["finish_reason"]


def mended_error(status: int, body: bytes, kind: Kind = "chat") -> tuple[int, bytes]:
    """The engine's error in the dialect's form: (status, body). What the caller did wrong is a 400, in our words."""
    try:
        error = _decode(body)["error"]
        said, fault = str(error.get("message", "")), str(error.get("type", ""))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, LookupError, TypeError, AttributeError):
        error, said, fault = {}, "", ""
    if found := _TOO_LARGE.search(said):
        return _too_long(kind, found[1], found[2])
    if fault == "exceed_context_size_error":
        return _too_long(kind, error.get("n_prompt_tokens"), error.get("n_ctx"))
    if status == 400 or any(each in said for each in _CALLER_FAULTS):
        return _refusal("invalid_request", _without_internals(said))
    envelope = {"message": "the built-in model failed", "type": "server_error", "param": None, "code": "engine_error"}
    return status, _encode({"error": envelope})


def refusal(param: str, message: str) -> tuple[int, bytes]:
    """An answer that never reached the engine: (status, body)."""
    return _refusal("invalid_request", f"'{param}': {message}", param)


def _refusal(code: str, message: str, param: str | None = None) -> tuple[int, bytes]:
    envelope = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return 400, _encode({"error": envelope})


def _too_long(kind: Kind, tokens: object, limit: object) -> tuple[int, bytes]:
    if kind == "embeddings":
        message, param = f"an input has {tokens} tokens: the built-in model embeds at most {limit} at once", "input"
    else:
        room = f"the built-in model takes at most {limit} tokens, prompt and answer together"
        message, param = f"the prompt has {tokens} tokens: {room}", "messages" if kind == "chat" else "prompt"
    return _refusal("context_length_exceeded", message, param)


def _without_internals(said: str) -> str:
    """Its message without what names its code, its parts or its command line."""
    said = re.sub(r"\[json\.exception\.[a-z_.0-9]+\] ", "", said)
    said = said.removeprefix("Unable to generate parser for this template. Automatic parser generation failed: ")
    return (
        re.sub(r" - hint: .*|; tools = .*", "", said, flags=re.DOTALL)[:500] or "the built-in model refused the request"
    )


def _add_delta(message: Json, delta: Json) -> None:
    for name in ("content", "reasoning_content"):
        if delta.get(name):
            message[name] = message.get(name, "") + delta[name]
    for piece in delta.get("tool_calls") or ():
        calls = message.setdefault("tool_calls", [])
        while len(calls) <= piece["index"]:
            calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        call, function = calls[piece["index"]], piece.get("function") or {}
        call["id"] = call["id"] or piece.get("id", "")
        for name in ("name", "arguments"):
            call["function"][name] += function.get(name) or ""


def _says_something(choice: Json) -> bool:
    return bool(choice.get("finish_reason") or choice.get("delta") or choice.get("text") or choice.get("logprobs"))


def _joined(before: Json | None, piece: Json) -> Json:
    if before is None:
        return piece
    return {name: before[name] + part if part is not None else None for name, part in piece.items()}


def _legacy_logprobs(tokens: list[Json], start: int, *, hide_top: bool) -> Json:
    """Chat's form of logprobs in that of completions. `start`: characters of the answer before these tokens."""
    offsets = []
    for token in tokens:
        offsets.append(start)
        start += len(token["token"])
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": None
        if hide_top
        else [{top["token"]: top["logprob"] for top in token["top_logprobs"]} for token in tokens],
        "text_offset": offsets,
    }
