"""Every verdict of the score card must be able to go both ways."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from potluck.conformance import judging
from potluck.conformance.answers import USAGE, WORDS, chat_events, chunk, completion, error, event
from potluck.conformance.cases import CASES, TEXT
from potluck.conformance.observation import Answer, Piece, Seen

JSON = (("content-type", "application/json"),)
SSE = (("content-type", "text/event-stream"),)
GOOD = [*chat_events("m")]
ERROR = b"data: " + error(502, "cut") + b"\n\n"
COUNTS = event(chunk("m", None, usage=USAGE))


def plain(body: bytes = completion("m"), status: int = 200, **members: Any) -> Answer:
    return Answer(status=status, headers=JSON, pieces=(Piece(0.01, body),), **members)


def stream(*events: bytes, gap_s: float = 0.2, **members: Any) -> Answer:
    pieces = tuple(Piece(gap_s * n, each) for n, each in enumerate(events, start=1))
    return Answer(status=200, headers=SSE, pieces=pieces, **members)


def seen(answer: Answer, *calls: str, **members: Any) -> Seen:
    return Seen(answer=answer, calls=calls, stream=answer.is_stream, **members)


def refusal(status: int, message: str = "no", wait: str = "", **members: Any) -> Answer:
    headers = (*JSON, ("retry-after", wait)) if wait else JSON
    return msgspec.structs.replace(plain(error(status, message), status, **members), headers=headers)


WHOLE, TAKEN = judging.whole(TEXT), judging.whole(TEXT, taken_over=True)
UNSEEN = judging.whole(TEXT, taken_over=True, unseen=True)
ASKED, UNASKED = judging.counted(USAGE, asked=True), judging.counted(USAGE, asked=False)
WITH_COUNTS = [*GOOD[:-1], COUNTS, GOOD[-1]]

RIGHT: dict[str, tuple[judging.Judge, Seen]] = {
    "whole plain": (WHOLE, seen(plain(), "first")),
    "whole stream": (WHOLE, seen(stream(*GOOD), "first")),
    "whole, the first provider asked twice": (WHOLE, seen(plain(), "first", "first")),
    "taken over": (TAKEN, seen(plain(), "first", "second")),
    "taken over, four calls": (TAKEN, seen(stream(*GOOD), "first", "first", "first", "second")),
    "taken over from a port that refuses": (UNSEEN, seen(plain(), "second")),
    "passed back": (judging.passed_back(400), seen(refusal(400), "first")),
    "honest end": (judging.honest_end, seen(stream(*GOOD[:3], ERROR), "first")),
    "counts": (ASKED, seen(stream(*WITH_COUNTS), "first")),
    "running counts": (ASKED, seen(stream(COUNTS.replace(b"11", b"7"), *WITH_COUNTS), "first")),
    "no counts": (UNASKED, seen(stream(*GOOD), "first")),
    "null counts": (UNASKED, seen(stream(event(chunk("m", {}, usage=None)), *GOOD), "first")),
    "unbuffered": (judging.unbuffered(TEXT), seen(stream(*GOOD), "first")),
    "refused by all": (judging.refused_by_all, seen(refusal(502), "first", "second")),
    "account hidden": (judging.account_hidden, seen(refusal(502), "first")),
    "limited by all": (judging.limited_by_all(7), seen(refusal(429, wait="7"), "first", "second")),
    "let go": (judging.let_go, seen(Answer(ended="hung up"), "first", let_go_s=0.2)),
    "kept alive": (judging.kept_alive(TEXT), seen(stream(b": x\n\n", *GOOD, gap_s=15.0), "first")),
}

WRONG: dict[str, tuple[judging.Judge, Seen, str]] = {
    "nothing came": (WHOLE, seen(Answer(ended="cut"), "first"), "status missing"),
    "cut": (WHOLE, seen(plain(ended="cut"), "first"), "not whole"),
    "late": (TAKEN, seen(plain(ended="late"), "first", "second"), "not whole"),
    "an error": (WHOLE, seen(plain(error(500, "no")), "first"), "an error: no"),
    "a refusal": (WHOLE, seen(refusal(502), "first"), "status 502, not 200"),
    "half the text": (WHOLE, seen(plain(completion("m", WORDS[:2])), "first"), "the text is 'Everyone brings'"),
    "the text twice": (TAKEN, seen(stream(*GOOD[:3], *GOOD), "first", "second"), "the text is"),
    "no finish reason": (WHOLE, seen(plain(completion("m", finish=None)), "first"), "finish reason is ''"),
    "no DONE": (WHOLE, seen(stream(*GOOD[:-1]), "first"), "0 [DONE]"),
    "two DONE": (WHOLE, seen(stream(*GOOD, GOOD[-1]), "first"), "2 [DONE]"),
    "after DONE": (WHOLE, seen(stream(*GOOD, event(chunk("m", {}))), "first"), "after [DONE]"),
    "JSON for a stream": (WHOLE, Seen(answer=plain(), calls=("first",), stream=True), "no event stream"),
    "needless second": (WHOLE, seen(plain(), "first", "second"), "without need"),
    "altered": (WHOLE, seen(plain(), "first", altered=True), "other messages"),
    "fault never met": (TAKEN, seen(plain(), "second"), "the first provider was never called"),
    "not taken over": (TAKEN, seen(plain(), "first"), "the second provider was not asked"),
    "nobody was asked": (UNSEEN, seen(plain()), "the second provider was not asked"),
    "five calls": (TAKEN, seen(plain(), *["first"] * 4, "second"), "5 upstream calls"),
    "caller's fault retried": (judging.passed_back(400), seen(refusal(400), "first", "second"), "first and second"),
    "caller's fault hidden": (judging.passed_back(400), seen(refusal(502), "first"), "status 502"),
    "caller's fault without words": (judging.passed_back(400), seen(plain(b"no", 400), "first"), "no error object"),
    "cut without a word": (judging.honest_end, seen(stream(*GOOD[:3]), "first"), "no error event"),
    "cut and DONE": (judging.honest_end, seen(stream(*GOOD[:3], ERROR, GOOD[-1]), "first"), "[DONE]"),
    "cut, made a stop": (judging.honest_end, seen(stream(*GOOD[:3], GOOD[-2], ERROR), "first"), "finish reason 'stop'"),
    "tokens repeated": (judging.honest_end, seen(stream(*GOOD[:3], *GOOD[:3], ERROR), "first", "second"), "the text"),
    "tokens lost": (judging.honest_end, seen(stream(*GOOD[:2], ERROR), "first"), "the text"),
    "counts wrong": (ASKED, seen(stream(*GOOD[:-1], COUNTS.replace(b"11", b"12"), GOOD[-1]), "first"), "12, not 11"),
    "counts missing": (ASKED, seen(stream(*GOOD), "first"), "no counts"),
    "counts unasked": (UNASKED, seen(stream(*WITH_COUNTS), "first"), "did not ask"),
    "counts of a torn stream": (UNASKED, seen(stream(*GOOD[:-1]), "first"), "not whole"),
    "buffered": (judging.unbuffered(TEXT), seen(stream(*GOOD, gap_s=0.001), "first"), "held back"),
    "in one piece": (judging.unbuffered(TEXT), seen(stream(b"".join(GOOD)), "first"), "held back"),
    "200 out of nothing": (judging.refused_by_all, seen(plain(), "first", "second"), "not 5xx"),
    "many calls": (judging.refused_by_all, seen(refusal(502), *["first", "second"] * 3), "6 upstream calls"),
    "no envelope": (judging.refused_by_all, seen(plain(b"oops", 502), "first"), "no error object"),
    "key dead is the caller's": (judging.account_hidden, seen(refusal(401), "first"), "status 401"),
    "account told": (judging.account_hidden, seen(refusal(502, "org-Canary"), "first"), "account"),
    "no retry-after": (judging.limited_by_all(7), seen(refusal(429), "first"), "retry-after is missing"),
    "the larger wait": (judging.limited_by_all(7), seen(refusal(429, wait="30"), "first"), "retry-after is 30"),
    "a fraction": (judging.limited_by_all(7), seen(refusal(429, wait="1.2"), "first"), "retry-after is 1.2"),
    "limit as 502": (judging.limited_by_all(7), seen(refusal(502, wait="7"), "first"), "status 502"),
    "not let go": (judging.let_go, seen(Answer(), "first"), "goes on"),
    "let go late": (judging.let_go, seen(Answer(), "first", let_go_s=1.4), "1.4 s"),
    "never asked": (judging.let_go, seen(Answer(), let_go_s=0.1), "never called"),
    "silent": (judging.kept_alive(TEXT), seen(stream(*GOOD, gap_s=20.0), "first"), "without a sign of life"),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_has_no_fault(name: str):
    """What an honest gateway does passes."""
    judge, what = RIGHT[name]
    assert list(judge.faults(what)) == []


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_named(name: str):
    """Each thing that can be wrong fails the line, and is said."""
    judge, what, reason = WRONG[name]
    assert reason in "; ".join(judge.faults(what))


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_every_line_can_fail(name: str):
    """No line is passed by a gateway that says nothing, nor by one that makes up answers and asks nobody."""
    (case,) = [case for case in CASES if case.name == name]
    for answer in (Answer(ended="late"), stream(*WITH_COUNTS) if case.stream else plain(), refusal(400)):
        assert list(case.judge.faults(Seen(answer=answer, stream=case.stream)))


def test_every_judge_is_tried_both_ways():
    """The tables above hold a right and a wrong answer for each verdict that the card uses."""
    used = {_kind(case.judge) for case in CASES}
    assert used <= {_kind(judge) for judge, _ in RIGHT.values()}
    assert used <= {_kind(judge) for judge, *_ in WRONG.values()}


def _kind(judge: judging.Judge) -> str:
    faults: Callable[..., Any] = judge.faults
    return faults.__qualname__
