"""What the caller is told of an answer's way, and of calls that all failed."""

import pytest
from route_rig import World, failure, target

from potluck.model.usage import AttemptRecord, TokenUsage
from potluck.proxy import verdict
from potluck.proxy.candidates import Candidates, LaneOption

A, B = target("a/m"), target("b/m")
LIMITED = failure("key_limited", retry_after_s=30.0)
SLOW, CUT = failure("target_slow"), failure("target_down", phase="stream")
DOWN = failure("target_down", phase="connect")


def candidates_of(model: str = "small") -> Candidates:
    """`small` (alias `tiny`) at a, falling back to `big` at b."""
    made = World()
    made.serve("small", A, alias="tiny")
    made.serve("big", B)
    made.rule("rule", models=("small",), fallback=("big",))
    return made.ask(model)


def options(candidates: Candidates) -> list[LaneOption]:
    return [place.lanes[0] for place in candidates.places]


def fields(raw: bytes) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in raw.decode().splitlines())


@pytest.mark.parametrize(("model", "route"), [("small", "rule"), ("tiny", "rule"), ("a/m", "default")])
def test_an_answer_names_its_target(model: str, route: str) -> None:
    """Target, route, attempts; the model only where it is not the one that was asked for."""
    candidates = candidates_of(model)
    own, *fallbacks = options(candidates)
    assert fields(verdict.stream_fields(candidates, own, 1)) == {
        "x-potluck-target": "a/m",
        "x-potluck-route": route,
        "x-potluck-cache": "off",
        "x-potluck-attempts": "1",
    }
    for option in fallbacks:
        told = fields(verdict.stream_fields(candidates, option, 3))
        assert (told["x-potluck-model"], told["x-potluck-attempts"]) == ("big", "3")


def test_attempts_are_told_as_they_were() -> None:
    """Fields made once for first attempts are not told of later ones, nor the other way round."""
    candidates = candidates_of()
    option = options(candidates)[0]
    counts = [fields(verdict.stream_fields(candidates, option, calls))["x-potluck-attempts"] for calls in (2, 1, 3, 1)]
    assert counts == ["2", "1", "3", "1"]
    answer = fields(verdict.answer_fields(candidates, option, 4, 1_234_567, 99))
    assert answer["x-potluck-attempts"] == "4"
    assert (answer["x-potluck-cost-usd"], answer["x-potluck-overhead-us"]) == ("0.001234567", "99")
    assert "x-potluck-cost-usd" not in fields(verdict.answer_fields(candidates, option, 1, None, 99))
    assert fields(verdict.answer_fields(candidates, option, 1, 5_000_000_000, 0))["x-potluck-cost-usd"] == "5.000000000"


def test_a_probes_answer_is_told_like_any_other() -> None:
    """The option of one call says the same as the plain one."""
    candidates = candidates_of()
    option = options(candidates)[0]
    probe = option.as_probe()
    assert verdict.stream_fields(candidates, probe, 1) == verdict.stream_fields(candidates, option, 1)


@pytest.mark.parametrize(
    ("failures", "status", "code"),
    [
        ([DOWN], 502, "upstream_error"),
        ([DOWN, DOWN, DOWN], 502, "upstream_error"),
        ([failure("key_dead")], 502, "upstream_error"),
        ([SLOW, SLOW], 504, "upstream_timeout"),
        ([SLOW, DOWN], 502, "upstream_error"),
        ([LIMITED, LIMITED], 429, "upstream_rate_limited"),
        ([LIMITED, DOWN], 502, "upstream_error"),
        ([DOWN, CUT], 502, "upstream_truncated"),
        ([DOWN, failure("caller_fault", status=400)], 400, "invalid_request"),
        ([failure("caller_fault", status=413)], 413, "request_too_large"),
    ],
)
def test_all_calls_failed(failures, status: int, code: str) -> None:
    """The status says of which kind; the message how many, and the class of each, unless it is the caller's fault."""
    error = verdict.of_failures([(f"t{n}/m", each) for n, each in enumerate(failures)])
    assert (error.status, error.code) == (status, code)
    verdict.outcome_of(error.code)  # every one has an outcome
    if status not in (400, 413):
        assert error.message.startswith("the only call" if len(failures) == 1 else f"all {len(failures)} calls")
        for n, each in enumerate(failures):
            assert f"t{n}/m {each.detail} ({each.error_class})" in error.message


@pytest.mark.parametrize(
    ("asked_s", "parked_s", "told_s"),
    [
        ([30.0, 7.0], None, 7.0),
        ([30.0, None], None, 30.0),
        ([None, None], None, 1.0),
        ([30.0], [30.0, 4.0], 4.0),
        ([None], [8.0], 8.0),
        ([0.0], None, 1.0),
    ],
)
def test_the_smallest_wait_is_told(asked_s: list, parked_s: list | None, told_s: float) -> None:
    """Of what the targets asked for; of how long their keys are parked, where all are."""
    failures = [("a/m", failure("key_limited", retry_after_s=wait)) for wait in asked_s]
    assert verdict.of_failures(failures, parked_s).retry_after_s == told_s


def attempt(usage: TokenUsage | None = None, cost: int | None = None, **members) -> AttemptRecord:
    made = {"n": 1, "target_id": "tgt", "target": "a/m", "provider_id": "prv", "credential_id": None, "error": "",
            "error_class": "target_down", "status": 0, "start_us": 0, "connected_us": -1, "first_byte_us": -1,
            "end_us": 10}  # fmt: skip
    return AttemptRecord(**made | members, usage=usage, cost_nanousd=cost)


def test_usage_and_cost_are_sums_over_attempts() -> None:
    """Of those that say; None when none does; estimated as soon as one of them is."""
    one, other = TokenUsage(10, 5, 3), TokenUsage(20, 7, estimated=True)
    assert verdict.total_usage([attempt()], None) is None
    assert verdict.total_usage([attempt()], one) is one
    assert verdict.total_usage([attempt(one), attempt()], other) == TokenUsage(30, 12, 3, estimated=True)
    assert verdict.total_cost([attempt()], None) is None
    assert verdict.total_cost([attempt(cost=3), attempt(), attempt(cost=0)], 4) == 7


def test_time_upstream_counts_once() -> None:
    """Calls that overlap, and the pause before the same target again; not what lies between others."""
    calls = [attempt(start_us=100, end_us=300), attempt(start_us=200, end_us=400)]
    assert verdict.upstream_us(calls, None) == 300
    assert verdict.upstream_us([*calls, attempt(start_us=500, end_us=600)], None) == 400
    assert verdict.upstream_us([*calls, attempt(start_us=900, end_us=1000, kind="same")], None) == 900
    assert verdict.upstream_us([attempt(start_us=-1, end_us=50)], None) == 0


def test_what_an_upstream_says_hides_our_key_and_its_place() -> None:
    """Secret and address, where there are any."""
    assert verdict.hidden_of(A, "chat") == ("sk-a-main", "a.example:443", "a.example")
