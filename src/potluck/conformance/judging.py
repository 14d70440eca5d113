"""Verdicts: what a caller must see, as pure functions from what was seen to what is wrong with it.

A judge yields one short reason per fault that it finds, in words for the card; none means that the line is passed. It
asks for what holds for any honest gateway: the right text, the right end, the right number of upstream calls; never for
Potluck's own wording, codes or headers.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final

import msgspec

from potluck.conformance.observation import Json, Seen

MAX_CALLS: Final = 4
"""upstream calls for one request, whatever fails"""
LET_GO_S: Final = 1.0
"""from the caller's hang-up to the end of the upstream call"""
KEEP_ALIVE_S: Final = 16.0
"""the longest silence of a stream: a comment every 15 s, and a second for the way"""
MIN_GAP_S: Final = 0.05
"""two words that were said `DRIP_MS` apart and come closer than this were held back on the way"""
DRIP_MS: Final = 200
WORDS_BEFORE_THE_FAULT: Final = "Everyone brings"
CANARY: Final = b"canary"
"""stands in every header and body in which the faulty provider speaks of itself"""


class Judge(msgspec.Struct, frozen=True):
    """`must`: what the caller must see, for the card. `faults`: what is wrong, empty for a pass."""

    must: str
    faults: Callable[[Seen], Iterator[str]]


def whole(text: str, *, taken_over: bool = False, unseen: bool = False) -> Judge:
    """A good answer, complete and said once; from the second provider where the first one failed.

    `unseen`: the first one cannot be reached, so that nobody sees a call to it.
    """

    def faults(seen: Seen) -> Iterator[str]:
        if torn := list(_status(seen, 200)):
            yield from torn
        else:
            yield from _content(seen, text)
        yield from _calls(seen, taken_over, unseen)

    by = "the second provider's answer, whole" if taken_over else "the answer, whole"
    return Judge(by, faults)


def _content(seen: Seen, text: str) -> Iterator[str]:
    answer = seen.answer
    if seen.stream and not answer.is_stream:
        yield "no event stream"
    if answer.error is not None:
        yield f"an error: {str(answer.error.get('message'))[:80]}"
    if answer.text != text:
        yield f"the text is {answer.text[:60]!r}"
    if answer.finish != "stop":
        yield f"the finish reason is {answer.finish!r}"
    if answer.is_stream and answer.dones != 1:
        yield f"{answer.dones} [DONE]"
    if answer.after_done:
        yield "events after [DONE]"


def passed_back(status: int) -> Judge:
    """The caller's own mistake: told to him with this status, asked of nobody else."""

    def faults(seen: Seen) -> Iterator[str]:
        yield from _status(seen, status)
        if seen.answer.error is None:
            yield "no error object"
        if seen.calls != ("first",):
            yield f"called {' and '.join(seen.calls) or 'nobody'}, not the first provider once"

    return Judge(f"{status}, and no second call", faults)


def _honest_end(seen: Seen) -> Iterator[str]:
    answer = seen.answer
    yield from _called(seen)
    if torn := list(_status(seen, 200)):
        yield from torn
        return
    if answer.text != WORDS_BEFORE_THE_FAULT:
        yield f"the text is {answer.text[:60]!r}, not {WORDS_BEFORE_THE_FAULT!r}"
    if answer.error is None:
        yield "no error event at the end"
    if answer.dones:
        yield "[DONE] as if it were finished"
    if answer.finish:
        yield f"finish reason {answer.finish!r} as if it were finished"


honest_end: Final = Judge("what was said, then an error event, no [DONE]", _honest_end)


def counted(usage: Json, *, asked: bool) -> Judge:
    """Exact counts in the last event that has any, or none at all for a caller who did not ask."""

    def faults(seen: Seen) -> Iterator[str]:
        answer = seen.answer
        yield from _status(seen, 200)
        if not answer.text or answer.dones != 1:
            yield "the stream is not whole"
        shown = answer.usages[-1] if answer.usages else {}
        if not asked and shown:
            yield "counts were shown to a caller who did not ask"
        if asked:
            names = ("prompt_tokens", "completion_tokens")
            wrong = [f"{name} {shown.get(name)}, not {usage[name]}" for name in names if shown.get(name) != usage[name]]
            yield from wrong if shown else ["no counts"]
        yield from _calls(seen)

    must = f"{usage['prompt_tokens']} and {usage['completion_tokens']} tokens at the end" if asked else "no counts"
    return Judge(must, faults)


def unbuffered(text: str) -> Judge:
    """A whole stream, each word passed on when it was said."""
    inner = whole(text)

    def faults(seen: Seen) -> Iterator[str]:
        yield from inner.faults(seen)
        words_s = seen.answer.words_s
        held = sum(later - earlier < MIN_GAP_S for earlier, later in pairwise(words_s))
        if held or len(words_s) < 2:
            yield f"{held} of {len(words_s)} words were held back"

    return Judge("the answer, each word when it is said", faults)


def _refused_by_all(seen: Seen) -> Iterator[str]:
    answer = seen.answer
    if answer.ended != "whole":
        yield "the answer is not whole"
    if answer.status < 500:
        yield f"status {answer.status or 'missing'}, not 5xx"
    if answer.error is None:
        yield "no error object"
    if answer.text or answer.dones:
        yield "a good answer out of nothing"
    yield from _called(seen)


refused_by_all: Final = Judge(f"5xx, at most {MAX_CALLS} calls", _refused_by_all)


def _account_hidden(seen: Seen) -> Iterator[str]:
    yield from _refused_by_all(seen)
    said = [seen.answer.body, *(value.encode() for _, value in seen.answer.headers)]
    if any(CANARY in each.lower() for each in said):
        yield "the provider's words about its account reach the caller"


account_hidden: Final = Judge("5xx, nothing of the provider's account", _account_hidden)


def limited_by_all(retry_after_s: int) -> Judge:
    """429 with the smallest `retry-after` of those who refused, in whole seconds."""

    def faults(seen: Seen) -> Iterator[str]:
        yield from _status(seen, 429)
        wait = seen.answer.header("retry-after")
        if not (wait.isdecimal() and 1 <= int(wait) <= retry_after_s):
            yield f"retry-after is {wait or 'missing'}"
        yield from _called(seen)

    return Judge(f"429, retry-after at most {retry_after_s}", faults)


def _let_go(seen: Seen) -> Iterator[str]:
    if not seen.calls:
        yield "the provider was never called"
    elif seen.let_go_s is None:
        yield "the upstream call goes on without the caller"
    elif seen.let_go_s > LET_GO_S:
        yield f"the upstream call went on for {seen.let_go_s:.1f} s"


let_go: Final = Judge(f"the upstream call ended within {LET_GO_S:g} s", _let_go)


def kept_alive(text: str) -> Judge:
    """A whole stream whose silences are filled with comments."""
    inner = whole(text)

    def faults(seen: Seen) -> Iterator[str]:
        yield from inner.faults(seen)
        signs_s = sorted([0.0, *seen.answer.comments_s, *(event.at_s for event in seen.answer.events)])
        silence_s = max((later - earlier for earlier, later in pairwise(signs_s)), default=0.0)
        if silence_s > KEEP_ALIVE_S:
            yield f"{silence_s:.0f} s without a sign of life"

    return Judge(f"a comment at least every {KEEP_ALIVE_S:g} s", faults)


def _status(seen: Seen, status: int) -> Iterator[str]:
    if seen.answer.status != status:
        yield f"status {seen.answer.status or 'missing'}, not {status}"
    if seen.answer.ended != "whole":
        yield "the answer is not whole"


def _called(seen: Seen) -> Iterator[str]:
    if not 1 <= len(seen.calls) <= MAX_CALLS:
        yield f"{len(seen.calls)} upstream calls"


def _calls(seen: Seen, taken_over: bool = False, unseen: bool = False) -> Iterator[str]:
    if not unseen and "first" not in seen.calls:
        yield "the first provider was never called"
    if taken_over and seen.answered_by != "second":
        yield "the second provider was not asked"
    if not taken_over and "second" in seen.calls:
        yield "a second provider was asked without need"
    if len(seen.calls) > MAX_CALLS:
        yield f"{len(seen.calls)} upstream calls"
    if seen.altered:
        yield "a provider got other messages than the caller sent"
