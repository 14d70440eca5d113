"""Request bodies at random: one outcome or the other, and nothing lost on the way upstream."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from potluck.model.resources import Capability
from potluck.wire.dialects.envelope import decode_envelope, encode_upstream_body
from potluck.wire.errors import RequestError

CAPABILITIES = st.sampled_from(["chat", "completions", "embeddings", "responses"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**25), 10**25)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
NAMES = ("model", "messages", "prompt", "input", "stream", "stream_options", "max_tokens", "n", "user", "potluck")
EXTRA = st.dictionaries(TEXT.filter(lambda name: name not in NAMES), JSON, max_size=5)
VALID = {"model": "m", "messages": [{"role": "user"}], "prompt": "p", "input": "i"}
STYLE = st.sampled_from([{"separators": (",", ":")}, {}, {"indent": 1}, {"indent": "\t", "separators": (" ,", " : ")}])


def write(value: Any, style: dict[str, Any], ascii_only: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only, **style).encode()


@given(CAPABILITIES, st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes(capability: Capability, body: bytes) -> None:
    """Arbitrary bytes give an envelope or a RequestError, nothing else."""
    try:
        decode_envelope(capability, body)
    except RequestError as error:
        assert error.code in ("invalid_json", "invalid_request")


@given(CAPABILITIES, st.dictionaries(st.sampled_from(NAMES) | TEXT, JSON, max_size=8), STYLE)
def test_any_object(capability: Capability, value: dict[str, Any], style: dict[str, Any]) -> None:
    """Any JSON object gives an envelope or a refusal that names the member; what decodes can be sent."""
    try:
        envelope = decode_envelope(capability, write(value, style, ascii_only=False))
    except RequestError as error:
        assert error.code == "invalid_request"
        assert error.param is not None
        assert error.param.split(".")[0] in (*NAMES, "max_completion_tokens", "max_output_tokens")
    else:
        json.loads(encode_upstream_body(envelope, b'"t"'))


@given(CAPABILITIES, EXTRA, STYLE, st.booleans(), st.booleans())
def test_what_goes_upstream(
    capability: Capability, extra: dict[str, Any], style: dict[str, Any], ascii_only: bool, stream: bool
) -> None:
    """The body sent means what the caller's meant, but for the model, `potluck` and the question for usage."""
    body = VALID | {"stream": stream, "potluck": {"tags": ["x"]}} | extra
    envelope = decode_envelope(capability, write(body, style, ascii_only))
    want = body | {"model": "target"}
    del want["potluck"]
    if stream and capability in ("chat", "completions"):
        want["stream_options"] = {"include_usage": True}
    assert json.loads(encode_upstream_body(envelope, b'"target"')) == want


@given(
    st.sampled_from(["model", "messages", "stream", "n", "user", "potluck", "max_tokens", "stream_options"]),
    EXTRA,
    STYLE,
    st.booleans(),
    st.integers(0, 10),
    st.data(),
)
def test_duplicates_never_pass(
    name: str, extra: dict[str, Any], style: dict[str, Any], ascii_only: bool, place: int, data: st.DataObject
) -> None:
    """A second copy of a member that is read is refused: anywhere, with any value, however its name is escaped."""
    values = {"model": "m", "messages": [{}], "stream": True, "n": 1, "user": "u", "potluck": {}, "max_tokens": 5}
    body = extra | {"model": "m", "messages": [{}]} | {name: values.get(name)}
    text = write(body, style, ascii_only).decode().rstrip()
    second = data.draw(st.sampled_from([values.get(name), 0, "", None]))
    escaped = "".join(
        f"\\u{ord(char):04x}" if data.draw(st.booleans()) else char for char in name
    )  # a JSON parser reads it as `name`
    members = [f'"{escaped}":{json.dumps(second)}', text[1:-1]]
    if place % 2:
        members.reverse()
    broken = "{" + ",".join(members) + "}"
    try:
        decode_envelope("chat", broken.encode())
    except RequestError as error:
        assert "more than once" in error.message
    else:
        raise AssertionError(f"{broken!r} was read")
