"""What routing a plain request costs, in this process: the router and the registry's accounts, without a gateway.

`route` does what an exchange does between a decoded request and its record to find a target and to learn from its
answer, in that order. Batches of each kind take turns and the least of many is shown: whatever else the
machine does can only make a batch dearer.
"""

import gc
import time

from bench.requests import chat_body
from bench.stack import TARGETS
from potluck.model.resources import Route, RouteMatch, Strategy, Timeouts
from potluck.model.secret import Secret
from potluck.model.snapshot import CompiledKey, CompiledModel, CompiledTarget, Endpoint, Snapshot
from potluck.model.usage import PlanLine, TokenUsage
from potluck.policy.latency import size_class
from potluck.policy.selection import PICK
from potluck.providers.openai import build_heads
from potluck.proxy.registry import Registry
from potluck.proxy.routing import Router
from potluck.wire.dialects.envelope import Envelope, decode_envelope

BATCH = 1000
"""requests between two looks at the clock"""
BATCHES = 40

clock = time.monotonic
_USAGE = TokenUsage(12, 200)
_KEY = CompiledKey("key_1", "app", "org_1", "prj_1", "default", "standard", None, (), float("inf"), 0)


class _Snapshots:
    """Implements `ports.SnapshotSource` over one snapshot."""

    def __init__(self, current: Snapshot) -> None:
        self.current = current

    def hash_key(self, token: bytes) -> bytes:
        return token

    def touch(self, key: CompiledKey) -> None:
        pass


def _target(n: int) -> CompiledTarget:
    endpoint = Endpoint(f"127.0.0.1:{n}", "127.0.0.1", n, False, Timeouts())
    heads = build_heads(f"http://127.0.0.1:{n}/v1", Secret("none"), ("chat",))
    return CompiledTarget(
        f"tgt_{n}", f"bench-{n}/bench", f"prv_{n}", f"bench-{n}", None, "pool", endpoint, b'"bench"', heads,
        None, True, "cancel", frozenset(), place=f"127.0.0.1:{n} bench",
    )  # fmt: skip


def make_router(targets: int, strategy: Strategy) -> Router:
    """A router over one model `m` with so many targets, all well, and a route for it."""
    model = CompiledModel("m", tuple(_target(n) for n in range(1, targets + 1)), b"{}")
    route = Route("rte_1", "org_1", "bench", 0, match=RouteMatch(models=("m",)), strategy=strategy)
    snapshot = Snapshot(1, {b"": _KEY}, {"m": model}, {}, (route,))
    return Router(_Snapshots(snapshot), Registry(), _forget_plan)


def _forget_plan(line: PlanLine) -> None:
    pass


def route(router: Router, envelope: Envelope, body_bytes: int) -> None:
    """One plain request that its first target answers."""
    candidates = router.candidates(_KEY, envelope)
    now = clock()
    option = router.first(candidates, envelope, body_bytes, _KEY, now)
    assert option is not None
    standing, lane = option.standing, option.lane
    standing.in_flight += 1
    standing.in_flight -= 1
    lane.breaker.good += 1
    assert not lane.troubled
    standing.latency.observe_plain(size_class(body_bytes), (clock() - now) * 1000, now)
    candidates.mix.observe(_USAGE)


def _batch_us(router: Router, envelope: Envelope, body_bytes: int) -> float:
    before = time.thread_time_ns()
    for _ in range(BATCH):
        route(router, envelope, body_bytes)
    return (time.thread_time_ns() - before) / BATCH / 1000


def measure_routing() -> tuple[float, float]:
    """CPU microseconds per request (with three targets, with one); of the strategies the dearest counts."""
    body = chat_body(model="m", prompt_bytes=1000)
    envelope = decode_envelope("chat", body)
    lone = make_router(1, "priority")
    routers = {strategy: make_router(TARGETS, strategy) for strategy in PICK}
    least_lone, least = float("inf"), dict.fromkeys(PICK, float("inf"))
    was_on = gc.isenabled()
    gc.disable()
    try:
        for _ in range(BATCHES):
            least_lone = min(least_lone, _batch_us(lone, envelope, len(body)))
            for strategy, router in routers.items():
                least[strategy] = min(least[strategy], _batch_us(router, envelope, len(body)))
    finally:
        if was_on:
            gc.enable()
    return max(least.values()), least_lone
