"""Answers cut anywhere and joined again, at random: nothing is lost, nothing comes twice."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from potluck.model.usage import TokenUsage
from potluck.wire.dialects.answer import MalformedAnswer
from potluck.wire.dialects.envelope import Envelope, decode_envelope
from potluck.wire.dialects.resume import continuation
from potluck.wire.dialects.splice import Earlier, ResumableTap, Seam

TEXT = st.text(alphabet="ab \n\té哈😀", min_size=2, max_size=40)
CUTS = st.lists(st.integers(0, 60), max_size=12)
EARLIER = Earlier(TokenUsage(5, 2), 0)


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *[cut for cut in cuts if cut < len(text)]})
    return [text[start:end] for start, end in pairwise(places)]


def request(members: dict[str, Any]) -> Envelope:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True, **members}
    return decode_envelope("chat", json.dumps(body).encode())


def chunks(text: str, cuts: list[int], reason: str | None = None) -> list[bytes]:
    deltas: list[Any] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in pieces_of(text, cuts)]
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    if reason is not None:
        choices.append({"index": 0, "delta": {}, "finish_reason": reason})
    return [json.dumps({"id": "x", "choices": [choice]}).encode() for choice in choices]


def forwarded_text(payloads: list[bytes | None]) -> str:
    deltas = [json.loads(payload)["choices"][0]["delta"] for payload in payloads if payload is not None]
    return "".join(delta.get("content") or "" for delta in deltas)


@given(TEXT, st.integers(1, 39), CUTS, CUTS, st.booleans())
def test_the_joined_text_is_the_uncut_one(text: str, cut: int, first: list[int], rest: list[int], echoes: bool) -> None:
    """A target that writes on exactly as the first one would have: with an echo or without, however it is split."""
    delivered = text[: min(cut, len(text) - 1)]
    tap = ResumableTap("chat", False)
    tap_out = [tap.read(payload) for payload in chunks(delivered, first)]
    quirks = frozenset(("echoes_prefix",)) if echoes else frozenset[str]()
    made = continuation(request({}), tap.text, b'"up"', "plain", quirks)
    assert made is not None
    sent = delivered.rstrip()
    assert sent + made.tail == delivered
    said = text[len(sent) :]
    # what would come again by itself, without white space between, is taken for an echo
    assume(echoes or not made.echo or not said.startswith(made.echo))
    second = tap.after(made, EARLIER, None)
    tap_out += [second.read(payload) for payload in chunks(sent + said if echoes else said, rest, "stop")]
    assert second.text == forwarded_text(tap_out) == text
    assert (second.finished, second.finish_reason) == (True, "stop")
    assert sum(payload is not None and b'"role"' in payload for payload in tap_out) == 1


@given(TEXT | st.just(""), st.text(alphabet=" \n", max_size=4), st.text(alphabet="ab \n", max_size=30), CUTS, CUTS)
def test_a_seam_does_not_depend_on_the_pieces(
    echo: str, tail: str, text: str, one_way: list[int], other_way: list[int]
) -> None:
    """Whatever comes is split in any manner: the same is left, and it is an end of what came."""

    def left(cuts: list[int]) -> str:
        seam = Seam(echo, tail)
        said = "".join([seam.feed(piece) for piece in pieces_of(text, cuts)])
        return said + (seam.close() if seam.open else "")

    assert left(one_way) == left(other_way)
    assert text.endswith(left(one_way))
    dropped = text[: len(text) - len(left(one_way))]
    assert dropped.removeprefix(echo) == "" or tail.endswith(dropped.removeprefix(echo))


NAMES = st.sampled_from(["choices", "delta", "content", "role", "text", "index", "finish_reason", "usage", "logprobs"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=6), st.sampled_from(["chat", "completions"]), st.booleans())
def test_any_stream_may_follow(values: list[Any], capability: Any, wants_usage: bool) -> None:
    """Whatever JSON a target sends after a cut: something to forward or nothing, or `MalformedAnswer`."""
    tap = ResumableTap(capability, wants_usage)
    said: Any = {"delta": {"content": "Once"}, "text": "Once"}
    tap.read(json.dumps({"choices": [said]}).encode())
    made = continuation(request({}), tap.text, b'"up"', "plain")
    assert made is not None
    tap = tap.after(made, EARLIER, None)
    for value in values:
        try:
            tap.read(json.dumps(value).encode())
        except MalformedAnswer:
            break
    assert tap.text.startswith("Once")
