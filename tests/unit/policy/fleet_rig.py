"""Machines in a line each, and requests that they are asked for."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from potluck.policy.machine_choice import choose, consider
from potluck.policy.machine_cost import Ask
from potluck.policy.machine_groups import Host, Peers
from potluck.policy.machines import Machine, Work
from potluck.policy.standing import Option, Standing

NOW = 10_000.0
"""monotonic seconds at which a test begins"""
ASK = Ask(1_000, 200)
BLOCKS = (11, 12, 13, 14)


def machine(peers: Peers | None = None, host: Host | None = None, **report: Any) -> Machine:
    """A loaded machine: 1,000 tokens a second read, 50 written, four slots, at once where nothing else is said."""
    made = Machine(peers, host)
    said = {"resident": True, "prefill_tps": 1_000.0, "decode_tps": 50.0, "slots": 4, "rtt_ms": 0.0, **report}
    made.report(reported_at=NOW, **said)
    return made


def option(of: Machine, name: str = "a", **members: Any) -> Option:
    made = Option(Standing(), name, **members)
    made.standing.machine = of
    return made


def options(*machines: Machine) -> list[Option]:
    return [option(each, f"box-{number}") for number, each in enumerate(machines)]


def pool(machines: Sequence[Machine], ask: Ask = ASK, now: float = NOW) -> list[int]:
    """Which of them are in the draw."""
    return consider(options(*machines), ask, now).pool


def draws(among: Sequence[Option], ask: Ask = ASK, now: float = NOW, times: int = 4_000) -> Counter[int]:
    """How often each is chosen, while nothing is sent."""
    chance = random.Random(7).random
    return Counter(choose(among, ask, now, chance) for _ in range(times))


def serve(on: Machine, ask: Ask, begun_at: float, first_s: float, output_tokens: int, ms_per_token: float) -> Work:
    """A stream from its first byte to its last."""
    work = on.begin(ask, begun_at)
    work.first_token(begun_at + first_s)
    work.end(output_tokens, begun_at + first_s + (output_tokens - 1) * ms_per_token / 1000)
    return work
