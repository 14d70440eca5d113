"""`potluck route`, and the routing options of models and providers, against the admin API on a real socket."""

import json
from collections.abc import Callable
from typing import Any

import pytest

Potluck = Callable[..., Any]


def shown(ok: Potluck, *line: str) -> Any:
    return json.loads(ok(*line, "--json"))


def test_set_makes_a_route_and_changes_it(ok: Potluck) -> None:
    """Each option stands where the API has it; what is not given stays; an empty value takes a setting away."""
    line = "--models small,gpt-* --projects default --keys first --strategy weighted --split user --fallback s,node:*"
    line += (
        " --only lab --ignore local,y* --max-input-price 0.5 --max-output-price 2 --data-class private --connect-s 5"
    )
    line += " --first-token-s 60 --idle-s 30 --total-s 900 --hedge 250 --affinity --position 3"
    said = ok("route", "set", "frugal", *line.split())
    assert said == (
        "route frugal is made: weighted by user for small, gpt-*; then s, node:*; only lab; not local+y*; "
        "at most $0.5 input / 2 output; data private; hedge 250 ms; affinity; timeouts\n"
    )
    whole = {
        "match": {"models": ["small", "gpt-*"], "projects": ["default"], "keys": ["first"]},
        "strategy": "weighted",
        "split": "user",
        "constraints": {
            "only": ["lab"],
            "ignore": ["local", "y*"],
            "max_price": {"input": 0.5, "output": 2},
            "data_class": "private",
        },
        "fallback": ["s", "node:*"],
        "timeouts": {"connect_s": 5, "first_token_s": 60, "idle_s": 30, "total_s": 900},
        "hedge": {"after": 250, "max_extra": 0.05},
        "affinity": {"window_s": 600, "tolerance": 2},
        "position": 3,
    }
    assert whole.items() <= shown(ok, "route", "show", "frugal").items()

    assert "is changed" in ok("route", "set", "frugal", "--hedge", "p95", "--max-input-price", "", "--idle-s", "9")
    whole["hedge"], whole["timeouts"]["idle_s"] = {"after": "p95", "max_extra": 0.05}, 9  # type: ignore[index]
    whole["constraints"]["max_price"] = {"input": None, "output": 2}  # type: ignore[index]
    assert whole.items() <= shown(ok, "route", "show", "frugal").items()

    line = "--hedge off --no-affinity --split= --strategy= --models= --fallback= --only= --data-class="
    changed = shown(ok, "route", "set", "frugal", *line.split())
    assert (changed["hedge"], changed["affinity"], changed["split"], changed["fallback"]) == (None, None, None, [])
    assert changed["match"]["models"] == ["*"]
    assert changed["strategy"] == "priority"
    assert (changed["constraints"]["only"], changed["constraints"]["data_class"]) == (None, None)
    assert changed["constraints"]["ignore"] == ["local", "y*"]


def test_a_bare_route_and_empty_values(ok: Potluck) -> None:
    """A name alone makes a route; empty values on a new one are no settings."""
    assert (
        ok("route", "set", "all", "--only=", "--strategy", "", "--hedge", "off")
        == "route all is made: priority for all models\n"
    )
    assert "nothing to change" in ok("route", "set", "all", fails=2)


def test_the_list_is_in_the_order_of_trial(ok: Potluck) -> None:
    """One line per route, the first tried on top, with what people ask for: models, strategy, fallback."""
    assert ok("route", "list").startswith("no routes: ")
    ok("route", "set", "late", "--strategy", "fastest", "--total-s", "20")
    ok("route", "set", "early", "--models", "small", "--fallback", "s,node:*", "--position", "-1", "--hedge", "p95")
    heading, first, second = ok("route", "list").splitlines()
    assert heading.split()[:6] == ["NAME", "MODELS", "PROJECTS", "KEYS", "STRATEGY", "FALLBACK"]
    assert first.startswith("early  small")
    assert "s, node:*" in first
    assert "hedge p95" in first
    assert second.startswith("late   *")
    assert "timeouts" in second
    assert "timeouts: total 20 s" in ok("route", "show", "late")
    assert "after p95, at most 5 % of calls" in ok("route", "show", "early")
    assert [each["name"] for each in shown(ok, "route", "list")["data"]] == ["early", "late"]
    assert "s, node:*" in ok("route", "show", "early")
    assert ok("route", "remove", "early") == "route early is removed\n"
    assert shown(ok, "route", "remove", "late") == {"removed": "late"}
    assert "there is no route 'late'" in ok("route", "show", "late", fails=1)


@pytest.mark.parametrize(
    ("line", "status", "part"),
    [
        ("--strategy cheapst", 2, "'cheapst' is not one of 'priority'"),
        ("--hedge soon", 2, "'soon' is neither p95, nor milliseconds (1 to 600000), nor off"),
        ("--hedge 0", 2, "'0' is neither p95"),
        ("--idle-s 0", 2, "0 is not in the range"),
        ("--max-input-price nan", 2, "'nan' is not a number"),
        ("--total-s NaN", 2, "'NaN' is not a number"),
        ("--split key", 1, 'goes with strategy = "weighted" only'),
        ("--fallback smal", 1, "did you mean 'small'?"),
        ("--projects webb", 1, "there is no project 'webb'"),
    ],
)
def test_what_cannot_be_is_one_line(ok: Potluck, line: str, status: int, part: str) -> None:
    """What is mistyped is said at once, what does not exist by the gateway; nothing is made."""
    said = ok("route", "set", "r", *line.split(), fails=status)
    assert part in said
    assert said.count("\n") == 1
    assert ok("route", "list").startswith("no routes: ")


def test_names_and_shares_of_a_model(ok: Potluck) -> None:
    """Aliases come and go, a target's weight, tier and slots are set and taken back, and adding a target keeps them."""
    line = ["model", "target", "small", "lab/b", "--weight", "7", "--priority", "0", "--slots", "4"]
    assert ok(*line) == "target lab/b of model small is changed: weight 7, priority 0, slots 4\n"
    ok("model", "update", "small", "--add-target", "lab/c", "--add-alias", "tiny", "--remove-alias", "s")
    found = shown(ok, "model", "show", "tiny")
    assert (found["alias_of"], found["aliases"]) == ("small", ["tiny"])
    assert [(each["weight"], each["priority"], each["slots"]) for each in found["targets"]] == [
        (1, 0, 1024),
        (7, 0, 4),
        (1, 2, 1024),
    ]
    assert "tiny" in ok("model", "show", "small")
    assert "alias of small" in ok("model", "list")
    ok("model", "target", "small", "lab/b", "--priority=", "--slots=")
    assert [each["priority"] for each in shown(ok, "model", "show", "small")["targets"]] == [0, 1, 2]
    assert "has no alias 's': it has tiny" in ok("model", "update", "small", "--remove-alias", "s", fails=1)
    assert "has no target 'lab/z'" in ok("model", "target", "small", "lab/z", "--weight", "2", fails=1)
    assert "nothing to change" in ok("model", "target", "small", "lab/b", fails=2)


def test_probes_and_prefixes_of_a_provider(ok: Potluck) -> None:
    """They are set when a provider is added or changed, shown, and taken away."""
    line = "--base-url http://127.0.0.1:9/v1 --assistant-prefix plain --probe-every 30"
    ok("provider", "add", "two", *line.split())
    ok("provider", "update", "two", "--probe-model", "m", "--probe-budget", "0.5")
    found = shown(ok, "provider", "show", "two")
    assert found["probe"] == {"every_s": 30, "model": "m", "budget_usd_per_day": 0.5}
    said = ok("provider", "show", "two")
    assert "every 30 s, with m for at most $0.5 a day" in said
    assert "assistant prefix: plain" in said
    assert "how much a day may cost" in ok("provider", "update", "lab", "--probe-model", "m", fails=1)
    changed = shown(ok, "provider", "update", "two", "--probe-every", "off", "--assistant-prefix", "auto")
    assert (changed["probe"], changed["assistant_prefix"]) == (None, None)
