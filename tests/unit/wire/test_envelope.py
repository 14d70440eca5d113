"""Request bodies: what is read, what is refused and how it is named, what goes upstream."""

import json
from typing import Any

import pytest

from potluck.model.resources import Capability
from potluck.wire.dialects.envelope import EXACT_SCAN_MAX_BYTES, decode_envelope, encode_upstream_body
from potluck.wire.errors import RequestError

MESSAGES = [{"role": "user", "content": "hi"}]
LEAST: dict[Capability, dict[str, Any]] = {
    "chat": {"model": "m", "messages": MESSAGES},
    "completions": {"model": "m", "prompt": "hi"},
    "embeddings": {"model": "m", "input": "hi"},
    "responses": {"model": "m", "input": "hi"},
}
USAGE = {"include_usage": True}


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def refusal(capability: Capability, body: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decode_envelope(capability, body)
    return caught.value


@pytest.mark.parametrize("capability", LEAST)
def test_least_request(capability: Capability) -> None:
    """The least valid body of each endpoint decodes to the defaults."""
    envelope = decode_envelope(capability, compact(LEAST[capability]))
    assert (envelope.capability, envelope.model, envelope.stream, envelope.wants_usage) == (
        capability,
        "m",
        False,
        False,
    )
    assert (envelope.user, envelope.tags, envelope.max_output_tokens, envelope.n) == ("", (), None, 1)
    assert envelope.controls is None
    assert {name: json.loads(bytes(raw)) for name, raw in envelope.members.items()} == LEAST[capability]


def test_everything_that_is_read() -> None:
    """Each member that matters is read, and controls come before the dialect's own `user`."""
    body = LEAST["chat"] | {
        "stream": True,
        "stream_options": USAGE,
        "max_tokens": 10,
        "max_completion_tokens": 20,
        "n": 3,
        "user": "u1",
        "potluck": {
            "user": "u2",
            "tags": ["a", "b"],
            "data_class": "private",
            "only": ["openai"],
            "ignore": [],
            "max_price": {"input": 1, "output": 2.5},
            "cache": {"mode": "off"},
            "prefer": "cheapest",
        },
    }
    envelope = decode_envelope("chat", compact(body))
    assert (envelope.stream, envelope.wants_usage, envelope.max_output_tokens, envelope.n) == (True, True, 20, 3)
    assert (envelope.user, envelope.tags) == ("u2", ("a", "b"))
    controls = envelope.controls
    assert controls is not None
    assert (controls.data_class, controls.only, controls.ignore) == ("private", ("openai",), ())
    assert controls.max_price is not None
    assert (controls.max_price.input, controls.max_price.output) == (1.0, 2.5)
    assert decode_envelope("chat", compact(LEAST["chat"] | {"user": "u" * 300})).user == "u" * 256


def test_null_is_absent() -> None:
    """Members that are null read as if they were not there."""
    nulls = dict.fromkeys(("stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "user", "potluck"))
    envelope = decode_envelope("chat", compact(LEAST["chat"] | nulls))
    assert (envelope.stream, envelope.wants_usage, envelope.n, envelope.user) == (False, False, 1, "")
    assert envelope.max_output_tokens is None
    assert envelope.controls is None


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", 1), (["a", "b", "c"], 3), ([1, 2, 3], 1), ([[1, 2], [3]], 2), (["a"], 1), (None, 1)],
)
def test_completions_choices(prompt: Any, prompts: int) -> None:
    """A completions answer has `n` choices for each prompt."""
    envelope = decode_envelope("completions", compact({"model": "m", "prompt": prompt, "n": 2}))
    assert (envelope.prompts, envelope.n) == (prompts, 2 * prompts)


@pytest.mark.parametrize(
    "name", ["m", "openai/gpt-4o-mini", "node:lab-1/llama3.2:3b", "small:cheapest", "a=b@c", "x" * 256]
)
def test_model_names(name: str) -> None:
    """Any printable ASCII but space is a model name."""
    assert decode_envelope("chat", compact(LEAST["chat"] | {"model": name})).model == name


MISTYPED: list[tuple[Capability, dict[str, Any], str]] = [
    ("chat", {"model": None}, "model"),
    ("chat", {"model": 7}, "model"),
    ("chat", {"model": ""}, "model"),
    ("chat", {"model": "a b"}, "model"),
    ("chat", {"model": "modèle"}, "model"),
    ("chat", {"model": "a\nb"}, "model"),
    ("chat", {"model": "x" * 257}, "model"),
    ("chat", {"messages": None}, "messages"),
    ("chat", {"messages": "hi"}, "messages"),
    ("chat", {"messages": []}, "messages"),
    ("chat", {"messages": {}}, "messages"),
    ("chat", {"messages": [1]}, "messages"),
    ("chat", {"messages": ["hi"]}, "messages"),
    ("chat", {"stream": "true"}, "stream"),
    ("chat", {"stream": 1}, "stream"),
    ("chat", {"stream_options": True}, "stream_options"),
    ("chat", {"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ("chat", {"max_tokens": 0}, "max_tokens"),
    ("chat", {"max_tokens": "10"}, "max_tokens"),
    ("chat", {"max_tokens": 1.5}, "max_tokens"),
    ("chat", {"max_tokens": True}, "max_tokens"),
    ("chat", {"max_completion_tokens": -1}, "max_completion_tokens"),
    ("chat", {"n": 0}, "n"),
    ("chat", {"n": 129}, "n"),
    ("chat", {"n": []}, "n"),
    ("chat", {"user": 5}, "user"),
    ("chat", {"potluck": []}, "potluck"),
    ("chat", {"potluck": {"colour": "red"}}, "potluck"),
    ("chat", {"potluck": {"tags": "a"}}, "potluck"),
    ("chat", {"potluck": {"tags": ["a"] * 17}}, "potluck"),
    ("chat", {"potluck": {"data_class": "secret"}}, "potluck"),
    ("chat", {"potluck": {"max_price": {"input": -1}}}, "potluck"),
    ("chat", {"potluck": {"max_price": {"inputs": 1}}}, "potluck"),
    ("chat", {"potluck": {"only": [""]}}, "potluck"),
    ("chat", {"max_tokens": 10**4000}, "max_tokens"),
    ("completions", {"max_tokens": -1}, "max_tokens"),
    ("completions", {"prompt": []}, "prompt"),
    ("completions", {"prompt": {}}, "prompt"),
    ("completions", {"prompt": 5}, "prompt"),
    ("embeddings", {"input": None}, "input"),
    ("embeddings", {"input": ""}, "input"),
    ("embeddings", {"input": []}, "input"),
    ("embeddings", {"input": 5}, "input"),
    ("responses", {"max_output_tokens": 0}, "max_output_tokens"),
    ("responses", {"stream": "no"}, "stream"),
]


@pytest.mark.parametrize(("capability", "wrong", "param"), MISTYPED)
def test_mistyped_members_are_named(capability: Capability, wrong: dict[str, Any], param: str) -> None:
    """A member of a wrong type or range is refused with its name, written compactly or with white space."""
    body = LEAST[capability] | wrong
    for text in (compact(body), json.dumps(body, indent=2).encode()):
        error = refusal(capability, text)
        assert (error.code, error.status, error.param) == ("invalid_request", 400, param)
        assert param in error.message


@pytest.mark.parametrize(("capability", "name"), [("chat", "messages"), ("embeddings", "input"), ("chat", "model")])
def test_missing_members_are_named(capability: Capability, name: str) -> None:
    """What an endpoint cannot do without is asked for by name."""
    body = {key: value for key, value in LEAST[capability].items() if key != name}
    error = refusal(capability, compact(body))
    assert (error.code, error.param) == ("invalid_request", name)


UNREADABLE = [
    b"",
    b"  ",
    b"{",
    b'{"model":"m"',
    b'{"model":"m"}x',
    b'{"model":"m",}',
    b"{'model':'m'}",
    b'{"model":"m","x":NaN}',
    b'{"model":"m","x":01}',
    b'{"model":"m","x":"\\q"}',
    b'{"model":"m","x":"\x01"}',
    b'{"model":"m","x":"\xff"}',
    b'{"model":"m","\xff":1}',
    b'\xef\xbb\xbf{"model":"m"}',
    b'{"model":"m","x":"\\ud800"}',
    b'{"model":"m","x":' + b"[" * 200_000,
    b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"x":' * 100_000,
]


@pytest.mark.parametrize("body", UNREADABLE, ids=range(len(UNREADABLE)))
def test_unreadable_bodies(body: bytes) -> None:
    """What is not UTF-8 JSON is `invalid_json`, and the message says why in a line."""
    error = refusal("chat", body)
    assert (error.code, error.status) == ("invalid_json", 400)
    assert len(error.message) < 200


@pytest.mark.parametrize("body", [b"[]", b'"m"', b"7", b"null", b"true"])
def test_bodies_that_are_no_object(body: bytes) -> None:
    """JSON that is not an object is `invalid_request`."""
    assert refusal("chat", body).code == "invalid_request"


DUPLICATES = [
    b'{"model":"a","messages":[{}],"model":"b"}',
    b'{"model":"a","messages":[{}],"model":"a"}',
    b'{"model":"a","n":1,"messages":[{}],"n":2}',
    b'{"model":"a","n":1,"n":2,"messages":[{}]}',
    b'{ "model": "a", "messages": [ {} ], "model": "b" }',
    b'{"model":"a","messages":[{}],"mod\\u0065l":"b"}',
    b'{"mod\\u0065l":"a","messages":[{}],"model":"b"}',
    b'{"\\u006dodel":"a","messages":[{}],"\\u006dodel":"b"}',
    b'{"model":"a","messages":[{}],"messages":[{"role":"user"}]}',
    b'{"model":"a","messages":[{}],"stream":true,"stream":false}',
    b'{"model":"a","messages":[{}],"potluck":{},"potluck":null}',
    '{"model":"a","messages":[{}],"é":1,"model":"b"}'.encode(),
]


@pytest.mark.parametrize("body", DUPLICATES, ids=range(len(DUPLICATES)))
def test_duplicates_of_what_we_read(body: bytes) -> None:
    """A member that policy reads may come once only, however it is written."""
    error = refusal("chat", body)
    assert error.code == "invalid_request"
    assert "more than once" in error.message
    assert error.param is not None


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","messages":[{"model":"b","model":"c"}]}',
        b'{"model":"a","messages":[{}],"metadata":{"model":"x","n":1}}',
        b'{"model":"a","messages":[{"content":"\\"model\\":\\"x\\""}]}',
        b'{"model":"a","messages":[{}],"x":1,"x":2}',
        b'{"mod\\u0065l":"a","m\\u0065ssages":[{}]}',
        b'\n{\t"model" :\r\n"a" , "messages" : [ { } ] }\n\n',
        b'{"model":"a","messages":[' + b" " * 100 + b"{}]}",
        '{"model":"a","messages":[{"content":"é"}],"é":1}'.encode(),
    ],
)
def test_no_false_duplicates(body: bytes) -> None:
    """Repetition inside members, of members that are not read, and odd spelling are no reason to refuse."""
    assert decode_envelope("chat", body).model == "a"


def test_exact_scan_is_bounded() -> None:
    """A body too large to scan exactly is refused rather than read in two ways or read slowly."""
    body = b'{"model":"a","messages":[{}],"x":"' + b"y" * EXACT_SCAN_MAX_BYTES + b'","x":1,"x":22}'
    error = refusal("chat", body)
    assert error.code == "invalid_request"
    assert "once" in error.message


def upstream(capability: Capability, body: dict[str, Any], *quirks: str) -> dict[str, Any]:
    envelope = decode_envelope(capability, compact(body))
    sent = json.loads(encode_upstream_body(envelope, b'"gpt-x"', frozenset(quirks)))
    assert list(sent)[: len(body)] == [name for name in body if name in sent], "order is kept"
    return dict(sent)


def test_upstream_body_keeps_the_rest() -> None:
    """Unknown members go upstream as they came; only the model is replaced and `potluck` taken out."""
    body = LEAST["chat"] | {"temperature": 0.70, "x": {"y": [1, None]}, "potluck": {"tags": ["a"]}, "é": "ü"}
    assert upstream("chat", body) == {
        "model": "gpt-x", "messages": MESSAGES, "temperature": 0.7, "x": {"y": [1, None]}, "é": "ü",
    }  # fmt: skip


def test_raw_values_are_not_rewritten() -> None:
    """Numbers and escapes inside members keep their spelling."""
    body = b'{"model":"m","messages":[{"content":"\\u00e9\\/"}],"seed":1e400,"big":12345678901234567890123,"z":-0.0}'
    sent = encode_upstream_body(decode_envelope("chat", body), b'"g"')
    assert sent == body.replace(b'"m"', b'"g"')


@pytest.mark.parametrize("capability", ["chat", "completions"])
def test_usage_is_asked_for_in_streams(capability: Capability) -> None:
    """A stream always asks the upstream for usage; what else the options hold is kept."""
    least = LEAST[capability]
    assert upstream(capability, least | {"stream": True})["stream_options"] == USAGE
    assert upstream(capability, least | {"stream": True, "stream_options": None})["stream_options"] == USAGE
    assert upstream(capability, least | {"stream": True, "stream_options": {}})["stream_options"] == USAGE
    off = least | {"stream": True, "stream_options": {"include_usage": False, "include_obfuscation": False}}
    assert upstream(capability, off)["stream_options"] == {"include_usage": True, "include_obfuscation": False}
    assert upstream(capability, least | {"stream": True, "stream_options": USAGE})["stream_options"] == USAGE
    assert "stream_options" not in upstream(capability, least)


def test_usage_is_not_asked_for_elsewhere() -> None:
    """Responses streams bring usage by themselves; a target with the quirk gets no options at all."""
    assert "stream_options" not in upstream("responses", LEAST["responses"] | {"stream": True})
    streamed = LEAST["chat"] | {"stream": True}
    assert "stream_options" not in upstream("chat", streamed, "no_stream_usage")
    assert "stream_options" not in upstream("chat", streamed | {"stream_options": USAGE}, "no_stream_usage")


def test_one_envelope_serves_many_targets() -> None:
    """Encoding for a target changes nothing in the envelope."""
    envelope = decode_envelope("chat", compact(LEAST["chat"] | {"stream": True, "potluck": {}}))
    first = encode_upstream_body(envelope, b'"a"')
    assert encode_upstream_body(envelope, b'"b"', frozenset(("no_stream_usage",))) != first
    assert encode_upstream_body(envelope, b'"a"') == first


def test_repr_keeps_the_prompt_to_itself() -> None:
    """An envelope in a log line shows no message."""
    assert "hi" not in repr(decode_envelope("chat", compact(LEAST["chat"])))
