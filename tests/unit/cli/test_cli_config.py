"""`potluck config check|diff|apply`: all that is wrong with a file at once, with a gateway and without."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Potluck = Callable[..., Any]
TEXT = """[[providers]]
name = "lab"
base_url = "http://127.0.0.1:9/v1"

[[models]]
name = "m"
targets = [{ target = "gone/a" }]

[[routes]]
name = "r"
match = { models = ["later"], projects = ["default", "nobody"] }
fallback = ["mn", "smollm2-135m"]
"""
AT = "potluck: potluck.toml"
WRONG = [
    f"{AT}:7: models[0].targets[0].target: there is no provider 'gone', in this file or in the gateway",
    f"{AT}:11: routes[0].match.projects[1]: there is no project 'nobody', in this file or in the gateway",
    f"{AT}:12: routes[0].fallback[0]: 'mn' names no model, alias, provider/model or pattern with *",
]
WARNED = "potluck: warning: potluck.toml:11: routes[0].match.models[0]: no model is called 'later' now"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "potluck.toml"
    made.write_text(TEXT)
    return made


def plainly(said: str) -> list[str]:
    """Lines, without the names that there are."""
    return [line.partition(" (known")[0].partition("; did you")[0] for line in said.splitlines()]


def test_check_asks_the_gateway(potluck: Potluck, gateway: dict[str, str], file: Path) -> None:
    """It finds what apply refuses, all of it, in the same words; warnings come first, and exit is 1."""
    checked = potluck("config", "check", str(file), **gateway)
    assert (checked.status, checked.out) == (1, "")
    assert plainly(checked.err) == [WARNED, *WRONG]
    applied = potluck("config", "apply", str(file), **gateway)
    assert (applied.status, applied.out) == (1, "")
    assert plainly(applied.err) == WRONG
    said = json.loads(potluck("config", "check", str(file), "--json", **gateway).out)
    assert (said["ok"], said["gateway"]) == (False, gateway["POTLUCK_URL"])
    assert [each["line"] for each in said["problems"]] == [7, 11, 12]
    assert [each["line"] for each in said["warnings"]] == [11]


def test_faults_of_the_text_come_with_the_others(potluck: Potluck, gateway: dict[str, str], file: Path) -> None:
    """A member that is mistyped does not hide what is named in vain, for check, diff and apply."""
    file.write_text(TEXT.replace("fallback", "falback").replace('name = "lab"', 'name = "any"'))
    for verb in ("check", "diff", "apply"):
        ran = potluck("config", verb, str(file), **gateway)
        lines = [line for line in ran.err.splitlines() if "warning" not in line]
        assert [line.split(":")[2] for line in lines] == ["2", "7", "11", "12"], ran.err


def test_without_a_gateway_a_file_is_checked_by_itself(potluck: Potluck, file: Path) -> None:
    """What the file refers to and has not is a warning; faults of the text are told by every command."""
    for more in ((), ("--offline",), ("--url", "http://127.0.0.1:9", "--token", "pla-x")):
        ran = potluck("config", "check", str(file), *more)
        assert ran.status == 0
        assert "is good by itself, no gateway was asked: 1 provider, 1 model, 0 projects" in ran.out
        assert ran.err.replace(": the gateway must have it", "").splitlines() == [
            "potluck: warning: potluck.toml:7: models[0].targets[0].target: there is no provider 'gone' in this file",
            "potluck: warning: potluck.toml:11: routes[0].match.projects[1]: there is no project 'nobody' in this file",
        ]
    file.write_text('[[providers]]\nname = "any"\n[[modles]]\n')
    for verb in ("check", "diff", "apply"):
        ran = potluck("config", verb, str(file), "--url", "http://127.0.0.1:9", "--token", "pla-x")
        assert (ran.status, len(ran.err.splitlines())) == (1, 2), ran.err
        assert ran.err.startswith("potluck: potluck.toml:1: providers[0]: 'base_url' is missing")


def test_a_wrong_token_is_no_missing_gateway(potluck: Potluck, gateway: dict[str, str], file: Path) -> None:
    """A gateway that refuses to look is not passed over in silence."""
    ran = potluck("config", "check", str(file), "--token", "pla-x", **gateway)
    assert ran.status == 1
    assert "does not accept this admin token" in ran.err


def test_apply_warns_and_does(ok: Callable[..., str], potluck: Potluck, gateway: dict[str, str], file: Path) -> None:
    """A rule for a model that is not there yet is applied; the warning is on stderr, with its place."""
    file.write_text('[[routes]]\nname = "r"\nmatch = { models = ["smal"] }\n')
    ran = potluck("config", "apply", str(file), **gateway)
    assert (ran.status, ran.out) == (0, "+ add route r\n")
    assert ran.err == (
        "potluck: warning: potluck.toml:3: routes[0].match.models[0]: no model is called 'smal' now; "
        "did you mean 'small'?\n"
    )
    ran = potluck("route", "set", "hand", "--models", "smal,small", **gateway)
    assert ran.err == "potluck: warning: no model is called 'smal' now; did you mean 'small'?\n"
    ran = potluck("key", "create", "k", "--model", "sm*", **gateway)
    assert ran.status == 0
    assert ran.err.startswith("potluck: warning: 'sm*' is taken as a name, letter by letter")
    assert ok("key", "create", "l", "--model", "small", "--json")


def test_what_a_file_takes_over_is_no_change(ok: Callable[..., str], tmp_path: Path) -> None:
    """An export of a gateway made by hand has nothing to do; that its objects are the file's then is said in a line."""
    file = tmp_path / "out.toml"
    ok("config", "export", "-o", str(file))
    nothing, said = ok("config", "diff", str(file)).splitlines()
    assert nothing == "nothing to do: the gateway is as the file says"
    assert said.startswith(
        "as the file says already, and looked after by it from now on: project default, provider lab,"
    )
    ok("config", "apply", str(file))
    assert ok("config", "diff", str(file)).splitlines() == [nothing]
