"""Resuming a cut stream: which request may be, what the next target is sent, how its stream is joined."""

import json
from typing import Any

import pytest

from potluck.model.price import Price
from potluck.model.resources import AssistantPrefix
from potluck.model.usage import TokenUsage
from potluck.wire.dialects.envelope import Envelope, decode_envelope
from potluck.wire.dialects.resume import Continuation, continuation, goes_on, joined_usage, seam_comment, why_not
from potluck.wire.dialects.splice import Earlier, ResumableTap, Seam

ASKED = {"role": "user", "content": "Hi"}
PRICE = Price(1_000_000_000, 2_000_000_000, "test:1", "operator")
JSON_FORM = {"type": "json_object"}


def chat(allow: bool = True, **members: Any) -> Envelope:
    body = {"model": "m", "messages": [ASKED], "stream": True, **members}
    return decode_envelope("chat", json.dumps(body | ({"potluck": {"resume": "allow"}} if allow else {})).encode())


def completion(**members: Any) -> Envelope:
    body = {"model": "m", "prompt": "One", "stream": True, "potluck": {"resume": "allow"}, **members}
    return decode_envelope("completions", json.dumps(body).encode())


def sent(envelope: Envelope, delivered: str, prefix: AssistantPrefix = "plain", **more: Any) -> dict[str, Any]:
    made = continuation(envelope, delivered, b'"up"', prefix, **more)
    assert made is not None
    return json.loads(made.body)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"},
        {"tool_choice": "none", "logprobs": False, "top_logprobs": None, "n": 1},
        {"response_format": JSON_FORM},
        {"messages": [ASKED, {"role": "assistant", "content": "Well"}]},
        {"messages": [ASKED, {"role": "assistant", "content": [{"type": "text", "text": "We"}], "tool_calls": []}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    ],
)
def test_plain_chats_may_be_resumed(members: dict[str, Any]) -> None:
    """Tools that are only offered, a JSON form, pictures and the caller's own start of the answer are no hindrance."""
    assert why_not(chat(**members)) == ""


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"allow": False}, "did not allow"),
        ({"stream": False}, "not a stream"),
        ({"n": 2}, "several choices"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 2}, "logprobs"),
        ({"modalities": ["text", "audio"]}, "audio"),
        ({"tool_choice": "required"}, "forced"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "forced"),
        ({"function_call": {"name": "f"}}, "forced"),
        ({"grammar": 'root ::= "a"'}, "form"),
        ({"guided_choice": ["a", "b"]}, "form"),
        ({"messages": [ASKED, {"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "more than text"),
        ({"messages": [ASKED, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]}]}, "more than"),
    ],
)
def test_why_a_chat_can_never_be_resumed(members: dict[str, Any], reason: str) -> None:
    """Each hindrance has its reason in words."""
    assert reason in why_not(chat(**members))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"prompt": ["One", "Two"]}, "several"),
        ({"prompt": ["One"]}, "one text"),
        ({"prompt": [1, 2]}, "one text"),
        ({"logprobs": 0}, "logprobs"),
        ({"echo": True}, "again"),
        ({"best_of": 2}, "best"),
        ({"json_schema": {"type": "object"}}, "form"),
    ],
)
def test_why_a_completion_can_never_be_resumed(members: dict[str, Any], reason: str) -> None:
    """Only the rest of one text can be asked for."""
    assert why_not(completion()) == ""
    assert reason in why_not(completion(**members))


def test_other_dialects_are_not_resumed() -> None:
    """A stream of the responses dialect is made of numbered events, which another target would number anew."""
    body = b'{"model":"m","input":"Hi","stream":true,"potluck":{"resume":"allow"}}'
    assert "responses" in why_not(decode_envelope("responses", body))


def test_which_targets_can_go_on() -> None:
    """Completions everywhere; chats where the target knows how; JSON only where it is held against the text."""
    assert goes_on(completion(), "none")
    assert [goes_on(chat(), prefix) for prefix in ("none", "plain", "prefix_flag", "continue_flag")] == [
        *(False, True, True, True)
    ]
    bound = chat(response_format=JSON_FORM)
    assert [goes_on(bound, prefix) for prefix in ("plain", "prefix_flag", "continue_flag")] == [True, False, False]
    assert goes_on(chat(response_format={"type": "text"}), "prefix_flag")


def test_the_text_becomes_the_last_message() -> None:
    """Each way of continuing says so in its own manner; everything else is as in a first request."""
    envelope = chat(temperature=0.5, strange={"a": [1, None]})
    same = {"model": "up", "stream": True, "temperature": 0.5, "strange": {"a": [1, None]}}
    same |= {"stream_options": {"include_usage": True}}
    plain = {"role": "assistant", "content": "Hello, I"}
    assert sent(envelope, "Hello, I") == {**same, "messages": [ASKED, plain]}
    flagged = {**plain, "prefix": True}
    assert sent(envelope, "Hello, I", "prefix_flag") == {**same, "messages": [ASKED, flagged]}
    assert sent(envelope, "Hello, I", "continue_flag") == {
        **same, "messages": [ASKED, plain], "continue_final_message": True, "add_generation_prompt": False,
    }  # fmt: skip
    assert "stream_options" not in sent(envelope, "Hello, I", quirks=frozenset(("no_stream_usage",)))


def test_the_callers_own_start_is_extended() -> None:
    """One message, whose other members stay; also when the first target had begun by repeating it."""
    own = {"role": "assistant", "name": "a", "content": "Once upon "}
    envelope = chat(messages=[ASKED, own])
    whole = [ASKED, {**own, "content": "Once upon a time"}]
    assert sent(envelope, "a time")["messages"] == whole
    assert sent(envelope, "Once upon a time")["messages"] == whole
    parts = chat(messages=[ASKED, {"role": "assistant", "content": [{"type": "text", "text": "On"}]}])
    assert sent(parts, "ce")["messages"] == [ASKED, {"role": "assistant", "content": "Once"}]


def test_white_space_at_the_end_is_not_sent() -> None:
    """Nothing but white space is not even a message, and asks for no continuation."""
    made = continuation(chat(), "One\n\n", b'"up"', "plain")
    assert made is not None
    assert (json.loads(made.body)["messages"][-1]["content"], made.tail) == ("One", "\n\n")
    bare = sent(chat(), "\n", "continue_flag")
    assert bare["messages"] == [ASKED]
    assert "continue_final_message" not in bare
    made = continuation(completion(prompt="One "), "two ", b'"up"', "none")
    assert made is not None
    assert (json.loads(made.body)["prompt"], made.tail) == ("One two", " ")


def test_limits_are_lowered_by_what_was_delivered() -> None:
    """Each one that was set; a limit that is used up leaves nothing to ask for."""
    envelope = chat(max_tokens=10, max_completion_tokens=12)
    body = sent(envelope, "One", delivered_tokens=9)
    assert (body["max_tokens"], body["max_completion_tokens"]) == (1, 3)
    assert continuation(envelope, "One", b'"up"', "plain", delivered_tokens=10) is None
    body = sent(chat(max_tokens=None), "One", delivered_tokens=10)
    assert body["max_tokens"] is None
    assert "max_completion_tokens" not in body


@pytest.mark.parametrize(
    ("delivered", "quirks", "echo"),
    [
        ("Once upon a time", (), True),
        ("Hello", (), False),
        ("Hello", ("echoes_prefix",), True),
        ("hahahaha", (), False),
        ("哈哈哈哈哈哈哈哈", (), False),
    ],
)
def test_when_an_echo_is_looked_for(delivered: str, quirks: tuple[str, ...], echo: bool) -> None:
    """Not in short texts nor in a text that repeats itself, unless the target is known to echo."""
    made = continuation(chat(), delivered, b'"up"', "plain", frozenset(quirks))
    assert made is not None
    assert made.echo == (delivered if echo else "")


def test_the_mark_at_the_seam() -> None:
    """A comment, which readers of event streams skip."""
    mark = seam_comment("openai/x", 123, "lab/y")
    assert mark == b": x-potluck-resumed: from openai/x after 123 characters, on lab/y\n\n"


def test_usage_over_both_attempts() -> None:
    """The prompt once, the output of both; an unknown first prompt is told by the second one."""
    second = TokenUsage(15, 7, cached_input_tokens=14, reasoning_tokens=2)
    assert joined_usage(TokenUsage(10, 5, 3), second) == TokenUsage(10, 12, 3, reasoning_tokens=2)
    guessed = TokenUsage(99, 5, estimated=True)
    assert joined_usage(guessed, second) == TokenUsage(10, 12, reasoning_tokens=2, estimated=True)


@pytest.mark.parametrize(
    ("echo", "tail", "pieces", "new"),
    [
        ("", "", ["a", "b"], "ab"),
        ("Once upon", "", ["Once", " upon", " a"], " a"),
        ("Once upon", "", ["Once upon a"], " a"),
        ("Once upon", "", ["Once", " more"], "Once more"),
        ("Once upon", "", ["Once"], "Once"),
        ("Once upon", "", ["Once upon"], ""),
        ("", "\n\n", ["\n", "\n", "a"], "a"),
        ("", "\n", ["\n\n", "a"], "\na"),
        ("", "\n\n", ["\n", "a"], "a"),
        ("", " \n", ["\n", "a"], "a"),
        ("", "\n  ", ["\n    a"], "  a"),
        ("", "\n", ["a"], "a"),
        ("", "\n\n", ["\n"], ""),
        ("Once", " \n", ["On", "ce", " ", "\n", "\n", "a"], "\na"),
        ("Once", " ", ["On", " "], "On "),
    ],
)
def test_the_seam(echo: str, tail: str, pieces: list[str], new: str) -> None:
    """Echo and doubled white space go, whatever the pieces; what only looked like an echo is given back."""
    seam = Seam(echo, tail)
    said = "".join([seam.feed(piece) for piece in pieces])
    assert said + (seam.close() if seam.open else "") == new
    assert not seam.open


def chunk(delta: Any = None, reason: Any = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": reason}
    return json.dumps({"id": "x", "choices": [choice]} | more).encode()


ROLE = chunk({"role": "assistant", "content": ""})
USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}


def cut_tap(*payloads: bytes, wants_usage: bool = False) -> ResumableTap:
    tap = ResumableTap("chat", wants_usage, PRICE)
    for payload in payloads:
        tap.read(payload)
    return tap


@pytest.mark.parametrize(
    ("payloads", "stuck"),
    [
        ([ROLE], "no text"),
        ([ROLE, chunk({"reasoning_content": "hm"})], "no text"),
        ([ROLE, chunk({"reasoning_content": "hm"}), chunk({"content": "a"})], ""),
        ([ROLE, chunk({"content": "a", "tool_calls": None, "refusal": None})], ""),
        ([chunk({"content": "a"}), chunk({"reasoning": "hm"})], "reasoning"),
        ([chunk({"content": "a"}), chunk({"tool_calls": [{"index": 0}]})], "tool call"),
        ([chunk({"content": "a"}), chunk({"refusal": "no"})], "more than text"),
        ([chunk({"content": [{"type": "text", "text": "a"}]})], "another form"),
        ([chunk({"content": "a"}), chunk({"content": "b"}, "stop")], "ended"),
        ([json.dumps({"choices": [{"delta": {"content": "a"}, "logprobs": {"content": []}}]}).encode()], "logprobs"),
    ],
)
def test_what_makes_a_stream_stuck(payloads: list[bytes], stuck: str) -> None:
    """Anything beside text, and an answer without text yet, or with its end."""
    tap = cut_tap(*payloads)
    assert (stuck in tap.stuck) if stuck else tap.stuck == ""


def test_the_text_is_that_which_was_forwarded() -> None:
    """Chunk by chunk or several at once; what an error cuts off is not in it."""
    tap = cut_tap(ROLE, chunk({"content": "Once"}))
    assert tap.passes([(b"", chunk({"content": " upon"})), (b"", chunk({"content": " a"}))])
    assert tap.read(b'{"error":{"message":"gone"}}') is None
    assert (tap.text, tap.tokens, tap.stuck) == ("Once upon a", 3, "")


def test_tokens_of_a_text() -> None:
    """One a chunk, or one for eight characters of larger chunks, or the usage so far; white space is written again."""
    assert cut_tap(chunk({"content": "a"}), chunk({"content": "b"}), chunk({"content": "\n"})).tokens == 2
    assert cut_tap(chunk({"content": "a" * 80})).tokens == 10
    assert cut_tap(chunk({"content": "a"}, usage=USAGE), chunk({"content": "\n"})).tokens == 2


def after(tap: ResumableTap, tail: str = "", cost: int | None = 7) -> ResumableTap:
    earlier = Earlier(TokenUsage(10, 2, estimated=True), cost)
    return tap.after(Continuation(b"", tap.text.rstrip(), tail), earlier, PRICE)


def test_the_second_stream_is_joined() -> None:
    """One opening, no echo, no second reasoning; usage and cost of the whole, while the attempt keeps its own."""
    tap = after(cut_tap(ROLE, chunk({"content": "Once upon "}), wants_usage=True), " ")
    said = [
        ROLE,
        chunk({"role": "assistant", "reasoning": "hm"}),
        chunk({"content": "Once "}),
        chunk({"content": "upon"}),
    ]
    assert [tap.read(payload) for payload in said] == [None] * 4
    assert tap.text == "Once upon "
    first = tap.read(chunk({"role": "assistant", "content": " a"}))
    assert first is not None
    assert json.loads(first)["choices"][0]["delta"] == {"content": "a"}
    assert tap.passes([(b"", chunk({"content": " time"}))])
    assert tap.read(chunk(reason="stop")) == chunk(reason="stop")  # as it came
    usage = tap.read(b'{"choices":[],"usage":%b}' % json.dumps({**USAGE, "prompt_tokens_details": {}}).encode())
    assert usage is not None
    assert json.loads(usage)["usage"] == {
        "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 0}, "cost_usd": 0.000018007,
    }  # fmt: skip
    assert tap.usage == TokenUsage(12, 3)
    assert tap.text == "Once upon a time"


def test_a_second_stream_may_only_say_that_all_was_said() -> None:
    """That is no empty answer; what was held as a possible echo comes with the end."""
    tap = after(cut_tap(chunk({"content": "Once upon a time."})))
    assert tap.read(ROLE) is None
    assert json.loads(tap.read(chunk(reason="stop")) or b"") == json.loads(chunk(reason="stop"))
    assert not tap.empty
    tap = after(cut_tap(chunk({"content": "Once upon a time."})))
    assert tap.read(chunk({"content": "Once"})) is None
    end = tap.read(chunk(reason="length"))
    assert end is not None
    assert json.loads(end)["choices"][0]["delta"] == {"content": "Once"}


def test_a_tool_call_ends_the_seam() -> None:
    """The next target calls a tool at once: its call is forwarded, and then nothing can go on elsewhere."""
    tap = after(cut_tap(chunk({"content": "Let me look."})))
    call = chunk({"role": "assistant", "tool_calls": [{"index": 0, "id": "c"}]})
    forwarded = tap.read(call)
    assert forwarded is not None
    assert json.loads(forwarded)["choices"][0]["delta"] == {"tool_calls": [{"index": 0, "id": "c"}]}
    assert "tool call" in tap.stuck


def test_it_can_be_cut_twice() -> None:
    """Text and tokens are those of all attempts."""
    tap = after(cut_tap(chunk({"content": "Once"})))
    tap.read(chunk({"content": " upon"}))
    tap = after(tap)
    tap.read(chunk({"content": " a time"}))
    assert (tap.text, tap.tokens, tap.stuck) == ("Once upon a time", 3, "")


def test_an_unknown_cost_is_not_shown() -> None:
    """With an attempt that has no price the cost of the whole is not known."""
    tap = after(cut_tap(chunk({"content": "Once"}), wants_usage=True), cost=None)
    tap.read(chunk({"content": " upon"}))
    usage = tap.read(b'{"choices":[],"usage":%b}' % json.dumps(USAGE).encode())
    assert usage is not None
    assert "cost_usd" not in json.loads(usage)["usage"]


def test_completions_are_joined_too() -> None:
    """Their text lies in the choice itself."""
    tap = ResumableTap("completions", False)
    tap.read(b'{"choices":[{"index":0,"text":"One "}]}')
    tap = tap.after(Continuation(b"", "", " "), Earlier(TokenUsage(), None), None)
    assert tap.read(b'{"choices":[{"index":0,"text":" "}]}') is None
    assert tap.read(b'{"choices":[{"index":0,"text":"two"}]}') == b'{"choices":[{"index":0,"text":"two"}]}'
    assert tap.text == "One two"


def test_the_end_of_an_answer_whose_limit_is_used_up() -> None:
    """A last chunk in the form of those before it, then usage for who asked for it."""
    tap = cut_tap(ROLE, chunk({"content": "Once"}, model="up"), wants_usage=True)
    end, usage = map(json.loads, tap.ending(TokenUsage(10, 1), 12))
    assert end == {
        "id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}], "model": "up",
    }  # fmt: skip
    assert (usage["choices"], usage["usage"]["completion_tokens"], usage["usage"]["cost_usd"]) == ([], 1, 1.2e-08)
    assert len(cut_tap(chunk({"content": "Once"})).ending(TokenUsage(10, 1), 12)) == 1
