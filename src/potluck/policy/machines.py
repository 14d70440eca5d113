"""The live estimate of one model on somebody's machine: what a request would take there, learned from each that went.

Rules
- One `Machine` is one model on one node; selection, admission and explanations read the same `expect`.
- A call counts from `begin`, before anything is sent: a burst sees its own first half.
- Residency is not capacity: a loaded model spares the load, never the queue.
- Prefill is measured, and never guessed from decode. A machine's own measure (`MIN_SAMPLES`) wins over its word; its
  word counts times what its class's words were off by; without a word the class's median stands, and is marked as a
  guess. What is not known is never slow.
- No word of a machine outweighs its silence: one that answers nothing for much longer than it should have taken counts
  as full until it does, however fast it says it is.
- Time comes from the caller: a node's clock is never read.
"""

from potluck.policy.calibration import MIN_SAMPLES, Samples
from potluck.policy.machine_cost import Ask, Expected, remaining_ms
from potluck.policy.machine_groups import Host, Peers
from potluck.policy.mix import DEFAULT_REQUEST
from potluck.policy.prefix_blocks import BLOCK_TOKENS, PrefixBlocks
from potluck.wire.link_messages import HEARTBEAT_S

CONTEXT_TOKENS = 8_192
"""of a slot, where nobody said"""
BATCH_COST = 0.3
"""k, until it is learned: with b streams each is 1 + k·(b - 1) times slower; an M4 Max has 0.27"""
MAX_BATCH_COST = 1.0
"""more would mean that b streams together are slower than one after another"""
BATCH_COST_WEIGHT = 0.1
"""of a new sample of k"""
LEAST_TOKEN_MS = 1e-3
"""no token takes less: what came in one read, or was answered from a cache, is not infinitely fast"""
MOST_TOKEN_MS = 1e5
"""nor more, by a machine's own word"""
MIN_PROMPT_TOKENS = 256
"""prompts below say more of a machine's overhead than of its speed"""
DECODE_FLOOR_TPS = 8.0
"""as many streams as would leave each less than that are too many, whatever its slots: about what people read"""
STALE_LOAD_S = 2 * HEARTBEAT_S
"""what a machine said of its load longer ago is not believed any more: it counts as full"""
REFUSED_FIRST_S = 1.0
"""a machine that refused is left alone for so long, doubling with each refusal in a row"""
REFUSED_MAX_S = 60.0


class Machine:
    """One model on one node. One event loop's; `now` in monotonic seconds everywhere."""

    __slots__ = (
        "__weakref__",
        "_batch_cost",
        "_blocks",
        "_context_tokens",
        "_decode",
        "_decode_word",
        "_load_measured_s",
        "_load_word_s",
        "_loading_since",
        "_loading_until",
        "_peers",
        "_prefill",
        "_prefill_word",
        "_refusals",
        "_refused_until",
        "host",
        "in_flight",
        "others",
        "others_waiting",
        "reported_at",
        "resident",
        "rtt_ms",
        "slots",
    )

    def __init__(self, peers: Peers | None = None, host: Host | None = None) -> None:
        """`peers`: the machines that serve the same model. `host`: of its engine, for all the engine's models."""
        self.resident: bool | None = None
        """None: nobody said"""
        self.slots = 1
        self.rtt_ms = 0.0
        self.reported_at: float | None = None
        self.in_flight = 0
        """our own calls of this model"""
        self.others = self.others_waiting = 0
        """calls of this model that are not ours, as reported: in all, and of them without a slot"""
        self._loading_since = self._loading_until = 0.0
        """0: it is not loading"""
        self._prefill_word: float | None = None
        self._decode_word: float | None = None
        self._load_word_s: float | None = None
        self._load_measured_s: float | None = None
        self._prefill = Samples()
        """ms per token"""
        self._decode = Samples()
        """ms per token of a single stream"""
        self._batch_cost = BATCH_COST
        self._refusals = 0
        self._refused_until = 0.0
        self._context_tokens = CONTEXT_TOKENS
        self._blocks = PrefixBlocks(CONTEXT_TOKENS)
        self._peers = peers or Peers()
        self._peers.join(self)
        self.host = host or Host()
        self.host.machines.add(self)

    # --- what is told

    def report(
        self,
        *,
        reported_at: float,
        resident: bool | None = None,
        loading_eta_s: float | None = None,
        running: int | None = None,
        waiting: int | None = None,
        prefill_tps: float | None = None,
        decode_tps: float | None = None,
        load_s: float | None = None,
        slots: int | None = None,
        rtt_ms: float | None = None,
        context_tokens: int | None = None,
    ) -> None:
        """What its node says, as it came at `reported_at` by our own clock. None: it says nothing of that.

        `running` and `waiting` count our own calls too; those sent within the last round trip are not in them yet.
        """
        self.reported_at = reported_at
        if rtt_ms is not None:
            self.rtt_ms = rtt_ms
        self._prefill_word = _plausible_tps(prefill_tps) or self._prefill_word
        self._decode_word = _plausible_tps(decode_tps) or self._decode_word
        self._load_word_s = self._load_word_s if load_s is None else load_s
        laid_out = (slots or self.slots, context_tokens or self._context_tokens)
        if laid_out != (self.slots, self._context_tokens):
            self.slots, self._context_tokens = laid_out
            self._blocks.resize(self.slots * self._context_tokens)
        since = reported_at - self.rtt_ms / 1000
        ours = len([work for work in self.host.works if work.machine is self and work.begun_at <= since])
        self.others = max(0, (running or 0) + (waiting or 0) - ours)
        self.others_waiting = min(self.others, waiting or 0)
        self.host.reported()
        if loading_eta_s is not None and not resident:
            self.resident = False
            self._loading_since = self._loading_since or reported_at
            self._loading_until = reported_at + loading_eta_s
        elif resident is not None:
            if not resident:
                self._blocks.clear()
            self.resident = resident
            if resident or not self.in_flight:  # a call that was just sent makes it load: the next report knows
                self._loading_since = self._loading_until = 0.0

    def unload(self) -> None:
        """The model is not in memory any more, nor anything that was cached."""
        self.resident = False
        self._loading_since = self._loading_until = 0.0
        self._blocks.clear()

    # --- what is known

    @property
    def busy(self) -> int:
        """Calls at its engine, ours and others', of all its models."""
        return len(self.host.works) + self.host.others

    def own_prefill_ms(self, now: float) -> float | None:
        """Per token, measured or by its word; None: not known."""
        measured = self._prefill.median(now, MIN_SAMPLES)
        if measured is None and self._prefill_word:
            return 1000 / self._prefill_word
        return measured if measured is not None else self._prefill.median(now)

    def own_decode_ms(self, now: float) -> float | None:
        """Per token of a single stream, measured or by its word; None: not known."""
        measured = self._decode.median(now, MIN_SAMPLES)
        if measured is None and self._decode_word:
            return 1000 / self._decode_word
        return measured if measured is not None else self._decode.median(now)

    def own_load_s(self) -> float | None:
        return self._load_word_s if self._load_word_s is not None else self._load_measured_s

    def ratio(self, now: float) -> float | None:
        """How many times longer prompts took than its word would have it; None: not known yet."""
        measured = self._prefill.median(now, MIN_SAMPLES)
        return None if measured is None or not self._prefill_word else measured * self._prefill_word / 1000

    def prefill_ms(self, now: float) -> float:
        """Per token, as requests are expected to meet it."""
        return self._reading(now)[0]

    def _reading(self, now: float) -> tuple[float, bool]:
        """Per token of a prompt; and whether that is a guess."""
        measured = self._prefill.median(now, MIN_SAMPLES)
        if measured is None and self._prefill_word:
            return 1000 / self._prefill_word * self._peers.ratio(now), False
        if measured is None:
            measured = self._prefill.median(now)
        return (self._peers.prefill_ms(now), True) if measured is None else (measured, False)

    def _writing(self, now: float) -> tuple[float, bool]:
        """Per token of a single stream; and whether that is a guess."""
        own = self.own_decode_ms(now)
        return (self._peers.decode_ms(now), True) if own is None else (own, False)

    def _slowed(self, batch: float) -> float:
        return 1 + self._batch_cost * (batch - 1)

    def _room(self, decode_ms: float) -> int:
        """Streams that it serves well: its slots, as far as each keeps `DECODE_FLOOR_TPS`; 1 at least."""
        if self.slots == 1 or self._batch_cost <= 0:
            return self.slots
        most = 1 + (1000 / DECODE_FLOOR_TPS / decode_ms - 1) / self._batch_cost
        return max(1, min(self.slots, int(most)))

    def room(self, now: float) -> int:
        return self._room(self._writing(now)[0])

    def capacity_tps(self, now: float) -> float:
        """Tokens per second of all its streams together, when it is full."""
        decode_ms = self._writing(now)[0]
        room = self._room(decode_ms)
        return 1000 * room / (decode_ms * self._slowed(room))

    def needs_load(self) -> bool:
        """The next call would make it load the model."""
        return self.resident is False and not self._loading_until

    def loading_ms(self, now: float) -> float:
        """Until the load that runs is done; 0: none does."""
        return remaining_ms(self._loading_since, self._loading_until, now) if self._loading_until else 0.0

    def set_aside(self, now: float) -> bool:
        """It has just refused, answers nothing, or has not told its load for too long: it counts as full."""
        return (
            now < self._refused_until
            or self.host.is_silent(now)
            or (self.reported_at is not None and now - self.reported_at > STALE_LOAD_S)
        )

    def _cached(self, ask: Ask, now: float) -> int:
        """Tokens of the prompt."""
        return min(ask.prompt_tokens, self._blocks.hits(ask.blocks, now) * BLOCK_TOKENS)

    def hit(self, ask: Ask, now: float) -> float:
        """Share of the prompt that is cached, 0 to 1."""
        return self._cached(ask, now) / ask.prompt_tokens if ask.prompt_tokens else 0.0

    def expect(self, ask: Ask, now: float) -> Expected:
        """What the request would cost here. Changes nothing."""
        (prefill_ms, guessed), (decode_ms, guessed_too) = self._reading(now), self._writing(now)
        room = self._room(decode_ms)
        host = self.host
        busy = len(host.works) + host.others
        cached = self._cached(ask, now)
        batch_ms = decode_ms * self._slowed(min(room, busy + 1))
        ahead_ms = host.ahead_ms + host.others_waiting * DEFAULT_REQUEST.input_tokens * prefill_ms
        wait_ms = self._wait_ms(room, prefill_ms, batch_ms, now) if busy >= room else 0.0
        loads = self.needs_load()
        if loads:
            own_s = self.own_load_s()
            load_ms = host.load_wait_ms(now) + 1000 * (self._peers.load_s(now) if own_s is None else own_s)
        else:
            load_ms = self.loading_ms(now)
        # slots that wait for the load have no queue beside it
        queue_ms = max(wait_ms - load_ms, ahead_ms, 0.0)
        prompt_ms = (ask.prompt_tokens - cached) * prefill_ms
        output_ms = ask.output_tokens * batch_ms
        ttft_ms = self.rtt_ms + load_ms + queue_ms + prompt_ms
        return Expected(
            self.rtt_ms,
            load_ms,
            queue_ms,
            prompt_ms,
            output_ms,
            ttft_ms,
            ttft_ms + output_ms,
            cached / ask.prompt_tokens if ask.prompt_tokens else 0.0,
            loads,
            busy < room,
            self.set_aside(now),
            guessed or guessed_too,
        )

    def _wait_ms(self, room: int, prefill_ms: float, batch_ms: float, now: float) -> float:
        """Until a slot is free. It is full."""
        works, others = self.host.works, self.host.others
        wait_ms = 0.0
        if others >= room:  # of them we know their number only: each is an ordinary request
            each_ms = DEFAULT_REQUEST.input_tokens * prefill_ms + DEFAULT_REQUEST.output_tokens * batch_ms
            wait_ms = (others - room + 1) * each_ms / room
        free = max(1, room - others)
        if len(works) >= free:
            left = sorted(remaining_ms(work.begun_at, work.ends_at, now) for work in works)
            wait_ms += left[len(works) - free]
        return wait_ms

    # --- what happens

    def begin(self, ask: Ask, now: float) -> "Work":
        """The request goes there; call it before anything is sent."""
        work = Work(self, ask, self.expect(ask, now), now)
        if work.loads:
            self._loading_since, self._loading_until = now, now + work.expected.load_ms / 1000
        self.in_flight += 1
        self.host.begun(work, now)
        work.fresh = self._blocks.used(ask.blocks, now)
        return work

    def _answers(self, work: "Work", now: float, first_s: float) -> None:
        """The first token of a call is there, `first_s` after it was sent (0: nobody knows when)."""
        self._refusals, self._refused_until = 0, 0.0
        self.host.answered(work)
        self.host.silent = None
        if work.loads and first_s:
            self._load_measured_s = max(0.0, first_s - work.expected.prompt_ms / 1000)
        if self.resident is False:
            self.resident = True
        self._loading_since = self._loading_until = 0.0
        work.ends_at = now + work.ask.output_tokens * self._writing(now)[0] * self._slowed(work.batch) / 1000

    def _gone(self, work: "Work") -> None:
        self.in_flight -= 1
        self.host.gone(work)
        if not self.in_flight and self.resident is False:
            self._loading_since = self._loading_until = 0.0  # what was to load it is gone: a report may know better

    def _refused(self, now: float, retry_after_s: float | None) -> None:
        pause_s = REFUSED_FIRST_S * 2.0 ** min(self._refusals, 10) if retry_after_s is None else retry_after_s
        pause_s = max(pause_s, REFUSED_FIRST_S)  # a stranger's "at once" would keep it first among the choices
        self._refusals += 1
        self._refused_until = now + min(pause_s, REFUSED_MAX_S)

    def _learn_prompt(self, work: "Work", ms: float, now: float) -> None:
        """The prompts ahead and its own took so long. Only what went straight in tells the speed."""
        if work.straight:
            expected = work.expected
            expected_ms = expected.queue_ms + expected.prompt_ms
            if expected_ms >= MIN_PROMPT_TOKENS * work.prefill_ms:
                self._prefill.add(max(work.prefill_ms * ms / expected_ms, LEAST_TOKEN_MS), now)

    def _learn_output(self, ms_per_token: float, batch: float, now: float) -> None:
        if batch >= 2:
            alone_ms = self.own_decode_ms(now)
            if alone_ms:
                cost = min(max((ms_per_token / alone_ms - 1) / (batch - 1), 0.0), MAX_BATCH_COST)
                self._batch_cost += BATCH_COST_WEIGHT * (cost - self._batch_cost)
                return
        self._decode.add(max(ms_per_token / self._slowed(batch), LEAST_TOKEN_MS), now)


class Work:
    """A request on a machine, from before it is sent until it is over: then one of `end` and `dropped` is called.

    Both are idempotent, and nothing counts after the first of them.
    """

    __slots__ = (
        "ask",
        "batch",
        "begun_at",
        "ends_at",
        "expected",
        "first_at",
        "fresh",
        "loads",
        "machine",
        "over",
        "prefill_ms",
        "straight",
    )

    def __init__(self, machine: Machine, ask: Ask, expected: Expected, now: float) -> None:
        self.machine = machine
        self.ask = ask
        self.expected = expected
        self.begun_at = now
        self.first_at = 0.0
        """0: no token yet"""
        self.ends_at = now + expected.total_ms / 1000
        """expected"""
        self.prefill_ms = machine.prefill_ms(now)
        """per token, as its prompt's time was worked out"""
        self.loads = expected.loads
        self.straight = expected.free and not expected.load_ms
        """no load and no wait for a slot before it"""
        self.batch = float(min(machine.slots, machine.busy + 1))
        """streams beside which it runs, itself included"""
        self.fresh: list[int] = []
        """blocks of its prompt that were not there before"""
        self.over = False

    def first_token(self, now: float) -> None:
        """The first content of a stream came."""
        if self.over or self.first_at:
            return
        self.first_at = now
        machine, first_s = self.machine, now - self.begun_at
        machine._answers(self, now, first_s)
        machine._learn_prompt(self, first_s * 1000 - machine.rtt_ms, now)

    def end(self, output_tokens: float, now: float) -> None:
        """A good end. `output_tokens` 0: how long they took says nothing (the caller was slow)."""
        if self.over:
            return
        self.over = True
        machine = self.machine
        batch = (self.batch + min(machine.slots, machine.busy)) / 2
        if self.first_at:
            if output_tokens > 1:
                machine._learn_output((now - self.first_at) * 1000 / (output_tokens - 1), batch, now)
        else:
            machine._answers(self, now, 0.0)
            self._learn_whole(output_tokens, batch, now)
        machine._gone(self)

    def _learn_whole(self, output_tokens: float, batch: float, now: float) -> None:
        """Of an answer that came whole only what most of the time went to can be told."""
        machine, expected = self.machine, self.expected
        whole_ms = (now - self.begun_at) * 1000 - machine.rtt_ms
        if not self.straight or not expected.prompt_ms + expected.output_ms:
            return
        output_ms = expected.output_ms * output_tokens / self.ask.output_tokens if self.ask.output_tokens else 0.0
        if output_ms < (expected.queue_ms + expected.prompt_ms) / 2:
            machine._learn_prompt(self, whole_ms - output_ms, now)
        elif output_tokens > 1:
            ms = max(whole_ms - expected.queue_ms - expected.prompt_ms, 0.0)
            machine._learn_output(ms / output_tokens, batch, now)

    def dropped(self, now: float, *, refused: bool = False, retry_after_s: float | None = None) -> None:
        """It ended without an answer: cancelled, failed, or `refused` by the node."""
        if self.over:
            return
        self.over = True
        machine = self.machine
        if not self.first_at:
            machine.host.answered(self)
            machine._blocks.forget(self.fresh)
        if refused:
            machine._refused(now, retry_after_s)
        machine._gone(self)


def _plausible_tps(word: float | None) -> float | None:
    return min(max(word, 1000 / MOST_TOKEN_MS), 1000 / LEAST_TOKEN_MS) if word else None
