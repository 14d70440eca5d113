"""Active probes: sends what `policy.probing` finds due, and tells the registry what came of it.

Rules
- Nothing runs for a provider without `probe`. Swept by the ticker; `close` ends what is on its way.
- One call at a time per account, over the ordinary pool, with a deadline and a cap on what is read.
- A lane is told of a completion as of any call. `GET /models` speaks for all lanes of its account, as the policy says;
  of a provider without a key it says nothing about keys.
- What completions may cost is reserved before they are sent and kept in `HOME/probes-spent.json`, so that a restart
  begins no new day. They belong to no project: their cost is in the log and in a metric, in no usage record.
- Logged are names, our own words and numbers: never a head, a key, or what a provider wrote.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import msgspec

from potluck.model.price import NANOUSD_PER_USD, Price, cost_nanousd, nanousd_to_usd_text
from potluck.model.snapshot import CompiledProbe, CompiledTarget, RequestHead
from potluck.policy.probing import (
    DAY_S,
    DayBudget,
    Kind,
    Outcome,
    Rounds,
    bound_nanousd,
    completion_body,
    wants_completion,
)
from potluck.ports import SnapshotSource, Upstream
from potluck.proxy.registry import PROBE, READY, Lane, Registry
from potluck.runtime.probe_call import DEADLINE_S, ProbeCall, read_completion, read_models

log = logging.getLogger("potluck.probes")

SPENT_FILE = "probes-spent.json"


class _Asked(NamedTuple):
    """A completion on its way."""

    lane: Lane
    target: CompiledTarget
    price: Price
    body_bytes: int
    reserved: int
    day: int
    begun_at: float
    is_probe: bool
    """of a breaker that is not closed, or of a dead key"""


class _Account:
    """One credential of a provider that wants probes."""

    __slots__ = (
        "asked",
        "call",
        "dearest_nanousd",
        "head",
        "limit_member",
        "prefix",
        "probe",
        "rounds",
        "said",
        "target",
    )

    def __init__(self, probe: CompiledProbe, target: CompiledTarget, head: RequestHead) -> None:
        self.probe = probe
        self.target = target
        self.head = head
        self.prefix = f"{target.endpoint.key} "
        """of the places that are its provider's"""
        self.rounds: Rounds
        self.call: ProbeCall | None = None
        self.asked: _Asked | None = None
        """the completion that runs"""
        self.dearest_nanousd = 0
        """what a completion has cost at most: a model may think beyond its limit"""
        self.limit_member = "max_tokens"
        self.said: dict[Kind, Outcome] = {}
        """how the last probe of each kind ended"""

    @property
    def asks_model(self) -> bool:
        return bool(self.probe.probe.model) and self.probe.probe.budget_usd_per_day > 0

    @property
    def callable(self) -> bool:
        target = self.target
        return target.price is not None and not target.unroutable and "chat" in target.heads

    def __str__(self) -> str:
        name = self.target.credential
        return f"{self.probe.provider}{f' by credential {name!r}' if name else ''}"


class _Spent(msgspec.Struct, frozen=True):
    """`probes-spent.json`."""

    day: int = 0
    nanousd: dict[str, int] = {}


class Probes:
    """All probes of a gateway. Lives on one event loop."""

    def __init__(
        self,
        snapshots: SnapshotSource,
        registry: Registry,
        upstreams: Mapping[str, Upstream],
        home: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        unix_s: Callable[[], float] = time.time,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._snapshots = snapshots
        self._registry = registry
        self._upstreams = upstreams
        self._file = home / SPENT_FILE
        self._clock = clock
        self._unix_s = unix_s
        self._random = uniform
        self._accounts: dict[tuple[str, str | None], _Account] = {}
        self._made_from: object = None
        self._closed = False
        self._budget = self._load()
        self.counts: dict[tuple[str, ...], int] = {}
        """probes by (provider, kind, outcome)"""
        self.cost_nanousd: dict[tuple[str, ...], int] = {}
        """of completions, by (provider,)"""

    def sweep(self, now: float) -> None:
        """Begin what is due, end what is late. Called ten times a second; does nothing where nobody wants probes."""
        if self._closed:
            return
        if self._snapshots.current is not self._made_from:
            self._follow(now)
        for account in self._accounts.values():
            if account.call is not None and now >= account.call.deadline:
                account.call.late()
            elif account.rounds.due(now):
                self._begin(account, now)

    def close(self) -> None:
        """No more probes; what is on its way is given up. Idempotent."""
        self._closed = True
        for account in self._accounts.values():
            self._drop(account)
        self._accounts = {}

    # --- whom to ask

    def _follow(self, now: float) -> None:
        """Take over the configuration. An account whose key, times or model have changed begins anew."""
        snapshot = self._made_from = self._snapshots.current
        before, self._accounts = self._accounts, {}
        for probe in snapshot.probes:
            for target, head in zip(probe.targets, probe.models_heads, strict=True):
                name = (target.endpoint.key, target.credential_id)
                account = before.pop(name, None)
                if account is None or account.head.wire != head.wire or account.probe.probe != probe.probe:
                    if account is not None:
                        self._drop(account)
                    account = _Account(probe, target, head)
                    model = self._model_lane(account)
                    account.rounds = Rounds(
                        now,
                        probe.probe.every_s,
                        self._random,
                        [lane.breaker for lane in self._lanes(account)],
                        model.breaker if model is not None else None,
                    )
                account.probe, account.target = probe, target
                self._accounts[name] = account
        for gone in before.values():
            self._drop(gone)

    def _drop(self, account: _Account) -> None:
        call, account.call = account.call, None
        if call is not None:
            call.cancel("no longer wanted")
        asked, account.asked = account.asked, None
        if asked is not None:
            # it may be billed all the same: it stays reserved
            self._registry.standing(asked.lane.place).in_flight -= 1
            if asked.is_probe:
                self._registry.abandoned(asked.lane)

    def _lanes(self, account: _Account) -> list[Lane]:
        """Those lanes of the account that are known."""
        credential_id, prefix = account.target.credential_id, account.prefix
        return [
            lane
            for (place, credential), lane in self._registry.lanes.items()
            if credential == credential_id and place.startswith(prefix)
        ]

    def _some_lane(self, account: _Account) -> Lane | None:
        """Any lane of the account, to say something of its key; None: no model is served by it."""
        known = self._lanes(account)
        if known:
            return known[0]
        for target in self._targets():
            if (
                target.credential_id == account.target.credential_id
                and target.endpoint.key == account.target.endpoint.key
            ):
                return self._registry.lane(target)
        return None

    def _targets(self) -> Iterator[CompiledTarget]:
        snapshot = self._snapshots.current
        for model in chain(snapshot.models.values(), snapshot.pins.values()):
            yield from model.targets

    def _model_lane(self, account: _Account) -> Lane | None:
        return self._registry.lane(account.target) if account.asks_model and account.callable else None

    # --- a round: the list of models first

    def _begin(self, account: _Account, now: float) -> None:
        model = self._model_lane(account)
        breakers = [lane.breaker for lane in self._lanes(account)]
        every_s = account.probe.probe.every_s
        account.rounds.begin(now, every_s, self._random, breakers, model.breaker if model is not None else None)
        if account.rounds.live and not self._key_is_dead(account):
            self._then_model(account, "ok", now)
            return
        account.call = call = ProbeCall(now + DEADLINE_S, lambda call: self._listed(account, call))
        call.open(self._upstreams[account.target.upstream], account.target, account.head, b"")

    def _key_is_dead(self, account: _Account) -> bool:
        key = self._registry.keys.get(account.target.credential_id or "")
        return key is not None and key.dead

    def _listed(self, account: _Account, call: ProbeCall) -> None:
        """`GET /models` is over."""
        account.call = None
        now = self._clock()
        outcome, failure = read_models(call, has_key=account.target.credential_id is not None)
        self._count(account, "models", outcome, failure.detail if failure is not None else "")
        rounds = account.rounds
        if failure is None:
            if outcome == "ok":
                if self._key_is_dead(account):
                    self._revive(account)
                rounds.listed(now, [lane.breaker for lane in self._lanes(account)])
        elif outcome == "key_dead":
            lane = self._some_lane(account)
            if lane is not None:
                self._registry.failed(lane, failure, now, probe=False)
        else:
            ready = [lane for lane in self._lanes(account) if lane.state(now) == READY]
            rounds.down([lane.breaker for lane in ready])
            for lane in ready:
                self._registry.failed(lane, failure, now, probe=False)
        self._then_model(account, outcome, now)

    def _revive(self, account: _Account) -> None:
        """The provider takes a dead key again. A place that refuses it (403) still does."""
        if not account.rounds.may_revive():
            return
        self._registry.keys[account.target.credential_id or ""].succeeded()
        log.info("credential_alive: %s is back: GET /models was answered", account)
        lane = self._some_lane(account)
        if lane is not None and self._registry.on_notice is not None:
            self._registry.on_notice("credential_alive", lane, "GET /models was answered")

    # --- and perhaps the model itself

    def _then_model(self, account: _Account, models: Outcome, now: float) -> None:
        if not self._ask_model(account, models, now):
            account.rounds.end()

    def _ask_model(self, account: _Account, models: Outcome, now: float) -> bool:
        """Send a completion, if one is wanted and may cost what it may cost."""
        lane, target = self._model_lane(account), account.target
        if lane is None:
            if account.asks_model and models == "not_served":
                why = target.unroutable or "the model does not chat"
                self._count(account, "completion", "not_callable", why)
            return False
        quiet, free = account.rounds.quiet, lane.state(now) in (READY, PROBE)
        if not wants_completion(models, quiet=quiet, free=free, is_open=lane.breaker.state != "closed"):
            return False
        assert target.price is not None
        body = completion_body(target.model_json, account.limit_member)
        reserved = max(bound_nanousd(target.price, len(body)), account.dearest_nanousd)
        day = int(self._unix_s() // DAY_S)
        if not self._reserve(account, reserved, day):
            return False
        is_probe = lane.troubled and self._registry.begin(lane, now)
        self._registry.standing(lane.place).in_flight += 1
        asked = account.asked = _Asked(lane, target, target.price, len(body), reserved, day, now, is_probe)
        account.call = call = ProbeCall(now + DEADLINE_S, lambda call: self._completed(account, asked, call))
        call.open(self._upstreams[target.upstream], target, target.heads["chat"], body)
        return True

    def _completed(self, account: _Account, asked: _Asked, call: ProbeCall) -> None:
        """A completion is over."""
        account.call = account.asked = None
        lane = asked.lane
        self._registry.standing(lane.place).in_flight -= 1
        outcome, failure, usage = read_completion(call, asked.body_bytes)
        if usage is not None:
            cost = cost_nanousd(usage, asked.price)
        elif failure is None or (failure.phase != "connect" and call.status in (0, 200)):
            cost = asked.reserved  # what was cut or late may be billed as well
        else:
            cost = 0
        account.dearest_nanousd = max(account.dearest_nanousd, cost)
        self._budget.settle(account.probe.provider_id, asked.reserved, cost, asked.day)
        self._save()
        name = (account.probe.provider,)
        self.cost_nanousd[name] = self.cost_nanousd.get(name, 0) + cost
        now = self._clock()
        if failure is None:
            account.rounds.succeeded(lane.breaker)
            if lane.troubled:
                self._registry.succeeded(lane, now, asked.begun_at, probe=asked.is_probe)
        else:
            self._registry.failed(lane, failure, now, asked.target, probe=asked.is_probe)
            if outcome == "caller_fault" and b"max_completion_tokens" in call.body():
                # as OpenAI's thinking models want to be asked: the next one is
                account.limit_member = "max_completion_tokens"
        self._count(account, "completion", outcome, failure.detail if failure is not None else "", cost)
        account.rounds.end()

    # --- money

    def _reserve(self, account: _Account, amount: int, day: int) -> bool:
        probe = account.probe
        limit = round(probe.probe.budget_usd_per_day * NANOUSD_PER_USD)
        if not self._budget.reserve(probe.provider_id, amount, limit, day):
            self._count(account, "completion", "no_budget", "it could cost more than is left of the day's budget")
            return False
        if not self._save():
            self._budget.settle(probe.provider_id, amount, 0, day)
            self._count(account, "completion", "no_budget", "what it costs cannot be written down")
            return False
        return True

    def _load(self) -> DayBudget:
        try:
            spent = msgspec.json.decode(self._file.read_bytes(), type=_Spent)
        except FileNotFoundError:
            spent = _Spent()
        except (OSError, msgspec.MsgspecError):
            log.warning("%s cannot be read: what probes have cost today counts from now", SPENT_FILE)
            spent = _Spent()
        return DayBudget(spent.day, spent.nanousd)

    def _save(self) -> bool:
        """Write down what was spent; whole or not at all."""
        draft = self._file.with_name(f".{SPENT_FILE}")
        try:
            draft.write_bytes(msgspec.json.encode(_Spent(self._budget.day, self._budget.spent)))
            draft.replace(self._file)
        except OSError:
            return False
        return True

    # --- what is told

    def _count(self, account: _Account, kind: Kind, outcome: Outcome, detail: str, cost: int | None = None) -> None:
        key = (account.probe.provider, kind, outcome)
        self.counts[key] = self.counts.get(key, 0) + 1
        news = account.said.get(kind) != outcome
        account.said[kind] = outcome
        what = "GET /models" if kind == "models" else f"a completion of {account.probe.probe.model}"
        why = detail.removeprefix(f"{what}: ")
        text = f"{outcome}{f' ({why})' if why else ''}"
        if cost is not None:
            spent = nanousd_to_usd_text(self._budget.spent.get(account.probe.provider_id, 0))
            text += f"; it cost USD {nanousd_to_usd_text(cost)}, with which the day has come to {spent}"
        log.log(logging.INFO if news or cost else logging.DEBUG, "probe of %s: %s: %s", account, what, text)
