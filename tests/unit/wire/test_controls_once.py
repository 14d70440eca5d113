"""What a caller says about handling is said once: a limit is not hidden behind a second one."""

import msgspec
import pytest

from potluck.wire.dialects.envelope import decode_envelope, prompt_bytes, read_control_fields
from potluck.wire.dialects.stream import StreamTap
from potluck.wire.errors import RequestError

HEAD = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"potluck":'


@pytest.mark.parametrize(
    ("said", "named"),
    [
        (b'{"data_class":"private","data_class":"standard"}', "potluck.data_class"),
        (b'{"max_price":{"input":1,"input":9}}', "potluck.input"),
        (b'{"route":"a","\\u0072oute":"b"}', "potluck.route"),
    ],
)
def test_a_repeated_control_is_refused(said: bytes, named: str) -> None:
    """At any depth and however its name is written."""
    with pytest.raises(RequestError) as caught:
        decode_envelope("chat", HEAD + said + b"}")
    assert caught.value.param == named


@pytest.mark.parametrize("name", ["only", "ignore"])
def test_a_filter_has_64_entries_at_most(name: str) -> None:
    """More are refused, and the message says so: kinds of requests are kept by them."""
    entries = [f"p{n}" for n in range(65)]
    decode_envelope("chat", HEAD + msgspec.json.encode({name: entries[:64]}) + b"}")
    with pytest.raises(RequestError) as caught:
        decode_envelope("chat", HEAD + msgspec.json.encode({name: entries}) + b"}")
    error = caught.value
    assert (error.status, error.param) == (400, "potluck")
    assert error.message.endswith(f"length <= 64 - at `$.{name}`"), error.message


def test_header_and_body_name_one_route() -> None:
    """Two different routes are refused, since either may be a wall; the same one twice is fine."""
    envelope = decode_envelope("chat", HEAD + b'{"route":"a"}}')
    read_control_fields(envelope, {b"x-potluck-route": b"a"})
    assert envelope.controls is not None
    assert envelope.controls.route == "a"
    with pytest.raises(RequestError):
        read_control_fields(envelope, {b"x-potluck-route": b"b"})


def test_the_prompt_is_what_the_model_reads() -> None:
    """Settings and the gateway's own member are no prompt."""
    short = decode_envelope("chat", HEAD + b"{}}")
    long = decode_envelope("chat", HEAD + b'{"tags":["a","b"]},"temperature":0.5,"stream":true}')
    assert prompt_bytes(short) == prompt_bytes(long) == len(b'[{"role":"user","content":"hi"}]')


def test_a_role_in_the_first_chunk_is_not_taken_for_content() -> None:
    """Whether the role comes with the first words or before them, the size of what was said is about the same."""
    sizes = []
    for opening in (b'"role":"assistant",', b""):
        tap = StreamTap("chat", False)
        for n in range(50):
            role = opening if n == 0 else b""
            tap.read(b'{"id":"x","choices":[{"index":0,"delta":{%b"content":"wonderful%d "}}]}' % (role, n))
        sizes.append(tap.output_bytes)
    assert abs(sizes[0] - sizes[1]) <= 2
    assert sizes[0] > 500
