"""Standing of upstream keys: *parked* by a 429, for a while, on one lane; or *dead*, until the provider takes it again.

Rules
- A 429 parks the key on its lane (target × credential), never the provider and never the target.
- 401 and 402 kill a key wherever it is used: one `KeyHealth` per credential. 403 kills it on its lane only, as many
  providers say it for one model: one `KeyHealth` per lane. `kills_whole_key` tells which.
- A dead key is set aside and tried by one call a minute; nothing else revives it but a hand.
- A good call looks at `Parking.row` and `KeyHealth.dead` and calls `succeeded` only when they are set.
- A probe ends with one of `succeeded`, `died` or, for every other end, `probe_abandoned`.
"""

from potluck.policy.breaker import PROBE_LOST_S

PARK_FIRST_S = 1.0
"""the first park without a `Retry-After`; doubles with each 429 in a row"""
PARK_MAX_S = 60.0
PROBE_EVERY_S = 60.0
"""between two tries of a dead key, the first one included"""


def kills_whole_key(status: int) -> bool:
    """For a failure of class `key_dead`: no lane can use the key. Without such a status it is only this lane's."""
    return status in (401, 402)


class Parking:
    """How long a lane's key is left alone after 429s. All times are monotonic seconds."""

    __slots__ = ("_delay_s", "detail", "row", "until")

    def __init__(self) -> None:
        self._delay_s = PARK_FIRST_S
        self.until = 0.0
        """no call before this"""
        self.row = 0
        """429s since the last success"""
        self.detail = ""

    def park(self, now: float, retry_after_s: float | None, detail: str) -> None:
        """A 429 came. `retry_after_s`: as `parse_retry_after` gave it; 0 says no more than None does.

        A running park is never shortened. Calls that were under way when it began come back with 429s of their own:
        they do not double the delay.
        """
        if self.row and now >= self.until:
            self._delay_s = min(2 * self._delay_s, PARK_MAX_S)
        self.row += 1
        self.until = max(self.until, now + (retry_after_s or self._delay_s))
        self.detail = detail

    def parked(self, now: float) -> bool:
        return now < self.until

    def succeeded(self) -> None:
        """A call on this lane succeeded: the next park is a short one again. One that runs goes on."""
        self.row = 0
        self._delay_s = PARK_FIRST_S

    def clear(self) -> None:
        """Ended by hand."""
        self.succeeded()
        self.until = 0.0
        self.detail = ""


class KeyHealth:
    """Whether a key is taken by its provider: of a whole credential, or of one lane. Times are monotonic seconds."""

    __slots__ = ("_probe_at", "_probing", "dead", "detail", "retry_at", "since")

    def __init__(self) -> None:
        self.dead = False
        self.since = 0.0
        """when it died; 0 while alive, as the next"""
        self.retry_at = 0.0
        """when a probe may go"""
        self.detail = ""
        self._probing = False
        self._probe_at = 0.0

    def died(self, now: float, detail: str) -> bool:
        """The key was refused, by a call or by the probe. True: it was alive until now."""
        first = not self.dead
        if first:
            self.dead = True
            self.since = now
        self._probing = False
        self.retry_at = now + PROBE_EVERY_S
        self.detail = detail
        return first

    def ready(self, now: float) -> bool:
        """A call may go: alive, or a probe is due and none under way (one whose end was never told is lost in time)."""
        if not self.dead:
            return True
        return now >= self.retry_at and not (self._probing and now - self._probe_at < PROBE_LOST_S)

    def begin_probe(self, now: float) -> None:
        """The caller goes ahead with the probe that `ready` allowed. Nothing happens where none is needed."""
        if self.dead:
            self._probing = True
            self._probe_at = now
            self.retry_at = now + PROBE_EVERY_S

    def probe_abandoned(self) -> None:
        """The probe ended without a verdict on the key. It was this minute's."""
        self._probing = False

    def succeeded(self) -> None:
        """A call with this key succeeded: it lives."""
        self.dead = self._probing = False
        self.since = self.retry_at = 0.0
        self.detail = ""

    def clear(self) -> None:
        """Revived by hand."""
        self.succeeded()
