"""Counters and gauges → Prometheus text. `prometheus_client` loads at the first scrape, not at start."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from potluck.model.usage import ErrorClass
from potluck.policy.retry import blame
from potluck.telemetry.meter import (
    DURATION_BOUNDS_US,
    FIRST_CONTENT_BOUNDS_US,
    OVERHEAD_BOUNDS_US,
    Cell,
    CellKey,
    DataPlaneMeter,
)

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

Readings = float | Mapping[tuple[str, ...], float]
"""one value, or one per label values (in the order of the labels that were declared)"""


Values = Mapping[Any, float]
"""label values → reading; the keys are tuples of texts of whatever length the labels have"""


class Watch:
    """A value that is read when it is asked for: a gauge, or a counter kept elsewhere."""

    __slots__ = ("counter", "help", "labels", "name", "read")

    def __init__(
        self, name: str, help_: str, read: Callable[[], Readings], labels: tuple[str, ...], counter: bool
    ) -> None:
        self.name, self.help, self.read, self.labels, self.counter = name, help_, read, labels, counter


class Exposition:
    """What `/metrics` shows. `render` may run in a thread: it only reads, and copies each dictionary in one step."""

    def __init__(self, meter: DataPlaneMeter, version: str) -> None:
        self.meter = meter
        self.version = version
        self.watches: list[Watch] = []
        self._registry: CollectorRegistry | None = None

    def gauge(self, name: str, help_: str, read: Callable[[], Readings], labels: tuple[str, ...] = ()) -> None:
        """Show `read()` under `name`. A reading that raises is left out of that scrape."""
        self.watches.append(Watch(name, help_, read, labels, counter=False))

    def counter(self, name: str, help_: str, read: Callable[[], Readings], labels: tuple[str, ...] = ()) -> None:
        """The same for a value that only grows; `name` ends in `_total`."""
        self.watches.append(Watch(name, help_, read, labels, counter=True))

    @property
    def content_type(self) -> str:
        """The media type without its charset, which is UTF-8: Litestar adds that to every text."""
        from prometheus_client import CONTENT_TYPE_LATEST

        return CONTENT_TYPE_LATEST.partition("; charset=")[0]

    def render(self) -> bytes:
        """The whole page, in the format of `content_type`."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.gc_collector import GCCollector
        from prometheus_client.platform_collector import PlatformCollector
        from prometheus_client.process_collector import ProcessCollector

        if self._registry is None:
            registry = CollectorRegistry()
            registry.register(_Collector(self))
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
            GCCollector(registry=registry)
            self._registry = registry
        return generate_latest(self._registry)


class _Collector:
    """Yields the families of one scrape; `prometheus_client` calls it."""

    def __init__(self, exposition: Exposition) -> None:
        self.exposition = exposition

    def describe(self) -> "Iterable[Metric]":
        return ()

    def collect(self) -> "Iterator[Metric]":
        meter = self.exposition.meter
        cells = list(meter.cells.items())
        yield from _requests(cells)
        yield from _histograms(cells)
        yield from _overhead(cells)
        yield _counter(
            "potluck_attempts_total",
            "Upstream calls by how they ended (none: well)",
            ("target", "error_class", "blame"),
            _attempts(meter, cells),
        )
        refusals = {(code,): count for code, count in list(meter.refusals.items())}
        yield _counter("potluck_refused_total", "Calls answered without being admitted", ("code",), refusals)
        yield from self._watched()
        yield _gauge("potluck_build_info", "Version, as a label", ("version",), {(self.exposition.version,): 1})

    def _watched(self) -> "Iterator[Metric]":
        for watch in self.exposition.watches:
            try:
                readings = watch.read()
            except Exception:  # noqa: S112 — one broken reading must not hide all the others; its absence shows
                continue
            values: Values = readings if isinstance(readings, Mapping) else {(): readings}
            make = _counter if watch.counter else _gauge
            yield make(watch.name, watch.help, watch.labels, values)


Cells = list[tuple[CellKey, Cell]]


def _attempts(meter: DataPlaneMeter, cells: Cells) -> dict[tuple[str, str, str], float]:
    attempts: dict[tuple[str, ErrorClass], float] = dict(meter.attempts)
    for (_, _, target, outcome, _), cell in cells:
        if outcome == "ok":
            attempts[target, "none"] = attempts.get((target, "none"), 0) + cell.requests
    return {
        (target, error_class, blame(error_class, target) or "none"): count
        for (target, error_class), count in attempts.items()
    }


_TOKEN_TYPES = (
    ("input", "input_tokens"),
    ("output", "output_tokens"),
    ("cached_input", "cached_tokens"),
    ("cache_write", "cache_write_tokens"),
    ("reasoning", "reasoning_tokens"),
    ("audio", "audio_tokens"),
)


def _requests(cells: Cells) -> "Iterator[Metric]":
    requests: dict[tuple[str, ...], float] = {}
    streams: dict[tuple[str, ...], float] = {}
    tokens: dict[tuple[str, ...], float] = {}
    costs: dict[tuple[str, ...], float] = {}
    unpriced: dict[tuple[str, ...], float] = {}
    sizes: dict[tuple[str, ...], float] = {("request",): 0, ("response",): 0}
    for (endpoint, model, target, outcome, status), cell in cells:
        requests[endpoint, model, target, outcome, str(status)] = cell.requests
        streams[(endpoint,)] = streams.get((endpoint,), 0) + cell.streams
        sizes[("request",)] += cell.request_bytes
        sizes[("response",)] += cell.response_bytes
        if not target:
            continue
        for kind, member in _TOKEN_TYPES:
            if count := getattr(cell, member):
                tokens[model, target, kind] = tokens.get((model, target, kind), 0) + count
        costs[model, target] = costs.get((model, target), 0) + cell.cost_nanousd
        if cell.unpriced:
            unpriced[model, target] = unpriced.get((model, target), 0) + cell.unpriced
    labels = ("endpoint", "model", "target", "outcome", "status")
    pair = ("model", "target")
    yield _counter("potluck_requests_total", "Admitted requests by how they ended", labels, requests)
    yield _counter("potluck_streams_total", "Admitted requests that asked for a stream", ("endpoint",), streams)
    yield _counter(
        "potluck_tokens_total",
        "Tokens; cached_input, cache_write, reasoning and audio are inside input or output",
        (*pair, "type"),
        tokens,
    )
    yield _counter("potluck_cost_nanousd_total", "Cost in billionths of a US dollar", pair, costs)
    yield _counter("potluck_unpriced_requests_total", "Requests whose cost is not known", pair, unpriced)
    yield _counter("potluck_body_bytes_total", "Bodies of admitted requests and their answers", ("direction",), sizes)


def _histograms(cells: Cells) -> "Iterator[Metric]":
    from prometheus_client.core import HistogramMetricFamily

    durations: dict[tuple[str, ...], tuple[list[int], int]] = {}
    firsts: dict[tuple[str, ...], tuple[list[int], int]] = {}
    for (endpoint, model, target, outcome, _), cell in cells:
        _merge(durations, (endpoint, model, target, outcome), cell.duration, cell.duration_us)
        if any(cell.first_content):
            _merge(firsts, (endpoint, model, target), cell.first_content, cell.first_content_us)
    duration = HistogramMetricFamily(
        "potluck_request_duration_seconds",
        "From acceptance to the last byte to the caller",
        labels=("endpoint", "model", "target", "outcome"),
    )
    for values, (counts, sum_us) in durations.items():
        duration.add_metric(values, _buckets(counts, DURATION_BOUNDS_US), sum_us / 1e6)
    yield duration
    first = HistogramMetricFamily(
        "potluck_time_to_first_content_seconds",
        "From acceptance to the first content byte to the caller",
        labels=("endpoint", "model", "target"),
    )
    for values, (counts, sum_us) in firsts.items():
        first.add_metric(values, _buckets(counts, FIRST_CONTENT_BOUNDS_US), sum_us / 1e6)
    yield first


def _overhead(cells: Cells) -> "Iterator[Metric]":
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(
        "potluck_overhead_seconds", "Time spent in the gateway itself, per admitted request", labels=("endpoint",)
    )
    sums: dict[str, tuple[list[int], int]] = {}
    for (endpoint, *_), cell in cells:
        counts, total_us = sums.get(endpoint, ([0] * len(cell.overhead), 0))
        sums[endpoint] = ([a + b for a, b in zip(counts, cell.overhead, strict=True)], total_us + cell.overhead_us)
    for endpoint, (counts, total_us) in sums.items():
        family.add_metric((endpoint,), _buckets(counts, OVERHEAD_BOUNDS_US), total_us / 1e6)
    yield family


def _merge(
    into: dict[tuple[str, ...], tuple[list[int], int]], key: tuple[str, ...], counts: list[int], sum_us: int
) -> None:
    if key in into:
        before, before_us = into[key]
        into[key] = [a + b for a, b in zip(before, counts, strict=True)], before_us + sum_us
    else:
        into[key] = list(counts), sum_us


def _buckets(counts: Sequence[int], bounds_us: Sequence[int]) -> list[tuple[str, float]]:
    """Cumulated, with the bounds in seconds, as the text format wants them."""
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound_us, count in zip(bounds_us, counts, strict=False):
        total += count
        buckets.append((repr(bound_us / 1e6), total))
    buckets.append(("+Inf", total + counts[-1]))
    return buckets


def _counter(name: str, help_: str, labels: Sequence[str], values: Values) -> "Metric":
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(name.removesuffix("_total"), help_, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def _gauge(name: str, help_: str, labels: Sequence[str], values: Values) -> "Metric":
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(name, help_, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family
