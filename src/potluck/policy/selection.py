"""The strategies: which of several places to try next, and how to explain it.

Each is a function of the options (never empty, already filtered: what is here may be called), the request's wish and a
source of chance, and gives the index of its choice. Ties are drawn by weight, so nothing is first because it is listed
first. What a strategy has not measured never counts against an option.

Pools with people's machines in them are `fleet_selection.py`'s; here a machine only is one more option, with a time of
its own, so that one function scores them all.

`fastest`, `least_busy` and `balanced` rank by what they measure, and learn only about what they call: with a
probability of `EXPLORE` they call any option, so that one which looked bad once is measured again. The others rank by
what is written down, which does not go stale: an exploring call would only break a promise.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import floor, inf, log, log10

import msgspec

from potluck.model.price import nanousd_to_usd_text
from potluck.model.resources import Strategy
from potluck.policy.machine_cost import Ask
from potluck.policy.mix import DEFAULT_REQUEST
from potluck.policy.standing import Option

EXPLORE = 0.01
COST_TIE = 1.001
"""`cheapest`: a cost up to this many times the least one is the same"""
TIME_TIE = 1.1
"""`fastest`: a time up to this many times the best one is the same"""
FLOOR_MS = 50.0
"""differences below this are noise: `balanced` and prefix affinity see nothing faster"""
FREE_COST_SHARE = 0.5
"""`balanced`: what costs nothing counts as this share of the least cost there is"""
DEAREST = 10.0
"""`balanced`: no cost counts as more than this many times the least one, nor does an unknown one"""
FLOOR_FREE = 0.01
"""`balanced`: a full place counts as this free"""
FLOOR_COST_SHARE = 0.01
"""prefix affinity: what costs less than this share of the dearest option counts as that"""

Random = Callable[[], float]
"""uniform in [0, 1)"""
Pick = Callable[[Sequence[Option], "Wish", Random], int]


class Wish:
    """What of a request a choice may depend on. One object serves many requests in turn; nothing keeps it."""

    __slots__ = ("ask", "now", "output_tokens", "size_class", "stream", "subject")

    def __init__(
        self,
        stream: bool = False,
        size_class: int = 0,
        output_tokens: float = DEFAULT_REQUEST.output_tokens,
        subject: str = "",
        now: float = 0.0,
        ask: Ask | None = None,
    ) -> None:
        self.stream = stream
        self.size_class = size_class
        """`policy.latency.size_class` of its body"""
        self.output_tokens = output_tokens
        """expected"""
        self.subject = subject
        """`weighted` always puts the same one in the same place; empty: it draws"""
        self.now = now
        """monotonic seconds; peaks fade by it. 0: as they were measured"""
        self.ask = ask
        """what it asks of a machine; None: what the usual request does"""

    def of_machines(self) -> Ask:
        """What it asks of a machine."""
        return self.ask or Ask(DEFAULT_REQUEST.input_tokens, self.output_tokens)


class Score(msgspec.Struct, frozen=True):
    """The number that ranked an option, and the same in words."""

    value: float | None
    """None: it is another one for each request"""
    unit: str
    """`tier`, `weight`, `nano-USD`, `ms`, `load` (calls per slot, this one included), `share` (of the draws)"""
    text: str


def _priority(options: Sequence[Option], _wish: Wish, random: Random) -> int:
    """The lowest tier; within it, a draw by weight."""
    chosen = total = 0
    tier = options[0].priority
    for index, option in enumerate(options):
        if option.priority > tier:
            continue
        if option.priority < tier:
            tier = option.priority
            total = 0
        weight = option.weight
        total += weight
        if total == weight or random() * total < weight:
            chosen = index
    return chosen


def _weighted(options: Sequence[Option], wish: Wish, random: Random) -> int:
    """A draw by weight. With a subject no chance: the split below."""
    if wish.subject:
        return _split(options, wish.subject)
    chosen = total = 0
    for index, option in enumerate(options):
        weight = option.weight
        total += weight
        if total == weight or random() * total < weight:
            chosen = index
    return chosen


def _split(options: Sequence[Option], subject: str) -> int:
    """Weighted rendezvous hashing: each option has its own number for the subject, the least of -ln(number) / weight
    wins. When an option is gone only its own subjects move, over the others by weight."""
    chosen, least = 0, inf
    seed = blake2b(subject.encode("utf-8", "surrogatepass") + b"\0", digest_size=6)
    for index, option in enumerate(options):
        number = seed.copy()
        number.update(option.name.encode())
        length = -log((int.from_bytes(number.digest(), "big") + 0.5) / 2**48) / option.weight
        if length < least:
            chosen, least = index, length
    return chosen


def _cheapest(options: Sequence[Option], _wish: Wish, random: Random) -> int:
    """The least expected cost; an unknown one comes last."""
    least = inf
    for option in options:
        if option.cost < least:
            least = option.cost
    limit = least * COST_TIE
    chosen = total = 0
    for index, option in enumerate(options):
        if option.cost <= limit:
            weight = option.weight
            total += weight
            if total == weight or random() * total < weight:
                chosen = index
    return chosen


def _fastest(options: Sequence[Option], wish: Wish, random: Random) -> int:
    """The least expected time; an unknown one counts as the best known, so that it is tried."""
    if random() < EXPLORE:
        return int(random() * len(options))
    stream, size_class, output_tokens = wish.stream, wish.size_class, wish.output_tokens
    times = [option.standing.latency.expected_ms(stream, size_class, output_tokens) for option in options]
    best = inf
    for ms in times:
        if ms is not None and ms < best:
            best = ms
    limit = best * TIME_TIE
    chosen = total = 0
    for index, ms in enumerate(times):
        if ms is None or ms <= limit:
            weight = options[index].weight
            total += weight
            if total == weight or random() * total < weight:
                chosen = index
    return chosen


def _least_busy(options: Sequence[Option], wish: Wish, random: Random) -> int:
    """Power of two choices: of two drawn at random the one with the lower (in flight + 1) / slots, times its recent
    peak time if both have one; the first drawn if they are equal.

    Looking at all would send every call of a burst to the one whose peak has just faded. The two are drawn by slots:
    drawn alike, two small places would get a third of everything beside a large one, however full they are.
    """
    count = len(options)
    if count == 1 or random() < EXPLORE:
        return int(random() * count)
    slots = 0
    for option in options:
        slots += option.slots
    first = _by_slots(options, random() * slots, -1)
    second = _by_slots(options, random() * (slots - options[first].slots), first)
    one, other = options[first], options[second]
    burden = (one.standing.in_flight + 1) * other.slots
    rival = (other.standing.in_flight + 1) * one.slots
    stream, size_class, now = wish.stream, wish.size_class, wish.now
    peak_ms = one.standing.latency.peak_ms(stream, size_class, now)
    rival_peak_ms = other.standing.latency.peak_ms(stream, size_class, now)
    if peak_ms is not None and rival_peak_ms is not None:
        return second if rival * rival_peak_ms < burden * peak_ms else first
    return second if rival < burden else first


def _by_slots(options: Sequence[Option], point: float, skipped: int) -> int:
    """The option in whose slots the point lies, when all but those of `skipped` are laid end to end."""
    found = 0
    for index, option in enumerate(options):
        if index != skipped:
            found = index
            point -= option.slots
            if point < 0:
                break
    return found


def _balanced(options: Sequence[Option], wish: Wish, random: Random) -> int:
    """A draw by free / (cost² × time): twice the price gets a quarter, twice the time a half, half full a half.

    Cost is the expected one within `FREE_COST_SHARE` and `DEAREST` times the least above zero; time is the expected
    one, `FLOOR_MS` or more, the best known where unknown; free is the share of slots that are, `FLOOR_FREE` or more.
    """
    if random() < EXPLORE:
        return int(random() * len(options))
    chosen, total = 0, 0.0
    for index, pull in enumerate(_pulls(options, wish)):
        total += pull
        if random() * total < pull:
            chosen = index
    return chosen


def pulls_of(options: Sequence[Option], wish: Wish, times: list[float | None] | None = None) -> list[float]:
    """What `balanced` draws by, machines among them or not. `times`: `times_of` them."""
    return _pulls(options, wish, times or times_of(options, wish))


def _pulls(options: Sequence[Option], wish: Wish, times: list[float | None] | None = None) -> list[float]:
    """What `balanced` draws by; each above zero. `times`: expected ones, where they are not all of places."""
    stream, size_class, output_tokens = wish.stream, wish.size_class, wish.output_tokens
    least, best = inf, inf
    pulls: list[float] = []
    for option in options:
        if 0 < option.cost < least:
            least = option.cost
        if times is None:
            ms = option.standing.latency.expected_ms(stream, size_class, output_tokens)
        else:
            ms = times[len(pulls)]
        if ms is None:
            pulls.append(0.0)
            continue
        if ms < FLOOR_MS:
            ms = FLOOR_MS
        if ms < best:
            best = ms
        pulls.append(1 / ms)
    for index, option in enumerate(options):
        cost = option.cost
        cheapness = least / cost if 0 < cost < inf else 1 / FREE_COST_SHARE if cost <= 0 else 0.0
        if cheapness < 1 / DEAREST:
            cheapness = 1 / DEAREST
        free = 1 - option.standing.in_flight / option.slots
        if free < FLOOR_FREE:
            free = FLOOR_FREE
        pulls[index] = (pulls[index] or (1 / best if best < inf else 1.0)) * cheapness * cheapness * free
    return pulls


def leading(strategy: Strategy, options: Sequence[Option]) -> list[int]:
    """Those of `options` between which only their weights decide, whatever the request; empty: it depends on it.

    So a pool can be looked at once and drawn from many times. With a subject `weighted` depends on the request too, and
    between machines it always does.
    """
    if any(option.standing.machine is not None for option in options):
        return []
    if strategy == "priority":
        tier = min([option.priority for option in options])
        return [index for index, option in enumerate(options) if option.priority == tier]
    if strategy == "cheapest":
        limit = min([option.cost for option in options]) * COST_TIE
        return [index for index, option in enumerate(options) if option.cost <= limit]
    return list(range(len(options))) if strategy == "weighted" else []


PICK: dict[Strategy, Pick] = {
    "priority": _priority,
    "weighted": _weighted,
    "cheapest": _cheapest,
    "fastest": _fastest,
    "least_busy": _least_busy,
    "balanced": _balanced,
}


def score(
    strategy: Strategy, options: Sequence[Option], index: int, wish: Wish, times: list[float | None] | None = None
) -> Score:
    """The number that ranks `options[index]` among `options`; lower is better but for weights and shares.

    `times`: `times_of` them, where more than one is asked for.
    """
    option = options[index]
    machine = f"; {_time_text(option, wish)}" if option.standing.machine is not None else ""
    if strategy in ("priority", "weighted"):
        written = _written(strategy, options, index)
        return Score(written.value, written.unit, written.text + machine)
    if strategy == "cheapest":
        return Score(option.cost, "nano-USD", _cost_text(option.cost) + machine)
    if strategy == "fastest":
        return Score(_filled(times or times_of(options, wish))[index], "ms", _time_text(option, wish))
    if strategy == "least_busy":
        peak_ms = option.standing.latency.peak_ms(wish.stream, wish.size_class, wish.now)
        peak = machine or ("" if peak_ms is None else f", {peak_ms:.0f} ms at worst of late")
        return Score((option.standing.in_flight + 1) / option.slots, "load", _busy_text(option) + peak)
    pulls = pulls_of(options, wish, times)
    share = pulls[index] / sum(pulls)
    parts = f"{_cost_text(option.cost)}, {_time_text(option, wish)}, {_busy_text(option)}"
    return Score(share, "share", f"{100 * share:.0f} % of the draws: {parts}")


def _written(strategy: Strategy, options: Sequence[Option], index: int) -> Score:
    """Of `priority` and `weighted`, which go by what is written down."""
    option = options[index]
    if strategy == "priority":
        return Score(option.priority, "tier", f"tier {option.priority}")
    total = sum(each.weight for each in options)
    return Score(option.weight, "weight", f"weight {option.weight} of {total}")


def lasting_score(strategy: Strategy, options: Sequence[Option], index: int, wish: Wish) -> Score:
    """`score` for records: the same for as long as nothing worth telling changes.

    Costs have two digits, times are the nearest of 1, 2, 5, 10, …, and nothing depends on calls in flight.
    """
    option = options[index]
    if strategy in ("priority", "weighted"):
        return _written(strategy, options, index)
    cost, cost_text = rounded(option.cost, 2), _cost_text(rounded(option.cost, 2))
    ms = option.standing.latency.expected_ms(wish.stream, wish.size_class, wish.output_tokens)
    time_text = "not measured yet" if ms is None else f"about {_coarse(ms):g} ms expected"
    if option.standing.machine is not None:
        ms, time_text = None, "by what it is doing at the time"
    if strategy == "cheapest":
        return Score(cost, "nano-USD", cost_text)
    if strategy == "fastest":
        return Score(None if ms is None else _coarse(ms), "ms", time_text)
    if strategy == "least_busy":
        return Score(None, "load", f"{option.slots} slots, {time_text}")
    return Score(None, "share", f"{cost_text}, {time_text}, {option.slots} slots")


def rounded(value: float, digits: int) -> float:
    """To so many significant digits."""
    return float(f"{value:.{digits}g}")


def _coarse(ms: float) -> float:
    """The nearest, by ratio, of …, 1, 2, 5, 10, 20, …; 1 at least."""
    exponent = floor(log10(max(ms, 1.0)))
    return min((step * 10.0**exponent for step in (1, 2, 5, 10)), key=lambda step: abs(log(max(ms, 1.0) / step)))


def stays(strategy: Strategy, options: Sequence[Option], sticky: int, wish: Wish, tolerance: float) -> tuple[bool, str]:
    """Whether a request stays with `options[sticky]`, where its prompt's beginning is cached, and why, in words.

    It does while its score is at most `tolerance` times the best one's. Best is never taken to be less than one slot,
    `FLOOR_MS`, or `FLOOR_COST_SHARE` of the dearest option, so that small differences decide nothing. `priority` stays
    within the lowest tier; `weighted` always, unless a subject's split says otherwise.
    """
    option = options[sticky]
    if strategy == "priority":
        tier = min(each.priority for each in options)
        if option.priority == tier:
            return True, f"in the best tier, {tier}"
        return False, f"in tier {option.priority}, and tier {tier} can be had"
    if strategy == "weighted":
        if wish.subject and _split(options, wish.subject) != sticky:
            return False, "the split puts this request elsewhere"
        return True, "staying costs nothing: weights have no best"
    if strategy == "cheapest":
        costs = [each.cost for each in options]
        dearest = max((cost for cost in costs if cost < inf), default=inf)
        return _worth(option.cost, max(min(costs), dearest * FLOOR_COST_SHARE), tolerance, "costs {} more")
    if strategy == "fastest":
        times = _filled(times_of(options, wish))
        return _worth(times[sticky], max(min(times), FLOOR_MS), tolerance, "takes {} longer")
    if strategy == "least_busy":
        peaks = [peak_ms(each, wish) for each in options]
        known = [max(peak, FLOOR_MS) for peak in peaks if peak is not None]
        if len(known) < len(options):
            known = [1.0] * len(options)
        slot = 1 / option.slots
        loads = [max((each.standing.in_flight + 1) / each.slots, slot) for each in options]
        burdens = [load * ms for load, ms in zip(loads, known, strict=True)]
        return _worth(burdens[sticky], min(burdens), tolerance, "is {} busier")
    pulls = pulls_of(options, wish)
    return _worth(1 / pulls[sticky], 1 / max(pulls), tolerance, "scores {} worse")


def _worth(own: float, best: float, tolerance: float, more: str) -> tuple[bool, str]:
    if own <= best:
        return True, "as good as the best"
    if own == inf:
        return False, "has no known price, and others have"
    kept = f"kept up to {100 * (tolerance - 1):.0f} %"
    return own <= tolerance * best, f"{more.format(f'{100 * (own / best - 1):.0f} %')} than the best; {kept}"


def times_of(options: Sequence[Option], wish: Wish) -> list[float | None]:
    """`expected_ms` of each."""
    return [expected_ms(each, wish) for each in options]


def _filled(times: list[float | None]) -> list[float]:
    """The best known where unknown, 0 where nothing is."""
    best = min((ms for ms in times if ms is not None), default=0.0)
    return [best if ms is None else ms for ms in times]


def expected_ms(option: Option, wish: Wish) -> float | None:
    """Until the last token, by what is known of a place or a machine; None: nothing is."""
    machine = option.standing.machine
    if machine is None:
        return option.standing.latency.expected_ms(wish.stream, wish.size_class, wish.output_tokens)
    return machine.expect(wish.of_machines(), wish.now).total_ms * option.exposure


def peak_ms(option: Option, wish: Wish) -> float | None:
    """The slowest first token (or whole plain answer) of late; of a machine the one that is expected now."""
    machine = option.standing.machine
    if machine is None:
        return option.standing.latency.peak_ms(wish.stream, wish.size_class, wish.now)
    expected = machine.expect(wish.of_machines(), wish.now)
    return expected.ttft_ms if wish.stream else expected.total_ms


def _cost_text(nanousd: float) -> str:
    return "no known price" if nanousd == inf else f"{nanousd_to_usd_text(round(nanousd))} USD expected"


def _time_text(option: Option, wish: Wish) -> str:
    machine = option.standing.machine
    if machine is not None:
        exposed = f", times {option.exposure:g} for exposure" if option.exposure != 1 else ""
        return machine.expect(wish.of_machines(), wish.now).text + exposed
    ms = option.standing.latency.expected_ms(wish.stream, wish.size_class, wish.output_tokens)
    return "not measured yet: counts as the best" if ms is None else f"{ms:.0f} ms expected"


def _busy_text(option: Option) -> str:
    return f"{option.standing.in_flight} of {option.slots} slots busy"
