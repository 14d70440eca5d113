"""Counting requests and showing them as Prometheus text."""

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from potluck.model.usage import Answered, AttemptRecord, TokenUsage, UsageRecord
from potluck.telemetry import meter as meter_module
from potluck.telemetry.exposition import Exposition
from potluck.telemetry.meter import DURATION_BOUNDS_US, DataPlaneMeter


def record(**changes: object) -> UsageRecord:
    members: dict[str, object] = {
        "id": "req_1",
        "at_ms": 1,
        "organisation_id": "org_1",
        "project_id": "prj_1",
        "key_id": "key_1",
        "endpoint": "chat",
        "model": "small",
        "outcome": "ok",
        "status": 200,
        "target_id": "tgt_1",
        "target": "openai/gpt-4o-mini",
        "usage": TokenUsage(input_tokens=100, output_tokens=20, cached_input_tokens=40, reasoning_tokens=5),
        "cost_nanousd": 1500,
        "answered": Answered(1, "crd_1", 100, 200, 300, 400),
        "first_content_us": 20_000,
        "total_us": 80_000,
        "overhead_us": 90,
        "request_bytes": 300,
        "response_bytes": 700,
    }
    return UsageRecord(**members | changes)  # type: ignore[arg-type]


def samples(exposition: Exposition) -> dict[str, float]:
    """`name{label=value,…}` → value, labels sorted."""
    found = {}
    for family in text_string_to_metric_families(exposition.render().decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_a_request_appears_in_every_family() -> None:
    """Requests, tokens by part, cost, sizes, attempts and histograms (first content: of streams) add up."""
    meter = DataPlaneMeter()
    meter.request(record())
    meter.request(record(stream=True))
    failed = AttemptRecord(1, "tgt_1", "openai/gpt-4o-mini", "prv_1", error_class="target_down")
    meter.request(record(outcome="upstream_error", status=502, usage=None, cost_nanousd=None, attempts=(failed,)))
    meter.refused("invalid_api_key")
    meter.refused("invalid_api_key")
    found = samples(Exposition(meter, "9.9"))
    target = "target=openai/gpt-4o-mini"
    assert found[f"potluck_requests_total{{endpoint=chat,model=small,outcome=ok,status=200,{target}}}"] == 2
    assert found[f"potluck_requests_total{{endpoint=chat,model=small,outcome=upstream_error,status=502,{target}}}"] == 1
    assert found["potluck_streams_total{endpoint=chat}"] == 1
    assert found[f"potluck_tokens_total{{model=small,{target},type=input}}"] == 200
    assert found[f"potluck_tokens_total{{model=small,{target},type=cached_input}}"] == 80
    assert found[f"potluck_tokens_total{{model=small,{target},type=reasoning}}"] == 10
    assert found[f"potluck_cost_nanousd_total{{model=small,{target}}}"] == 3000
    assert f"potluck_unpriced_requests_total{{model=small,{target}}}" not in found
    assert found["potluck_body_bytes_total{direction=response}"] == 2100
    assert found[f"potluck_attempts_total{{blame=none,error_class=none,{target}}}"] == 2
    assert found[f"potluck_attempts_total{{blame=provider,error_class=target_down,{target}}}"] == 1
    assert found["potluck_refused_total{code=invalid_api_key}"] == 2
    assert found[f"potluck_time_to_first_content_seconds_count{{endpoint=chat,model=small,{target}}}"] == 1
    assert found["potluck_overhead_seconds_bucket{endpoint=chat,le=5e-05}"] == 0
    assert found["potluck_overhead_seconds_bucket{endpoint=chat,le=0.0001}"] == 3
    assert found["potluck_build_info{version=9.9}"] == 1
    assert found["process_cpu_seconds_total"] > 0


def test_only_answers_without_a_price_are_unpriced() -> None:
    """A failed request used nothing that could have a price; one that used tokens at an unpriced target did."""
    meter = DataPlaneMeter()
    meter.request(record(outcome="upstream_error", status=502, usage=None, cost_nanousd=None))
    meter.request(record(cost_nanousd=None))
    found = samples(Exposition(meter, "9.9"))
    assert found["potluck_unpriced_requests_total{model=small,target=openai/gpt-4o-mini}"] == 1


@pytest.mark.parametrize(
    ("total_us", "bucket"),
    [(0, 0), (5_000, 0), (5_001, 1), (899_999_999, len(DURATION_BOUNDS_US) - 1), (10**12, len(DURATION_BOUNDS_US))],
)
def test_buckets_include_their_bound(total_us: int, bucket: int) -> None:
    """A value equal to a bound belongs to that bucket, one above every bound to the last."""
    meter = DataPlaneMeter()
    meter.request(record(total_us=total_us))
    (cell,) = meter.cells.values()
    assert cell.duration[bucket] == 1


def test_histograms_are_cumulated_and_end_at_infinity() -> None:
    """Each bucket holds all below it, and the last equals the count."""
    meter = DataPlaneMeter()
    for total_us in (1_000, 30_000, 10**12):
        meter.request(record(total_us=total_us))
    found = samples(Exposition(meter, "0"))
    prefix, rest = "potluck_request_duration_seconds", "model=small,outcome=ok,target=openai/gpt-4o-mini"
    assert found[f"{prefix}_bucket{{endpoint=chat,le=0.005,{rest}}}"] == 1
    assert found[f"{prefix}_bucket{{endpoint=chat,le=900.0,{rest}}}"] == 2
    assert found[f"{prefix}_bucket{{endpoint=chat,le=+Inf,{rest}}}"] == 3
    assert found[f"{prefix}_count{{endpoint=chat,{rest}}}"] == 3


def test_callers_cannot_invent_labels() -> None:
    """A model name is a label only once a target of the configuration served it."""
    meter = DataPlaneMeter()
    for number in range(50):
        meter.request(record(model=f"made-up-{number}", target="", target_id="", outcome="no_target", status=503))
    assert len(meter.cells) == 1
    assert "made-up" not in Exposition(meter, "0").render().decode()


def test_the_number_of_series_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound new combinations are counted as `other`: nothing is lost, nothing grows."""
    monkeypatch.setattr(meter_module, "MAX_CELLS", 3)
    meter = DataPlaneMeter()
    for number in range(20):
        name = f"p/{number}"
        meter.request(record(model=name, target=name, attempts=(AttemptRecord(1, "t", name, "p"),)))
    assert len(meter.cells) == 4
    assert len(meter.attempts) == 4
    assert sum(cell.requests for cell in meter.cells.values()) == 20
    assert sum(meter.attempts.values()) == 20


def test_watched_values_are_read_at_each_scrape() -> None:
    """Gauges and foreign counters show their current value, per label; one that raises hides only itself."""
    exposition = Exposition(DataPlaneMeter(), "0")
    open_connections = {("a:443", "idle"): 1.0}
    exposition.gauge("potluck_in_flight_requests", "In flight", lambda: 7)
    exposition.gauge("potluck_pool_connections", "Pool", lambda: open_connections, ("endpoint", "state"))
    exposition.counter("potluck_spool_lines_total", "Lines", lambda: 5)
    exposition.gauge("potluck_broken", "Raises", lambda: 1 / 0)
    found = samples(exposition)
    assert found["potluck_in_flight_requests"] == 7
    assert found["potluck_pool_connections{endpoint=a:443,state=idle}"] == 1
    assert found["potluck_spool_lines_total"] == 5
    assert "potluck_broken" not in found
    open_connections["a:443", "idle"] = 2.0
    assert samples(exposition)["potluck_pool_connections{endpoint=a:443,state=idle}"] == 2


def test_label_values_are_escaped() -> None:
    """A model name with quotes and backslashes still gives a page that parses."""
    meter = DataPlaneMeter()
    meter.request(record(model='a"b\\c'))
    assert any('model=a"b\\c' in name for name in samples(Exposition(meter, "0")))


def test_counting_is_cheap() -> None:
    """A request costs at most 1.5 µs of CPU to count on a quiet machine; four times that fails anywhere."""
    meter, kept = DataPlaneMeter(), record()
    best_us = min(_cpu_us(meter, kept) for _ in range(5))
    assert best_us < 6.0


def _cpu_us(meter: DataPlaneMeter, kept: UsageRecord, rounds: int = 5_000) -> float:
    start = time.process_time()
    for _ in range(rounds):
        meter.request(kept)
    return (time.process_time() - start) / rounds * 1e6


def test_the_media_type_names_its_charset_once() -> None:
    """Litestar adds the charset to every text; with it here the header would hold it twice."""
    kind = Exposition(DataPlaneMeter(), "0").content_type
    assert kind.startswith("text/plain; version=")
    assert "charset" not in kind
