"""`x-potluck-…` request headers mean what the body's `potluck` member means."""

import msgspec
import pytest

from potluck.wire.dialects.controls import Controls, controls_of_fields
from potluck.wire.dialects.envelope import decode_envelope, read_control_fields
from potluck.wire.errors import RequestError
from potluck.wire.http1 import parse_head


def test_each_header_fills_its_member():
    """All six headers are read, tags split at commas."""
    fields = {
        b"x-potluck-route": b"frugal",
        b"x-potluck-prefer": b"own",
        b"x-potluck-data-class": b"private",
        b"x-potluck-cache": b"refresh",
        b"x-potluck-resume": b"allow",
        b"x-potluck-tags": b"a, b,,c ",
    }
    controls = controls_of_fields(fields, None)
    assert (controls.route, controls.prefer, controls.data_class) == ("frugal", "own", "private")
    assert (controls.cache.mode, controls.resume, controls.tags) == ("refresh", "allow", ("a", "b", "c"))


def test_the_body_counts_where_both_say_something():
    """A header never loosens or replaces what the body's member says; of two data classes the stricter one holds."""
    strict = controls_of_fields({b"x-potluck-data-class": b"private"}, Controls(data_class="standard"))
    assert strict.data_class == "private"
    body = Controls(data_class="private", user="u")
    controls = controls_of_fields({b"x-potluck-data-class": b"open", b"x-potluck-tags": b"t"}, body)
    assert (controls.data_class, controls.user, controls.tags) == ("private", "u", ("t",))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({b"x-potluck-data-class": b"secret"}, "x-potluck-data-class"),
        ({b"x-potluck-dataclass": b"private"}, "x-potluck-dataclass"),
        ({b"x-potluck-tags": b",".join([b"t"] * 17)}, "x-potluck-tags"),
    ],
)
def test_a_wrong_header_is_refused_by_name(fields, named):
    """A misspelt control never passes for one: 400, naming the header."""
    envelope = decode_envelope("embeddings", b'{"model":"m","input":"x"}')
    with pytest.raises(RequestError) as refused:
        read_control_fields(envelope, fields)
    assert refused.value.code == "invalid_request"
    assert named in refused.value.message


def test_the_envelope_takes_them():
    """Tags and data class arrive where records and planning read them."""
    envelope = decode_envelope("embeddings", msgspec.json.encode({"model": "m", "input": "x", "user": "u"}))
    read_control_fields(envelope, {b"x-potluck-tags": b"nightly"})
    assert (envelope.tags, envelope.user) == (("nightly",), "u")
    assert envelope.controls is not None


def test_a_head_keeps_control_fields_apart():
    """Only `x-potluck-…` fields, repeated ones joined; none at all is None."""
    raw = b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX-Potluck-Tags: a\r\nX-Other: 1\r\nx-potluck-tags: b\r\n\r\n"
    assert parse_head(raw).control_fields == {b"x-potluck-tags": b"a, b"}
    assert parse_head(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n").control_fields is None
