"""What a check found: good, doubtful, bad, or not to be told; and how to mend it."""

from typing import Literal

import msgspec

State = Literal["ok", "warn", "fail", "skip"]


class Verdict(msgspec.Struct, frozen=True):
    """`skip`: the check does not apply or could not be made, and `found` says why."""

    check: str
    state: State
    found: str
    mend: str = ""


def ok(check: str, found: str) -> Verdict:
    return Verdict(check, "ok", found)


def skip(check: str, found: str) -> Verdict:
    return Verdict(check, "skip", found)


def warn(check: str, found: str, mend: str) -> Verdict:
    return Verdict(check, "warn", found, mend)


def fail(check: str, found: str, mend: str) -> Verdict:
    return Verdict(check, "fail", found, mend)
