"""What may be called after a failed call, how long to wait before it, and who is to blame.

Rules
- A request makes at most `MAX_CALLS` upstream calls to at most `MAX_TARGETS` targets, hedges included, and none at or
  after its deadline.
- Another target is tried at once. So is another key of the same target, where the key was the fault: it is no new
  target. Where the target was the fault, its other keys would meet the same; and a 403 is mostly about the model or
  the request, so that one request would cost a target all its keys.
- The same target is called again only after a back-off, once, and only when it was not reached or answered 5xx: in all
  other cases it did the work, or may have.
- A node's refusal is no call and no target, up to `MAX_REFUSALS` of a request: it cost a round trip and nobody's work.
  After so many, others of that tier would refuse too: the next tier is tried. A node that refused is asked again only
  if it said when, and nothing else is left. One inside an answer did some of the work: it is a call and a target.
- A caller's fault is final. A refusal of the request by a target's own rules (`policy`) is not: others have others.
"""

from collections.abc import Callable, Iterable
from typing import Literal

from potluck.model.usage import ErrorClass

MAX_TARGETS = 3
MAX_CALLS = 4
MAX_REFUSALS = 3
"""nodes' refusals that a request takes beside its calls"""
SAME_TARGET_FIRST_S = 0.5
"""the first back-off of a request; doubles with each further one"""
SAME_TARGET_MAX_S = 5.0
"""the longest; a target that asks for more by `Retry-After` is not called again"""
JITTER_MIN = 0.8
JITTER_MAX = 1.2
"""a delay is multiplied by a factor between the two, so that what failed together is not tried again together"""

Random = Callable[[], float]
"""uniform in [0, 1)"""

Blame = Literal["caller", "policy", "provider", "node", "gateway"]
"""Whose fault a failed attempt was: a closed set, used in metrics, logs and reports."""

FINAL: frozenset[ErrorClass] = frozenset(("caller_fault", "client_closed"))
"""no other target would do better, or nobody waits any more"""


def another_key_may_do(error_class: ErrorClass, status: int) -> bool:
    """Whether a call that failed so may fare better at the same target by another key."""
    # a 402 of the request itself: another account may be able to pay for it
    return error_class in ("key_dead", "key_limited") or (error_class == "policy" and status == 402)


def another_key_first(error_class: ErrorClass, status: int) -> bool:
    """Whether that key comes before other targets; not after a 403, which is mostly about the model."""
    return another_key_may_do(error_class, status) and status != 403


def jittered(delay_s: float, random: Random) -> float:
    """`delay_s` times `JITTER_MIN` to `JITTER_MAX`."""
    return delay_s * (JITTER_MIN + (JITTER_MAX - JITTER_MIN) * random())


def backoff_s(n: int, random: Random) -> float:
    """Seconds before the `n`-th (from 0) same-target call of a request; 0.4 to 6, jitter included."""
    return jittered(min(SAME_TARGET_FIRST_S * 2**n, SAME_TARGET_MAX_S), random)


def smallest_retry_after(waits_s: Iterable[float | None]) -> float | None:
    """The soonest of what targets asked for (`Failure.retry_after_s`, rest of a park); None if none said anything."""
    return min((wait for wait in waits_s if wait is not None), default=None)


def blame(error_class: ErrorClass, target: str = "", *, shutdown: bool = False) -> Blame | None:
    """Who caused an attempt's end; None where nothing failed. `target` as in records: `node:lab-1/llama3.2:3b`.

    `shutdown`: the gateway's drain was over before the attempt was, so that it has no error class of its own.
    """
    match error_class:
        case "none":
            return "gateway" if shutdown else None
        case "caller_fault" | "client_closed":
            return "caller"
        case "policy":
            return "policy"
        case "lost":
            return "gateway"
        case "key_dead" | "key_limited" | "target_down" | "target_slow" | "refused":
            return "node" if target.startswith("node:") else "provider"


class Spent:
    """What a request has used of its allowance. Made when its first call fails or is hedged: a good one needs none.

    Each call is told twice: `called` when it begins, `failed` when it fails. `target` and `credential` are any ids.
    """

    __slots__ = ("_refused", "_repeated", "_then", "_tried", "calls", "deadline", "final", "refusals")

    def __init__(self, deadline: float) -> None:
        """`deadline`: monotonic seconds, of the whole request."""
        self.deadline = deadline
        self.calls = 0
        self.refusals = 0
        """calls that were refused and do not count"""
        self._refused: set[str] = set()
        """targets that refused so and were not called again"""
        self.final = False
        """a failure ended the request, whatever is left"""
        self._tried: dict[str, set[str | None]] = {}
        """by target: the credentials that it was called with"""
        self._then: dict[str, float | None] = {}
        """by target that has failed and is not under way: None where another key may do better, else the seconds that
        it asked to be left alone before it is called again, 0 if none"""
        self._repeated: set[str] = set()
        """targets that were called again though not for a key's sake"""

    @property
    def targets(self) -> int:
        """Distinct targets called so far, without those that only refused."""
        return len(self._tried) - len(self._refused)

    def called(self, target: str, credential: str | None) -> None:
        """A call has begun, for whatever reason: first, next target, next key, same again, hedge."""
        self.calls += 1
        self._refused.discard(target)
        if self._then.pop(target, 0.0) is not None and target in self._tried:
            self._repeated.add(target)
        self._tried.setdefault(target, set()).add(credential)

    def failed(
        self, target: str, error_class: ErrorClass, phase: str, status: int, retry_after_s: float | None = None
    ) -> None:
        """A call has failed, in the terms of `ports.Failure`; what is still under way elsewhere goes on."""
        self._then.pop(target, None)
        if error_class in FINAL:
            self.final = True
        elif error_class == "refused":
            if phase != "stream" and self.refusals < MAX_REFUSALS:
                self.refusals += 1
                self.calls -= 1
                self._refused.add(target)
            if retry_after_s is not None and retry_after_s <= SAME_TARGET_MAX_S:
                self._then[target] = retry_after_s
        elif another_key_may_do(error_class, status):
            self._then[target] = None
        elif (phase == "connect" or 500 <= status <= 599) and (retry_after_s or 0.0) <= SAME_TARGET_MAX_S:
            self._then[target] = retry_after_s or 0.0

    def may_call(self, now: float) -> bool:
        """A call is left, and time for it."""
        return not self.final and self.calls < MAX_CALLS and now < self.deadline

    def may_try(self, target: str, credential: str | None, now: float) -> bool:
        """The target may be called at once with this credential: it is new, or another key of it was at fault."""
        if not self.may_call(now):
            return False
        tried = self._tried.get(target)
        if tried is None:
            return self.targets < MAX_TARGETS
        return self._then.get(target, 0.0) is None and credential not in tried

    def again_after_s(self, target: str, now: float, random: Random) -> float | None:
        """Seconds after which the target may be called again, for when `may_try` has none left; None: not at all."""
        asked_s = self._then.get(target)
        if asked_s is None or target in self._repeated or not self.may_call(now):
            return None
        wait_s = max(backoff_s(len(self._repeated), random), asked_s)
        return wait_s if now + wait_s < self.deadline else None
