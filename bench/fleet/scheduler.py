"""Potluck's policy as the gateway runs it: everything that decides is `potluck.policy`, and no number stands here.

Per machine and model one `Machine` in an `Option` with a `Breaker`, all of which outlive the machine's links; per
request one `Ask` and one `Spent`. Away machines are passed over, then those whose breaker is not ready unless that
leaves none; a strategy takes one of the rest.
"""

from bench.fleet.sight import Prompt, Report
from potluck.model.resources import Strategy
from potluck.model.usage import ErrorClass
from potluck.policy.breaker import BUCKET_S, Breaker
from potluck.policy.fleet_selection import pick_of
from potluck.policy.machine_cost import Ask
from potluck.policy.machine_groups import Host, Peers
from potluck.policy.machines import Machine, Work
from potluck.policy.retry import Random, Spent
from potluck.policy.selection import Wish
from potluck.policy.standing import Option, Standing

STRATEGY: Strategy = "cheapest"
"""own machines cost nothing, all of them: what decides is the choice between machines"""


class Place:
    """One model on one machine."""

    def __init__(self, box: str, model: str, peers: Peers, host: Host, now: float) -> None:
        self.box = box
        self.machine = Machine(peers, host)
        standing = Standing()
        standing.machine = self.machine
        self.option = Option(standing, f"{box}/{model}", own=True, cost=0.0)
        self.breaker = Breaker(now)


class Potluck:
    """Implements `sight.Scheduler`."""

    def __init__(self, random: Random, deadline_s: float) -> None:
        """`deadline_s`: of a request."""
        self.random = random
        self._deadline_s = deadline_s
        self._hosts: dict[str, Host] = {}
        self._peers: dict[str, Peers] = {}
        self._places: dict[tuple[str, str], Place] = {}
        """by machine and model"""
        self._away: dict[str, str] = {}
        self._asked: dict[int, tuple[Ask, Spent]] = {}
        """by request under way"""
        self._ticked_s = 0.0

    def joined(self, box: str, models: tuple[str, ...], now: float) -> None:
        host = self._hosts.setdefault(box, Host())
        for model in models:
            if (box, model) not in self._places:
                self._places[box, model] = Place(box, model, self._peers.setdefault(model, Peers()), host, now)

    def away(self, box: str, reason: str, now: float) -> None:
        self._away[box] = reason

    def report(self, report: Report, now: float) -> None:
        place = self._places[report.box, report.model]
        place.option.slots = report.slots
        place.machine.report(
            reported_at=now,
            resident=report.resident,
            loading_eta_s=report.loading_eta_s,
            running=report.running,
            waiting=report.waiting,
            prefill_tps=report.prefill_tps,
            decode_tps=report.decode_tps,
            load_s=report.load_s,
            slots=report.slots,
            context_tokens=report.context_tokens,
            rtt_ms=report.rtt_ms,
        )

    def pick(self, prompt: Prompt, tried: list[str], now: float) -> str | None:
        self._tick(now)
        if prompt.number not in self._asked:
            ask = Ask(prompt.tokens, prompt.expected_output_tokens, prompt.blocks)
            self._asked[prompt.number] = ask, Spent(now + self._deadline_s)
        ask, spent = self._asked[prompt.number]
        places = [
            place
            for (box, model), place in self._places.items()
            if model == prompt.model and not self._away.get(box) and spent.may_try(box, None, now)
        ]
        places = [place for place in places if place.breaker.ready(now)] or places
        if not places:
            del self._asked[prompt.number]
            return None
        options = [place.option for place in places]
        wish = Wish(stream=True, output_tokens=ask.output_tokens, now=now, ask=ask)
        return places[pick_of(STRATEGY, options)(options, wish, self.random)].box

    def begin(self, box: str, prompt: Prompt, now: float) -> "PotluckCall":
        place, (ask, spent) = self._places[box, prompt.model], self._asked[prompt.number]
        if place.breaker.ready(now):
            place.breaker.begin_probe(now)
        spent.called(box, None)
        return PotluckCall(self, place, prompt.number, spent, place.machine.begin(ask, now))

    def answered(self, number: int) -> None:
        del self._asked[number]

    def _tick(self, now: float) -> None:
        if now - self._ticked_s >= BUCKET_S:
            self._ticked_s = now
            for place in self._places.values():
                place.breaker.tick(now)


class PotluckCall:
    """Implements `sight.Call`."""

    def __init__(self, gateway: Potluck, place: Place, number: int, spent: Spent, work: Work) -> None:
        self._gateway = gateway
        self._place = place
        self._number = number
        self._spent = spent
        self._work = work

    def first_token(self, now: float) -> None:
        self._work.first_token(now)

    def end(self, output_tokens: int, now: float) -> None:
        self._work.end(output_tokens, now)
        breaker = self._place.breaker
        breaker.good += 1
        if breaker.troubled:
            breaker.succeeded(now)
        self._gateway.answered(self._number)

    def refused(self, now: float) -> None:
        self._work.dropped(now, refused=True)
        self._place.breaker.probe_abandoned()
        self._spent.failed(self._place.box, "refused", "connect", 0)

    def failed(self, now: float, slow: bool) -> None:
        self._work.dropped(now)
        error_class: ErrorClass = "target_slow" if slow else "target_down"
        self._place.breaker.failed(now, error_class, "no first token" if slow else "it failed", self._gateway.random)
        self._spent.failed(self._place.box, error_class, "first_byte", 0 if slow else 502)
