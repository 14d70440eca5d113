"""What `potluck route explain` and `potluck target` print, and how they end when there is nothing to ask about."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from potluck.cli.commands.explanation import _show
from potluck.cli.commands.targets import health
from potluck.cli.output import Output

Potluck = Callable[..., Any]


def planned(target: str, **members: Any) -> dict[str, Any]:
    return {
        "target": target,
        "in": True,
        "why": "weight 1 of 3",
        "state": "closed",
        "of": "model",
        "score": 1,
        **members,
    }


def explained(*targets: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {
        "key": "web",
        "project": "default",
        "model": "small",
        "route": "rule",
        "order": list(dict.fromkeys(each["target"] for each in targets if each["in"] and each["state"] != "dead")),
        "max_targets": 3,
        "max_calls": 4,
        "affinity": "",
        "mix": {"input_tokens": 1000, "cached_input_tokens": 0, "output_tokens": 250, "measured": False},
        "refused": None,
        "plan": {"model": "small", "route": "rule", "strategy": "priority", "targets": list(targets)},
        **members,
    }


def printed(capsys: pytest.CaptureFixture[str], found: dict[str, Any]) -> str:
    _show(Output(json=False, terminal=False, colours=False), found)
    return capsys.readouterr().out


def test_a_plan_is_numbered_as_it_would_be_called(capsys: pytest.CaptureFixture[str]) -> None:
    """Each target has its number once, other keys and dead ones none; groups and what is left out are told."""
    out = printed(
        capsys,
        explained(
            planned("a/m", credential="main", why="tier 0"),
            planned("a/m", credential="spare", why="tier 0", state="dead", reason="its credential is dead: HTTP 401"),
            planned("b/m", why="tier 1", score=2, of="fallback big", group=1),
            planned("c/m", why="does not serve embeddings", **{"in": False}),
        ),
    )
    assert out.splitlines() == [
        "model:        small",
        "key:          web (project default)",
        "route:        rule, priority",
        "costs are of: 1,000 tokens read, 250 written: assumed, until the project has sent more",
        "",
        "#  TARGET  CREDENTIAL  STATE   OF            WHY",
        "1  a/m     main        closed  model         tier 0",
        "   a/m     spare       dead    model         tier 0; its credential is dead: HTTP 401",
        "2  b/m     -           closed  fallback big  tier 1",
        "",
        "LEFT OUT  WHY",
        "c/m       does not serve embeddings",
    ]


def test_caps_and_chance_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """More targets than one request may call, and scores that leave the order to chance, have a line each."""
    out = printed(capsys, explained(*(planned(f"{name}/m") for name in "abcd")))
    assert "One request calls at most 3 targets, in at most 4 calls." in out
    assert "This order is partly drawn by chance: another request may see another." in out


def test_a_refusal_is_told_with_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a plan there are a few facts and no table."""
    refused = {"status": 404, "code": "model_not_found", "message": "there is no model 'smal' here"}
    out = printed(capsys, explained(plan=None, mix=None, refused=refused, model="smal"))
    assert out.splitlines() == [
        "model:   smal",
        "key:     web (project default)",
        "refused: 404 model_not_found: there is no model 'smal' here",
    ]


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ([], "unused"),
        (["closed"], "closed"),
        (["open", "open"], "open"),
        (["dead", "closed", "dead"], "closed; 2 of 3 keys dead"),
        (["parked", "dead", "half_open"], "half_open; 1 of 3 keys parked; 1 of 3 keys dead"),
    ],
)
def test_health_is_the_best_key_and_what_the_others_lack(states: list[str], said: str) -> None:
    """A target is as well as its best key; keys that stand worse are counted."""
    assert health([{"state": state} for state in states]) == said


def test_what_is_no_request_is_said_before_any_call(potluck: Potluck, tmp_path: Path) -> None:
    """Nothing to explain is a matter of usage; a body that is no JSON object is a failure; one line each."""
    ran = potluck("route", "explain")
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert "--model NAME or --body FILE" in ran.err
    for text, part in (("{", "is not JSON"), ("[1]", "a JSON object is needed")):
        file = tmp_path / "body.json"
        file.write_text(text)
        ran = potluck("route", "explain", "--body", str(file))
        assert (ran.status, ran.out, ran.err.count("\n")) == (1, "", 1)
        assert part in ran.err
