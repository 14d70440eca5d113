"""The rows of the table, and how one round of each is measured.

A scenario measures every server once, one after the other, and yields samples; rounds interleave scenarios, so that
a noisy minute hits all servers alike. The figure of a row is the median over rounds, of ratios where its budget is one.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import measure
from bench.linked import Linked
from bench.routing import measure_routing
from bench.stack import ROUTED_MODELS, Server, Upstreams, make_secret

Sample = tuple[str, str, float]
"""row, server, value"""


@dataclass(frozen=True)
class Row:
    """One line of the table; `unit` is what the printed value counts in."""

    key: str
    title: str
    unit: str


ROWS = (
    Row("plain_1k", "CPU per plain request, 1 KB prompt, 32 connections", "µs"),
    Row("cheapest_1k", "the same by a route over three targets, strategy cheapest", "µs"),
    Row("least_busy_1k", "the same with strategy least_busy", "µs"),
    Row("routing", "CPU of routing alone, three targets, the dearest strategy", "µs"),
    Row("routing_lone", "the same with one target", "µs"),
    Row("plain_100k", "CPU per plain request, 100 KB prompt, 32 connections", "µs"),
    Row("chunk_burst", "CPU per streamed chunk, back to back, 32 streams", "µs"),
    Row("chunk_paced", "CPU per streamed chunk, 500 streams at 20 ms", "µs"),
    Row("link_chunk", "CPU per streamed chunk over a node's link, 200 streams at 40 ms", "µs"),
    Row("link_p50", "added latency p50 over a node's link, one connection", "ms"),
    Row("importer", "CPU of the usage importer per record", "µs"),
    Row("added_p50", "added latency p50, one connection", "ms"),
    Row("added_p99", "added latency p99, one connection", "ms"),
    Row("first_event", "added time to the first streamed event, p99", "ms"),
    Row("rss_idle", "resident memory, idle, children included", "MB"),
    Row("pss_idle", "the same, pages that processes share counted once", "MB"),
    Row("rss_streams", "resident memory added by 1,000 open streams", "MB"),
    Row("start", "start to first 200", "s"),
    Row("first_start", "start to first 200 with a new home", "s"),
)


@dataclass(frozen=True)
class Setup:
    """What scenarios measure, and for how long."""

    directory: Path
    upstreams: Upstreams
    servers: tuple[Server, ...]
    seconds: float
    requests: int
    linked: Linked | None = None
    """a Potluck whose only upstream is a node, where a row asks for it"""


def plain_1k(setup: Setup) -> Iterator[Sample]:
    """A 1 KB prompt; the importer's cost comes with it."""
    for server in setup.servers:
        result = measure.measure_plain(server, setup.directory, prompt_bytes=1000, seconds=setup.seconds)
        yield "plain_1k", server.name, result.cpu_us
        if result.importer_us is not None:
            yield "importer", server.name, result.importer_us


def routed_1k(setup: Setup) -> Iterator[Sample]:
    """The same prompt over three upstreams: Potluck by either route, nginx in turn, measured once for both rows."""
    for server in (each for each in setup.servers if each.routed_port):
        cpu_us = 0.0
        for strategy, model in ROUTED_MODELS.items():
            if server.home or not cpu_us:  # only Potluck, which has a home, looks at the model
                result = measure.measure_plain(
                    server, setup.directory, prompt_bytes=1000, seconds=setup.seconds, model=model
                )
                cpu_us = result.cpu_us
            yield f"{strategy}_1k", server.name, cpu_us


def routing(setup: Setup) -> Iterator[Sample]:
    """The router and its accounts in this process, for Potluck alone."""
    if any(server.home for server in setup.servers):
        three_us, lone_us = measure_routing()
        yield "routing", "potluck", three_us
        yield "routing_lone", "potluck", lone_us


def plain_100k(setup: Setup) -> Iterator[Sample]:
    """A 100 KB prompt."""
    for server in setup.servers:
        result = measure.measure_plain(server, setup.directory, prompt_bytes=100_000, seconds=setup.seconds * 0.75)
        yield "plain_100k", server.name, result.cpu_us


def chunk_burst(setup: Setup) -> Iterator[Sample]:
    """Streams of 200 events, written as fast as the upstream can."""
    for server in setup.servers:
        yield (
            "chunk_burst",
            server.name,
            measure.measure_chunks(server, streams=32, chunks=200, pace_ms=0, ramp_s=0.2, seconds=setup.seconds),
        )


def chunk_paced(setup: Setup) -> Iterator[Sample]:
    """500 streams, an event every 20 ms on each."""
    for server in setup.servers:
        yield (
            "chunk_paced",
            server.name,
            measure.measure_chunks(server, streams=500, chunks=2000, pace_ms=20, ramp_s=1.0, seconds=setup.seconds),
        )


def link(setup: Setup) -> Iterator[Sample]:
    """Through a node: the gateway's CPU alone, beside nginx that has the same upstream without a node."""
    if setup.linked is None:
        return
    for server in (setup.linked.server, *(each for each in setup.servers if not each.home)):
        yield (
            "link_chunk",
            server.name,
            measure.measure_chunks(server, streams=200, chunks=1000, pace_ms=40, ramp_s=1.0, seconds=setup.seconds),
        )
    linked = setup.linked.server
    ports = {"": (setup.upstreams.stream_port, "none"), linked.name: (linked.port, linked.key)}
    found = measure.measure_latency(ports, requests=setup.requests, stream=False)
    yield "link_p50", linked.name, (found[linked.name].p50_us - found[""].p50_us) / 1000


def latency(setup: Setup) -> Iterator[Sample]:
    """Latency at one connection, less that of the upstream asked directly."""
    ports = {"": (setup.upstreams.plain_ports[0], "none")} | {s.name: (s.port, s.key) for s in setup.servers}
    found = measure.measure_latency(ports, requests=setup.requests, stream=False)
    direct = found.pop("")
    for name, value in found.items():
        yield "added_p50", name, (value.p50_us - direct.p50_us) / 1000
        yield "added_p99", name, (value.p99_us - direct.p99_us) / 1000


def first_event(setup: Setup) -> Iterator[Sample]:
    """Time to the first streamed event: a delayed acknowledgement would show as a step of 40 ms."""
    ports = {"": (setup.upstreams.stream_port, "none")} | {s.name: (s.stream_port, s.key) for s in setup.servers}
    found = measure.measure_latency(ports, requests=max(50, setup.requests // 10), stream=True)
    direct = found.pop("")
    for name, value in found.items():
        yield "first_event", name, (value.p99_us - direct.p99_us) / 1000


def memory(setup: Setup) -> Iterator[Sample]:
    """Resident memory when ready, and what 1,000 open streams add; once, since a second time finds pages kept."""
    for server in setup.servers:
        yield "rss_idle", server.name, server.idle_rss_bytes / 1e6
        yield "pss_idle", server.name, server.idle_pss_bytes / 1e6
        before, loaded = measure.measure_open_streams(server, streams=1000, ramp_s=2.0)
        yield "rss_streams", server.name, (loaded - before) / 1e6


def start(setup: Setup) -> Iterator[Sample]:
    """Potluck alone: with a new home (which it has to make first), then with that home."""
    if not any(server.home for server in setup.servers):
        return
    key = make_secret("plk-")
    home, log = setup.directory / f"start-{key[4:12]}", setup.directory / "start.log"
    yield "first_start", "potluck", measure.measure_start(home, key, log)
    yield "start", "potluck", measure.measure_start(home, key, log)


Scenario = Callable[[Setup], Iterator[Sample]]

LINK_ROWS = ("link_chunk", "link_p50")
ONCE: dict[str, tuple[Scenario, tuple[str, ...]]] = {"memory": (memory, ("rss_idle", "pss_idle", "rss_streams"))}
EVERY_ROUND: dict[str, tuple[Scenario, tuple[str, ...]]] = {
    "plain_1k": (plain_1k, ("plain_1k", "importer")),
    "routed_1k": (routed_1k, ("cheapest_1k", "least_busy_1k")),
    "routing": (routing, ("routing", "routing_lone")),
    "plain_100k": (plain_100k, ("plain_100k",)),
    "chunk_burst": (chunk_burst, ("chunk_burst",)),
    "chunk_paced": (chunk_paced, ("chunk_paced",)),
    "link": (link, LINK_ROWS),
    "latency": (latency, ("added_p50", "added_p99")),
    "first_event": (first_event, ("first_event",)),
    "start": (start, ("start", "first_start")),
}


class Results:
    """Samples by row and server, in round order."""

    def __init__(self) -> None:
        self._samples: dict[str, dict[str, list[float]]] = {}

    def add(self, row: str, server: str, value: float) -> None:
        self._samples.setdefault(row, {}).setdefault(server, []).append(value)

    def of(self, row: str, server: str) -> list[float]:
        return self._samples.get(row, {}).get(server, [])

    def as_dict(self) -> dict[str, dict[str, list[float]]]:
        return self._samples


def run(setup: Setup, *, rounds: int, only: set[str]) -> Results:
    """All wanted rows, `rounds` times interleaved; `only` holds row or scenario names, empty for all."""
    results = Results()

    def wanted(name: str, keys: tuple[str, ...]) -> bool:
        return not only or name in only or bool(only.intersection(keys))

    def one(name: str, scenario: Scenario, where: str) -> None:
        shown = []
        for row, server, value in scenario(setup):
            results.add(row, server, value)
            shown.append(f"{row} {server} {value:.2f}")
        print(f"{where} {name}: {', '.join(shown)}", file=sys.stderr, flush=True)

    for name, (scenario, keys) in ONCE.items():
        if wanted(name, keys):
            one(name, scenario, "once")
    for turn in range(rounds):
        for name, (scenario, keys) in EVERY_ROUND.items():
            if wanted(name, keys):
                one(name, scenario, f"round {turn + 1}/{rounds}")
    return results
