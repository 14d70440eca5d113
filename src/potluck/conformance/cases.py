"""The lines of the score card: which fault is played to which kind of request, and what the caller must see of it.

A case names a row of `FAULTS` and takes its verdict from what that row expects; only what a row cannot say (counts of
tokens, hang-ups, retries) is said here. Each case is a public model of its own with targets of its own, so that a
breaker or a parked key of one case never decides another.
"""

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from potluck.conformance import judging
from potluck.conformance.answers import USAGE, WORDS, Json
from potluck.conformance.faults import FAULTS
from potluck.conformance.faults.good import ODD_USAGE
from potluck.conformance.judging import Judge

Place = Literal["first", "second", "refused"]
"""the provider that misbehaves, the one that takes over, and a port where nobody listens"""
HangUp = Literal["", "waiting", "talking"]

DEADLINE_S: Final = 8.0
"""for one case; the printed configurations give a provider `PATIENCE_S` for its first token and between two"""
PATIENCE_S: Final = 2
SILENCE_S: Final = 20
"""of the provider, in the cases of `--slow`"""
TEXT: Final = "".join(WORDS)
TEXTS: Final = {"split-utf8": "Füße 🍲 食べ物", "chunked-body": "Füße"}
"""what the providers say that do not say `TEXT`"""


class Target(msgspec.Struct, frozen=True):
    """One upstream of a case. `apart`: under a provider name and key of its own, for this fault costs the key."""

    place: Place
    model: str
    apart: bool = False


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the card."""

    name: str
    section: str
    does: str
    """what the provider does"""
    judge: Judge
    targets: tuple[Target, ...]
    stream: bool
    members: Json = {}
    """more members of the request's body"""
    hang_up: HangUp = ""
    """the caller hangs up while he waits for the first byte, or after the first piece of the answer"""
    slow: bool = False
    """runs with `--slow` only; its targets may be silent for longer"""
    deadline_s: float = DEADLINE_S

    @property
    def model(self) -> str:
        """The public model to configure."""
        return f"conf-{self.name}"


def _targets(name: str, fault: str, *more: tuple[Place, str], place: Place = "first") -> tuple[Target, ...]:
    costs_key = {"status-401", "status-402", "status-403"} | {row for row in FAULTS if row.startswith("status-429")}
    pairs = ((place, fault), *more)
    return tuple(Target(at, f"{model};for={name}", model in costs_key) for at, model in pairs)


def _verdict(fault: str, *, stream: bool) -> Judge:
    """What the caller must see of this fault when a healthy second provider stands behind."""
    row = FAULTS[fault]
    expect = row.stream if stream else row.plain
    if expect is None:
        raise ValueError(f"fault {fault} means nothing for {'streams' if stream else 'plain requests'}")
    if expect.error_class == "caller_fault":
        return judging.passed_back(expect.status)
    if expect.in_stream:
        return judging.honest_end
    return judging.whole(TEXT if expect.code else TEXTS.get(fault, TEXT), taken_over=bool(expect.code))


def _cases(section: str, faults: str, *, stream: bool) -> Iterable[Case]:
    """A case for each fault named, in front of a healthy provider."""
    for fault in faults.split():
        name = f"{'stream' if stream else 'plain'}-{fault}"
        yield Case(
            name=name, section=section, does=FAULTS[fault].does, judge=_verdict(fault, stream=stream),
            targets=_targets(name, fault, ("second", "ok")), stream=stream,
        )  # fmt: skip


def _refused(section: str, *, stream: bool) -> Case:
    name = f"{'stream' if stream else 'plain'}-refused"
    targets = _targets(name, "ok", ("second", "ok"), place="refused")
    judge = judging.whole(TEXT, taken_over=True, unseen=True)
    return Case(name=name, section=section, does="refuses the connection", judge=judge, targets=targets, stream=stream)


def _usage() -> Iterable[Case]:
    counts = ("final", "with-finish", "after-finish", "cumulative", "x-groq", "null")
    for fault in (f"usage-{each}" for each in counts):
        for asked in (True, False):
            name = fault if asked else f"{fault}-unasked"
            yield Case(
                name=name, section="counts of tokens", does=FAULTS[fault].does,
                judge=judging.counted(USAGE if fault == "usage-null" else ODD_USAGE, asked=asked),
                targets=_targets(name, fault, ("second", "ok")), stream=True,
                members={"stream_options": {"include_usage": True}} if asked else {},
            )  # fmt: skip


def _drip() -> Case:
    name = "stream-drip-words"
    return Case(
        name=name, section="form", does=f"says a word every {judging.DRIP_MS} ms", judge=judging.unbuffered(TEXT),
        targets=_targets(name, f"ok;gap_ms={judging.DRIP_MS}", ("second", "ok")), stream=True,
    )  # fmt: skip


def _all_fail() -> Iterable[Case]:
    section = "nobody answers"
    for kind, stream in (("plain", False), ("stream", True)):
        for name, does, judge, first, more in (
            ("all-500", "500 from both", judging.refused_by_all, "status-500", "status-503"),
            ("all-429", "429 from both, retry-after 7 and 30 s", judging.limited_by_all(7), "status-429-date",
             "status-429-seconds"),
            ("alone-500", "500, and there is no second", judging.refused_by_all, "status-500", ""),
            ("alone-401", "401, and there is no second", judging.account_hidden, "status-401", ""),
            ("alone-429", "429, retry-after 7 s, no second", judging.limited_by_all(7), "status-429-seconds", ""),
        ):  # fmt: skip
            name = f"{kind}-{name}"
            seconds: tuple[tuple[Place, str], ...] = (("second", more),) if more else ()
            yield Case(
                name=name, section=section, does=does, judge=judge, targets=_targets(name, first, *seconds),
                stream=stream,
            )  # fmt: skip


def _hang_ups() -> Iterable[Case]:
    rows: tuple[tuple[str, str, HangUp, bool], ...] = (
        ("plain-hang-up", "stall-before-head", "waiting", False),
        ("stream-hang-up-early", "stall-before-head", "waiting", True),
        ("stream-hang-up", "endless-stream;size=10;gap_ms=20", "talking", True),
    )
    for name, fault, hang_up, stream in rows:
        does = f"{FAULTS[fault.partition(';')[0]].does}; the caller hangs up"
        yield Case(
            name=name, section="the caller hangs up", does=does, judge=judging.let_go, targets=_targets(name, fault),
            stream=stream, hang_up=hang_up,
        )  # fmt: skip


def _slow() -> Case:
    name = "stream-silence"
    return Case(
        name=name, section="keep-alive", does=f"thinks for {SILENCE_S} s", judge=judging.kept_alive(TEXT), stream=True,
        targets=_targets(name, f"ok;wait_ms={SILENCE_S * 1000}"), slow=True, deadline_s=SILENCE_S + DEADLINE_S,
    )  # fmt: skip


BEFORE = "before the first word"
STATUSES = (
    "status-401 status-402 status-403 status-404 status-408 status-429-seconds status-429-date"
    " status-500 status-502 status-503 status-529"
)
CASES: Final[tuple[Case, ...]] = (
    *_cases("the caller's own fault", "status-400", stream=False),
    *_cases("the caller's own fault", "status-400", stream=True),
    *_cases(f"plain, {BEFORE}", STATUSES, stream=False),
    _refused(f"plain, {BEFORE}", stream=False),
    *_cases(
        f"plain, {BEFORE}",
        "reset-before-head close-before-head cut-mid-head short-body chunked-body-cut half-json stall-before-head"
        " stall-mid-body empty-200 empty-object html-200 html-as-json error-object-200",
        stream=False,
    ),
    *_cases(f"stream, {BEFORE}", STATUSES, stream=True),
    _refused(f"stream, {BEFORE}", stream=True),
    *_cases(
        f"stream, {BEFORE}",
        "reset-before-head close-before-head cut-mid-head cut-after-head cut-after-role stall-before-head"
        " stall-after-head stall-after-role comments-forever empty-200 empty-stream only-done empty-deltas html-200"
        " json-for-stream error-event-first malformed-json-first",
        stream=True,
    ),
    *_cases(
        "stream, after the first word",
        "cut-between-chunks cut-in-chunk cut-rst no-finish no-finish-but-done half-last-event stall-mid-stream"
        " malformed-json-mid error-event-mid",
        stream=True,
    ),
    *_usage(),
    *_cases("form", "chunked-body drip", stream=False),
    *_cases(
        "form",
        "crlf-lines drip split-utf8 comments no-done double-done data-after-done close-delimited-stream",
        stream=True,
    ),
    _drip(),
    *_all_fail(),
    *_hang_ups(),
    _slow(),
)
"""every line, in the order of the card"""
