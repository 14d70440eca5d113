"""When a target is left alone, and when it is tried again: one `Breaker` per (target, credential), a *lane*.

    closed ──RUN failures in a row, or FAILURE_SHARE of MIN_SAMPLES within WINDOW_S──▶ open ──retry_at──▶ half_open
      ▲                                                          ▲                                          │
      └── a success, whoever made it ── (open or half_open)      └────────── the probe failed: twice as long ┘

Rules
- Only `target_down` and `target_slow` count. A caller's fault, a dead or limited key, a caller that hung up do not.
- A success costs the caller `breaker.good += 1` and a look at `troubled`; only when that is true, `succeeded(now)`.
- A call that meets a breaker which is not closed: `ready(now)` says whether it may be the probe; then
  `begin_probe(now)`, and then one of `succeeded`, `failed` or, for every other end, `probe_abandoned`. A call that is
  let through because no other target is left is no probe and begins none; its verdict counts like any other.
- While half-open the first verdict is taken for the probe's: a target that fails someone now is down, whoever asked.
- The window is `BUCKETS` buckets. `tick(now)` turns them, for every breaker, at least every `BUCKET_S`; `failed` turns
  them as well. A failure counts from its moment until its bucket is the oldest and leaves: 54 to 60 s. A success is
  known only to lie between two ticks and is put at the earlier one, so it counts for 48 to 60 s: near the edge a
  breaker opens rather too early. With ticks further apart than a bucket, successes leave sooner still.
- Failures in a row are counted over any time, also where calls are rarer than the window is long.
"""

from typing import Literal

import msgspec

from potluck.model.usage import ErrorClass
from potluck.policy.retry import Random, jittered

WINDOW_S = 60.0
BUCKETS = 10
BUCKET_S = WINDOW_S / BUCKETS
MIN_SAMPLES = 20
"""calls in the window below which a share says nothing"""
FAILURE_SHARE = 0.5
"""of the window's calls; a tenth would open every target in a bad hour"""
RUN = 5
"""consecutive failures: what opens a breaker under low traffic"""
FIRST_OPEN_S = 15.0
MAX_OPEN_S = 300.0
"""each failed probe doubles the delay up to this; jitter comes on top"""
PROBE_LOST_S = 120.0
"""a probe whose end was never told counts as lost after this"""

State = Literal["closed", "open", "half_open"]


def counts(error_class: ErrorClass) -> bool:
    """The failure says something about the target."""
    return error_class in ("target_down", "target_slow")


class BreakerView(msgspec.Struct, frozen=True):
    """A breaker as people see it."""

    state: State
    reason: str
    retry_in_s: float
    """until a probe may go; 0 when it may now, or none is needed"""
    failures: int
    """within the window, of `samples` calls"""
    samples: int
    opens: int


class Breaker:
    """State of one lane. All times are monotonic seconds."""

    __slots__ = (
        "_bad_marks",
        "_bucket",
        "_cause",
        "_delay_s",
        "_good_marks",
        "_good_then",
        "_open_s",
        "_probe_at",
        "_run",
        "bad",
        "detail",
        "good",
        "opened_at",
        "opens",
        "reason",
        "retry_at",
        "state",
        "troubled",
    )

    def __init__(self, now: float) -> None:
        self.good = 0
        """successes ever; counted by the caller"""
        self.bad = 0
        """failures ever, of those that count"""
        self._bucket = int(now // BUCKET_S)
        self._good_marks = [0] * BUCKETS
        self._bad_marks = [0] * BUCKETS
        """the totals as each bucket of the window began, oldest first: what came since then is in the window"""
        self._forget()

    def _forget(self) -> None:
        """Closed, with an empty window."""
        self._good_marks[:] = [self.good] * BUCKETS
        self._bad_marks[:] = [self.bad] * BUCKETS
        self.state: State = "closed"
        self.troubled = False
        """there is a failure in the window, or it is not closed"""
        self.opened_at = 0.0
        """when it left `closed`; 0 while closed, as the next"""
        self.retry_at = 0.0
        """when a probe may go"""
        self.opens = 0
        """how often it opened since it was closed: one more with each failed probe"""
        self.reason = ""
        self.detail = ""
        """of the last failure, as it was told"""
        self._run = 0
        self._good_then = self.good
        """`good` at the last failure"""
        self._cause = ""
        self._open_s = FIRST_OPEN_S
        """the current delay before jitter"""
        self._delay_s = 0.0
        """and after"""
        self._probe_at = 0.0

    @property
    def run(self) -> int:
        """Failures since the last success."""
        return self._run if self.good == self._good_then else 0

    def failed(self, now: float, error_class: ErrorClass, detail: str, random: Random) -> bool:
        """A call on this lane failed. True: it opened just now (`opens` 1), or again after a failed probe (more).

        `detail` is in our words, as in `ports.Failure`. Classes that do not count change nothing.
        """
        if not counts(error_class):
            return False
        self.tick(now)
        self._run = self.run + 1
        self._good_then = self.good
        self.bad += 1
        self.troubled = True
        self.detail = detail
        if self.state == "open":
            self.retry_at = now + self._delay_s
            self.reason = self._words(detail)
            return False
        if self.state == "closed":
            self._cause = self._cause_to_open()
            if not self._cause:
                return False
            self.opened_at = now
        else:
            self._open_s = min(2 * self._open_s, MAX_OPEN_S)
        self.state = "open"
        self.opens += 1
        self._delay_s = jittered(self._open_s, random)
        self.retry_at = now + self._delay_s
        self.reason = self._words(detail)
        return True

    def succeeded(self, now: float) -> None:
        """A call on this lane succeeded while `troubled`; it is in `good` already. Closes and forgets everything.

        A closed breaker stays as it is: the failures in its window still count for the share.
        """
        if self.state != "closed":
            self.clear(now)

    def clear(self, now: float) -> None:
        """Closed by hand, everything forgotten."""
        self.tick(now)
        self._forget()

    def ready(self, now: float) -> bool:
        """A call may go: closed, or open with a probe due. Half-open: only once the probe counts as lost."""
        if self.state == "closed":
            return True
        if self.state == "open":
            return now >= self.retry_at
        return now - self._probe_at >= PROBE_LOST_S

    def begin_probe(self, now: float) -> None:
        """The caller goes ahead with the probe that `ready` allowed. Nothing happens where none is needed."""
        if self.state != "closed":
            self.state = "half_open"
            self._probe_at = now

    def probe_abandoned(self) -> None:
        """The probe ended without a verdict (the caller hung up, the key was limited): the next call may be one."""
        if self.state == "half_open":
            self.state = "open"

    def tick(self, now: float) -> None:
        """Turn the buckets to `now`; a closed breaker without a failure in its window is troubled no more."""
        bucket = int(now // BUCKET_S)
        passed = min(bucket - self._bucket, BUCKETS)
        if passed <= 0:
            return
        self._bucket = bucket
        for marks, total in ((self._good_marks, self.good), (self._bad_marks, self.bad)):
            del marks[:passed]
            marks.extend([total] * passed)
        if self.state == "closed" and self._bad_marks[0] == self.bad:
            self.troubled = False

    def view(self, now: float) -> BreakerView:
        """What the lane looks like at `now`."""
        self.tick(now)
        failures, samples = self._window()
        retry_in_s = max(0.0, self.retry_at - now) if self.state == "open" else 0.0
        return BreakerView(self.state, self.reason, retry_in_s, failures, samples, self.opens)

    def _window(self) -> tuple[int, int]:
        """Failures and calls in the window."""
        failures = self.bad - self._bad_marks[0]
        return failures, failures + self.good - self._good_marks[0]

    def _cause_to_open(self) -> str:
        """Why a closed breaker has to open, in words; empty: it has not."""
        if self._run >= RUN:
            return f"{self._run} failures in a row"
        failures, samples = self._window()
        if samples >= MIN_SAMPLES and failures >= FAILURE_SHARE * samples:
            return f"{failures} of {samples} calls failed within {WINDOW_S:g} s"
        return ""

    def _words(self, detail: str) -> str:
        probes = self.opens - 1
        since = f", then {probes} failed probe{'s' if probes > 1 else ''}" if probes else ""
        return f"{self._cause}{since}, the last: {detail}"
