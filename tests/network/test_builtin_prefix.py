"""The built-in model goes on from its own text: answers that are cut and resumed by the real engine, end to end."""

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from builtin_bench import Bench, Json, running_bench

from potluck.engines.model_file import model_path
from potluck.model.usage import TokenUsage
from potluck.wire.dialects.envelope import Envelope, decode_envelope
from potluck.wire.dialects.resume import continuation, why_not
from potluck.wire.dialects.splice import Earlier, ResumableTap
from potluck.wire.sse import DONE, SseReader

pytestmark = [pytest.mark.local_model, pytest.mark.asyncio(loop_scope="module")]

QUESTIONS = (
    "Tell me a long story about a fox.",
    "Write a Python function that adds two numbers, and explain it.",
    "List five fruits, one a line.",
    "Explain in two paragraphs how rain comes to be.",
)
CUTS = 20
MAX_TOKENS = 120


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(local_model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    home = tmp_path_factory.mktemp("home")
    place = model_path(home)
    place.parent.mkdir()
    place.symlink_to(local_model_file)
    async with running_bench(home) as bench:
        yield bench


def envelope_of(capability: Any, members: Json) -> Envelope:
    body: Json = {"model": "m", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0}
    return decode_envelope(capability, json.dumps({**body, **members, "potluck": {"resume": "allow"}}).encode())


async def stream(bench: Bench, envelope: Envelope, body: bytes) -> list[bytes]:
    """The payloads of one stream, without the end mark."""
    answer = await bench.ask(envelope.capability, body)
    assert answer.status == 200, answer.body
    payloads = [payload for _, payload in SseReader().feed(answer.body)]
    assert payloads.pop() == DONE
    return payloads


def whole_body(envelope: Envelope) -> bytes:
    members = {name: json.loads(bytes(raw)) for name, raw in envelope.members.items() if name != "potluck"}
    return json.dumps(members).encode()


async def resumed(
    bench: Bench, envelope: Envelope, payloads: list[bytes], cut: int
) -> tuple[ResumableTap, list[bytes]]:
    """An answer of which `cut` chunks came, then the rest from elsewhere: the second tap, all that was forwarded."""
    assert why_not(envelope) == ""
    tap = ResumableTap(envelope.capability, envelope.wants_usage)
    forwarded = [payload for payload in map(tap.read, payloads[:cut]) if payload is not None]
    assert tap.stuck == ""
    rest = continuation(envelope, tap.text, b'"m"', "plain", delivered_tokens=tap.tokens)
    assert rest is not None
    second = tap.after(rest, Earlier(TokenUsage(0, tap.tokens, estimated=True), 0), None)
    forwarded += [
        payload for payload in map(second.read, await stream(bench, envelope, rest.body)) if payload is not None
    ]
    return second, forwarded


def text_of(payloads: list[bytes]) -> str:
    choices = [choice for payload in payloads for choice in json.loads(payload)["choices"]]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


def chunks_with_text(payloads: list[bytes]) -> list[int]:
    return [at for at, payload in enumerate(payloads) if text_of([payload])]


def counts_of(payloads: list[bytes]) -> tuple[int, int]:
    usage = json.loads(payloads[-1])["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"]


def end_of(payloads: list[bytes]) -> Any:
    return json.loads(payloads[-2])["choices"][0]["finish_reason"]


async def test_answers_that_are_cut_anywhere_go_on_as_if_they_were_not(bench: Bench) -> None:
    """At temperature 0 the joined text, its end and its usage are those of the uncut answer, and it opens once."""
    rng = random.Random(7)
    different = []
    for at in range(CUTS):
        messages = [{"role": "user", "content": QUESTIONS[at % len(QUESTIONS)]}]
        envelope = envelope_of("chat", {"messages": messages, "max_tokens": MAX_TOKENS})
        payloads = await stream(bench, envelope, whole_body(envelope))
        cut = rng.choice(chunks_with_text(payloads)[:-1]) + 1
        tap, forwarded = await resumed(bench, envelope, payloads, cut)
        whole, uncut = text_of(forwarded), text_of(payloads)
        assert whole == tap.text
        assert whole.startswith(text_of(payloads[:cut]))
        assert sum(b'"role":"assistant"' in payload for payload in forwarded) == 1
        if (whole, tap.finish_reason, counts_of(forwarded)) != (uncut, end_of(payloads), counts_of(payloads)):
            different.append((at, cut, whole, uncut))
    # all are equal as it is; where a text's tokens are not those it is read into again, a model may choose another word
    assert len(different) <= CUTS // 10, different


async def test_an_answer_that_is_cut_after_white_space_keeps_it_once(bench: Bench) -> None:
    """Each line of a list ends in a line break: cut after each of them, the list comes out the same."""
    messages = [{"role": "user", "content": QUESTIONS[2]}]
    envelope = envelope_of("chat", {"messages": messages, "max_tokens": 60})
    payloads = await stream(bench, envelope, whole_body(envelope))
    cuts = [at + 1 for at in chunks_with_text(payloads) if text_of(payloads[: at + 1]).endswith((" ", "\n"))]
    assert cuts
    for cut in cuts:
        tap, _ = await resumed(bench, envelope, payloads, cut)
        assert tap.text == text_of(payloads)


async def test_a_completion_goes_on(bench: Bench) -> None:
    """The prompt grows by what was delivered."""
    envelope = envelope_of("completions", {"prompt": "Once upon a time", "max_tokens": 40})
    payloads = await stream(bench, envelope, whole_body(envelope))
    tap, forwarded = await resumed(bench, envelope, payloads, 15)
    assert (tap.text, counts_of(forwarded)) == (text_of(payloads), counts_of(payloads))


async def test_json_goes_on_where_it_was_cut(bench: Bench) -> None:
    """The engine holds the schema against the text that is there, and does not begin the object anew."""
    schema: Json = {"type": "object", "properties": {"city": {"type": "string"}, "river": {"type": "string"}}}
    schema |= {"required": ["city", "river"], "additionalProperties": False}
    shape = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    messages = [{"role": "user", "content": "Where is the Louvre?"}]
    envelope = envelope_of("chat", {"messages": messages, "response_format": shape, "max_tokens": 80})
    payloads = await stream(bench, envelope, whole_body(envelope))
    for cut in chunks_with_text(payloads)[:-1:3]:
        tap, _ = await resumed(bench, envelope, payloads, cut + 1)
        assert json.loads(tap.text).keys() == {"city", "river"}


async def test_the_engine_echoes_nothing_and_trims_nothing(bench: Bench) -> None:
    """What a lone space at the end does to it, and that the text which was sent does not come again."""
    start = [{"role": "user", "content": QUESTIONS[0]}, {"role": "assistant", "content": "The story of a"}]
    plain = await bench.chat(messages=start, temperature=0)
    said = plain.json["choices"][0]["message"]["content"]
    assert said.startswith(" ")
    assert "story of a" not in said
    start[-1]["content"] += " "
    spaced = await bench.chat(messages=start, temperature=0)
    assert spaced.json["choices"][0]["message"]["content"] != said.removeprefix(" ")


async def test_an_empty_last_message_is_as_none(bench: Bench) -> None:
    """The engine would answer `assistant`, line break, and then the answer."""
    asked = [{"role": "user", "content": QUESTIONS[0]}]
    wanted = (await bench.chat(messages=asked, temperature=0)).json["choices"][0]["message"]["content"]
    for empty in ("", None):
        answer = await bench.chat(messages=[*asked, {"role": "assistant", "content": empty}], temperature=0)
        assert answer.json["choices"][0]["message"]["content"] == wanted


async def test_the_engine_trips_over_an_empty_last_message(bench: Bench) -> None:
    """Unmended: the word of the role becomes part of the answer."""
    messages = [{"role": "user", "content": QUESTIONS[0]}, {"role": "assistant", "content": ""}]
    raw = await bench.ask_raw("chat", {"messages": messages, "max_tokens": 8, "temperature": 0})
    assert raw.json["choices"][0]["message"]["content"].startswith("assistant\n")
