"""A stream that was cut goes on elsewhere: which request may, what the next target is sent, what the caller is told.

How the parts are used, attempt by attempt:

1. `why_not(envelope)` once. A reason: a plain `StreamTap` reads the stream and a cut ends it. Empty: a
   `splice.ResumableTap` does, which keeps the text that it forwards.
2. Cut after content, and `tap.stuck` is empty: a target of the same model for which `goes_on(envelope, prefix)` is sent
   `continuation(envelope, tap.text, …, delivered_tokens=tap.tokens)`. None: the caller's token limit is used up, and
   `tap.ending(…)` are the chunks that end the answer with `length`.
3. The next stream's tap is `tap.after(continuation, earlier, price)`. It drops the second opening, an echo of the text
   and white space that comes twice, and shows usage and cost of the whole answer; its own `usage` is that of its
   attempt alone. It can be cut, and gone on from, like the first one.
4. Before its first event `seam_comment(…)` is written. Chunks keep the id and model they came with: the official SDKs
   gather chunks by their order and not by id, and so they say who wrote them.

Rules:
- The text is sent without white space at its end. Some chat templates cut it off and some do not, and after a lone
  space a model writes another text (llama.cpp: "The story of a" + " " goes on with "12-year-old"). The next target
  writes the white space again, and the tap takes it out again.
- A caller's own last message of role `assistant` is extended, never followed by a second one, which llama.cpp refuses.
- An answer that is bound to a form goes on only where the target holds the form against the text that is there:
  llama.cpp does (`plain`), for JSON and not for its own `grammar`; others begin the form anew at the first new token.
"""

import msgspec
from msgspec import Raw

from potluck.model.resources import AssistantPrefix
from potluck.model.usage import TokenUsage
from potluck.wire.dialects.answer import NOTHING
from potluck.wire.dialects.envelope import Envelope, encode_upstream_body
from potluck.wire.sse import encode_comment

MIN_ECHO_CHARS = 8
"""a shorter text that comes again is more likely the answer's own, unless the target is known to echo"""

_FORMS = ("response_format", "json_schema")
"""bind the answer, and llama.cpp holds them against a text that is there"""
_STRICT_FORMS = (
    *("grammar", "regex", "ebnf", "structural_tag", "structured_outputs"),
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar"),
)
"""bind the answer from its first new token on (llama.cpp, vLLM, SGLang)"""
_LIMITS = {"chat": ("max_tokens", "max_completion_tokens"), "completions": ("max_tokens",)}

_decode_array = msgspec.json.Decoder(list[Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_count = msgspec.json.Decoder(int | None).decode
_encode = msgspec.json.encode
_TRUE, _FALSE = Raw(b"true"), Raw(b"false")


class Continuation(msgspec.Struct, frozen=True):
    """What the next target is sent, and what the tap of its stream has to know."""

    body: bytes
    echo: str
    """the text that the target may begin with because it was sent it; empty: what it says is its own"""
    tail: str
    """white space that the caller has and the target has not"""


class _Part(msgspec.Struct):
    type: str
    text: str


class _Message(msgspec.Struct):
    """The conversation's last message."""

    role: str = ""
    content: str | list[_Part] | None = None
    tool_calls: Raw = Raw(b"null")
    function_call: Raw = Raw(b"null")

    @property
    def text(self) -> str:
        parts = self.content or ""
        return parts if isinstance(parts, str) else "".join([part.text for part in parts])

    @property
    def only_text(self) -> bool:
        parts = self.content if isinstance(self.content, list) else ()
        calls = bytes(self.tool_calls), bytes(self.function_call)
        return all(part.type == "text" for part in parts) and all(call in NOTHING for call in calls)


_decode_message = msgspec.json.Decoder(_Message).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode


def why_not(envelope: Envelope) -> str:
    """Why this request can never be resumed, in words; empty if it can."""
    if envelope.controls is None or envelope.controls.resume != "allow":
        return "the caller did not allow it"
    if not envelope.stream:
        return "it is not a stream"
    if envelope.capability not in ("chat", "completions"):
        return f"a stream of {envelope.capability} cannot go on elsewhere"
    if envelope.n > 1:
        return "it has several choices"
    said = {name: value for name, raw in envelope.members.items() if (value := bytes(raw)) not in NOTHING}
    if "logprobs" in said or said.get("top_logprobs", b"0") != b"0":
        return "it asks for logprobs"
    if any(name in said for name in _STRICT_FORMS):
        return "its answer is bound to a form"
    if envelope.capability == "completions":
        return _why_not_prompt(said)
    if "audio" in said or b'"audio"' in said.get("modalities", b""):
        return "it asks for audio"
    if _forces(said.get("tool_choice", b"")) or _forces(said.get("function_call", b"")):
        return "a tool call is forced"
    last = _last_message(envelope)
    if last is not None and (last.role != "assistant" or last.only_text):
        return ""
    return "its last message is more than text"


def goes_on(envelope: Envelope, prefix: AssistantPrefix) -> bool:
    """A target with this way of continuing can go on from a text that is there: any, for completions."""
    if envelope.capability == "completions":
        return True
    if prefix == "plain":
        return True
    return prefix != "none" and not any(_binds(envelope.members.get(name)) for name in _FORMS)


def continuation(
    envelope: Envelope,
    delivered: str,
    model_json: bytes,
    prefix: AssistantPrefix,
    quirks: frozenset[str] = frozenset(),
    delivered_tokens: int = 0,
) -> Continuation | None:
    """The request for the rest of an answer of which the caller has `delivered`; None when its token limit is used up.

    Only for a request without `why_not`, at a target that `goes_on`. Members other than the conversation and the limits
    are those of `encode_upstream_body`, whose `model_json` and `quirks` these are. `delivered_tokens`: of the text
    without white space at its end.
    """
    members = dict(envelope.members)
    for name in _LIMITS[envelope.capability]:
        limit = _decode_count(members[name]) if name in members else None
        if limit is not None:
            if limit <= delivered_tokens:
                return None
            members[name] = Raw(b"%d" % (limit - delivered_tokens))
    echo = ""
    if envelope.capability == "completions":
        sent = delivered.rstrip()
        tail = delivered[len(sent) :]
        members["prompt"] = Raw(_encode(_decode_text(members["prompt"]) + sent))
    else:
        sent, tail = _extend(members, delivered, prefix)
        if "echoes_prefix" in quirks or (len(sent) >= MIN_ECHO_CHARS and not _repeats(sent)):
            echo = sent
    body = encode_upstream_body(msgspec.structs.replace(envelope, members=members), model_json, quirks)
    return Continuation(body, echo, tail)


def seam_comment(cut_target: str, delivered_chars: int, target: str) -> bytes:
    """`: x-potluck-resumed: from openai/x after 123 characters, on lab/y`."""
    return encode_comment(f"x-potluck-resumed: from {cut_target} after {delivered_chars} characters, on {target}")


def joined_usage(first: TokenUsage, second: TokenUsage) -> TokenUsage:
    """The usage of a whole answer: the prompt once, the output of both.

    The second prompt is the first one and what was delivered: so its size tells the first one's, where that is unknown.
    """
    input_tokens = first.input_tokens
    if first.estimated and second.input_tokens > first.output_tokens:
        input_tokens = second.input_tokens - first.output_tokens
    return TokenUsage(
        input_tokens,
        first.output_tokens + second.output_tokens,
        min(first.cached_input_tokens, input_tokens),
        min(first.cache_write_tokens, input_tokens),
        first.reasoning_tokens + second.reasoning_tokens,
        min(first.audio_input_tokens, input_tokens),
        first.audio_output_tokens + second.audio_output_tokens,
        first.estimated or second.estimated,
    )


def _why_not_prompt(said: dict[str, bytes]) -> str:
    if not said.get("prompt", b"").startswith(b'"'):
        return "its prompt is not one text"
    if "echo" in said or said.get("best_of", b"1") != b"1":
        return "it asks for its prompt again, or for the best of several answers"
    return "its answer is bound to a form" if any(name in said for name in _FORMS) else ""


def _forces(choice: bytes) -> bool:
    return choice not in (b"", b'"auto"', b'"none"')


def _binds(raw: Raw | None) -> bool:
    """Not so `response_format` of type `text`."""
    if raw is None or bytes(raw) in NOTHING:
        return False
    try:
        return bytes(_decode_members(raw).get("type", b"")) != b'"text"'
    except (msgspec.MsgspecError, RecursionError):
        return True


def _last_message(envelope: Envelope) -> _Message | None:
    """None: its form is not known."""
    try:
        last = _decode_array(envelope.members["messages"])[-1]
        if bytes(_decode_members(last).get("role", b"")) != b'"assistant"':
            return _Message()
        return _decode_message(last)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _extend(members: dict[str, Raw], delivered: str, prefix: AssistantPrefix) -> tuple[str, str]:
    """Put the text at the end of `messages`: (what was put there, white space that was left out)."""
    messages = _decode_array(members["messages"])
    last = _decode_members(messages[-1])
    message: dict[str, Raw] = {"role": Raw(b'"assistant"')}
    own = ""
    if bytes(last.get("role", b"")) == bytes(message["role"]):
        message, own = last, _decode_message(messages.pop()).text
    # the first target may have begun with an echo of the caller's own text
    echoed = len(own) >= MIN_ECHO_CHARS and delivered.startswith(own)
    text = delivered if echoed else own + delivered
    sent = text.rstrip()
    if sent:
        message["content"] = Raw(_encode(sent))
        if prefix == "prefix_flag":
            message["prefix"] = _TRUE
        messages.append(Raw(_encode(message)))
        if prefix == "continue_flag":
            members["continue_final_message"], members["add_generation_prompt"] = _TRUE, _FALSE
    members["messages"] = Raw(_encode(messages))
    return sent, text[len(sent) :]


def _repeats(text: str) -> bool:
    """It is a shorter text several times over: a model that goes on so does not echo."""
    return text in (text + text)[1:-1]
