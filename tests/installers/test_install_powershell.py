"""`install.ps1`, parsed by a grammar of PowerShell: no Windows runs here, so what can be read off its text is."""

import re
from pathlib import Path

import pytest
import tree_sitter
import tree_sitter_powershell

from potluck.admin.installers import Kit

PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
CHANGING = {"New-Item", "Remove-Item", "Invoke-WebRequest"}
"""commands that change the machine"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return Kit(tmp_path_factory.mktemp("gateway")).script("install.ps1", "https://potluck.example.org").content.decode()


def _walk(node: tree_sitter.Node) -> list[tree_sitter.Node]:
    return [node, *(each for child in node.children for each in _walk(child))]


def _said(node: tree_sitter.Node) -> str:
    return (node.text or b"").decode()


def _calls(node: tree_sitter.Node) -> list[str]:
    """Names of the commands called below a node."""
    return [_said(each) for each in _walk(node) if each.type == "command_name"]


def test_it_is_powershell(text: str) -> None:
    """The grammar takes every line; a broken one would be found."""
    tree = PARSER.parse(text.encode())
    assert [_said(node) for node in _walk(tree.root_node) if node.is_error or node.is_missing] == []
    assert PARSER.parse(text.replace("} else {", "else {", 1).encode()).root_node.has_error


def test_every_command_is_known(text: str) -> None:
    """What is called is a function of the script, or one of the few cmdlets that Windows PowerShell 5.1 has too."""
    tree = PARSER.parse(text.encode())
    own = {_said(node) for node in _walk(tree.root_node) if node.type == "function_name"}
    stock = {"Get-Command", "Get-FileHash", "Join-Path", "Out-Null", "Select-Object", "Start-Sleep", "Test-Path"}
    stock |= {"Get-Content", "Split-Path", "Where-Object", "Write-Output", "Write-Verbose"}
    assert set(_calls(tree.root_node)) - own - stock - CHANGING == set()


def test_a_dry_run_changes_nothing(text: str) -> None:
    """Every command that changes the machine stands where `$DryRun` was asked; programs run by one function only."""
    root = PARSER.parse(text.encode()).root_node
    for node in _walk(root):
        if node.type != "command" or not CHANGING.intersection(_calls(node)):
            continue
        above = []
        place: tree_sitter.Node | None = node
        while place is not None:
            above.append(place)
            place = place.parent
        function = next(each for each in above if each.type == "function_statement")
        asked = any(each.type == "if_statement" and "$DryRun" in _said(each).split("{")[0] for each in above)
        # or the function returned before it, or it cleans up the folder that only a real run makes
        left = re.search(r"if \(\$DryRun\) \{[^}]*return\s*\}", _said(function), re.DOTALL)
        cleaning = _said(node).startswith("Remove-Item $work")
        assert asked or left or cleaning or _said(node).startswith("Remove-Item Env:"), _said(node)
    direct = {_said(node).strip() for node in _walk(root) if node.type == "command" and _said(node).startswith("&")}
    looking = {"& $candidate[0] @arguments 2>$null", "& $Potluck node status 2>$null"}
    assert direct == {*looking, "& $Program @Arguments"}


def test_every_step_is_said(text: str) -> None:
    """Both scripts do the same things in the same order."""
    steps = re.findall(r"Write-Step ['\"]([^'\"]*)['\"]", text)
    install = [each for each in steps if "gateway" not in each and not {"remove", "stop"} & set(each.split())]
    assert [each.split()[0] for each in install] == ["fetch", "make", "install", "this", "enrol", "share", "start"]


def test_the_token_is_in_no_argument(text: str) -> None:
    """The token goes to the agent by its environment, and to no other program that the script runs."""
    gone, given = (
        "Remove-Item Env:\\POTLUCK_JOIN_TOKEN -ErrorAction SilentlyContinue",
        "$env:POTLUCK_JOIN_TOKEN = $Token",
    )
    begun = text.index("function Install-Node {")
    assert begun < text.index(gone) < text.index("Test-Origin", begun)
    lines = [line.strip() for line in text.splitlines()]
    at = lines.index(given)
    assert lines[at + 1].startswith("Invoke-Program $Potluck")
    assert lines[at + 2] == gone
    assert not re.search(r"Arguments.*\$Token|'--token'", text)


def test_the_file_is_plain_ascii() -> None:
    """Windows PowerShell 5.1 reads a file without a byte-order mark in the machine's own encoding."""
    place = Path(__file__).parents[2] / "src" / "potluck" / "admin" / "installers" / "install.ps1"
    assert place.read_bytes().isascii()
