"""Every failure of the field: over the same traffic, the policy that failed there fails, and ours does not.

One run of each scenario with the seed of its file. What a scenario wants is written in the file.
"""

from pathlib import Path

import msgspec
import pytest

from bench.fleet import __main__ as command
from bench.fleet import table
from bench.fleet.arrivals import arrivals
from bench.fleet.naive import NAIVE, Naive
from bench.fleet.results import Figures, gini, misses
from bench.fleet.scenario import Scenario, Wanted, load, names
from bench.fleet.trial import ORACLE, OURS, Verdict, trial
from bench.fleet.world import World

DOCUMENT = Path(command.DOCUMENT)


def _figures(**changed: float) -> Figures:
    return msgspec.structs.replace(
        Figures("potluck", 10, 10, 0, 1.0, 0.1, 0.5, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0), **changed
    )


@pytest.mark.parametrize("name", names())
def test_ours_does_not_fail_where_the_field_did(name: str) -> None:
    """Ours misses nothing that the scenario wants; each naive policy misses what it is there for."""
    verdicts = trial(load(name))
    assert [each.figures.policy for each in verdicts[:2]] == [ORACLE, OURS]
    assert len(verdicts) > 2
    wrong = [
        f"{each.figures.policy} misses {each.misses or 'nothing'}, has to miss {each.has_to_miss or 'nothing'}: "
        f"{each.figures}"
        for each in verdicts
        if not each.good
    ]
    assert not wrong, "\n".join(wrong)


def test_a_run_can_be_repeated() -> None:
    """The same scenario gives the same figures, to the last digit."""
    scenario = load("flapping_box")
    assert trial(scenario, None, {OURS}) == trial(scenario, None, {OURS})


def test_the_broken_machine_of_the_field_took_thousands() -> None:
    """Without a breaker at all every second call would go there; by session it is still many times what ours sends."""
    scenario = load("flapping_box")
    found = {each.figures.policy: each.figures.failed_per_1000 for each in trial(scenario)}
    assert found["least_connections"] > 10 * found[OURS] > 0


def test_every_request_has_one_end_and_every_machine_is_left_empty() -> None:
    """Under refusals, time-outs, owners and lost links no request is lost, and none stays behind."""
    for name in ("owners", "resident_no_capacity"):
        scenario = load(name)
        requests = arrivals(scenario)[:800]
        world = World(scenario, requests)
        found = world.run(Naive(NAIVE["resident_first"]))
        assert all((one.total_s is None) == (one.box == "") for one in found.requests)
        assert all(one.total_s is None or one.ttft_s is not None for one in found.requests)
        assert all((one.calls > 0) or one.total_s is None for one in found.requests)
        assert all(box.running == box.waiting == len(box.coming) == 0 for box in world.boxes.values())


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, []),
        ({"rejected_servable": 1}, ["rejected_servable"]),
        ({"serving_share": 0.9}, ["serving_share"]),
        ({"ttft_p95_ratio": 1.31}, ["ttft_p95_ratio"]),
        ({"ttft_p95_ratio": 1.3}, []),
        ({"cold_loads_per_1000": 6.0, "failed_per_1000": 6.0}, ["failed_per_1000"]),
    ],
)
def test_what_is_wanted_is_judged(changed: dict[str, float], missed: list[str]) -> None:
    """Limits are kept when they are met exactly; what the file does not ask for is not judged."""
    scenario = msgspec.structs.replace(load("herd"), wanted=Wanted(failed_per_1000=5.0))
    assert misses(scenario, _figures(**changed)) == missed


def test_gini_tells_equal_from_unequal() -> None:
    """0 where all have the same, 1 - 1/n where one of n has all."""
    assert gini([]) == gini([0, 0]) == 0.0
    assert gini([5, 5, 5, 5]) == pytest.approx(0.0)
    assert gini([0, 0, 0, 20]) == pytest.approx(0.75)


def test_the_table_says_what_was_missed(tmp_path: Path) -> None:
    """Ours is `ok` or says what it missed; a naive policy that does not fail is named; only the marked part changes."""
    scenario = load("herd")
    verdicts = [
        Verdict(_figures(policy=ORACLE), (), (), good=True),
        Verdict(_figures(), (), (), good=True),
        Verdict(_figures(policy="last_report"), (), ("ttft_p95_ratio",), good=False),
    ]
    cells = table.table([(scenario, verdicts)])
    assert [row[-1] for row in cells[1:]] == ["", "ok", "should fail: slow"]
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{table.BEGIN}of last year{table.END}\nafter\n")
    table.write_document(page, [(scenario, verdicts)])
    once = page.read_text()
    table.write_document(page, [(scenario, verdicts)])
    assert page.read_text() == once
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert "of last year" not in once
    assert f"| {scenario.title} | {ORACLE} |" in once


def test_the_document_has_every_scenario() -> None:
    """docs/performance.md was written after the last scenario was."""
    _, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(table.BEGIN)
    written, end, _ = rest.partition(table.END)
    assert end
    scenarios: list[Scenario] = [load(name) for name in names()]
    assert [each.title for each in scenarios if f"| {each.title} |" not in written] == []
