"""When a provider is asked whether it is well, and what that may cost. Active probes, off unless a provider has them.

    every_s over ──▶ did calls succeed since the last round? ──no──▶ GET /models ──▶ a completion, if `wants_completion`
                                                         └──yes──────────────────────▲

Rules
- One `Rounds` per account (a credential at its provider's place); one round at a time, `every_s` and some jitter apart.
- Live traffic comes first: where a call of the account succeeded since the last round, nothing is asked.
- `GET /models` proves server and key, not the model. It revives a dead key, but only once until a call succeeds: some
  servers list their models to anybody. It lets an open breaker's probe go now, but closes none; and not again while
  that probe has failed, unless the server was seen down in between.
- Its failure counts as one failure of each ready lane, and a good one makes up for those that probes alone have added.
- A completion costs money: it follows only where there is no list of models, or where the list is well and the model's
  breaker is open; never when a call succeeded there since the last round; never beyond the day's budget.
"""

from collections.abc import Iterable
from typing import Literal

from potluck.model.price import Price, cost_nanousd
from potluck.model.usage import TokenUsage
from potluck.policy.breaker import Breaker
from potluck.policy.retry import Random

JITTER = 0.2
"""a round comes `every_s` to 1.2 times `every_s` after the one before"""
MAX_TOKENS = 16
"""of a completion: the least that OpenAI takes in all dialects. A thinking model spends them thinking"""
DAY_S = 86_400

Kind = Literal["models", "completion"]
Outcome = Literal[
    "ok",
    "not_served",
    "key_dead",
    "key_limited",
    "target_down",
    "target_slow",
    "caller_fault",
    "no_budget",
    "not_callable",
]
"""How a probe ended: a closed set, used in metrics and logs. `not_served`: there is no list of models, or not for this
key. `caller_fault`: it does not like our question, which says nothing of its health. The last two were not sent: the
day's budget is used up; the model has no price, or does not chat."""


class Rounds:
    """The rounds of one account. All times are monotonic seconds."""

    __slots__ = (
        "_blamed",
        "_due_at",
        "_good",
        "_model",
        "_model_good",
        "_model_live",
        "_revived",
        "live",
        "under_way",
        "was_down",
    )

    def __init__(
        self, now: float, every_s: float, random: Random, breakers: Iterable[Breaker] = (), model: Breaker | None = None
    ) -> None:
        """`breakers`: of all the account's lanes; `model`: of the one that a completion would go over, among them."""
        self.under_way = False
        self.live = False
        """calls of the account succeeded between the last round and the one before"""
        self.was_down = False
        """the last `GET /models` found the server down"""
        self._model_live = self._revived = False
        self._blamed: dict[Breaker, int] = {}
        """failures that probes have added, since anything succeeded"""
        self._look(breakers, model)
        self._due_at = now + every_s * (1 + JITTER * random())

    def _look(self, breakers: Iterable[Breaker], model: Breaker | None) -> None:
        self._model = model
        self._good = sum([each.good for each in breakers])
        self._model_good = model.good if model is not None else 0

    def due(self, now: float) -> bool:
        return not self.under_way and now >= self._due_at

    def begin(
        self, now: float, every_s: float, random: Random, breakers: Iterable[Breaker], model: Breaker | None = None
    ) -> None:
        """A round begins; `end` has to follow."""
        before, model_before = self._good, self._model_good
        self._look(breakers, model)
        self.live = self._good != before
        self._model_live = self._model_good != model_before
        if self.live:
            self._revived = self.was_down = False
            self._blamed.clear()
        self.under_way = True
        self._due_at = now + every_s * (1 + JITTER * random())

    def end(self) -> None:
        self.under_way = False

    @property
    def quiet(self) -> bool:
        """No call has succeeded on the model's lane since the round before this one, up to now."""
        return self._model is not None and not self._model_live and self._model.good == self._model_good

    # --- what GET /models says

    def listed(self, now: float, breakers: Iterable[Breaker]) -> None:
        """The server is up, and takes the key."""
        came_back, self.was_down = self.was_down, False
        for breaker, times in self._blamed.items():
            if breaker.run == times:
                self.succeeded(breaker)
        self._blamed.clear()
        for breaker in breakers:
            if breaker.state == "open" and (came_back or breaker.opens == 1):
                breaker.retry_at = min(breaker.retry_at, now)

    def may_revive(self) -> bool:
        """The list came for a key that counts as dead. True: it lives again; false: the list has said so in vain."""
        first, self._revived = not self._revived, True
        return first

    def down(self, ready: Iterable[Breaker]) -> None:
        """The server is not up. `ready`: of the lanes against which that was counted."""
        self.was_down = True
        for breaker in ready:
            self._blamed[breaker] = self._blamed.get(breaker, 0) + 1

    def succeeded(self, breaker: Breaker) -> None:
        """A probe succeeded on a lane: counted there, but not as live traffic."""
        breaker.good += 1
        self._good += 1
        if breaker is self._model:
            self._model_good += 1


def wants_completion(models: Outcome, *, quiet: bool, free: bool, is_open: bool) -> bool:
    """Whether the model itself has to be asked, once `GET /models` (or live traffic: `ok`) has said what it can.

    `quiet` as `Rounds.quiet`; `free`: its lane takes a call now, as an ordinary one or as the breaker's probe;
    `is_open`: the breaker is not closed.
    """
    return quiet and free and (models == "not_served" or (models == "ok" and is_open))


def completion_body(model_json: bytes, limit_member: str = "max_tokens") -> bytes:
    """A chat request for a few tokens."""
    return b'{"model":%b,"messages":[{"role":"user","content":"Say ok."}],"%b":%d}' % (
        model_json,
        limit_member.encode(),
        MAX_TOKENS,
    )


def bound_nanousd(price: Price, request_bytes: int) -> int:
    """The most that a completion of `MAX_TOKENS` costs: each byte of it a token, all of the answer text or thoughts."""
    usages = [TokenUsage(request_bytes, MAX_TOKENS, reasoning_tokens=thoughts) for thoughts in (0, MAX_TOKENS)]
    return max([cost_nanousd(usage, price) for usage in usages])


class DayBudget:
    """What probes cost today, in nano-USD by provider id. A day is one of UTC: unix seconds over `DAY_S`."""

    def __init__(self, day: int = 0, spent: dict[str, int] | None = None) -> None:
        self.day = day
        self.spent = dict(spent or {})

    def reserve(self, provider_id: str, amount: int, limit: int, day: int) -> bool:
        """Take `amount` out of the day's `limit` before it is spent. False: it does not fit, and nothing is taken.

        A clock that is set back begins no new day.
        """
        if day > self.day:
            self.day, self.spent = day, {}
        after = self.spent.get(provider_id, 0) + amount
        if limit <= 0 or after > limit:
            return False
        self.spent[provider_id] = after
        return True

    def settle(self, provider_id: str, reserved: int, cost: int, day: int) -> None:
        """What was reserved on `day` has cost `cost`, which may be more (a model that thinks beyond its limit)."""
        if day == self.day:
            self.spent[provider_id] = self.spent.get(provider_id, 0) + cost - reserved
