"""Times, secrets and tables on a command line."""

import io
import json
import time

import click
import pytest

from potluck.cli.failure import Failure
from potluck.cli.output import Output, plain
from potluck.cli.secrets_in import read_secret
from potluck.cli.session import Session
from potluck.cli.times import length_s, moment_ms
from potluck.model.secret import Secret


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1.5h", 5400), ("7d", 604_800), ("2W", 1_209_600), ("0s", 0)]
)
def test_lengths_of_time_are_read(text: str, seconds: float) -> None:
    """Number and unit, as people write them."""
    assert length_s(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "7 years", "1e3s"])
def test_other_lengths_are_refused(text: str) -> None:
    """What is no length says how to write one."""
    with pytest.raises(click.BadParameter, match="write 30m, 12h or 7d"):
        length_s(text)


def test_moments_are_lengths_or_dates() -> None:
    """`7d` counts from now in the direction that is meant; a date with a zone is exact."""
    now_ms = time.time() * 1000
    assert abs(moment_ms("1h", ahead=True) - now_ms - 3_600_000) < 5_000
    assert abs(moment_ms("1h", ahead=False) - now_ms + 3_600_000) < 5_000
    assert moment_ms("2030-01-31T00:00:00+00:00", ahead=True) == 1_896_048_000_000
    with pytest.raises(click.BadParameter):
        moment_ms("tomorrow", ahead=True)


def test_secrets_come_from_a_variable_or_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither way shows the key to other users of the machine; blanks around it are taken off."""
    session = Session({"OPENAI_API_KEY": " sk-1 \n"})
    assert read_secret(session, "OPENAI_API_KEY", False) == Secret("sk-1")
    assert read_secret(session, None, False) is None
    monkeypatch.setattr("sys.stdin", io.StringIO("sk-2\n"))
    assert read_secret(session, None, True) == Secret("sk-2")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(Failure, match="no key came"):
        read_secret(session, None, True)
    with pytest.raises(Failure, match="choose one"):
        read_secret(session, "A", True)


def test_a_key_given_as_variable_name_is_not_repeated() -> None:
    """Who types the key itself after --key-env is told so without seeing it on the screen again."""
    with pytest.raises(Failure) as caught:
        read_secret(Session({}), "sk-proj-abc", False)
    assert "sk-proj" not in caught.value.message
    with pytest.raises(Failure, match="OPENAI_API_KEY is not set"):
        read_secret(Session({}), "OPENAI_API_KEY", False)


def test_plain_tables_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe: a heading, columns by width, numbers to the right, no escape sequences, no trailing blanks."""
    output = Output(json=False, terminal=False, colours=False)
    rows = [{"n": "a", "c": "1"}, {"n": "long-name", "c": None}]
    output.table([("NAME", "n"), ("COUNT", "c")], rows, empty="none", right=("c",))
    assert capsys.readouterr().out == "NAME       COUNT\na              1\nlong-name      -\n"
    output.table([("NAME", "n")], [], empty="none")
    assert capsys.readouterr().out == "none\n"


def test_terminal_tables_hold_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal Rich draws the table; what looks like its markup is printed as it is."""
    Output(json=False, terminal=True, colours=True).table([("NAME", "n")], [{"n": "[bold]x[/bold]"}], empty="none")
    assert "[bold]x[/bold]" in capsys.readouterr().out


def test_narrow_terminals_leave_out_what_may_be_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column that does not fit is dropped, the least needed first; a name is never broken; a pipe gets everything."""
    columns, rows = [("NAME", "n"), ("WHEN", "w"), ("ID", "i")], [{"n": "x" * 30, "w": "y" * 20, "i": "z" * 25}]
    for width, shown in ((100, "xyz"), (60, "xy"), (40, "x")):
        monkeypatch.setenv("COLUMNS", str(width))
        Output(json=False, terminal=True, colours=False).table(columns, rows, empty="", optional=("i", "w"))
        out = capsys.readouterr().out
        assert {letter for letter in "xyz" if letter in out} == set(shown)
        assert "x" * 30 in out
        assert "\x1b" not in out
    Output(json=False, terminal=False, colours=False).table(columns, rows, empty="", optional=("i", "w"))
    assert "z" * 25 in capsys.readouterr().out


def test_names_cannot_move_the_cursor() -> None:
    """A stored name with control characters does not reach the terminal as such."""
    assert "\x1b" not in plain("evil\x1b[2J")
    assert plain([]) == "-"
    assert plain(True) == "yes"


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints one document; `say` keeps quiet beside it."""
    output = Output(json=True, terminal=False, colours=False)
    output.say("for people")
    output.data({"é": 1})
    assert json.loads(capsys.readouterr().out) == {"é": 1}
